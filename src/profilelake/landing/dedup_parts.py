"""The de-duplication index of a whole history, made in parts that know nothing of each other.

First it is seen how far positions reach (`Reach`); then rows of a stretch of hashes are packed (`Packing`) as
they will lie in the one run of the index, and `DedupIndex.take_over` puts the parts one behind the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.errors import Corrupt
from profilelake.kernels import sorted_runs
from profilelake.kernels.sorted_runs import PAGE_WORDS, ROW_WORDS, Words
from profilelake.landing._dedup_runs import Bounds, Packed
from profilelake.landing.dedup import rows_of
from profilelake.landing.land import CONTENT_COLUMNS, dedup_entries, position_bytes

COLUMNS: Final = ("message_id", "position", *CONTENT_COLUMNS)
"""Columns of events that rows are made from."""
ROWS: Final = pa.schema(
    [(name, pa.uint64()) for name in ("first", "second", "time", "place")] + [("digest", pa.uint32())]
)
"""Rows as columns, while they are brought together."""
_HEAD_WORDS: Final = 4


class Reach(msgspec.Struct, frozen=True):
    """How many events there are and how far their positions reach."""

    rows: int = 0
    time_min: int = 0
    time_max: int = 0
    index_max: int = 0
    logs: list[bytes] = []
    """Region code and id of each log, in order."""
    last: bytes = b""
    """The greatest position."""

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Self:
        """Return what these positions say."""
        if not len(column):
            return cls()
        positions = position_bytes(column)
        times, index = _numbers(positions[:, 0:8], ">u8"), _numbers(positions[:, 28:32], ">u4")
        newest = positions[times == times.max()]
        return cls(
            rows=len(positions),
            time_min=int(times.min()),
            time_max=int(times.max()),
            index_max=int(index.max()),
            logs=_distinct(positions[:, 8:20]),
            last=np.sort(np.ascontiguousarray(newest).view("S32"), axis=0)[-1].tobytes(),
        )

    @classmethod
    def together(cls, some: Iterable[Self]) -> Self:
        """Return what all of these say."""
        there = [one for one in some if one.rows]
        if not there:
            return cls()
        return cls(
            rows=sum(one.rows for one in there),
            time_min=min(one.time_min for one in there),
            time_max=max(one.time_max for one in there),
            index_max=max(one.index_max for one in there),
            logs=sorted({log for one in there for log in one.logs}),
            last=max(one.last for one in there),
        )

    def bounds(self) -> Bounds:
        """Return the bounds of a run of all these rows."""
        return Bounds(self.rows, self.time_min, self.time_max, max(0, len(self.logs) - 1), self.index_max)


@dataclass(frozen=True)
class Packing:
    """How rows are made of events, and packed. `key` is `dedup.message_key` of the workspace's."""

    key: bytes
    logs: tuple[bytes, ...]
    bounds: Bounds

    def __repr__(self) -> str:
        """Return what may be shown: no key."""
        return f"Packing(logs={len(self.logs)}, bounds={self.bounds})"

    def rows(self, events: pa.Table) -> pa.Table:
        """Return the rows of events, which have the columns `COLUMNS`, as `ROWS`."""
        rows = rows_of(dedup_entries(self.key, events), {log: at for at, log in enumerate(self.logs)})
        columns = [pa.array(rows[:, word]) for word in range(ROW_WORDS)]
        return pa.table(columns, names=ROWS.names).cast(ROWS)

    def pack(self, rows: pa.Table, parts: int) -> Packed:
        """Return the rows of one of `parts` equal stretches of hashes, some at least, ready to be put into the run.

        They come in any order, and the same rows are packed alike whatever it was.
        """
        words = np.empty((rows.num_rows, ROW_WORDS), dtype=np.uint64)
        for word, name in enumerate(ROWS.names):
            words[:, word] = rows.column(name).to_numpy()
        return Packed.of(_in_order(words, parts), self.bounds)


def part_of(rows: pa.Table, parts: int) -> npt.NDArray[np.int32]:
    """Return the part of each row: equal stretches of hashes in their order. `parts` is a power of two up to 2^31."""
    first = rows.column("first").to_numpy()
    shift = np.uint64(64 - (parts - 1).bit_length())
    # A shift by all 64 bits is not defined.
    found = first >> shift if parts > 1 else np.zeros(len(first), dtype=np.uint64)
    return found.astype(np.int32)


def written(packed: Packed) -> bytes:
    """Return a part as bytes, for `read_part`."""
    head = np.array(
        [
            packed.rows,
            len(packed.fences),
            len(packed.filter) // PAGE_WORDS,
            packed.filter_from,
        ],
        dtype="<u8",
    )
    return b"".join(
        column.astype("<u8").tobytes() for column in (head, packed.filter, packed.pages, packed.fences)
    )


def read_part(body: bytes) -> Packed:
    """Return the part that these bytes are.

    Raises:
        Corrupt: they are none.
    """
    words: npt.NDArray[Any] = np.frombuffer(body, dtype="<u8").astype(np.uint64)
    rows, pages, filters, filter_from = (
        words[:_HEAD_WORDS].tolist() if len(words) >= _HEAD_WORDS else (0, 0, 0, 0)
    )
    ends = np.cumsum([_HEAD_WORDS, filters * PAGE_WORDS, pages * PAGE_WORDS, pages])
    if not rows or len(words) != ends[-1]:
        raise Corrupt(
            f"reading a part of the de-duplication index: {len(body)} bytes do not hold {rows} entries; "
            "run: profilelake engine jobs list, remove that job, then rebuild again"
        )
    _, filter, packed, fences, _ = np.split(words, ends)
    return Packed(rows, packed, fences, filter, filter_from)


def _in_order(rows: Words, parts: int) -> Words:
    """Return rows of one part by hash; equal hashes by time and place."""
    # All rows of a part begin with the same bits, by which rows are told apart first.
    told = rows.copy()
    told[:, 0] <<= np.uint64((parts - 1).bit_length())
    found = rows[sorted_runs.sorted_by_hash(told)]
    same = (found[1:, :2] == found[:-1, :2]).all(axis=1)
    if same.any():
        alike = np.append(same, False) | np.append(False, same)
        some = found[alike]
        found[alike] = some[np.lexsort([some[:, word] for word in range(ROW_WORDS - 1, -1, -1)])]
    return found


def _numbers(part: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(part).view(dtype).reshape(-1)


def _distinct(rows: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return the distinct rows, in order."""
    whole = np.ascontiguousarray(rows)
    kind = pa.binary(whole.shape[1])
    column = pa.FixedSizeBinaryArray.from_buffers(kind, len(whole), [None, pa.py_buffer(whole)])
    return sorted(column.unique().to_pylist())
