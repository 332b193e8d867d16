"""Small histories of one shop, the ways in which they may arrive, and what they must come to."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from pipeline_driver import KEY, START, WORKSPACE, Desk, LogBuilder, Message, Rows, tight_rules
from profilelake.eventlog import Kind, Record
from profilelake.identity import facts
from profilelake.identity.tables import IDENTITY_UPDATES
from profilelake.landing._documents import envelope_of
from profilelake.pipeline.publish import waiting_rows
from profilelake.semantics import consent, identity, last_write, memberships
from profilelake.semantics import facts as semantics
from profilelake.semantics.events import Event, parse_record
from profilelake.semantics.identifiers import Identifier, ident_id, set_id
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.records import received_at

RULES = tight_rules()
UNTRUSTED = frozenset({"web"})
"""Sources that strangers can write to."""
LOGS = ("00000000000000aa", "00000000000000bb")
ACCOUNTED = ("in_lake", "duplicates", "failed")

people = st.sampled_from(["u1", "u2", "u3", "null"])
devices = st.sampled_from(["a1", "a2", "a3", "a4"])
addresses = st.sampled_from(["e1@x", "E2@x ", "e3@x"])
IDENTIFIERS: dict[Collection, list[Identifier]] = {
    "users": [
        *(Identifier("user_id", value) for value in ("u1", "u2", "u3", "null")),
        *(Identifier("anonymous_id", value) for value in ("a1", "a2", "a3", "a4")),
        *(Identifier("email", value) for value in ("e1@x", "e2@x", "e3@x")),
    ],
    "accounts": [Identifier("group_id", value) for value in ("g1", "g2", "g3")],
}
"""All that calls name and more, as they are compared."""
values = st.sampled_from([1, 2, None, {"deep": [1]}])
traits = st.dictionaries(st.sampled_from(["x", "y"]), values, max_size=2)


def _present(**fields: Any) -> Message:
    return {name: value for name, value in fields.items() if value is not None}


def identify(user: str | None, device: str | None, address: str | None, written: Message) -> Message:
    return _present(
        type="identify",
        userId=user,
        anonymousId=device,
        traits={**written, **_present(email=address)},
    )


def _often(values: st.SearchStrategy[str]) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), values, values)


def track(user: str | None, device: str | None) -> Message:
    return _present(type="track", event="Bought", userId=user, anonymousId=device)


def group(group: str, user: str | None, written: Message) -> Message:
    return _present(type="group", groupId=group, userId=user, traits=written)


def consenting(call: Message, consent: object) -> Message:
    """Return a call that says something about consent, or, with None, nothing."""
    return call if consent is None else {**call, "context": {"consent": consent}}


answers = st.dictionaries(st.sampled_from(["Ads", "Maps"]), st.booleans(), max_size=2)
consents = st.one_of(
    st.none(), st.none(), st.just({}), answers.map(lambda told: {"categoryPreferences": told})
)

identifies = st.builds(identify, _often(people), _often(devices), _often(addresses), traits)
calls = st.one_of(
    st.builds(track, _often(people), _often(devices)),
    st.builds(group, st.sampled_from(["g1", "g2"]), _often(people), traits),
    identifies,
    identifies,
)
"""Calls that name somebody, nobody, or only a blocked value."""


@st.composite
def histories(draw: st.DrawFn, *, size: int = 16, conflicts: bool = False) -> list[Record]:
    """Return records of two logs in position order: calls, and repeats of any of them anywhere.

    A client's time is often that of another call, so that positions decide; only a call that is
    repeated has a time of its own. With `conflicts`, message ids are used twice now and then.
    """
    told = st.builds(consenting, calls, consents)
    drawn = draw(st.lists(st.tuples(told, st.integers(0, 3)), min_size=size // 2, max_size=size))
    repeated = draw(st.lists(st.integers(0, len(drawn) - 1), max_size=4))
    messages: list[Message] = []
    for number, (call, time) in enumerate(drawn):
        moment = f"2026-01-01T00:00:0{time}Z" if number not in repeated else f"2026-01-02T00:00:{number:02}Z"
        messages.append({**call, "messageId": f"m{number}", "timestamp": moment})
    for number in repeated:
        messages.insert(draw(st.integers(0, len(messages))), messages_of(messages, f"m{number}"))
    if conflicts:
        for number in draw(st.lists(st.integers(0, len(messages) - 1), max_size=2)):
            other = draw(calls)
            messages.append({**other, "messageId": messages[number]["messageId"]})
    return _recorded(draw, messages)


def messages_of(messages: Sequence[Message], message_id: str) -> Message:
    return next(message for message in messages if message["messageId"] == message_id)


def _recorded(draw: st.DrawFn, messages: list[Message]) -> list[Record]:
    logs = [LogBuilder(log_id) for log_id in LOGS]
    records = []
    at = START
    while messages:
        size = draw(st.integers(1, 3))
        at += draw(st.sampled_from([1, 1000, 3_600_000_000]))
        records.append(draw(st.sampled_from(logs)).record(at, messages[:size]))
        messages = messages[size:]
    return records


@dataclass(frozen=True)
class Arrival:
    """The micro-batches in which records arrive; each is in position order and no log goes back."""

    batches: list[list[Record]]


@st.composite
def in_order(draw: st.DrawFn, records: list[Record]) -> Arrival:
    """Cut the records anywhere."""
    cuts = draw(st.sets(st.integers(0, len(records)), max_size=4))
    bounds = sorted({0, len(records)} | cuts)
    return Arrival([records[a:b] for a, b in pairwise(bounds)])


@st.composite
def late(draw: st.DrawFn, records: list[Record]) -> Arrival:
    """Hold records of one log or both back, some for several micro-batches."""
    count = draw(st.integers(2, 4))
    place = sorted(draw(st.lists(st.integers(0, count - 1), min_size=len(records), max_size=len(records))))
    reached = dict.fromkeys(LOGS, 0)
    batches: list[list[Record]] = [[] for _ in range(count)]
    for record, due in zip(records, place, strict=True):
        held = draw(st.sampled_from([0, 1, 2, 3]))
        reached[record.log_id] = max(reached[record.log_id], min(due + held, count - 1))
        batches[reached[record.log_id]].append(record)
    return Arrival([batch for batch in batches if batch])


def deliver(desk: Desk, arrival: Arrival) -> None:
    for batch in arrival.batches:
        desk.apply(batch)


# ---- what a history must come to -----------------------------------------------------------------


def first_events(records: Sequence[Record]) -> list[Event]:
    """Return each message at its smallest position, as the reference reads it."""
    found: dict[str, Event] = {}
    for record in records:
        if record.kind is Kind.FACT:
            continue
        for outcome in parse_record(record.body, envelope_of(record), RULES):
            if isinstance(outcome, Event):
                found.setdefault(outcome.message_id, outcome)
    return list(found.values())


def positions_of(records: Sequence[Record], message_id: str) -> list[bytes]:
    """Return where all copies of a message stand."""
    return [
        outcome.position.to_bytes()
        for record in records
        if record.kind is not Kind.FACT
        for outcome in parse_record(record.body, envelope_of(record), RULES)
        if isinstance(outcome, Event) and outcome.message_id == message_id
    ]


def set_of(collection: Collection, names: Iterable[Identifier]) -> bytes:
    return set_id(KEY, collection, [ident_id(KEY, collection, name) for name in names])


def decisions(records: Sequence[Record], collection: Collection) -> list[semantics.Fact]:
    """Return what people decided about a collection, in the words of the reference."""
    named = {ident_id(KEY, collection, one).hex(): one for one in IDENTIFIERS[collection]}
    found = []
    for record in records:
        if record.kind is not Kind.FACT:
            continue
        fact = facts.decode(record.body)
        match fact:
            case facts.NewRules():
                decision: semantics.Decision = semantics.NewRules(fact.rules)
            case facts.Retract():
                decision = semantics.Retract(bytes.fromhex(fact.position), fact.counts)
            case facts.Leave():
                continue
            case _ if fact.collection != collection:
                continue
            case facts.Unlink():
                decision = semantics.Unlink(named[fact.one], named[fact.other], fact.apart)
            case facts.Quarantine():
                decision = semantics.Quarantine(named[fact.ident], fact.quarantined)
        found.append(semantics.Fact(position_of(record, 0), decision))
    return found


def position_of(record: Record, index: int) -> bytes:
    return Position(record.received_at, record.region, record.log_id, record.offset, index).to_bytes()


def reference(records: Sequence[Record]) -> dict[str, Any]:
    """Return profiles, owners and refusals by the plain definitions."""
    events = first_events(records)
    profiles: dict[str, Any] = {}
    owners: dict[bytes, str] = {}
    refusals: set[Any] = set()
    graphs: list[IdentityGraph] = []
    for collection in COLLECTIONS:
        named = [(event, getattr(event, collection)) for event in events if getattr(event, collection)]
        graph = identity.resolve_facts(
            [
                Sighting(
                    frozenset(names),
                    event.position.to_bytes(),
                    event.received_at,
                    trusted=event.source_id not in UNTRUSTED,
                )
                for event, names in named
            ],
            decisions(records, collection),
            RULES,
            collection=collection,
            key=KEY,
        )
        for key, profile in graph.profiles.items():
            mine = [event for event, names in named if graph.sets[frozenset(names)].profile == key]
            members: dict[str, list[str]] = {}
            for member in sorted(profile.members):
                members.setdefault(member.type, []).append(member.value)
            said = _consent(mine) if collection == "users" else None
            profiles[key] = (members, _traits(collection, mine), said, len(mine))
        for identifier, owner in graph.owners.items():
            if owner is not None:
                owners[ident_id(KEY, collection, identifier)] = owner
        refusals |= {
            (refusal.set_id, ident_id(KEY, collection, refusal.identifier), refusal.profile, refusal.cause, refusal.type)
            for refusal in graph.refusals
        }  # fmt: skip
        graphs.append(graph)
    return {
        "profiles": profiles,
        "owners": owners,
        "refusals": refusals,
        "links": _links(records, events, *graphs),
    }


def _consent(events: Sequence[Event]) -> dict[str, str] | None:
    """Return what a profile with these events allows, by category; None where it never said."""
    said: dict[tuple[Identifier, ...], consent.Statement] = {}
    for event in events:
        told = consent.stated(event.consent)
        if told is not None:
            new = consent.Statement(event.timestamp, event.position.to_bytes(), told)
            before = said.get(event.users)
            said[event.users] = new if before is None else consent.joined(before, new)
    sets = [
        (told, consent.ties("most_restrictive", [(one.type, one.value) for one in names]))
        for names, told in said.items()
    ]
    chosen = consent.choices(sets, "most_restrictive")
    return {category: choice.value for category, choice in chosen.items()} if said else None


def _links(
    records: Sequence[Record], events: Sequence[Event], users: IdentityGraph, accounts: IdentityGraph
) -> dict[tuple[str, str], tuple[int, int | None]]:
    """Return by person and account when the last spell began and ended."""
    left = [
        semantics.Fact(position_of(record, 0), semantics.Leave(_named("users", fact.user), _named("accounts", fact.account), fact.left))
        for record in records
        if record.kind is Kind.FACT and isinstance(fact := facts.decode(record.body), facts.Leave)
    ]  # fmt: skip
    found = memberships.links(
        [
            (frozenset(event.users), frozenset(event.accounts), event.position.to_bytes())
            for event in events
            if event.type == "group" and event.users and event.accounts
        ],
        semantics.standing(left, RULES).left,
        people={key: outcome.profile for key, outcome in users.sets.items() if outcome.profile},
        accounts={key: outcome.profile for key, outcome in accounts.sets.items() if outcome.profile},
        owners=(_owned(users), _owned(accounts)),
    )
    return {
        pair: (received_at(last.since), None if last.until is None else received_at(last.until))
        for pair, (*_, last) in found.items()
    }


def _owned(graph: IdentityGraph) -> dict[Identifier, str]:
    return {identifier: owner for identifier, owner in graph.owners.items() if owner is not None}


def _named(collection: Collection, ident: str) -> Identifier:
    return next(one for one in IDENTIFIERS[collection] if ident_id(KEY, collection, one).hex() == ident)


def _traits(collection: Collection, events: Sequence[Event]) -> dict[str, Any]:
    call = "identify" if collection == "users" else "group"
    writes = [
        last_write.TraitWrite(
            name,
            None if value is None else json.dumps(value),
            event.timestamp,
            event.position.to_bytes(),
        )
        for event in events
        if event.type == call and event.traits is not None
        for name, value in json.loads(event.traits).items()
    ]
    return {name: json.loads(text) for name, text in last_write.traits(writes).items()}


def said(tables: dict[str, Rows]) -> dict[str, Any]:
    """Return what current tables say, in the form of `reference`."""
    return {
        "profiles": {
            row[0]: (
                json.loads(row[2]),
                json.loads(row[3]),
                None if row[4] is None else json.loads(row[4]),
                row[7],
            )
            for row in tables["profiles"]
        },
        "owners": {row[0]: row[2] for row in tables["identity_map"]},
        "refusals": {
            (row[0], one["ident_id"], one["against_profile_id"], one["cause"], one["limit_type"])
            for row in tables["identity_refusals"]
            for one in row[2]
        },
        "links": {(row[0], row[1]): (row[2], row[3]) for row in tables["links"]},
    }


def journal(desk: Desk) -> dict[bytes, str]:
    """Fold what waits of `identity_updates` into owners; each row must begin where the last one ended."""
    owners: dict[bytes, str | None] = {}
    with desk.state.read(WORKSPACE) as tx:
        rows = waiting_rows(tx, WORKSPACE, IDENTITY_UPDATES, -1).to_pylist()
    for row in rows:
        assert owners.get(row["ident_id"]) == row["from_profile_id"]
        owners[row["ident_id"]] = row["to_profile_id"]
    return {ident: owner for ident, owner in owners.items() if owner is not None}
