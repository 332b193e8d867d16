"""A bounded memory of 128-bit ids that are known to be stored: most events show nothing new.

It may forget, and never claims an id that was not put in. So a hit saves a look-up, and a miss
costs one.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled, read_only

Words: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_WAYS: Final = 4


class KnownIds:
    """Remembers about the last `ids_max` ids. The memory is taken as ids come in."""

    def __init__(self, ids_max: int) -> None:
        """Remember up to `ids_max` ids, rounded up to a power of two; 16 bytes each."""
        buckets = 1 << max(0, (ids_max // _WAYS - 1).bit_length())
        # Zeros stand for nothing: an id of all zeros is never remembered.
        self._slots: Words = np.zeros((buckets, _WAYS, 2), dtype=np.uint64)

    def contains(self, ids: Words) -> Bools:
        """Tell for each row of two words whether it was put in and is not forgotten."""
        found = np.zeros(len(ids), dtype=np.bool_)
        _contains(self._slots, read_only(ids.reshape(-1, 2), np.uint64), found)
        return found

    def add(self, ids: Words) -> None:
        """Remember ids; where a bucket is full, the one that was put in first is forgotten."""
        _add(self._slots, read_only(ids.reshape(-1, 2), np.uint64))


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no request waits for it."""
    known = KnownIds(_WAYS)
    known.add(np.ones((1, 2), dtype=np.uint64))
    known.contains(np.ones((1, 2), dtype=np.uint64))


@compiled
def _contains(slots: Words, ids: Words, found: Bools) -> None:
    mask = np.uint64(slots.shape[0] - 1)
    for row in range(ids.shape[0]):
        first, second = ids[row, 0], ids[row, 1]
        if first == np.uint64(0) and second == np.uint64(0):
            continue
        bucket = np.int64(first & mask)
        for way in range(slots.shape[1]):
            if slots[bucket, way, 0] == first and slots[bucket, way, 1] == second:
                found[row] = True
                break


@compiled
def _add(slots: Words, ids: Words) -> None:
    mask = np.uint64(slots.shape[0] - 1)
    ways = slots.shape[1]
    for row in range(ids.shape[0]):
        first, second = ids[row, 0], ids[row, 1]
        bucket = np.int64(first & mask)
        place = ways - 1
        for way in range(ways):
            if slots[bucket, way, 0] == first and slots[bucket, way, 1] == second:
                place = way
                break
        # The newest stands first, so the last way holds the one to forget.
        for way in range(place, 0, -1):
            slots[bucket, way, 0] = slots[bucket, way - 1, 0]
            slots[bucket, way, 1] = slots[bucket, way - 1, 1]
        slots[bucket, 0, 0], slots[bucket, 0, 1] = first, second
