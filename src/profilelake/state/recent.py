"""Recent events: immutable runs, memory-mapped by readers, found by identifier set.

Each micro-batch writes one run, sorted by `(key, position)`; small runs are merged into larger ones
and dropped when they are older than the look-back. A run is listed in the state in the same
transaction as the micro-batch that made it; a file that is not listed is swept.

A row's `key` is the set it is found by. A group event is found by two sets, so it stands twice: the
second time with `copy` true, which readers of whole runs leave out.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Invalid
from profilelake.state._run_file import BATCH_ROWS, RunFile, RunWriter, Words, key_words, sync
from profilelake.state.store import Tx

LOOK_BACK_SECONDS: Final = 14 * 86_400
"""How far back events are found here; the lake has all of them."""
FAN_IN: Final = 24
"""As many runs of one level become one of the next."""
LEVEL_TOP: Final = 3
MERGE_ROWS: Final = 100_000
"""About as many rows are in memory while runs are merged, however large they are."""
SCAN_ROWS_MAX: Final = 200_000
"""Events of a profile that one look-up goes through."""
_META: Final = "recent"
_SUFFIX: Final = ".run"
_LABELLED: Final = ".arrow"


class Run(msgspec.Struct, array_like=True, frozen=True):
    """One run file: which micro-batches and times it covers."""

    name: str
    level: int
    sequence_min: int
    sequence_max: int
    received_max: int
    rows: int


class EventKey(NamedTuple):
    """What orders a profile's events: when they happened, then their ids."""

    timestamp: int
    message_id: str


class RecentEvent(NamedTuple):
    """One event as it was found; `context` and `properties` are JSON text."""

    key: bytes
    timestamp: int
    message_id: str
    type: str
    event: str | None
    source_id: str
    context: str | None
    properties: str | None


class Sighted(NamedTuple):
    """How often a run shows a set, and the last time."""

    times: int
    position: bytes
    message_id: str
    source_id: str


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events of a profile are wanted: times in microseconds (start included, end not)."""

    start: int
    end: int
    limit: int
    descending: bool = True
    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    after: EventKey | None = None


def load(tx: Tx, workspace: str) -> list[Run]:
    """Return the listed runs, oldest first."""
    value = tx.meta(workspace, _META)
    return [] if value is None else msgspec.msgpack.decode(value, type=list[Run])


def store(tx: Tx, workspace: str, runs: Sequence[Run]) -> None:
    """List exactly these runs."""
    tx.put_meta(workspace, _META, list(runs))


def write(
    directory: Path,
    rows: pa.Table,
    *,
    sequence_min: int,
    sequence_max: int,
    level: int = 0,
    label: str = "",
) -> Run:
    """Write rows already sorted by `(key, position)` as one durable run.

    File and name are on disk before this returns; the caller then lists the run in the state. Runs
    of one micro-batch need a `label` each, to be told apart.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = labelled(label) if label else _name(sequence_min, sequence_max, level)
    with RunWriter(directory / name, rows.schema) as writer:
        writer.add(rows)
    return Run(name, level, sequence_min, sequence_max, writer.received_max, writer.rows)


def labelled(label: str) -> str:
    """Return the name of the run with this label."""
    return f"{label}{_LABELLED}"


def take_over(directory: Path, run: Run, pieces: Iterable[bytes]) -> None:
    """Put a run that `write` made elsewhere into this folder under its name here, durable, as it comes in pieces."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / run.name).open("wb") as sink:
        for piece in pieces:
            sink.write(piece)
    sync(directory / run.name)
    sync(directory)


def read_whole(directory: Path, run: Run, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a run, each event once, without `copy`."""
    file = RunFile(directory / run.name)
    wanted = list(columns) if columns is not None else [n for n in file.schema.names if n != "copy"]
    table = file.reader([*wanted, "copy"]).read_all()
    return table.filter(pc.invert(table.column("copy"))).select(wanted)


def read_keys(directory: Path, run: Run, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a run, with every row: an event found by two sets stands twice."""
    return RunFile(directory / run.name).reader(columns).read_all().select(list(columns))


def keys_of_message(directory: Path, runs: Iterable[Run], message_id: str) -> list[bytes]:
    """Return the sets that an event of these runs is found by; none where it is in none of them.

    Runs are sorted by set, so all of them are gone through, the newest first, a batch at a time.

    Raises:
        FileNotFoundError: a run was merged or dropped; read the list of runs again.
    """
    for run in sorted(runs, key=lambda run: run.received_max, reverse=True):
        file = RunFile(directory / run.name)
        ids, keys = file.reader(["message_id"]), file.reader(["key"])
        found: list[bytes] = []
        for number in range(ids.num_record_batches):
            rows = pc.equal(ids.get_batch(number).column(0), message_id)
            if pc.any(rows).as_py():
                found += keys.get_batch(number).column(0).filter(rows).to_pylist()
        if found:
            return found
    return []


def merge_due(runs: Sequence[Run]) -> list[Run]:
    """Return runs that should become one, oldest first; empty when none should."""
    for level in range(LEVEL_TOP):
        same = [run for run in runs if run.level == level]
        if len(same) >= FAN_IN:
            return same[:FAN_IN]
    return []


def merge(directory: Path, runs: Sequence[Run]) -> Run:
    """Write the rows of runs as one run of the next level."""
    files = [RunFile(directory / run.name) for run in runs]
    # Runs between them may wait to be counted, and be merged later: the ranges of runs may overlap.
    sequence_min, sequence_max = min(r.sequence_min for r in runs), max(r.sequence_max for r in runs)
    level = runs[0].level + 1
    name = _name(sequence_min, sequence_max, level)
    with RunWriter(directory / name, files[0].schema) as writer:
        for rows in _parts(files, None, math.ceil(sum(run.rows for run in runs) / MERGE_ROWS)):
            writer.add(rows)
    return Run(name, level, sequence_min, sequence_max, writer.received_max, writer.rows)


def parts(directory: Path, runs: Sequence[Run], columns: Sequence[str], rows_max: int) -> Iterator[pa.Table]:
    """Yield all rows of these runs by `(key, position)`, in parts of about `rows_max`.

    No key is in two parts; an event found by two sets stands twice.
    """
    files = [RunFile(directory / run.name) for run in runs]
    yield from _parts(files, columns, math.ceil(sum(run.rows for run in runs) / rows_max))


def _parts(files: Sequence[RunFile], columns: Sequence[str] | None, count: int) -> Iterator[pa.Table]:
    # Keys are hashes, so equal stretches of the key space hold about equally many rows.
    for part in range(count):
        low, high = (part << 64) // count, ((part + 1) << 64) // count
        rows = pa.concat_tables([file.between(low, high, columns) for file in files])
        if rows.num_rows:
            yield rows.sort_by([("key", "ascending"), ("position", "ascending")])


def sweep(directory: Path, listed: Iterable[Run]) -> int:
    """Remove run files that no state lists; return how many. Only the writing process may call it.

    A file of a later micro-batch than any listed one stays: it may belong to the transaction that
    another thread is about to commit. One left by a crash goes when later runs are listed. Labelled
    files are made while nobody else is at work, so they are never about to be listed.
    """
    names = {run.name: run.sequence_max for run in listed}
    newest = max(names.values(), default=-1)
    removed = 0
    for path in directory.iterdir() if directory.exists() else ():
        if path.name in names:
            continue
        if path.suffix == _LABELLED or (path.suffix == _SUFFIX and int(path.name.split("-")[1]) <= newest):
            path.unlink()
            removed += 1
    return removed


def _name(sequence_min: int, sequence_max: int, level: int) -> str:
    return f"{sequence_min:012d}-{sequence_max:012d}-{level}{_SUFFIX}"


class RunReader:
    """Finds a profile's events in the listed runs. Keeps files mapped between requests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, _OpenRun] = {}

    def find(self, runs: Sequence[Run], keys: Sequence[bytes], query: EventQuery) -> list[RecentEvent]:
        """Return the wanted events of these sets in order, at most `query.limit` + 1 of them.

        The one row too many tells the caller that there are more. Newest first, only as much is
        read as can hold the answer, however busy the profile is; oldest first, the ordering columns
        of all its events.

        Raises:
            FileNotFoundError: a run was merged or dropped; read the list of runs again.
            Invalid: the profile has too many events to look through; ask for fewer.
        """
        for name in self._open.keys() - {run.name for run in runs}:
            del self._open[name]
        best = _Best(query)
        wanted = key_words(keys)
        for run in sorted(runs, key=lambda run: run.received_max, reverse=True):
            if run.received_max < best.floor:
                break
            self._opened(run).collect(wanted, best)
        return _read(best.chosen())

    def rows(
        self, runs: Iterable[Run], keys: Sequence[bytes], columns: Sequence[str], rows_max: int
    ) -> list[pa.RecordBatch]:
        """Return some columns of all rows of these sets, as batches of one schema; none where there are none.

        Raises:
            FileNotFoundError: a run was merged or dropped; read the list of runs again.
            Invalid: there are more than `rows_max`.
        """
        wanted = key_words(keys)
        found: list[pa.RecordBatch] = []
        count = 0
        for run in runs:
            for batch in self._opened(run).rows(wanted, columns):
                count += batch.num_rows
                if count > rows_max:
                    raise Invalid(
                        f"reading more than {rows_max:,} recent events of one profile: ask the lake with SQL"
                    )
                found.append(batch)
        return found

    def sightings(self, runs: Iterable[Run], keys: Sequence[bytes]) -> Iterator[tuple[Run, bytes, Sighted]]:
        """Yield what each run shows of these sets.

        Raises:
            FileNotFoundError: a run was merged or dropped; read the list of runs again.
        """
        wanted = key_words(keys)
        for run in runs:
            for key, seen in self._opened(run).sightings(wanted):
                yield run, key, seen

    def _opened(self, run: Run) -> "_OpenRun":
        opened = self._open.get(run.name)
        if opened is None:
            opened = self._open[run.name] = _OpenRun(self._directory / run.name)
        return opened


_Candidate: TypeAlias = "tuple[int, str, _OpenRun, int]"
"""Timestamp, message id, run, row."""


class _Best:
    """The first `limit` + 1 candidates of those seen so far.

    No event happened after it was received. So rows received before `floor` cannot be wanted:
    they happened before `start`, or, newest first, before everything that is chosen already.
    """

    def __init__(self, query: EventQuery) -> None:
        self.query = query
        self.floor = query.start
        self._size = query.limit + 1
        self._seen: list[_Candidate] = []
        self._scanned = 0

    def scan(self, rows: int) -> None:
        self._scanned += rows
        if self._scanned > SCAN_ROWS_MAX:
            raise Invalid(
                f"looking through more than {SCAN_ROWS_MAX} events of one profile: give a later `start`, sort newest"
                " first, or ask the lake with SQL"
            )

    def add(self, candidates: list[_Candidate]) -> None:
        if not candidates:
            return
        self._seen += candidates
        if len(self._seen) >= self._size:
            self._seen = self.chosen()
            if self.query.descending:
                self.floor = max(self.query.start, self._seen[-1][0])

    def chosen(self) -> list[_Candidate]:
        return sorted(self._seen, key=itemgetter(0, 1), reverse=self.query.descending)[: self._size]


class _OpenRun:
    """One mapped run file."""

    def __init__(self, path: Path) -> None:
        self._file = RunFile(path)
        self._sighted = self._file.reader(("key", "position", "message_id", "source_id"))
        self._order = self._file.reader(("key", "received_at", "timestamp", "message_id", "type", "event"))
        self._shown = self._file.reader(RecentEvent._fields)

    def collect(self, keys: Words, best: _Best) -> None:
        """Offer the events of these sets that fit, latest received first."""
        for first, last in self._file.ranges(keys):
            for number in range((last - 1) // BATCH_ROWS, first // BATCH_ROWS - 1, -1):
                begin = max(first, number * BATCH_ROWS)
                count = min(last, (number + 1) * BATCH_ROWS) - begin
                batch = self._order.get_batch(number).slice(begin - number * BATCH_ROWS, count)
                best.scan(count)
                best.add(self._candidates(batch, begin, best.query))
                if _micros(batch.column("received_at").slice(0, 1))[0] < best.floor:
                    break

    def rows(self, keys: Words, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of these sets, in the order of the file within a set."""
        reader = self._file.reader(columns)
        for first, last in self._file.ranges(keys):
            for number in range(first // BATCH_ROWS, (last - 1) // BATCH_ROWS + 1):
                begin = max(first - number * BATCH_ROWS, 0)
                end = min(last - number * BATCH_ROWS, BATCH_ROWS)
                yield reader.get_batch(number).slice(begin, end - begin)

    def sightings(self, keys: Words) -> Iterator[tuple[bytes, Sighted]]:
        """Yield how often each of these sets is here, with its last row, which has the greatest position."""
        for first, last in self._file.ranges(keys):
            row = last - 1
            shown = self._sighted.get_batch(row // BATCH_ROWS).slice(row % BATCH_ROWS, 1)
            key, position, message_id, source_id = (
                shown.column(name)[0].as_py() for name in ("key", "position", "message_id", "source_id")
            )
            yield key, Sighted(last - first, position, message_id, source_id)

    def _candidates(self, batch: pa.RecordBatch, begin: int, query: EventQuery) -> list[_Candidate]:
        times = _micros(batch.column("timestamp"))
        ids, types, names = (batch.column(name).to_pylist() for name in ("message_id", "type", "event"))
        return [
            (time, message_id, self, begin + row)
            for row, (time, message_id, type, name) in enumerate(zip(times, ids, types, names, strict=True))
            if _fits(query, time, message_id, type, name)
        ]

    def events(self, number: int, rows: Sequence[int]) -> list[RecentEvent]:
        """Return rows of one batch, by their number in the run."""
        part = self._shown.get_batch(number).take(pa.array([row - number * BATCH_ROWS for row in rows]))
        columns = [
            _micros(part.column(name)) if name == "timestamp" else part.column(name).to_pylist()
            for name in RecentEvent._fields
        ]
        return [RecentEvent(*row) for row in zip(*columns, strict=True)]


def _read(chosen: Sequence[_Candidate]) -> list[RecentEvent]:
    """Return the chosen events in their order, each batch they lie in decompressed once."""
    places: dict[tuple[_OpenRun, int], list[int]] = {}
    for place, (_, _, opened, row) in enumerate(chosen):
        places.setdefault((opened, row // BATCH_ROWS), []).append(place)
    found: dict[int, RecentEvent] = {}
    for (opened, number), numbers in places.items():
        rows = [chosen[place][3] for place in numbers]
        found.update(zip(numbers, opened.events(number, rows), strict=True))
    return [found[place] for place in range(len(chosen))]


def _micros(times: pa.Array) -> list[int]:
    values: list[int] = times.view(pa.int64()).to_pylist()
    return values


def shown_name(type: str, event: str | None) -> str:
    """Return the event name the Profile API shows: page calls appear as `Page Viewed`."""
    if type == "page":
        return "Page Viewed"
    if type == "screen":
        return "Screen Viewed"
    return event or ""


def _fits(query: EventQuery, time: int, id: str, type: str, event: str | None) -> bool:
    if type in ("identify", "group", "alias") or not query.start <= time < query.end:
        return False
    if query.after is not None:
        here = EventKey(time, id)
        if here == query.after or (here > query.after) is query.descending:
            return False
    name = shown_name(type, event)
    return name not in query.exclude and (not query.include or name in query.include)
