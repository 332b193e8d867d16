"""How many of the events that follow an event have one of its values: a hash join, never pair by pair.

Values are the same as `semantics.conditions.values.equal` says, which is not a matter of classes: 10 equals "10" and
"10.0", but these two differ. So an event is listed under each number and text that may be asked for, and what asks
adds lists up. Only an array that asks has to look at what is in several lists, and no further than it has to be counted.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

from profilelake.semantics.conditions.values import Scalar, is_number, items, number, text
from profilelake.traits.columns import Coded, Int32s, Int64s
from profilelake.traits.following import Runs
from profilelake.traits.ownership import ragged

LOOKED_UP_AT_ONCE: Final = 1 << 20
"""Events in lists that are gone through at once."""

_Key: TypeAlias = tuple[Literal["number", "json", "text", "both"], float | str]
"""A list: what has a number in it, as a JSON number or as text; a JSON number; a text; a text and its number."""


def same_counts(values: Coded, asking: Coded, runs: Runs, up_to: int) -> Int64s:
    """Return how many events of each run have a value that the asking event has, exactly as far as `up_to`.

    `values` are those of the events that runs are of, `asking` those of the events that ask.
    """
    lists = _Lists(values)
    singles, several = _lookups(asking, lists.numbers)
    counts = _in_lists(lists, asking, singles, runs) + _in_any(lists, asking, several, runs, up_to)
    exact: Int64s = np.minimum(counts, up_to)
    return exact


class _Lists:
    """Events by what they are listed under: sorted by list and place."""

    def __init__(self, values: Coded) -> None:
        self.numbers: dict[_Key, int] = {}
        listed: list[int] = []
        sizes = np.zeros(len(values.texts), dtype=np.int64)
        for code, value in enumerate(values.values):
            keys = set(_listed_under(items(value)))
            sizes[code] = len(keys)
            listed += [self.numbers.setdefault(key, len(self.numbers)) for key in keys]
        starts = np.cumsum(sizes) - sizes
        having = np.flatnonzero(values.codes >= 0)
        codes = values.codes[having]
        places = np.repeat(having, sizes[codes])
        lists = np.array(listed, dtype=np.int64)[ragged(starts[codes], sizes[codes])]
        self._width = len(values.codes) + 1
        self._sorted = np.sort(lists * self._width + places)

    def between(self, lists: Int64s, low: Int64s, high: Int64s) -> tuple[Int64s, Int64s]:
        """Return where the events of lists from one place up to another begin and end."""
        begin = np.searchsorted(self._sorted, lists * self._width + low)
        end = np.searchsorted(self._sorted, lists * self._width + high)
        return begin, end

    def places(self, at: Int64s) -> Int64s:
        """Return the places of events."""
        return self._sorted[at] % self._width


class _Lookups(NamedTuple):
    """Lists that each code asks for, with 1 to add them and -1 to take them away."""

    starts: Int64s
    sizes: Int64s
    lists: Int64s
    signs: Int64s

    def of(self, codes: Int32s | Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Return the lists of codes one after the other: the place of the code, the list and the sign."""
        sizes = np.where(codes >= 0, self.sizes[codes], 0)
        chosen = ragged(self.starts[codes], sizes)
        return np.repeat(np.arange(len(codes)), sizes), self.lists[chosen], self.signs[chosen]


def _lookups(asking: Coded, known: dict[_Key, int]) -> tuple[_Lookups, _Lookups]:
    """Return what is asked for by codes of one scalar, and by those of several."""
    told: tuple[list[list[tuple[_Key, int]]], list[list[tuple[_Key, int]]]] = ([], [])
    for value in asking.values:
        scalars = items(value)
        one = len(scalars) == 1
        told[0].append(list(_asked_for(scalars[0])) if one else [])
        told[1].append(
            []
            if one
            else [
                (key, 1)
                for key in {key for item in scalars for key, _ in _asked_for(item)}
                if key[0] != "both"
            ]
        )
    return _numbered(told[0], known), _numbered(told[1], known)


def _numbered(told: Sequence[Sequence[tuple[_Key, int]]], known: dict[_Key, int]) -> _Lookups:
    there = [[(known[key], sign) for key, sign in one if key in known] for one in told]
    sizes = np.array([*map(len, there), 0], dtype=np.int64)
    flat = np.array([pair for one in there for pair in one], dtype=np.int64).reshape(-1, 2)
    return _Lookups(np.cumsum(sizes) - sizes, sizes, flat[:, 0], flat[:, 1])


def _listed_under(scalars: Sequence[Scalar]) -> Iterator[_Key]:
    of_json = {number(scalar) for scalar in scalars if is_number(scalar)}
    for scalar in scalars:
        numeric = number(scalar)
        if numeric is not None:
            yield "number", numeric
        if is_number(scalar):
            yield "json", numeric or 0.0
            continue
        said = text(scalar) or ""
        yield "text", said
        if numeric is not None and numeric in of_json:
            yield "both", said


def _asked_for(scalar: Scalar) -> Iterator[tuple[_Key, int]]:
    numeric = number(scalar)
    if is_number(scalar):
        yield ("number", numeric or 0.0), 1
        return
    said = text(scalar) or ""
    yield ("text", said), 1
    if numeric is not None:
        yield ("json", numeric), 1
        # What has the text and the number was in both lists.
        yield ("both", said), -1


def _in_lists(lists: _Lists, asking: Coded, lookups: _Lookups, runs: Runs) -> Int64s:
    """Count for those that ask with one scalar."""
    who, which, signs = lookups.of(asking.codes)
    begin, end = lists.between(which, runs.low[who], runs.high[who])
    found = end - begin
    own = runs.own[who]
    begin, end = lists.between(which, np.maximum(own, 0), np.maximum(own, 0) + 1)
    found -= np.where(own >= 0, end - begin, 0)
    counts = np.zeros(len(asking.codes), dtype=np.int64)
    np.add.at(counts, who, signs * found)
    return counts


def _in_any(lists: _Lists, asking: Coded, lookups: _Lookups, runs: Runs, up_to: int) -> Int64s:
    """Count for those that ask with several scalars: of each list so many that one more than enough is found."""
    counts = np.zeros(len(asking.codes), dtype=np.int64)
    rows = np.flatnonzero((asking.codes >= 0) & (lookups.sizes[asking.codes] > 0))
    many = np.cumsum(lookups.sizes[asking.codes[rows]] * (up_to + 1))
    for part in np.split(rows, np.flatnonzero(np.diff(many // LOOKED_UP_AT_ONCE)) + 1):
        who, which, _ = lookups.of(asking.codes[part])
        begin, end = lists.between(which, runs.low[part][who], runs.high[part][who])
        sizes = np.minimum(end - begin, up_to + 1)
        found = np.repeat(who, sizes)
        places = lists.places(ragged(begin, sizes))
        other = places != runs.own[part][found]
        width = int(places.max(initial=0)) + 1
        distinct = np.unique(found[other] * width + places[other])
        counts[part] = np.bincount(distinct // width, minlength=len(part))
    return counts
