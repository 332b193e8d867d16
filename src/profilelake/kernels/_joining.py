"""The compiled loops of constrained union-find; `kernels.identity` is the way in.

A profile is a node whose root is always the oldest, with one counter per identifier type.
"""

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled

Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
Counts: TypeAlias = npt.NDArray[np.uint16]
Causes: TypeAlias = npt.NDArray[np.int8]
_Int: TypeAlias = int | np.int64

NO_LIMIT: Final = -1
LIMIT_MAX: Final = 65_534
"""Counters have 16 bits and stop at 65,535, which is above every limit."""

CAUSE_LIMIT: Final = 1
CAUSE_TIME_LIMIT: Final = 2
CAUSE_IDENTIFIERS_MAX: Final = 3
CAUSE_MERGES_MAX: Final = 4
CAUSE_UNLINKED: Final = 5


class Limits(NamedTuple):
    type_limit: Int32s
    window_column: Int32s
    window_length: Int64s
    identifiers_max: int
    merges_max: int
    lowest_priority: bool


class Unlinks(NamedTuple):
    """Identifiers with unlinks are *marked*: few, and all other arrays are empty if there are none.

    The marked members of a profile form a list: `first[profile]`, `last[profile]`, then `following[mark]`.
    """

    mark_of: Int32s  # per identifier, -1 if it is not marked
    partner_offsets: Int64s  # per mark
    partners: Int32s
    first: Int32s  # per profile, -1 if it has no marked member
    last: Int32s
    following: Int32s  # per mark


class State(NamedTuple):
    ident_profile: Int32s
    parent: Int32s
    counts: Counts
    members: Int32s
    merges: Int32s
    windows: Int64s


class Found(NamedTuple):
    set_profile: Int32s
    founding_set: Int32s
    merge_set: Int32s
    merge_survivor: Int32s
    merge_loser: Int32s
    refusal_set: Int32s
    refusal_ident: Int32s
    refusal_owner: Int32s
    refusal_cause: Causes
    refusal_type: Int32s


@compiled
def _find(parent: Int32s, profile: _Int) -> _Int:
    while parent[profile] != profile:
        parent[profile] = parent[parent[profile]]
        profile = parent[profile]
    return profile


@compiled
def _owner(state: State, ident: _Int) -> _Int:
    """Return the profile that holds an identifier now, -1 for none."""
    owner: _Int = np.int64(state.ident_profile[ident])
    if owner >= 0:
        owner = _find(state.parent, owner)
        # Remembered, so that the next look needs one step.
        state.ident_profile[ident] = owner
    return owner


@compiled
def _count(limits: Limits, state: State, profile: _Int, type: _Int, now: _Int) -> _Int:
    """Return how many identifiers of `type` count against its limit at `now`."""
    column = limits.window_column[type]
    if column >= 0 and state.windows[profile, column] != now // limits.window_length[type]:
        return 0
    return np.int64(state.counts[profile, type])


@compiled
def _set_count(limits: Limits, state: State, profile: _Int, type: _Int, now: _Int, count: _Int) -> None:
    column = limits.window_column[type]
    if column >= 0:
        state.windows[profile, column] = now // limits.window_length[type]
    state.counts[profile, type] = min(count, LIMIT_MAX + 1)


@compiled
def _limit_cause(limits: Limits, type: _Int) -> _Int:
    return CAUSE_LIMIT if limits.window_column[type] < 0 else CAUSE_TIME_LIMIT


@compiled
def _unlinked(unlinks: Unlinks, state: State, mark: _Int, profile: _Int) -> bool:
    """Tell whether `profile` owns a partner of the marked identifier."""
    for place in range(unlinks.partner_offsets[mark], unlinks.partner_offsets[mark + 1]):
        owner = state.ident_profile[unlinks.partners[place]]
        if owner >= 0 and _find(state.parent, owner) == profile:
            return True
    return False


@compiled
def _refuses_ident(
    limits: Limits, unlinks: Unlinks, state: State, profile: _Int, ident: _Int, type: _Int, now: _Int
) -> tuple[_Int, _Int]:
    """Return (cause, type) why `profile` cannot take an identifier nobody owns; (0, -1) if it can."""
    limit = limits.type_limit[type]
    if limit >= 0 and _count(limits, state, profile, type, now) >= limit:
        return _limit_cause(limits, type), type
    if limits.identifiers_max >= 0 and state.members[profile] >= limits.identifiers_max:
        return CAUSE_IDENTIFIERS_MAX, -1
    if unlinks.mark_of.size:
        mark = unlinks.mark_of[ident]
        if mark >= 0 and _unlinked(unlinks, state, mark, profile):
            return CAUSE_UNLINKED, -1
    return 0, -1


@compiled
def _sum(numbers: Int32s, one: _Int, other: _Int) -> _Int:
    return np.int64(numbers[one]) + np.int64(numbers[other])


@compiled
def _refuses_profile(
    limits: Limits,
    unlinks: Unlinks,
    state: State,
    profile: _Int,
    other: _Int,
    fresh: bool | np.bool[bool],
    now: _Int,
) -> tuple[_Int, _Int]:
    """Return (cause, type) why two profiles cannot be one; (0, -1) if they can.

    Only types that `other` adds to are asked, so a profile that is over a limit already (older, wider
    rules) still takes what does not make it worse.
    """
    for type in range(limits.type_limit.size):
        limit = limits.type_limit[type]
        if limit >= 0 and state.counts[other, type] > 0:
            more = _count(limits, state, other, type, now)
            if more > 0 and _count(limits, state, profile, type, now) + more > limit:
                return _limit_cause(limits, type), type
    if limits.identifiers_max >= 0 and _sum(state.members, profile, other) > limits.identifiers_max:
        return CAUSE_IDENTIFIERS_MAX, -1
    if limits.merges_max >= 0 and not fresh and _sum(state.merges, profile, other) + 1 > limits.merges_max:
        return CAUSE_MERGES_MAX, -1
    if unlinks.first.size:
        mark = unlinks.first[other]
        while mark >= 0:
            if _unlinked(unlinks, state, mark, profile):
                return CAUSE_UNLINKED, -1
            mark = unlinks.following[mark]
    return 0, -1


@compiled
def _refuses(
    limits: Limits,
    unlinks: Unlinks,
    state: State,
    profile: _Int,
    fresh: bool | np.bool[bool],
    ident: _Int,
    owner: _Int,
    ident_type: Int32s,
    now: _Int,
) -> tuple[_Int, _Int]:
    """Return (cause, type) why an identifier cannot join `profile`; (0, -1) if it can or is there already."""
    if owner == profile:
        return 0, -1
    if owner < 0:
        return _refuses_ident(limits, unlinks, state, profile, ident, ident_type[ident], now)
    return _refuses_profile(limits, unlinks, state, profile, owner, fresh, now)


@compiled
def _take_ident(
    limits: Limits,
    unlinks: Unlinks,
    state: State,
    profile: _Int,
    ident: _Int,
    ident_type: Int32s,
    now: _Int,
) -> None:
    type = ident_type[ident]
    state.ident_profile[ident] = profile
    state.members[profile] += 1
    _set_count(limits, state, profile, type, now, _count(limits, state, profile, type, now) + 1)
    if unlinks.mark_of.size and unlinks.mark_of[ident] >= 0:
        mark = unlinks.mark_of[ident]
        if unlinks.first[profile] < 0:
            unlinks.first[profile] = mark
        else:
            unlinks.following[unlinks.last[profile]] = mark
        unlinks.last[profile] = mark


@compiled
def _take_profile(
    limits: Limits, unlinks: Unlinks, state: State, older: _Int, younger: _Int, now: _Int
) -> None:
    """Add what `younger` holds to `older`; the caller redirects its identifiers."""
    state.members[older] += state.members[younger]
    for type in range(limits.type_limit.size):
        if state.counts[younger, type] > 0:
            count = _count(limits, state, older, type, now) + _count(limits, state, younger, type, now)
            _set_count(limits, state, older, type, now, count)
    if unlinks.first.size and unlinks.first[younger] >= 0:
        if unlinks.first[older] < 0:
            unlinks.first[older] = unlinks.first[younger]
        else:
            unlinks.following[unlinks.last[older]] = unlinks.first[younger]
        unlinks.last[older] = unlinks.last[younger]


@compiled
def _open(limits: Limits, unlinks: Unlinks, state: State, profile: _Int) -> None:
    """Make the row of a new profile, which a withdrawn one may have used before."""
    state.parent[profile] = profile
    state.members[profile] = 0
    state.merges[profile] = 0
    for type in range(limits.type_limit.size):
        state.counts[profile, type] = 0
    if unlinks.first.size:
        unlinks.first[profile] = -1


@compiled
def _withdraw(state: State, members: Int32s, younger: _Int, older: _Int) -> None:
    """Hand the identifiers of a set that turned out to end in an existing profile to that one."""
    for ident in members:
        if state.ident_profile[ident] == younger:
            state.ident_profile[ident] = older


@compiled
def _merge(state: State, found: Found, merges: _Int, index: _Int, older: _Int, younger: _Int) -> None:
    state.parent[younger] = older
    state.merges[older] += state.merges[younger] + 1
    found.merge_set[merges] = index
    found.merge_survivor[merges] = older
    found.merge_loser[merges] = younger


@compiled
def _refuse(
    found: Found, refusals: _Int, index: _Int, ident: _Int, owner: _Int, cause: _Int, cause_type: _Int
) -> None:
    found.refusal_set[refusals] = index
    found.refusal_ident[refusals] = ident
    found.refusal_owner[refusals] = owner
    found.refusal_cause[refusals] = cause
    found.refusal_type[refusals] = cause_type


@compiled
def resolve_sets(
    set_offsets: Int64s,
    set_idents: Int32s,
    set_time: Int64s,
    ident_type: Int32s,
    limits: Limits,
    unlinks: Unlinks,
    state: State,
    found: Found,
    profiles: _Int,
) -> tuple[_Int, _Int, _Int]:
    """Process all sets; return how many profiles, merges and refusals there are now."""
    before, merges, refusals = profiles, 0, 0
    profile: _Int = -1
    cause: _Int = 0
    cause_type: _Int = -1
    for index in range(set_offsets.size - 1):
        start, stop = set_offsets[index], set_offsets[index + 1]
        if start == stop:
            found.set_profile[index] = -1
            continue
        now = set_time[index] if set_time.size else np.int64(0)
        profile = _owner(state, set_idents[start])
        # A new number is only lent until it is sure that the set does not end in an existing profile.
        fresh = profile < 0
        if fresh:
            profile = profiles
            profiles += 1
            _open(limits, unlinks, state, profile)
            _take_ident(limits, unlinks, state, profile, set_idents[start], ident_type, now)
        cause, cause_type = 0, -1
        for place in range(start + 1, stop):
            ident = set_idents[place]
            owner = _owner(state, ident)
            if cause == 0 or not limits.lowest_priority:
                cause, cause_type = _refuses(
                    limits, unlinks, state, profile, fresh, ident, owner, ident_type, now
                )
            if cause != 0:
                _refuse(found, refusals, index, ident, owner, cause, cause_type)
                refusals += 1
            elif owner < 0:
                _take_ident(limits, unlinks, state, profile, ident, ident_type, now)
            elif owner != profile:
                older, younger = min(profile, owner), max(profile, owner)
                _take_profile(limits, unlinks, state, older, younger, now)
                if fresh:
                    _withdraw(state, set_idents[start:place], younger, older)
                    profiles -= 1
                    fresh = False
                else:
                    _merge(state, found, merges, index, older, younger)
                    merges += 1
                profile = older
        found.set_profile[index] = profile
        if fresh:
            found.founding_set[profile - before] = index
    return profiles, merges, refusals


@compiled
def flatten(parent: Int32s, ident_profile: Int32s, set_first: Int32s, set_profile: Int32s) -> None:
    """Point every profile, identifier and set at the surviving profile."""
    # A parent is always older, so one ascending pass flattens all.
    for profile in range(parent.size):
        parent[profile] = parent[parent[profile]]
    for ident in range(ident_profile.size):
        if ident_profile[ident] >= 0:
            ident_profile[ident] = parent[ident_profile[ident]]
    for index in range(set_first.size):
        set_profile[index] = parent[set_first[index]] if set_first[index] >= 0 else -1
