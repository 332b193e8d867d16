"""Batch plans over a data directory: which engine they run on, and whether a rebuild needs one."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from profilelake.app.directory import WORKSPACE, kernel_cache, workspace_setup
from profilelake.ops.clock import wall
from profilelake.settings import EngineSettings, Layout, Settings

if TYPE_CHECKING:
    from profilelake.engines.engine import Engine
    from profilelake.lake.catalog import Lake
    from profilelake.plans.digests import TableDigest

IN_MEMORY_BYTES_MAX: Final = 512 << 20
"""Files of tables of facts that are rebuilt in memory where nobody names an engine; larger ones part by part.

A rebuild in memory takes up to fourteen times as much (a million events in 175 MiB took 2.4 GiB).
"""

PROGRESS_SECONDS: Final = 10.0
"""How often the tasks of a long step are told."""


def rebuild_with(layout: Layout, engine_url: str, report: Callable[[str], None]) -> dict[str, object]:
    """Rebuild a data directory that nobody else writes to, on the engine with this URL.

    Without one the settings name it; where they name none it is done in memory if the lake is small, else as a
    plan on this machine. `report` is told of each step that is done.

    Raises:
        Invalid: there is no such engine.
        Conflict, Unavailable, Corrupt: as `pipeline.remaking.rebuild` and `plans.rebuild.rebuild_on`.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.lake.reading import damage_told
    from profilelake.pipeline.publish import ensure_tables
    from profilelake.pipeline.remaking import rebuild
    from profilelake.plans.facts import FactFiles
    from profilelake.plans.rebuild import give_up, rebuild_on

    policy = Settings.load(layout.directory, os.environ).pipeline.policy()
    setup = workspace_setup(layout, policy)
    options = _engine_settings(layout, engine_url)
    engine = _opened(options, layout, report) if options.url else None
    try:
        with damage_told():
            lake = Lake.of(layout)
            ensure_tables(lake, WORKSPACE)
            if engine is None:
                size = sum(table.bytes for table in FactFiles.of(lake, WORKSPACE).tables.values())
                if size <= IN_MEMORY_BYTES_MAX:
                    # Also refuses beside one that runs elsewhere: this one has no claim, and both would commit.
                    give_up(lake.storage, WORKSPACE)
                    gc.disable()  # a record of everything lives until the end: looking for cycles is wasted
                    return rebuild(setup, layout.state, lake, wall(), report)
                engine = _opened(options, layout, report)
            return rebuild_on(engine, setup, layout.state, lake, wall(), report)
    finally:
        gc.enable()
        if engine is not None:
            engine.close()


def digests_of(layout: Layout, lake: "Lake", engine_url: str, tables: Sequence[str]) -> "list[TableDigest]":
    """Return the digests of these tables, or of all, made on the engine with this URL.

    Raises:
        Invalid: there is no such engine.
        NotFound: there is no such table.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.plans.digests import digest_tables

    engine = engine_at(engine_url, layout)
    try:
        return digest_tables(engine, lake, WORKSPACE, tables)
    finally:
        engine.close()


def engine_at(engine_url: str, layout: Layout, report: Callable[[str], None] = lambda _: None) -> "Engine":
    """Return the engine with this URL, or the one that the settings of a data directory name.

    Raises:
        Invalid: there is no such engine, or something is in the way of work there.
        Unavailable: the cluster cannot be reached.
    """
    return _opened(_engine_settings(layout, engine_url), layout, report)


def _opened(options: EngineSettings, layout: Layout, report: Callable[[str], None]) -> "Engine":
    """Return an engine that has been seen to work, where it is a cluster: it may be hours until it would fail."""
    from profilelake.engines.checks import ready, ready_there
    from profilelake.engines.choosing import embedded, engine_of
    from profilelake.lake.place import LakePlace
    from profilelake.lake.storage import storage_of

    ready(options, layout.directory, os.environ)
    engine = engine_of(options, layout.directory, _now_and_then(report))
    if not embedded(options):
        try:
            place = LakePlace.of(layout, os.environ)
            ready_there(engine, storage_of(place.warehouse, place.storage))
        except BaseException:
            engine.close()
            raise
    return engine


def _now_and_then(report: Callable[[str], None]) -> Callable[[Any], None]:
    told_at = time.monotonic()

    def progress(now: Any) -> None:
        nonlocal told_at
        if now.tasks and time.monotonic() - told_at >= PROGRESS_SECONDS:
            told_at = time.monotonic()
            report(f"{now.step}: {now.done:,} of {now.tasks:,} tasks")

    return progress


def _engine_settings(layout: Layout, engine_url: str) -> EngineSettings:
    return Settings.load(layout.directory, os.environ, engine={"url": engine_url or None}).engine
