"""Comparisons that can never hold, or always do, and operands that are not what a comparison needs."""

import math
import re
from collections.abc import Iterator
from typing import Final

from profilelake.semantics.conditions.findings import Finding
from profilelake.semantics.conditions.text import shown
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Compare,
    Comparison,
    Constant,
    Duration,
    Instant,
    Operand,
    Reduce,
)
from profilelake.semantics.conditions.values import instant, number
from profilelake.semantics.conditions.vocabulary import SEVERAL

_ORDERED: Final[frozenset[Comparison]] = frozenset({"greater_than", "at_least", "less_than", "at_most"})
_DATES: Final[frozenset[Comparison]] = frozenset({"before_date", "after_date"})
_EQUAL: Final[frozenset[Comparison]] = frozenset({"equals", "one_of", "differs", "none_of"})
_SUBSTRING: Final[frozenset[Comparison]] = frozenset({"contains", "omits", "starts_with", "ends_with"})

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(.*)", re.DOTALL)


def of_comparison(node: Compare) -> Iterator[Finding]:
    """Yield what is to say of one comparison and its operands."""
    wrong = _operands(node)
    if wrong is not None:
        yield wrong
        return
    if isinstance(node.value, Constant | Instant) and not any(map(_varies, node.operands)):
        message = f"{shown(node)} compares two constants, so it is the same for everybody; compare a trait"
        yield _error(node, "constant", message)
        return
    if _is_numeric(node.value):
        yield from _of_number(node, counted=_is_count(node.value))
    if node.how in _SUBSTRING and any(_is_empty(operand) for operand in node.operands):
        yield _warning(
            node, "empty_text", f"{node.how}('') asks for nothing: every text has an empty one in it"
        )


def contradictions(node: And) -> Iterator[Finding]:
    """Yield the conditions of an AND that ask one number to be in two places at once."""
    bounds: dict[Reduce, _Range] = {}
    for part in node.parts:
        if not (isinstance(part, Compare) and isinstance(part.value, Reduce) and _is_numeric(part.value)):
            continue
        wanted = [_constant_number(operand) for operand in part.operands]
        if len(wanted) != 1 or wanted[0] is None or part.how not in (*_ORDERED, "equals"):
            continue
        before = bounds.get(part.value, _Range())
        bounds[part.value] = before.narrowed(part.how, wanted[0])
        if before.possible() and not bounds[part.value].possible():
            message = f"{shown(part)} can never hold together with what is asked before of the same number"
            yield _error(part, "never", message)


class _Range:
    """The numbers that meet all that was asked so far."""

    def __init__(
        self, least: float = -math.inf, most: float = math.inf, *, above: bool = False, below: bool = False
    ) -> None:
        self._least, self._above = least, above
        self._most, self._below = most, below

    def narrowed(self, how: Comparison, bound: float) -> "_Range":
        """Return the numbers of this that also compare so."""
        least, most = (self._least, not self._above), (self._most, self._below)
        if how in ("greater_than", "at_least", "equals"):
            least = max(least, (bound, how != "greater_than"), key=lambda end: (end[0], not end[1]))
        if how in ("less_than", "at_most", "equals"):
            most = min(most, (bound, how == "less_than"), key=lambda end: (end[0], not end[1]))
        return _Range(least[0], most[0], above=not least[1], below=most[1])

    def possible(self) -> bool:
        """Tell whether any number is left."""
        return self._least < self._most or (self._least == self._most and not (self._above or self._below))


def _operands(node: Compare) -> Finding | None:
    """Return what is wrong with the operands of a comparison: how many there are first, then the first bad one."""
    given = len(node.operands)
    if node.how in ("exists", "absent"):
        return _error(node, "operands", f"{node.how}() takes no value") if given else None
    if given == 0 or (given > 1 and node.how not in SEVERAL):
        many = "at least one value" if node.how in SEVERAL else "one value"
        return _error(node, "operands", f"{node.how}() takes {many}, not {given}")
    for operand in node.operands:
        problem = _operand(node.how, operand)
        if problem is not None:
            place = operand if operand.span is not None else node
            return Finding("error", problem[0], problem[1], place.span)
    return None


def _operand(how: Comparison, operand: Operand) -> tuple[str, str] | None:
    if how in RELATIVE:
        if not isinstance(operand, Duration):
            return "no_duration", f"{how}() takes an amount of time, such as 7 days"
        return (
            ("no_duration", f"{how}() takes an amount of time that is not zero")
            if operand.micros < 1
            else None
        )
    if isinstance(operand, Duration):
        return "no_value", f"{how}() takes a value, not an amount of time"
    if not isinstance(operand, Constant):
        return None
    if how in _DATES:
        return "no_date", _no_date(operand)
    if how in _ORDERED and _constant_number(operand) is None:
        return "no_number", _no_number(how, operand)
    if how in _SUBSTRING and isinstance(operand.value, bool):
        return "no_text", f"{how}() looks for a text; put it in quotes: '{shown(operand)}'"
    return None


def _no_date(operand: Constant) -> str:
    said = shown(operand)
    day = _DAY.fullmatch(operand.value) if isinstance(operand.value, str) else None
    if day is not None and len(day.group(1)) > 1 and _zoned(f"{operand.value}Z"):
        return f"{said} has no time zone; add Z for UTC: '{operand.value}Z'"
    return f"{said} is no date; write 2026-01-31, or a time with its zone: 2026-01-31T12:00:00Z"


def _zoned(text: str) -> bool:
    return instant(text) is not None


def _no_number(how: Comparison, operand: Constant) -> str:
    said = shown(operand)
    if isinstance(operand.value, str) and _DAY.fullmatch(operand.value):
        other = "before_date" if how in ("less_than", "at_most") else "after_date"
        return f"{said} is no number, and only numbers are greater or less; for dates use .{other}({said})"
    return f"{said} is no number, and only numbers are greater or less; compare with a number, or with ="


def _of_number(node: Compare, *, counted: bool) -> Iterator[Finding]:
    """Yield what is to say of a comparison whose value is a number if it is anything."""
    said = shown(node)
    if node.how in _DATES or node.how in RELATIVE:
        yield _error(node, "never", f"{said} can never hold: the value is a number, not a date")
        return
    if counted and node.how in ("exists", "absent"):
        always = "always holds" if node.how == "exists" else "can never hold"
        yield _always_or_never(node, node.how == "exists", f"{always}: a count is always there; compare it")
        return
    if node.how not in _EQUAL and node.how not in _ORDERED:
        return
    numbers = [_constant_number(operand) for operand in node.operands]
    if any(one is None and _varies(operand) for one, operand in zip(numbers, node.operands, strict=True)):
        return
    possible = [one for one in numbers if one is not None and _can_be(one, counted=counted)]
    if node.how in _EQUAL and not possible:
        asked = "a count is a whole number from 0 on" if counted else "the value is a number"
        negative = node.how in ("differs", "none_of")
        yield _always_or_never(
            node, negative, f"{'always holds' if negative else 'can never hold'}: {asked}; compare with such"
        )
    if node.how in _ORDERED and counted and numbers[0] is not None:
        yield from _of_ordered_count(node, numbers[0])


def _of_ordered_count(node: Compare, wanted: float) -> Iterator[Finding]:
    if (node.how == "at_least" and wanted <= 0) or (node.how == "greater_than" and wanted < 0):
        yield _always_or_never(node, True, "always holds: a count is never less than 0; was >= 1 meant?")
    if (node.how == "less_than" and wanted <= 0) or (node.how == "at_most" and wanted < 0):
        yield _always_or_never(node, False, "can never hold: a count is never less than 0; was = 0 meant?")


def _always_or_never(node: Compare, always: bool, why: str) -> Finding:
    message = f"{shown(node)} {why}"
    return _warning(node, "always", message) if always else _error(node, "never", message)


def _can_be(wanted: float, *, counted: bool) -> bool:
    return not counted or (wanted >= 0 and wanted == math.floor(wanted))


def _is_numeric(value: Operand) -> bool:
    """Tell whether a value can be nothing but a number."""
    if not isinstance(value, Reduce):
        return False
    if value.how in ("min", "max"):
        return value.as_type != "string"
    return value.how in ("sum", "avg") or _is_count(value)


def _is_count(value: Operand) -> bool:
    return isinstance(value, Reduce) and (value.how == "count" or value.counted)


def _constant_number(operand: Operand) -> float | None:
    """Return the number of a constant that has one."""
    return number(operand.value) if isinstance(operand, Constant) else None


def _varies(operand: Operand) -> bool:
    return not isinstance(operand, Constant | Instant)


def _is_empty(operand: Operand) -> bool:
    return isinstance(operand, Constant) and operand.value == ""


def _error(node: Compare, code: str, message: str) -> Finding:
    return Finding("error", code, message, node.span)


def _warning(node: Compare, code: str, message: str) -> Finding:
    return Finding("warning", code, message, node.span)
