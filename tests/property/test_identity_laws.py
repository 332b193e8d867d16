"""Laws of identity resolution: the compiled resolver equals the reference, and order does not matter.

What people decide has laws of its own, in `test_identity_decisions.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import identity_cuts
from identity_histories import (
    NO_EFFECT,
    Pair,
    by_founding,
    components,
    either,
    histories,
    rule_sets,
    sets,
    unlinks,
)
from profilelake.identity import problem
from profilelake.semantics import identity
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import IdentityRules, segment_defaults

Case = tuple[list[Sighting], IdentityRules, list[Pair]]

cases = st.tuples(histories(), rule_sets, unlinks)


@given(cases)
@settings(max_examples=150)
def test_the_compiled_resolver_gives_the_answer_of_the_reference(case: Case) -> None:
    sightings, rules, unlinks = case
    assert problem.resolve(sightings, rules, unlinks=unlinks) == identity.resolve(
        sightings, rules, unlinks=unlinks
    )


@given(cases, either, st.data())
@settings(max_examples=80)
def test_arrival_order_and_repeats_change_nothing(
    case: Case, resolve: Callable[..., IdentityGraph], data: st.DataObject
) -> None:
    sightings, rules, unlinks = case
    repeats = data.draw(st.lists(st.sampled_from(sightings), max_size=5))
    arrived = data.draw(st.permutations([*sightings, *repeats]))
    assert resolve(arrived, rules, unlinks=unlinks) == resolve(sightings, rules, unlinks=unlinks)


@given(cases, either, st.data())
@settings(max_examples=80)
def test_a_set_seen_again_later_changes_nobody(
    case: Case, resolve: Callable[..., IdentityGraph], data: st.DataObject
) -> None:
    """Also where it comes with values that link nobody, and so has an id of its own."""
    sightings, rules, unlinks = case
    rules = replace(rules, types=tuple(replace(rule, window_seconds=None) for rule in rules.types))
    again = data.draw(st.sampled_from(sightings))
    more = data.draw(st.frozensets(st.sampled_from(NO_EFFECT)))
    later = Sighting(again.identifiers | more, b"\xff" * 12, again.received_at)
    before = resolve(sightings, rules, unlinks=unlinks)
    after = resolve([*sightings, later], rules, unlinks=unlinks)
    assert (after.profiles, after.owners, after.merges) == (before.profiles, before.owners, before.merges)


@given(cases, st.data())
@settings(max_examples=150)
def test_a_stream_cut_in_parts_gives_the_answer_of_the_whole(case: Case, data: st.DataObject) -> None:
    sightings, rules, unlinks = case
    whole = identity_cuts.problem_of(sightings, rules, unlinks)
    places = data.draw(st.sets(st.integers(0, len(whole.set_offsets) - 1), max_size=3))
    assert identity_cuts.run(identity_cuts.cut(whole, places)) == identity_cuts.run([whole])


@given(cases, either)
@settings(max_examples=80)
def test_components_can_be_resolved_alone(case: Case, resolve: Callable[..., IdentityGraph]) -> None:
    sightings, rules, unlinks = case
    whole = resolve(sightings, rules, unlinks=unlinks)
    profiles: dict[str, Any] = {}
    refusals: list[Any] = []
    for component in components(sightings, rules):
        alone = resolve(component, rules, unlinks=unlinks)
        profiles |= alone.profiles
        refusals += alone.refusals
    assert profiles == whole.profiles
    assert sorted(map(repr, refusals)) == sorted(map(repr, whole.refusals))


@given(st.tuples(histories(), rule_sets, unlinks), either, st.data())
@settings(max_examples=120)
def test_erasing_a_whole_profile_leaves_all_others(
    case: Case, resolve: Callable[..., IdentityGraph], data: st.DataObject
) -> None:
    """Sets anchored in it go, its identifiers are stripped from all other sets (minimal policy)."""
    sightings, rules, unlinks = case
    rules = replace(rules, demotion="minimal")
    graph = resolve(sightings, rules, unlinks=unlinks)
    if not graph.profiles:
        return
    erased = data.draw(st.sampled_from(sorted(graph.profiles)))
    gone = graph.profiles[erased].members
    kept = []
    for sighting in sightings:
        anchor = graph.sets[sighting.identifiers].anchor
        if anchor is None or graph.owners[anchor] != erased:
            kept.append(replace(sighting, identifiers=sighting.identifiers - gone))
    after = resolve(kept, rules, unlinks=unlinks)
    assert by_founding(after) == {
        founded: members for founded, members in by_founding(graph).items() if not members & gone
    }


@given(histories(sets), either)
@settings(max_examples=60)
def test_without_limits_profiles_are_the_connected_components(
    sightings: list[Sighting], resolve: Callable[..., IdentityGraph]
) -> None:
    rules = segment_defaults()
    rules = replace(rules, types=tuple(replace(rule, limit=None) for rule in rules.types))
    found = {profile.members for profile in resolve(sightings, rules).profiles.values()}
    expected = {
        frozenset(identifier for sighting in component for identifier in sighting.identifiers)
        for component in components(sightings, rules)
    }
    assert found == expected


@given(cases, either)
@settings(max_examples=80)
def test_no_profile_breaks_a_limit_and_every_anchor_is_owned(
    case: Case, resolve: Callable[..., IdentityGraph]
) -> None:
    sightings, rules, unlinks = case
    graph = resolve(sightings, rules, unlinks=unlinks)
    for profile in graph.profiles.values():
        for rule in rules.types:
            if rule.limit is not None and rule.window_seconds is None:
                assert sum(member.type == rule.type for member in profile.members) <= rule.limit
        assert rules.identifiers_max is None or len(profile.members) <= rules.identifiers_max
        assert not any({*pair} <= profile.members for pair in unlinks)
        assert profile.founding_set in graph.sets
    for outcome in graph.sets.values():
        assert (outcome.anchor is None) == (outcome.profile is None)
