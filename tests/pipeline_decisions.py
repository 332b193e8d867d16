"""Stories of one shop: calls of its own servers and of browsers, and what people decide meanwhile.

A story is made from a seed, so that limits, refusals and decisions that matter are frequent; what is
left after some of its records are left out is a story too, so hypothesis can make it short.
"""

import random
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from pipeline_arrivals import (
    IDENTIFIERS,
    LOGS,
    UNTRUSTED,
    consenting,
    first_events,
    group,
    identify,
    positions_of,
    set_of,
    track,
)
from pipeline_driver import KEY, SECOND, START, LogBuilder, Message
from profilelake.eventlog import Record
from profilelake.identity import facts
from profilelake.semantics.events import Event
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import Collection, IdentityRules, TypeRule

HOUR: Final = 3600 * SECOND
DAY_SECONDS: Final = 86_400
STEPS: Final = (1, 1000, HOUR)
"""Microseconds between records."""
STEPS_OVER_MIDNIGHTS: Final = (1, HOUR, 15 * HOUR)
SOURCES: Final = ("shop", "shop", *sorted(UNTRUSTED))
BY: Final = "somebody"
CALLS_MAX: Final = 16
LEFT_OUT: Final = (False, *[True] * 7)
"""Whether a record is told: the first value is the one that hypothesis prefers."""


@st.composite
def stories(draw: st.DrawFn, *, windows: bool = False, calls: int = CALLS_MAX) -> list[Record]:
    """Return records of two logs in position order, as `story` does, without some of them."""
    whole = story(draw(st.integers(0, 1 << 32)), windows=windows, calls=calls)
    told = draw(st.lists(st.sampled_from(LEFT_OUT), min_size=len(whole), max_size=len(whole)))
    kept: list[Record] = []
    counted: dict[str, int] = {}
    for record, is_told in zip(whole, told, strict=True):
        if is_told:
            before = counted.get(record.log_id, 0)
            kept.append(record._replace(events_before=before))
            counted[record.log_id] = before + record.events
    return kept


def story(seed: int, *, windows: bool = False, calls: int = CALLS_MAX) -> list[Record]:
    """Return records of two logs in position order: calls, repeats of some, and decisions between them.

    With `windows` a story takes days, and rules may count by the day.
    """
    rng = random.Random(seed)
    messages = _messages(rng, rng.randint(calls // 2, calls))
    logs = [LogBuilder(log_id) for log_id in LOGS]
    records: list[Record] = []
    at = START
    if rng.random() < 0.6:
        records.append(rng.choice(logs).decision(at, facts.NewRules(by=BY, rules=_rules(rng, windows))))
    while messages:
        at += rng.choice(STEPS_OVER_MIDNIGHTS if windows else STEPS)
        log = rng.choice(logs)
        if records and rng.random() < 0.3:
            for fact in _decision(rng, first_events(records), records, windows):
                records.append(log.decision(at, fact))
                at += 1
            continue
        count = rng.randint(1, 3)
        records.append(log.record(at, messages[:count], source_id=rng.choice(SOURCES)))
        messages = messages[count:]
    return records


def _messages(rng: random.Random, calls: int) -> list[Message]:
    """Return calls, some of them twice; client times are often equal, so that positions decide."""
    messages: list[Message] = [
        {
            **consenting(_call(rng), _consent(rng)),
            "messageId": f"m{number}",
            "timestamp": f"2026-01-01T00:00:0{rng.randint(0, 3)}Z",
        }
        for number in range(calls)
    ]
    for repeated in rng.sample(messages, rng.randint(0, 3)):
        # Of two copies of one event the row of either may be kept, so it must not tie with another.
        repeated["timestamp"] = f"2026-01-02T00:00:{repeated['messageId'][1:].zfill(2)}Z"
        messages.insert(rng.randint(0, len(messages)), repeated)
    return messages


def _consent(rng: random.Random) -> Any:
    if rng.random() < 0.6:
        return None
    told = {name: rng.random() < 0.6 for name in ("Ads", "Maps") if rng.random() < 0.6}
    return {"categoryPreferences": told}


def _call(rng: random.Random) -> Message:
    user = rng.choice((None, None, "u1", "u2", "u3", "null"))
    device = rng.choice((None, "a1", "a2", "a3", "a4"))
    written: dict[str, Any] = {name: rng.choice((1, 2, None)) for name in "xy" if rng.random() < 0.3}
    match rng.randrange(5):
        case 0:
            return track(user, device)
        case 1:
            return group(rng.choice(("g1", "g2")), user, written)
        case _:
            return identify(user, device, rng.choice((None, "e1@x", "E2@x ", "e3@x")), written)


def _decision(
    rng: random.Random, events: Sequence[Event], so_far: Sequence[Record], windows: bool
) -> list[facts.Fact]:
    """Return the facts that one request leads to, most of them about what was seen."""
    collection: Collection = rng.choice(("users", "users", "users", "accounts"))
    about = _often_seen(rng, events, collection)
    match rng.choice(("unlink", "unlink", "quarantine", "retract", "retract", "rules", "leave", "leave")):
        case "leave":
            user = rng.choice(_often_seen(rng, events, "users"))
            ends = {
                "user": _hex("users", user),
                "account": _hex("accounts", rng.choice(IDENTIFIERS["accounts"])),
            }
            return [facts.Leave(by=BY, left=rng.random() < 0.75, **ends)]
        case "unlink":
            apart = rng.random() < 0.75
            ends = {"one": _hex(collection, about[0]), "other": _hex(collection, about[1])}
            return [facts.Unlink(by=BY, collection=collection, apart=apart, **ends)]
        case "quarantine":
            ident = _hex(collection, about[0])
            return [
                facts.Quarantine(by=BY, collection=collection, ident=ident, quarantined=rng.random() < 0.6)
            ]
        case "retract" if events:
            return retractions(so_far, rng.choice(events).message_id, counts=rng.random() < 0.3)
        case _:
            return [facts.NewRules(by=BY, rules=_rules(rng, windows))]


def retractions(records: Sequence[Record], message_id: str, *, counts: bool = False) -> list[facts.Fact]:
    """Return the facts by which a message that was sent counts no more: one for each of its copies."""
    event = next(event for event in first_events(records) if event.message_id == message_id)
    sets = [
        (name, set_of(name, names).hex())
        for name, names in (("users", event.users), ("accounts", event.accounts))
        if names
    ]
    return [
        facts.Retract(by=BY, message_id=message_id, position=place.hex(), sets=sets, counts=counts)
        for place in positions_of(records, message_id)
    ]


def daily_limits() -> facts.Fact:
    """Return rules under which a person may get one more device each day, and else as many as they like."""
    types = (TypeRule("user_id", 1, limit=1), TypeRule("email", 2, limit=None))
    devices = TypeRule("anonymous_id", 3, limit=1, window_seconds=DAY_SECONDS)
    return facts.NewRules(by=BY, rules=IdentityRules(version=2, types=(*types, devices)))


def at_most_one_other() -> facts.Fact:
    """Return rules under which an identifier that meets two others of one type is quarantined."""
    types = tuple(TypeRule(type, place) for place, type in enumerate(("user_id", "email", "anonymous_id"), 1))
    return facts.NewRules(by=BY, rules=IdentityRules(version=2, types=types, degree_max=1))


def _often_seen(
    rng: random.Random, events: Sequence[Event], collection: Collection
) -> tuple[Identifier, Identifier]:
    """Return two identifiers, most often of one event."""
    known = IDENTIFIERS[collection]
    named = [sorted(names) for event in events if len(names := set(getattr(event, collection))) > 1]
    one, other = rng.sample(rng.choice(named) if named and rng.random() < 0.7 else known, 2)
    return one, other


def _rules(rng: random.Random, windows: bool) -> IdentityRules:
    types = [
        TypeRule(
            type,
            strength,
            limit=rng.choice((None, 1, 1, 2)),
            window_seconds=rng.choice((1, 2, 3)) * DAY_SECONDS if windows and rng.random() < 0.4 else None,
            blocked_exact=frozenset({"null", *rng.choices(("u1", "a1", "e1@x"), k=rng.choice((0, 0, 1)))}),
        )
        for type, strength in zip(("user_id", "email", "anonymous_id"), rng.sample((1, 2, 3), 3), strict=True)
    ]
    return IdentityRules(
        version=rng.randint(2, 9),
        types=(*types, TypeRule("group_id", 1, collection="accounts", limit=1)),
        demotion=rng.choice(("minimal", "lowest_priority")),
        identifiers_max=rng.choice((None, None, None, 3)),
        merges_max=rng.choice((None, None, None, 1)),
        degree_max=rng.choice((None, 1, 2)),
    )


def _hex(collection: Collection, identifier: Identifier) -> str:
    return ident_id(KEY, collection, identifier).hex()
