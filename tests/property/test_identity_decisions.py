"""Laws of what people decide about identity: order does not matter, and everything can be taken back."""

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

import identity_cuts
from identity_histories import (
    DECIDED_ABOUT,
    VALUES,
    Resolve,
    World,
    arrivals,
    by_founding,
    components,
    decisions_about,
    either,
    pairs,
    replayed,
    rule_sets,
    together,
    worlds,
)
from profilelake.identity import problem
from profilelake.semantics import identity
from profilelake.semantics.facts import NewRules, Quarantine, Retract, Unlink
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.rules import IdentityRules

identifiers = st.sampled_from(DECIDED_ABOUT)


@given(worlds())
@settings(max_examples=150)
def test_the_compiled_resolver_gives_the_answer_of_the_reference(world: World) -> None:
    assert world.resolved(problem.resolve) == world.resolved(identity.resolve)


@given(worlds(), either, st.data())
@settings(max_examples=100)
def test_events_and_decisions_may_arrive_in_any_order_and_twice(
    world: World, by: Resolve, data: st.DataObject
) -> None:
    """So two regions that learn of each other's facts in opposite order agree."""
    arrived = replace(
        world,
        sightings=data.draw(arrivals(world.sightings)),
        decisions=data.draw(arrivals(world.decisions)),
    )
    assert arrived.resolved(by) == world.resolved(by)


@given(worlds(), st.data())
@settings(max_examples=100)
def test_a_stream_cut_in_parts_gives_the_answer_of_the_whole(world: World, data: st.DataObject) -> None:
    whole = identity_cuts.of_world(world)
    places = data.draw(st.sets(st.integers(0, len(whole.set_offsets) - 1), max_size=3))
    assert identity_cuts.run(identity_cuts.cut(whole, places)) == identity_cuts.run([whole])


@given(worlds(), either)
@settings(max_examples=100)
def test_components_can_be_resolved_alone(world: World, by: Resolve) -> None:
    """Each under all decisions: what they say of identifiers elsewhere is nothing to it."""
    whole = world.resolved(by)
    parts = [replace(world, sightings=part).resolved(by) for part in components(world.sightings)]
    assert whole == together(parts)


@given(worlds(), either)
@settings(max_examples=100)
def test_no_profile_holds_what_must_not_be_in_it(world: World, by: Resolve) -> None:
    graph, held, poison = world.resolved(by), world.standing(), world.poison()
    for profile in graph.profiles.values():
        assert not any(pair <= profile.members for pair in held.unlinks)
        assert not profile.members & poison
        assert profile.founded_at not in held.retracted
        for rule in held.rules.types:
            if rule.limit is not None and rule.window_seconds is None:
                assert sum(member.type == rule.type for member in profile.members) <= rule.limit
    assert held.quarantined <= poison
    assert not held.released & poison


@given(worlds(), either)
@settings(max_examples=100)
def test_only_the_last_decision_about_a_thing_counts(world: World, by: Resolve) -> None:
    held = world.standing()
    said = [
        *(Unlink(*pair) for pair in held.unlinks),
        *(Quarantine(identifier) for identifier in held.quarantined),
        *(Quarantine(identifier, quarantined=False) for identifier in held.released),
        *(Retract(event) for event in held.retracted),
    ]
    plain = World(world.sightings, [], held.rules).deciding(*said)
    assert plain.resolved(by) == world.resolved(by)


@given(worlds(), pairs, either)
@settings(max_examples=60)
def test_unlink_and_relink_leave_nothing(
    world: World, pair: tuple[Identifier, Identifier], by: Resolve
) -> None:
    assume(frozenset(pair) not in world.standing().unlinks)
    changed = world.deciding(Unlink(*pair), Unlink(*reversed(pair), apart=False))
    assert changed.resolved(by) == world.resolved(by)


@given(worlds(), identifiers, either)
@settings(max_examples=60)
def test_quarantine_and_release_leave_a_release(world: World, identifier: Identifier, by: Resolve) -> None:
    """A release says more than that nobody quarantines: the identifier may meet any number from now on.

    So the two leave nothing where no degree quarantines it.
    """
    released = world.deciding(Quarantine(identifier, quarantined=False))
    changed = world.deciding(Quarantine(identifier), Quarantine(identifier, quarantined=False))
    assert changed.resolved(by) == released.resolved(by)
    if identifier not in world.poison():
        assert changed.resolved(by) == world.resolved(by)


@given(worlds(), either, st.data())
@settings(max_examples=60)
def test_retract_and_restore_leave_nothing(world: World, by: Resolve, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(world.sightings)).position
    assume(event not in world.standing().retracted)
    changed = world.deciding(Retract(event), Retract(event, counts=True))
    assert changed.resolved(by) == world.resolved(by)


@given(worlds(), rule_sets, either)
@settings(max_examples=60)
def test_new_rules_and_the_old_ones_again_leave_nothing(
    world: World, rules: IdentityRules, by: Resolve
) -> None:
    changed = world.deciding(NewRules(rules), NewRules(world.standing().rules))
    assert changed.resolved(by) == world.resolved(by)


@given(worlds(), rule_sets, either)
@settings(max_examples=60)
def test_new_rules_hold_as_if_they_always_had(world: World, rules: IdentityRules, by: Resolve) -> None:
    always = [fact for fact in world.decisions if not isinstance(fact.decision, NewRules)]
    assert world.deciding(NewRules(rules)).resolved(by) == World(world.sightings, always, rules).resolved(by)


@given(worlds(), either, st.data())
@settings(max_examples=100)
def test_a_retracted_event_links_as_if_it_had_never_been(
    world: World, by: Resolve, data: st.DataObject
) -> None:
    """Its set still leads where its strongest identifier leads."""
    gone = data.draw(st.sampled_from(world.sightings))
    restored = [f for f in world.decisions if f.decision != Retract(gone.position, counts=True)]
    retracted = replace(world, decisions=restored).deciding(Retract(gone.position))
    graph = retracted.resolved(by)
    never = replace(retracted, sightings=[one for one in world.sightings if one is not gone]).resolved(by)
    assert (graph.profiles, graph.owners) == (never.profiles, never.owners)
    assert (graph.refusals, graph.merges) == (never.refusals, never.merges)
    for seen, outcome in graph.sets.items():
        if seen in never.sets:
            assert replace(outcome, first_position=never.sets[seen].first_position) == never.sets[seen]
        else:
            assert outcome.first_profile is None
            assert outcome.profile == (graph.owners.get(outcome.anchor) if outcome.anchor else None)


@given(worlds(), identifiers, either)
@settings(max_examples=100)
def test_to_quarantine_a_value_is_to_block_it(world: World, identifier: Identifier, by: Resolve) -> None:
    assume(identifier not in world.standing().released)
    rules = world.standing().rules
    types = [
        replace(rule, blocked_exact=rule.blocked_exact | {identifier.value})
        if rule.type == identifier.type
        else rule
        for rule in rules.types
    ]
    blocked = world.deciding(NewRules(replace(rules, types=tuple(types))))
    assert world.deciding(Quarantine(identifier)).resolved(by) == blocked.resolved(by)


@given(worlds(), st.sampled_from(VALUES), either)
@settings(max_examples=100)
def test_a_quarantined_identifier_links_as_if_it_had_never_been_seen(
    world: World, identifier: Identifier, by: Resolve
) -> None:
    """Where no degree counts: what others met it, they did meet."""
    rules = replace(world.standing().rules, degree_max=None)
    changed = world.deciding(NewRules(rules), Quarantine(identifier))
    stripped = [
        replace(one, identifiers=one.identifiers - {identifier})
        for one in world.sightings
        if one.identifiers != {identifier}
    ]
    assert by_founding(changed.resolved(by)) == by_founding(replace(changed, sightings=stripped).resolved(by))


@given(worlds(), st.data(), either)
@settings(max_examples=60)
def test_a_decision_changes_only_what_hangs_together_with_it(
    world: World, data: st.DataObject, by: Resolve
) -> None:
    decision = data.draw(decisions_about(world.sightings))
    assume(not isinstance(decision, NewRules))
    before, after = world.resolved(by), world.deciding(decision).resolved(by)
    match decision:
        case Unlink(one, other):
            about = {one, other}
        case Quarantine(identifier):
            about = {identifier}
        case Retract(event):
            about = {name for seen in world.sightings if seen.position == event for name in seen.identifiers}
    for part in components(world.sightings):
        names = {name for seen in part for name in seen.identifiers}
        if not names & about:
            assert {name: after.owners.get(name) for name in names} == {
                name: before.owners.get(name) for name in names
            }


@given(worlds(), either)
@settings(max_examples=100)
def test_joins_and_merges_replayed_give_the_owners(world: World, by: Resolve) -> None:
    rules = identity.replace_windows(world.standing().rules)
    graph = world.deciding(NewRules(rules)).resolved(by)
    assert replayed(graph) == graph.owners
