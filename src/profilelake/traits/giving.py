"""What events give to a reduction: the numbers and the values in them, one row per element of an array."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

import numpy as np

from profilelake.kernels.json_paths import Floats, Ints, Longs
from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.values import canonical, items, normal, number, plain, text
from profilelake.semantics.definitions import Json
from profilelake.traits.found import Coded, Column, decode
from profilelake.traits.steps import DIGEST_BYTES, Gives

KNOWN_MAX: Final = 65_536
"""Texts whose values are kept for the next micro-batch."""
KNOWN_TEXT_MAX: Final = 256
"""Characters of a text whose values are kept."""
_OF_TEXTS: Final[frozenset[Gives]] = frozenset({"each", "string", "first", "last"})
"""What gives a text as it is."""
_T = TypeVar("_T")


class Given(NamedTuple):
    """Numbers of events: which event each comes from (ascending), and the number."""

    events: Longs
    numbers: Floats


class GivenValues(NamedTuple):
    """Values of events: which event each comes from (ascending), and which of the distinct values it is.

    These are sorted by digest.
    """

    events: Longs
    values: Ints
    distinct: Sequence["Value"]


class Value(NamedTuple):
    """One JSON value: its digest, and its canonical text."""

    digest: bytes
    text: str


def numbers_given(column: Column, chosen: Longs) -> Given:
    """Return the numbers that the chosen events give."""
    numeric = column.numeric[chosen]
    events = np.flatnonzero(numeric)
    numbers = column.numbers[chosen[events]]
    if len(events) == len(chosen) or not column.others.texts:
        return Given(events, numbers)
    others, which, values = _spread(column.others, chosen, _numbers_of)
    events = np.concatenate([events, others])
    order = np.argsort(events, kind="stable")
    numbers = np.concatenate([numbers, np.array(values, dtype=np.float64)[which]])
    return Given(events[order], numbers[order])


def values_given(column: Column, chosen: Longs, what: Gives) -> GivenValues:
    """Return the values that the chosen events give."""
    events, which, values = _spread(column.all, chosen, lambda said: _values_of(said, what))
    distinct = sorted(set(values))
    numbers = {value.digest: number for number, value in enumerate(distinct)}
    same = np.array([numbers[value.digest] for value in values], dtype=np.int32)
    return GivenValues(events, same[which], distinct)


def digest_words(values: Sequence[Value]) -> Words:
    """Return digests as rows of two numbers, big-endian halves as in `VALUES`."""
    joined = b"".join(value.digest for value in values)
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _spread(
    coded: Coded, chosen: Longs, given: Callable[[str], Sequence[_T]]
) -> tuple[Longs, Longs, list[_T]]:
    """Return what each event gives, one row each: the event, and the place among all that was given by any text."""
    codes = coded.codes[chosen]
    having = np.flatnonzero(codes >= 0)
    codes = codes[having]
    sizes = np.zeros(len(coded.texts), dtype=np.int64)
    values: list[_T] = []
    asked = np.unique(codes)
    for code in asked.tolist():
        found = given(coded.texts[code])
        sizes[code] = len(found)
        values += found
    starts = np.zeros(len(coded.texts), dtype=np.int64)
    starts[asked] = np.cumsum(sizes[asked]) - sizes[asked]
    repeated = sizes[codes]
    events = np.repeat(having, repeated)
    begin = np.repeat(starts[codes], repeated)
    first = np.repeat(np.cumsum(repeated) - repeated, repeated)
    return events, begin + np.arange(len(events)) - first, values


def _numbers_of(said: str) -> Sequence[float]:
    return _known_numbers(said) if len(said) <= KNOWN_TEXT_MAX else _known_numbers.__wrapped__(said)


def _values_of(said: str, what: Gives) -> Sequence[Value]:
    return _known_values(said, what) if len(said) <= KNOWN_TEXT_MAX else _known_values.__wrapped__(said, what)


@lru_cache(maxsize=KNOWN_MAX)
def _known_numbers(said: str) -> tuple[float, ...]:
    return tuple(found for item in items(decode(said)) if (found := number(item)) is not None)


@lru_cache(maxsize=KNOWN_MAX)
def _known_values(said: str, what: Gives) -> tuple[Value, ...]:
    if said[0] == '"' and "\\" not in said and what in _OF_TEXTS:
        return (_value(said),)  # is canonical already
    return tuple(_value(canonical(item)) for item in _items(decode(said), what))


def _value(said: str) -> Value:
    return Value(blake2b(said.encode(), digest_size=DIGEST_BYTES).digest(), said)


def _items(value: Json, what: Gives) -> list[Json]:
    match what:
        case "first" | "last":
            return [] if value is None else [value]
        case "array":
            return [normal(value)] if isinstance(value, list) else []
        case "number":
            return [plain(found) for item in items(value) if (found := number(item)) is not None]
        case "string":
            return [text(item) for item in items(value)]
        case "each":
            return [normal(item) for item in items(value)]
