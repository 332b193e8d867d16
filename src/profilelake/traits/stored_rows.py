"""The one record a set has of all its rows, packed and unpacked for many sets at once.

First how many rows of each layout there are, then the rows, layout after layout. One record and not one per
layout: a set that something happened to is then one page of the state, read and written once.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from profilelake.kernels.json_paths import Longs
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.state.computed import COUNTS, NUMBERS, VALUES
from profilelake.traits.merging import ranked, words_of
from profilelake.traits.partials import Rows

PARTS: Final = ("counts", "numbers", "values")
"""The rows of `Partials` that are kept in a record, in this order."""
_LAYOUTS: Final = (COUNTS, NUMBERS, VALUES)
_HEAD: Final = 2
"""Words in front of the rows: three counts of four bytes, and four that are free."""
_WIDTHS: Final = [layout.itemsize // 8 for layout in _LAYOUTS]


def unpacked(keys: Sequence[bytes], records: Sequence[bytes]) -> tuple[Rows, ...]:
    """Return the rows of each layout in records of sets; the keys begin with the set, in order."""
    if not keys:
        return tuple(Rows.none(layout) for layout in _LAYOUTS)
    words = np.frombuffer(b"".join(records), dtype=np.uint64)
    ends = np.cumsum(np.fromiter(map(len, records), dtype=np.int64, count=len(records)) // 8)
    at = np.concatenate([[0], ends[:-1]])
    sets = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(len(keys), -1)
    sizes = words[np.stack([at, at + 1], axis=1)].view(np.uint32).astype(np.int64)
    at = at + _HEAD
    parts = []
    for place, (layout, width) in enumerate(zip(_LAYOUTS, _WIDTHS, strict=True)):
        count = sizes[:, place]
        rows = words[_ragged(at, count * width)].view(layout)
        parts.append(Rows(np.repeat(sets, count, axis=0), rows))
        at = at + count * width
    return tuple(parts)


def packed(parts: Sequence[Rows]) -> tuple[list[bytes], list[bytes]]:
    """Return the keys of all sets that have rows, in order, and their records."""
    sets, places = ranked(np.concatenate([part.sets for part in parts]))
    bounds = np.cumsum([len(part.rows) for part in parts])[:-1]
    sizes = [np.bincount(place, minlength=len(sets)) for place in np.split(places, bounds)]
    widths = [count * width for count, width in zip(sizes, _WIDTHS, strict=True)]
    ends = np.cumsum(_HEAD + np.sum(widths, axis=0))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    words = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.uint64)
    counts = words.view(np.uint32)
    at = starts + _HEAD
    for place, (part, count, width) in enumerate(zip(parts, sizes, widths, strict=True)):
        counts[2 * starts + place] = count
        words[_ragged(at, width)] = words_of(part.rows).reshape(-1)
        at = at + width
    data = words.tobytes()
    keys = sets.tobytes()
    return (
        [keys[start : start + HASH_BYTES] for start in range(0, len(keys), HASH_BYTES)],
        [data[start:stop] for start, stop in zip((8 * starts).tolist(), (8 * ends).tolist(), strict=True)],
    )


def _ragged(starts: Longs, lengths: Longs) -> Longs:
    """Return the numbers from each start on, as many as its length says, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: Longs = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return numbers
