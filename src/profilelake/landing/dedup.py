"""Exact de-duplication by message id, over the whole history.

The index holds, for every accepted event, a keyed 128-bit hash of its message id, its position and
a digest of its content; and the same for every copy that turned out to have a smaller position. New
rows stand in the state (in the same transaction as the events they belong to) and in a table in
memory, until there are enough for a sorted run file. Runs of one size are merged into larger ones, a
slice of work after each micro-batch; what is finished is listed in the state by the next transaction,
so the index is never ahead of or behind the events, and files that are not listed are swept.
"""

import hashlib
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.errors import Corrupt, Unavailable
from profilelake.kernels import seen_table, sorted_runs
from profilelake.kernels._compiled import read_only
from profilelake.kernels.seen_table import SeenTable
from profilelake.kernels.sorted_runs import ROW_WORDS, Words
from profilelake.landing._dedup_runs import (
    STEP_ROWS,
    Bounds,
    Packed,
    Run,
    RunFile,
    merging,
    put_together,
    run_through,
    writing,
)
from profilelake.ops.failpoints import reach
from profilelake.state.store import Db, Tx

MEMORY_ROWS_MAX: Final = 524_288
"""Rows kept in the state and in memory before they become a run file. Up to twice as many are held
while that file is written: 96 MiB, the budget of a workspace beside fences and mapped filters."""
FAN_IN: Final = 4
"""Runs of one level that become one of the next. A billion ids lie on six levels, with up to three runs each
and, for a sixth of the time or less, the four that are being merged."""
WORK_PER_ROW: Final = 12
"""Rows written to files in the making, at most, for each row remembered: what a micro-batch waits for.
Each row is written once per level in the end, so a billion ids need 6 of them; the rest is the speed
at which what is due gets done. The smallest file goes first, because the next of its size is due first."""
SEEN_DELETES_MAX: Final = 512
"""Entries one transaction removes from the state after their rows have gone into a run file."""
FORMAT: Final = 3
"""Ids are hashed under `message_key`; under format 2, which lives on until a rebuild, under the identifier key itself."""
_FORMAT_OF_IDENTIFIER_KEY: Final = 2
_MESSAGE_KEY_BYTES: Final = 16
_META: Final = "dedup"
_SUFFIX: Final = ".run"
_SPILL: Final = -1
_log = logging.getLogger(__name__)

ENTRY: Final = np.dtype(
    [
        ("first", "<u8"),
        ("second", "<u8"),
        ("received_at", "<i8"),
        ("log", "<u8"),
        ("region", "<u4"),
        ("index", "<u4"),
        ("digest", "<u4"),
    ]
)
"""An arriving event: hash of its message id; received_at, region, log and index from its position;
digest of its content. Left out of the position is the offset: `received_at` is unique per record in a
log. Two contents of one message id are taken for one with a chance of 1 in 2^32."""

Entries = npt.NDArray[np.void]
Numbers = npt.NDArray[np.uint64]


class Verdict(IntEnum):
    """What an arriving event is."""

    ACCEPTED = 0
    """Not seen before, or at exactly this position: then it is the same event again."""
    DUPLICATE = 1
    """The same message again."""
    EARLIER_COPY = 2
    """The same message, at a smaller position than any seen before it."""
    CONFLICT = 3
    """The same message id with other content."""


class _Listed(msgspec.Struct, array_like=True, frozen=True):
    """What the state says of the index. Rows of micro-batches up to `spilled` are in the runs."""

    format: int
    spilled: int
    runs: list[RunFile]
    logs: list[bytes]
    """Region code and log id of each log that rows name by its number here."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts on arrivals, in their order, and the rows that are to be remembered."""

    verdicts: npt.NDArray[np.int8]
    rows: Words


@dataclass(slots=True)
class _Job:
    """A run file in the making, from runs or from the sealed table."""

    steps: Generator[int, None, RunFile]
    inputs: list[Run]
    left: int
    made: RunFile | None = None


@dataclass(slots=True)
class DedupIndex:
    """The index of one workspace. `judge` asks, `add` remembers, both inside a micro-batch; `sweep`
    is called when its transaction is committed. Not thread-safe."""

    directory: Path
    workspace: str
    _runs: list[Run] = field(default_factory=list)
    _memory: SeenTable = field(default_factory=SeenTable)
    _sealed: SeenTable | None = None
    """Rows of committed micro-batches up to `_sealed_through`, being written as a run."""
    _sealed_through: int = 0
    _spilled: int = 0
    _added: int = 0
    """The micro-batch whose rows were remembered last."""
    _work_due: int = 0
    _logs: dict[bytes, int] = field(default_factory=dict)
    _ranks: Numbers = field(default_factory=lambda: read_only(np.zeros(0), np.uint64))
    _logs_listed: int = 0
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _replaced: list[str] = field(default_factory=list)
    _seen_stale: bool = False
    _format: int = FORMAT

    @classmethod
    def load(cls, tx: Tx, workspace: str, directory: Path, *, keep_files: bool = False) -> "DedupIndex":
        """Open the index as of the last committed micro-batch; sweep run files it does not list.

        With `keep_files` nothing on the disk is touched: for whoever only asks.

        Raises:
            Corrupt: a run file is missing or damaged, or of a newer format.
        """
        index = cls(directory, workspace)
        value = tx.meta(workspace, _META)
        seen = [(int.from_bytes(key, "big"), rows) for key, rows in tx.items(workspace, Db.SEEN)]
        listed = _Listed(FORMAT, 0, [], []) if value is None else _decode(value, directory)
        if not keep_files:
            directory.mkdir(parents=True, exist_ok=True)
            index._keep({file.name for file in listed.runs})
        index._runs = [Run(directory, file) for file in listed.runs]
        index._spilled, index._format = listed.spilled, listed.format
        index._number(listed.logs)
        index._logs_listed = len(index._logs)
        kept = [rows for sequence, rows in seen if sequence > listed.spilled]
        index._seen_stale = len(kept) < len(seen)
        index._memory.add(np.frombuffer(b"".join(kept), dtype=np.uint64).reshape(-1, ROW_WORDS))
        index._added = seen[-1][0] if seen else listed.spilled
        return index

    def key(self, identifier_key: bytes) -> bytes:
        """Return the key under which ids and contents are hashed here, made from the workspace's."""
        if self._format == _FORMAT_OF_IDENTIFIER_KEY:
            return identifier_key
        return message_key(identifier_key)

    def judge(self, entries: Entries) -> Judged:
        """Return a verdict for each entry, as if each were remembered before the next is judged.

        So it does not matter how arrivals are cut into batches. Nothing is remembered yet.

        Raises:
            Corrupt: a page of a run file that had to be read is damaged.
        """
        rows = self._rows_of(entries)
        count = len(rows)
        verdicts = np.zeros(count, dtype=np.int8)
        fresh = np.empty((count, ROW_WORDS), dtype=np.uint64)
        if not count:
            return Judged(verdicts, fresh)
        order = sorted_runs.sorted_by_hash(rows)
        keys = rows[order]
        heads = np.empty(count, dtype=np.int64)
        heads = heads[: seen_table.heads_of(keys, heads)]
        hits = np.empty(heads.size, dtype=np.int64)
        newest = np.empty(count, dtype=np.int64)
        room = count
        while True:
            found = np.empty((room, 3), dtype=np.uint64)
            links = np.empty(room, dtype=np.int64)
            newest.fill(-1)
            held = 0
            for table in (self._memory, self._sealed):
                if table is not None and table.size:
                    held = table.find(keys, heads, found, links, newest, held)
            for run in self._runs:
                held = run.find(keys, heads, hits, found, links, newest, held)
            if held <= room:
                break
            room = held
        remembered = seen_table.judge(
            keys,
            order,
            heads,
            found,
            links,
            newest,
            np.zeros(held, dtype=np.uint8),
            self._ranks,
            verdicts,
            fresh,
        )
        return Judged(verdicts, fresh[:remembered])

    def add(self, tx: Tx, sequence: int, judged: Judged) -> None:
        """Remember what was judged, durable with the transaction; list the run files made meanwhile.

        Raises:
            Unavailable: memory is full and the disk takes no run file.
        """
        if self._memory.size >= MEMORY_ROWS_MAX and self._sealed is not None:
            self._finish_spill(self._sealed)
        self._swap(tx)
        if len(judged.rows):
            tx.put(self.workspace, Db.SEEN, sequence.to_bytes(8, "big"), judged.rows.tobytes())
            self._memory.add(judged.rows)
            self._work_due += WORK_PER_ROW * len(judged.rows)
            self._added = sequence
        if self._seen_stale:
            self._forget_spilled(tx)

    def sweep(self) -> None:
        """Remove files that no transaction lists any more, and do a slice of work on new ones.

        Called after the transaction. A disk that takes no run file stops nobody here: the work is
        begun again after the next micro-batch.

        Raises:
            Corrupt: a page of a run that is merged is damaged.
        """
        for name in self._replaced:
            (self.directory / name).unlink(missing_ok=True)
        if self._replaced:
            reach("dedup.swept")
        self._replaced = []
        if self._work_due:
            self._begin()
            for level in sorted(self._jobs):
                self._go_on(level)
            if all(job.made is not None for job in self._jobs.values()):
                self._work_due = 0

    def rows(self) -> int:
        """Return how many rows the index holds: message ids, and earlier copies of some."""
        sealed = 0 if self._sealed is None else self._sealed.size
        return self._memory.size + sealed + sum(run.file.rows for run in self._runs)

    def runs(self) -> int:
        """Return how many run files are searched."""
        return len(self._runs)

    def memory_bytes(self) -> int:
        """Return how much memory the index takes; mapped pages of run files come and go beside it."""
        tables = [self._memory] if self._sealed is None else [self._memory, self._sealed]
        return sum(table.bytes() for table in tables) + sum(run.bytes() for run in self._runs)

    def rebuild(self, tx: Tx, batches: Iterable[Entries], label: str) -> None:
        """Hold exactly the entries of these batches, in any order; they are gone through once.

        Used when the state is made again from the lake. Give the accepted events and the earlier
        copies, hashed under `message_key`. Memory is bounded as it is otherwise; `label` tells the files from those of before.
        """
        self._begin_anew(tx)
        self._write_all((self._rows_of(entries) for entries in batches), label)
        self._list(tx)

    def take_over(
        self, tx: Tx, label: str, logs: Sequence[bytes], bounds: Bounds, parts: Iterable[Packed]
    ) -> None:
        """Hold exactly the rows that were packed elsewhere, part by part in the order of their hashes.

        `logs` are those that rows name by their number, `label` tells the file from those of before. One
        part is in memory at a time.

        Raises:
            Corrupt: the parts hold other rows than `bounds` says.
        """
        self._begin_anew(tx)
        self._number(logs)
        if bounds.rows:
            level = 0
            while MEMORY_ROWS_MAX * FAN_IN ** (level + 1) <= bounds.rows:
                level += 1
            made = put_together(self.directory, _name(f"{label}-000000", level), level, bounds, parts)
            self._runs.append(Run(self.directory, made))
        self._list(tx)

    def _begin_anew(self, tx: Tx) -> None:
        tx.clear(self.workspace, Db.SEEN)
        self._jobs, self._replaced = {}, []
        self._memory, self._sealed, self._runs = SeenTable(), None, []
        self._logs, self._spilled, self._seen_stale = {}, 0, False
        self._format = FORMAT

    # ---- rows and logs -------------------------------------------------------------------------

    def _rows_of(self, entries: Entries) -> Words:
        _, _, keys = _turns(entries)
        self._number(keys)
        return rows_of(entries, self._logs)

    def _number(self, keys: Iterable[bytes]) -> None:
        """Number logs that have no number yet; `_ranks` orders numbers as positions do."""
        before = len(self._logs)
        for key in keys:
            self._logs.setdefault(key, len(self._logs))
        if len(self._logs) > before:
            ranks = np.empty(len(self._logs), dtype=np.uint64)
            for rank, key in enumerate(sorted(self._logs)):
                ranks[self._logs[key]] = rank
            self._ranks = read_only(ranks, np.uint64)

    # ---- new run files -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin what is due. All rows in memory are committed now, so a file may hold them."""
        if self._sealed is None and self._memory.size >= MEMORY_ROWS_MAX:
            self._sealed, self._sealed_through = self._memory, self._added
            self._memory = SeenTable()
        if self._sealed is not None and _SPILL not in self._jobs:
            self._jobs[_SPILL] = self._spill(self._sealed)
        levels = [run.file.level for run in self._runs]
        for level in set(levels):
            if level not in self._jobs and levels.count(level) >= FAN_IN:
                self._jobs[level] = self._merge(level)

    def _spill(self, sealed: SeenTable) -> _Job:
        name = _name(f"{self._sealed_through:012d}", 0)
        return _Job(writing(self.directory, name, 0, sealed.rows()), [], sealed.size)

    def _merge(self, level: int) -> _Job:
        inputs = [run for run in self._runs if run.file.level == level][:FAN_IN]
        name = _name(_label(inputs[-1].file.name), level + 1)
        steps = merging(self.directory, name, level + 1, inputs)
        return _Job(steps, inputs, sum(run.file.rows for run in inputs))

    def _go_on(self, level: int) -> None:
        job = self._jobs[level]
        try:
            while job.made is None and self._work_due >= min(job.left, STEP_ROWS):
                self._step(job)
        except OSError as error:
            # Nothing is lost: the rows are where they were, and the file is not listed.
            _log.warning("writing a de-duplication run in %s, will try again: %s", self.directory, error)
            del self._jobs[level]

    def _step(self, job: _Job) -> None:
        try:
            done = next(job.steps)
            job.left -= done
            self._work_due -= done
        except StopIteration as end:
            job.made = end.value
            reach("dedup.merged" if job.inputs else "dedup.spilled")

    def _finish_spill(self, sealed: SeenTable) -> None:
        job = self._jobs.setdefault(_SPILL, self._spill(sealed))
        try:
            while job.made is None:
                self._step(job)
        except OSError as error:
            del self._jobs[_SPILL]
            raise Unavailable(
                f"remembering message ids: {self._memory.size} are in memory and no run file can be written "
                f"in {self.directory}: {error}; free space, it goes on by itself"
            ) from error

    def _swap(self, tx: Tx) -> None:
        """Put finished files in the place of what they were made from."""
        finished = {level: job for level, job in self._jobs.items() if job.made is not None}
        for level, job in finished.items():
            del self._jobs[level]
            made = Run(self.directory, job.made)  # type: ignore[arg-type]
            if job.inputs:
                place = self._runs.index(job.inputs[0])
                self._runs[place] = made
                self._runs = [run for run in self._runs if run not in job.inputs]
                self._replaced += [run.file.name for run in job.inputs]
            else:
                self._runs.append(made)
                self._spilled, self._sealed, self._seen_stale = self._sealed_through, None, True
        if finished or len(self._logs) > self._logs_listed:
            self._list(tx)
        if finished:
            reach("dedup.listed")

    def _list(self, tx: Tx) -> None:
        files = [run.file for run in self._runs]
        tx.put_meta(self.workspace, _META, _Listed(self._format, self._spilled, files, list(self._logs)))
        self._logs_listed = len(self._logs)

    def _forget_spilled(self, tx: Tx) -> None:
        """Remove from the state some of what a listed run file holds; the rest is left to later calls."""
        gone: list[bytes] = []
        for key, _ in tx.items(self.workspace, Db.SEEN):
            if int.from_bytes(key, "big") > self._spilled or len(gone) == SEEN_DELETES_MAX:
                break
            gone.append(key)
        for key in gone:
            tx.delete(self.workspace, Db.SEEN, key)
        self._seen_stale = len(gone) == SEEN_DELETES_MAX

    def _write_all(self, batches: Iterable[Words], label: str) -> None:
        """Write rows as runs, merged as far as they would be otherwise. Nobody lists them yet."""
        number = 0
        for rows in batches:
            self._memory.add(rows)
            if self._memory.size >= MEMORY_ROWS_MAX:
                self._write_memory(f"{label}-{number:06d}")
                number += 1
        if self._memory.size:
            self._write_memory(f"{label}-{number:06d}")

    def _write_memory(self, label: str) -> None:
        steps = writing(self.directory, _name(label, 0), 0, self._memory.rows())
        self._runs.append(Run(self.directory, run_through(steps)))
        self._memory = SeenTable()
        level = 0
        while sum(run.file.level == level for run in self._runs) >= FAN_IN:
            job = self._merge(level)
            made = run_through(job.steps)
            for run in job.inputs:
                (self.directory / run.file.name).unlink()
            self._runs = [run for run in self._runs if run not in job.inputs]
            self._runs.append(Run(self.directory, made))
            level += 1

    def _keep(self, names: set[str]) -> None:
        """Remove run files of other names: from micro-batches that failed, or replaced ones."""
        for path in self.directory.glob(f"*{_SUFFIX}*"):
            if path.name not in names:
                path.unlink()


def rows_of(entries: Entries, numbers: Mapping[bytes, int]) -> Words:
    """Return entries as rows, which name logs (region code and id) by these numbers."""
    rows = np.empty((entries.size, ROW_WORDS), dtype=np.uint64)
    if not entries.size:
        return rows
    turns, which, keys = _turns(entries)
    named = np.array([numbers[key] for key in keys], dtype=np.uint64)[which]
    lengths = np.diff(turns, append=entries.size)
    rows[:, 0], rows[:, 1] = entries["first"], entries["second"]
    rows[:, 2] = entries["received_at"].astype(np.uint64)
    rows[:, 3] = np.repeat(named << np.uint64(32), lengths) | entries["index"]
    rows[:, 4] = entries["digest"]
    return rows


def _turns(entries: Entries) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], list[bytes]]:
    """Return where entries of another log than the one before begin, and the log of each of these places.

    That is a place in the last, the region code and id of each log: few, where entries of several logs lie mixed.
    """
    if not entries.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int32), []
    region, log = entries["region"], entries["log"]
    turns = np.flatnonzero((log[1:] != log[:-1]) | (region[1:] != region[:-1])) + 1
    turns = np.concatenate(([0], turns))
    logs, regions = (pa.array(column[turns]).dictionary_encode() for column in (log, region))
    ids, codes = logs.dictionary.to_pylist(), regions.dictionary.to_pylist()
    pairs = logs.indices.to_numpy().astype(np.int64) * len(codes) + regions.indices.to_numpy()
    distinct = pa.array(pairs).dictionary_encode()
    keys = [
        codes[pair % len(codes)].to_bytes(4, "big") + ids[pair // len(codes)].to_bytes(8, "big")
        for pair in distinct.dictionary.to_pylist()
    ]
    return turns, distinct.indices.to_numpy(), keys


def message_key(identifier_key: bytes) -> bytes:
    """Return the key under which message ids are hashed. Nobody comes from it to the key of identifiers.

    So tasks on other machines may have it.
    """
    return hashlib.blake2b(identifier_key, digest_size=_MESSAGE_KEY_BYTES, person=b"message ids").digest()


def run_names(tx: Tx, workspace: str) -> list[str]:
    """Return the names of the run files that the index consists of, beside what stands in the state.

    Raises:
        Corrupt: the index is of a newer format.
    """
    value = tx.meta(workspace, _META)
    return [] if value is None else [file.name for file in _decode(value, Path(workspace)).runs]


def _decode(value: bytes, directory: Path) -> _Listed:
    form = msgspec.msgpack.decode(value)[0]
    if form not in (_FORMAT_OF_IDENTIFIER_KEY, FORMAT):
        raise Corrupt(
            f"opening the de-duplication index in {directory}: format {form}, this program reads {FORMAT}; "
            "use the program that wrote it, or run: profilelake rebuild"
        )
    return msgspec.msgpack.decode(value, type=_Listed)


def _name(label: str, level: int) -> str:
    return f"{level}-{label}{_SUFFIX}"


def _label(name: str) -> str:
    return name.removesuffix(_SUFFIX).partition("-")[2]


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no micro-batch waits for it."""
    sorted_runs.warm()
    seen_table.warm()
