"""Run files of the de-duplication index: how they are written, merged and searched.

A file is a sequence of 4-KiB pages (`kernels.sorted_runs`): one of facts about the run, its filter,
its rows, and at the end the fences (the first hash word of each page of rows). It is written from one
end to the other with bounded memory, is durable before anybody lists it, and never changes. Only the
fences are kept on the heap; filter and rows are mapped, and a page is checked when it is read.
"""

import ctypes
import itertools
import mmap
import os
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np

from profilelake.errors import Corrupt
from profilelake.kernels import sorted_runs
from profilelake.kernels._compiled import read_only
from profilelake.kernels.sorted_runs import PAGE_BYTES, PAGE_WORDS, ROW_WORDS, ROWS_PER_PAGE, Longs, Words

STEP_ROWS: Final = 65_536
"""Rows written by one step of work on a run file; a few milliseconds."""
WRITEBACK_BYTES: Final = 8 << 20
"""Bytes after which the disk is set to work on a file in the making, so that the sync that makes it
durable does not find all of it still to be written."""
READ_PAGES: Final = 64
"""Pages of rows read at once of each run that is merged."""
READ_AHEAD_BYTES: Final = 128 << 10
_WINDOW_PAGES: Final = 64
_MAGIC: Final = int.from_bytes(b"PLDEDUP2", "little")
_FACTS: Final = 11
_LAYOUT_WORDS: Final = 7
_parts: Final = itertools.count()


class RunFile(msgspec.Struct, array_like=True, frozen=True):
    """One run on disk. `seal` is the checksum of its first page, which covers those of all other pages:
    no other file can stand for it."""

    name: str
    level: int
    rows: int
    seal: int


class Bounds(msgspec.Struct, array_like=True, frozen=True):
    """How many rows a run has and how far their fields reach."""

    rows: int
    time_min: int
    time_max: int
    log_max: int
    index_max: int

    @classmethod
    def of(cls, rows: Words) -> "Bounds":
        """Return the bounds of rows; there must be some."""
        time, place = rows[:, 2], rows[:, 3]
        return cls(
            len(rows),
            int(time.min()),
            int(time.max()),
            int(place.max()) >> 32,
            int((place & np.uint64(0xFFFFFFFF)).max()),
        )

    def layout(self) -> Longs:
        """Return how rows within these bounds are packed."""
        return sorted_runs.layout_of(
            self.rows,
            time_min=self.time_min,
            time_max=self.time_max,
            log_max=self.log_max,
            index_max=self.index_max,
        )


def damage(path: Path, what: str) -> Corrupt:
    """Return the error that says which run file is damaged and what to do."""
    return Corrupt(f"reading de-duplication run {path}: {what}; run: profilelake rebuild")


class Run:
    """An open run file. Searching touches a few pages; all others stay on the disk."""

    __slots__ = ("_buckets", "_facts", "_layout", "_pages", "_path", "_trusted", "fences", "file")

    def __init__(self, directory: Path, file: RunFile) -> None:
        """Open a listed file: its first page and its fences are read and checked, the rest is mapped.

        Raises:
            Corrupt: the file is missing, is not the listed one, or one of these pages is damaged.
        """
        self.file = file
        self._path = directory / file.name
        try:
            with self._path.open("rb", buffering=0) as source:
                size = os.fstat(source.fileno()).st_size
                first = _read(source.fileno(), 0, 1)
                self._facts = first[1 : 1 + _FACTS].tolist() if first.size else []
                if first.size != PAGE_WORDS or self._facts[0] != _MAGIC:
                    raise damage(self._path, "not a run file of this format")
                if sorted_runs.damaged(first, 1, 0) >= 0:
                    raise damage(self._path, "the checksum of its first page differs")
                if int(first[0]) != file.seal or self._facts[1] != file.rows:
                    raise damage(self._path, f"another file than the one of {file.rows} entries listed")
                if size != PAGE_BYTES * (1 + self.filter_pages + self.data_pages + self.fence_pages):
                    raise damage(self._path, f"it has {size} bytes, which is not what its first page says")
                fences = _read(source.fileno(), self.data_from + self.data_pages, self.fence_pages)
                if sorted_runs.damaged(fences, self.fence_pages, self.data_from + self.data_pages) >= 0:
                    raise damage(self._path, "the checksum of its fences differs")
                mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise damage(self._path, str(error)) from error
        # Rows are read one page here, one there; the filter is read by every micro-batch, so it is asked
        # for now (in pieces: of a larger one the system reads the beginning only) and not waited for.
        rows_at = PAGE_BYTES * self.data_from
        mapped.madvise(mmap.MADV_RANDOM, rows_at, size - rows_at)
        for at in range(PAGE_BYTES, rows_at, READ_AHEAD_BYTES):
            mapped.madvise(mmap.MADV_WILLNEED, at, min(READ_AHEAD_BYTES, rows_at - at))
        self._pages = read_only(np.frombuffer(mapped, dtype=np.uint64), np.uint64)
        self.fences = read_only(
            fences.reshape(-1, PAGE_WORDS)[:, 1:].reshape(-1)[: self.data_pages].copy(), np.uint64
        )
        self._layout = read_only(first[1 + _FACTS : 1 + _FACTS + _LAYOUT_WORDS].astype(np.int64), np.int64)
        self._buckets = self._facts[2]
        self._trusted = np.zeros(self.filter_pages, dtype=np.uint8)

    @property
    def filter_pages(self) -> int:
        """Return how many pages the filter takes."""
        return int(self._facts[3])

    @property
    def data_from(self) -> int:
        """Return the page where the rows begin."""
        return 1 + self.filter_pages

    @property
    def data_pages(self) -> int:
        """Return how many pages the rows take."""
        return int(self._facts[4])

    @property
    def fence_pages(self) -> int:
        """Return how many pages the fences take."""
        return int(self._facts[5])

    @property
    def bounds(self) -> Bounds:
        """Return how many rows there are and how far their fields reach."""
        return Bounds(self.file.rows, *self._facts[6:10])

    def bytes(self) -> int:
        """Return how much memory is taken beside the mapped pages."""
        return self.fences.nbytes + self._trusted.nbytes

    def find(
        self,
        keys: Words,
        heads: Longs,
        hits: Longs,
        found: Words,
        links: Longs,
        newest: Longs,
        held: int,
    ) -> int:
        """Append what the run knows of the sorted `keys[heads]`, as `sorted_runs.find` says.

        Raises:
            Corrupt: a page that had to be read is damaged.
        """
        count = sorted_runs.filter_hits(self._pages, 1, self._buckets, self._trusted, keys, heads, hits)
        if count > 0:
            count = held = sorted_runs.find(
                self._pages,
                self.data_from,
                self.fences,
                self._layout,
                keys,
                hits,
                count,
                found,
                links,
                newest,
                held,
            )
        if count < 0:
            raise damage(self._path, f"the checksum of page {-1 - count} differs")
        return held

    def pages(self) -> "_Pages":
        """Return a reader of all rows, from the first to the last, which leaves the map alone."""
        return _Pages(self._path, self.data_from, self.data_pages, self._layout)


class _Pages:
    """Reads the rows of a run in order."""

    def __init__(self, path: Path, start: int, count: int, layout: Longs) -> None:
        self._path, self._next, self._end, self._layout = path, start, start + count, layout
        self.rows_max = READ_PAGES * int(layout[ROWS_PER_PAGE])
        self._source = path.open("rb", buffering=0)
        os.posix_fadvise(self._source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, rows: Words) -> int:
        """Fill `rows` from its beginning with the next rows; return how many, 0 at the end."""
        count = min(READ_PAGES, self._end - self._next)
        if count == 0:
            return 0
        pages = _read(self._source.fileno(), self._next, count)
        if pages.size != count * PAGE_WORDS:
            raise damage(self._path, f"it ends before page {self._end}")
        filled: int = sorted_runs.unpack(pages, count, self._next, self._layout, rows)
        if filled < 0:
            raise damage(self._path, f"the checksum of page {self._next - 1 - filled} differs")
        self._next += count
        return filled

    def close(self) -> None:
        self._source.close()


def _read(descriptor: int, page: int, count: int) -> Words:
    return read_only(
        np.frombuffer(os.pread(descriptor, count * PAGE_BYTES, page * PAGE_BYTES), dtype=np.uint64), np.uint64
    )


class _RunWriter:
    """Writes sorted rows as a run file. What is not finished is removed."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path, self._bounds = path, bounds
        self._layout = read_only(bounds.layout(), np.int64)
        self._buckets, self._filter_pages = sorted_runs.filter_pages(bounds.rows)
        self._window = np.zeros(PAGE_WORDS * min(_WINDOW_PAGES, self._filter_pages), dtype=np.uint64)
        self._window_from = 0
        self._fences: list[Words] = []
        self._data_pages = 0
        self._rows = 0
        self._left = np.empty((0, ROW_WORDS), dtype=np.uint64)
        self._unsent = 0
        self._pages_sum = 0
        # Named by a number: an index that was given up after a failed transaction may remove what it
        # began only after another one has begun the same run.
        self._part = path.with_name(f"{path.name}.{next(_parts)}.part")
        self._sink = self._part.open("wb", buffering=0)
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.close()
        if not self._finished:
            self._part.unlink(missing_ok=True)

    def add(self, rows: Words) -> None:
        """Append rows, which come after those added before."""
        self._rows += len(rows)
        done = 0
        while True:
            done = sorted_runs.filter_add(
                rows, done, len(rows), self._buckets, self._window, self._window_from
            )
            if done == len(rows):
                break
            self._flush_filter()
        self._pack(np.concatenate((self._left, rows)) if len(self._left) else rows, last=False)

    def add_packed(self, part: "Packed") -> None:
        """Append rows that were packed elsewhere, as `Packed.of` does; they come after those added before."""
        self._rows += part.rows
        pages = part.filter.reshape(-1, PAGE_WORDS)
        window = self._window.reshape(-1, PAGE_WORDS)
        done = 0
        while done < len(pages):
            at = part.filter_from + done - self._window_from
            if at >= len(window):
                self._flush_filter()
                continue
            some = pages[done : done + len(window) - at]
            # The last page of a part is the first one of the next, where a part begins inside of it.
            window[at : at + len(some)] |= some
            done += len(some)
        self._fences.append(part.fences)
        self._write(part.pages, 1 + self._filter_pages + self._data_pages)
        self._data_pages += len(part.fences)

    def finish(self) -> int:
        """Write what is left; make file and name durable; return the checksum of the first page."""
        self._pack(self._left, last=True)
        while self._window_from < self._filter_pages:
            self._flush_filter()
        fences = np.concatenate(self._fences)
        fence_pages = -(-len(fences) // sorted_runs.FENCES_PER_PAGE)
        padded = np.zeros((fence_pages, PAGE_WORDS), dtype=np.uint64)
        for page in range(fence_pages):
            part = fences[page * sorted_runs.FENCES_PER_PAGE :][: sorted_runs.FENCES_PER_PAGE]
            padded[page, 1 : 1 + len(part)] = part
        self._write(padded.reshape(-1), 1 + self._filter_pages + self._data_pages)
        bounds = self._bounds
        first = np.zeros(PAGE_WORDS, dtype=np.uint64)
        facts = [
            _MAGIC,
            self._rows,
            self._buckets,
            self._filter_pages,
            self._data_pages,
            fence_pages,
            bounds.time_min,
            bounds.time_max,
            bounds.log_max,
            bounds.index_max,
            self._pages_sum,
        ]
        first[1 : 1 + _FACTS] = facts
        first[1 + _FACTS : 1 + _FACTS + _LAYOUT_WORDS] = self._layout
        self._write(first, 0)
        os.fdatasync(self._sink.fileno())
        self._part.rename(self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._finished = True
        return int(first[0])

    def _pack(self, rows: Words, *, last: bool) -> None:
        per_page = int(self._layout[ROWS_PER_PAGE])
        while len(rows):
            pages = np.zeros(PAGE_WORDS * (len(rows) // per_page + 1), dtype=np.uint64)
            fences = np.empty(pages.size // PAGE_WORDS, dtype=np.uint64)
            taken, filled = sorted_runs.pack(rows, len(rows), last, self._layout, pages, fences, 0)
            if not filled:
                break
            self._fences.append(fences[:filled])
            self._write(pages[: filled * PAGE_WORDS], 1 + self._filter_pages + self._data_pages)
            self._data_pages += filled
            rows = rows[taken:]
        self._left = rows.copy()

    def _flush_filter(self) -> None:
        pages = min(self._window.size // PAGE_WORDS, self._filter_pages - self._window_from)
        self._write(self._window[: pages * PAGE_WORDS], 1 + self._window_from)
        self._window[:] = 0
        self._window_from += pages

    def _write(self, pages: Words, number: int) -> None:
        sorted_runs.seal(pages, pages.size // PAGE_WORDS, number)
        body, at = pages.data.cast("B"), number * PAGE_BYTES
        while body:
            written = os.pwrite(self._sink.fileno(), body, at)
            body, at = body[written:], at + written
        self._pages_sum = zlib.crc32(pages[::PAGE_WORDS].tobytes(), self._pages_sum)
        self._unsent += pages.nbytes
        if self._unsent >= WRITEBACK_BYTES:
            _start_writeback(self._sink.fileno())
            self._unsent = 0


_sync_file_range: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE: Final = 2


def _start_writeback(descriptor: int) -> None:
    """Have dirty pages of a file written without waiting for it, where the system can do that.

    What goes wrong with them is reported by the sync at the end.
    """
    if _sync_file_range is not None:
        _sync_file_range(
            descriptor, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )


def writing(directory: Path, name: str, level: int, rows: Words) -> Generator[int, None, RunFile]:
    """Sort rows and write them as a run, step by step; yields how many rows each step wrote."""
    order = sorted_runs.sorted_by_hash(rows)
    with _RunWriter(directory / name, Bounds.of(rows)) as writer:
        for start in range(0, len(order), STEP_ROWS):
            part = rows[order[start : start + STEP_ROWS]]
            writer.add(part)
            yield len(part)
        return RunFile(name, level, len(rows), writer.finish())


def merging(directory: Path, name: str, level: int, runs: Sequence[Run]) -> Generator[int, None, RunFile]:
    """Write the rows of several runs as one, step by step; yields how many rows each step wrote.

    Raises:
        Corrupt: a page of a run is damaged.
    """
    sources = [run.pages() for run in runs]
    try:
        every = [run.bounds for run in runs]
        bounds = Bounds(
            sum(one.rows for one in every),
            min(one.time_min for one in every),
            max(one.time_max for one in every),
            max(one.log_max for one in every),
            max(one.index_max for one in every),
        )
        rows_max = max(source.rows_max for source in sources)
        rows = np.empty((len(sources), rows_max, ROW_WORDS), dtype=np.uint64)
        heads, ends = np.zeros(len(sources), dtype=np.int64), np.zeros(len(sources), dtype=np.int64)
        finished = np.zeros(len(sources), dtype=np.uint8)
        out = np.empty((min(STEP_ROWS, bounds.rows), ROW_WORDS), dtype=np.uint64)
        with _RunWriter(directory / name, bounds) as writer:
            written = 0
            while written < bounds.rows:
                count = 0
                while count < len(out):
                    for number in np.flatnonzero((heads == ends) & (finished == 0)).tolist():
                        heads[number], ends[number] = 0, sources[number].read_into(rows[number])
                        finished[number] = ends[number] == 0
                    merged = sorted_runs.merge(rows, heads, ends, finished, out[count:])
                    count += merged
                    if finished.all():
                        break
                if not count:
                    raise damage(
                        directory / runs[0].file.name, "it has fewer entries than its first page says"
                    )
                writer.add(out[:count])
                written += count
                yield count
            return RunFile(name, level, bounds.rows, writer.finish())
    finally:
        for source in sources:
            source.close()


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of a stretch of hashes, packed as the run will hold them: only checksums of pages are missing."""

    rows: int
    pages: Words
    fences: Words
    filter: Words
    filter_from: int
    """The page of the filter with which `filter` begins."""

    @classmethod
    def of(cls, rows: Words, bounds: Bounds) -> Self:
        """Pack sorted rows, one at least, of a run with these bounds."""
        layout = read_only(bounds.layout(), np.int64)
        buckets, _ = sorted_runs.filter_pages(bounds.rows)
        first, last = (sorted_runs.filter_page(int(rows[at, 0]), buckets) for at in (0, -1))
        filter = np.zeros(PAGE_WORDS * (last - first + 1), dtype=np.uint64)
        sorted_runs.filter_add(rows, 0, len(rows), buckets, filter, first)
        pages, fences, left = [], [], rows
        while len(left):
            room = np.zeros(PAGE_WORDS * (len(left) // int(layout[ROWS_PER_PAGE]) + 1), dtype=np.uint64)
            begins = np.empty(room.size // PAGE_WORDS, dtype=np.uint64)
            taken, filled = sorted_runs.pack(left, len(left), True, layout, room, begins, 0)
            pages.append(room[: filled * PAGE_WORDS])
            fences.append(begins[:filled])
            left = left[taken:]
        return cls(len(rows), np.concatenate(pages), np.concatenate(fences), filter, first)


def put_together(directory: Path, name: str, level: int, bounds: Bounds, parts: Iterable[Packed]) -> RunFile:
    """Write packed parts, which come in the order of their hashes, as one run.

    Raises:
        Corrupt: they hold other rows than `bounds` says.
    """
    rows = 0
    with _RunWriter(directory / name, bounds) as writer:
        for part in parts:
            rows += part.rows
            writer.add_packed(part)
        if rows != bounds.rows:
            raise damage(directory / name, f"its parts hold {rows} entries, wanted are {bounds.rows}")
        return RunFile(name, level, rows, writer.finish())


def run_through(steps: Generator[int, None, RunFile]) -> RunFile:
    """Do all steps at once."""
    with closing(steps):
        while True:
            try:
                next(steps)
            except StopIteration as end:
                file: RunFile = end.value
                return file
