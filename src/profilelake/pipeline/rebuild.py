"""What state and current tables must be, from the facts in the lake alone.

The batch form of identity and profiles: the same kernel and rules as the live one, on everything at
once. `verify` holds the live result against it; `rebuild` puts it in place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.plan import IDENTITY__MEMBERS, IDENTITY__SETS
from profilelake.identity.problem import CAUSES, SetColumns, Translated, problem_of, rules_by_strength
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.profiles.plan import PROFILES__SET_TRAITS
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.records import (
    NOBODY,
    ActivityRecord,
    IdentRecord,
    ProfileRecord,
    RefusalRecord,
    SetRecord,
    TraitRecord,
    joined_traits,
    received_at,
)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """Identity and profiles of one collection, as of the facts that were read.

    `sets` are in position order with `members` behind them; `profile_keys` are the founding sets of
    all profiles ever issued, by the kernel's numbers. `ident_rows[i]` is a row of `members` that
    holds the kernel's identifier i; `owners` gives the profile of every row of `members`, -1 for none.
    """

    collection: Collection
    rules: IdentityRules
    sets: pa.Table
    offsets: Rows
    members: pa.Table
    translated: Translated
    resolution: kernel.Resolution
    set_keys: list[bytes]
    profile_keys: list[bytes]
    first_rows: Rows
    owners: npt.NDArray[np.int32]
    traits: pa.Table

    def anchors(self) -> Rows:
        """Return for each set the row of `members` of its anchor, -1 where nothing in it may link."""
        problem = self.translated.problem
        sizes = np.diff(problem.set_offsets)
        anchors = np.full(sizes.size, -1, dtype=np.int64)
        some = np.flatnonzero(sizes)
        anchors[some] = self.translated.ident_row[problem.set_idents[problem.set_offsets[some]]]
        return anchors


def fold(connection: duckdb.DuckDBPyConnection, rules: IdentityRules) -> list[Fold]:
    """Resolve and fold everything the attached tables hold, collection by collection."""
    sets = connection.sql(IDENTITY__SETS).to_arrow_table()
    folds = []
    for collection in COLLECTIONS:
        mine = sets.filter(pc.equal(sets.column("collection"), collection)).combine_chunks()
        numbered = pa.table({"set_id": mine.column("set_id"), "row": np.arange(mine.num_rows)})
        connection.register("numbered_sets", numbered)
        try:
            members = connection.sql(IDENTITY__MEMBERS).to_arrow_table().combine_chunks()
            traits = connection.sql(PROFILES__SET_TRAITS).to_arrow_table().combine_chunks()
        finally:
            connection.unregister("numbered_sets")
        folds.append(_fold(collection, rules, mine, members, traits))
    return folds


def _fold(
    collection: Collection, rules: IdentityRules, sets: pa.Table, members: pa.Table, traits: pa.Table
) -> Fold:
    rows = members.column("row").to_numpy()
    offsets = np.searchsorted(rows, np.arange(sets.num_rows + 1)).astype(np.int64)
    ident_ids = siphash.from_arrow(members.column("ident_id").cast(pa.binary(16)))
    places = sets.column("position").to_pylist()
    times = np.array([received_at(place) for place in places], dtype=np.int64)
    translated = problem_of(
        SetColumns(
            offsets=offsets,
            types=members.column("type"),
            values=members.column("value"),
            ident_ids=ident_ids,
            received_at=times,
        ),
        rules,
        collection,
    )
    resolution = kernel.resolve(translated.problem)
    set_keys = sets.column("set_id").to_pylist()
    # The first row of each distinct identifier, and for every row which distinct one it is.
    numbers, first_rows = dense_numbers(ident_ids)
    owner_of_distinct = np.full(first_rows.size, -1, dtype=np.int32)
    owner_of_distinct[numbers[translated.ident_row]] = resolution.ident_profile
    return Fold(
        collection=collection,
        rules=rules,
        sets=sets,
        offsets=offsets,
        members=members,
        translated=translated,
        resolution=resolution,
        set_keys=set_keys,
        profile_keys=[set_keys[number] for number in resolution.founding_set.tolist()],
        first_rows=first_rows,
        owners=owner_of_distinct[numbers],
        traits=traits,
    )


# ---- records of the online state ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Records:
    """The online state of one collection."""

    idents: dict[bytes, IdentRecord]
    sets: dict[bytes, SetRecord]
    activity: dict[bytes, ActivityRecord]
    profiles: dict[bytes, ProfileRecord]
    traits: dict[bytes, dict[str, TraitRecord]]
    refusals: dict[bytes, list[RefusalRecord]]
    links: list[tuple[bytes, bytes]]


def records(folded: Fold) -> Records:
    """Return what the online state must hold for this collection."""
    number = COLLECTIONS.index(folded.collection)
    keys = [*folded.profile_keys, NOBODY]  # -1 is nobody
    ident_ids = folded.members.column("ident_id").to_pylist()
    offsets, anchors = folded.offsets.tolist(), folded.anchors().tolist()
    set_profile = folded.resolution.set_profile.tolist()
    set_first = folded.resolution.set_first_profile.tolist()
    refusals = _refusals(folded, ident_ids)
    columns = [
        folded.sets.column(name).to_pylist() for name in ("position", "message_id", "source_id", "events")
    ]
    last = [
        folded.sets.column(name).to_pylist()
        for name in ("last_position", "last_message_id", "last_source_id")
    ]
    sets: dict[bytes, SetRecord] = {}
    activity: dict[bytes, ActivityRecord] = {}
    links: list[tuple[bytes, bytes]] = []
    for row, (key, position, message_id, source_id, events, place, id_last, source_last) in enumerate(
        zip(folded.set_keys, *columns, *last, strict=True)
    ):
        members = ident_ids[offsets[row] : offsets[row + 1]]
        links += [(ident, key) for ident in members]
        sets[key] = SetRecord(
            number,
            b"".join(members),
            b"" if anchors[row] < 0 else ident_ids[anchors[row]],
            keys[set_profile[row]],
            keys[set_first[row]],
            position,
            message_id,
            source_id,
            key in refusals,
        )
        activity[key] = ActivityRecord(events, place, id_last, source_last)
    traits = _set_traits(folded)
    profiles = _profiles(folded, number, ident_ids, sets)
    idents = _idents(folded, number, ident_ids, sets, keys)
    return Records(idents, sets, activity, profiles, traits, refusals, links)


def _idents(
    folded: Fold, number: int, ident_ids: list[bytes], sets: dict[bytes, SetRecord], keys: list[bytes]
) -> dict[bytes, IdentRecord]:
    first = folded.first_rows
    chosen = folded.members.take(pa.array(first))
    found = {}
    for row, type, value, set_row, owner in zip(
        first.tolist(),
        chosen.column("type").to_pylist(),
        chosen.column("value").to_pylist(),
        chosen.column("row").to_pylist(),
        folded.owners[first].tolist(),
        strict=True,
    ):
        # Rows are in position order, so an identifier's first row is its first sighting.
        seen = sets[folded.set_keys[set_row]]
        found[ident_ids[row]] = IdentRecord(
            number,
            type,
            value,
            seen.source_id,
            seen.message_id,
            received_at(seen.position),
            seen.position,
            keys[owner],
        )
    return found


def _profiles(
    folded: Fold,
    number: int,
    ident_ids: list[bytes],
    sets: dict[bytes, SetRecord],
) -> dict[bytes, ProfileRecord]:
    merges = folded.resolution.profiles.merges.tolist()
    profiles = {
        folded.profile_keys[profile]: ProfileRecord(
            number, sets[folded.profile_keys[profile]].position, [], [], merges[profile]
        )
        for profile, survivor in enumerate(folded.resolution.survivor.tolist())
        if profile == survivor
    }
    types = folded.members.column("type").to_pylist()
    for row, owner in zip(folded.first_rows.tolist(), folded.owners[folded.first_rows].tolist(), strict=True):
        if owner >= 0:
            profiles[folded.profile_keys[owner]].idents.append((ident_ids[row], types[row]))
    for key, record in sets.items():
        if record.profile != NOBODY:
            profiles[record.profile].sets.append(key)
    return profiles


def _set_traits(folded: Fold) -> dict[bytes, dict[str, TraitRecord]]:
    found: dict[bytes, dict[str, TraitRecord]] = {}
    columns = [folded.traits.column(name).to_pylist() for name in folded.traits.column_names]
    for row, trait, value, timestamp, position, source_id, message_id in zip(*columns, strict=True):
        found.setdefault(folded.set_keys[row], {})[trait] = TraitRecord(
            value, timestamp, position, source_id, message_id
        )
    return found


def _refusals(folded: Fold, ident_ids: list[bytes]) -> dict[bytes, list[RefusalRecord]]:
    resolution = folded.resolution
    types = folded.members.column("type").to_pylist()
    names = [rule.type for rule in rules_by_strength(folded.rules, folded.collection)]
    ident_row, first = folded.translated.ident_row, resolution.set_first_profile
    found: dict[bytes, list[RefusalRecord]] = {}
    for set_row, ident, cause, type in zip(
        resolution.refusal_set.tolist(),
        resolution.refusal_ident.tolist(),
        resolution.refusal_cause.tolist(),
        resolution.refusal_type.tolist(),
        strict=True,
    ):
        row = int(ident_row[ident])
        found.setdefault(folded.set_keys[set_row], []).append(
            RefusalRecord(
                ident_ids[row],
                types[row],
                folded.profile_keys[int(first[set_row])],
                CAUSES[cause],
                names[type] if type >= 0 else "",
            )
        )
    return found


# ---- rows of the current tables ----------------------------------------------------------------


def tables(folded: Fold, held: Records) -> dict[str, pa.Table]:
    """Return the whole current tables of one collection, by name."""
    shown = [public_id(folded.collection, key) for key in folded.profile_keys]
    names = pa.array(shown, pa.string())
    return {
        SET_MAP.name: _set_map(folded, names),
        IDENTIFIERS.name: _identifiers(folded, held),
        IDENTITY_MAP.name: _identity_map(folded, names),
        IDENTITY_REFUSALS.name: _identity_refusals(folded, held),
        PROFILES.name: _profile_rows(
            folded.collection, held, dict(zip(folded.profile_keys, shown, strict=True))
        ),
    }


def _slots(ids: pa.ChunkedArray | pa.Array) -> pa.Array:
    words = siphash.from_arrow(ids.cast(pa.binary(16)))
    first = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 16)
    return pa.array(first[:, 0].astype(np.int32) * 256 + first[:, 1])


def _taken(values: pa.Array, numbers: npt.NDArray[Any]) -> pa.Array:
    """Return `values[number]`, null where the number is -1."""
    return values.take(pa.array(numbers, pa.int64(), mask=numbers < 0))


def _repeat(value: object, count: int, type: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, type), count)


def _set_map(folded: Fold, names: pa.Array) -> pa.Table:
    ids = folded.sets.column("set_id").cast(pa.binary(16))
    ident_ids = folded.members.column("ident_id").cast(pa.binary(16)).combine_chunks()
    return pa.table(
        [
            ids,
            folded.sets.column("collection"),
            _taken(ident_ids, folded.anchors()),
            _taken(names, folded.resolution.set_profile),
            _taken(names, folded.resolution.set_first_profile),
            _slots(ids),
        ],
        schema=SET_MAP.schema(),
    )


def _identifiers(folded: Fold, held: Records) -> pa.Table:
    schema = IDENTIFIERS.schema()
    chosen = folded.members.take(pa.array(folded.first_rows))
    ids = chosen.column("ident_id").cast(pa.binary(16))
    seen = folded.sets.take(chosen.column("row"))
    positions = seen.column("position").cast(pa.binary(32))
    times = pa.array([record.created_at for record in held.idents.values()], pa.int64())
    return pa.table(
        [
            ids,
            _repeat(folded.collection, chosen.num_rows, pa.string()),
            chosen.column("type"),
            chosen.column("value"),
            seen.column("source_id"),
            seen.column("message_id"),
            times.cast(schema.field("created_at").type),
            positions,
            _slots(ids),
        ],
        schema=schema,
    )


def _identity_map(folded: Fold, names: pa.Array) -> pa.Table:
    owners = folded.owners[folded.first_rows]
    owned = folded.first_rows[owners >= 0]
    ids = folded.members.column("ident_id").take(pa.array(owned)).cast(pa.binary(16))
    return pa.table(
        [
            ids,
            _repeat(folded.collection, owned.size, pa.string()),
            _taken(names, owners[owners >= 0]),
            _slots(ids),
        ],
        schema=IDENTITY_MAP.schema(),
    )


def _identity_refusals(folded: Fold, held: Records) -> pa.Table:
    rows = [
        {
            "set_id": key,
            "collection": folded.collection,
            "refused": [
                {
                    "ident_id": refusal.ident,
                    "type": refusal.type,
                    "against_profile_id": public_id(folded.collection, refusal.against_profile),
                    "cause": refusal.cause,
                    "limit_type": refusal.limit_type or None,
                }
                for refusal in refusals
            ],
            "rule_version": folded.rules.version,
            "slot": int.from_bytes(key[:2], "big"),
        }
        for key, refusals in held.refusals.items()
    ]
    return pa.Table.from_pylist(rows, schema=IDENTITY_REFUSALS.schema())


def _profile_rows(collection: Collection, held: Records, shown: Mapping[bytes, str]) -> pa.Table:
    columns = list(zip(*_each_profile(collection, held, shown), strict=True))
    schema = PROFILES.schema()
    if not columns:
        return schema.empty_table()
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def _each_profile(
    collection: Collection, held: Records, shown: Mapping[bytes, str]
) -> Iterator[tuple[Any, ...]]:
    for key, profile in held.profiles.items():
        seen = [held.sets[member] for member in profile.sets]
        active = [held.activity[member] for member in profile.sets]
        yield (
            shown[key],
            collection,
            identifiers_text(profile, held.idents),
            traits_text(joined_traits(profile, held.traits)),
            received_at(min(record.position for record in seen)),
            received_at(max(record.position for record in active)),
            sum(record.count for record in active),
            int.from_bytes(key[:2], "big"),
        )
