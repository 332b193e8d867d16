"""Random facts about identity as the tables would hold them, and their folds."""

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
from profilelake.semantics.rules import IdentityRules, TypeRule

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
    """One event: a sighting, with what the tables say of it besides."""

    sighting: Sighting
    source_id: str
    copy: bool
    traits: dict[str, Any]
    consent: dict[str, bool] | None


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
    return IdentityRules(
        version=draw(st.integers(1, 3)),
        types=tuple(types),
        demotion=draw(st.sampled_from(["minimal", "lowest_priority"])),
        merges_max=draw(st.sampled_from([None, None, 1, 2])),
        degree_max=draw(st.sampled_from([None, 1, 2, 3])),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
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
            ),
            min_size=1,
            max_size=14,
        )
    )
    at = START
    events = []
    for number, (identifiers, step, source_id, copy, traits, said) in enumerate(happened):
        at += step
        position = at.to_bytes(8, "big") + bytes(20) + number.to_bytes(4, "big")
        sighting = Sighting(identifiers, position, at, trusted=source_id == SERVER)
        events.append(Event(sighting, source_id, copy, traits, None if copy else said))
    return events


@st.composite
def cases(draw: st.DrawFn) -> Case:
    events = draw(histories())
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


# ---- tables ------------------------------------------------------------------------------------


def folds(case: Case) -> list[Fold]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        for name, rows in lake_of(case).items():
            connection.register(name, rows)
        return fold(connection, standing_of(connection, case.rules), frozenset({WEB}), case.policy)


def lake_of(case: Case) -> dict[str, pa.Table]:
    """Return the tables of facts as micro-batches would have left them."""
    events: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    known: dict[bytes, dict[str, Any]] = {}
    days: dict[tuple[bytes, int], dict[str, Any]] = {}
    values: dict[bytes, dict[str, Any]] = {}
    writes, said = [], []
    for number, event in enumerate(case.events):
        seen, key = event.sighting, set_id_of(event.sighting)
        about = {
            "position": seen.position,
            "received_at": seen.received_at,
            "message_id": f"m{number}",
            "source_id": event.source_id,
            "set_id": key,
        }
        timed = about | {"timestamp": seen.received_at, "type": "identify", "region": "local"}
        events[event.copy].append(timed)
        members = [{"type": one.type, "ident_id": ident_id(KEY, "users", one)} for one in seen.identifiers]
        known.setdefault(key, about | {"collection": "users", "identifiers": members})
        for one in seen.identifiers:
            ident = ident_id(KEY, "users", one)
            values.setdefault(
                ident,
                about
                | {
                    "ident_id": ident,
                    "collection": "users",
                    "type": one.type,
                    "value": one.value,
                    "first_message_id": "",
                    "created_at": seen.received_at,
                    "slot": 0,
                },
            )
        if event.copy:
            continue
        day = days.setdefault(
            (key, seen.received_at // DAY),
            {
                "set_id": key,
                "day": seen.received_at // DAY,
                "first_position": seen.position,
                "first_message_id": f"m{number}",
                "first_source_id": event.source_id,
                "first_received_at": seen.received_at,
                "events": 0,
            },
        )
        day |= {
            "last_position": seen.position,
            "last_message_id": f"m{number}",
            "last_source_id": event.source_id,
            "last_received_at": seen.received_at,
            "events": day["events"] + 1,
        }
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
        (ACCOUNT_LINKS, []),
    )
    return {definition.name: pa.Table.from_pylist(of, schema=definition.schema()) for definition, of in rows}


def _stored(decision: Decision, case: Case) -> stored.Fact:
    def hexed(identifier: Identifier) -> str:
        return ident_id(KEY, "users", identifier).hex()

    match decision:
        case Unlink(one, other, apart):
            return stored.Unlink(
                by="test", collection="users", one=hexed(one), other=hexed(other), apart=apart
            )
        case Quarantine(identifier, held):
            return stored.Quarantine(by="test", collection="users", ident=hexed(identifier), quarantined=held)
        case Retract(position, counts):
            event = next(event for event in case.events if event.sighting.position == position)
            return stored.Retract(
                by="test",
                message_id="",
                position=position.hex(),
                sets=[("users", set_id_of(event.sighting).hex())],
                counts=counts,
            )
        case NewRules(rules):
            return stored.NewRules(by="test", rules=rules)


def set_id_of(sighting: Sighting) -> bytes:
    return set_id(KEY, "users", [ident_id(KEY, "users", one) for one in sighting.identifiers])
