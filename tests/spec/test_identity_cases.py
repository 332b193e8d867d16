"""Every identity case, under both demotion policies, on the plain reference and on the compiled resolver."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from identity_cases import (
    CASES,
    POLICIES,
    case_rules,
    decision_of,
    events_of,
    identifier_of,
    position_of,
    sightings_of,
)
from profilelake.identity import problem
from profilelake.semantics import identity
from profilelake.semantics.facts import Fact
from profilelake.semantics.identity import IdentityGraph, Refusal
from profilelake.semantics.rules import Demotion

KEY = bytes(range(16))
KEYS = {"about", "rules", "events", "arrival", "decisions", "expected"}
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
    events = list(events_of(case["events"]))
    rules = case_rules(case.get("rules", {}), demotion)
    decided = [
        Fact(position_of(len(events) + number, decision), decision_of(decision, events, demotion))
        for number, decision in enumerate(case.get("decisions", []))
    ]
    users, accounts = sightings_of(events, "identifiers"), sightings_of(events, "accounts")
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
    outcomes = [graph.sets[frozenset(map(identifier_of, event["identifiers"]))] for event in events]
    numbers = {position_of(number, event): f"e{number + 1}" for number, event in enumerate(events)}
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


def _arriving(facts: Sequence[Written], rng: random.Random) -> list[Written]:
    """Return the facts in some order, some of them more than once."""
    arrived = [*facts, *rng.choices(facts, k=len(facts))] if facts else []
    rng.shuffle(arrived)
    return arrived
