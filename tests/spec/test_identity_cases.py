"""Every identity case, under both demotion policies, on the plain reference and on the compiled resolver."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from profilelake.identity import problem
from profilelake.semantics import identity
from profilelake.semantics.facts import Decision, Fact, NewRules, Quarantine, Retract, Unlink
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import IdentityGraph, Refusal, Sighting
from profilelake.semantics.rules import Demotion, IdentityRules, TypeRule, segment_defaults

CASES = sorted((Path(__file__).parent / "identity").glob("*.yaml"))
KEY = bytes(range(16))
POLICIES: tuple[Demotion, ...] = ("minimal", "lowest_priority")
KEYS = {"about", "rules", "events", "arrival", "decisions", "expected"}
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
EXPECTED = {
    "profiles",
    "sizes",
    "accounts",
    "founding",
    "unowned",
    "first",
    "now",
    "merges",
    "refused",
    "blocked",
    "unconfigured",
}
Written = TypeVar("Written")


@pytest.mark.parametrize("by", [identity.resolve, problem.resolve], ids=["reference", "kernel"])
@pytest.mark.parametrize("demotion", POLICIES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, demotion: Demotion, by: Callable[..., IdentityGraph]) -> None:
    case = yaml.safe_load(path.read_text())
    assert case.keys() <= KEYS
    expected = case["expected"]
    if expected.keys() <= set(POLICIES):
        if demotion not in expected:
            return
        expected = expected[demotion]
    assert expected.keys() <= EXPECTED
    events = list(_events(case["events"]))
    rules = _rules(case.get("rules", {}), demotion)
    decided = [
        Fact(_position(len(events) + number, decision), _decision(decision, events, demotion))
        for number, decision in enumerate(case.get("decisions", []))
    ]
    users, accounts = _sightings(events, "identifiers"), _sightings(events, "accounts")
    assert case["arrival"] == "any order, repeats allowed"
    for seed in range(5):
        rng = random.Random(seed)
        graph = identity.resolve_facts(_arriving(users, rng), _arriving(decided, rng), rules, key=KEY, by=by)
        assert _seen(graph, events, expected) == {
            name: _sorted(value) for name, value in expected.items() if name != "accounts"
        }
    if "accounts" in expected:
        graph = identity.resolve_facts(accounts, decided, rules, collection="accounts", key=KEY, by=by)
        assert _members(graph) == expected["accounts"]


def _seen(graph: IdentityGraph, events: list[dict[str, Any]], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what the case asks for, in its words."""
    names = _names(graph)
    outcomes = [graph.sets[frozenset(map(_identifier, event["identifiers"]))] for event in events]
    numbers = {_position(number, event): f"e{number + 1}" for number, event in enumerate(events)}
    refused: dict[str, dict[str, str]] = {}
    for refusal in graph.refusals:
        refused.setdefault(numbers[refusal.position], {})[str(refusal.identifier)] = _cause(refusal)
    seen = {
        "profiles": _members(graph),
        "sizes": dict(Counter(len(profile.members) for profile in graph.profiles.values())),
        "founding": {
            names[id]: sorted(map(str, profile.founding_set)) for id, profile in graph.profiles.items()
        },
        "unowned": sorted(str(identifier) for identifier, owner in graph.owners.items() if owner is None),
        "first": [outcome.first_profile and names[outcome.first_profile] for outcome in outcomes],
        "now": [outcome.profile and names[outcome.profile] for outcome in outcomes],
        "merges": [[names[merge.loser], names[merge.survivor]] for merge in graph.merges],
        "refused": refused,
        "blocked": {
            f"e{number}": sorted(map(str, outcome.blocked))
            for number, outcome in enumerate(outcomes, start=1)
            if outcome.blocked
        },
        "unconfigured": {
            f"e{number}": sorted(map(str, outcome.unconfigured))
            for number, outcome in enumerate(outcomes, start=1)
            if outcome.unconfigured
        },
    }
    return {name: value for name, value in seen.items() if name in wanted}


def _names(graph: IdentityGraph) -> dict[str, str]:
    """Return P1, P2, … for all profiles ever founded, in the order of their founding."""
    names: dict[str, str] = {}
    for outcome in sorted(graph.sets.values(), key=lambda outcome: outcome.first_position):
        if outcome.first_profile is not None:
            names.setdefault(outcome.first_profile, f"P{len(names) + 1}")
    return names


def _members(graph: IdentityGraph) -> dict[str, list[str]]:
    names = _names(graph)
    return {names[id]: sorted(map(str, profile.members)) for id, profile in graph.profiles.items()}


def _cause(refusal: Refusal) -> str:
    return refusal.cause if refusal.type is None else f"{refusal.cause} {refusal.type}"


def _sorted(value: Any) -> Any:
    """Return lists of members in any order; lists by event stay as they are."""
    if isinstance(value, dict):
        return {name: sorted(part) if isinstance(part, list) else part for name, part in value.items()}
    return value


def _rules(case: dict[str, Any], demotion: Demotion) -> IdentityRules:
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


def _events(written: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the events; one with `each: 50` stands for fifty, with {n} = 1 to 50 and {m} = {n} + 1."""
    for event in written:
        if "each" not in event:
            assert event.keys() <= EVENT
            yield event
            continue
        for n in range(1, event["each"] + 1):
            names = [name.format(n=n, m=n + 1) for name in event["identifiers"]]
            yield {"at": event["at"], "identifiers": names}


def _decision(written: dict[str, Any], events: list[dict[str, Any]], demotion: Demotion) -> Decision:
    ((name, about),) = ((name, about) for name, about in written.items() if name != "at")
    match name:
        case "unlink" | "relink":
            one, other = map(_identifier, about)
            return Unlink(one, other, apart=name == "unlink")
        case "quarantine" | "release":
            return Quarantine(_identifier(about), quarantined=name == "quarantine")
        case "retract" | "restore":
            number = int(about.removeprefix("e")) - 1
            known = _position(number, events[number]) if number < len(events) else bytes(12)
            return Retract(known, counts=name == "restore")
        case "rules":
            return NewRules(_rules(about, demotion))
    raise AssertionError(f"nobody can decide {name}")


def _sightings(events: list[dict[str, Any]], name: str) -> list[Sighting]:
    return [
        Sighting(
            frozenset(map(_identifier, event[name])),
            _position(number, event),
            _received_at(event),
            trusted=event.get("trusted", True),
        )
        for number, event in enumerate(events)
        if name in event
    ]


def _received_at(fact: dict[str, Any]) -> int:
    at = fact["at"]
    return int((at.timestamp() if isinstance(at, datetime) else at) * 1_000_000)


def _position(number: int, fact: dict[str, Any]) -> bytes:
    return _received_at(fact).to_bytes(8, "big") + number.to_bytes(4, "big")


def _identifier(text: str) -> Identifier:
    type, _, value = text.partition(":")
    return Identifier(type, value)


def _arriving(facts: Sequence[Written], rng: random.Random) -> list[Written]:
    """Return the facts in some order, some of them more than once."""
    arrived = [*facts, *rng.choices(facts, k=len(facts))] if facts else []
    rng.shuffle(arrived)
    return arrived
