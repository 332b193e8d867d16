"""Whether one value compares to others as a condition asks.

A comparison is *positive*, or the contrary of one (`differs`, `omits`, `none_of`). A positive one holds where
any scalar of the value holds with any scalar of an operand, so an array means "one of its elements". A contrary
one holds where there is a value, there is an operand, and the positive one does not hold. Missing values satisfy
neither; only `absent` asks for them.

Anybody may send arrays, so what a comparison of two of them costs hardly grows faster than they do: equality is
asked of sets, order of the least and the greatest, and of texts only so many are looked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, Literal, TypeAlias

from profilelake.semantics.conditions.tree import Comparison, Duration, Instant
from profilelake.semantics.conditions.values import (
    Scalar,
    equal,
    instant,
    is_number,
    items,
    number,
    text,
)
from profilelake.semantics.definitions import Json

Side: TypeAlias = "Json | Instant"
"""A value of either side. A moment written without quotes is kept as one: it compares with moments only."""
Asked: TypeAlias = "Side | Duration"
"""What a value is compared with."""
Key: TypeAlias = tuple[Literal["number", "read", "text"], float | str]
"""What makes scalars equal: a number, the number that a text reads as, or a text."""

TEXTS_SOUGHT_MAX: Final = 100
"""Scalars of an array that are looked for in a value, or at its beginning or end: the first."""
FEW: Final = 4
"""Up to so many pairs of scalars are held to each other: that is quicker than anything."""

CONTRARY: Final[dict[Comparison, Comparison]] = {
    "differs": "equals",
    "omits": "contains",
    "none_of": "one_of",
}


class Looked:
    """A side of a comparison that is looked into once, however often it is compared."""

    def __init__(self, side: Asked) -> None:
        self.side = side
        self.scalars = _scalars(side)

    @cached_property
    def keys(self) -> frozenset[Key]:
        """What its scalars are equal by."""
        return frozenset(keys(self._json))

    @cached_property
    def keys_sought(self) -> frozenset[Key]:
        """What is among the keys of scalars that equal one of these."""
        return frozenset(keys_sought(self._json))

    @cached_property
    def numbers(self) -> tuple[float, float] | None:
        """The least and the greatest number in it."""
        found = [one for one in map(number, self._json) if one is not None]
        return (min(found), max(found)) if found else None

    @cached_property
    def moments(self) -> tuple[int, int] | None:
        """The earliest and the latest moment in it."""
        found = [one for one in map(instant, self._json) if one is not None]
        return (min(found), max(found)) if found else None

    @cached_property
    def hay(self) -> tuple[str, str]:
        """One text in which its texts stand apart, and the character between them, which none of them has."""
        texts = [_written(scalar) for scalar in self._json]
        apart = separator(texts)
        return haystack(texts, apart), apart

    @property
    def _json(self) -> Sequence[Scalar]:
        # Moments without quotes and amounts of time come alone and are never looked into.
        return self.scalars  # type: ignore[return-value]


def compares(how: Comparison, value: "Side | Looked", operands: "Sequence[Asked | Looked]", at: int) -> bool:
    """Tell whether a comparison holds at a time (microseconds).

    Operands that are missing count for nothing, and where all are, nothing but `exists` and `absent` holds.
    """
    there = _side(value) is not None
    if how in ("exists", "absent"):
        return there is (how == "exists")
    given = [operand for operand in operands if _side(operand) is not None]
    if not there or not given:
        return False
    if how in CONTRARY:
        return not _any(CONTRARY[how], value, given, at)
    return _any(how, value, given, at)


def _side(side: "Asked | Looked") -> Asked:
    return side.side if isinstance(side, Looked) else side


def _any(how: Comparison, value: "Side | Looked", operands: "Sequence[Asked | Looked]", at: int) -> bool:
    ones = value.scalars if isinstance(value, Looked) else _scalars(value)
    for operand in operands:
        others = operand.scalars if isinstance(operand, Looked) else _scalars(operand)
        if how in TEXTS:
            others = others[:TEXTS_SOUGHT_MAX]
        if len(ones) * len(others) > FEW and not _alone(value) and not _alone(operand):
            holds = _any_of(how, _looked(value), _looked(operand))
        else:
            holds = any(_holds(how, one, other, at) for one in ones for other in others)
        if holds:
            return True
    return False


def _alone(side: "Asked | Looked") -> bool:
    return isinstance(_side(side), Instant | Duration)


def _looked(side: "Asked | Looked") -> Looked:
    return side if isinstance(side, Looked) else Looked(side)


def _any_of(how: Comparison, value: Looked, other: Looked) -> bool:
    """Tell whether any scalar of a value holds with any of another, without holding each to each."""
    if how in _TEXTS:
        hay, apart = value.hay
        return any(
            apart not in wanted and needle(how, wanted, apart) in hay for wanted in texts_sought(other.side)
        )
    if how in ("equals", "one_of"):
        return not value.keys.isdisjoint(other.keys_sought)
    if how in _DATES:
        return _ends_hold(_DATES[how], value.moments, other.moments)
    return how in _ORDERS and _ends_hold(how, value.numbers, other.numbers)


def _ends_hold(how: Comparison, ones: tuple[float, float] | None, others: tuple[float, float] | None) -> bool:
    if ones is None or others is None:
        return False
    (least, greatest), (least_other, greatest_other) = ones, others
    if how in ("greater_than", "at_least"):
        return _ORDERS[how](greatest, least_other)
    return _ORDERS[how](least, greatest_other)


def keys(scalars: Iterable[Scalar]) -> Iterator[Key]:
    """Yield what scalars are equal by: they equal others if they share a key with what is sought of these."""
    for scalar in scalars:
        numeric = number(scalar)
        if is_number(scalar):
            yield "number", numeric or 0.0
            continue
        yield "text", _written(scalar)
        if numeric is not None:
            yield "read", numeric


def keys_sought(scalars: Iterable[Scalar]) -> Iterator[Key]:
    """Yield what has to be among the keys of scalars that equal these.

    Equality is no matter of classes: `10` equals `"10"` and `"10.0"`, but these two differ.
    """
    for scalar in scalars:
        numeric = number(scalar)
        if is_number(scalar):
            yield "number", numeric or 0.0
            yield "read", numeric or 0.0
            continue
        yield "text", _written(scalar)
        if numeric is not None:
            yield "number", numeric


def separator(texts: Iterable[str]) -> str:
    """Return a character that none of some texts has in it."""
    used = set().union(*texts)
    # No text holds all that there are: halves of a pair, which are among them, are not written alone.
    return next(one for one in map(chr, range(1, 0x110000)) if one not in used)


def haystack(texts: Iterable[str], apart: str) -> str:
    """Return one text in which each of some texts, at least one, stands apart."""
    return f"{apart}{apart.join(texts)}{apart}"


def needle(how: Comparison, wanted: str, apart: str) -> str:
    """Return what is in a haystack where one of its texts has a wanted text in it, or begins or ends so."""
    if how == "starts_with":
        return apart + wanted
    return wanted + apart if how == "ends_with" else wanted


def texts_sought(value: Asked) -> list[str]:
    """Return the texts that are looked for where a value is what a text is compared with."""
    return [_text(scalar) or "" for scalar in _scalars(value)[:TEXTS_SOUGHT_MAX]]  # type: ignore[arg-type]


def _written(scalar: Scalar) -> str:
    return text(scalar) or ""


def _scalars(side: Asked) -> Sequence[Asked]:
    return [side] if isinstance(side, Instant | Duration) else items(side)


def _holds(how: Comparison, one: Asked, other: Asked, at: int) -> bool:
    if how in _RELATIVE:
        moment = moment_of(one)
        return moment is not None and isinstance(other, Duration) and _RELATIVE[how](moment, at, other.micros)
    if isinstance(one, Duration) or isinstance(other, Duration):
        return False
    if how in ("equals", "one_of") and not (isinstance(one, Instant) or isinstance(other, Instant)):
        return equal(one, other)
    if how in _TEXTS:
        return _ordered(_TEXTS[how], _text(one), _text(other))
    if how in _DATES or isinstance(one, Instant) or isinstance(other, Instant):
        return _ordered(_ORDERS[_DATES.get(how, how)], moment_of(one), moment_of(other))
    return _ordered(_ORDERS[how], number(one), number(other))


def moment_of(side: Asked) -> int | None:
    """Return the moment that a side of a comparison names."""
    if isinstance(side, Instant):
        return side.at
    return None if isinstance(side, Duration) else instant(side)


def _text(side: Side) -> str | None:
    return None if isinstance(side, Instant) else text(side)


def _ordered(test: Callable[..., bool], one: object, other: object) -> bool:
    return one is not None and other is not None and test(one, other)


_ORDERS: Final[dict[Comparison, Callable[..., bool]]] = {
    "equals": lambda a, b: a == b,
    "one_of": lambda a, b: a == b,
    "greater_than": lambda a, b: a > b,
    "at_least": lambda a, b: a >= b,
    "less_than": lambda a, b: a < b,
    "at_most": lambda a, b: a <= b,
}
_DATES: Final[dict[Comparison, Comparison]] = {"before_date": "less_than", "after_date": "greater_than"}
TEXTS: Final[frozenset[Comparison]] = frozenset({"contains", "omits", "starts_with", "ends_with"})
"""Comparisons of texts."""
_TEXTS: Final[dict[Comparison, Callable[..., bool]]] = {
    "contains": lambda a, b: b in a,
    "starts_with": lambda a, b: a.startswith(b),
    "ends_with": lambda a, b: a.endswith(b),
}
_RELATIVE: Final[dict[Comparison, Callable[[int, int, int], bool]]] = {
    "within_last": lambda moment, at, span: at - span <= moment <= at,
    "within_next": lambda moment, at, span: at <= moment <= at + span,
    "before_last": lambda moment, at, span: moment < at - span,
    "after_next": lambda moment, at, span: moment > at + span,
}
