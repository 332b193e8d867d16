"""Random definitions and random histories, over so few names, values and times that they collide a lot.

A world is what happened to a handful of identifier sets: calls, traits, which sets are one person and which
people an account has. It is given to the plain reference as subjects, and to everything else as landing would
store it (`events_table`). All times lie on a grid of hours, and all spans are multiples of it, so that events hit
the edges of windows; some are a microsecond off.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from profilelake.landing.tables import EVENTS
from profilelake.semantics import json_text
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import ITSELF, Occurred, Subject
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    As,
    Between,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Duration,
    Entities,
    Events,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Property,
    Reduce,
    Root,
    Scope,
    Session,
    Target,
    Trait,
    Users,
    Window,
    Within,
)
from profilelake.semantics.definitions import Definition, Held, Json
from profilelake.semantics.times import format_time

HOUR: Final = 3_600_000_000
START: Final = 1_770_000_000_000_000 // HOUR * HOUR
"""A full hour in February 2026; everything happens in the days after it."""
HOURS: Final = 72

EVENT_NAMES: Final = ("Order", "Cart", "Page Viewed", "Screen Viewed")
_USUAL_NAMES: Final = ("Order", "Order", "Order", "Cart", "Cart", *EVENT_NAMES[2:])
SOURCES: Final = ("shop", "app")
PATHS: Final = (("a",), ("a",), ("a",), ("b",), ("a", "b"), ("x.y",), ("page_name",))
CONTEXT_PATHS: Final = (("c",), ("c", "b"))
TRAITS: Final = ("t", "u")
KEYS: Final = ("k0", "k1", "k2", "k3")
TYPES: Final = ("user_id", "email", "anonymous_id")
SETS: Final = 5
ENTITY: Final = "orders"

_HOURS: Final = (0, 24, 48, 65, 66, 67, 70, 71, 72)
"""Hours in which much happens."""
SPANS: Final = (
    Duration(HOUR, "1 hour"),
    Duration(2 * HOUR, "2 hours"),
    Duration(5 * HOUR, "5 hours"),
    Duration(24 * HOUR, "1 day"),
    Duration(48 * HOUR, "2 days"),
)
_TEXTS: Final = ("", "a", "ab", "B", "é", "1", "1.5", "-1", "1e0", "true", 'say "\\"\n')
_NUMBERS: Final = (0, 1, 2, -1, 1.5, 0.1, -0.3, 1.0, 1e16, 9007199254740993)


def _date(hours: int, micros: int = 0) -> str:
    return format_time(START + hours * HOUR + micros)


_DATES: Final = (
    _date(24),
    _date(70),
    _date(71, 1),
    _date(73),
    _date(72)[:-1] + "+00:00",
    _date(60)[:10],
    _date(60)[:-1],
)
_SCALARS: Final[tuple[Json, ...]] = (*_TEXTS, *_NUMBERS, True, False, *_DATES)


# ---- values ------------------------------------------------------------------------------------


_COMPOSED: Final[tuple[Json, ...]] = (
    [],
    [None],
    [1, 2],
    ["a", "ab"],
    ["1", 1, 1.0, True],
    ["B", None, "é", {"b": 1}, ["a"]],
    [_DATES[1], _DATES[2]],
    {},
    {"b": 1},
    {"b": "a"},
    {"b": None},
    {"b": [1, "a", None]},
    {"b": {"b": 2}},
    [{"b": 1}, {"b": 2}],
    [{"b": "a"}, {}, "a", {"b": None}, {"b": ["B", 1.5]}],
    [{"b": None}, {"a": 1}],
    [[{"b": 1}], [[2]], {"b": [[1], "ab"]}],
    [{"b": []}],
    "\0\u2028\U0001f600",
    {"b\\": 1, "b": "\x1f/"},
    [-5e-324, 1e300, 123456789.123456789, -0.0],
)


def scalars() -> SearchStrategy[Json]:
    """Return texts, numbers, truth values and dates."""
    return _SCALAR


def values() -> SearchStrategy[Json]:
    """Return JSON values of every shape, small, with the keys that paths ask for."""
    return _VALUE


# A strategy is made once and each value is one draw: worlds have many of them.
_SCALAR: Final[SearchStrategy[Json]] = st.sampled_from(_SCALARS)
_VALUE: Final[SearchStrategy[Json]] = st.sampled_from((*_SCALARS, None, *_COMPOSED))
_OPTIONAL: Final = {"b": _VALUE, "x.y": _VALUE, "page_name": _VALUE}
_TOLD: Final = st.one_of(st.none(), *[st.fixed_dictionaries({"a": _VALUE}, optional=_OPTIONAL)] * 3)
_CONTEXTS: Final[tuple[dict[str, Json] | None, ...]] = (
    None,
    None,
    {},
    {"c": 1},
    {"c": "a"},
    {"c": {"b": "a"}},
    {"c": [{"b": 1}, {"b": "B"}]},
)
_CONTEXT: Final = st.sampled_from(_CONTEXTS)


def times(before: int = HOURS) -> SearchStrategy[int]:
    """Return times on the grid, or a microsecond off it."""
    return st.builds(
        lambda hours, off: START + hours * HOUR + off,
        st.one_of(st.sampled_from([hour for hour in _HOURS if hour <= before]), st.integers(0, before)),
        st.sampled_from((0, 0, 0, -1, 1)),
    )


def moments() -> SearchStrategy[int]:
    """Return times at which a world may be asked: none of its events is later than the last hour."""
    return st.builds(
        lambda hours, off: START + (HOURS + hours) * HOUR + off,
        st.sampled_from((0, 0, 0, 1, 2, 5, 24, 48, 90)),
        st.sampled_from((0, 0, 1)),
    ).map(lambda at: max(at, START + HOURS * HOUR + 1))


# ---- histories ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of the person of a set. `name` is what the call's type names: an event, page or screen."""

    set: int
    type: Literal["track", "page", "screen", "identify", "group"]
    name: str | None
    timestamp: int
    number: int
    source_id: str = "shop"
    properties: Mapping[str, Json] | None = None
    context: Mapping[str, Json] | None = None

    @property
    def position(self) -> bytes:
        """Return its place in the order of facts."""
        return position(self.number)

    def occurred(self) -> Occurred | None:
        """Return the event of it that conditions see."""
        return evaluate.occurred(
            self.type,
            self.name,
            self.timestamp,
            position=self.position,
            source_id=self.source_id,
            properties=self.properties,
            context=self.context,
        )


@dataclass(frozen=True)
class Person:
    """The profile of a person: identifier sets, and what was said last of it."""

    sets: tuple[int, ...]
    traits: Mapping[str, Json]
    identifier_types: frozenset[str]
    rows: tuple[Mapping[str, Json], ...] = ()
    """Rows of the entity `ENTITY` that are linked to it."""


@dataclass(frozen=True)
class Account:
    """The profile of an organisation, with its users as places among the people."""

    users: tuple[int, ...]
    traits: Mapping[str, Json]
    rows: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True)
class World:
    """All that happened, and whose it is."""

    calls: tuple[Call, ...]
    people: tuple[Person, ...]
    accounts: tuple[Account, ...] = ()

    def subjects(self) -> list[Subject]:
        """Return the people as the reference takes them."""
        found = []
        for person in self.people:
            happened = [call.occurred() for call in self.calls if call.set in person.sets]
            events = [event for event in happened if event is not None]
            rows = {ENTITY: person.rows}
            found.append(Subject(events, person.traits, (), rows, person.identifier_types))
        return found

    def account_subjects(self) -> list[Subject]:
        """Return the accounts as the reference takes them."""
        people = self.subjects()
        return [
            evaluate.account([people[user] for user in account.users], account.traits, {ENTITY: account.rows})
            for account in self.accounts
        ]


def position(number: int) -> bytes:
    """Return a position; greater numbers come later."""
    return number.to_bytes(32, "big")


def set_id(number: int) -> bytes:
    """Return the id of an identifier set."""
    return bytes([number * 37 % 256]) * 8 + number.to_bytes(8, "big")


_TYPES: Final = st.sampled_from(("track", "track", "track", "page", "screen", "identify"))
_EVENT_NAME: Final = st.sampled_from(_USUAL_NAMES)
_PAGE_NAME: Final = st.sampled_from((None, "a", "é"))


@st.composite
def calls(draw: st.DrawFn, number: int) -> Call:
    """Return one call, its place in the order of facts being `number`."""
    type = draw(_TYPES)
    return Call(
        set=draw(_SET),
        type=type,  # type: ignore[arg-type]
        name=draw(_EVENT_NAME if type == "track" else _PAGE_NAME if type != "identify" else st.none()),
        timestamp=draw(_TIME),
        number=number,
        source_id=draw(_SOURCE),
        properties=draw(_TOLD),
        context=draw(_CONTEXT),
    )


_SET: Final = st.integers(0, SETS - 1)
_SOURCE: Final = st.sampled_from(SOURCES)
_TIME: Final = times()


_ROWS: Final = st.lists(st.fixed_dictionaries({}, optional={"a": _VALUE, "b": _VALUE}), max_size=3)


@st.composite
def histories(draw: st.DrawFn, most: int = 12) -> World:
    """Return a world of a few people, with some accounts among them."""
    number = draw(st.one_of(st.integers(0, most), st.integers(most // 2, most)))
    happened = tuple(draw(calls(place + 1)) for place in range(number))
    owners = draw(st.lists(st.sampled_from((0, 0, 1, 2)), min_size=SETS, max_size=SETS))
    told = st.fixed_dictionaries({"t": values()}, optional={"u": values()})
    people = tuple(
        Person(
            tuple(place for place, owner in enumerate(owners) if owner == who),
            draw(told),
            frozenset(draw(st.sets(st.sampled_from(TYPES), max_size=2))),
            tuple(draw(_ROWS)),
        )
        for who in sorted(set(owners))
    )
    places = st.lists(st.integers(0, len(people) - 1), unique=True, max_size=len(people))
    accounts = draw(
        st.lists(
            st.builds(
                lambda users, traits, rows: Account(tuple(users), traits, tuple(rows)), places, told, _ROWS
            ),
            max_size=2,
        )
    )
    return World(happened, people, tuple(accounts))


def events_table(happened: Iterable[Call]) -> pa.Table:
    """Return calls as landing stores them: a table with the columns of `events`."""
    return pa.Table.from_pylist([_row(call) for call in happened], schema=_SCHEMA)


_SCHEMA: Final = EVENTS.schema()


def _row(call: Call) -> dict[str, Any]:
    when = datetime.fromtimestamp(call.timestamp // 1_000_000, UTC).replace(
        microsecond=call.timestamp % 1_000_000
    )
    row: dict[str, Any] = dict.fromkeys(_SCHEMA.names)
    row |= {
        "position": call.position,
        "received_at": when,
        "timestamp": when,
        "message_id": f"m{call.number}",
        "type": call.type,
        "event" if call.type == "track" else "name": call.name,
        "source_id": call.source_id,
        "properties": _stored(call.properties, call.number % len(_SPELT)),
        "context": _stored(call.context, call.number % len(_SPELT)),
        "set_id": set_id(call.set),
        "region": "local",
    }
    return row


def _stored(value: Mapping[str, Json] | None, spelling: int) -> str | None:
    return None if value is None else json_text.dump(_spelt(value, _SPELT[spelling]))


def _spelt(value: Any, spell: Callable[[int | float], str]) -> Any:
    """Return a value with its numbers as digits, for landing keeps those that were sent."""
    if isinstance(value, Mapping):
        return {key: _spelt(item, spell) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelt(item, spell) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json_text.Number(spell(value))
    return value


_SPELT: Final[tuple[Callable[[int | float], str], ...]] = (
    json.dumps,
    lambda number: f"{float(number):.17E}",
    lambda number: f"{Decimal(number):f}" + ("" if float(number).is_integer() else "00"),
)
"""Ways to write a number, all of which read as the same double."""


# ---- definitions -------------------------------------------------------------------------------


def spans() -> SearchStrategy[Duration]:
    """Return durations as they may be written."""
    return st.sampled_from(SPANS)


@dataclass(frozen=True)
class _Around:
    """Where in a definition something is drawn: what may be asked there."""

    traits: tuple[str, ...] = TRAITS
    event: bool = False
    parent: bool = False
    item: bool = False
    users: bool = False
    rows: bool = False
    depth: int = 0

    def values(self) -> SearchStrategy[Property | Context | Trait]:
        """Return what may be compared here."""
        told: list[SearchStrategy[Property | Context | Trait]] = []
        if self.item:
            told.append(_properties("item", (ITSELF, ("b",))))
        elif self.rows:
            told.append(_properties("event", (("a",), ("b",), ("a", "b"))))
        elif self.event:
            told += [_properties("event", PATHS)] * 2
            told.append(st.sampled_from(CONTEXT_PATHS).map(Context))
        if not (self.event or self.item):
            told.append(self._traits())
        return st.one_of(told)

    def operands(self) -> SearchStrategy[Operand]:
        """Return what things may be compared with here."""
        told: list[SearchStrategy[Operand]] = [scalars().map(_constant)] * 4
        if self.event:
            told.append(self._traits())
        if self.parent and not self.rows:
            told += [_properties("parent", PATHS)] * 2
        return st.one_of(told)

    def _traits(self) -> SearchStrategy[Trait]:
        return st.one_of(
            st.sampled_from(self.traits).map(lambda name: Trait((name,))),
            st.sampled_from(TRAITS).map(lambda name: Trait((name, "b"))),
        )


def _properties(scope: Scope, paths: Sequence[tuple[str, ...]]) -> SearchStrategy[Property]:
    return st.sampled_from(paths).map(lambda path: Property(path, scope))


def _constant(value: Json) -> Constant:
    assert isinstance(value, str | int | float)
    # The language keeps whole numbers that no double can hold as the nearest one.
    return Constant(float(value) if isinstance(value, int) and abs(value) > 2**53 else value)


def _instant(hours: int) -> Instant:
    text = _date(hours)
    return Instant(START + hours * HOUR, text)


@st.composite
def comparisons(draw: st.DrawFn, value: SearchStrategy[Any], operands: SearchStrategy[Operand]) -> Compare:
    """Return a comparison of a value with as many operands as it takes."""
    how: Comparison = draw(st.one_of(st.sampled_from(_USUAL), st.sampled_from(_COMPARISONS)))
    return Compare(draw(value), how, _operands(draw, how, operands))


_COMPARISONS: Final[tuple[Comparison, ...]] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "exists", "absent", "contains",
    "omits", "starts_with", "ends_with", "one_of", "none_of", "before_date", "after_date", "within_last",
    "within_next", "before_last", "after_next",
)  # fmt: skip
_USUAL: Final[tuple[Comparison, ...]] = (
    "exists",
    "differs",
    "one_of",
    "none_of",
    "at_least",
    "less_than",
    "contains",
)
_NUMERIC: Final[tuple[Comparison, ...]] = (
    "equals",
    "differs",
    "greater_than",
    "at_least",
    "less_than",
    "at_most",
)


def _operands(draw: st.DrawFn, how: Comparison, operands: SearchStrategy[Operand]) -> tuple[Operand, ...]:
    if how in ("exists", "absent"):
        return ()
    if how in RELATIVE:
        return (draw(spans()),)
    if how in ("before_date", "after_date"):
        dates = st.one_of(
            st.sampled_from((24, 71, 72)).map(_instant),
            operands.filter(lambda operand: not isinstance(operand, Constant) or operand.value == "ab"),
        )
        return (draw(dates),)
    if how in ("contains", "omits", "one_of", "none_of"):
        return tuple(draw(st.lists(operands, min_size=1, max_size=3)))
    return (draw(operands),)


@st.composite
def _windows(draw: st.DrawFn, nested: bool) -> Window | None:
    span, other = draw(spans()).micros, draw(spans()).micros
    every: list[Window | None] = [
        None,
        Within(span),
        Between(min(span, other), max(span, other)),
        Session(span),
    ]
    if nested:
        every = [Within(span, parent=True), Within(span, parent=True), None, Within(span)]
    return draw(st.sampled_from(every))


@st.composite
def _events(draw: st.DrawFn, around: _Around) -> Events:
    where: Condition | None = None
    if draw(st.booleans()):
        inner = replace(
            around, event=True, parent=around.event, item=False, users=False, depth=around.depth + 1
        )
        where = draw(_conditions(inner))
    excluded = draw(st.sampled_from(((),) * 7 + (("app",), ("app", "shop"))))
    return Events(draw(st.sampled_from(_USUAL_NAMES)), where, excluded, draw(_windows(around.event)))


@st.composite
def reductions(draw: st.DrawFn, around: _Around | None = None) -> Reduce:
    """Return one value of many events."""
    return draw(_reductions(_events(around or _Around())))


@st.composite
def _of_rows(draw: st.DrawFn, around: _Around) -> Reduce:
    """Return one value of many rows of an entity."""
    inner = replace(around, event=True, parent=True, rows=True, users=False, depth=around.depth + 2)
    where = draw(st.one_of(st.none(), _conditions(inner)))
    return draw(_reductions(st.just(Entities(ENTITY, where))))


@st.composite
def _reductions(draw: st.DrawFn, streams: SearchStrategy[Events | Entities]) -> Reduce:
    of = draw(streams)
    how = draw(
        st.sampled_from(("count", "count", "sum", "avg", "min", "max", "mode", "first", "last", "unique"))
    )
    if how == "count":
        return Reduce(of, "count")
    as_type: As | None = None
    if how in ("min", "max"):
        as_type = draw(st.sampled_from((None, "number", "string")))
    if how == "mode":
        as_type = draw(st.sampled_from((None, None, "number", "string", "array")))
    return Reduce(
        of,
        how,  # type: ignore[arg-type]
        draw(_properties("event", PATHS)),
        as_type,
        least=draw(st.sampled_from((1, 2, 0))) if how == "mode" else 1,
        counted=how == "unique" and draw(st.booleans()),
    )


@st.composite
def _counted(draw: st.DrawFn, around: _Around) -> Compare:
    """Return a comparison of a reduction, most of them with a small number."""
    reduce = draw(reductions(around) if around.event else st.one_of(reductions(around), _of_rows(around)))
    if draw(st.sampled_from((True, True, False))):
        how = draw(st.sampled_from(("at_least", "at_least", "less_than", *_NUMERIC)))
        return Compare(reduce, how, (Constant(draw(st.sampled_from((0, 1, 1, 2, 1.5)))),))
    return draw(comparisons(st.just(reduce), around.operands()))


@st.composite
def _conditions(draw: st.DrawFn, around: _Around) -> Condition:
    deeper = replace(around, depth=around.depth + 1)
    kinds = ["compare"] * 3
    if not around.item:
        # Funnels are at most two events deep: more would only be slower.
        kinds += [] if around.parent else ["events"] * (1 if around.event else 5)
    if around.depth < 3:
        kinds += ["not", "and", "or", "items"]
        kinds += ["users"] * 4 if around.users else []
    match draw(st.sampled_from(kinds)):
        case "compare":
            return draw(comparisons(around.values(), around.operands()))
        case "events":
            return draw(_counted(around))
        case "items":
            inner = replace(deeper, item=True, users=False)
            return Items(draw(around.values()), draw(_conditions(inner)), every=draw(st.booleans()))
        case "users":
            inner = replace(deeper, users=False)
            return Users(draw(_conditions(inner)), every=draw(st.booleans()))
        case "not":
            return Not(draw(_conditions(deeper)))
        case joined:
            parts = tuple(draw(st.lists(_conditions(deeper), min_size=2, max_size=3)))
            return And(parts) if joined == "and" else Or(parts)


def roots(
    target: Target = "users", traits: Sequence[str] = TRAITS, *, trait: bool | None = None
) -> SearchStrategy[Root]:
    """Return definitions' trees: with `trait` only those of computed traits, or only those of audiences."""
    around = _Around(traits=tuple(traits), users=target == "accounts")
    of_traits: SearchStrategy[Root] = st.one_of(reductions(around), reductions(around), _of_rows(around))
    of_audiences: SearchStrategy[Root] = _conditions(around)
    if trait is None:
        return st.one_of(of_traits, of_audiences, of_audiences)
    return of_traits if trait else of_audiences


@dataclass(frozen=True)
class Defined:
    """A definition, its tree, and where it stands in the order of facts."""

    definition: Definition
    root: Root
    created: bytes

    def held(self) -> Held:
        """Return it as it stands after its fact."""
        return Held(self.definition, 1, self.created, self.created)


@st.composite
def definitions(draw: st.DrawFn, most: int = 4, *, accounts: bool = True) -> list[Defined]:
    """Return definitions in an order in which each comes after those it reads.

    Audiences ask for audiences and computed traits, those of accounts also for those of their users. Their text
    is the written form of their tree.
    """
    made: list[Defined] = []
    for key in KEYS[: draw(st.integers(1, most))]:
        target: Target = draw(st.sampled_from(("users", "users", "accounts"))) if accounts else "users"
        earlier = [one.definition.key for one in made]
        root = draw(roots(target, (*TRAITS, *earlier, *earlier)))
        definition = Definition(
            key,
            "trait" if isinstance(root, Reduce) else "audience",
            written(root),
            target,
            external_ids=draw(st.sampled_from(((), (), ("user_id",), ("user_id", "email")))),
            historical=draw(st.sampled_from((True, True, True, False))),
            enabled=draw(st.sampled_from((True,) * 9 + (False,))),
        )
        made.append(Defined(definition, root, position(draw(st.integers(0, 12)))))
    return made


def expected(made: Sequence[Defined], world: World, at: int) -> dict[str, list[Json]]:
    """Return the answers of the reference: by key, those of all people or of all accounts."""
    triples = [(one.definition, one.root, one.created) for one in made]
    people = [evaluate.answers(triples, subject, at) for subject in world.subjects()]
    accounts = [evaluate.answers(triples, subject, at, accounts=True) for subject in world.account_subjects()]
    return {
        one.definition.key: [
            answers[one.definition.key]
            for answers in (people if one.definition.target == "users" else accounts)
        ]
        for one in made
    }
