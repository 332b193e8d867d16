"""Whether one value compares to others as a condition asks.

A comparison is *positive*, or the contrary of one (`differs`, `omits`, `none_of`). A positive one holds where
any scalar of the value holds with any scalar of an operand, so an array means "one of its elements". A contrary
one holds where there is a value, there is an operand, and the positive one does not hold. Missing values satisfy
neither; only `absent` asks for them.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from profilelake.semantics.conditions.tree import Comparison, Duration, Instant
from profilelake.semantics.conditions.values import equal, instant, items, number, text
from profilelake.semantics.definitions import Json

Side: TypeAlias = "Json | Instant"
"""A value of either side. A moment written without quotes is kept as one: it compares with moments only."""
Asked: TypeAlias = "Side | Duration"
"""What a value is compared with."""

CONTRARY: Final[dict[Comparison, Comparison]] = {
    "differs": "equals",
    "omits": "contains",
    "none_of": "one_of",
}


def compares(how: Comparison, value: Side, operands: Sequence[Asked], at: int) -> bool:
    """Tell whether a comparison holds at a time (microseconds).

    Operands that are missing count for nothing, and where all are, nothing but `exists` and `absent` holds.
    """
    if how == "exists":
        return value is not None
    if how == "absent":
        return value is None
    given = [operand for operand in operands if operand is not None]
    if value is None or not given:
        return False
    if how in CONTRARY:
        return not _any(CONTRARY[how], value, given, at)
    return _any(how, value, given, at)


def _any(how: Comparison, value: Side, operands: Sequence[Asked], at: int) -> bool:
    return any(
        _holds(how, one, other, at)
        for one in _scalars(value)
        for operand in operands
        for other in _scalars(operand)
    )


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
