"""From identifier sets and rules to arrays for the compiled resolver, and back.

Two halves: over whole columns (`clean`, `problem_of`), which the batch rebuild uses, and over
`Sighting` values (`resolve`), which gives the same answer as `semantics.identity` by the other way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.semantics import identifiers, identity
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import (
    Cause,
    IdentifierSet,
    IdentityGraph,
    Merge,
    Profile,
    Refusal,
    SetOutcome,
    Sighting,
)
from profilelake.semantics.rules import Collection, IdentityRules, TypeRule

Column: TypeAlias = pa.Array | pa.ChunkedArray
Bools: TypeAlias = npt.NDArray[np.bool_]

CAUSES: Final[dict[int, Cause]] = {
    kernel.CAUSE_LIMIT: "limit",
    kernel.CAUSE_TIME_LIMIT: "time_limit",
    kernel.CAUSE_IDENTIFIERS_MAX: "identifiers_max",
    kernel.CAUSE_MERGES_MAX: "merges_max",
    kernel.CAUSE_UNLINKED: "unlinked",
}


def rules_by_strength(rules: IdentityRules, collection: Collection) -> tuple[TypeRule, ...]:
    """Return the rules of a collection, strongest first; a type's place here is its type code."""
    chosen = (rule for rule in rules.types if rule.collection == collection)
    return tuple(sorted(chosen, key=lambda rule: (rule.priority, rule.type)))


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What the rules say about each row: its type code (-1: no rule) and whether its value is blocked."""

    type_code: kernel.Int32s
    blocked: Bools

    @property
    def links(self) -> Bools:
        """True where the identifier may link."""
        return (self.type_code >= 0) & ~self.blocked


def clean(types: Column, values: Column, rules: IdentityRules, collection: Collection = "users") -> Cleaned:
    """Apply priorities and blocked values to columns of identifiers; the same answers as `TypeRule.blocks`."""
    by_strength = rules_by_strength(rules, collection)
    names = pa.array([rule.type for rule in by_strength], pa.large_string())
    place = pc.fill_null(pc.index_in(pc.cast(types, pa.large_string()), value_set=names), -1)
    type_code = np.ascontiguousarray(place.to_numpy(), dtype=np.int32)
    blocked = np.zeros(len(type_code), dtype=np.bool_)
    for code, rule in enumerate(by_strength):
        if not rule.blocked_exact and not rule.blocked_patterns:
            continue
        rows = np.flatnonzero(type_code == code)
        if len(rows):
            blocked[rows] = _blocked(pc.cast(values.take(pa.array(rows)), pa.large_string()), rule)
    return Cleaned(type_code, blocked)


@dataclass(frozen=True, slots=True)
class SetColumns:
    """Distinct identifier sets in canonical order (each at its first position), one row per member.

    Set s holds rows `offsets[s]` to `offsets[s + 1]`. `ident_ids` are `kernels.siphash` words;
    `received_at` has one value per set and is read only if the rules have windows.
    """

    offsets: kernel.Int64s
    types: Column
    values: Column
    ident_ids: siphash.Words
    received_at: kernel.Int64s


@dataclass(frozen=True, slots=True)
class Translated:
    """A problem, and what its numbers mean: `ident_row[i]` is a row that holds identifier i."""

    problem: kernel.Problem
    ident_row: kernel.Int64s
    cleaned: Cleaned


def problem_of(
    sets: SetColumns,
    rules: IdentityRules,
    collection: Collection = "users",
    *,
    unlinks: siphash.Words | None = None,
    quarantined: siphash.Words | None = None,
) -> Translated:
    """Return the problem of resolving `sets` from nothing.

    `unlinks` are pairs of identifier ids in consecutive rows; a pair with an id that is in no set
    separates nothing. `quarantined` are ids that link nobody.
    """
    numbers, first_row = dense_numbers(sets.ident_ids)
    rows = pa.array(first_row)
    identifiers = Identifiers(sets.types.take(rows), sets.values.take(rows), sets.ident_ids[first_row])
    translated = numbered_problem(
        sets.offsets,
        numbers,
        identifiers,
        rules,
        collection,
        set_time=sets.received_at,
        unlinks=unlinks,
        quarantined=quarantined,
    )
    cleaned = translated.cleaned
    return Translated(
        translated.problem,
        first_row[translated.ident_row],
        Cleaned(cleaned.type_code[numbers], cleaned.blocked[numbers]),
    )


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Distinct identifiers, one row each."""

    types: Column
    values: Column
    ids: siphash.Words


def numbered_problem(
    offsets: kernel.Int64s,
    members: kernel.Int32s,
    known: Identifiers,
    rules: IdentityRules,
    collection: Collection = "users",
    *,
    set_time: kernel.Int64s,
    unlinks: siphash.Words | None = None,
    quarantined: siphash.Words | None = None,
) -> Translated:
    """The same for sets whose members are rows of `known`, which the answer is by, too."""
    identity.check(rules)
    cleaned = clean(known.types, known.values, rules, collection)
    if quarantined is not None and len(quarantined):
        cleaned.blocked[:] |= is_among(known.ids, quarantined) & (cleaned.type_code >= 0)
    links = cleaned.links
    kept = np.flatnonzero(links[members])
    bounds = np.searchsorted(kept, offsets).astype(np.int64)
    linking = members[kept]
    linking = linking[
        strongest_first(bounds, cleaned.type_code[linking], known.values, linking.astype(np.int64))
    ]
    ident_row = np.flatnonzero(links)
    number = np.full(len(links), -1, dtype=np.int32)
    number[ident_row] = np.arange(len(ident_row))
    pairs = np.empty((0, 2), dtype=np.int32)
    if unlinks is not None and len(unlinks):
        rows = _rows_of(unlinks, known.ids)
        # The last one is for those that are in no set.
        pairs = np.append(number, np.int32(-1))[rows].reshape(-1, 2)
    by_strength = rules_by_strength(rules, collection)
    problem = kernel.Problem(
        set_offsets=bounds,
        set_idents=number[linking],
        ident_type=cleaned.type_code[ident_row],
        type_limit=np.array(
            [kernel.NO_LIMIT if rule.limit is None else rule.limit for rule in by_strength], dtype=np.int32
        ),
        type_window=np.array(
            [(rule.window_seconds or 0) * 1_000_000 for rule in by_strength], dtype=np.int64
        ),
        set_time=set_time,
        lowest_priority=rules.demotion == "lowest_priority",
        identifiers_max=rules.identifiers_max,
        merges_max=rules.merges_max,
        unlinks=pairs[(pairs >= 0).all(axis=1)],
    )
    return Translated(problem, ident_row, cleaned)


def _rows_of(ids: siphash.Words, known: siphash.Words) -> npt.NDArray[np.int64]:
    """Return the row of each id among distinct known ones, -1 where it is none of them."""
    numbers, _ = dense_numbers(np.concatenate([known, ids]))
    rows = numbers[len(known) :].astype(np.int64)
    rows[rows >= len(known)] = -1
    return rows


def is_among(ids: siphash.Words, chosen: siphash.Words) -> Bools:
    """Return which of `ids` are one of `chosen`."""
    numbers, first_row = dense_numbers(np.concatenate([chosen, ids]))
    # Numbered as they first appear, the chosen ones have the lowest numbers.
    found: Bools = numbers[len(chosen) :] < np.searchsorted(first_row, len(chosen))
    return found


def resolve(
    sightings: Iterable[Sighting],
    rules: IdentityRules,
    *,
    collection: Collection = "users",
    key: bytes = bytes(identifiers.KEY_BYTES),
    unlinks: Iterable[tuple[Identifier, Identifier]] = (),
    quarantined: frozenset[Identifier] = frozenset(),
) -> IdentityGraph:
    """Return what `semantics.identity.resolve` returns, by way of the compiled resolver."""
    ordered = identity.first_sightings(sightings, rules, collection)
    rows = [identifier for sighting in ordered for identifier in sorted(sighting.identifiers)]
    pairs = [identifier for pair in unlinks for identifier in pair]
    apart = sorted(quarantined)
    hashed = _hash(key, collection, [*rows, *pairs, *apart])
    sizes = [len(sighting.identifiers) for sighting in ordered]
    columns = SetColumns(
        offsets=np.cumsum([0, *sizes], dtype=np.int64),
        types=pa.array([row.type for row in rows], pa.large_string()),
        values=pa.array([row.value for row in rows], pa.large_string()),
        ident_ids=hashed[: len(rows)],
        received_at=np.array([sighting.received_at for sighting in ordered], dtype=np.int64),
    )
    translated = problem_of(
        columns,
        rules,
        collection,
        unlinks=hashed[len(rows) : len(rows) + len(pairs)],
        quarantined=hashed[len(rows) + len(pairs) :],
    )
    set_ids = siphash.set_ids(key, identifiers.set_prefix(collection), columns.ident_ids, columns.offsets)
    return _graph(
        ordered,
        rows,
        columns,
        translated,
        kernel.resolve(translated.problem),
        siphash.to_bytes(set_ids),
        rules,
        collection,
    )


def _graph(
    ordered: Sequence[Sighting],
    rows: Sequence[Identifier],
    columns: SetColumns,
    translated: Translated,
    resolution: kernel.Resolution,
    set_ids: Sequence[bytes],
    rules: IdentityRules,
    collection: Collection,
) -> IdentityGraph:
    """Say a resolution in identifiers and public ids again."""
    idents = [rows[row] for row in translated.ident_row]
    founding = [ordered[index] for index in resolution.founding_set]
    names = [identifiers.public_id(collection, set_ids[index]) for index in resolution.founding_set]

    def name(profile: int) -> str | None:
        return names[profile] if profile >= 0 else None

    owners = {idents[number]: name(profile) for number, profile in enumerate(resolution.ident_profile)}
    members: dict[str, set[Identifier]] = {}
    for identifier, owner in owners.items():
        if owner is not None:
            members.setdefault(owner, set()).add(identifier)
    profiles = {
        names[number]: Profile(
            profile_id=names[number],
            founding_set=founding[number].identifiers,
            founded_at=founding[number].position,
            members=frozenset(members[names[number]]),
        )
        for number, survivor in enumerate(resolution.survivor)
        if survivor == number
    }
    sets: dict[IdentifierSet, SetOutcome] = {}
    problem, cleaned = translated.problem, translated.cleaned
    for index, sighting in enumerate(ordered):
        if sighting.identifiers in sets:
            continue
        here = range(columns.offsets[index], columns.offsets[index + 1])
        linking = problem.set_idents[problem.set_offsets[index] : problem.set_offsets[index + 1]]
        sets[sighting.identifiers] = SetOutcome(
            set_id=set_ids[index],
            first_position=sighting.position,
            identifiers=tuple(idents[ident] for ident in linking),
            blocked=frozenset(rows[row] for row in here if cleaned.blocked[row]),
            unconfigured=frozenset(rows[row] for row in here if cleaned.type_code[row] < 0),
            first_profile=name(resolution.set_first_profile[index]),
            profile=name(resolution.set_profile[index]),
        )
    by_strength = rules_by_strength(rules, collection)
    refusals = tuple(
        Refusal(
            position=ordered[index].position,
            set_id=set_ids[index],
            identifier=idents[ident],
            profile=names[resolution.set_first_profile[index]],
            owner=name(owner),
            cause=CAUSES[cause],
            type=by_strength[type].type if type >= 0 else None,
        )
        for index, ident, owner, cause, type in zip(
            resolution.refusal_set.tolist(),
            resolution.refusal_ident.tolist(),
            resolution.refusal_owner.tolist(),
            resolution.refusal_cause.tolist(),
            resolution.refusal_type.tolist(),
            strict=True,
        )
    )
    merges = tuple(
        Merge(ordered[index].position, set_ids[index], names[survivor], names[loser])
        for index, survivor, loser in zip(
            resolution.merge_set, resolution.merge_survivor, resolution.merge_loser, strict=True
        )
    )
    return IdentityGraph(profiles, owners, sets, refusals, merges)


def _hash(key: bytes, collection: Collection, rows: Sequence[Identifier]) -> siphash.Words:
    types = sorted({row.type for row in rows})
    code = {type: number for number, type in enumerate(types)}
    return siphash.hash_typed(
        key,
        [identifiers.ident_prefix(collection, type) for type in types],
        np.array([code[row.type] for row in rows], dtype=np.int32),
        pa.array([row.value for row in rows], pa.large_string()),
    )


def strongest_first(
    offsets: kernel.Int64s, type_code: kernel.Int32s, values: Column, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the order of members by (set, strength of type, value).

    Set s has the members `offsets[s]` to `offsets[s + 1]`; member m stands in row `rows[m]` of `values`.
    """
    set_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    strength = set_of * (int(type_code.max(initial=0)) + 1) + type_code
    if (np.diff(strength) > 0).all():
        return np.arange(len(rows))
    order = np.argsort(strength, kind="stable")
    ranked = strength[order]
    same = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(same) == 0:
        return order
    # Two values of one type in one set are rare, so only those rows are compared as text.
    tied = np.zeros(len(rows), dtype=np.bool_)
    tied[same] = tied[same + 1] = True
    places = np.flatnonzero(tied)
    texts = pc.cast(values.take(pa.array(rows[order[places]])), pa.large_binary())
    by_text = np.asarray(pc.sort_indices(texts))
    by_strength = by_text[np.argsort(ranked[places][by_text], kind="stable")]
    order[places] = order[places][by_strength]
    return order


def _blocked(values: Column, rule: TypeRule) -> Bools:
    """Return which values of one type its rule blocks."""
    exact = pa.array(sorted(rule.blocked_exact), pa.large_string())
    blocked: Bools = np.array(pc.is_in(values, value_set=exact), dtype=np.bool_)
    if not rule.blocked_patterns:
        return blocked
    # Arrow's engine is RE2 too, so a column means what `TypeRule.blocks` means.
    for pattern in rule.blocked_patterns:
        blocked |= np.array(pc.match_substring_regex(values, pattern), dtype=np.bool_)
    return blocked
