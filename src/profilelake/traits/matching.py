"""Whether events meet what a step asks of them once and for all, for whole columns of events.

Numbers are compared as columns. Everything else is asked of the reference, once per distinct value: there is one
meaning of a comparison, and no second one here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from profilelake.semantics.conditions.evaluate import Here, Occurred, Subject, meets
from profilelake.semantics.conditions.pairing import static_part
from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Not,
    Or,
    Path,
    Property,
)
from profilelake.semantics.conditions.values import number
from profilelake.semantics.definitions import Json
from profilelake.traits.found import Bools, Column, decode
from profilelake.traits.steps import nodes

ANSWERS_MAX: Final = 32_768
"""Answers of the reference that are kept for the next micro-batch."""
ANSWER_TEXT_MAX: Final = 256
"""Characters of a value whose answer is kept."""

_NUMERIC: Final[Mapping[Comparison, np.ufunc]] = {
    "equals": np.equal,
    "one_of": np.equal,
    "differs": np.equal,
    "none_of": np.equal,
    "greater_than": np.greater,
    "at_least": np.greater_equal,
    "less_than": np.less,
    "at_most": np.less_equal,
}
_CONTRARY: Final = frozenset({"differs", "none_of"})


def of_parts(condition: And | Or | Not, holds: Callable[[Condition], Bools]) -> Bools:
    """Return where a condition of conditions holds, with what `holds` says of each of its parts."""
    match condition:
        case And(parts=parts):
            both: Bools = np.logical_and.reduce([holds(part) for part in parts])
            return both
        case Or(parts=parts):
            either: Bools = np.logical_or.reduce([holds(part) for part in parts])
            return either
        case Not(of=of):
            return ~holds(of)


class Matching:
    """Events of one name with the columns of what their steps ask for; each condition is answered once."""

    def __init__(self, count: int, properties: Mapping[Path, Column], context: Mapping[Path, Column]) -> None:
        self.count = count
        self.properties = properties
        self.context = context
        self._known: dict[Condition, Bools] = {}

    def holds(self, condition: Condition | None) -> Bools:
        """Return which events meet a condition that `steps.static` says does not depend on anything else."""
        if condition is None:
            return np.ones(self.count, dtype=np.bool_)
        known = self._known.get(condition)
        if known is None:
            known = self._known[condition] = self._holds(condition)
        return known

    def may_hold(self, condition: Condition | None) -> Bools:
        """Return which events meet a condition as far as it is static; the others never will."""
        return self.holds(static_part(condition))

    def _holds(self, condition: Condition) -> Bools:
        match condition:
            case And() | Or() | Not():
                return of_parts(condition, self.holds)
            case Compare(value=Property() | Context() as value, operands=operands) if all(
                isinstance(operand, Constant) for operand in operands
            ):
                return self._compared(condition, self.column(value))
            case _:
                return self._answered(condition)

    def column(self, value: Property | Context) -> Column:
        """Return what the events say at the path of a property or context value."""
        return (self.context if isinstance(value, Context) else self.properties)[value.path]

    def _compared(self, condition: Compare, column: Column) -> Bools:
        """Compare one value of each event with constants."""
        if condition.how == "exists":
            return column.present
        if condition.how == "absent":
            return ~column.present
        leaf = _leaf(condition)
        if condition.how not in _NUMERIC:
            return column.all.each(leaf)
        compare = _NUMERIC[condition.how]
        mask = np.zeros(self.count, dtype=np.bool_)
        for operand in condition.operands:
            limit = number(operand.value) if isinstance(operand, Constant) else None
            if limit is not None:
                mask |= compare(column.numbers, limit)
        if condition.how in _CONTRARY:
            mask = ~mask
        mask &= column.numeric
        return mask | column.others.each(leaf)

    def _answered(self, condition: Condition) -> Bools:
        """Ask the reference once per distinct combination of the values a condition looks at."""
        read = [node for node in nodes(condition) if isinstance(node, Property | Context)]
        values = list(
            dict.fromkeys(node for node in read if isinstance(node, Context) or node.scope == "event")
        )
        if len(values) == 1:
            column = self.column(values[0])
            leaf = _leaf(condition)
            return np.where(column.present, column.all.each(leaf), leaf(None))
        coded = [self.column(value).all for value in values]
        combined = np.zeros(self.count, dtype=np.int64)
        for one in coded:
            combined = combined * (len(one.texts) + 1) + one.codes + 1
        _, firsts, inverse = np.unique(combined, return_index=True, return_inverse=True)
        answers = np.fromiter(
            (_reference(condition, values, [one.text(first) for one in coded]) for first in firsts),
            dtype=np.bool_,
            count=len(firsts),
        )
        return answers[inverse]


def _leaf(condition: Condition) -> "_Leaf":
    return _leaves(condition)


class _Leaf:
    """A condition on one value, asked of the reference; what it said of short values is kept."""

    def __init__(self, condition: Condition) -> None:
        read = [node for node in nodes(condition) if isinstance(node, Property | Context)]
        self._condition = condition
        self._values = [next(node for node in read if isinstance(node, Context) or node.scope == "event")]
        self._known: dict[str | None, bool] = {}

    def __call__(self, text: str | None) -> bool:
        answer = self._known.get(text)
        if answer is None:
            answer = _reference(self._condition, self._values, [text])
            if text is None or len(text) <= ANSWER_TEXT_MAX:
                if len(self._known) == ANSWERS_MAX // 16:
                    self._known.clear()
                self._known[text] = answer
        return answer


@lru_cache(maxsize=1024)
def _leaves(condition: Condition) -> _Leaf:
    return _Leaf(condition)


def _reference(
    condition: Condition, values: Sequence[Property | Context], texts: Sequence[str | None]
) -> bool:
    """Return what the reference says of an event that has these values and no others."""
    said = [
        (value, None if text is None else decode(text)) for value, text in zip(values, texts, strict=True)
    ]
    return meets(condition, Here(Subject(), 0, event=saying(said)))


def saying(said: Iterable[tuple[Property | Context, Json]]) -> Occurred:
    """Return an event that says so at these paths, and nothing else."""
    told: tuple[dict[str, Json], dict[str, Json]] = ({}, {})
    # The shorter path first: its value holds what the longer one leads to.
    for value, json in sorted(said, key=lambda pair: len(pair[0].path)):
        if json is not None:
            _put(told[isinstance(value, Context)], value.path, json)
    return Occurred("", 0, properties=told[0], context=told[1])


def _put(into: dict[str, Json], path: Path, value: Json) -> None:
    for key in path[:-1]:
        below = into.setdefault(key, {})
        if not isinstance(below, dict):
            return
        into = below
    into.setdefault(path[-1], value)
