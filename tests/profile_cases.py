"""Cases about profiles as data: told to the plain reference, and all of them to one pipeline.

On the pipeline each case has people, accounts and messages of its own (their ids begin with its name),
every record is of a log of its own, so that records may arrive in any order, and every case runs both in
order and backwards. Whatever is shown is named by an identifier of the profile.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import duckdb
import yaml

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.eventlog import Record
from profilelake.identity import facts
from profilelake.lake.reading import attach
from profilelake.landing._documents import envelope_of
from profilelake.profiles.consent import profile_consent
from profilelake.profiles.memberships import accounts_of
from profilelake.semantics import consent, identity, last_write, memberships
from profilelake.semantics import facts as semantics
from profilelake.semantics.consent import Policy
from profilelake.semantics.events import Event, parse_record
from profilelake.semantics.identifiers import Identifier, ident_id, public_id
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules, segment_defaults
from profilelake.state.records import joined_traits, received_at
from profilelake.state.store import Tx

RULES: Final[IdentityRules] = segment_defaults()
FILE: Final = {"about", "policy", "events", "decisions", "expected"}
SHOWN: Final = {"links", "consent", "traits", "seen"}
Shown = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One file. `at` and `happened` are seconds after the beginning."""

    name: str
    policy: Policy
    events: Sequence[Message]
    decisions: Sequence[Mapping[str, Any]]
    expected: Shown

    def records(self, prefix: str = "") -> list[Record]:
        """Return a record for each fact, in order of position; ids of anything begin with `prefix`."""
        told = [(event["at"], event) for event in self.events] + [(one["at"], one) for one in self.decisions]
        made = []
        for number, (at, fact) in enumerate(told):
            log = LogBuilder(f"{crc32(f'{prefix}{number}'.encode()):016x}")
            if fact in self.decisions:
                made.append(log.decision(START + at * SECOND, _decision(fact, prefix)))
                continue
            source = fact.get("source", "shop")
            message = _message(fact, number, prefix)
            made.append(log.record(START + at * SECOND, [message], source_id=source))
        return sorted(made, key=lambda record: (record.received_at, record.log_id))


def cases(area: str) -> list[Case]:
    """Return the cases of a folder beside the tests that run them."""
    found = []
    for path in sorted((Path(__file__).parent / "spec" / area).glob("*.yaml")):
        case = yaml.safe_load(path.read_text())
        assert case.keys() <= FILE, path
        assert case["expected"].keys() <= SHOWN, path
        found.append(
            Case(
                path.stem,
                case.get("policy", consent.DEFAULT_POLICY),
                case["events"],
                case.get("decisions", []),
                case["expected"],
            )
        )
    return found


def by_policy() -> list[list[Case]]:
    """Return all cases about account links, consent and traits, those of one policy together."""
    every = [case for area in ("memberships", "consent", "traits") for case in cases(area)]
    ordered = sorted(every, key=lambda case: case.policy)
    return [list(group) for _, group in groupby(ordered, key=lambda case: case.policy)]


def _message(event: Mapping[str, Any], number: int, prefix: str) -> Message:
    """Return a call; the e<number> of the file is its message id, and ids of people are the case's own."""
    message = {name: value for name, value in event.items() if name not in ("at", "happened", "source", "id")}
    message["messageId"] = prefix + event.get("id", f"e{number + 1}")
    happened = event.get("happened", event["at"])
    message["timestamp"] = _iso(START + happened * SECOND)
    for name in ("userId", "anonymousId", "groupId"):
        if name in message:
            message[name] = prefix + message[name]
    return message


def _iso(at: int) -> str:
    seconds = (at - START) // SECOND + 10
    return f"2026-03-01T{10 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


def _decision(told: Mapping[str, Any], prefix: str) -> facts.Fact:
    ((name, about),) = ((name, about) for name, about in told.items() if name != "at")
    one, other = (_identifier(text, prefix) for text in about)
    if name in ("leave", "rejoin"):
        return facts.Leave(
            by="case",
            user=ident_id(KEY, "users", one).hex(),
            account=ident_id(KEY, "accounts", other).hex(),
            left=name == "leave",
        )
    assert name == "unlink"
    ends = {"one": ident_id(KEY, "users", one).hex(), "other": ident_id(KEY, "users", other).hex()}
    return facts.Unlink(by="case", collection="users", **ends)


def _identifier(text: str, prefix: str = "") -> Identifier:
    type, _, value = text.partition(":")
    return Identifier(type, prefix + value)


# ---- the reference -----------------------------------------------------------------------------


def by_reference(case: Case) -> Shown:
    """Return what a case asks for, by the plain definitions."""
    records = case.records()
    events = _events(records)
    graphs = {collection: _graph(case, events, collection) for collection in COLLECTIONS}
    shown: Shown = {}
    for what, wanted in case.expected.items():
        shown[what] = {name: _REFERENCE[what](case, events, graphs, _identifier(name)) for name in wanted}
    return shown


def _events(records: Sequence[Record]) -> list[Event]:
    found: dict[str, Event] = {}
    for record in records:
        if record.events:
            for outcome in parse_record(record.body, envelope_of(record), RULES):
                assert isinstance(outcome, Event)
                found.setdefault(outcome.message_id, outcome)
    return list(found.values())


def _graph(case: Case, events: Sequence[Event], collection: Collection) -> IdentityGraph:
    sightings = [
        Sighting(frozenset(names), event.position.to_bytes(), event.received_at)
        for event in events
        if (names := getattr(event, collection))
    ]
    decided = [
        semantics.Fact(
            (START + told["at"] * SECOND).to_bytes(8, "big"),
            semantics.Unlink(*map(_identifier, told["unlink"])),
        )
        for told in case.decisions
        if "unlink" in told and collection == "users"
    ]
    return identity.resolve_facts(sightings, decided, RULES, collection=collection, key=KEY)


def _of(
    events: Sequence[Event], graph: IdentityGraph, named: Identifier, field: Collection
) -> Iterator[Event]:
    """Yield the events of the profile that has an identifier."""
    owner = graph.owners[named]
    for event in events:
        names = frozenset(getattr(event, field))
        if names and graph.sets[names].profile == owner:
            yield event


def _reference_links(
    case: Case, events: Sequence[Event], graphs: Mapping[Collection, IdentityGraph], named: Identifier
) -> dict[str, Any]:
    left = [
        semantics.Fact(
            (START + told["at"] * SECOND).to_bytes(8, "big"),
            semantics.Leave(*map(_identifier, told.get("leave") or told["rejoin"]), left="leave" in told),
        )
        for told in case.decisions
        if "unlink" not in told
    ]
    users, accounts = graphs["users"], graphs["accounts"]
    found = memberships.links(
        [
            (frozenset(event.users), frozenset(event.accounts), event.position.to_bytes())
            for event in events
            if event.type == "group" and event.users and event.accounts
        ],
        semantics.standing(left, RULES).left,
        people={names: outcome.profile for names, outcome in users.sets.items()},
        accounts={names: outcome.profile for names, outcome in accounts.sets.items()},
        owners=(users.owners, accounts.owners),
    )
    groups = {owner: str(group) for group, owner in accounts.owners.items()}
    return {
        groups[account]: [_seconds(spells[-1].since), _seconds(spells[-1].until)]
        for (person, account), spells in found.items()
        if person == users.owners[named]
    }


def _reference_consent(
    case: Case, events: Sequence[Event], graphs: Mapping[Collection, IdentityGraph], named: Identifier
) -> dict[str, Any]:
    said: dict[frozenset[Identifier], consent.Statement] = {}
    for event in _of(events, graphs["users"], named, "users"):
        told = consent.stated(event.consent)
        if told is not None:
            new = consent.Statement(event.timestamp, event.position.to_bytes(), told)
            names = frozenset(event.users)
            said[names] = consent.joined(said[names], new) if names in said else new
    sets = [
        (told, consent.ties(case.policy, [(one.type, one.value) for one in names]))
        for names, told in said.items()
    ]
    by_place = {event.position.to_bytes(): event.message_id for event in events}
    return {
        category: [choice.value, by_place[choice.statement.position]]
        for category, choice in consent.choices(sets, case.policy).items()
    } if sets else {}  # fmt: skip


def _reference_traits(
    _case: Case, events: Sequence[Event], graphs: Mapping[Collection, IdentityGraph], named: Identifier
) -> dict[str, Any]:
    collection: Collection = "accounts" if named.type == "group_id" else "users"
    call = "group" if collection == "accounts" else "identify"
    writes, by_place = [], {}
    for event in _of(events, graphs[collection], named, collection):
        place = event.position.to_bytes()
        by_place[place] = [_seconds_of(event.timestamp), event.source_id, event.message_id]
        if event.type == call and event.traits is not None:
            for name, value in json.loads(event.traits).items():
                text = None if value is None else json.dumps(value)
                writes.append(last_write.TraitWrite(name, text, event.timestamp, place))
    return {
        name: [json.loads(write.value), *by_place[write.position]]
        for name, write in last_write.last_writes(writes).items()
        if write.value is not None
    }


def _reference_seen(
    _case: Case, events: Sequence[Event], graphs: Mapping[Collection, IdentityGraph], named: Identifier
) -> dict[str, Any]:
    collection: Collection = "accounts" if named.type == "group_id" else "users"
    times = [event.received_at for event in _of(events, graphs[collection], named, collection)]
    return {"first": _seconds_of(min(times)), "last": _seconds_of(max(times)), "events": len(times)}


_REFERENCE: Final = {
    "links": _reference_links,
    "consent": _reference_consent,
    "traits": _reference_traits,
    "seen": _reference_seen,
}


def _seconds(position: bytes | None) -> int | None:
    return None if position is None else _seconds_of(received_at(position))


def _seconds_of(at: int) -> int:
    return (at - START) // SECOND


# ---- the pipeline --------------------------------------------------------------------------------


def by_pipeline(
    told: Sequence[Case], directory: Path, rebuilt: Callable[[Desk], object] = Desk.rebuild
) -> tuple[dict[str, Shown], dict[str, Shown]]:
    """Return what cases of one policy ask for, by name: told in order, and told backwards.

    State and tables must agree, and hold what the facts in the lake say; `rebuilt` makes them again from those.
    """
    desk = Desk(directory, rules=RULES, consent_policy=told[0].policy)
    try:
        desk.apply([record for case in told for record in case.records(f"{case.name}.")])
        backwards = [case.records(f"{case.name}-backwards.")[::-1] for case in told]
        for turn in zip_longest(*backwards):
            desk.apply([record for record in turn if record is not None])
        assert desk.verify() == []
        before = [_looked(desk, told, way) for way in (".", "-backwards.")]
        rebuilt(desk)
        assert [_looked(desk, told, way) for way in (".", "-backwards.")] == before
        return before[0], before[1]
    finally:
        desk.close()


def _looked(desk: Desk, told: Sequence[Case], way: str) -> dict[str, Shown]:
    with duckdb.connect() as connection, desk.state.read(WORKSPACE) as tx:
        attach(connection, desk.lake, WORKSPACE)
        rows = connection.table("profiles").to_arrow_table().to_pylist()
        published = {row["profile_id"]: row for row in rows}
        return {
            case.name: {
                what: {name: _Seen(tx, case, case.name + way, published, name).show(what) for name in wanted}
                for what, wanted in case.expected.items()
            }
            for case in told
        }


class _Seen:
    """One profile of a case, in the state and as it is published."""

    def __init__(self, tx: Tx, case: Case, prefix: str, published: Mapping[str, Any], name: str) -> None:
        self._tx, self._case, self._prefix = tx, case, prefix
        self._collection: Collection = "accounts" if name.startswith("group_id") else "users"
        found = tx.ident(WORKSPACE, ident_id(KEY, self._collection, _identifier(name, prefix)))
        assert found is not None
        record = tx.profile(WORKSPACE, found.profile)
        assert record is not None
        self._profile = record
        self._row = published[public_id(self._collection, found.profile)]

    def show(self, what: str) -> dict[str, Any]:
        ways = {"links": self._links, "consent": self._consent, "traits": self._traits, "seen": self._times}
        return ways[what]()

    def _links(self) -> dict[str, Any]:
        found = {}
        for link in accounts_of(self._tx, WORKSPACE, self._profile):
            account = self._tx.profile(WORKSPACE, link.other_profile)
            assert account is not None
            (group,) = self._tx.idents(WORKSPACE, [ident for ident, _ in account.idents]).values()
            until = None if link.unlinked_at is None else _seconds_of(link.unlinked_at)
            found[f"group_id:{self._own(group.value)}"] = [_seconds_of(link.linked_at), until]
        return found

    def _consent(self) -> dict[str, Any]:
        found = profile_consent(self._tx, WORKSPACE, self._profile, self._case.policy)
        shown = json.loads(self._row["consent"] or "{}")
        assert shown == {category: one.value for category, one in found.items()}
        return {category: [one.value, self._own(one.message_id)] for category, one in found.items()}

    def _traits(self) -> dict[str, Any]:
        writes = joined_traits(self._profile, self._tx.set_traits(WORKSPACE, self._profile.sets))
        found = {
            name: [
                json.loads(one.value),
                _seconds_of(one.timestamp),
                one.source_id,
                self._own(one.message_id),
            ]
            for name, one in writes.items()
            if one.value is not None
        }
        assert json.loads(self._row["traits"]) == {name: one[0] for name, one in found.items()}
        return found

    def _times(self) -> dict[str, Any]:
        first, last = (
            int(self._row[name].timestamp()) * SECOND for name in ("first_seen_at", "last_seen_at")
        )
        return {
            "first": _seconds_of(first + START % SECOND),
            "last": _seconds_of(last + START % SECOND),
            "events": self._row["event_count"],
        }

    def _own(self, value: str) -> str:
        assert value.startswith(self._prefix)
        return value.removeprefix(self._prefix)
