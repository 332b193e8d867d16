"""Constrained union-find: the fast form of `semantics.identity`, on dense numbers.

One pass over the sets in canonical order. A profile is a node of a union-find whose root is always
the oldest, with one counter per identifier type; a join is one comparison of counters. Memory is
4 bytes per identifier, and 12 bytes + 2 per type (+ 8 per type with a window) per profile ever founded.
What strings, rules and ids mean is not known here; `identity.problem` translates.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from profilelake.errors import Internal, Invalid
from profilelake.kernels._compiled import read_only
from profilelake.kernels._joining import (
    CAUSE_IDENTIFIERS_MAX,
    CAUSE_LIMIT,
    CAUSE_MERGES_MAX,
    CAUSE_TIME_LIMIT,
    CAUSE_UNLINKED,
    LIMIT_MAX,
    NO_LIMIT,
    Causes,
    Counts,
    Found,
    Int32s,
    Int64s,
    Limits,
    State,
    Unlinks,
    flatten,
    resolve_sets,
)

__all__ = [
    "CAUSE_IDENTIFIERS_MAX",
    "CAUSE_LIMIT",
    "CAUSE_MERGES_MAX",
    "CAUSE_TIME_LIMIT",
    "CAUSE_UNLINKED",
    "LIMIT_MAX",
    "NO_LIMIT",
    "Causes",
    "Counts",
    "Int32s",
    "Int64s",
    "Problem",
    "Profiles",
    "Resolution",
    "resolve",
    "warm",
]


def _none32() -> Int32s:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Profiles:
    """What resolution must know about each profile; one row per profile.

    counts:  uint16[P, T], identifiers held per type; for a type with a window, those linked in that window.
    members: int32[P], identifiers held in all.
    merges:  int32[P], merges that led to the profile.
    windows: int64[P, W], for each type with a window (in the order of types) which window `counts` is of.
    """

    counts: Counts
    members: Int32s
    merges: Int32s
    windows: Int64s

    @classmethod
    def none(cls, types: int, windowed: int) -> "Profiles":
        """Return the state of a workspace without profiles."""
        return cls(
            counts=np.empty((0, types), dtype=np.uint16),
            members=_none32(),
            merges=_none32(),
            windows=np.empty((0, windowed), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Sets to resolve, the rules as numbers, and the state to start from.

    Sets stand in canonical order; `set_idents[set_offsets[s]:set_offsets[s + 1]]` is set s after
    cleaning, strongest first (its anchor first). Identifiers, types and profiles are numbered from 0.
    Starting profiles must be numbered in the order of their founding positions, oldest first, and the
    sets must be younger than all of them: new profiles are numbered on from there.

    ident_type:      the type of each identifier. Types are numbered by priority, strongest first.
    type_limit:      identifiers of a type that a profile may hold, NO_LIMIT for any number.
    type_window:     length in microseconds of the tumbling window of that limit, 0 for ever.
    set_time:        received_at of each set in microseconds; may be left empty if no type has a window.
    ident_profile:   owner of each identifier at the start, -1 for none; empty: nobody is owned.
    profiles:        state of the starting profiles; None: there are none.
    unlinks:         pairs of identifiers that must never share a profile, int32[U, 2].
    """

    set_offsets: Int64s
    set_idents: Int32s
    ident_type: Int32s
    type_limit: Int32s
    type_window: Int64s
    set_time: Int64s = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lowest_priority: bool = False
    identifiers_max: int | None = None
    merges_max: int | None = None
    ident_profile: Int32s = field(default_factory=_none32)
    profiles: Profiles | None = None
    unlinks: Int32s = field(default_factory=lambda: np.empty((0, 2), dtype=np.int32))


@dataclass(frozen=True, slots=True)
class Resolution:
    """The answer. Profile numbers below `profiles_before` are starting ones, the others new.

    ident_profile:     owner of each identifier now, -1 for none.
    set_first_profile: profile each set ended in when it was processed (-1 for an empty set); it may have
                       been merged into another one since.
    set_profile:       profile of each set now.
    survivor:          for every profile the one it is part of now (itself if it was not merged).
    founding_set:      for each new profile, in order of numbers, the set that founded it.
    profiles:          counters of all profiles; meaningful where `survivor` is the profile itself.
    merge_*, refusal_*: one row each, in the order in which they happened. `refusal_owner` is who held the
                       identifier then (-1 for nobody), `refusal_cause` one of CAUSE_*, `refusal_type` the
                       type whose limit broke (-1 for the other causes).
    """

    profiles_before: int
    ident_profile: Int32s
    set_first_profile: Int32s
    set_profile: Int32s
    survivor: Int32s
    founding_set: Int32s
    profiles: Profiles
    merge_set: Int32s
    merge_survivor: Int32s
    merge_loser: Int32s
    refusal_set: Int32s
    refusal_ident: Int32s
    refusal_owner: Int32s
    refusal_cause: Causes
    refusal_type: Int32s


def resolve(problem: Problem) -> Resolution:
    """Decide which identifiers are one profile. Pure, and linear in the number of set members.

    Raises:
        Invalid: a limit is outside 1 to LIMIT_MAX.
        Internal: the arrays contradict each other; nothing has been read past their ends.
    """
    _check(problem)
    sets, idents, types = len(problem.set_offsets) - 1, len(problem.ident_type), len(problem.type_limit)
    window_column = np.full(types, -1, dtype=np.int32)
    windowed = np.flatnonzero(problem.type_window)
    window_column[windowed] = np.arange(len(windowed))
    start = problem.profiles or Profiles.none(types, len(windowed))
    before = len(start.members)

    limits = Limits(
        type_limit=read_only(problem.type_limit, np.int32),
        window_column=read_only(window_column, np.int32),
        window_length=read_only(problem.type_window, np.int64),
        identifiers_max=NO_LIMIT if problem.identifiers_max is None else problem.identifiers_max,
        merges_max=NO_LIMIT if problem.merges_max is None else problem.merges_max,
        lowest_priority=bool(problem.lowest_priority),
    )
    # Pages that are never touched cost nothing, so everything has the size of its worst case.
    room = before + min(sets, idents)
    state = State(
        ident_profile=np.full(idents, -1, dtype=np.int32)
        if len(problem.ident_profile) == 0
        else np.array(problem.ident_profile, dtype=np.int32),
        parent=np.empty(room, dtype=np.int32),
        counts=_grown(start.counts, room, np.uint16),
        members=_grown(start.members, room, np.int32),
        merges=_grown(start.merges, room, np.int32),
        windows=_grown(start.windows, room, np.int64),
    )
    state.parent[:before] = np.arange(before)
    unlinks = _unlinks(problem, state.ident_profile, room)
    joins = len(problem.set_idents)
    found = Found(
        set_profile=np.empty(sets, dtype=np.int32),
        founding_set=np.empty(room - before, dtype=np.int32),
        merge_set=np.empty(room, dtype=np.int32),
        merge_survivor=np.empty(room, dtype=np.int32),
        merge_loser=np.empty(room, dtype=np.int32),
        refusal_set=np.empty(joins, dtype=np.int32),
        refusal_ident=np.empty(joins, dtype=np.int32),
        refusal_owner=np.empty(joins, dtype=np.int32),
        refusal_cause=np.empty(joins, dtype=np.int8),
        refusal_type=np.empty(joins, dtype=np.int32),
    )
    after, merges, refusals = resolve_sets(
        read_only(problem.set_offsets, np.int64),
        read_only(problem.set_idents, np.int32),
        read_only(problem.set_time, np.int64),
        read_only(problem.ident_type, np.int32),
        limits,
        unlinks,
        state,
        found,
        before,
    )
    set_profile = np.empty_like(found.set_profile)
    flatten(state.parent[:after], state.ident_profile, found.set_profile, set_profile)
    return Resolution(
        profiles_before=before,
        ident_profile=state.ident_profile,
        set_first_profile=found.set_profile,
        set_profile=set_profile,
        survivor=state.parent[:after],
        founding_set=found.founding_set[: after - before],
        profiles=Profiles(
            counts=state.counts[:after],
            members=state.members[:after],
            merges=state.merges[:after],
            windows=state.windows[:after],
        ),
        merge_set=found.merge_set[:merges],
        merge_survivor=found.merge_survivor[:merges],
        merge_loser=found.merge_loser[:merges],
        refusal_set=found.refusal_set[:refusals],
        refusal_ident=found.refusal_ident[:refusals],
        refusal_owner=found.refusal_owner[:refusals],
        refusal_cause=found.refusal_cause[:refusals],
        refusal_type=found.refusal_type[:refusals],
    )


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no request waits for it."""
    nothing = np.empty(0, dtype=np.int32)
    resolve(
        Problem(
            set_offsets=np.zeros(1, dtype=np.int64),
            set_idents=nothing,
            ident_type=nothing,
            type_limit=nothing,
            type_window=np.empty(0, dtype=np.int64),
        )
    )


def _unlinks(problem: Problem, ident_profile: Int32s, room: int) -> Unlinks:
    """Return the pairs as lists per identifier, and the marked members of the starting profiles."""
    pairs = (
        problem.unlinks[problem.unlinks[:, 0] != problem.unlinks[:, 1]]
        if len(problem.unlinks)
        else problem.unlinks
    )
    if len(pairs) == 0:
        no = _none32()
        return Unlinks(no, np.zeros(1, dtype=np.int64), no, no, no, no)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    marked, starts = np.unique(both[:, 0], return_index=True)
    mark_of = np.full(len(problem.ident_type), -1, dtype=np.int32)
    mark_of[marked] = np.arange(len(marked))
    unlinks = Unlinks(
        mark_of=mark_of,
        partner_offsets=np.append(starts, len(both)).astype(np.int64),
        partners=np.ascontiguousarray(both[:, 1], dtype=np.int32),
        first=np.full(room, -1, dtype=np.int32),
        last=np.full(room, -1, dtype=np.int32),
        following=np.full(len(marked), -1, dtype=np.int32),
    )
    for mark, ident in enumerate(marked):
        profile = ident_profile[ident]
        if profile >= 0:
            unlinks.following[mark] = unlinks.first[profile]
            unlinks.first[profile] = mark
            if unlinks.following[mark] < 0:
                unlinks.last[profile] = mark
    return unlinks


def _grown(array: npt.NDArray[Any], rows: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    grown = np.empty((rows, *array.shape[1:]), dtype=dtype)
    grown[: len(array)] = array
    return grown


def _check(problem: Problem) -> None:
    """Refuse arrays that would lead the loop out of bounds: compiled code does not look."""
    offsets, idents, types = problem.set_offsets, len(problem.ident_type), len(problem.type_limit)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(problem.set_idents):
        raise Internal(
            f"resolving identities: set offsets do not cover the {len(problem.set_idents)} members"
        )
    if (np.diff(offsets) < 0).any():
        raise Internal("resolving identities: set offsets go backwards")
    if max(len(offsets), idents) >= 1 << 31 or len(problem.set_idents) >= 1 << 31:
        raise Invalid(
            f"resolving identities: {len(offsets)} sets of {idents} identifiers pass 2^31; resolve by component"
        )
    _check_range("a set's identifier", problem.set_idents, 0, idents)
    _check_range("an identifier's type", problem.ident_type, 0, types)
    limits = problem.type_limit
    if len(limits) and ((limits != NO_LIMIT) & ((limits < 1) | (limits > LIMIT_MAX))).any():
        raise Invalid(f"resolving identities: limits {limits.tolist()}; give 1 to {LIMIT_MAX}, or none")
    if len(problem.type_window) != types or (problem.type_window < 0).any():
        raise Internal(f"resolving identities: {len(problem.type_window)} windows for {types} types")
    windowed = int((problem.type_window > 0).sum())
    if len(problem.set_time) != len(offsets) - 1 and (windowed or len(problem.set_time)):
        raise Internal(f"resolving identities: {len(problem.set_time)} times for {len(offsets) - 1} sets")
    start = problem.profiles or Profiles.none(types, windowed)
    before = len(start.members)
    shapes = (start.counts.shape, start.merges.shape, start.windows.shape)
    if shapes != ((before, types), (before,), (before, windowed)):
        raise Internal(f"resolving identities: the starting profiles have the shapes {shapes}")
    if len(problem.ident_profile) not in (0, idents) or (before and len(problem.ident_profile) == 0):
        raise Internal(f"resolving identities: {len(problem.ident_profile)} owners for {idents} identifiers")
    _check_range("an identifier's owner", problem.ident_profile, -1, before)
    _check_range("an unlinked identifier", problem.unlinks, 0, idents)


def _check_range(what: str, array: npt.NDArray[Any], low: int, high: int) -> None:
    if array.size and (int(array.min()) < low or int(array.max()) >= high):
        raise Internal(f"resolving identities: {what} lies outside {low} to {high - 1}")
