"""The batch form of identity says, from tables alone, what the reference says of the facts behind them."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import given, settings

from fold_cases import KEY, START, VALUES, Case, cases, folds, set_id_of
from profilelake.pipeline.fold_state import records
from profilelake.pipeline.fold_tables import tables
from profilelake.pipeline.rebuild import Fold
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.semantics import consent, facts, identity
from profilelake.semantics.identifiers import Identifier, ident_id, public_id
from profilelake.semantics.identity import IdentityGraph
from profilelake.semantics.rules import IdentityRules
from profilelake.state.records import joined_traits


@given(cases())
@settings(max_examples=40)
def test_tables_and_state_say_what_the_reference_says(case: Case) -> None:
    graph = identity.resolve_facts(
        [event.sighting for event in case.events], case.decisions, case.rules, key=KEY
    )
    held = facts.standing(case.decisions, case.rules)
    folded, accounts = folds(case)
    assert len(accounts.facts.set_ids) == 0
    _check_tables(tables(folded), graph, held.rules)
    _check_state(folded, graph, case)


def _check_tables(found: dict[str, pa.Table], graph: IdentityGraph, rules: IdentityRules) -> None:
    ids = {value: ident_id(KEY, "users", value) for value in VALUES}
    sets = {row["set_id"]: row for row in found["set_map"].to_pylist()}
    assert sets.keys() == {outcome.set_id for outcome in graph.sets.values()}
    for outcome in graph.sets.values():
        row = sets[outcome.set_id]
        assert row["profile_id"] == outcome.profile
        assert row["first_profile_id"] == outcome.first_profile
        assert row["anchor"] == (ids[outcome.anchor] if outcome.anchor else None)
    owners = {row["ident_id"]: row["profile_id"] for row in found["identity_map"].to_pylist()}
    assert owners == {ids[value]: owner for value, owner in graph.owners.items() if owner is not None}
    refused: dict[bytes, list[dict[str, Any]]] = {}
    for refusal in graph.refusals:
        refused.setdefault(refusal.set_id, []).append(
            {
                "ident_id": ids[refusal.identifier],
                "type": refusal.identifier.type,
                "against_profile_id": refusal.profile,
                "cause": refusal.cause,
                "limit_type": refusal.type,
            }
        )
    refusals = found["identity_refusals"].to_pylist()
    assert {row["set_id"]: row["refused"] for row in refusals} == refused
    assert {row["rule_version"] for row in refusals} <= {rules.version}
    profiles = {row["profile_id"]: json.loads(row["identifiers"]) for row in found["profiles"].to_pylist()}
    assert profiles == {id: _by_type(profile.members) for id, profile in graph.profiles.items()}


def _consent(case: Case, graph: IdentityGraph, profile: str) -> dict[str, str] | None:
    said: dict[frozenset[Identifier], consent.Statement] = {}
    for event in case.events:
        names = event.sighting.identifiers
        if event.consent is not None and graph.sets[names].profile == profile:
            new = consent.Statement(START, event.sighting.position, event.consent)
            said[names] = consent.joined(said[names], new) if names in said else new
    sets = [
        (told, consent.ties(case.policy, [(one.type, one.value) for one in names]))
        for names, told in said.items()
    ]
    chosen = consent.choices(sets, case.policy)
    return {category: choice.value for category, choice in chosen.items()} if said else None


def _check_state(folded: Fold, graph: IdentityGraph, case: Case) -> None:
    held = records(folded)
    rows = {row["profile_id"]: row for row in tables(folded)["profiles"].to_pylist()}
    assert len(rows) == len(held.profiles)
    for key, profile in held.profiles.items():
        row = rows[public_id("users", key)]
        assert row["identifiers"] == identifiers_text(profile, held.idents)
        assert row["traits"] == traits_text(joined_traits(profile, held.traits))
        assert json.loads(row["consent"] or "null") == _consent(case, graph, public_id("users", key))
        assert row["event_count"] == sum(held.activity[member].count for member in profile.sets)
    for outcome in graph.sets.values():
        assert held.sets[outcome.set_id].position == outcome.first_position
    retracted = facts.standing(case.decisions, case.rules).retracted
    window = identity.common_window(folded.rules, "users")
    if window is None:
        assert held.sightings == {}
        return
    counted = [event.sighting for event in case.events if event.sighting.position not in retracted]
    assert {place: seen.position for place, seen in held.sightings.items()} == {
        set_id_of(seen) + (seen.received_at // window).to_bytes(8, "big"): seen.position
        for seen in identity.first_sightings(counted, folded.rules, "users")
    }


def _by_type(members: frozenset[Identifier]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for member in sorted(members):
        grouped.setdefault(member.type, []).append(member.value)
    return grouped
