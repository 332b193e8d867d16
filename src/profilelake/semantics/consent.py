"""Consent: what a person allowed, from `context.consent.categoryPreferences` of their events.

**In one event.** An event with an object there is a *statement*: about the categories it names, and
`false` about every other one that was ever named; an empty object says `false` about all of them. Only
the JSON value `true` allows. Without that object (no `context.consent`, or an empty one) an event says
nothing. Statements are ordered by (`timestamp`, position), as traits are.

**In one identifier set** the last statement holds.

**In one profile** the policy says what the statements of its sets amount to. A statement *gives way* to
a later one that comes from the same place; what "the same place" is differs:

- `latest`: everywhere is the same place, so the last statement of all holds.
- `most_restrictive` (default): two sets are of the same place if they share an identifier of a device
  (a browser's anonymous_id, a phone's ids); those that have none, such as a server's, are one place
  too. So who opts in later on the same device, logged in or not, has opted in; but a "no" on another
  device stands until it is taken back there. A category is allowed if no statement that holds denies it.
- `conflict` (as Segment): sets that share any identifier are of the same place. Where statements that
  hold say different things, as after a merge of two people into one, the value is `conflict` until a
  set that shares identifiers with both says something.

A statement that holds and does not name a category denies it, as within a set. A set that made no
statement says nothing: it neither allows nor denies.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Policy: TypeAlias = Literal["most_restrictive", "latest", "conflict"]
Value: TypeAlias = Literal["true", "false", "conflict"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
DEFAULT_POLICY: Final[Policy] = "most_restrictive"

DEVICE_TYPES: Final = frozenset(
    {
        "android.id",
        "android.idfa",
        "android.push_token",
        "anonymous_id",
        "ga_client_id",
        "ios.id",
        "ios.idfa",
        "ios.push_token",
    }
)
"""Types of identifiers that a device has, not a person."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What was said about categories, when, and where the event stands."""

    timestamp: int
    position: bytes
    allowed: Mapping[str, bool]

    @property
    def place(self) -> tuple[int, bytes]:
        """What statements are ordered by."""
        return self.timestamp, self.position


@dataclass(frozen=True, slots=True)
class Choice:
    """What a profile's statements amount to in one category, and the last of those that say so."""

    value: Value
    statement: Statement


def stated(consent: str | None) -> dict[str, bool] | None:
    """Return what `context.consent` (JSON text) says of the categories it names, None for nothing at all."""
    told = None if consent is None else json.loads(consent)
    preferences = told.get("categoryPreferences") if isinstance(told, dict) else None
    if not isinstance(preferences, dict):
        return None
    return {category: preferences[category] is True for category in sorted(preferences)}


def joined(one: Statement, other: Statement) -> Statement:
    """Return the last of two statements of one set, with every category that either names.

    The order of joins does not matter, nor do repeats.
    """
    last = max(one, other, key=lambda statement: statement.place)
    known = {**one.allowed, **other.allowed}
    return Statement(
        last.timestamp, last.position, {name: last.allowed.get(name, False) for name in sorted(known)}
    )


def ties(policy: Policy, identifiers: Iterable[tuple[str, Hashable]]) -> frozenset[Hashable]:
    """Return what makes a set be of the same place as others: any that have one of these too.

    `identifiers` are the type and the identity (value or id) of each identifier of the set.
    """
    everything = frozenset(identifiers)
    match policy:
        case "latest":
            return frozenset((None,))
        case "most_restrictive":
            return frozenset(one for one in everything if one[0] in DEVICE_TYPES) or frozenset((None,))
        case "conflict":
            return everything or frozenset((None,))


def holding(sets: Sequence[tuple[Statement, frozenset[Hashable]]]) -> list[Statement]:
    """Return the statements that give way to none; with each are the ties of its set."""
    last: dict[Hashable, tuple[int, bytes]] = {}
    for statement, mine in sets:
        for tie in mine:
            last[tie] = max(last.get(tie, statement.place), statement.place)
    return [statement for statement, mine in sets if all(last[tie] == statement.place for tie in mine)]


def choices(sets: Sequence[tuple[Statement, frozenset[Hashable]]], policy: Policy) -> dict[str, Choice]:
    """Return what the statements of a profile's sets amount to, by category.

    Of each set that made any: its last statement, as `joined` gives it, and its `ties`.
    """
    hold = holding(sets)
    known = sorted({category for statement, _ in sets for category in statement.allowed})
    found = {}
    for category in known:
        said = {statement.allowed.get(category, False) for statement in hold}
        if policy == "conflict" and len(said) > 1:
            found[category] = Choice("conflict", max(hold, key=lambda one: one.place))
            continue
        allowed = said == {True}
        saying = [one for one in hold if one.allowed.get(category, False) is allowed]
        found[category] = Choice("true" if allowed else "false", max(saying, key=lambda one: one.place))
    return found
