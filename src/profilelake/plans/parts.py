"""Parts of like size for components of very different sizes; a giant one is a part by itself."""

import heapq
from typing import Final

import msgspec
import numpy as np

from profilelake.engines.engine import PartNumbers
from profilelake.kernels._hashed_table import Int64s
from profilelake.kernels.contraction import mixed

NO_COMPONENT: Final = -1
"""In place of a component, where nothing in a set links."""
PARTS_MAX: Final = 1 << 15

_SLOTS_PER_PART: Final = 16
_SHARE_APART: Final = 16
"""A component of more than this share (a sixteenth) of a part is put where there is room, not where it falls."""
_COUNTED_LEAST: Final = 8
"""Fewer sets than this in a sample say little about the size of a component."""


class PartOf(msgspec.Struct, frozen=True):
    """From components to parts: large components by a list, all others by a slot of the mixed number."""

    parts: int
    slot_parts: bytes
    large: bytes = b""
    large_parts: bytes = b""

    def __call__(self, components: Int64s) -> PartNumbers:
        """Return the part of each component, `NO_COMPONENT` for `NO_COMPONENT`."""
        slot_parts = np.frombuffer(self.slot_parts, dtype=np.int32)
        found = slot_parts[_slots(components, len(slot_parts))]
        large = np.frombuffer(self.large, dtype=np.int64)
        if len(large):
            places = np.minimum(np.searchsorted(large, components), len(large) - 1)
            listed = np.frombuffer(self.large_parts, dtype=np.int32)[places]
            found = np.where(large[places] == components, listed, found)
        return np.where(components == NO_COMPONENT, np.int32(NO_COMPONENT), found)


def part_of(components: Int64s, counts: Int64s, share: int, sets: int, sets_per_part: int) -> PartOf:
    """Divide components into parts of about `sets_per_part` sets, `PARTS_MAX` of them at most besides giant ones.

    `components` are different ones with how many of their sets were `counts`-ed, one set in `share`; there may
    be others too small to be counted. `sets` are all sets.
    """
    wanted = min(PARTS_MAX, max(1, -(-sets // sets_per_part)))
    room = sets / wanted / share
    giant = counts > room
    apart = ~giant & (counts > max(_COUNTED_LEAST, room / _SHARE_APART))
    rest = int(counts[~giant].sum())
    ordinary = min(wanted, max(1, round(rest / room))) if rest else 1
    slots = _SLOTS_PER_PART << (ordinary - 1).bit_length()
    falling = ~giant & ~apart
    # One more for each slot, as those in which nothing was counted hold something too.
    loads = 1 + np.bincount(_slots(components[falling], slots), counts[falling], slots).astype(np.int64)
    parts = _laid(np.concatenate([counts[apart], loads]), ordinary)
    large = np.concatenate([components[apart], components[giant]])
    large_parts = np.concatenate(
        [parts[: apart.sum()], np.arange(ordinary, ordinary + giant.sum(), dtype=np.int32)]
    ).astype(np.int32)
    order = np.argsort(large)
    return PartOf(
        parts=ordinary + int(giant.sum()),
        slot_parts=parts[apart.sum() :].tobytes(),
        large=large[order].tobytes(),
        large_parts=large_parts[order].tobytes(),
    )


def _laid(loads: Int64s, parts: int) -> PartNumbers:
    """Put each load, the greatest first, into the part that holds least."""
    heap = [(0, part) for part in range(parts)]
    found = np.zeros(len(loads), dtype=np.int32)
    for place in np.argsort(-loads, kind="stable").tolist():
        held, part = heap[0]
        heapq.heapreplace(heap, (held + int(loads[place]), part))
        found[place] = part
    return found


def _slots(components: Int64s, slots: int) -> Int64s:
    return (mixed(components) >> np.uint64(32)).astype(np.int64) * slots >> 32
