"""The process that tells destinations of changes."""

import asyncio
import gc
import logging
import os
import random
import secrets
import signal

from profilelake.app.directory import METRICS, WORKSPACE
from profilelake.app.workers import GC_THRESHOLDS
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.metric_files import reserve_metric_files
from profilelake.ops.supervisor import die_with_parent, say_ready
from profilelake.settings import Layout, Settings


def activate_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Tell destinations of what is announced, until told to stop; with none of them, only look for some."""
    from prometheus_client import CollectorRegistry

    from profilelake.activate.addresses import resolve
    from profilelake.activate.metrics import ActivateMetrics
    from profilelake.activate.run import Activating
    from profilelake.ops import http
    from profilelake.serve.latest_state import LatestState

    die_with_parent(parent)
    logs.configure("activate")
    for noisy in ("httpx", "httpcore"):  # they write URLs, which may hold what is nobody's business
        logging.getLogger(noisy).setLevel(logging.WARNING)
    gc.set_threshold(*GC_THRESHOLDS)
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / METRICS, os.getpid())
    activating = Activating(
        workspace=WORKSPACE,
        state=LatestState(layout.state, threads=True),
        control=layout.control,
        journal=layout.activations,
        secrets=layout.destination_secrets,
        environment=os.environ,
        settings=settings.activate,
        clock=wall,
        rng=random.Random(),  # noqa: S311 - it spreads waits
        metrics=ActivateMetrics(CollectorRegistry()),
        resolve=resolve,
        random_bytes=secrets.token_bytes,
    )

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        say_ready(ready)
        await activating.run(stop)
        # A name server that does not answer holds a thread that nobody can end; nothing is open any more.
        logging.shutdown()
        os._exit(0)

    http.run(main())
    return 0
