"""Comparisons of two columns of JSON value by value, arrays among them, in hardly more time than there are values.

What they mean is said in `semantics.conditions.comparing`: an array means any of its scalars. Order is asked of the
greatest and the least of them, texts of one text that has them all, and equality of all arrays at once: which of 64 on
the one side share something with each on the other is one number.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.comparing import (
    CONTRARY,
    TEXTS,
    Key,
    haystack,
    keys,
    keys_sought,
    needle,
    separator,
    texts_sought,
)
from profilelake.semantics.conditions.tree import Comparison
from profilelake.semantics.conditions.values import instant, items, number, text
from profilelake.traits.columns import Bools, Coded, Int64s
from profilelake.traits.ownership import ragged

SCALARS_AT_ONCE: Final = 1 << 20
"""Scalars of arrays that are looked at at once."""

_Places: TypeAlias = npt.NDArray[np.intp]
_ORDERS: Final[dict[Comparison, Callable[[Any, Any], Any]]] = {
    "greater_than": np.greater,
    "at_least": np.greater_equal,
    "less_than": np.less,
    "at_most": np.less_equal,
}
_DATES: Final[dict[Comparison, Comparison]] = {"before_date": "less_than", "after_date": "greater_than"}


def beside(how: Comparison, value: Coded, operand: Coded) -> Bools:
    """Return where a comparison of two columns holds; with a moment that is asked for, or time, it is no such."""
    holds = np.zeros(len(value.codes), dtype=np.bool_)
    rows = np.flatnonzero((value.codes >= 0) & (operand.codes >= 0))
    ours, theirs = value.codes[rows].astype(np.int64), operand.codes[rows].astype(np.int64)
    positive = CONTRARY.get(how, how)
    if positive in TEXTS:
        held = _of_texts(positive, value, operand, ours, theirs)
    elif positive in ("equals", "one_of"):
        held = _same(value, operand, ours, theirs)
    elif positive in _DATES:
        held = _ordered(_DATES[positive], _moments(value), _moments(operand), ours, theirs)
    else:
        held = _ordered(positive, _numbers(value), _numbers(operand), ours, theirs)
    holds[rows] = held if positive == how else ~held
    return holds


# ---- order ---------------------------------------------------------------------------------------


class _Ends(NamedTuple):
    """The least and the greatest that is in the value of each code, and whether there is any."""

    least: npt.NDArray[Any]
    greatest: npt.NDArray[Any]
    there: Bools


def _numbers(column: Coded) -> _Ends:
    least, greatest = column.numbers.copy(), column.numbers.copy()
    for code in np.flatnonzero(column.nested).tolist():
        found = [one for item in items(column.values[code]) if (one := number(item)) is not None]
        if found:
            least[code], greatest[code] = min(found), max(found)
    return _Ends(least, greatest, ~np.isnan(least))


def _moments(column: Coded) -> _Ends:
    moments, valid = column.instants
    least, greatest, there = moments.copy(), moments.copy(), valid.copy()
    for code in np.flatnonzero(column.nested).tolist():
        found = [one for item in items(column.values[code]) if (one := instant(item)) is not None]
        if found:
            least[code], greatest[code], there[code] = min(found), max(found), True
    return _Ends(least, greatest, there)


def _ordered(how: Comparison, value: _Ends, operand: _Ends, ours: Int64s, theirs: Int64s) -> Bools:
    greater = how in ("greater_than", "at_least")
    left = value.greatest if greater else value.least
    right = operand.least if greater else operand.greatest
    held: Bools = value.there[ours] & operand.there[theirs] & _ORDERS[how](left[ours], right[theirs])
    return held


# ---- texts ---------------------------------------------------------------------------------------


def _of_texts(how: Comparison, value: Coded, operand: Coded, ours: Int64s, theirs: Int64s) -> Bools:
    """Look for the texts of one value in another, once for each pair of them there is."""
    wanted = list(map(texts_sought, operand.values))
    apart = separator(one for several in wanted for one in several)
    needles = [[needle(how, one, apart) for one in several] for several in wanted]
    # Without a text nothing is in it, not even nothing.
    hays = [
        haystack((text(one) or "" for one in scalars), apart) if scalars else None
        for scalars in map(items, value.values)
    ]
    width = max(len(needles), 1)
    distinct, places = np.unique(ours * width + theirs, return_inverse=True)
    told = [
        (hay := hays[pair // width]) is not None and any(map(hay.__contains__, needles[pair % width]))
        for pair in distinct.tolist()
    ]
    return np.array(told, dtype=np.bool_)[places]


# ---- equality ------------------------------------------------------------------------------------


def _same(value: Coded, operand: Coded, ours: Int64s, theirs: Int64s) -> Bools:
    """Return where values are the same: as numbers if either is one, as texts otherwise."""
    words = pa.concat_arrays([value.words, operand.words]).dictionary_encode().indices
    known = pc.fill_null(words, -1).to_numpy(zero_copy_only=False)
    first, second = known[: len(value.texts)][ours], known[len(value.texts) :][theirs]
    numeric = value.are_numbers[ours] | operand.are_numbers[theirs]
    same: Bools = np.where(numeric, value.numbers[ours] == operand.numbers[theirs], first == second)
    nested = value.nested[ours] | operand.nested[theirs]
    if nested.any():
        same[nested] = _sharing(value, operand, ours[nested], theirs[nested])
    return same


class _Listed(NamedTuple):
    """Numbers of keys, those of each value one after the other."""

    starts: Int64s
    sizes: Int64s
    flat: Int64s

    @classmethod
    def of(cls, listed: list[set[int]]) -> "_Listed":
        sizes = np.fromiter(map(len, listed), np.int64, count=len(listed))
        flat = np.fromiter((one for several in listed for one in several), np.int64, count=int(sizes.sum()))
        return cls(np.cumsum(sizes) - sizes, sizes, flat)


def _sharing(value: Coded, operand: Coded, ours: Int64s, theirs: Int64s) -> Bools:
    """Return for which pairs a scalar of the one equals a scalar of the other.

    64 values of the one side are told at once: each key has a bit for those of them that have it, and each value of
    the other side, as far as it is asked beside one of these, the bits of all of its keys.
    """
    mine, left = np.unique(ours, return_inverse=True)
    others, right = np.unique(theirs, return_inverse=True)
    numbers: dict[Key, int] = {}
    having = _Listed.of(
        [{numbers.setdefault(key, len(numbers)) for key in keys(items(value.values[one]))} for one in mine]
    )
    asking = _Listed.of(
        [
            {numbers[key] for key in keys_sought(items(operand.values[one])) if key in numbers}
            for one in others
        ]
    )
    shared = np.zeros(len(left), dtype=np.bool_)
    bits = np.zeros(len(numbers), dtype=np.uint64)
    order = np.argsort(left, kind="stable")
    edges = np.searchsorted(left[order], np.arange(0, len(mine) + 64, 64))
    for block, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        pairs = order[begin:end]
        sizes = having.sizes[block * 64 : block * 64 + 64]
        first = int(having.starts[block * 64])
        had = having.flat[first : first + int(sizes.sum())]
        np.bitwise_or.at(bits, had, np.repeat(np.uint64(1) << np.arange(len(sizes), dtype=np.uint64), sizes))
        asked, places = np.unique(right[pairs], return_inverse=True)
        found = _bits_of(asking, asked, bits)[places]
        shared[pairs] = (found >> (left[pairs] % 64).astype(np.uint64)) & np.uint64(1)
        bits[had] = 0
    return shared


def _bits_of(asking: _Listed, asked: _Places, bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the bits of all keys of each of some values, which are sorted."""
    found = np.zeros(len(asked), dtype=np.uint64)
    for part in _stretches(asking.sizes[asked]):
        some = asked[part][asking.sizes[asked[part]] > 0]
        if len(some):
            sizes = asking.sizes[some]
            flat = asking.flat[ragged(asking.starts[some], sizes)]
            found[np.searchsorted(asked, some)] = np.bitwise_or.reduceat(bits[flat], np.cumsum(sizes) - sizes)
    return found


def _stretches(sizes: Int64s) -> Iterator[slice]:
    """Yield stretches, of one or more, that have not many more together than are looked at at once."""
    edges = np.flatnonzero(np.diff(np.cumsum(sizes) // SCALARS_AT_ONCE)) + 1
    limits = [0, *edges.tolist(), len(sizes)]
    yield from (slice(low, high) for low, high in pairwise(limits))
