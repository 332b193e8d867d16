"""The compiled loops over tables of 128-bit ids; `kernels.hashed` is the way in.

An id's place in a table of n places is `(half * n) >> 32`, where half is the upper half of its first
word: so a table may have any size. The ids must be keyed hashes, whose bits nobody can choose.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled

Words: TypeAlias = npt.NDArray[np.uint64]
Tags: TypeAlias = npt.NDArray[np.uint16]
Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
_Int: TypeAlias = int | np.int64

TAG_BITS: Final = 16

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_TAG: Final = np.uint64((1 << TAG_BITS) - 1)


@compiled
def enter(known: Words, count: int, slots: Words) -> None:
    """Write the first `count` ids, all different, into an empty table."""
    size = np.uint64(slots.size)
    for number in range(count):
        slot: _Int = np.int64(((known[number, 0] >> _HALF) * size) >> _HALF)
        while slots[slot] != 0:
            slot += 1
            if slot == slots.size:
                slot = 0
        slots[slot] = (known[number, 1] << _HALF) | np.uint64(number + 1)


@compiled
def number_ids(
    ids: Words, rows: Int64s, slots: Words, known: Words, first: Int64s, numbers: Int32s, count: int
) -> int:
    """Write the number of the id in each of `rows`; return how many ids are known now.

    A slot holds number + 1 and half of the second word, so that a stranger in the way is told without
    a look at its id. For each new number, from `count` on, `first` gets the row that brought it.
    """
    before = count
    size = np.uint64(slots.size)
    for place in range(rows.size):
        row = rows[place]
        one, two = ids[row, 0], ids[row, 1]
        tag = two << _HALF
        slot: _Int = np.int64(((one >> _HALF) * size) >> _HALF)
        while True:
            held = slots[slot]
            if held == 0:
                slots[slot] = tag | np.uint64(count + 1)
                known[count, 0], known[count, 1] = one, two
                first[count - before] = row
                numbers[place] = count
                count += 1
                break
            if (held ^ tag) >> _HALF == 0:
                number = np.int64(held & _LOW) - 1
                if known[number, 0] == one and known[number, 1] == two:
                    numbers[place] = number
                    break
            slot += 1
            if slot == slots.size:
                slot = 0
    return count


@compiled
def _root(parents: Int32s, slot: _Int) -> _Int:
    while parents[slot] != slot:
        parents[slot] = parents[parents[slot]]
        slot = parents[slot]
    return slot


@compiled
def _place(one: np.uint64, two: np.uint64, keys: Words, tags: Tags) -> tuple[_Int, int]:
    """Return where an id is or would be, and how many others with its first word were met on the way."""
    # Zero stands for an empty place.
    key = one if one != 0 else np.uint64(1)
    tag = np.uint16(two & _TAG)
    slot: _Int = np.int64(((key >> _HALF) * np.uint64(keys.size)) >> _HALF)
    collisions = 0
    while keys[slot] != 0:
        if keys[slot] == key:
            if tags[slot] == tag:
                break
            collisions += 1
        slot += 1
        if slot == keys.size:
            slot = 0
    return slot, collisions


@compiled
def unite(
    ids: Words, offsets: Int64s, keys: Words, tags: Tags, parents: Int32s, count: int, room: int
) -> tuple[int, int, int]:
    """Unite the ids of each set; return sets done, ids known, and collisions met by new ids.

    Stops before the set that could bring more than `room` ids in all.
    """
    collisions = 0
    for index in range(offsets.size - 1):
        start, stop = offsets[index], offsets[index + 1]
        if count + stop - start > room:
            return index, count, collisions
        root: _Int = np.int64(-1)
        for row in range(start, stop):
            one, two = ids[row, 0], ids[row, 1]
            slot, met = _place(one, two, keys, tags)
            if keys[slot] == 0:
                keys[slot] = one if one != 0 else np.uint64(1)
                tags[slot] = np.uint16(two & _TAG)
                parents[slot] = slot
                count += 1
                collisions += met
            slot = _root(parents, slot)
            if root < 0:
                root = slot
            elif slot != root:
                # The root is the place in front, so that one pass can flatten all.
                if slot < root:
                    parents[root] = slot
                    root = slot
                else:
                    parents[slot] = root
    return offsets.size - 1, count, collisions


@compiled
def roots_of(ids: Words, keys: Words, tags: Tags, parents: Int32s, roots: Int32s) -> None:
    """Write the root of each id, -1 for one that is in no set."""
    for row in range(roots.size):
        slot, _ = _place(ids[row, 0], ids[row, 1], keys, tags)
        roots[row] = _root(parents, slot) if keys[slot] != 0 else -1


@compiled
def flatten_roots(keys: Words, parents: Int32s) -> int:
    """Point every place at its root; return how many roots there are."""
    # A parent stands before its children, so one ascending pass flattens all.
    count = 0
    for slot in range(keys.size):
        if keys[slot] != 0:
            parents[slot] = parents[parents[slot]]
            if parents[slot] == slot:
                count += 1
    return count
