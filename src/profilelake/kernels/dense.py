"""Dense numbers for 128-bit ids: what turns hashes into array indexes, without strings or a sort."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.errors import Invalid
from profilelake.kernels._compiled import compiled, read_only

Words: TypeAlias = npt.NDArray[np.uint64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]

_SLOTS_AT_START: Final = 1 << 16
_CHUNK_ROWS: Final = 1 << 16


def dense_numbers(ids: Words) -> tuple[Int32s, Int64s]:
    """Number equal ids alike, from 0 in order of first appearance.

    `ids` are rows of two words (`kernels.siphash`). Returns the number of each row, and for each
    number the row that had it first. Compares all 128 bits. The ids must be keyed hashes: their
    first word addresses the table as it is.
    """
    rows = len(ids)
    if rows >= 1 << 31:
        raise Invalid(f"numbering identifiers: {rows} rows pass 2^31; split them by component")
    numbers = np.empty(rows, dtype=np.int32)
    first_row = np.empty(rows, dtype=np.int64)
    slots = np.full(_SLOTS_AT_START, -1, dtype=np.int32)
    fixed = read_only(ids.reshape(rows, 2), np.uint64)
    count = 0
    for start in range(0, rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, rows)
        # At most half full after the chunk, so that probing stays short.
        if 2 * (count + stop - start) > len(slots):
            slots = np.full(4 * len(slots), -1, dtype=np.int32)
            _refill(fixed, first_row[:count], slots)
        count = _number(fixed, start, stop, slots, numbers, first_row, count)
    return numbers, first_row[:count].copy()


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no request waits for it."""
    dense_numbers(np.zeros((1, 2), dtype=np.uint64))
    _refill(
        read_only(np.zeros((1, 2)), np.uint64), np.zeros(1, dtype=np.int64), np.full(2, -1, dtype=np.int32)
    )


@compiled
def _number(
    ids: Words, start: int, stop: int, slots: Int32s, numbers: Int32s, first_row: Int64s, count: int
) -> int:
    mask = np.uint64(slots.size - 1)
    for row in range(start, stop):
        first, second = ids[row, 0], ids[row, 1]
        slot = first & mask
        while True:
            number = slots[np.int64(slot)]
            if number < 0:
                slots[np.int64(slot)] = count
                first_row[count] = row
                numbers[row] = count
                count += 1
                break
            known = first_row[number]
            if ids[known, 0] == first and ids[known, 1] == second:
                numbers[row] = number
                break
            slot = (slot + np.uint64(1)) & mask
    return count


@compiled
def _refill(ids: Words, first_row: Int64s, slots: Int32s) -> None:
    mask = np.uint64(slots.size - 1)
    for number in range(first_row.size):
        slot = ids[first_row[number], 0] & mask
        while slots[np.int64(slot)] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[np.int64(slot)] = number
