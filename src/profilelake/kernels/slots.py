"""Slots of 128-bit ids (their first 16 bits), and rows brought into the order of slots."""

from typing import Final

import numpy as np

from profilelake.kernels._compiled import compiled, read_only
from profilelake.kernels._hashed_table import Int32s, Int64s, Words

SLOT_BITS: Final = 16


def slots_of(ids: Words) -> Int32s:
    """Return the first 16 bits of each id, as the tables' column `slot` has them."""
    return (ids[:, 0].byteswap() >> np.uint64(64 - SLOT_BITS)).astype(np.int32)


def by_slot(ids: Words, owners: Int32s, bits: int) -> tuple[Int32s, Int64s]:
    """Return the numbers of the ids with an owner (0 or more), grouped by the first `bits` of the id.

    Group g stands at `starts[g]` to `starts[g + 1]` of the numbers, in the order of numbers.
    """
    starts = np.zeros((1 << bits) + 1, dtype=np.int64)
    fixed = read_only(ids, np.uint64)
    _count(fixed, owners, bits, starts)
    starts = np.cumsum(starts)
    numbers = np.empty(starts[-1], dtype=np.int32)
    _scatter(fixed, owners, bits, starts[:-1].copy(), numbers)
    return numbers, starts


@compiled
def _group(ids: Words, number: int, bits: int) -> np.int64:
    word = ids[number, 0]
    slot = np.int64((word & np.uint64(0xFF)) << np.uint64(8) | (word >> np.uint64(8)) & np.uint64(0xFF))
    return slot >> np.int64(SLOT_BITS - bits)


@compiled
def _count(ids: Words, owners: Int32s, bits: int, counts: Int64s) -> None:
    for number in range(owners.size):
        if owners[number] >= 0:
            counts[_group(ids, number, bits) + 1] += 1


@compiled
def _scatter(ids: Words, owners: Int32s, bits: int, next_place: Int64s, numbers: Int32s) -> None:
    for number in range(owners.size):
        if owners[number] >= 0:
            group = _group(ids, number, bits)
            numbers[next_place[group]] = number
            next_place[group] += 1


def warm() -> None:
    """Compile (or load from the cache) everything here, so that nobody waits for it later."""
    by_slot(np.zeros((1, 2), dtype=np.uint64), np.zeros(1, dtype=np.int32), 4)
