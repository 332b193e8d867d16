"""Joining partials: those of other events, of other sets of one profile, of other days.

Rows that are about the same are added up: counts and sums grow, the least and greatest, first and last win. So
it does not matter in which parts events come, nor in which order.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from profilelake.kernels.siphash import Words
from profilelake.state.computed import ENTRIES, VALUES
from profilelake.traits.partials import CutEvent, Partials, Rows

Key = npt.NDArray[np.generic]
Longs = npt.NDArray[np.int64]

EARLIEST: Final = -(2**63)
"""The time of the last event in rows of a step that asks for the first alone."""
LATEST: Final = 2**63 - 1
"""The time of the first event in rows of a step that asks for the last alone."""

_HOW: Final[Mapping[str, np.ufunc]] = {
    "count": np.add,
    "numbers": np.add,
    "whole": np.add,
    "nano": np.add,
    "least": np.minimum,
    "greatest": np.maximum,
    "first": np.minimum,
    "last": np.maximum,
}
_SAME: Final = ("step", "bucket", "high", "low")


def merge(a: Partials, b: Partials) -> Partials:
    """Return the partials of all events that either comes from."""
    events: dict[tuple[bytes, int], list[CutEvent]] = dict(a.events)
    for key, more in b.events.items():
        events[key] = sorted([*events[key], *more]) if key in events else more
    return Partials(
        counts=joined([a.counts, b.counts]),
        numbers=joined([a.numbers, b.numbers]),
        values=joined([a.values, b.values]),
        entries=joined([a.entries, b.entries]),
        events=events,
        texts={**a.texts, **b.texts},
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Return rows of one layout as one: sorted, and those about the same set, step, bucket and value added up."""
    layout = parts[0].rows.dtype
    filled = [part for part in parts if len(part.rows)]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    sets = np.concatenate([part.sets for part in filled])
    rows = np.concatenate([part.rows for part in filled])
    high, low = set_order(sets)
    if layout == ENTRIES:
        order = order_of(
            rows["low"], rows["high"], rows["number"], rows["kind"], rows["step"], rows["at"], low, high
        )
        return Rows(sets[order], rows[order])
    same = [name for name in _SAME if name in (layout.names or ())]
    order = order_of(*(rows[name] for name in reversed(same)), low, high)
    sets, rows = sets[order], rows[order]
    starts = starts_of(sets[:, 0], sets[:, 1], *(rows[name] for name in same))
    sets, rows = sets[starts], reduced(rows, starts)
    return ends_only(sets, rows) if layout == VALUES else Rows(sets, rows)


def reduced(rows: npt.NDArray[np.void], starts: Longs) -> npt.NDArray[np.void]:
    """Return one row for each run of rows that begins at `starts`."""
    if len(starts) == len(rows):
        return rows
    out = rows[starts]
    for name in rows.dtype.names or ():
        how = _HOW.get(name)
        if how is not None:
            out[name] = how.reduceat(rows[name], starts)
    return out


def ends_only(sets: Words, rows: npt.NDArray[np.void]) -> Rows:
    """Return rows of values without those that are neither the first nor the last of a step that asks for that alone."""
    only = (rows["last"] == EARLIEST) | (rows["first"] == LATEST)
    if not only.any():
        return Rows(sets, rows)
    starts = starts_of(sets[:, 0], sets[:, 1], rows["step"], rows["bucket"])
    sizes = np.diff(np.append(starts, len(rows)))
    first = np.repeat(np.minimum.reduceat(rows["first"], starts), sizes)
    last = np.repeat(np.maximum.reduceat(rows["last"], starts), sizes)
    kept = ~only | ((rows["first"] == first) & (rows["last"] == last))
    return Rows(sets[kept], rows[kept])


def set_order(sets: Words) -> tuple[Words, Words]:
    """Return two columns of numbers by which sets sort as their bytes do."""
    return sets[:, 0].byteswap(), sets[:, 1].byteswap()


def order_of(*keys: Key) -> Longs:
    """Return the order that sorts rows by these keys, the last of them first; equal rows stay as they are."""
    return np.lexsort(keys)


def starts_of(*keys: Key) -> Longs:
    """Return where in sorted rows one of the keys becomes another: the first row of each group."""
    count = len(keys[0])
    differs = np.zeros(count, dtype=np.bool_)
    differs[:1] = True
    for key in keys:
        differs[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(differs)
