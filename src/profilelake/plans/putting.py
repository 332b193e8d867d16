"""The end of a rebuild: what tasks made becomes the tables and the state. One process does it, and may do it again.

Tables first, by one snapshot each; the state at last. Each commit names the epoch, so that none is made twice.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.kept import KeptFile, read_kept
from profilelake.lake.catalog import Lake
from profilelake.lake.handover import HandedFile
from profilelake.lake.progress import Progress
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach
from profilelake.pipeline.batch import WorkspaceSetup
from profilelake.pipeline.fold_announced import Told
from profilelake.pipeline.publish import EVERY_CURRENT
from profilelake.pipeline.remaking import (
    FACTS,
    LOAD_ROWS,
    Decided,
    Steps,
    fresh_state,
    replace_state,
    take_up,
)
from profilelake.plans.event_files import EventFiles, load_event_files
from profilelake.plans.profiles import Written
from profilelake.plans.rows import QUARANTINE
from profilelake.plans.written import collection_codes
from profilelake.shapes.tables import SCHEMA
from profilelake.state import packed
from profilelake.state.store import Db, State


class Found(msgspec.Struct, frozen=True):
    """Everything a rebuild has found, ready to be put in place, and the progress that it brings."""

    epoch: str
    sequence: int
    vector: dict[str, tuple[int, int]]
    totals: dict[str, int]
    written: Written
    quarantine: list[KeptFile]
    untold: dict[str, list[HandedFile]]
    """Files of tables of facts, of what was not written in them."""
    shapes: bytes
    """The table of shapes as an Arrow stream."""
    events: EventFiles

    def progress(self) -> Progress:
        """Return where all tables stand afterwards."""
        return Progress(self.epoch, self.sequence, self.vector, self.totals)


def put_in_place(
    found: Found,
    setup: WorkspaceSetup,
    state_path: Path,
    lake: Lake,
    connection: duckdb.DuckDBPyConnection,
    now: int,
    report: Callable[[str], None],
    check: Callable[[], None],
) -> dict[str, float]:
    """Commit the tables, then load a new state and put it in the place of the old one; return seconds by step.

    What was done of it before is not done again, but a state that was being loaded is loaded anew.
    `connection` has the lake attached; `check` is asked before each commit, and raises where none may follow.
    """
    clock = Steps(report)
    progress, told = found.progress(), Told(connection)
    for definition in EVERY_CURRENT:
        check()
        table = lake.current_table(setup.name, definition)
        if definition.name == SCHEMA.name:
            table.replace(pa.ipc.open_stream(found.shapes).read_all(), progress)
        elif definition.name in found.written.tables:
            table.replace_with(found.written.tables[definition.name], progress)
        else:
            table.replace_in_parts(told.parts(definition.name), progress)
        reach("rebuild.replaced")
    for definition in FACTS:
        check()
        lake.table(setup.name, definition).append_with(found.untold.get(definition.name, []), progress)
        reach("rebuild.appended")
    clock.done("commit")
    state = fresh_state(state_path, setup.name)
    load_state(state, setup.name, lake.storage, found.written.state)
    _load_quarantine(state, setup.name, lake.storage, found.quarantine)
    Decided.of(connection, setup).load(state, setup.name)
    clock.done("state")
    load_event_files(state, setup, lake.storage, found.events, progress, now)
    clock.done("events")
    check()
    take_up(state, setup.name, lake, told.facts, told.by_profile(), now)
    check()
    replace_state(state_path)
    clock.done("journals")
    return clock.seconds


def load_state(state: State, workspace: str, storage: Storage, files: Iterable[KeptFile]) -> None:
    """Load rows of `written.STATE` into a state that is empty; `LOAD_ROWS` of them are in memory."""
    for file in files:
        for rows in read_kept(storage, file, rows=LOAD_ROWS):
            with state.write() as tx:
                for db, keys, values in _runs(rows):
                    tx.append_many(workspace, db, list(zip(keys, values, strict=True)))


def _runs(rows: pa.Table) -> Iterable[tuple[Db, list[bytes], list[bytes]]]:
    """Yield the rows of each database, which stand together."""
    names = rows.column("db").combine_chunks()
    ends = pc.run_end_encode(names)
    start = 0
    for name, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        part = rows.slice(start, end - start)
        yield Db(name), part.column("key").to_pylist(), part.column("value").to_pylist()
        start = end


def _load_quarantine(state: State, workspace: str, storage: Storage, files: Iterable[KeptFile]) -> None:
    """Load what is known of identifiers near the limit of degrees; they come in no order."""
    for file in files:
        for rows in read_kept(storage, file, QUARANTINE.names, LOAD_ROWS):
            records = packed.record(
                packed.integers(collection_codes(rows)),
                packed.texts(rows.column("type")),
                packed.integers(rows.column("degree").to_numpy()),
                packed.binaries(rows.column("position")),
                packed.booleans(rows.column("active").to_numpy()),
                packed.integers(rows.column("again_at").to_numpy()),
                packed.integers(rows.column("extra").to_numpy()),
            )
            items = list(zip(rows.column("ident_id").to_pylist(), records.to_pylist(), strict=True))
            with state.write() as tx:
                tx.put_many(workspace, Db.QUARANTINE, items)
