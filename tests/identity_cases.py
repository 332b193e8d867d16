"""The cases of `spec/identity` as data: what is written there as events, decisions and rules."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from profilelake.semantics.facts import Decision, NewRules, Quarantine, Retract, Unlink
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import Demotion, IdentityRules, TypeRule, segment_defaults

CASES = sorted((Path(__file__).parent / "spec" / "identity").glob("*.yaml"))
POLICIES: tuple[Demotion, ...] = ("minimal", "lowest_priority")
EVENT = {"at", "identifiers", "accounts", "trusted"}
RULES = {
    "priority",
    "limits",
    "custom",
    "blocked",
    "demotion",
    "identifiers_max",
    "merges_max",
    "degree_max",
}


def case_rules(case: dict[str, Any], demotion: Demotion) -> IdentityRules:
    """Return the rules that a case writes, beside the defaults."""
    assert case.keys() <= RULES
    rules = segment_defaults(custom=tuple(case.get("custom", ())), demotion=case.get("demotion", demotion))
    order = case.get("priority", [])
    types: list[TypeRule] = []
    for rule in rules.types:
        limit = case.get("limits", {}).get(rule.type, rule.limit)
        if isinstance(limit, dict):
            rule = replace(rule, limit=limit["values"], window_seconds=limit["window_seconds"])
        else:
            rule = replace(rule, limit=limit)
        place = order.index(rule.type) + 1 if rule.type in order else len(order) + rule.priority
        blocked = rule.blocked_exact | set(case.get("blocked", {}).get(rule.type, ()))
        types.append(replace(rule, priority=place, blocked_exact=blocked))
    return replace(
        rules,
        types=tuple(types),
        identifiers_max=case.get("identifiers_max"),
        merges_max=case.get("merges_max"),
        degree_max=case.get("degree_max", rules.degree_max),
    )


def events_of(written: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the events; one with `each: 50` stands for fifty, with {n} = 1 to 50 and {m} = {n} + 1."""
    for event in written:
        if "each" not in event:
            assert event.keys() <= EVENT
            yield event
            continue
        for n in range(1, event["each"] + 1):
            names = [name.format(n=n, m=n + 1) for name in event["identifiers"]]
            yield {"at": event["at"], "identifiers": names}


def decision_of(written: dict[str, Any], events: list[dict[str, Any]], demotion: Demotion) -> Decision:
    """Return the decision that a case writes."""
    ((name, about),) = ((name, about) for name, about in written.items() if name != "at")
    match name:
        case "unlink" | "relink":
            one, other = map(identifier_of, about)
            return Unlink(one, other, apart=name == "unlink")
        case "quarantine" | "release":
            return Quarantine(identifier_of(about), quarantined=name == "quarantine")
        case "retract" | "restore":
            number = int(about.removeprefix("e")) - 1
            known = position_of(number, events[number]) if number < len(events) else bytes(12)
            return Retract(known, counts=name == "restore")
        case "rules":
            return NewRules(case_rules(about, demotion))
    raise AssertionError(f"nobody can decide {name}")


def sightings_of(events: list[dict[str, Any]], name: str) -> list[Sighting]:
    """Return the sightings of a case's events in one collection (`identifiers` or `accounts`)."""
    return [
        Sighting(
            frozenset(map(identifier_of, event[name])),
            position_of(number, event),
            received_at(event),
            trusted=event.get("trusted", True),
        )
        for number, event in enumerate(events)
        if name in event
    ]


def received_at(fact: dict[str, Any]) -> int:
    """Return when an event or decision was received."""
    at = fact["at"]
    return int((at.timestamp() if isinstance(at, datetime) else at) * 1_000_000)


def position_of(number: int, fact: dict[str, Any]) -> bytes:
    """Return the place of the event or decision with this number."""
    return received_at(fact).to_bytes(8, "big") + number.to_bytes(4, "big")


def identifier_of(text: str) -> Identifier:
    """Return the identifier of `type:value`."""
    type, _, value = text.partition(":")
    return Identifier(type, value)
