"""One value from many: counts, sums, extremes, the most frequent, first and last, and unique values.

All of them depend on what was given only as a set with multiplicities, never on its order.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from profilelake.semantics.conditions.tree import As, Reduce
from profilelake.semantics.conditions.values import ExactSum, canonical, items, normal, number, plain, text
from profilelake.semantics.definitions import Json

UNIQUE_VALUES_MAX: Final = 1_000
"""Values in a list of different ones: the first in their order. There is no limit to how many are counted."""
UNIQUE_BYTES_MAX: Final = 64 * 1024
"""Bytes of the JSON of such a list, one more for each value: the list ends before the value that passes it."""


class Given(NamedTuple):
    """What one event (or row of an entity) gives to a reduction, and when it happened."""

    timestamp: int
    value: Json


def reduced(reduce: Reduce, given: Sequence[Given]) -> Json:
    """Return what a reduction of the given values is worth; `None` is no value.

    Counts, that of unique values too, are never missing. Everything else is missing where no value counts:
    also the list of unique values is then missing and not empty.
    """
    values = [one.value for one in given]
    match reduce.how:
        case "count":
            return len(given)
        case "sum":
            return _summed(values).total()
        case "avg":
            return _summed(values).average()
        case "min" | "max":
            return _extreme(reduce, values)
        case "mode":
            return _most_frequent(values, reduce.as_type, reduce.least)
        case "first" | "last":
            return _at_an_end(given, first=reduce.how == "first")
        case "unique":
            distinct = {canonical(item): item for item in _items_as(values, reduce.as_type)}
            if reduce.counted:
                return len(distinct)
            names = sorted(distinct, key=lambda name: _rank(distinct[name]))
            return [distinct[name] for name in names[: _fitting(names)]] or None


def _fitting(names: Sequence[str]) -> int:
    """Return how many of the JSON texts, in their order, are in a list that keeps its limits."""
    size = 0
    for place, name in enumerate(names[:UNIQUE_VALUES_MAX]):
        size += len(name.encode()) + 1
        if size > UNIQUE_BYTES_MAX:
            return place
    return min(len(names), UNIQUE_VALUES_MAX)


def _summed(values: Iterable[Json]) -> ExactSum:
    total = ExactSum()
    for numeric in _numbers(values):
        total.add(numeric)
    return total


def _extreme(reduce: Reduce, values: Iterable[Json]) -> Json:
    """Return the least or greatest number, or with `as string` text; that is ordered by its UTF-8 bytes."""
    best = min if reduce.how == "min" else max
    if reduce.as_type == "string":
        # Code points stand in the order of their UTF-8 bytes.
        return best(
            (word for value in values for item in items(value) if (word := text(item)) is not None),
            default=None,
        )
    least = best(_numbers(values), default=None)
    return None if least is None else plain(least)


def _numbers(values: Iterable[Json]) -> Iterable[float]:
    return (numeric for value in values for item in items(value) if (numeric := number(item)) is not None)


def _items_as(values: Iterable[Json], as_type: As | None) -> Iterable[Json]:
    """Return the items to be counted, as they are given back.

    As numbers or strings those that are none are left out, as arrays each whole array is one item and all that
    is no array is left out.
    """
    for value in values:
        if as_type == "array":
            if isinstance(value, list):
                yield normal(value)
            continue
        for item in items(value):
            if as_type == "number":
                numeric = number(item)
                if numeric is not None:
                    yield plain(numeric)
            else:
                yield text(item) if as_type == "string" else normal(item)


def _rank(item: Json) -> tuple[str, str]:
    """Sort items by their text, those of one text (`1` and `"1"`) and arrays, which have none, by their JSON."""
    return (text(item) or "", canonical(item))


def _most_frequent(values: Iterable[Json], as_type: As | None, least: int) -> Json:
    """Return the item that is there most often, if at least so often; among equals the first by `_rank`."""
    known: dict[str, Json] = {}
    often: Counter[str] = Counter()
    for item in _items_as(values, as_type):
        name = canonical(item)
        known[name] = item
        often[name] += 1
    names = [name for name, count in often.items() if count >= least]
    return known[min(names, key=lambda name: (-often[name], _rank(known[name])))] if names else None


def _at_an_end(given: Iterable[Given], *, first: bool) -> Json:
    """Return the whole value of the earliest or latest that has one; at equal times the least or greatest JSON."""
    having = [(one.timestamp, canonical(one.value), one.value) for one in given if one.value is not None]
    if not having:
        return None
    end = min if first else max
    return normal(end(having, key=lambda one: one[:2])[2])
