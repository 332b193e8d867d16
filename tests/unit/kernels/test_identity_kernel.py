"""What the cases and laws cannot reach: borders, limits of the arrays, and carried state out of bounds."""

from dataclasses import replace

import numpy as np
import pytest

from profilelake.errors import Internal, Invalid
from profilelake.kernels import identity as kernel
from profilelake.kernels._joining import resolve_sets
from profilelake.kernels.identity import Problem, Profiles, resolve


def two_types(*sets: tuple[int, ...], limits: tuple[int, int] = (1, 5), idents: int = 8) -> Problem:
    """Return a problem in which identifiers 0 to 3 are of type 0 and the others of type 1."""
    return Problem(
        set_offsets=np.cumsum([0, *map(len, sets)], dtype=np.int64),
        set_idents=np.array([ident for one in sets for ident in one], dtype=np.int32),
        ident_type=np.array([0] * 4 + [1] * (idents - 4), dtype=np.int32),
        type_limit=np.array(limits, dtype=np.int32),
        type_window=np.zeros(2, dtype=np.int64),
    )


def test_says_who_joined_who_merged_and_who_was_refused() -> None:
    found = resolve(two_types((0, 4), (5,), (0, 5), (1, 4), (), (1,)))
    assert found.profiles_before == 0
    assert found.ident_profile.tolist() == [0, 2, -1, -1, 0, 0, -1, -1]
    assert found.set_first_profile.tolist() == [0, 1, 0, 2, -1, 2]
    assert found.set_profile.tolist() == [0, 0, 0, 2, -1, 2]
    assert found.survivor.tolist() == [0, 0, 2]
    assert found.founding_set.tolist() == [0, 1, 3]
    assert (found.merge_set[0], found.merge_survivor[0], found.merge_loser[0]) == (2, 0, 1)
    assert found.refusal_set.tolist() == [3]
    assert found.refusal_ident.tolist() == [4]
    assert found.refusal_owner.tolist() == [0]
    assert found.refusal_cause.tolist() == [kernel.CAUSE_LIMIT]
    assert found.refusal_type.tolist() == [0]
    assert found.profiles.members[found.survivor == np.arange(3)].tolist() == [3, 1]
    assert found.profiles.merges.tolist()[0] == 1


def test_a_set_that_ends_in_an_existing_profile_founds_none() -> None:
    found = resolve(two_types((4,), (0, 4), (1,)))
    assert found.founding_set.tolist() == [0, 2]
    assert len(found.merge_set) == 0


def test_starts_from_given_profiles_and_leaves_its_inputs_alone() -> None:
    state = Profiles(
        counts=np.array([[1, 0], [0, 1]], dtype=np.uint16),
        members=np.ones(2, dtype=np.int32),
        merges=np.zeros(2, dtype=np.int32),
        windows=np.empty((2, 0), dtype=np.int64),
    )
    owners = np.array([0, -1, -1, -1, 1, -1, -1, -1], dtype=np.int32)
    problem = replace(two_types((0, 4), (1, 4)), ident_profile=owners, profiles=state)
    found = resolve(problem)
    assert found.profiles_before == 2
    assert found.ident_profile.tolist() == [0, 2, -1, -1, 0, -1, -1, -1]
    assert found.founding_set.tolist() == [1]
    assert found.refusal_owner.tolist() == [0]
    assert owners.tolist() == [0, -1, -1, -1, 1, -1, -1, -1]
    assert state.counts.tolist() == [[1, 0], [0, 1]]


def test_a_profile_over_a_limit_still_takes_what_does_not_make_it_worse() -> None:
    """Rules became stricter and the profile has not been replayed yet."""
    state = Profiles(
        counts=np.array([[3, 0]], dtype=np.uint16),
        members=np.array([3], dtype=np.int32),
        merges=np.zeros(1, dtype=np.int32),
        windows=np.empty((1, 0), dtype=np.int64),
    )
    owners = np.array([0, 0, 0, -1, -1, -1, -1, -1], dtype=np.int32)
    found = resolve(replace(two_types((0, 4), (0, 3)), ident_profile=owners, profiles=state))
    assert found.ident_profile.tolist() == [0, 0, 0, -1, 0, -1, -1, -1]


def test_unlinked_pairs_hold_for_profiles_that_exist() -> None:
    state = Profiles(
        counts=np.array([[0, 2], [1, 0]], dtype=np.uint16),
        members=np.array([2, 1], dtype=np.int32),
        merges=np.zeros(2, dtype=np.int32),
        windows=np.empty((2, 0), dtype=np.int64),
    )
    owners = np.array([1, -1, -1, -1, 0, 0, -1, -1], dtype=np.int32)
    pairs = np.array([[0, 5], [5, 6], [7, 7]], dtype=np.int32)
    problem = replace(two_types((0, 4), (4, 6), (4, 7)), ident_profile=owners, profiles=state, unlinks=pairs)
    found = resolve(problem)
    assert found.refusal_ident.tolist() == [4, 6]
    assert found.refusal_cause.tolist() == [kernel.CAUSE_UNLINKED, kernel.CAUSE_UNLINKED]
    assert found.ident_profile.tolist() == [1, -1, -1, -1, 0, 0, -1, 0]


def test_counters_stop_above_every_limit() -> None:
    many = 70_000
    problem = Problem(
        set_offsets=np.array([0, many, many + 1, many + 3], dtype=np.int64),
        set_idents=np.array([*range(many), many, 0, many], dtype=np.int32),
        ident_type=np.zeros(many + 1, dtype=np.int32),
        type_limit=np.array([kernel.NO_LIMIT], dtype=np.int32),
        type_window=np.zeros(1, dtype=np.int64),
    )
    found = resolve(problem)
    assert found.profiles.members[0] == many + 1
    assert found.profiles.counts[0, 0] == kernel.LIMIT_MAX + 1
    limited = resolve(replace(problem, type_limit=np.array([kernel.LIMIT_MAX], dtype=np.int32)))
    assert limited.profiles.members[0] == kernel.LIMIT_MAX


def test_nothing_to_resolve() -> None:
    found = resolve(two_types())
    assert (len(found.set_profile), len(found.survivor)) == (0, 0)
    assert found.ident_profile.tolist() == [-1] * 8


@pytest.mark.parametrize(
    "change",
    [
        {"set_offsets": np.array([0, 3], dtype=np.int64)},
        {"set_offsets": np.array([0, 2, 1, 2], dtype=np.int64)},
        {"set_offsets": np.array([], dtype=np.int64)},
        {"set_idents": np.array([0, 8], dtype=np.int32)},
        {"set_idents": np.array([-1, 0], dtype=np.int32)},
        {"ident_type": np.array([2] * 8, dtype=np.int32)},
        {"type_window": np.array([0], dtype=np.int64)},
        {"type_window": np.array([0, 10], dtype=np.int64)},
        {"ident_profile": np.array([0] * 8, dtype=np.int32)},
        {"ident_profile": np.array([-1], dtype=np.int32)},
        {"unlinks": np.array([[0, 8]], dtype=np.int32)},
        {"profiles": Profiles.none(3, 0)},
        {"profiles": replace(Profiles.none(2, 0), members=np.ones(1, dtype=np.int32))},
    ],
)
def test_contradicting_arrays_are_refused_before_the_loop(change: dict[str, object]) -> None:
    with pytest.raises(Internal, match="resolving identities"):
        resolve(replace(two_types((0, 4)), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -2, kernel.LIMIT_MAX + 1])
def test_impossible_limits_are_refused(limit: int) -> None:
    with pytest.raises(Invalid, match="limits"):
        resolve(two_types((0, 4), limits=(limit, 1)))


def test_each_loop_is_compiled_once() -> None:
    kernel.warm()
    # Elsewhere identifiers may have types of one byte: that is a loop of its own.
    known = len(resolve_sets.signatures)  # type: ignore[attr-defined]
    problem = two_types((0, 4), (1, 4))
    strided = np.arange(16, dtype=np.int64)[::2].astype(np.int16)
    resolve(replace(problem, ident_type=(strided > 6).astype(np.int16)))  # type: ignore[arg-type]
    resolve(replace(problem, unlinks=np.array([[0, 4]], dtype=np.int32)))
    resolve(replace(problem, type_window=np.array([0, 10]), set_time=np.zeros(2, dtype=np.int64)))
    resolve(replace(problem, lowest_priority=True, identifiers_max=3, merges_max=3))
    assert len(resolve_sets.signatures) == known  # type: ignore[attr-defined]
