"""Every identity case, under both demotion policies, on the plain reference and on the compiled resolver."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from profilelake.identity import problem
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import IdentityGraph, Refusal, Sighting
from profilelake.semantics.rules import Demotion, IdentityRules, TypeRule, segment_defaults

CASES = sorted((Path(__file__).parent / "identity").glob("*.yaml"))
KEY = bytes(range(16))
POLICIES: tuple[Demotion, ...] = ("minimal", "lowest_priority")
KEYS = {"about", "rules", "events", "arrival", "unlinks", "expected"}
EXPECTED = {
    "profiles",
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


@pytest.mark.parametrize("resolve", [identity.resolve, problem.resolve], ids=["reference", "kernel"])
@pytest.mark.parametrize("demotion", POLICIES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, demotion: Demotion, resolve: Callable[..., IdentityGraph]) -> None:
    case = yaml.safe_load(path.read_text())
    assert case.keys() <= KEYS
    expected = case["expected"]
    if expected.keys() <= set(POLICIES):
        if demotion not in expected:
            return
        expected = expected[demotion]
    assert expected.keys() <= EXPECTED
    rules = replace(_rules(case.get("rules", {})), demotion=demotion)
    unlinks = [(_identifier(one), _identifier(other)) for one, other in case.get("unlinks", [])]
    users, accounts = _sightings(case, "identifiers"), _sightings(case, "accounts")
    assert case["arrival"] == "any order, repeats allowed"
    for seed in range(5):
        arrived = users if seed == 0 else _shuffled(users, seed)
        graph = resolve(arrived, rules, key=KEY, unlinks=unlinks)
        assert _seen(graph, case["events"], expected) == {
            name: _sorted(value) for name, value in expected.items() if name != "accounts"
        }
    if "accounts" in expected:
        graph = resolve(accounts, rules, collection="accounts", key=KEY)
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


def _rules(case: dict[str, Any]) -> IdentityRules:
    assert case.keys() <= {"priority", "limits", "custom", "identifiers_max", "merges_max"}
    rules = segment_defaults(custom=tuple(case.get("custom", ())))
    order = case.get("priority", [])
    types: list[TypeRule] = []
    for rule in rules.types:
        limit = case.get("limits", {}).get(rule.type, rule.limit)
        if isinstance(limit, dict):
            rule = replace(rule, limit=limit["values"], window_seconds=limit["window_seconds"])
        else:
            rule = replace(rule, limit=limit)
        place = order.index(rule.type) + 1 if rule.type in order else len(order) + rule.priority
        types.append(replace(rule, priority=place))
    return replace(
        rules,
        types=tuple(types),
        identifiers_max=case.get("identifiers_max"),
        merges_max=case.get("merges_max"),
    )


def _sightings(case: dict[str, Any], name: str) -> list[Sighting]:
    return [
        Sighting(frozenset(map(_identifier, event[name])), _position(number, event), _received_at(event))
        for number, event in enumerate(case["events"])
        if name in event
    ]


def _received_at(event: dict[str, Any]) -> int:
    at = event["at"]
    return int((at.timestamp() if isinstance(at, datetime) else at) * 1_000_000)


def _position(number: int, event: dict[str, Any]) -> bytes:
    return _received_at(event).to_bytes(8, "big") + number.to_bytes(4, "big")


def _identifier(text: str) -> Identifier:
    type, _, value = text.partition(":")
    return Identifier(type, value)


def _shuffled(sightings: list[Sighting], seed: int) -> list[Sighting]:
    rng = random.Random(seed)
    arrived = [*sightings, *rng.choices(sightings, k=len(sightings))]
    rng.shuffle(arrived)
    return arrived
