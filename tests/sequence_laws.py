"""Random funnels over dense histories: few names, times and values, so that events follow, equal and tie each other.

Each is made from a seed, which says it all, so thousands are tried in seconds. They are held to the plain reference.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Final
from unittest import mock

from condition_subjects import columnar, kept
from condition_worlds import HOUR, START, Call, Defined, Person, World, expected, position
from profilelake.semantics.conditions import evaluate, reducers
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import (
    And,
    Between,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Duration,
    Events,
    How,
    Items,
    Not,
    Or,
    Property,
    Reduce,
    Session,
    Trait,
    Value,
    Window,
    Within,
)
from profilelake.semantics.definitions import Definition, Json
from profilelake.traits import reduced, same_values, sequences

AT: Final = START + 12 * HOUR
PEOPLE: Final = 5
EVENTS: Final = 9
_LIMITS: Final = (
    (500, 5_000, 1 << 20, 1_000, 1 << 16), (3, 5, 1 << 20, 2, 1 << 16), (2, 5_000, 4, 1_000, 10), (500, 3, 1, 3, 6),
)  # fmt: skip
"""Events that are looked at by pairs, values that are looked through, pairs at once, and values and bytes of lists."""

_VALUES: Final[tuple[Json, ...]] = (
    1, 1, "1", "1.0", 2, "a", "a", "ab", True, "true", -1.5, None, [], {}, [1, "1"], ["a", 2, "1.0"], ["a", "a"],
    [1, None, {"b": "a"}], {"b": "a"}, [{"b": 1}, {"b": "1"}], "2026-02-02", "2026-02-02T10:00:00Z", 2**53,
)  # fmt: skip
_ARRAYS: Final[tuple[Json, ...]] = (
    "a", "ab", 1, "b" * 99, "b" * 100, ["a"], ["a", "b"], ["b", 1, None], [None, None, None], ["ab", {"b": ["a", "b"]}],
    [], {"b": "a", "c": ["a", None]}, ["b" * 300, "c"], [["a", "b"], 2],
)  # fmt: skip
_SEARCHES: Final = (
    "property('a').contains(property(parent: 'a'))", "property(parent: 'b').starts_with(property('a'))",
    "context('c').omits(property(parent: 'a'))", "property('b').any(property('$') = property(parent: 'b'))",
    "property('a').all(property('$') != property(parent: 'a') OR property('b') = 'a')",
    "property('a') = property(parent: 'b')", "property('b') = 'a'", "trait('t').contains('a')",
)  # fmt: skip
_ORDERS: Final[tuple[Comparison, ...]] = ("greater_than", "at_least", "less_than", "at_most")
_TEXTS: Final[tuple[Comparison, ...]] = ("contains", "omits", "starts_with", "ends_with")
_SAME: Final[tuple[Comparison, ...]] = ("equals", "one_of", "differs", "none_of")
_DATES: Final[tuple[Comparison, ...]] = ("before_date", "after_date")
_HOWS: Final[tuple[How, ...]] = (
    "count", "count", "count", "count", "sum", "avg", "min", "max", "first", "last", "mode", "unique",
)  # fmt: skip


def funnels_are_right(seed: int) -> None:
    """Hold the answers about one funnel to those of the reference, and until when they are said to stand."""
    rng = Random(seed)
    made, world, later = [funnel(rng)], histories(rng), AT + rng.randrange(1, 30 * HOUR)
    with _limits(*rng.choice(_LIMITS)):
        _is_right(made, world, later, seed)


def searches_are_right(seed: int) -> None:
    """Hold funnels that look through texts and elements pair by pair, of which so many are, to the reference."""
    rng = Random(seed)
    made, world, later = [searching(rng)], histories(rng, _ARRAYS), AT + rng.randrange(1, 30 * HOUR)
    with _limits(rng.choice((3, 500)), rng.choice((1, 2, 3, 5, 8)), rng.choice((2, 1 << 20)), 1_000, 1 << 16):
        _is_right(made, world, later, seed)


def _is_right(made: list[Defined], world: World, later: int, seed: int) -> None:
    told = f"seed {seed}: {made[0].definition.query}"
    found = columnar(made, world, AT)
    assert {"k": found["k"][0]} == kept(made, expected(made, world, AT)), told
    exact = columnar(made, world, AT, exact=True)
    assert exact["k"][0] == found["k"][0], f"{told}, as of the time"
    after = kept(made, expected(made, world, later))["k"]
    for now, until, then in zip(*found["k"], after, strict=True):
        assert until > AT, told
        assert now == then or until <= later, f"{told}, {until} is later than {later}"


@contextmanager
def _limits(events: int, searched: int, at_once: int, values: int, size: int) -> Iterator[None]:
    with ExitStack() as stack:
        for module in (evaluate, sequences):
            stack.enter_context(mock.patch.object(module, "PAIRED_EVENTS_MAX", events))
            stack.enter_context(mock.patch.object(module, "PAIRED_VALUES_MAX", searched))
        stack.enter_context(mock.patch.object(sequences, "PAIRS_AT_ONCE", at_once))
        stack.enter_context(mock.patch.object(same_values, "LOOKED_UP_AT_ONCE", at_once))
        for module in (reducers, reduced):
            stack.enter_context(mock.patch.object(module, "UNIQUE_VALUES_MAX", values))
            stack.enter_context(mock.patch.object(module, "UNIQUE_BYTES_MAX", size))
        yield


def histories(rng: Random, pool: tuple[Json, ...] = _VALUES) -> World:
    """Return some people, each with a set of its own and events at few times; some of them lie ahead."""
    few = rng.sample(pool, rng.randint(1, 5))
    hours = rng.sample(range(13), 4)
    calls = []
    for number in range(PEOPLE * EVENTS):
        said: dict[str, Json] = {
            "a": rng.choice(few),
            "n": rng.choice((1, 0.1, -3, 2**53, "4", [1, 5], None)),
        }
        if rng.random() < 0.7:
            said["b"] = rng.choice(few)
        at = START + rng.choice(hours) * HOUR + rng.choice((0, 0, 0, 1))
        context: dict[str, Json] = {"c": rng.choice(few)}
        calls.append(
            Call(
                rng.randrange(PEOPLE),
                "track",
                rng.choice(("Order", "Order", "Cart")),
                at,
                number + 1,
                rng.choice(("shop", "shop", "app")),
                said,
                context,
            )
        )
    return World(
        tuple(calls), tuple(Person((who,), {"t": rng.choice(few)}, frozenset()) for who in range(PEOPLE))
    )


def searching(rng: Random) -> Defined:
    """Return a count of orders that look for something in what follows each, and in what follows that."""
    query = f"event('Order').where({_search(rng, 1)}).count()"
    return Defined(Definition("k", "trait", query, "users", external_ids=()), parse(query), position(0))


def _search(rng: Random, levels: int) -> str:
    parts = rng.sample(_SEARCHES, rng.randint(1, 3))
    if levels and rng.random() < 0.4:
        parts.append(_search(rng, levels - 1))
    where = rng.choice((" AND ", " AND ", " OR ")).join(
        f"NOT ({part})" if rng.random() < 0.2 else part for part in parts
    )
    window = rng.choice(("", ".within(parent: 6 hours)", ".within(parent: 1 day)"))
    name, least = rng.choice(("Order", "Cart")), rng.randint(1, 4)
    return f"event('{name}').where({where}){window}.count() {rng.choice(('>=', '<'))} {least}"


def funnel(rng: Random) -> Defined:
    """Return a reduction of orders that asks for what follows each of them."""
    window: Window | None = rng.choice(
        (None, None, None, Within(9 * HOUR), Session(3 * HOUR), Between(HOUR, 9 * HOUR))
    )
    outer = Events("Order", _asking(rng, 1), ("app",) if rng.random() < 0.2 else (), window)
    root = Reduce(outer, "count") if rng.random() < 0.7 else _reduced(rng, outer)
    definition = Definition("k", "trait", written(root), "users", external_ids=())
    assert parse(definition.query) == root
    return Defined(definition, root, position(0))


def _asking(rng: Random, levels: int) -> Condition:
    """Return a comparison of what follows an event, sometimes with more beside it."""
    window: Window | None = Within(rng.choice((1, 2, 6)) * HOUR, parent=True)
    if rng.random() < 0.25:
        window = rng.choice((None, Within(5 * HOUR), Session(2 * HOUR), Between(HOUR, 8 * HOUR)))
    of = Events(rng.choice(("Order", "Cart")), _where(rng, levels), (), window)
    reduce = _reduced(rng, of)
    asked = Compare(reduce, *_compared_with(rng, reduce))
    if rng.random() < 0.3:
        besides: Condition = Compare(Property(("b",)), rng.choice(("exists", "absent")))
        if rng.random() < 0.3:
            besides = Compare(Property(("a",)), "within_last", (Duration(24 * HOUR, "1 day"),))
        parts = (asked, besides)
        return And(parts) if rng.random() < 0.7 else Or(parts)
    return Not(asked) if rng.random() < 0.3 else asked


def _compared_with(rng: Random, reduce: Reduce) -> tuple[Comparison, tuple[Value, ...]]:
    if reduce.how == "count" or reduce.counted:
        if rng.random() < 0.8:
            return rng.choice((*_ORDERS, "equals", "differs")), (Constant(rng.choice((0, 1, 1, 2, 3, 101))),)
    elif rng.random() < 0.4:
        constant = Constant(rng.choice((1, 0.1, 5, "a", "1", "true", 2**53)))
        return rng.choice((*_ORDERS, *_SAME, *_TEXTS)), (constant,)
    elif rng.random() < 0.2:
        return rng.choice(("exists", "absent")), ()
    other: tuple[Value, ...] = (
        Property(("a",)), Property(("n",)), Trait(("t",)),
        Reduce(Events("Cart", None, (), Within(2 * HOUR, parent=True)), "count"),
    )  # fmt: skip
    return rng.choice((*_ORDERS, *_SAME, *_TEXTS)), (rng.choice(other),)


def _where(rng: Random, levels: int) -> Condition | None:
    """Return what is asked of an event that follows."""
    parts: list[Condition] = []
    if rng.random() < 0.7:
        parts.append(_beside_parent(rng))
    if rng.random() < 0.2:
        parts.append(Compare(Property(("b",)), rng.choice(("exists", "absent"))))
    if rng.random() < 0.1:
        parts.append(_beside_parent(rng))
    if rng.random() < 0.1:
        parts.append(
            Compare(
                Property(("a",)), rng.choice(("within_last", "before_last")), (Duration(5 * HOUR, "5 hours"),)
            )
        )
    if levels and rng.random() < 0.2:
        parts.append(_asking(rng, levels - 1))
    parts = [Not(part) if rng.random() < 0.15 else part for part in parts]
    if len(parts) < 2:
        return parts[0] if parts else None
    return And(tuple(parts)) if rng.random() < 0.8 else Or(tuple(parts))


def _beside_parent(rng: Random) -> Condition:
    own: Property | Context = Context(("c",)) if rng.random() < 0.2 else Property((rng.choice("aab"),))
    parent = Property((rng.choice("aab"),), "parent")
    match rng.randrange(12):
        case 0:
            return Compare(parent, rng.choice((*_SAME, *_ORDERS, *_TEXTS)), (own,))
        case 1:
            inner = Compare(Property(("b",), "item"), rng.choice(_SAME), (parent,))
            return Items(Property(("a",)), inner, rng.random() < 0.5)
        case 2:
            return Compare(own, rng.choice(("one_of", "none_of")), (parent, Trait(("t",))))
        case 3:
            return Compare(parent, "within_last", (Duration(rng.choice((4, 30)) * HOUR, "a time"),))
        case 4:
            return Compare(own, rng.choice((*_ORDERS, *_TEXTS, *_DATES, "differs", "none_of")), (parent,))
        case 5:
            return Compare(Property(("n",)), rng.choice(_ORDERS), (Property(("n",), "parent"),))
        case _:
            return Compare(own, rng.choice(("equals", "equals", "one_of")), (parent,))


def _reduced(rng: Random, of: Events) -> Reduce:
    how = rng.choice(_HOWS)
    if how == "count":
        return Reduce(of, how)
    path = (rng.choice("nnab"),)
    as_type = rng.choice((None, "string")) if how in ("min", "max") else None
    return Reduce(of, how, Property(path), as_type, counted=how == "unique" and rng.random() < 0.5)  # type: ignore[arg-type]
