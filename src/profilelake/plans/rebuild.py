"""A rebuild as a line of steps on any engine, for lakes larger than memory; the driver may die at any of them.

What tasks make lies in files that nobody sees until one process commits them: current tables by one snapshot
each, in a new epoch, then the online state in the place of the old one. `pipeline.remaking.rebuild` does the
same for a lake that fits into memory, and both leave the same.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job, known
from profilelake.errors import Corrupt, NotFound
from profilelake.identity.tables import IDENTIFIERS
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.pinned import PinnedTable
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.storage import Storage
from profilelake.pipeline.batch import WorkspaceSetup
from profilelake.pipeline.observing import whole_schema
from profilelake.pipeline.progress import events_in, load_applied
from profilelake.pipeline.publish import EVERY_CURRENT
from profilelake.pipeline.remaking import FACTS, Decided, next_progress, reached_by, refuse_missing
from profilelake.plans.checked import check_facts
from profilelake.plans.components import Limits
from profilelake.plans.event_files import event_files
from profilelake.plans.facts import TABLES as FACT_TABLES
from profilelake.plans.facts import FactFiles
from profilelake.plans.identity import resolve
from profilelake.plans.profiles import TABLES, write_profiles
from profilelake.plans.putting import Found, put_in_place
from profilelake.plans.shapes import count_shapes
from profilelake.plans.sizes import Sizes
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES
from profilelake.shapes.observed import ShapeLimits
from profilelake.state.store import State

KIND: Final = "rebuild"
DRIVER_MEMORY: Final = "2GB"
"""What DuckDB may take in the driver; it spills beyond."""
FORMAT: Final = 2
"""Of what steps keep: a program with another one does not go on with their files."""
_FOUND: Final = "found"
"""The step after which nothing is left but to put everything in place."""


@dataclass(frozen=True)
class Cutting:
    """How finely a rebuild is cut; where nothing is said, as the sizes of tables and tasks ask for."""

    sizes: Sizes = field(default_factory=Sizes)
    limits: Limits | None = None
    profile_parts: int | None = None
    shapes: ShapeLimits = field(default_factory=ShapeLimits)


def rebuild_on(
    engine: Engine,
    setup: WorkspaceSetup,
    state_path: Path,
    lake: Lake,
    now: int,
    report: Callable[[str], None] = lambda _: None,
    cutting: Cutting | None = None,
) -> dict[str, Any]:
    """Make state, de-duplication index, recent events and current tables again from the lake's facts.

    Where an earlier call with the same facts was cut short, what it finished is not done again; other
    unfinished rebuilds are given up. Returns what `pipeline.remaking.rebuild` does.

    Raises:
        Conflict: the tables of facts do not stand at one and the same point, or a part of them is missing; or another
            process took the job over.
        Invalid: what must be in one task's memory is larger than that.
        Unavailable: engine, storage or catalog do not answer, and the same call goes on where this one was; or another
            process rebuilds the same.
    """
    cutting = cutting or Cutting()
    storage = lake.storage
    with _attached(lake, setup.name) as connection:
        decided = Decided.of(connection, setup)
    job = _unfinished(storage, setup, lake, decided, report)
    if job is None:
        reached = reached_by(setup, state_path, lake, now)
        files = FactFiles.of(lake, setup.name)
        with _attached(lake, setup.name) as connection:
            decided = Decided.of(connection, setup)
        inputs = _inputs(engine, setup, lake, files, decided, cutting)
        give_up(storage, setup.name, inputs)
        begun = job = Job(storage, KIND, inputs, report)

        def found_by() -> list[bytes]:
            return [_find(engine, begun, setup, lake, files, decided, cutting, reached, now)]

    else:
        found_by = list
    with job:
        answers = job.step(_FOUND, found_by)
        found = msgspec.msgpack.decode(answers[0], type=Found)
        seconds = _put(found, job, setup, state_path, lake, now, report)
    if seconds is None:
        return rebuild_on(engine, setup, state_path, lake, now, report, cutting)
    written = found.written
    return {
        "profiles": written.profiles,
        "identifiers": written.identifiers,
        "sets": written.sets,
        "events": events_in(found.vector),
        "seconds": {**{name: took for name, took in job.seconds.items() if name != _FOUND}, **seconds},
    }


def _put(
    found: Found,
    job: Job,
    setup: WorkspaceSetup,
    state_path: Path,
    lake: Lake,
    now: int,
    report: Callable[[str], None],
) -> dict[str, float] | None:
    """Put what a rebuild has found in place, and finish it; return seconds by step.

    None where files are gone: a sweep took those of a job that lay unfinished for long.
    """
    seconds: dict[str, float] = {}
    if _epoch_of(state_path, setup.name) != found.epoch:
        if not _there(job.storage, found):
            job.finish()
            return None
        with _attached(lake, setup.name) as connection:
            seconds = put_in_place(found, setup, state_path, lake, connection, now, report, job.check)
    job.finish()
    return seconds


def _find(
    engine: Engine,
    job: Job,
    setup: WorkspaceSetup,
    lake: Lake,
    files: FactFiles,
    decided: Decided,
    cutting: Cutting,
    reached: Progress,
    now: int,
) -> bytes:
    """Run all steps that change nothing but files of the job, and files that no table names yet."""
    tables = {
        table.name: lake.table(setup.name, table).files_elsewhere()
        for table in (ACCOUNT_LINKS, CONSENT_WRITES)
    }
    checked = check_facts(engine, job, files, tables, decided.standing, cutting.sizes)
    refuse_missing(checked.missing, 0)
    held = decided.standing
    resolved = resolve(
        engine,
        job,
        checked.added_to(files),
        held,
        setup.untrusted(),
        sizes=cutting.sizes,
        limits=cutting.limits,
    )
    refuse_missing(0, resolved.values_lost)
    current = {table.name: lake.current_table(setup.name, table).base.files_elsewhere() for table in TABLES}
    written = write_profiles(engine, job, resolved, current, held, decided.policy, cutting.profile_parts)
    shapes = _shapes(engine, job, setup, lake, files, cutting)
    events = event_files(engine, job, setup, files, cutting.sizes, now)
    progress = next_progress(lake, setup.name, reached, now)
    return msgspec.msgpack.encode(
        Found(
            epoch=progress.epoch,
            sequence=progress.sequence,
            vector=dict(progress.vector),
            totals=dict(progress.totals),
            written=written,
            quarantine=resolved.quarantine,
            untold=checked.untold,
            shapes=shapes,
            events=events,
        )
    )


def _shapes(
    engine: Engine, job: Job, setup: WorkspaceSetup, lake: Lake, files: FactFiles, cutting: Cutting
) -> bytes:
    """Return the table of shapes, whose size its limits bound, as Arrow bytes."""
    rows = count_shapes(engine, job, files, setup.identifier_key, cutting.sizes, cutting.shapes)
    if rows is not None:
        return _stream(rows)
    return job.step("shapes_in_order", lambda: [_stream(_shapes_in_order(lake, setup, cutting))])[0]


def _shapes_in_order(lake: Lake, setup: WorkspaceSetup, cutting: Cutting) -> pa.Table:
    """Return the table of shapes where the order of all events decides what is listed; they stream through memory."""
    with _attached(lake, setup.name) as connection:
        return whole_schema(connection, setup.identifier_key, cutting.shapes)


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    body: bytes = sink.getvalue().to_pybytes()
    return body


# ---- jobs --------------------------------------------------------------------------------------


def _inputs(
    engine: Engine,
    setup: WorkspaceSetup,
    lake: Lake,
    files: FactFiles,
    decided: Decided,
    cutting: Cutting,
) -> dict[str, Any]:
    """Return what decides what is computed, and how finely it is cut."""
    progress = {table.name: lake.table(setup.name, table).progress() for table in FACTS}
    return _settings(setup, decided) | {
        "snapshots": files.snapshots(),
        "progress": {name: one and [one.epoch, one.sequence] for name, one in progress.items()},
        "cutting": cutting,
        "tasks": engine.tasks,
    }


def _settings(setup: WorkspaceSetup, decided: Decided) -> dict[str, Any]:
    """Return what besides the facts decides what is computed."""
    return {
        "workspace": setup.name,
        "format": FORMAT,
        "rules": decided.standing.rules,
        "decisions": len(decided.facts),
        "policy": decided.policy,
        "untrusted": sorted(setup.untrusted()),
    }


def _unfinished(
    storage: Storage, setup: WorkspaceSetup, lake: Lake, decided: Decided, report: Callable[[str], None]
) -> Job | None:
    """Return the rebuild that had begun to commit when it was cut short, if nothing has changed since."""
    mine = _as_known(_settings(setup, decided))
    for inputs in known(storage, KIND):
        if {name: inputs.get(name) for name in mine} != mine:
            continue
        job = Job(storage, KIND, inputs, report)
        try:
            found = (
                msgspec.msgpack.decode(job.step(_FOUND, list)[0], type=Found)
                if job.remembers(_FOUND)
                else None
            )
            same = found is not None and (
                _stands_at(lake, setup.name, found)
                and _same_facts(lake, setup.name, inputs["snapshots"], found)
            )
        except BaseException:
            job.leave()
            raise
        if same:
            return job
        job.leave()
    return None


def _same_facts(lake: Lake, workspace: str, pinned: Mapping[str, list[int]], found: Found) -> bool:
    """Tell whether the tables hold the facts that this rebuild read, and at most what it commits itself.

    A repair adds to them and removal takes from them, and neither needs to bring progress.
    """
    definitions = {table.name: table for table in FACT_TABLES}
    for name, snapshots in pinned.items():
        if name == IDENTIFIERS.name:
            base = lake.current_table(workspace, IDENTIFIERS).base
            progress = base.progress()
            if progress is not None and progress.epoch == found.epoch:
                made = {file.location for file in found.written.tables[name]}
                if {file.location for file in base.files()} != made:
                    return False
                continue
            if list(PinnedTable.of(lake, workspace, name).snapshots) != snapshots:
                return False
            continue
        now = lake.load(workspace, name).table.current_snapshot()
        stands = [-1, -1] if now is None else [now.snapshot_id, now.parent_snapshot_id or -1]
        progress = lake.table(workspace, definitions[name]).progress()
        committed = progress is not None and progress.epoch == found.epoch
        if stands[committed] != snapshots[0]:
            return False
    return True


def _as_known(inputs: Mapping[str, Any] | None) -> Any:
    """Return inputs of a job as they are read again."""
    return msgspec.json.decode(msgspec.json.encode(inputs, order="sorted"))


def _stands_at(lake: Lake, workspace: str, found: Found) -> bool:
    """Tell whether tables are in the epoch of this rebuild, and none is further."""
    reached = [
        *(lake.table(workspace, table).progress() for table in FACTS),
        *(lake.current_table(workspace, table).progress() for table in EVERY_CURRENT),
    ]
    mine = (found.epoch, found.sequence)
    places = [(progress.epoch, progress.sequence) for progress in reached if progress is not None]
    return mine in places and max(places) == mine


def give_up(storage: Storage, workspace: str, but: Mapping[str, Any] | None = None) -> None:
    """Remove the files of unfinished rebuilds, but for the one with these inputs."""
    mine = _as_known(but)
    for other in known(storage, KIND):
        if other["workspace"] == workspace and other != mine:
            Job(storage, KIND, other).finish()


def _there(storage: Storage, found: Found) -> bool:
    """Tell whether all files are still there, and let a sweep spare them."""
    handed = [file for files in (*found.written.tables.values(), *found.untold.values()) for file in files]
    try:
        storage.touch(file.location for file in handed)
    except FileNotFoundError:
        return False
    return True


def _epoch_of(state_path: Path, workspace: str) -> str:
    """Return the epoch of the state in use, nothing where there is none that can be read."""
    try:
        state = State.open(state_path)
    except (Corrupt, NotFound):
        return ""
    try:
        with state.read(workspace) as tx:
            return load_applied(tx, workspace, "").epoch
    except NotFound:
        return ""
    finally:
        state.close()


@contextmanager
def _attached(lake: Lake, workspace: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="profilelake-rebuild-") as spill:
        connection = sql.connect(DRIVER_MEMORY, spill)
        try:
            attach(connection, lake, workspace)
            yield connection
        finally:
            connection.close()
