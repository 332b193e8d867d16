"""Very many 128-bit ids in little memory: their numbers, and which of them hang together.

`Numbering` compares all 128 bits: 16 bytes per id, and 10 to 16 for finding it. `Components` keeps no
number and compares 80 bits: 14 bytes per place, all taken at once, so that a billion ids fit 16 GB.
"""

from typing import Final

import numpy as np

from profilelake.errors import Internal, Invalid
from profilelake.kernels._compiled import read_only
from profilelake.kernels._hashed_table import (
    TAG_BITS,
    Int32s,
    Int64s,
    Words,
    enter,
    flatten_roots,
    number_ids,
    roots_of,
    unite,
)
from profilelake.kernels.growing import Growing

IDS_MAX: Final = (1 << 31) - 1
KEY_BITS: Final = 64 + TAG_BITS
"""Bits of an id that `Components` compares."""
BYTES_PER_PLACE: Final = 14

_PLACES_AT_START: Final = 1 << 12
_FILLED_MAX: Final = 0.8
_GROWTH: Final = 1.6
_COMPONENTS_FILLED: Final = 0.86
_COMPONENTS_FILLED_MAX: Final = 0.95


class Numbering:
    """Numbers ids from 0 in order of first appearance, batch after batch."""

    __slots__ = ("_known", "_slots", "count")

    def __init__(self) -> None:
        self.count = 0
        self._known = Growing(np.uint64, 2)
        self._slots = np.zeros(_PLACES_AT_START, dtype=np.uint64)

    def numbers(self, ids: Words, rows: Int64s) -> tuple[Int32s, Int64s]:
        """Return the number of the id in each of `rows`, and for each new number the row that brought it.

        Raises:
            Invalid: more ids than there are numbers.
        """
        before = self.count
        if before + len(rows) > IDS_MAX:
            raise Invalid(
                f"numbering identifiers: {before + len(rows)} pass 2^31; resolve them by parts of components"
            )
        self._reserve(before + len(rows))
        numbers, first = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int64)
        self.count = number_ids(
            read_only(ids.reshape(-1, 2), np.uint64),
            read_only(rows, np.int64),
            self._slots,
            self._known.array,
            first,
            numbers,
            before,
        )
        return numbers, first[: self.count - before].copy()

    def give_up(self) -> Words:
        """Return all ids in the order of their numbers, and forget them here, which frees the table."""
        known = self._known.array[: self.count]
        self._known, self.count = Growing(np.uint64, 2), 0
        self._slots = np.zeros(_PLACES_AT_START, dtype=np.uint64)
        return known

    def bytes(self) -> int:
        """Return how much memory ids and table take."""
        return self._known.array.nbytes + self._slots.nbytes

    def _reserve(self, ids: int) -> None:
        self._known.reserve(ids)
        if ids > _FILLED_MAX * len(self._slots):
            places = int(_GROWTH * ids / _FILLED_MAX)
            # The old table is given back first: the new one is made from the ids alone.
            self._slots = np.zeros(0, dtype=np.uint64)
            self._slots = np.zeros(places, dtype=np.uint64)
            enter(self._known.array, self.count, self._slots)


class Components:
    """Which ids hang together through sets, with no limit between them: a union-find whose nodes are places.

    Two ids with the same first word are told apart by `TAG_BITS` of the second, and counted in
    `collisions`: with real hashes of less than a billion ids none is expected. Two that agree in
    `KEY_BITS` are taken for one (of n ids, a chance of n^2 / 2^81).
    """

    __slots__ = ("_keys", "_parents", "_room", "_tags", "collisions", "count")

    def __init__(self, ids_max: int) -> None:
        """Make room for `ids_max` different ids, `BYTES_PER_PLACE` / 0.86 bytes each, used as they come."""
        places = int(ids_max / _COMPONENTS_FILLED) + _PLACES_AT_START
        if places > IDS_MAX:
            raise Invalid(f"uniting {ids_max} identifiers: more than {IDS_MAX * _COMPONENTS_FILLED:.0f}")
        self.count = 0
        self.collisions = 0
        self._room = int(_COMPONENTS_FILLED_MAX * places)
        self._keys = np.zeros(places, dtype=np.uint64)
        self._tags = np.zeros(places, dtype=np.uint16)
        self._parents = np.zeros(places, dtype=np.int32)

    def unite(self, ids: Words, offsets: Int64s) -> None:
        """Take sets in: set s holds rows `offsets[s]` to `offsets[s + 1]` of `ids`.

        Raises:
            Invalid: more different ids than there is room for.
        """
        _check_offsets(offsets, len(ids))
        done, self.count, collisions = unite(
            read_only(ids.reshape(-1, 2), np.uint64),
            read_only(offsets, np.int64),
            self._keys,
            self._tags,
            self._parents,
            self.count,
            self._room,
        )
        self.collisions += collisions
        if done != len(offsets) - 1:
            raise Invalid(f"uniting identifiers: there is room for {self._room} only; make it larger")

    def roots(self, ids: Words) -> Int32s:
        """Return a number for each id that all ids of its component share; -1 for one in no set.

        Numbers hold until the next `unite`.
        """
        roots = np.empty(len(ids), dtype=np.int32)
        roots_of(read_only(ids.reshape(-1, 2), np.uint64), self._keys, self._tags, self._parents, roots)
        return roots

    def components(self) -> int:
        """Return how many components there are."""
        return flatten_roots(self._keys, self._parents)

    def bytes(self) -> int:
        """Return how much memory the places take."""
        return self._keys.nbytes + self._tags.nbytes + self._parents.nbytes


def warm() -> None:
    """Compile (or load from the cache) everything here, so that nobody waits for it later."""
    ids, offsets = np.ones((2, 2), dtype=np.uint64), np.array([0, 2], dtype=np.int64)
    numbering = Numbering()
    numbering.numbers(ids, offsets[:1])
    enter(numbering.give_up(), 0, np.zeros(1, dtype=np.uint64))
    components = Components(1)
    components.unite(ids, offsets)
    components.roots(ids)
    components.components()


def _check_offsets(offsets: Int64s, rows: int) -> None:
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > rows or (np.diff(offsets) < 0).any():
        raise Internal(f"uniting identifiers: {len(offsets)} offsets do not divide {rows} ids")
