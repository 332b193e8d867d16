"""Two answers of the resolver, compared column by column: who merges, who splits, what moves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.identity.problem import SetColumns, Translated
from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.kernels.siphash import HASH_BYTES, Words
from profilelake.pipeline.rebuild import Fold
from profilelake.pipeline.told_effects import (
    IDENTIFIERS_SHOWN_MAX,
    PROFILES_SHOWN_MAX,
    Example,
    Largest,
    Shown,
)
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import Collection

_CAUSES_MAX: Final = 256

Numbers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who is who, as columns that can be compared with those of another answer.

    Profiles are numbered as the resolver did: `founding` has the row of the set that founded each,
    `living` are those of today. Identifiers are distinct.
    A refusal is (row of its set, row of its identifier, cause).
    """

    sets: Words
    set_profile: Numbers
    idents: Words
    owner: Numbers
    types: pa.Array
    values: pa.Array
    founding: Numbers
    living: npt.NDArray[np.bool_]
    refusals: npt.NDArray[np.int64]


def of_fold(folded: Fold) -> Resolved:
    """Return the answer that a fold of the whole history is."""
    identifiers, resolution = folded.facts.identifiers, folded.resolution
    return Resolved(
        sets=siphash.from_arrow(folded.sets.column("set_id").cast(pa.binary(HASH_BYTES))),
        set_profile=resolution.set_profile.astype(np.int64),
        idents=identifiers.ids,
        owner=folded.owners.astype(np.int64),
        types=identifiers.types,
        values=identifiers.values,
        founding=resolution.founding_set.astype(np.int64),
        living=resolution.survivor == np.arange(len(resolution.survivor)),
        refusals=np.stack(
            [
                resolution.refusal_set.astype(np.int64),
                folded.by_identifier.ident_row[resolution.refusal_ident].astype(np.int64),
                resolution.refusal_cause.astype(np.int64),
            ],
            axis=1,
        ),
    )


def of_sets(set_ids: Words, members: SetColumns, translated: Translated, counts: Bools) -> Resolved:
    """Resolve sets from nothing, of which some do not count as evidence, and return the answer."""
    problem = translated.problem
    sizes = np.diff(problem.set_offsets)
    counting = replace(
        problem,
        set_offsets=np.append(0, np.cumsum(np.where(counts, sizes, 0))).astype(np.int64),
        set_idents=problem.set_idents[np.repeat(counts, sizes)],
    )
    resolution = kernel.resolve(counting)
    numbers, first_rows = dense_numbers(members.ident_ids)
    owner = np.full(len(first_rows), -1, dtype=np.int64)
    owner[numbers[translated.ident_row]] = resolution.ident_profile
    # Every set belongs to its strongest identifier, and that to its profile.
    set_profile = np.full(len(set_ids), -1, dtype=np.int64)
    some = np.flatnonzero(sizes)
    set_profile[some] = resolution.ident_profile[problem.set_idents[problem.set_offsets[some]]]
    rows = pa.array(first_rows)
    return Resolved(
        sets=set_ids,
        set_profile=set_profile,
        idents=members.ident_ids[first_rows],
        owner=owner,
        types=members.types.take(rows),
        values=members.values.take(rows),
        founding=resolution.founding_set.astype(np.int64),
        living=resolution.survivor == np.arange(len(resolution.survivor)),
        refusals=np.stack(
            [
                resolution.refusal_set.astype(np.int64),
                numbers[translated.ident_row[resolution.refusal_ident]].astype(np.int64),
                resolution.refusal_cause.astype(np.int64),
            ],
            axis=1,
        ),
    )


# ---- what is different -----------------------------------------------------------------------


class Change:
    """What differs between two answers about one collection.

    Profiles, sets and identifiers of both are numbered alike. Profiles that depend on each other's
    change form a *group*: those that share identifiers, before or after, as far as anything changes.
    """

    def __init__(self, collection: Collection, before: Resolved, after: Resolved) -> None:
        """Compare; takes time in the number of identifiers and sets."""
        self._collection: Collection = collection
        self._sides = (before, after)
        profiles, self._keys = _numbered_alike(before.sets[before.founding], after.sets[after.founding])
        self._living = tuple(int(np.count_nonzero(side.living)) for side in self._sides)
        idents, ident_ids = _numbered_alike(before.idents, after.idents)
        self._owners = tuple(
            _spread(idents[n], side.owner, profiles[n], len(ident_ids)) for n, side in enumerate(self._sides)
        )
        self._shown_in = tuple(
            _spread(idents[n], np.arange(len(idents[n])), None, len(ident_ids)) for n in (0, 1)
        )
        self._moved = np.flatnonzero(self._owners[0] != self._owners[1])
        sets, set_ids = _numbered_alike(before.sets, after.sets)
        homes = [
            _spread(sets[n], side.set_profile, profiles[n], len(set_ids))
            for n, side in enumerate(self._sides)
        ]
        moved_sets = np.flatnonzero(homes[0] != homes[1])
        self.sets_moved = len(moved_sets)
        refused = [
            np.unique(_refusals(side.refusals, sets[n], idents[n], len(ident_ids)))
            for n, side in enumerate(self._sides)
        ]
        self.refusals_vanishing = len(np.setdiff1d(refused[0], refused[1], assume_unique=True))
        self.refusals_appearing = len(np.setdiff1d(refused[1], refused[0], assume_unique=True))
        self._group(homes, moved_sets)

    @property
    def identifiers_moved(self) -> int:
        """How many identifiers belong elsewhere, or nowhere any more, or no longer nowhere."""
        return len(self._moved)

    def profiles(self, side: int) -> int:
        """Return how many profiles there are before (0) or after (1)."""
        return self._living[side]

    def _group(self, homes: Sequence[Numbers], moved_sets: Numbers) -> None:
        count = len(self._keys)
        before, after = self._owners
        touched = np.zeros(2 * count, dtype=np.bool_)
        for side, owners in enumerate((before, after)):
            for owned in (owners[self._moved], homes[side][moved_sets]):
                touched[side * count + owned[owned >= 0]] = True
        kept = np.flatnonzero((before >= 0) & (after >= 0))
        pairs = np.unique(before[kept] * count + after[kept])
        ends = np.stack([pairs // max(count, 1), pairs % max(count, 1) + count], axis=1)
        ends = ends[touched[ends].any(axis=1)]
        nodes = np.unique(np.concatenate([ends.ravel(), np.flatnonzero(touched)]))
        groups = _components(np.searchsorted(nodes, ends), len(nodes))
        self._nodes, self._groups = nodes, groups
        is_after = nodes >= count
        made = int(groups.max(initial=-1)) + 1
        self._counts = tuple(np.bincount(groups[is_after == flag], minlength=made) for flag in (False, True))
        place = np.searchsorted(ends[:, 0], ends[:, 0])  # pairs are sorted by the profile before
        into = np.bincount(place, minlength=len(ends))
        self.profiles_splitting = int(np.count_nonzero(into > 1))
        _, which, sharing = np.unique(ends[:, 1], return_inverse=True, return_counts=True)
        self.profiles_merging = len(np.unique(ends[sharing[which] > 1, 0]))
        self._moves = self._by_group(before[self._moved], after[self._moved], made)
        self._set_moves = self._by_group(homes[0][moved_sets], homes[1][moved_sets], made)

    def _by_group(self, before: Numbers, after: Numbers, groups: int) -> Numbers:
        """Count what moved from `before` to `after` by the group of the one, or else of the other."""
        node = np.where(before >= 0, before, after + len(self._keys))
        return np.bincount(self._groups[np.searchsorted(self._nodes, node)], minlength=groups)

    def sizes(self, side: int) -> Numbers:
        """Return the number of identifiers of each profile that changes; 0 for all others."""
        count = len(self._keys)
        owners = self._owners[side]
        sizes = np.bincount(owners[owners >= 0], minlength=count)
        changing = np.zeros(count, dtype=np.bool_)
        changing[self._nodes[self._nodes // max(count, 1) == side] % max(count, 1)] = True
        return np.where(changing, sizes, 0)

    def largest(self, side: int) -> Largest | None:
        """Return the largest profile that changes; of several the one with the least id."""
        sizes = self.sizes(side)
        if not sizes.any():
            return None
        most = int(sizes.max())
        key = min(self._key(number) for number in np.flatnonzero(sizes == most).tolist())
        return Largest(public_id(self._collection, key), most)

    def examples(self, most: int) -> list[Example]:
        """Return the largest changes: by identifiers moved, then sets moved, then profile id."""
        if not len(self._moves):
            return []
        keys = self._keys[self._nodes % len(self._keys)].byteswap()
        order = np.lexsort((keys[:, 1], keys[:, 0], self._groups))
        least = order[np.searchsorted(self._groups[order], np.arange(len(self._moves)))]
        ranked = np.lexsort((keys[least, 1], keys[least, 0], -self._set_moves, -self._moves))[:most]
        sizes = [self.sizes(side) for side in (0, 1)]
        chosen = [self._first_nodes(group, sizes) for group in ranked.tolist()]
        shown = [
            self._shown(side, [node for pair in chosen for node in pair[side]], sizes[side])
            for side in (0, 1)
        ]
        return [
            Example(
                change=self._kind(group),
                identifiers_moved=int(self._moves[group]),
                sets_moved=int(self._set_moves[group]),
                profiles_before=int(self._counts[0][group]),
                profiles_after=int(self._counts[1][group]),
                before=[shown[0][node] for node in pair[0]],
                after=[shown[1][node] for node in pair[1]],
            )
            for group, pair in zip(ranked.tolist(), chosen, strict=True)
        ]

    def _kind(self, group: int) -> Literal["merge", "split", "move"]:
        before, after = self._counts[0][group], self._counts[1][group]
        if after == 1 and before > 1:
            return "merge"
        return "split" if before == 1 and after > 1 else "move"

    def _first_nodes(self, group: int, sizes: Sequence[Numbers]) -> tuple[list[int], list[int]]:
        """Return some profiles of a group before and after, the largest first."""
        nodes = self._nodes[self._groups == group]
        count = len(self._keys)
        sides = []
        for side in (0, 1):
            numbers = (nodes[nodes // count == side] % count).tolist()
            numbers.sort(key=lambda number: (-int(sizes[side][number]), self._key(number)))
            sides.append(numbers[:PROFILES_SHOWN_MAX])
        return sides[0], sides[1]

    def _shown(self, side: int, profiles: Sequence[int], sizes: Numbers) -> dict[int, Shown]:
        """Return profiles as they are shown, by number."""
        owners = self._owners[side]
        wanted = np.zeros(len(self._keys) + 1, dtype=np.bool_)  # the last one is nobody's, -1
        wanted[list(profiles)] = True
        rows = np.flatnonzero(wanted[owners])
        rows = rows[np.argsort(owners[rows], kind="stable")]
        found = {}
        for number in profiles:
            first, last = np.searchsorted(owners[rows], (number, number + 1))
            mine = rows[first:last]
            found[number] = Shown(
                public_id(self._collection, self._key(number)), self._names(side, mine), int(sizes[number])
            )
        return found

    def _names(self, side: int, idents: Numbers) -> list[str]:
        resolved = self._sides[side]
        rows = pa.array(self._shown_in[side][idents])
        types, values = resolved.types.take(rows), resolved.values.take(rows)
        rows = zip(types.to_pylist(), values.to_pylist(), strict=True)
        return [f"{type}:{value}" for type, value in sorted(rows)[:IDENTIFIERS_SHOWN_MAX]]

    def _key(self, number: int) -> bytes:
        key: bytes = self._keys[number].tobytes()
        return key


def _numbered_alike(one: Words, other: Words) -> tuple[tuple[Numbers, Numbers], Words]:
    """Return numbers for the ids of both, equal for equal ids, and the ids by number."""
    both = np.concatenate([one, other])
    numbers, first_rows = dense_numbers(both)
    whole = numbers.astype(np.int64)
    return (whole[: len(one)], whole[len(one) :]), both[first_rows]


def _spread(places: Numbers, values: Numbers, names: Numbers | None, size: int) -> Numbers:
    """Return `values` at their places among `size`, each by its name; -1 where there is none."""
    spread = np.full(size, -1, dtype=np.int64)
    if names is None:
        spread[places] = values
    else:
        some = np.flatnonzero(values >= 0)
        spread[places[some]] = names[values[some]]
    return spread


def _refusals(refusals: Numbers, sets: Numbers, idents: Numbers, ident_count: int) -> Numbers:
    """Return a number for each refusal, equal for equal ones."""
    pairs = sets[refusals[:, 0]] * ident_count + idents[refusals[:, 1]]
    return pairs * _CAUSES_MAX + refusals[:, 2]


def _components(edges: Numbers, nodes: int) -> Numbers:
    """Return for each node the number of its component."""
    members = np.concatenate([edges.ravel(), np.arange(nodes)]).astype(np.int32)
    offsets = np.concatenate([2 * np.arange(len(edges)), 2 * len(edges) + np.arange(nodes + 1)])
    # Union-find is what the resolver is; with one type and no limit it joins everything that is connected.
    joined = kernel.resolve(
        kernel.Problem(
            set_offsets=offsets.astype(np.int64),
            set_idents=members,
            ident_type=np.zeros(nodes, dtype=np.int32),
            type_limit=np.array([kernel.NO_LIMIT], dtype=np.int32),
            type_window=np.zeros(1, dtype=np.int64),
        )
    )
    _, groups = np.unique(joined.ident_profile, return_inverse=True)
    return groups.astype(np.int64)
