"""The law of live computed traits and audiences: whatever happened, they are what the reference says of it."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hypothesis import event, note
from hypothesis import strategies as st

from condition_worlds import HOUR, HOURS, KEYS, START, Call, calls, definitions, values
from pipeline_driver import SECOND, WORKSPACE, Desk, LogBuilder, Message, account_links
from profilelake.audiences import definitions_now
from profilelake.audiences.facts import Define
from profilelake.identity import facts
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import Occurred, Subject
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Definition, Json
from profilelake.semantics.identifiers import Identifier, ident_id, public_id
from profilelake.semantics.rules import Collection
from profilelake.semantics.times import format_time
from profilelake.state.records import collection_name, joined_traits
from profilelake.state.store import Db
from profilelake.traits.steps import Planned

LOG: Final = "00000000000000aa"
LATE_LOG: Final = "00000000000000bb"
ARRIVAL: Final = START + (HOURS + 1) * HOUR
"""When the first record is received: everything that calls tell of has happened by then."""
PAUSES: Final = (1, 1_000, HOUR - 1, HOUR, 5 * HOUR, 30 * HOUR)


@dataclass(frozen=True)
class Step:
    """One thing that happens, and how long after the one before."""

    what: str
    pause: int
    told: Any = None


@dataclass
class Life:
    """A desk, the log it reads, and the time."""

    desk: Desk
    log: LogBuilder = field(default_factory=lambda: LogBuilder(LOG))
    late: LogBuilder = field(default_factory=lambda: LogBuilder(LATE_LOG))
    at: int = ARRIVAL
    late_at: int = ARRIVAL
    sent: list[Message] = field(default_factory=list)


LIKELY: Final = (
    ("audience", "users", "event('Order').count() >= 1"),
    ("audience", "users", "event('Order').within(2 days).count() >= 1"),
    ("audience", "users", "NOT event('Order').within(1 day).count() >= 1"),
    ("audience", "users", "event('Cart').between(1 hour, 2 days).count() >= 1 OR trait('t').exists()"),
    ("audience", "users", "trait('t').exists() AND NOT event('Cart').count() >= 2"),
    (
        "audience",
        "users",
        "event('Cart').where( NOT event('Order').within(parent: 5 hours).count() >= 1 ).count() >= 1",
    ),
    ("audience", "users", "event('Page Viewed').expires_after(1 day).count() >= 1"),
    ("audience", "users", "NOT trait('k0') = 'true'"),
    ("audience", "users", "trait('k1') >= 1 OR trait('k0') = 'true'"),
    ("trait", "users", "event('Order').count()"),
    ("trait", "users", "event('Order').within(2 days).count()"),
    ("trait", "users", "event('Cart').sum(property('a'))"),
    ("trait", "users", "event('Cart').within(2 days).max(property('a'))"),
    ("trait", "users", "event('Order').last(property('a'))"),
    ("trait", "users", "event('Order').within(5 hours).unique(property('a')).count()"),
    ("audience", "accounts", "event('Order').within(2 days).count() >= 1"),
    ("audience", "accounts", "ANY( trait('t').exists() )"),
    ("audience", "accounts", "ANY( trait('k0') = 'true' ) OR ALL( NOT event('Cart').count() >= 1 )"),
    ("trait", "accounts", "event('Order').count()"),
)
"""Kinds, targets and texts of definitions that often hold, and often cease to."""


# ---- what happens ------------------------------------------------------------------------------


@st.composite
def messages(draw: st.DrawFn, number: int) -> Message:
    """Return one call of a few people on a few devices, some in organisations."""
    call: Call = draw(calls(number))
    type = draw(st.sampled_from(("event", "event", "event", "identify", "group")))
    message: Message = {
        "type": call.type,
        "messageId": f"m{number}",
        "timestamp": format_time(call.timestamp),
        "anonymousId": f"a{call.set}",
    }
    if draw(st.sampled_from((False, False, True))):
        message["userId"] = f"u{draw(st.integers(0, 2))}"
    if type == "group":
        return message | {
            "type": "group",
            "groupId": f"g{draw(st.integers(0, 1))}",
            "traits": draw(st.fixed_dictionaries({"t": values()}, optional={"u": values()})),
        }
    if type == "identify" or call.type == "identify":
        traits: dict[str, Any] = draw(st.fixed_dictionaries({}, optional={"t": values(), "u": values()}))
        if draw(st.booleans()):
            traits["email"] = f"e{draw(st.integers(0, 1))}@example.org"
        return message | {"type": "identify", "traits": traits}
    message |= {"event" if call.type == "track" else "name": call.name} if call.name else {}
    if call.properties is not None:
        message["properties"] = dict(call.properties)
    if call.context is not None:
        message["context"] = dict(call.context)
    return message


@st.composite
def defined(draw: st.DrawFn) -> list[Definition]:
    """Return definitions, each reading only those before it: some that often hold, some at random."""
    made: list[Definition] = []
    for key in KEYS[: draw(st.integers(1, 4))]:
        if draw(st.sampled_from((True, True, True, False))):
            reads_no_later = [one for one in LIKELY if all(other < key for other in KEYS if other in one[2])]
            kind, target, query = draw(st.sampled_from(reads_no_later))
            told = {"historical": draw(st.sampled_from((True, True, True, False))), "external_ids": ()}
            made.append(Definition(key, kind, query, target, **told))  # type: ignore[arg-type]
        else:
            random = [
                one.definition
                for one in draw(definitions())
                if one.definition.key == key and "entity(" not in one.definition.query
            ]
            made += random
    return made


@st.composite
def lives(draw: st.DrawFn, most: int = 10) -> list[Step]:
    """Return what happens to a desk: definitions first or later, calls, decisions, time."""
    made = draw(defined())
    keys = [one.key for one in made] or [KEYS[0]]
    steps: list[Step] = []
    number = 0
    waiting = list(made)
    at_once = draw(st.sampled_from((0, 1, len(made)))) if made else 0
    steps += [Step("define", 1, one) for one in waiting[:at_once]]
    del waiting[:at_once]
    for _ in range(draw(st.integers(4, most))):
        kinds = (
            ["events"] * 8
            + ["late", "late", "leave"]
            + ["tick", "tick", "backfill", "again", "unlink", "restart", "sweep"]
        )
        kinds += ["define"] * 4 if waiting else ["edit", "disable", "enable"]
        what = draw(st.sampled_from(kinds))
        told: Any = None
        match what:
            case "events" | "late":
                count = draw(st.integers(1, 4))
                told = [draw(messages(number + place)) for place in range(count)]
                number += count
            case "again":
                told = draw(st.integers(0, 30))
            case "leave":
                told = (f"a{draw(st.integers(0, 4))}", f"g{draw(st.integers(0, 1))}")
            case "unlink":
                told = (f"a{draw(st.integers(0, 4))}", f"u{draw(st.integers(0, 2))}")
            case "define":
                told = waiting.pop(0)
            case "edit":
                told = draw(st.sampled_from(draw(defined()) or [Definition("k9", "audience", "")]))
            case "disable" | "enable":
                told = draw(st.sampled_from(keys))
        steps.append(Step(what, draw(st.sampled_from(PAUSES)), told))
    steps += [Step("define", 1, one) for one in waiting]
    return steps


# ---- the law -----------------------------------------------------------------------------------


@contextmanager
def life() -> Iterator[Life]:
    """Give an empty desk."""
    with tempfile.TemporaryDirectory() as folder:
        made = Life(Desk(Path(folder)))
        try:
            yield made
        finally:
            made.desk.close()


def live_says_what_the_reference_says(steps: Sequence[Step]) -> None:
    """After every step the values of live definitions are those of the reference; so is the journal."""
    with life() as lived:
        desk = lived.desk
        for step in steps:
            lived.at += step.pause
            note(f"{format_time(lived.at)} {step.what} {step.told}")
            take(lived, step)
            desk.tick(lived.at)
            check(desk)
        lived.at += 1
        desk.settle(lived.at)
        check(desk)
        for pause in (HOUR, 24 * HOUR, 24 * HOUR + 1, 200 * HOUR):
            lived.at += pause
            desk.tick(lived.at)
            check(desk)
        statuses = desk.statuses()
        assert set(statuses.values()) <= {"live", "disabled", "dropped"}
        causes = {change.cause for change in desk.changes()}
        event(f"causes: {sorted(causes)}")


def a_whole_life_of_definitions(steps: Sequence[Step], data: st.DataObject) -> None:
    """Publications, maintenance, restarts and rebuilds in between: state, tables and journal stay right."""
    with life() as lived:
        desk = lived.desk
        for step in steps:
            lived.at += step.pause
            note(f"{format_time(lived.at)} {step.what} {step.told}")
            take(lived, step)
            desk.tick(lived.at)
            between = data.draw(st.sampled_from(("", "", "publish", "tend", "rebuild", "rebuild by plan")))
            note(between)
            if between:
                _BETWEEN[between](desk)
        # A rebuilt state is at the time of its own clock: then nothing differs, and nothing is told.
        lived.at = desk.now + SECOND
        desk.settle(lived.at)
        found, plan = reference(desk)
        assert {place: canonical_text(text) for place, text in desk.values().items()} == found
        assert desk.verify() == []
        event(f"definitions: {len(plan)}, values: {len(found)}")
        desk.rebuild()
        desk.settle(desk.applied().watermark)
        assert {place: canonical_text(text) for place, text in desk.values().items()} == reference(desk)[0]
        assert desk.changes() == []
        assert desk.verify() == []


_BETWEEN: Final[Mapping[str, Callable[[Desk], object]]] = {
    "publish": lambda desk: desk.publish(whole=False),
    "tend": Desk.tend,
    "rebuild": Desk.rebuild,
    "rebuild by plan": Desk.rebuild_by_plan,
}


def check(desk: Desk) -> None:
    """Hold values against the reference, and the journal against the values."""
    statuses = desk.statuses()
    found = desk.values()
    wanted, plan = reference(desk)
    settled = {key for key in statuses if _settled(key, statuses, plan)}
    mine = {place: canonical_text(text) for place, text in found.items() if place[0] in settled}
    assert mine == {place: text for place, text in wanted.items() if place[0] in settled}
    assert folded(desk, found) == found


def folded(desk: Desk, found: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Return what the feed comes to; every change begins where the one before ended, and changes something.

    `found` tells a count that came down to 0, which is no value, from a sum of 0.
    """
    told: dict[tuple[str, str], str] = {}
    names: set[str] = set()
    for change in desk.changes():
        place = change.definition, public_id(change.collection, change.profile)  # type: ignore[arg-type]
        before = told.get(place)
        assert change.previous == before or (before == "0" and change.previous is None)
        assert change.value != change.previous
        assert change.idempotency_key not in names
        names.add(change.idempotency_key)
        if change.value is None:
            told.pop(place)
        else:
            told[place] = change.value
    return {place: value for place, value in told.items() if value != "0" or place in found}


def reference(desk: Desk) -> tuple[dict[tuple[str, str], str], Mapping[str, Planned]]:
    """Return what every definition is worth for every profile at pipeline time, and the definitions."""
    with desk.state.read(WORKSPACE) as tx:
        known = definitions_now.Known.of(definitions_now.held(tx, WORKSPACE))
        profiles = tx.profiles(WORKSPACE, list(tx.keys(WORKSPACE, Db.PROFILE)))
        writes = tx.set_traits(WORKSPACE, list(tx.keys(WORKSPACE, Db.TRAITS)))
        links = account_links(tx)
    plan = {planned.held.definition.key: planned for planned in known.plan}
    triples = [(p.held.definition, p.root, p.held.created) for p in known.plan]
    happened: dict[bytes, list[Occurred]] = {}
    for row in desk.events().to_pylist():
        if (one := _occurred(row)) is not None:
            happened.setdefault(row["set_id"], []).append(one)
    subjects: dict[str, Subject] = {}
    for key, profile in profiles.items():
        traits = {name: write.value for name, write in joined_traits(profile, writes).items()}
        subjects[public_id(collection_name(profile.collection), key)] = Subject(
            [one for member in profile.sets for one in happened.get(member, ())],
            {name: json.loads(text) for name, text in traits.items() if text is not None},
            identifier_types=frozenset(type for _, type in profile.idents),
        )
    at = desk.applied().watermark
    found: dict[tuple[str, str], str] = {}
    for profile_id, subject in subjects.items():
        accounts = profile_id.startswith("acc_")
        users = [
            subjects[user] for user, account, _, until in links if account == profile_id and until is None
        ]
        whole = evaluate.account(users, subject.traits) if accounts else subject
        for key, answer in evaluate.answers(triples, whole, at, accounts=accounts).items():
            if (text := _text(plan[key], answer)) is not None:
                found[key, profile_id] = text
    return found, plan


def take(lived: Life, step: Step) -> None:
    """Let one thing happen."""
    desk, log, at = lived.desk, lived.log, lived.at
    match step.what:
        case "events":
            lived.sent += step.told
            desk.apply([log.record(at, step.told)])
        case "late":
            # Of a log that was held back: older than what is applied already.
            lived.sent += step.told
            lived.late_at = max(ARRIVAL, lived.late_at + 1, at - 2 * HOUR)
            desk.apply([lived.late.record(lived.late_at, step.told)])
        case "leave":
            user, account = step.told
            left = (("users", "anonymous_id", user), ("accounts", "group_id", account))
            ids = [_ident(desk, collection, type, value) for collection, type, value in left]
            desk.apply([log.decision(at, facts.Leave(by="test", user=ids[0], account=ids[1]))])
        case "again" if lived.sent:
            desk.apply([log.record(at, [lived.sent[step.told % len(lived.sent)]])])
        case "unlink":
            one = _ident(desk, "users", "anonymous_id", step.told[0])
            other = _ident(desk, "users", "user_id", step.told[1])
            desk.apply([log.decision(at, facts.Unlink(by="test", collection="users", one=one, other=other))])
        case "define" | "edit" | "disable" | "enable":
            if (definition := _asked(step, _held(desk))) is not None:
                desk.apply([log.definition(at, Define(by="test", definition=definition))])
        case "backfill":
            desk.backfill()
        case "restart":
            desk.restart()
        case _:
            pass


def _ident(desk: Desk, collection: Collection, type: str, value: str) -> str:
    return ident_id(desk.setup.identifier_key, collection, Identifier(type, value)).hex()


def _asked(step: Step, held: Mapping[str, Definition]) -> Definition | None:
    """Return what a step defines; None for an edit that would not be let through."""
    if step.what == "define":
        asked: Definition = step.told
        return asked
    if step.what in ("disable", "enable"):
        before = held.get(step.told)
        return None if before is None else replace(before, enabled=step.what == "enable")
    edit: Definition = step.told
    before = held.get(edit.key)
    same = before is not None and (before.target, before.kind) == (edit.target, edit.kind)
    reads = [key for key in held if f"'{key}" in edit.query]
    return edit if same and all(key < edit.key for key in reads) else None


def _held(desk: Desk) -> dict[str, Definition]:
    with desk.state.read(WORKSPACE) as tx:
        return {key: held.definition for key, held in definitions_now.held(tx, WORKSPACE).items()}


def _settled(key: str, statuses: Mapping[str, str], plan: Mapping[str, Planned]) -> bool:
    """Tell whether a definition is live, and all that it reads."""
    if statuses.get(key) in ("disabled", "dropped"):
        return True
    if statuses.get(key) != "live" or key not in plan:
        return False
    return all(_settled(read, statuses, plan) for read in plan[key].reads if read in statuses)


def _occurred(row: Mapping[str, Any]) -> Occurred | None:
    when = row["timestamp"]
    return evaluate.occurred(
        row["type"],
        row["event"] if row["type"] == "track" else row["name"],
        round(when.timestamp() * 1_000_000),
        position=row["position"],
        source_id=row["source_id"],
        properties=_object(row["properties"]),
        context=_object(row["context"]),
    )


def _object(text: str | None) -> Mapping[str, Json] | None:
    return None if text is None else json.loads(text)


def _text(planned: Planned, answer: Json) -> str | None:
    if planned.held.definition.kind == "audience":
        return "true" if answer is True else None
    root = planned.root
    counted = getattr(root, "how", "") == "count" or getattr(root, "counted", False)
    return None if answer is None or (counted and answer == 0) else canonical(answer)


def canonical_text(text: str) -> str:
    """Return JSON text as the reference writes it."""
    return canonical(json.loads(text))
