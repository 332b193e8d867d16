"""Upkeep of a lake as plans on an engine, by a command that has the data directory to itself."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from profilelake.app.directory import WORKSPACE, DirectoryLock, kernel_cache, workspace_setup
from profilelake.ops.clock import wall
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.lake.catalog import Lake
    from profilelake.plans.repair import Repaired


def repair_directory(
    layout: Layout, engine_url: str, *, dry_run: bool, report: Callable[[str], None]
) -> "Repaired":
    """Put the facts in the lake of a stopped server right. What only its state has is published before.

    Raises:
        Conflict: a server or another command works on the directory.
        Invalid: there is no such engine.
        Corrupt, Unavailable: as `plans.repair.repair`.
    """
    # Before anything large is loaded: who has to be told of a server is told at once.
    lock = DirectoryLock(layout)
    try:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
        from profilelake.app.rebuilding import engine_at
        from profilelake.lake.catalog import Lake
        from profilelake.lake.reading import damage_told
        from profilelake.pipeline.publish import ensure_tables
        from profilelake.plans.repair import repair

        engine = engine_at(engine_url, layout)
        try:
            with damage_told():
                lake = Lake.of(layout)
                ensure_tables(lake, WORKSPACE)
                _publish(layout, lake)
                setup = workspace_setup(layout)
                return repair(
                    engine,
                    lake.storage,
                    lake,
                    WORKSPACE,
                    key=setup.identifier_key,
                    rules=setup.rules,
                    dry_run=dry_run,
                    report=report,
                )
        finally:
            engine.close()
    finally:
        lock.release()


def _publish(layout: Layout, lake: "Lake") -> None:
    """Commit what only the state has, where it is the state of these tables: their counts may go on without it."""
    from profilelake.errors import Conflict
    from profilelake.pipeline.publish import Publisher, check_epoch
    from profilelake.state.store import State

    if not (layout.state / "data.mdb").exists():
        return
    setup = workspace_setup(layout)
    state = State.open(layout.state, writable=True)
    try:
        state.ensure([WORKSPACE])
        try:
            check_epoch(state, lake, WORKSPACE)
        except Conflict:
            return  # A rebuild is due already.
        Publisher(
            workspace=WORKSPACE,
            state=state,
            lake=lake,
            recent_directory=setup.recent_directory,
            rules=setup.rules,
            clock=wall,
            publish_age_seconds=0.0,
        ).publish_facts()
    finally:
        state.close()


def compact_directory(
    layout: Layout, engine_url: str, names: Sequence[str], seconds_max: float
) -> list[dict[str, Any]]:
    """Compact all tables of a stopped server at once; return a row for each in which anything was done.

    Raises:
        Conflict: a server or another command works on the directory.
        NotFound: there is no table of such a name.
        Invalid: there is no such engine.
        Corrupt, Unavailable: as `plans.compaction.compact`; what was committed stays.
    """
    # Before anything large is loaded, as for a repair.
    lock = DirectoryLock(layout)
    try:
        import time

        from profilelake.app.rebuilding import engine_at
        from profilelake.lake.catalog import Lake
        from profilelake.lake.compaction import Compacted
        from profilelake.lake.table import LakeTable
        from profilelake.pipeline.register import TABLES
        from profilelake.pipeline.upkeep import Record, Upkeep, shown_name
        from profilelake.plans import compaction

        lake = Lake.of(layout)
        record = Record(layout.maintenance_record, wall)
        chosen = Upkeep(WORKSPACE, lake, wall, record).tables(names)
        wanted = {table.name for table in chosen}
        engine = engine_at(engine_url, layout)
        rows: dict[str, dict[str, Any]] = {}

        def done(table: LakeTable, compacted: Compacted) -> None:
            facts = {
                "files_before": compacted.files_before,
                "files_after": compacted.files_after,
                "rows": compacted.rows,
                "bytes_before": compacted.bytes_before,
                "bytes_after": compacted.bytes_after,
            }
            record.write("compact", table.name, **facts)
            row = rows.setdefault(
                table.name, {"table": shown_name(table), "steps": 0} | dict.fromkeys(facts, 0)
            )
            row["steps"] += 1
            for name, value in facts.items():
                row[name] += value

        until = time.monotonic() + seconds_max
        try:
            appended = [
                table for table in chosen if table.definition in TABLES and table.definition.kind == "append"
            ]
            compaction.compact(
                engine, lake.storage, appended, go_on=lambda: time.monotonic() < until, report=done
            )
            current = [
                lake.current_table(WORKSPACE, definition)
                for definition in TABLES
                if definition.kind == "current"
            ]
            compaction.merge(engine, lake.storage, [one for one in current if one.base.name in wanted])
        finally:
            engine.close()
        return list(rows.values())
    finally:
        lock.release()
