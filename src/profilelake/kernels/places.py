"""Where each of many 128-bit ids stands among distinct ones: joining by id, without strings or a sort."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.errors import Invalid
from profilelake.kernels._compiled import compiled, read_only

Words: TypeAlias = npt.NDArray[np.uint64]
Int32s: TypeAlias = npt.NDArray[np.int32]

NOWHERE: Final = -1
IDS_MAX: Final = 1 << 30


class Places:
    """Finds ids among distinct ones, which must be keyed hashes: their first word addresses the table as it is."""

    def __init__(self, ids: Words) -> None:
        """Know these rows of two words: 16 bytes each, and 8 to 16 for finding it.

        Raises:
            Invalid: more ids than there are places.
        """
        if len(ids) > IDS_MAX:
            raise Invalid(f"finding ids among {len(ids):,}: {IDS_MAX:,} at most; part them")
        self._ids = read_only(ids.reshape(-1, 2), np.uint64)
        # At most half full, so that probing stays short, and never without an end to it.
        self._slots: Int32s = np.full(2 << (len(ids)).bit_length(), NOWHERE, dtype=np.int32)
        _enter(self._ids, self._slots)

    def of(self, ids: Words) -> Int32s:
        """Return the row each id has among those that are known, `NOWHERE` for others."""
        found = np.empty(len(ids), dtype=np.int32)
        _find(self._ids, self._slots, read_only(ids.reshape(-1, 2), np.uint64), found)
        return found


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no request waits for it."""
    Places(np.zeros((1, 2), dtype=np.uint64)).of(np.zeros((1, 2), dtype=np.uint64))


@compiled
def _enter(ids: Words, slots: Int32s) -> None:
    mask = np.uint64(slots.size - 1)
    for row in range(ids.shape[0]):
        slot = ids[row, 0] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = row


@compiled
def _find(ids: Words, slots: Int32s, asked: Words, found: Int32s) -> None:
    mask = np.uint64(slots.size - 1)
    for row in range(asked.shape[0]):
        first, second = asked[row, 0], asked[row, 1]
        slot = first & mask
        while slots[slot] >= 0 and (ids[slots[slot], 0] != first or ids[slots[slot], 1] != second):
            slot = (slot + np.uint64(1)) & mask
        found[row] = slots[slot]
