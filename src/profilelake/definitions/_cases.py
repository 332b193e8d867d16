"""The cases of `tests:`: what is given, and which values and members are expected at which times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from profilelake.definitions._yaml import Document, Value
from profilelake.semantics.conditions.evaluate import Occurred, Subject
from profilelake.semantics.definitions import Json
from profilelake.semantics.times import parse_time

CASES_MAX: Final = 10_000
"""Cases of one file."""
EVENTS_MAX: Final = 10_000
"""Events of one case."""
USERS_MAX: Final = 1_000
_GIVEN: Final = ("identifiers", "traits", "events", "users")
_EVENT: Final = ("at", "event", "properties", "context", "source")
_DEFAULT_IDENTIFIERS: Final = frozenset({"user_id"})


@dataclass(frozen=True, slots=True)
class Expected:
    """What definitions are worth at a time; a trait with no value is worth null."""

    line: int
    at: int
    values: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Case:
    """One case: `about` is what it shows; what is `given` is one person or account."""

    about: str
    file: str
    line: int
    given: Subject
    expected: tuple[Expected, ...]


def read_cases(document: Document, value: Value) -> Iterator[Case]:
    """Yield the cases of a list; they are good only if the document has no problems."""
    items = value.items()
    if items is None:
        document.refuse(value, "write a list of cases: `- about: …`")
        return
    if len(items) > CASES_MAX:
        document.refuse(value, f"{len(items):,} cases, the most of a file is {CASES_MAX:,}", named=False)
        return
    for item in items:
        found = document.entries(item, ("about", "at", "given", "expect"))
        about = found.get("about")
        at = _time(document, found["at"]) if "at" in found else None
        given = _subject(document, found.get("given"), users=True)
        if "expect" not in found:
            document.refuse(item, "say what to expect: `expect: {key: value}`", named=False)
            continue
        expected = tuple(_expected(document, found["expect"], at))
        yield Case((about.text if about else None) or item.key, document.name, item.line, given, expected)


def _expected(document: Document, value: Value, at: int | None) -> Iterator[Expected]:
    """Yield what is expected: of one time, or of a list of them."""
    for one in value.items() or [value]:
        found = document.entries(one)
        when = _time(document, found.pop("at")) if "at" in found else at
        if when is None:
            document.refuse(one, "say when: `at: 2026-02-15T00:00:00Z` here or beside `expect`", named=False)
            continue
        if not found:
            document.refuse(one, "name what is expected: a key and its value", named=False)
        yield Expected(one.line, when, {key: document.json(member) for key, member in found.items()})


def _subject(document: Document, value: Value | None, *, users: bool) -> Subject:
    if value is None:
        return Subject(events=(), traits={}, identifier_types=_DEFAULT_IDENTIFIERS)
    found = document.entries(value, _GIVEN if users else _GIVEN[:-1])
    traits = {
        name: document.json(member)
        for name, member in (document.entries(found["traits"]) if "traits" in found else {}).items()
    }
    return Subject(
        events=tuple(_events(document, found.get("events"))),
        traits={name: worth for name, worth in traits.items() if worth is not None},
        users=tuple(_users(document, found.get("users"))),
        identifier_types=_identifiers(document, found.get("identifiers")),
    )


def _users(document: Document, value: Value | None) -> Iterator[Subject]:
    if value is None:
        return
    items = value.items()
    if items is None or len(items) > USERS_MAX:
        document.refuse(value, f"write a list of at most {USERS_MAX:,} people: `- traits: …`")
        return
    for item in items:
        yield _subject(document, item, users=False)


def _identifiers(document: Document, value: Value | None) -> frozenset[str]:
    """Return the types of identifiers; only these matter, so a list of them is enough."""
    if value is None:
        return _DEFAULT_IDENTIFIERS
    items = value.items()
    words = [item.text for item in items or ()]
    if items is None or not all(words):
        document.refuse(value, "write a list of types, such as [user_id, email]")
        return frozenset()
    return frozenset(str(word) for word in words)


def _events(document: Document, value: Value | None) -> Iterator[Occurred]:
    if value is None:
        return
    items = value.items()
    if items is None or len(items) > EVENTS_MAX:
        document.refuse(value, f"write a list of at most {EVENTS_MAX:,} events: `- {{at: …, event: …}}`")
        return
    for place, item in enumerate(items):
        found = document.entries(item, _EVENT)
        name = found["event"].text if "event" in found else None
        at = _time(document, found["at"]) if "at" in found else None
        if name is None or "at" not in found:
            document.refuse(item, "an event has a name and a time: {at: …, event: …}", named=False)
        source = found.get("source")
        yield Occurred(
            name=name or "",
            timestamp=at or 0,
            position=place.to_bytes(32, "big"),
            source_id=(source.text if source else None) or "",
            properties=_object(document, found.get("properties")),
            context=_object(document, found.get("context")),
        )


def _object(document: Document, value: Value | None) -> dict[str, Json]:
    if value is None or value.empty:
        return {}
    return {name: document.json(member) for name, member in document.entries(value).items()}


def _time(document: Document, value: Value) -> int | None:
    at = parse_time(value.text or "")
    if at is None:
        document.refuse(value, "write a time such as 2026-02-15T00:00:00Z")
    return at
