"""Exact de-duplication by message id, over the whole history.

The index holds, for every accepted event, a keyed 128-bit hash of its message id, its position and
a digest of its content. New entries stand in the state (in the same transaction as the events they
belong to) until there are enough for a sorted run file; run files are merged by size and listed in
the state, so the index can never be ahead of or behind the events.
"""

import os
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from profilelake.errors import Corrupt
from profilelake.kernels import sorted_runs
from profilelake.ops.failpoints import reach
from profilelake.state.store import Db, Tx

MEMORY_ROWS_MAX: Final = 262_144
"""Entries kept in the state before they become a run file."""
FAN_IN: Final = 8
"""Run files of about one size that become one."""
_META: Final = "dedup"
_MAGIC: Final = b"PLDEDUP1"

ENTRY: Final = np.dtype(
    [
        ("first", "<u8"),
        ("second", "<u8"),
        ("received_at", "<i8"),
        ("digest", "<u8"),
        ("log", "<u4"),
        ("index", "<u4"),
    ]
)
"""`log` numbers the log in the state's registry. With `received_at`, which is unique per record in
a log, and the index inside the record it names the position exactly."""

Entries = npt.NDArray[np.void]


class Verdict(IntEnum):
    """What an arriving event is."""

    ACCEPTED = 0
    DUPLICATE = 1
    """The same message again."""
    EARLIER_COPY = 2
    """The same message, at a smaller position than the one that landed."""
    CONFLICT = 3
    """The same message id with other content."""


class RunFile(msgspec.Struct, array_like=True, frozen=True):
    """One sorted run on disk."""

    name: str
    rows: int


@dataclass(slots=True)
class _Run:
    entries: Entries
    first: sorted_runs.Words
    second: sorted_runs.Words
    bloom: sorted_runs.Words
    file: RunFile | None = None


def _run(entries: Entries, file: RunFile | None = None) -> _Run:
    # Copies in any case: the words of a single entry are contiguous where they lie, in a read-only file.
    first, second = np.array(entries["first"]), np.array(entries["second"])
    return _Run(entries, first, second, sorted_runs.bloom_of(first), file)


def _sorted(entries: Entries) -> Entries:
    return entries[np.lexsort((entries["second"], entries["first"]))]


@dataclass(slots=True)
class DedupIndex:
    """The index of one workspace. `judge` asks, `add` remembers, both inside a micro-batch."""

    directory: Path
    workspace: str
    _memory: list[_Run] = field(default_factory=list)
    _files: list[_Run] = field(default_factory=list)
    _memory_rows: int = 0
    _replaced: bool = False

    @classmethod
    def load(cls, tx: Tx, workspace: str, directory: Path) -> "DedupIndex":
        """Read the index as of the last committed micro-batch; sweep run files it does not list."""
        directory.mkdir(parents=True, exist_ok=True)
        index = cls(directory, workspace)
        manifest = tx.meta(workspace, _META)
        files = [] if manifest is None else msgspec.msgpack.decode(manifest, type=list[RunFile])
        index._files = [_run(_read(directory, file), file) for file in files]
        for _, value in tx.items(workspace, Db.SEEN):
            index._remember(np.frombuffer(value, dtype=ENTRY))
        listed = {file.name for file in files}
        for path in directory.glob("*.run"):
            if path.name not in listed:
                path.unlink()
        return index

    def judge(self, entries: Entries) -> npt.NDArray[np.int8]:
        """Return a `Verdict` for each entry; entries are in position order.

        Within the entries, the first of equal ids is the one the others are compared with.
        """
        count = entries.size
        verdicts = np.zeros(count, dtype=np.int8)
        first = np.ascontiguousarray(entries["first"])
        second = np.ascontiguousarray(entries["second"])
        known = np.zeros(count, dtype=bool)
        landed = np.zeros(count, dtype=ENTRY)
        for run in (*self._memory, *self._files):
            rows = sorted_runs.probe(run.bloom, run.first, run.second, first, second)
            hits = np.flatnonzero((rows >= 0) & ~known)
            landed[hits] = run.entries[rows[hits]]
            known[hits] = True
        order = np.lexsort((second, first))
        same = np.zeros(count, dtype=bool)
        same[1:] = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
        if same.any():
            # Stable sort: the head of each group is its first arrival.
            head = order[np.maximum.accumulate(np.where(same, 0, np.arange(count)))]
            repeats = order[same]
            heads = head[same]
            fresh = ~known[repeats]
            landed[repeats[fresh]] = entries[heads[fresh]]
            known[repeats] = True
        rows = np.flatnonzero(known)
        if rows.size:
            here, there = entries[rows], landed[rows]
            earlier = (here["received_at"] < there["received_at"]) | (
                (here["received_at"] == there["received_at"])
                & (
                    (here["log"] < there["log"])
                    | ((here["log"] == there["log"]) & (here["index"] < there["index"]))
                )
            )
            verdicts[rows] = np.where(
                here["digest"] != there["digest"],
                np.int8(Verdict.CONFLICT),
                np.where(earlier, np.int8(Verdict.EARLIER_COPY), np.int8(Verdict.DUPLICATE)),
            )
        return verdicts

    def add(self, tx: Tx, sequence: int, entries: Entries) -> None:
        """Remember accepted entries; durable with the transaction."""
        if entries.size == 0:
            return
        tx.put(self.workspace, Db.SEEN, sequence.to_bytes(8, "big"), entries.tobytes())
        self._remember(entries)
        if self._memory_rows >= MEMORY_ROWS_MAX:
            self._spill(tx, sequence)

    def rows(self) -> int:
        """Return how many message ids the index holds."""
        return self._memory_rows + sum(run.entries.size for run in self._files)

    def rebuild(self, tx: Tx, entries: Entries, label: str) -> None:
        """Hold exactly these entries; used when the state is made again from the lake."""
        tx.clear(self.workspace, Db.SEEN)
        self._memory, self._memory_rows = [], 0
        self._files = [self._write(_sorted(entries), label)] if entries.size else []
        self._list(tx)

    def _remember(self, entries: Entries) -> None:
        self._memory_rows += entries.size
        new = _sorted(entries)
        # Like a binary counter: equal-sized runs join, so there are at most log2(rows) of them.
        while self._memory and self._memory[-1].entries.size <= 2 * new.size:
            new = _sorted(np.concatenate((self._memory.pop().entries, new)))
        self._memory.append(_run(new))

    def _spill(self, tx: Tx, sequence: int) -> None:
        entries = _sorted(np.concatenate([run.entries for run in self._memory]))
        self._files.append(self._write(entries, f"{sequence:012d}"))
        while len(self._files) >= FAN_IN:
            tail = self._files[-FAN_IN:]
            if tail[0].entries.size > 2 * FAN_IN * tail[-1].entries.size:
                break
            joined = _sorted(np.concatenate([run.entries for run in tail]))
            self._files[-FAN_IN:] = [self._write(joined, f"{sequence:012d}-{len(self._files)}")]
            self._replaced = True
        reach("dedup.spilled")
        tx.clear(self.workspace, Db.SEEN)
        self._memory, self._memory_rows = [], 0
        self._list(tx)

    def _list(self, tx: Tx) -> None:
        tx.put_meta(self.workspace, _META, [run.file for run in self._files])

    def sweep(self) -> None:
        """Remove run files that were merged into others; call it after the transaction."""
        if not self._replaced:
            return
        self._replaced = False
        listed = {run.file.name for run in self._files if run.file is not None}
        for path in self.directory.glob("*.run"):
            if path.name not in listed:
                path.unlink()

    def _write(self, entries: Entries, label: str) -> _Run:
        name = f"{label}-{entries.size}.run"
        path = self.directory / name
        body = entries.tobytes()
        with path.open("wb") as sink:
            sink.write(_MAGIC + entries.size.to_bytes(8, "little") + zlib.crc32(body).to_bytes(8, "little"))
            sink.write(body)
            sink.flush()
            os.fdatasync(sink.fileno())
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        file = RunFile(name, entries.size)
        return _run(_read(self.directory, file), file)


def _read(directory: Path, file: RunFile) -> Entries:
    path = directory / file.name
    try:
        with path.open("rb") as source:
            head = source.read(24)
        entries: Entries = np.memmap(path, dtype=ENTRY, mode="r", offset=24)
    except (OSError, ValueError) as error:
        raise Corrupt(f"reading de-duplication run {path}: {error}; run: profilelake rebuild") from error
    if head[:8] != _MAGIC or int.from_bytes(head[8:16], "little") != entries.size != file.rows:
        raise Corrupt(f"reading de-duplication run {path}: not {file.rows} entries; run: profilelake rebuild")
    if zlib.crc32(entries.tobytes()) != int.from_bytes(head[16:24], "little"):
        raise Corrupt(f"reading de-duplication run {path}: checksum differs; run: profilelake rebuild")
    return entries
