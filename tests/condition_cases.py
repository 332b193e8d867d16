"""Cases about conditions as data, and the engines they are told to.

A file has a common history and cases about it; a case may say otherwise. An engine takes the cases of a file and
gives the answer of each; another one is added to `ENGINES` and nothing else. `rows` are those
of the entity `orders`. `case.world()` and
`case.definitions()` are what random worlds are made of too, so an engine that takes those takes cases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from condition_subjects import columnar
from condition_worlds import Account, Call, Defined, Person, World, expected, position
from profilelake.semantics.conditions.evaluate import Subject
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce, Root
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import EXTERNAL_IDS, Definition, Json
from profilelake.semantics.times import parse_time

CASES: Final = Path(__file__).parent / "spec" / "conditions"
FILES: Final = sorted(path.name for path in CASES.glob("*.yaml"))
ASKED: Final = "asked"
"""Key of the definition a case is about."""

_COMMON: Final = {
    "at", "events", "traits", "identifiers", "users", "definitions", "external_ids", "historical", "created",
    "rows"
}  # fmt: skip
_FILE: Final = {"about", "cases", *_COMMON}
_CASE: Final = {"name", "query", "expect", "changes", *_COMMON}
_EVENT: Final = {"id", "event", "type", "name", "at", "source", "properties", "context"}
_USER: Final = {"events", "traits", "identifiers", "rows"}


@dataclass(frozen=True)
class Case:
    """One question. With `users` it is one about an account, which has these users and `traits`."""

    name: str
    told: Mapping[str, Any]

    @property
    def at(self) -> int:
        """Return the time at which it is asked."""
        return moment(self.told["at"])

    @property
    def expect(self) -> Json:
        """Return the answer, null for no value."""
        answer: Json = self.told["expect"]
        return answer

    @property
    def accounts(self) -> bool:
        """Return whether it is about an account."""
        return "users" in self.told

    def definitions(self) -> list[Defined]:
        """Return the definition and before it those that it reads."""
        ids = {event["id"]: number for number, event in enumerate(self._events(), start=1) if "id" in event}
        created = position(ids[self.told["created"]] if "created" in self.told else 0)
        target = "accounts" if self.accounts else "users"
        made = []
        for key, query in {**self.told.get("definitions", {}), ASKED: self.told["query"]}.items():
            root = parse(query)
            definition = Definition(
                key,
                "trait" if isinstance(root, Reduce) else "audience",
                query,
                "users" if key.startswith("user_") else target,
                external_ids=tuple(self.told.get("external_ids", EXTERNAL_IDS)),
                historical=self.told.get("historical", True),
            )
            made.append(Defined(definition, root, created))
        return made

    def world(self) -> World:
        """Return what happened. The events of each person lie on two identifier sets in turn."""
        calls, people = [], []
        number = 0
        for place, user in enumerate(self._users()):
            assert user.keys() <= _USER, self.name
            sets = (2 * place, 2 * place + 1)
            for event in user.get("events", []):
                number += 1
                calls.append(_call(event, number, sets[number % 2]))
            types = frozenset(user.get("identifiers", ["user_id"]))
            people.append(Person(sets, user.get("traits", {}), types, tuple(user.get("rows", ()))))
        if not self.accounts:
            return World(tuple(calls), tuple(people))
        linked = Account(
            tuple(range(len(people))), self.told.get("traits", {}), tuple(self.told.get("rows", ()))
        )
        return World(tuple(calls), tuple(people), (linked,))

    def world_by_then(self) -> World:
        """Return what had happened by the time at which it is asked."""
        world = self.world()
        return replace(world, calls=tuple(call for call in world.calls if call.timestamp <= self.at))

    def subject(self, world: World | None = None) -> Subject:
        """Return who it is about."""
        world = world or self.world()
        return (world.account_subjects() if self.accounts else world.subjects())[0]

    def _users(self) -> Sequence[Mapping[str, Any]]:
        if self.accounts:
            users: Sequence[Mapping[str, Any]] = self.told["users"]
            return users
        return [{name: self.told[name] for name in _USER if name in self.told}]

    def _events(self) -> Sequence[Mapping[str, Any]]:
        return [event for user in self._users() for event in user.get("events", [])]


def moment(text: str) -> int:
    """Return the microseconds of a time in a case."""
    at = parse_time(text)
    assert at is not None, text
    return at


def _call(event: Mapping[str, Any], number: int, set: int) -> Call:
    assert event.keys() <= _EVENT, event
    return Call(
        set,
        event.get("type", "track"),
        event["event"] if "event" in event else event.get("name"),
        moment(event["at"]),
        number,
        event.get("source", "shop"),
        event.get("properties"),
        event.get("context"),
    )


def cases(file: str) -> list[Case]:
    """Return the cases of a file."""
    read = yaml.load((CASES / file).read_text(), _Loader)  # noqa: S506
    assert read.keys() <= _FILE, file
    common = {name: value for name, value in read.items() if name in _COMMON}
    found = [Case(case["name"], {**common, **case}) for case in read["cases"]]
    for case, told in zip(found, read["cases"], strict=True):
        assert told.keys() <= _CASE, (file, case.name)
    assert len({case.name for case in found}) == len(found), file
    return found


class _Loader(yaml.SafeLoader):
    """Times stay text: dates of YAML have no microseconds to speak of, and JSON has none."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

Engine: TypeAlias = Callable[[Sequence[Case]], list[Json]]


def by_reference(told: Sequence[Case]) -> list[Json]:
    """Answer by the plain evaluation, event by event."""
    return [expected(case.definitions(), case.world(), case.at)[ASKED][0] for case in told]


def by_columns(told: Sequence[Case]) -> list[Json]:
    """Answer by columns from partials that were folded for the very time that is asked for."""
    return [_by_columns(case, exact=True) for case in told]


def by_columns_of_days(told: Sequence[Case]) -> list[Json]:
    """Answer by columns from partials as they are kept for any time: days, and single events of edge days."""
    return [_by_columns(case, exact=False) for case in told]


def _by_columns(case: Case, *, exact: bool) -> Json:
    made = case.definitions()
    # Partials for any time know nothing of what is still to come.
    world = case.world() if exact else case.world_by_then()
    value = columnar(made, world, case.at, exact=exact)[ASKED][0][0]
    return nothing(made[-1].root) if value is None else value


def nothing(root: Root) -> Json:
    """Return what it means that somebody has no row: no member, a count of 0, or no value."""
    if not isinstance(root, Reduce):
        return False
    return 0 if root.how == "count" or root.counted else None


ENGINES: Final[dict[str, Engine]] = {
    "reference": by_reference,
    "columns": by_columns,
    "columns of days": by_columns_of_days,
}


def answers_as_told(engine: Engine, told: Sequence[Case]) -> None:
    """Hold the answers of an engine against what the cases say, as text: `1` and `true` are different answers."""
    answers = engine(told)
    assert {case.name: canonical(answer) for case, answer in zip(told, answers, strict=True)} == {
        case.name: canonical(case.expect) for case in told
    }
