"""Laws of identity resolution: the compiled resolver equals the reference, and order does not matter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.identity import problem
from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier, ident_prefix
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults

SECOND = 1_000_000
TYPES = ("user_id", "email", "anonymous_id", "ios.id")
VALUES = [Identifier("user_id", f"u{n}") for n in range(4)]
VALUES += [Identifier("email", f"e{n}") for n in range(4)]
VALUES += [Identifier("anonymous_id", f"a{n}") for n in range(6)]
VALUES += [Identifier("ios.id", f"i{n}") for n in range(3)]
NO_EFFECT = [Identifier("email", "null"), Identifier("ios.id", "000-0"), Identifier("unheard_of", "x")]

Pair = tuple[Identifier, Identifier]
Case = tuple[list[Sighting], IdentityRules, list[Pair]]

sets = st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=4)
noisy_sets = st.builds(frozenset.union, sets, st.frozensets(st.sampled_from(NO_EFFECT), max_size=2))
limits = st.one_of(st.none(), st.integers(1, 3))
windows = st.sampled_from([None, None, 4, 6, 12])
pairs = st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)).filter(lambda pair: pair[0] != pair[1])


@st.composite
def rule_sets(draw: st.DrawFn) -> IdentityRules:
    order = draw(st.permutations(range(1, len(TYPES) + 1)))
    types = [
        TypeRule(
            type=type,
            priority=order[number],
            limit=draw(limits),
            window_seconds=draw(windows),
            blocked_exact=frozenset({"null"}),
            blocked_patterns=("^[0-]*$",),
        )
        for number, type in enumerate(TYPES)
    ]
    return IdentityRules(
        version=1,
        types=tuple(types),
        demotion=draw(st.sampled_from(["minimal", "lowest_priority"])),
        identifiers_max=draw(st.one_of(st.none(), st.none(), st.integers(1, 8))),
        merges_max=draw(st.one_of(st.none(), st.none(), st.integers(1, 3))),
    )


@st.composite
def histories(draw: st.DrawFn, of: st.SearchStrategy[frozenset[Identifier]] = noisy_sets) -> list[Sighting]:
    """Sightings in order of position; the clock moves by 0 to 3 seconds, so windows turn now and then."""
    chosen = draw(st.lists(st.tuples(of, st.integers(0, 3)), min_size=1, max_size=14))
    at = 0
    sightings = []
    for number, (identifiers, step) in enumerate(chosen):
        at += step * SECOND
        sightings.append(Sighting(identifiers, at.to_bytes(8, "big") + number.to_bytes(4, "big"), at))
    return sightings


unlinks = st.one_of(st.just([]), st.lists(pairs, max_size=3))
cases = st.tuples(histories(), rule_sets(), unlinks)
either = st.sampled_from([identity.resolve, problem.resolve])


@given(cases)
@settings(max_examples=150, deadline=None)
def test_the_compiled_resolver_gives_the_answer_of_the_reference(case: Case) -> None:
    sightings, rules, unlinks = case
    assert problem.resolve(sightings, rules, unlinks=unlinks) == identity.resolve(
        sightings, rules, unlinks=unlinks
    )


@given(cases, either, st.data())
@settings(max_examples=80, deadline=None)
def test_arrival_order_and_repeats_change_nothing(
    case: Case, resolve: Callable[..., IdentityGraph], data: st.DataObject
) -> None:
    sightings, rules, unlinks = case
    repeats = data.draw(st.lists(st.sampled_from(sightings), max_size=5))
    arrived = data.draw(st.permutations([*sightings, *repeats]))
    assert resolve(arrived, rules, unlinks=unlinks) == resolve(sightings, rules, unlinks=unlinks)


@given(cases, either, st.data())
@settings(max_examples=80, deadline=None)
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
@settings(max_examples=150, deadline=None)
def test_a_stream_cut_in_two_gives_the_answer_of_the_whole(case: Case, data: st.DataObject) -> None:
    sightings, rules, unlinks = case
    whole = _problem(sightings, rules, unlinks)
    cut = data.draw(st.integers(0, len(whole.set_offsets) - 1))
    assert _run([_part(whole, 0, cut), _part(whole, cut, len(whole.set_offsets) - 1)]) == _run([whole])


@given(cases, either)
@settings(max_examples=80, deadline=None)
def test_components_can_be_resolved_alone(case: Case, resolve: Callable[..., IdentityGraph]) -> None:
    sightings, rules, unlinks = case
    whole = resolve(sightings, rules, unlinks=unlinks)
    profiles: dict[str, Any] = {}
    refusals: list[Any] = []
    for component in _components(sightings, rules):
        alone = resolve(component, rules, unlinks=unlinks)
        profiles |= alone.profiles
        refusals += alone.refusals
    assert profiles == whole.profiles
    assert sorted(map(repr, refusals)) == sorted(map(repr, whole.refusals))


@given(st.tuples(histories(), rule_sets(), unlinks), either, st.data())
@settings(max_examples=120, deadline=None)
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
    assert _by_founding(after) == {
        founded: members for founded, members in _by_founding(graph).items() if not members & gone
    }


@given(histories(sets), either)
@settings(max_examples=60, deadline=None)
def test_without_limits_profiles_are_the_connected_components(
    sightings: list[Sighting], resolve: Callable[..., IdentityGraph]
) -> None:
    rules = segment_defaults()
    rules = replace(rules, types=tuple(replace(rule, limit=None) for rule in rules.types))
    found = {profile.members for profile in resolve(sightings, rules).profiles.values()}
    expected = {
        frozenset(identifier for sighting in component for identifier in sighting.identifiers)
        for component in _components(sightings, rules)
    }
    assert found == expected


@given(cases, either)
@settings(max_examples=80, deadline=None)
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


def _by_founding(graph: IdentityGraph) -> dict[bytes, frozenset[Identifier]]:
    return {profile.founded_at: profile.members for profile in graph.profiles.values()}


def _components(sightings: Sequence[Sighting], rules: IdentityRules) -> list[list[Sighting]]:
    """Return the sightings that are connected through identifiers that may link, ignoring all limits."""
    groups: list[tuple[set[Identifier], list[Sighting]]] = []
    for sighting in sightings:
        linking = set(identity.clean(sighting.identifiers, rules, "users")[0])
        joined = [group for group in groups if group[0] & linking]
        groups = [group for group in groups if not group[0] & linking]
        members = linking.union(*(group[0] for group in joined))
        groups.append((members, [one for group in joined for one in group[1]] + [sighting]))
    return [found for members, found in groups if members]


def _problem(sightings: Sequence[Sighting], rules: IdentityRules, unlinks: Sequence[Pair]) -> kernel.Problem:
    ordered = identity.first_sightings(sightings, rules, "users")
    rows = [row for sighting in ordered for row in sorted(sighting.identifiers)]
    columns = problem.SetColumns(
        offsets=np.cumsum([0, *(len(sighting.identifiers) for sighting in ordered)], dtype=np.int64),
        types=pa.array([row.type for row in rows], pa.string()),
        values=pa.array([row.value for row in rows], pa.string()),
        ident_ids=_words(rows),
        received_at=np.array([sighting.received_at for sighting in ordered], dtype=np.int64),
    )
    paired = _words([identifier for pair in unlinks for identifier in pair])
    return problem.problem_of(columns, rules, unlinks=paired).problem


def _words(rows: Sequence[Identifier]) -> siphash.Words:
    hashed = [
        siphash.hash_strings(bytes(16), ident_prefix("users", row.type), pa.array([row.value]))
        for row in rows
    ]
    return np.concatenate([np.empty((0, 2), dtype=np.uint64), *hashed])


def _part(whole: kernel.Problem, start: int, stop: int) -> kernel.Problem:
    first, last = whole.set_offsets[start], whole.set_offsets[stop]
    return replace(
        whole,
        set_offsets=whole.set_offsets[start : stop + 1] - first,
        set_idents=whole.set_idents[first:last],
        set_time=whole.set_time[start:stop],
    )


@dataclass
class _Carried:
    """The state between two calls, and the set that founded each of its profiles (counted over all calls)."""

    ident_profile: kernel.Int32s
    profiles: kernel.Profiles
    founding: list[int]


def _run(parts: Sequence[kernel.Problem]) -> dict[str, Any]:
    """Resolve one part after the other; say the whole answer in founding sets, which no call renumbers."""
    carried: _Carried | None = None
    done = 0
    first: list[Any] = []
    merges: list[Any] = []
    refusals: list[Any] = []
    for part in parts:
        if carried is not None:
            part = replace(part, ident_profile=carried.ident_profile, profiles=carried.profiles)
        resolution = kernel.resolve(part)
        founding = [*(carried.founding if carried else []), *(resolution.founding_set + done)]

        def said(profiles: kernel.Int32s, founding: list[int] = founding) -> list[int | None]:
            return [founding[profile] if profile >= 0 else None for profile in profiles.tolist()]

        first += said(resolution.set_first_profile)
        merges += zip(
            (resolution.merge_set + done).tolist(),
            said(resolution.merge_survivor),
            said(resolution.merge_loser),
            strict=True,
        )
        refusals += zip(
            (resolution.refusal_set + done).tolist(),
            resolution.refusal_ident.tolist(),
            said(resolution.refusal_owner),
            resolution.refusal_cause.tolist(),
            resolution.refusal_type.tolist(),
            strict=True,
        )
        alive = np.flatnonzero(resolution.survivor == np.arange(len(resolution.survivor)))
        number = np.full(len(resolution.survivor) + 1, -1, dtype=np.int32)
        number[alive] = np.arange(len(alive))
        profiles = resolution.profiles
        carried = _Carried(
            ident_profile=number[resolution.ident_profile],
            profiles=kernel.Profiles(
                profiles.counts[alive],
                profiles.members[alive],
                profiles.merges[alive],
                profiles.windows[alive],
            ),
            founding=[founding[profile] for profile in alive],
        )
        done += len(part.set_offsets) - 1
    assert carried is not None
    return {
        "first": first,
        "merges": merges,
        "refusals": refusals,
        "owners": [
            carried.founding[profile] if profile >= 0 else None for profile in carried.ident_profile.tolist()
        ],
        "founding": carried.founding,
        "members": carried.profiles.members.tolist(),
        "counts": carried.profiles.counts.tolist(),
    }
