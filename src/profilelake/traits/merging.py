"""Joining partials: those of other events, of other sets of one profile, of other days.

Rows that are about the same are added up: counts and sums grow, the least and greatest, first and last win. So
it does not matter in which parts events come, nor in which order.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from profilelake.kernels.siphash import Words
from profilelake.state.computed import ENTRIES, VALUES
from profilelake.traits.partials import CutEvent, Partials, Records, Rows

Key = npt.NDArray[Any]
Word = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

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
_WORD_BITS: Final = 64


def merge(a: Partials, b: Partials) -> Partials:
    """Return the partials of all events that either comes from."""
    return merged([a, b])


def merged(parts: Sequence[Partials]) -> Partials:
    """Return the partials of all events that any part comes from: at once, which is cheaper than one by one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Partials()
    events: dict[tuple[bytes, int], list[CutEvent]] = {}
    texts: dict[bytes, str] = {}
    for part in parts:
        texts |= part.texts
        for key, more in part.events.items():
            events[key] = sorted([*events[key], *more]) if key in events else more
    return Partials(
        counts=joined([part.counts for part in parts]),
        numbers=joined([part.numbers for part in parts]),
        values=joined([part.values for part in parts]),
        entries=joined([part.entries for part in parts]),
        events=events,
        texts=texts,
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Return rows of one layout as one: sorted, and those about the same set, step, bucket and value added up."""
    layout = parts[0].rows.dtype
    filled = [part for part in parts if len(part.rows)]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    sets, places = ranked(np.concatenate([part.sets for part in filled]))
    rows = stacked([part.rows for part in filled])
    if layout == ENTRIES:
        order = order_of(rows["kind"], rows["step"], rows["at"], places)
        return Rows(sets[places[order]], taken(rows, order))
    keys: list[Key] = [rows["bucket"], rows["step"], places]
    if layout == VALUES:
        keys.insert(0, distinct(rows["high"], rows["low"])[1])
    order = order_of(*keys)
    starts = starts_of(*(key[order] for key in keys))
    places, rows = places[order], taken(rows, order)
    sets, rows = sets[places[starts]], reduced(rows, starts)
    return ends_only(sets, rows) if layout == VALUES else Rows(sets, rows)


def stacked(parts: Sequence[Records]) -> Records:
    """Return rows of one layout one after the other."""
    return np.concatenate([words_of(part) for part in parts]).reshape(-1).view(parts[0].dtype)


def taken(rows: Records, order: Longs) -> Records:
    """Return rows in an order; much faster than an index, which copies field by field."""
    return words_of(rows).take(order, axis=0).reshape(-1).view(rows.dtype)


def words_of(rows: Records) -> Words:
    """Return rows as words: all layouts are whole words long."""
    return np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), rows.itemsize // 8)


def reduced(rows: Records, starts: Longs) -> Records:
    """Return one row for each run of rows that begins at `starts`."""
    if len(starts) == len(rows):
        return rows
    out = taken(rows, starts)
    for name in rows.dtype.names or ():
        how = _HOW.get(name)
        if how is not None:
            out[name] = how.reduceat(rows[name], starts)
    return out


def ends_only(sets: Words, rows: Records) -> Rows:
    """Return rows of values without those that are neither the first nor the last of a step that asks for that alone."""
    only = (rows["last"] == EARLIEST) | (rows["first"] == LATEST)
    if not only.any():
        return Rows(sets, rows)
    starts = starts_of(sets[:, 0], sets[:, 1], rows["step"], rows["bucket"])
    sizes = sizes_of(starts, len(rows))
    first = np.repeat(np.minimum.reduceat(rows["first"], starts), sizes)
    last = np.repeat(np.maximum.reduceat(rows["last"], starts), sizes)
    kept = ~only | ((rows["first"] == first) & (rows["last"] == last))
    return Rows(sets[kept], rows[kept])


def ranked(sets: Words) -> tuple[Words, Ints]:
    """Return the distinct sets, sorted as bytes, and the place of each row's set among them."""
    order, ranks = distinct(sets[:, 0].byteswap(), sets[:, 1].byteswap())
    return sets[order], ranks


def distinct(high: Word, low: Word) -> tuple[Longs, Ints]:
    """Return a row of each distinct pair, in order, and the place of each row's pair among them."""
    # Half a hash nearly always tells two apart, and of this half the bits that leave room for the place.
    place_bits = max(len(high) - 1, 0).bit_length()
    mask = np.uint64((1 << place_bits) - 1)
    order = (np.sort(high & ~mask | np.arange(len(high), dtype=np.uint64)) & mask).astype(np.int64)
    halves, others = high[order], low[order]
    differs = halves[1:] != halves[:-1]
    if (halves[1:] < halves[:-1]).any() or (others[1:] != others[:-1])[~differs].any():
        order = np.lexsort((low, high))
        halves, others = high[order], low[order]
        differs = (halves[1:] != halves[:-1]) | (others[1:] != others[:-1])
    ranks = np.zeros(len(high), dtype=np.int32)
    ranks[order[1:]] = np.cumsum(differs)
    return order[np.flatnonzero(np.append(np.ones(min(1, len(high)), dtype=np.bool_), differs))], ranks


def order_of(*keys: Key) -> Longs:
    """Return the order that sorts rows by these keys, the last of them first; equal rows stay as they are.

    As many whole keys as fit are packed into one number, together with the place of the row: sorting numbers is
    much faster than finding the order of rows, and the place keeps equal rows as they are.
    """
    count = len(keys[0])
    place_bits = max(count - 1, 0).bit_length()
    order: Longs = np.arange(count)
    packed, used = np.zeros(count, dtype=np.uint64), place_bits
    for key in keys if count > 1 else ():
        bits = _bits(key)
        if bits + place_bits > _WORD_BITS:
            if used > place_bits:
                order = _by(packed, order, place_bits)
            order = order[np.argsort(key[order], kind="stable")]
            packed, used = np.zeros(count, dtype=np.uint64), place_bits
            continue
        if used + bits > _WORD_BITS:
            order = _by(packed, order, place_bits)
            packed, used = np.zeros(count, dtype=np.uint64), place_bits
        if bits:
            packed |= (key.astype(np.int64) - key.min() if key.dtype.kind == "i" else key - key.min()).astype(
                np.uint64
            ) << np.uint64(used)
            used += bits
    return _by(packed, order, place_bits) if used > place_bits else order


def _bits(key: Key) -> int:
    """Return how many bits the differences of a key need; more than a word for what is no whole number."""
    if key.dtype.kind not in "iu":
        return _WORD_BITS + 1
    return (int(key.max()) - int(key.min())).bit_length()


def _by(packed: Word, order: Longs, place_bits: int) -> Longs:
    """Return an order sorted further by packed keys, whose lowest bits are free for the places in it."""
    mask = np.uint64((1 << place_bits) - 1)
    places = np.arange(len(order), dtype=np.uint64)
    ordered: Longs = order[(np.sort(packed[order] | places) & mask).astype(np.int64)]
    return ordered


def starts_of(*keys: Key) -> Longs:
    """Return where in sorted rows one of the keys becomes another: the first row of each group."""
    count = len(keys[0])
    differs = np.zeros(count, dtype=np.bool_)
    differs[:1] = True
    for key in keys:
        differs[1:] |= key[1:] != key[:-1]
    return differs.nonzero()[0]


def sizes_of(starts: Longs, count: int) -> Longs:
    """Return how many rows each group has that begins at `starts`, of so many rows."""
    sizes = np.empty(len(starts), dtype=np.int64)
    if len(starts):
        np.subtract(starts[1:], starts[:-1], out=sizes[:-1])
        sizes[-1] = count - starts[-1]
    return sizes
