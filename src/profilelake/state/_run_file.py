"""One run file: an Arrow file of small compressed batches, and behind it the index of its keys.

    Arrow IPC file, then zeroes up to a multiple of 8 bytes
    index: high words of the distinct keys (sorted), their low words, the first row of each
    trailer: bytes of the Arrow part, number of distinct keys

The index lies in the page cache, not in memory of ours, and answers where a key's rows are without
decompressing anything: most runs hold nothing of a given person.
"""

import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Corrupt

BATCH_ROWS: Final = 1024
"""Rows per record batch: what one look-up has to decompress."""
KEY_BYTES: Final = 16

Words: TypeAlias = npt.NDArray[np.uint64]
"""Keys as two big-endian words each: `[n, 2]`."""

_TRAILER: Final = struct.Struct("<QQ")
_ENTRY_BYTES: Final = KEY_BYTES + 8
_WRITE_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def key_words(keys: Sequence[bytes]) -> Words:
    """Return keys as words that compare like their bytes."""
    return np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def column_words(keys: pa.ChunkedArray) -> Words:
    """Return a column of keys as words."""
    whole = keys.combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return (
        np.frombuffer(array.buffers()[1], dtype=">u8")
        .astype(np.uint64)
        .reshape(-1, 2)[array.offset : array.offset + len(array)]
    )


class RunWriter:
    """Writes one run file. Leaving the `with` block makes it durable; an error leaves a file nobody lists."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema, options=_WRITE_OPTIONS)
        self._left = schema.empty_table()
        self._keys: list[Words] = [key_words([])]
        self._starts: list[npt.NDArray[np.uint64]] = []
        self.rows = 0
        self.received_max = 0

    def add(self, rows: pa.Table) -> None:
        """Append rows sorted by `(key, position)`, keys greater than those before."""
        if not rows.num_rows:
            return
        words = column_words(rows.column("key"))
        first = np.ones(len(words), dtype=np.bool_)
        first[1:] = (words[1:] != words[:-1]).any(axis=1)
        self._keys.append(words[first])
        self._starts.append(np.flatnonzero(first).astype(np.uint64) + np.uint64(self.rows))
        self.rows += rows.num_rows
        self.received_max = max(
            self.received_max, pc.max(rows.column("received_at")).cast(pa.int64()).as_py()
        )
        waiting = pa.concat_tables([self._left, rows])
        whole = waiting.num_rows // BATCH_ROWS * BATCH_ROWS
        for start in range(0, whole, BATCH_ROWS):
            self._write(waiting.slice(start, BATCH_ROWS))
        self._left = waiting.slice(whole)

    def _write(self, rows: pa.Table) -> None:
        # Readers count on full batches: row n lies in batch n // BATCH_ROWS.
        self._writer.write_batch(rows.combine_chunks().to_batches()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._sink.close()
        if error is None:
            sync(self._path)
            sync(self._path.parent)

    def _finish(self) -> None:
        if self._left.num_rows:
            self._write(self._left)
        self._writer.close()
        arrow_bytes = self._sink.tell()
        self._sink.write(bytes(_padding(arrow_bytes)))
        keys = np.concatenate(self._keys)
        for column in (keys[:, 0], keys[:, 1], np.concatenate([*self._starts, np.empty(0, np.uint64)])):
            self._sink.write(column.astype("<u8").tobytes())
        self._sink.write(_TRAILER.pack(arrow_bytes, len(keys)))


class RunFile:
    """One run file, mapped. It stays readable after it was removed."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            size = source.size()
            source.seek(max(size - _TRAILER.size, 0))
            arrow_bytes, entries = _TRAILER.unpack(source.read().ljust(_TRAILER.size, b"\0"))
            if size != arrow_bytes + _padding(arrow_bytes) + entries * _ENTRY_BYTES + _TRAILER.size:
                raise Corrupt(
                    f"reading the run {path}: its index does not fit its {size} bytes; rebuild the state"
                )
            source.seek(0)
            self._arrow = source.read_buffer(arrow_bytes)
            source.seek(arrow_bytes + _padding(arrow_bytes))
            index = np.frombuffer(source.read_buffer(entries * _ENTRY_BYTES), dtype="<u8").reshape(3, entries)
        self._high, low, self._starts = index
        # For the few keys of one profile, numpy's calls would cost more than the search itself.
        self._high_words, self._low_words = self._high.data, low.data
        whole = self.reader()
        self.schema: pa.Schema = whole.schema
        self._batches = whole
        last = whole.num_record_batches - 1
        self._rows = 0 if last < 0 else last * BATCH_ROWS + self.reader(["key"]).get_batch(last).num_rows

    def reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchFileReader:
        """Return a reader of some columns, or of all."""
        if columns is None:
            return pa.ipc.open_file(pa.BufferReader(self._arrow))
        # For batches this small, handing columns to threads costs four times what reading them does.
        fields = sorted({self.schema.get_field_index(name) for name in columns})
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return pa.ipc.open_file(pa.BufferReader(self._arrow), options=options)

    def ranges(self, keys: Words) -> Iterator[tuple[int, int]]:
        """Yield the first row and the row after the last one of each key that is in the file."""
        highs, lows = self._high_words, self._low_words
        count = len(highs)
        for high, low in keys.tolist():
            place = bisect_left(highs, high)
            while place < count and highs[place] == high:
                if lows[place] == low:
                    yield self._start(place), self._start(place + 1)
                    break
                place += 1

    def between(self, low: int, high: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows whose key has its high word from `low` to before `high`."""
        first = self._start(self._place(low))
        last = self._start(self._place(high))
        reader = self._batches if columns is None else self.reader(columns)
        if first == last:
            return reader.schema.empty_table()
        number = first // BATCH_ROWS
        batches = [reader.get_batch(n) for n in range(number, (last - 1) // BATCH_ROWS + 1)]
        return pa.Table.from_batches(batches).slice(first - number * BATCH_ROWS, last - first)

    def _place(self, high: int) -> int:
        return len(self._high) if high >> 64 else int(np.searchsorted(self._high, np.uint64(high)))

    def _start(self, place: int) -> int:
        return int(self._starts[place]) if place < len(self._starts) else self._rows


def _padding(size: int) -> int:
    return -size % 8


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
