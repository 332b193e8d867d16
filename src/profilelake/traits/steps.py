"""What of a definition can be computed event by event, so that it is shared and never computed twice.

A *step* is one reduction of the events of one name. Its partials hang on identifier sets, like trait writes, so
merges and decisions about identity move nothing. A step is named by what it says: two definitions that say the
same share one, and a new version that only moves a threshold goes on with the partials there are.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from profilelake.errors import Internal, Invalid
from profilelake.semantics.conditions.pairing import static
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import (
    Between,
    Constant,
    Context,
    Entities,
    Events,
    Node,
    Path,
    Property,
    Reduce,
    Root,
    Session,
    Trait,
    Within,
)
from profilelake.semantics.definitions import Held

DAY_MICROS: Final = 86_400_000_000
FOREVER: Final = 0
"""Bucket of partials that no window ages."""
DIGEST_BYTES: Final = 16


class Family(Enum):
    """How the partials of a step are kept."""

    COUNT = "count"
    """number of events"""
    NUMBER = "number"
    """exact sum, number of numbers, least and greatest"""
    VALUE = "value"
    """per distinct value how often, first and last"""
    EVENTS = "events"
    """the events themselves, cut down to what is asked of them: funnels, sessions, comparisons with traits"""


Gives: TypeAlias = Literal["each", "number", "string", "array", "first", "last"]
"""What of an event's value is a value of `Family.VALUE`: each element, each that is a number or has a text, the
array as one, or the value as it is, of which only the first (the last) is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One reduction of events, without the time it is asked at; equal where its digest is.

    `reduce` is the node of the tree it stands for (a window in it says which events count at a time). `since` is
    the position behind which events count, empty for all. `horizon` is how far back it may ever look, in
    microseconds, None where events of any age count. `paths` are the properties and `context_paths` the context
    values that have to be read of an event.
    """

    digest: bytes
    """16 bytes that name it; equal for equal steps."""
    family: Family
    names: tuple[str, ...]
    """Names of its events; those of the events that follow in a funnel after the first."""
    reduce: Reduce
    since: bytes
    horizon: int | None
    paths: tuple[Path, ...]
    context_paths: tuple[Path, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def of(self) -> Events:
        """The events that are reduced."""
        if not isinstance(self.reduce.of, Events):
            raise Internal("computing a step: entities have no events")
        return self.reduce.of


@dataclass(frozen=True, slots=True)
class Planned:
    """One definition as it is computed: its tree, and the step of each reduction of events in it.

    `steps` is keyed by the node's place in the tree (nodes compare by meaning, so equal ones share a step).
    `reads` are the first keys of the traits it asks for, which may be audiences or other computed traits.
    """

    held: Held
    root: Root
    steps: Mapping[Reduce, Step]
    reads: frozenset[str]
    entities: frozenset[str] = frozenset()
    """Slugs of the entities whose rows it asks for."""


Plan: TypeAlias = tuple[Planned, ...]
"""Definitions in an order in which each comes after those it reads."""


def planned(held: Mapping[str, Held]) -> Plan:
    """Return how definitions of the language are computed, disabled ones too; those in SQL are left out.

    Raises:
        Invalid: a definition cannot be parsed, or some read each other in a circle.
    """
    plans = {key: _plan(key, held[key]) for key in sorted(held) if not _in_sql(held[key])}
    order = TopologicalSorter({key: sorted(plan.reads & plans.keys()) for key, plan in plans.items()})
    try:
        return tuple(plans[key] for key in order.static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise Invalid(
            f"ordering definitions: {circle} read each other; let one of them read no other"
        ) from error


def needed(plan: Plan, keys: Set[str]) -> Plan:
    """Return those of a plan that some keys ask for, directly or through others."""
    wanted = set(keys)
    chosen: list[Planned] = []
    for each in reversed(plan):
        if each.held.definition.key in wanted:
            wanted |= each.reads
            chosen.append(each)
    return tuple(reversed(chosen))


def step_of(reduce: Reduce, since: bytes) -> Step:
    """Return the step of a reduction of events; `since` is the position behind which they count."""
    events = reduce.of
    if not isinstance(events, Events):
        raise Internal("making a step: only reductions of events have one")
    nested = [node.of for node in nodes(events) if isinstance(node, Reduce) and isinstance(node.of, Events)]
    family = _family(reduce, events)
    read = list(nodes(reduce))
    return Step(
        digest=_digest(reduce, family, since),
        family=family,
        names=tuple(dict.fromkeys([events.name, *(other.name for other in nested)])),
        reduce=reduce,
        since=since,
        horizon=_horizon(events),
        paths=tuple(
            sorted({node.path for node in read if isinstance(node, Property) and node.scope != "item"})
        ),
        context_paths=tuple(sorted({node.path for node in read if isinstance(node, Context)})),
    )


def items_of(reduce: Reduce) -> Gives:
    """Return what of an event's value counts as a value, for reductions of `Family.VALUE`."""
    if reduce.how == "first":
        return "first"
    if reduce.how == "last":
        return "last"
    return reduce.as_type or "each"


def nodes(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    yield node
    for name in node.__dataclass_fields__:
        below = getattr(node, name)
        if isinstance(below, Node):
            yield from nodes(below)
        elif isinstance(below, tuple):
            for part in below:
                if isinstance(part, Node):
                    yield from nodes(part)


def _in_sql(held: Held) -> bool:
    return held.definition.kind in ("sql_audience", "sql_trait", "entity")


def _plan(key: str, held: Held) -> Planned:
    try:
        root = parse(held.definition.query)
    except Invalid as error:
        raise Invalid(f"reading the definition {key!r}: {error}") from error
    since = b"" if held.definition.historical else held.created
    return Planned(
        held=held,
        root=root,
        steps={reduce: step_of(reduce, since) for reduce in _reductions(root)},
        reads=frozenset(node.path[0] for node in nodes(root) if isinstance(node, Trait)),
        entities=frozenset(node.slug for node in nodes(root) if isinstance(node, Entities)),
    )


def _reductions(node: Node) -> Iterator[Reduce]:
    """Yield the reductions of events that stand for themselves: not those inside the condition of another."""
    if isinstance(node, Reduce):
        if isinstance(node.of, Events):
            yield node
        return
    for name in node.__dataclass_fields__:
        below = getattr(node, name)
        for part in below if isinstance(below, tuple) else (below,):
            if isinstance(part, Node):
                yield from _reductions(part)


def _family(reduce: Reduce, events: Events) -> Family:
    if isinstance(events.window, Session) or (events.where is not None and not static(events.where)):
        return Family.EVENTS
    return reduced_as(reduce)


def reduced_as(reduce: Reduce) -> Family:
    """Return as what a reduction is computed once it is known which events count."""
    if reduce.how == "count":
        return Family.COUNT
    if reduce.how in ("sum", "avg") or (reduce.how in ("min", "max") and reduce.as_type != "string"):
        return Family.NUMBER
    return Family.VALUE


def _horizon(events: Events) -> int | None:
    """Return how far back an event may lie that is asked for: also one inside of `where` that follows nothing."""
    nested = (node.of for node in nodes(events) if isinstance(node, Reduce))
    reaches = [_reach(events), *(_reach(of) for of in nested if isinstance(of, Events) and not _follows(of))]
    return None if None in reaches else max(reach for reach in reaches if reach is not None)


def _follows(events: Events) -> bool:
    """Tell whether events lie no further back than those that they follow."""
    return isinstance(events.window, Within) and events.window.parent


def _reach(events: Events) -> int | None:
    match events.window:
        case Within(micros=micros):
            return micros
        case Between(far=far):
            return far
        case _:
            return None


def _digest(reduce: Reduce, family: Family, since: bytes) -> bytes:
    """Name a step by what its partials are: a sum and an average of the same numbers are one step."""
    if family is Family.EVENTS:
        said: list[object] = [_meaning(reduce)]
    else:
        said = [_meaning(reduce.of), reduce.value and _meaning(reduce.value)]
        if family is Family.VALUE:
            said.append(items_of(reduce))
    return blake2b(repr([family.value, since, *said]).encode(), digest_size=DIGEST_BYTES).digest()


def _meaning(node: Node) -> tuple[object, ...]:
    """Return what a node says as nested tuples of plain values: not where it stood, nor how it was spelt."""
    said: list[object] = [type(node).__name__]
    for field in dataclasses.fields(node):
        if not field.compare:
            continue
        below = getattr(node, field.name)
        if isinstance(node, Constant) and isinstance(below, float) and below.is_integer():
            below = int(below)
        if isinstance(below, tuple):
            said.append(tuple(_meaning(part) if isinstance(part, Node) else part for part in below))
        else:
            said.append(_meaning(below) if isinstance(below, Node) else below)
    return tuple(said)
