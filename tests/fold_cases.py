"""Small histories with decisions, and the tables of facts that micro-batches would have left of them."""

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import strategies as st

from profilelake.identity import facts as stored
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, IDENTITY_FACTS, SET_SIGHTINGS
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.pipeline.rebuild import Fold, fold, standing_of
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics import consent
from profilelake.semantics.facts import Decision, Fact, NewRules, Quarantine, Retract, Unlink
from profilelake.semantics.identifiers import Identifier, ident_id, set_id
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import Collection, IdentityRules, TypeRule

KEY = b"0123456789abcdef"
HOUR = 3_600_000_000
DAY = 24 * HOUR
START = 20_000 * DAY
WEB, SERVER = "web", "server"
VALUES = [Identifier("user_id", f"u{n}") for n in range(4)]
VALUES += [Identifier("email", f'e{n}"é') for n in range(4)]
VALUES += [Identifier("anonymous_id", f"anonymous-{n}") for n in range(6)]
VALUES += [Identifier("email", "null"), Identifier("unheard_of", "x")]


@dataclass(frozen=True)
class Event:
    """One event: a sighting, with what the tables say of it besides; of a `group` where it is a group call."""

    sighting: Sighting
    source_id: str
    copy: bool
    traits: dict[str, Any]
    consent: dict[str, bool] | None
    group: str | None = None


@dataclass(frozen=True)
class Case:
    """What happened and what was decided, under which first rules."""

    events: list[Event]
    decisions: list[Fact]
    rules: IdentityRules
    policy: consent.Policy


windows = st.sampled_from([None, None, 86_400, 2 * 86_400])


@st.composite
def rule_sets(draw: st.DrawFn) -> IdentityRules:
    order = draw(st.permutations((1, 2, 3)))
    windowed = draw(st.booleans())
    types = [
        TypeRule(
            type=type,
            priority=order[number],
            limit=draw(st.sampled_from([None, 1, 1, 2, 3])),
            window_seconds=draw(windows) if windowed else None,
            blocked_exact=frozenset({"null"}),
        )
        for number, type in enumerate(("user_id", "email", "anonymous_id"))
    ]
    group = TypeRule(type="group_id", priority=1, collection="accounts", limit=1)
    return IdentityRules(
        version=draw(st.integers(1, 3)),
        types=(*types, group),
        demotion=draw(st.sampled_from(["minimal", "lowest_priority"])),
        merges_max=draw(st.sampled_from([None, None, 1, 2])),
        degree_max=draw(st.sampled_from([None, 1, 2, 3])),
    )


@st.composite
def histories(draw: st.DrawFn, groups: bool = False) -> list[Event]:
    some = st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=4)
    kinds = draw(st.lists(some, min_size=1, max_size=8))
    happened = draw(
        st.lists(
            st.tuples(
                st.sampled_from(kinds),
                st.sampled_from([0, 1, HOUR, 20 * HOUR]),
                st.sampled_from([WEB, SERVER]),
                st.sampled_from([False, False, False, True]),
                st.dictionaries(st.sampled_from(["a", "b\n"]), st.sampled_from([None, 1, "x\\"]), max_size=2),
                st.none() | st.dictionaries(st.sampled_from(["a", "b\n"]), st.booleans()),
                st.sampled_from([None, None, "g0", "g1"] if groups else [None]),
            ),
            min_size=1,
            max_size=14,
        )
    )
    at = START
    events = []
    for number, (identifiers, step, source_id, copy, traits, said, group) in enumerate(happened):
        at += step
        position = at.to_bytes(8, "big") + bytes(20) + number.to_bytes(4, "big")
        sighting = Sighting(identifiers, position, at, trusted=source_id == SERVER)
        events.append(Event(sighting, source_id, copy, traits, None if copy else said, group))
    return events


@st.composite
def cases(draw: st.DrawFn, groups: bool = False) -> Case:
    events = draw(histories(groups))
    rules = draw(rule_sets())
    value = st.sampled_from(VALUES)
    pairs = st.tuples(value, value).filter(lambda pair: pair[0] != pair[1])
    decision: st.SearchStrategy[Decision] = st.one_of(
        st.builds(lambda pair, apart: Unlink(*pair, apart), pairs, st.booleans()),
        st.builds(Quarantine, value, st.booleans()),
        st.builds(Retract, st.sampled_from([event.sighting.position for event in events]), st.booleans()),
        st.builds(Retract, st.sampled_from([event.sighting.position for event in events])),
        st.builds(NewRules, rule_sets()),
    )
    decisions = [
        Fact((START + DAY * number).to_bytes(8, "big") + bytes(24), made)
        for number, made in enumerate(draw(st.lists(decision, max_size=5)))
    ]
    return Case(events, decisions, rules, draw(st.sampled_from(consent.POLICIES)))


def folds(case: Case) -> list[Fold]:
    """Return what the batch form makes of a case, collection by collection."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        for name, rows in fact_tables(case).items():
            connection.register(name, rows)
        return fold(connection, standing_of(connection, case.rules), frozenset({WEB}), case.policy)


def fact_tables(case: Case, day: int = DAY) -> dict[str, pa.Table]:
    """Return the tables of facts as micro-batches would have left them, sightings counted by `day` (microseconds)."""
    events: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    known: dict[bytes, dict[str, Any]] = {}
    days: dict[tuple[bytes, int], dict[str, Any]] = {}
    values: dict[bytes, dict[str, Any]] = {}
    writes, said, links = [], [], []
    for number, event in enumerate(case.events):
        seen, key = event.sighting, set_id_of(event.sighting)
        account = None if event.group is None else account_key(event.group)
        about = {
            "position": seen.position,
            "received_at": seen.received_at,
            "message_id": f"m{number}",
            "source_id": event.source_id,
            "set_id": key,
        }
        timed = about | {"timestamp": seen.received_at, "type": "identify", "region": "local"}
        events[event.copy].append(timed | {"account_set_id": account})
        _show(known, values, about, "users", key, seen.identifiers)
        if account is not None:
            group = Identifier("group_id", str(event.group))
            _show(known, values, about, "accounts", account, frozenset({group}))
            links.append({**about, "account_set_id": account, "linked_at": seen.received_at})
        if event.copy:
            continue
        for shown in (key, account):
            if shown is not None:
                _count(days, about, shown, day)
        for trait, value in event.traits.items():
            text = None if value is None else json.dumps(value)
            writes.append({**about, "collection": "users", "trait": trait, "value": text, "timestamp": START})
        for category, allowed in (
            ([*event.consent.items()] or [(None, False)]) if event.consent is not None else []
        ):
            said.append({**about, "category": category, "allowed": allowed, "timestamp": START})
    made = [
        {
            "position": fact.position,
            "at": START,
            "decision": "",
            "by": "test",
            "fact": stored.encode(_stored(fact.decision, case)).decode(),
        }
        for fact in case.decisions
    ]
    rows = (
        (EVENTS, events[False]),
        (EVENT_COPIES, events[True]),
        (IDENTIFIER_SETS, list(known.values())),
        (SET_SIGHTINGS, list(days.values())),
        (IDENTIFIERS, list(values.values())),
        (IDENTITY_FACTS, made),
        (TRAIT_WRITES, writes),
        (CONSENT_WRITES, said),
        (ACCOUNT_LINKS, links),
    )
    return {definition.name: pa.Table.from_pylist(of, schema=definition.schema()) for definition, of in rows}


def _show(
    known: dict[bytes, dict[str, Any]],
    values: dict[bytes, dict[str, Any]],
    about: dict[str, Any],
    collection: Collection,
    key: bytes,
    identifiers: frozenset[Identifier],
) -> None:
    members = [{"type": one.type, "ident_id": ident_id(KEY, collection, one)} for one in identifiers]
    known.setdefault(key, about | {"set_id": key, "collection": collection, "identifiers": members})
    for one, member in zip(identifiers, members, strict=True):
        named = {
            "ident_id": member["ident_id"],
            "collection": collection,
            "type": one.type,
            "value": one.value,
        }
        more = {"first_message_id": "", "created_at": about["received_at"], "slot": 0}
        values.setdefault(named["ident_id"], about | named | more)


def _count(
    days: dict[tuple[bytes, int], dict[str, Any]], about: dict[str, Any], key: bytes, length: int
) -> None:
    at = about["received_at"]
    day = days.setdefault(
        (key, at // length),
        {
            "set_id": key,
            "day": at // DAY,
            "first_position": about["position"],
            "first_message_id": about["message_id"],
            "first_source_id": about["source_id"],
            "first_received_at": at,
            "events": 0,
        },
    )
    day |= {
        "last_position": about["position"],
        "last_message_id": about["message_id"],
        "last_source_id": about["source_id"],
        "last_received_at": at,
        "events": day["events"] + 1,
    }


def _collection(identifier: Identifier) -> Collection:
    return "accounts" if identifier.type == "group_id" else "users"


def _stored(decision: Decision, case: Case) -> stored.Fact:
    def hexed(identifier: Identifier) -> str:
        return ident_id(KEY, _collection(identifier), identifier).hex()

    match decision:
        case Unlink(one, other, apart):
            return stored.Unlink(
                by="test", collection="users", one=hexed(one), other=hexed(other), apart=apart
            )
        case Quarantine(identifier, held):
            return stored.Quarantine(
                by="test", collection=_collection(identifier), ident=hexed(identifier), quarantined=held
            )
        case Retract(position, counts):
            shown = [event for event in case.events if event.sighting.position == position]
            people = [("users", set_id_of(event.sighting).hex()) for event in shown]
            groups = [("accounts", account_key(event.group).hex()) for event in shown if event.group]
            return stored.Retract(
                by="test",
                message_id="",
                position=position.hex(),
                sets=[*people, *groups],
                counts=counts,
            )
        case NewRules(rules):
            return stored.NewRules(by="test", rules=rules)


def account_key(group: str) -> bytes:
    """Return the id of an account's set."""
    return set_id(KEY, "accounts", [ident_id(KEY, "accounts", Identifier("group_id", group))])


def set_id_of(sighting: Sighting) -> bytes:
    return set_id(KEY, "users", [ident_id(KEY, "users", one) for one in sighting.identifiers])
