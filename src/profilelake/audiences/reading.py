"""What definitions need of the lake: the events of their steps, whose they are, and what is known of people.

Only files, rows and columns that can matter are read, once for all definitions. What does not fit into memory
is divided by profile (or by set) into slices on disk first, each of which does.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.errors import Unavailable
from profilelake.identity.tables import SET_MAP
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.sql import LiveFile
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.rules import Collection
from profilelake.traits.steps import Family, Step

THREADS: Final = 2
MEMORY_LIMIT: Final = "1GB"
"""Of one DuckDB that reads the lake; beyond that it spills."""
SLICE_EVENTS: Final = 200_000
"""Events of one slice, on average: fewer than are folded at once, so that nothing has to be merged."""
SLICE_PROFILES: Final = 1 << 17
SLICES_MAX: Final = 4_096
DIVIDED_ROWS: Final = 1 << 18
"""Rows that are sorted by slice at once."""
PART_ROWS: Final = 1 << 20
"""Events that are folded at once; a slice with more, of one very busy profile, is folded in parts."""

ALWAYS: Final = -(1 << 62)
NEVER: Final = 1 << 62
_TEXTS: Final = ("properties", "context")
FOLDED: Final = ("set_id", "type", "event", "name", "timestamp", "source_id", "position", *_TEXTS)
"""Columns of `events` that folding looks at; what no step asks for is null."""
WANTED: Final = "wanted_events"
"""The table of names and times that a connection must have for `Wanted.select`."""
PAGE_VIEWED: Final = "Page Viewed"
_NAME: Final = f"""
    CASE type WHEN 'track' THEN event WHEN 'page' THEN '{PAGE_VIEWED}' WHEN 'screen' THEN 'Screen Viewed' END
"""
_TYPES: Final = ("track", "page", "screen")
_PAGE, _SCREEN = 1, 2
"""Places in `_TYPES` of the calls that have a name of their own."""
_CALLED: Final = "called"
"""The number of the name of an event, twice, and one more where a call of its own is that event."""
_CALL: Final = ("type", "event")
_SCRATCH: Final = "computing-"
"""How the names of folders begin that are in use, and locked."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events some steps can ever look at, and what of them.

    Per name of an event since when they matter at all, and since when their texts (`properties`, `context`) do:
    `ALWAYS` for events of any age, `NEVER` for none. `until` is the time of evaluation, None where all there is
    counts; `received_until` leaves out what was received later.
    """

    since: dict[str, int]
    texts_since: dict[str, dict[str, int]]
    columns: frozenset[str]
    until: int | None
    received_until: int | None

    @classmethod
    def of(
        cls, steps: Iterable[Step], now: int, *, until: int | None = None, received_until: int | None = None
    ) -> "Wanted":
        """Return what steps need that are never evaluated before `now`."""
        since: dict[str, int] = {}
        texts_since: dict[str, dict[str, int]] = {text: {} for text in _TEXTS}
        columns = {"set_id", "type", "event", "timestamp"}
        for step in steps:
            columns |= {"position"} if step.since else set()
            whole = step.family is Family.EVENTS
            columns |= {"source_id"} if whole or step.of.excluded else set()
            # A property of that name is the call's own.
            columns |= (
                {"name"} if any(path[0] in ("page_name", "screen_name") for path in step.paths) else set()
            )
            for number, name in enumerate(step.names):
                # What follows an event in a funnel is bound by that event, not by the time of evaluation.
                bounded = step.horizon is not None and not number
                begin = now - step.horizon if bounded and step.horizon is not None else ALWAYS
                since[name] = min(begin, since.get(name, begin))
                for text, paths in zip(_TEXTS, (step.paths, step.context_paths), strict=True):
                    if paths:
                        texts_since[text][name] = min(begin, texts_since[text].get(name, begin))
        return cls(since, texts_since, frozenset(columns), until, received_until)

    def earliest(self) -> int:
        """Return the time before which no event matters."""
        return min(self.since.values(), default=NEVER)

    def read(self) -> frozenset[str]:
        """Return the columns that are read at all."""
        texts = {text for text, since in self.texts_since.items() if since}
        return self.columns | texts | ({"received_at"} if self.received_until is not None else set())

    def files(self, events: PublishedTable) -> list[LiveFile]:
        """Return the files of `events` that can have something that matters."""
        # An event is never dated after its receipt, so what was received before is older still.
        received = events.table.schema().find_field("received_at").field_id
        bounds = [(file, file.upper_bound(received)) for file in events.files]
        return [file for file, bound in bounds if bound is None or bound >= self.earliest()]

    def select(
        self,
        events: PublishedTable,
        files: Sequence[LiveFile],
        place: Callable[[str], str] = sql.local_place,
        of_sets: str = "",
    ) -> str:
        """Return a SELECT of what matters in files of `events`, for a connection that has `rows` as `WANTED`.

        `of_sets` names a table there; then only events of the sets (`set_id`) in it count.
        """
        read = sorted(self.read())
        rows = sql.select_by_name(events.table.schema(), files, read, place)
        if of_sets:
            # Before anything else: of the other events neither names nor times need to be looked at.
            few = f"FROM ({rows}) SEMI JOIN {sql.identifier(of_sets)} USING (set_id)"
            rows = f"WITH few AS MATERIALIZED ({few}) FROM few"
        columns = [self._column(name) if name in read else f"NULL AS {name}" for name in FOLDED]
        return self._select(columns, rows)

    def select_numbered(
        self, events: PublishedTable, files: Sequence[LiveFile], place: Callable[[str], str]
    ) -> str:
        """Return a SELECT as `select` does, of what is read alone and with numbers of names: `restored` tells the rest."""
        rows = sql.select_by_name(events.table.schema(), files, sorted(self.read()), place)
        called = f"(number * 2 + (type <> 'track')::INTEGER)::INTEGER AS {_CALLED}"
        columns = [called, *(self._column(name) for name in self.numbered_schema().names if name != _CALLED)]
        return self._select(columns, rows)

    def numbered_schema(self) -> pa.Schema:
        """Return the columns of `select_numbered`."""
        read = self.read()
        asked = [field for field in event_schema() if field.name in read and field.name not in _CALL]
        return pa.schema([(_CALLED, pa.int32()), *asked])

    def restored(self, rows: pa.Table) -> pa.Table:
        """Return rows of `select_numbered` with all columns that are folded; calls and their names are dictionaries."""
        called = rows.column(_CALLED).combine_chunks()
        number = called.to_numpy() >> 1
        calls = np.array([_PAGE if name == PAGE_VIEWED else _SCREEN for name in self.since], dtype=np.int32)
        is_call = (called.to_numpy() & 1).astype(np.bool_)
        made = {
            "event": pa.DictionaryArray.from_arrays(number, pa.array(list(self.since), pa.string())),
            "type": pa.DictionaryArray.from_arrays(
                np.where(is_call, calls[number], 0).astype(np.int32), pa.array(_TYPES)
            ),
        }
        for field in event_schema():
            if field.name in rows.column_names:
                made[field.name] = rows.column(field.name)
            elif field.name not in made:
                made[field.name] = pa.nulls(rows.num_rows, field.type)
        return pa.table({name: made[name] for name in FOLDED})

    @staticmethod
    def _column(name: str) -> str:
        if name not in _TEXTS:
            return name
        return f"CASE WHEN epoch_us(timestamp) >= {name}_since THEN {name} END AS {name}"

    def _select(self, columns: Sequence[str], rows: str) -> str:
        until = "" if self.until is None else f"AND epoch_us(timestamp) <= {self.until:d}"
        received_until = (
            "" if self.received_until is None else f"AND epoch_us(received_at) <= {self.received_until:d}"
        )
        return f"""
            SELECT {", ".join(columns)} FROM ({rows}) JOIN {WANTED} ON {_NAME} = wanted AND epoch_us(timestamp) >= since
            WHERE set_id IS NOT NULL {until} {received_until}
        """  # noqa: S608 - numbers, and names of our own columns

    def rows(self) -> pa.Table:
        """Return the names and times as DuckDB joins them."""
        texts = {
            f"{text}_since": pa.array([since.get(name, NEVER) for name in self.since], pa.int64())
            for text, since in self.texts_since.items()
        }
        return pa.table(
            {
                "wanted": pa.array(list(self.since), pa.string()),
                "since": pa.array(list(self.since.values()), pa.int64()),
                "number": pa.array(range(len(self.since)), pa.int32()),
                **texts,
            }
        )


class Reading:
    """The tables of a workspace as they were when this was made. One thread at a time, `cursor` for more."""

    def __init__(self, lake: Lake, workspace: str, directory: Path, memory_limit: str = MEMORY_LIMIT) -> None:
        """Plan the reads; what does not fit into memory goes below `directory`."""
        self.events: PublishedTable = lake.load(workspace, EVENTS.name)
        self._sets = reading.select(lake, workspace, SET_MAP.name)
        self._profiles = reading.select(lake, workspace, PROFILES.name)
        self.directory = directory
        self.connection = sql.connect(memory_limit, str(directory), lake.storage)
        self.connection.execute(f"SET threads = {THREADS:d}")
        self.connection.execute("SET preserve_insertion_order = false")

    def close(self) -> None:
        """Give up memory and files."""
        self.connection.close()

    def select_events(self, wanted: Wanted, of_sets: str = "") -> str:
        """Return a SELECT of the wanted events, good until the next one.

        `of_sets` names a table of the connection; then only events of the sets (`set_id`) in it count.
        """
        self.connection.register(WANTED, wanted.rows())
        return wanted.select(self.events, wanted.files(self.events), of_sets=of_sets)

    def select_sets(self, collection: Collection) -> str:
        """Return a SELECT of `set_id` and `profile_id` of the sets that have a profile."""
        return f"""
            SELECT set_id, profile_id FROM ({self._sets})
            WHERE profile_id IS NOT NULL AND collection = {sql.text(collection)}
        """  # noqa: S608 - one of two words

    def select_profiles(self, collection: Collection) -> str:
        """Return a SELECT of `profile_id`, `slot`, `identifiers` and `traits` of all profiles."""
        return f"""
            SELECT profile_id, slot, identifiers, traits FROM ({self._profiles})
            WHERE collection = {sql.text(collection)}
        """  # noqa: S608 - one of two words

    def select(self, lake: Lake, workspace: str, name: str) -> str:
        """Return a SELECT of any other table of the workspace, as it is now.

        Raises:
            NotFound: there is none.
        """
        return reading.select(lake, workspace, name)

    def rows_at_most(self) -> int:
        """Return how many events there are, wanted or not."""
        return sum(file.rows for file in self.events.files)

    def count(self, select: str) -> int:
        """Return how many rows a SELECT has."""
        with told():
            rows = self.connection.sql(f"SELECT count(*) FROM ({select})").fetchall()  # noqa: S608 - made here
        return int(rows[0][0])

    def table(self, select: str) -> pa.Table:
        """Return the rows of a SELECT."""
        with told():
            return self.connection.sql(select).to_arrow_table()

    def divide(self, select: str, name: str, schema: pa.Schema, slices: int) -> "Divided":
        """Write the rows of a SELECT apart on disk, by its column `slice`, and the columns of `schema` alone."""
        path = self.directory / f"{name}.arrow"
        starts: list[npt.NDArray[np.int64]] = []
        with told(), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as out:
            batches = self.connection.sql(select).to_arrow_reader(DIVIDED_ROWS)
            for part in in_parts(batches, DIVIDED_ROWS):
                numbers = part.column("slice").to_numpy()
                order = np.argsort(numbers.astype(np.int16), kind="stable")
                starts.append(np.searchsorted(numbers[order], np.arange(slices + 1)))
                rows = part.select(schema.names).cast(schema).take(pa.array(order)).combine_chunks()
                out.write_batch(rows.to_batches()[0])
        return Divided(path, schema, starts)


@dataclass(frozen=True, slots=True)
class Divided:
    """Rows apart on disk by slice. Threads may read different slices at once.

    Each batch of the file is sorted by slice; `starts` has for each where its slices begin, and the end. Only the
    pages of a slice are read: the file is mapped into memory.
    """

    path: Path
    schema: pa.Schema
    starts: list[npt.NDArray[np.int64]]

    def slice(self, number: int, rows_max: int) -> Iterator[pa.Table]:
        """Yield the rows of a slice, about so many at once; none at all where it has none."""
        if not self.starts:
            return
        with pa.memory_map(str(self.path)) as source:
            file = pa.ipc.open_file(source)
            batches = (
                file.get_batch(place).slice(starts[number], starts[number + 1] - starts[number])
                for place, starts in enumerate(self.starts)
            )
            for part in in_parts(batches, rows_max):
                yield part.combine_chunks()


def in_parts(batches: Iterable[pa.RecordBatch], rows_max: int) -> Iterator[pa.Table]:
    """Yield batches together, as many at once as do not pass `rows_max` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if held and rows + batch.num_rows > rows_max:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
        held.append(batch)
        rows += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def slices_for(events: int, profiles: int) -> int:
    """Return into how many slices so much has to be divided."""
    return max(1, min(SLICES_MAX, max(-(-events // SLICE_EVENTS), -(-profiles // SLICE_PROFILES))))


def slice_of_set(slices: int) -> str:
    """Return an expression for the slice of `set_id`: slices are ranges of sets, all about as large."""
    return f"(('0x' || substr(hex(set_id), 1, 6))::BIGINT * {slices:d} // {1 << 24:d})::INTEGER"


def event_schema() -> pa.Schema:
    """Return the columns of events as they are folded."""
    full = EVENTS.schema()
    return pa.schema([full.field(name).with_nullable(True) for name in FOLDED])


@contextmanager
def told() -> Iterator[None]:
    """Say what it means where DuckDB cannot go on.

    Raises:
        Corrupt: a file of a table is missing or not what it should be.
        Unavailable: memory or disk is full.
    """
    try:
        with reading.damage_told():
            try:
                yield
            except duckdb.IOException as error:
                if "No space left" in str(error):
                    raise Unavailable(
                        f"computing over the whole lake: {error}; free disk and retry"
                    ) from error
                raise
    except duckdb.OutOfMemoryException as error:
        raise Unavailable(f"computing over the whole lake: {error}; free memory and retry") from error


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a new folder below `parent`, removed at the end; what processes left there that were killed goes first."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_SCRATCH}*"):
        if (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    # It has the name that others look for only when they find it locked.
    lock = _locked(made)
    folder = made.rename(parent / made.name.replace("new-", _SCRATCH, 1))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that holds the lock of a folder until it is closed, None where it is held or there is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
