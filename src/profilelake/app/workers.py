"""The processes between log and lake."""

import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from profilelake.app.directory import METRICS, WORKSPACE, log_limits, workspace_setup
from profilelake.app.patience import when_available
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.metric_files import reserve_metric_files
from profilelake.ops.supervisor import die_with_parent, say_ready
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    pass

GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Batches make many objects that live until their end; looking for cycles among them is wasted."""
_log = logging.getLogger(__name__)


def pipeline_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Apply what was collected to the state until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.kernels import dense, json_paths, known_ids, siphash
    from profilelake.kernels import identity as identity_kernel
    from profilelake.landing import dedup, parse
    from profilelake.pipeline.run import Applying
    from profilelake.state.store import State

    die_with_parent(parent)
    logs.configure("pipeline")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / METRICS, os.getpid())
    warm_at = time.monotonic()
    for part in (siphash, dense, identity_kernel, known_ids, json_paths, parse, dedup):
        part.warm()
    _log.info("kernels ready after %.1f s", time.monotonic() - warm_at)
    gc.set_threshold(*GC_THRESHOLDS)
    state = State.open(layout.state, writable=True)
    applying = Applying(
        log_directory=layout.log,
        state=state,
        workspaces=[workspace_setup(layout, settings.pipeline.policy())],
        region=settings.region,
        settings=settings.pipeline,
        clock=wall,
        registry=CollectorRegistry(),
    )
    stop_on_signals(applying.stop)
    say_ready(ready)
    applying.run()
    state.close()
    return 0


def lake_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Publish the state to the lake, and tend both, until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.app.asking import QueryProcess
    from profilelake.failed.journal import Journal
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.publish import check_epoch, ensure_tables
    from profilelake.pipeline.run import Asking, Publishing
    from profilelake.shapes import observed
    from profilelake.state.store import State

    die_with_parent(parent)
    logs.configure("lake")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / METRICS, os.getpid())
    observed.warm()
    gc.set_threshold(*GC_THRESHOLDS)

    def opened() -> Lake:
        lake = Lake.of(layout)
        ensure_tables(lake, WORKSPACE)
        return lake

    lake, ready = when_available(layout, ready, opened)
    state = State.open(layout.state, writable=True)
    state.ensure([WORKSPACE])
    check_epoch(state, lake, WORKSPACE)
    publishing = Publishing(
        log_limits=log_limits(settings),
        log_directory=layout.log,
        flush_request=layout.flush_request,
        state=state,
        lake=lake,
        workspaces=[workspace_setup(layout)],
        settings=settings.pipeline,
        clock=wall,
        registry=CollectorRegistry(),
        lake_settings=settings.lake,
        job_days=settings.engine.job_days,
        forget_replays=Journal(layout.replays).forget,
        lake_requests=layout.lake_requests,
        maintenance_record=layout.maintenance_record,
        asking=Asking(QueryProcess(layout.query_socket).result, layout.sql_values, layout.sql_requests),
    )
    stop_on_signals(publishing.stop)
    say_ready(ready)
    publishing.run()
    state.close()
    return 0


def stop_on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
