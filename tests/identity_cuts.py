"""A stream of identifier sets cut into parts, each resolved by the kernel from where the last one ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from identity_histories import Pair, World
from profilelake.identity import problem
from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import IdentityRules


def problem_of(
    sightings: Sequence[Sighting],
    rules: IdentityRules,
    unlinks: Sequence[Pair],
    quarantined: frozenset[Identifier] = frozenset(),
) -> kernel.Problem:
    """Return the whole stream as one problem for the kernel."""
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
    poison = _words(sorted(quarantined))
    return problem.problem_of(columns, rules, unlinks=paired, quarantined=poison).problem


def of_world(world: World) -> kernel.Problem:
    """Return what is left to resolve of a history after the decisions that hold."""
    held = world.standing()
    counted = [one for one in world.sightings if one.position not in held.retracted]
    unlinks = [(one, other) for one, other in map(sorted, held.unlinks)]
    return problem_of(counted, held.rules, unlinks, world.poison())


def _words(rows: Sequence[Identifier]) -> siphash.Words:
    return problem._hash(bytes(16), "users", rows)


def cut(whole: kernel.Problem, places: Iterable[int]) -> list[kernel.Problem]:
    """Return the parts of a problem between these places, each a number of sets."""
    bounds = sorted({0, len(whole.set_offsets) - 1, *places})
    return [_part(whole, start, stop) for start, stop in pairwise(bounds)] or [whole]


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


def run(parts: Sequence[kernel.Problem]) -> dict[str, Any]:
    """Resolve one part after the other; say the whole answer in founding sets, which no call renumbers."""
    carried: _Carried | None = None
    done = 0
    first: list[Any] = []
    merges: list[Any] = []
    refusals: list[Any] = []
    for piece in parts:
        if carried is not None:
            piece = replace(piece, ident_profile=carried.ident_profile, profiles=carried.profiles)
        resolution = kernel.resolve(piece)
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
        done += len(piece.set_offsets) - 1
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
