"""Which reductions inside of `where` are worked out pair by pair, and how many events these look at.

What follows an event can mostly be told for all events at once, in time that hardly grows faster than their number.
Where each event has to be held to each that follows it, the work is the square of their number, and anybody may
send events: so only the newest of a profile are looked at. Where in addition what arrays hold cannot be told at once,
but texts are looked for in texts, or elements are asked apart, these are the newest that do not hold too much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from profilelake.semantics.conditions.comparing import TEXTS
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Events,
    Items,
    Node,
    Not,
    Operand,
    Or,
    Property,
    Reduce,
    Trait,
    Within,
)
from profilelake.semantics.conditions.values import number
from profilelake.semantics.conditions.visiting import walk

PAIRED_EVENTS_MAX: Final = 500
"""Events of a profile that are looked at on either side where each is held to each: the newest."""
PAIRED_VALUES_MAX: Final = 5_000
"""Values (`values.amount`) that are looked at in these events where texts are looked for, or elements asked apart."""
COUNTED_MAX: Final = 100
"""Up to here a count of what has the same value is compared without looking at pairs."""

_COUNTED: Final[frozenset[Comparison]] = frozenset(
    {"equals", "differs", "one_of", "none_of", "greater_than", "at_least", "less_than", "at_most"}
)


def static(condition: Condition) -> bool:
    """Tell whether a condition on an event holds or not once and for all, whoever's the event is."""
    return not any(
        isinstance(node, Trait | Reduce)
        or (isinstance(node, Property) and node.scope == "parent")
        or (isinstance(node, Compare) and node.how in RELATIVE)
        for node in walk(condition)
    )


def static_part(where: Condition | None) -> Condition | None:
    """Return what of a condition is static by itself: all of it, or those parts of an AND that are."""
    if where is None or static(where):
        return where
    parts = tuple(part for part in where.parts if static(part)) if isinstance(where, And) else ()
    return And(parts) if parts else None


def asks_parent(condition: Node) -> bool:
    """Tell whether a condition on an event asks for a property of the one it follows."""
    match condition:
        case Reduce():
            # Inside of it `parent` is the event at hand.
            return False
        case Property(scope=scope):
            return scope == "parent"
        case And(parts=parts) | Or(parts=parts):
            return any(map(asks_parent, parts))
        case Not(of=of):
            return asks_parent(of)
        case Items(value=value, of=of):
            return asks_parent(value) or asks_parent(of)
        case Compare(value=value, operands=operands):
            return asks_parent(value) or any(map(asks_parent, operands))
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Same:
    """A condition that holds where a value of an event is one of the parent's, and the `rest` holds."""

    value: Property | Context
    parent: Property
    rest: tuple[Condition, ...]


def same_value(where: Condition) -> Same | None:
    """Return a condition that asks for nothing of the parent but one equal value as such."""
    parts = where.parts if isinstance(where, And) else (where,)
    asking = [part for part in parts if asks_parent(part)]
    if len(asking) != 1 or not isinstance(asking[0], Compare):
        return None
    compare = asking[0]
    if compare.how not in ("equals", "one_of") or len(compare.operands) != 1:
        return None
    rest = tuple(part for part in parts if part is not compare)
    match compare.value, compare.operands[0]:
        case (
            (Property(scope="event") | Context()) as value,
            Property(scope="parent") as parent,
        ):
            return Same(value, parent, rest)
        case (
            Property(scope="parent") as parent,
            (Property(scope="event") | Context()) as value,
        ):
            return Same(value, parent, rest)
        case _:
            return None


@lru_cache(maxsize=4096)
def paired_in(where: Condition | None) -> frozenset[Reduce]:
    """Return the reductions that a condition on an event compares and that are worked out pair by pair."""
    if where is None:
        return frozenset()
    return frozenset(
        side
        for compare in _comparisons(where)
        for side in (compare.value, *compare.operands)
        if isinstance(side, Reduce) and _paired(side, compare)
    )


@lru_cache(maxsize=4096)
def searched(of: Events, *, newest_only: bool) -> tuple[Property | Context, ...]:
    """Return the values of an event that are looked through pair by pair: only so much of them is looked at.

    They are those of elements that are asked apart and of texts that are looked for in texts, in conditions that ask
    for the parent: of the event itself in `where` (`newest_only`), and as parent inside of it.
    """
    found: dict[Property | Context, None] = {}
    if newest_only and of.where is not None:
        for node in _looked_through(of.where):
            if isinstance(node, Context) or (isinstance(node, Property) and node.scope == "event"):
                found[node] = None
    for reduce in sorted(paired_in(of.where), key=repr):
        if isinstance(reduce.of, Events) and reduce.of.where is not None:
            for node in _looked_through(reduce.of.where):
                if isinstance(node, Property) and node.scope == "parent":
                    found[Property(node.path)] = None
    return tuple(found)


def _looked_through(condition: Condition) -> Iterator[Node]:
    """Yield what parts of a condition ask for that hold texts, or elements, to the parent."""
    match condition:
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from _looked_through(part)
        case Not(of=of):
            yield from _looked_through(of)
        case Items() if asks_parent(condition):
            yield from walk(condition)
        case Compare(value=value, how=how, operands=operands) if how in TEXTS and asks_parent(condition):
            yield from (value, *operands)
        case _:
            return


def counted_up_to(compare: Compare) -> int | None:
    """Return up to where a count has to be known exactly for a comparison with small constants."""
    if compare.how not in _COUNTED or not all(isinstance(operand, Constant) for operand in compare.operands):
        return None
    limits = [_constant(operand) for operand in compare.operands]
    most = max((limit for limit in limits if limit is not None), default=0.0)
    return max(int(most), 0) + 1 if most <= COUNTED_MAX else None


def _constant(operand: Operand) -> float | None:
    return number(operand.value) if isinstance(operand, Constant) else None


def _comparisons(condition: Condition) -> Iterator[Compare]:
    match condition:
        case Compare():
            yield condition
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from _comparisons(part)
        case Not(of=of):
            yield from _comparisons(of)
        case _:
            return


def _paired(reduce: Reduce, compare: Compare) -> bool:
    of = reduce.of
    if not isinstance(of, Events):
        return False
    follows = isinstance(of.window, Within) and of.window.parent
    if of.where is None or not asks_parent(of.where):
        return follows and reduce.how in ("mode", "unique")
    if reduce.how != "count" or not (follows or of.window is None) or same_value(of.where) is None:
        return True
    return compare.value is not reduce or counted_up_to(compare) is None
