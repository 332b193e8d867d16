"""Step 6 of a rebuild: what was decided of sets, brought back to the parts that their facts lie in.

Makes the tables of sets and refusals, the online state of sets, and for each profile rows of what its sets
bring: sightings, trait writes, statements of consent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.kept import KeptFile, keep
from profilelake.identity.tables import IDENTITY_REFUSALS, SET_MAP
from profilelake.kernels import siphash
from profilelake.lake.handover import TableFiles
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Rows, one, received_at
from profilelake.pipeline.fold_profiles import last_writes, repeated, slots
from profilelake.pipeline.fold_spells import first_of_spells
from profilelake.pipeline.fold_statements import last_statements
from profilelake.plans.rows import FOUNDED, ID, LINKS, POSITION, SETS, STATEMENTS, TIME, WINDOWS, WRITES
from profilelake.plans.written import (
    FilesByPart,
    Made,
    StateRows,
    collection_codes,
    ids_of,
    keep_state,
    key_order,
    named,
    places,
    profile_names,
    rows_of_part,
    write_part,
)
from profilelake.state import packed
from profilelake.state.packed import Packed
from profilelake.state.store import Db

INPUTS: Final = {"sets": SETS, "windows": WINDOWS, "founded": FOUNDED}
COLUMNS: Final = {"sets": "set_id", "windows": "set_id", "founded": "profile"}
"""By which id the inputs are cut: profiles go where the sets are that founded them."""

PROFILES: Final = pa.schema(
    [("profile", ID), ("collection", pa.string()), ("merges", pa.int64()), ("position", POSITION)]
)
"""Each profile that lives; `position` is that of the first sighting of its founding set."""

BELONGING: Final = pa.schema(
    [
        ("profile", ID),
        ("set_id", ID),
        ("first_at", TIME),
        ("last_at", TIME),
        ("events", pa.int64()),
        ("identifiers", SETS.field("identifiers").type),
    ]
)
"""Each set of a profile; with its identifiers where it said something of consent."""

WRITTEN: Final = pa.schema(
    [("profile", ID), *(WRITES.field(name) for name in ("trait", "value", "timestamp", "position"))]
)
"""Last writes of traits on sets of a profile."""

SAID: Final = pa.schema([("profile", ID), *STATEMENTS])
"""Last statements of consent of sets of a profile."""


@dataclass(frozen=True)
class GatherSets:
    """Makes everything that goes by sets, of one part.

    `writes`, `statements` and `links` are the files that were kept of each part; `leavings` the positions
    of the decisions that ended memberships.
    """

    storage: Storage
    folder: str
    set_map: TableFiles
    refusals: TableFiles
    writes: FilesByPart
    statements: FilesByPart
    links: FilesByPart
    rules_version: int
    leavings: tuple[bytes, ...]

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        """Return what was made, as `Made`."""
        sets = rows["sets"].combine_chunks()
        sets = sets.take(pa.array(key_order(ids_of(sets, "set_id")))).combine_chunks()
        ids = ids_of(sets, "set_id")
        writes, write_set = self._of_sets(part, self.writes, WRITES, ids)
        statements, statement_set = self._of_sets(part, self.statements, STATEMENTS, ids)
        state: Iterator[StateRows] = _state_of(
            sets,
            ids,
            writes.append_column("row", pa.array(write_set)),
            statements.append_column("row", pa.array(statement_set)),
            rows_of_part(self.storage, self.links, part, LINKS),
            rows["windows"].combine_chunks(),
            self.leavings,
        )
        profile = one(sets.column("profile"))
        return msgspec.msgpack.encode(
            Made(
                tables={
                    SET_MAP.name: write_part(self.set_map, _set_map(sets, ids)),
                    IDENTITY_REFUSALS.name: write_part(
                        self.refusals, _refusals(sets, ids, self.rules_version)
                    ),
                },
                state=keep_state(self.storage, f"{self.folder}/state", part, state),
                kept={
                    "profiles": self._keep(
                        "profiles", _founded(rows["founded"].combine_chunks(), sets, ids), part
                    ),
                    "belonging": self._keep("belonging", _belonging(sets, statement_set), part),
                    "written": self._keep(
                        "written", _with_profile(writes, write_set, profile, WRITTEN), part
                    ),
                    "said": self._keep("said", _with_profile(statements, statement_set, profile, SAID), part),
                },
                rows=len(ids),
            )
        )

    def _of_sets(
        self, part: int, files: FilesByPart, schema: pa.Schema, ids: siphash.Words
    ) -> tuple[pa.Table, Rows]:
        """Return the kept rows of the sets that are known, and the row of the set of each."""
        rows = rows_of_part(self.storage, files, part, schema)
        row = places(ids, ids_of(rows, "set_id"))
        if (row < 0).any():
            rows, row = rows.filter(pa.array(row >= 0)).combine_chunks(), row[row >= 0]
        return rows, row

    def _keep(self, name: str, rows: pa.Table, part: int) -> list[KeptFile]:
        return keep(self.storage, f"{self.folder}/{name}", rows, part)


# ---- tables ------------------------------------------------------------------------------------


def _set_map(sets: pa.Table, ids: siphash.Words) -> pa.Table:
    return pa.table(
        [
            sets.column("set_id"),
            sets.column("collection"),
            sets.column("anchor"),
            profile_names(sets, "profile"),
            profile_names(sets, "first_profile"),
            slots(ids),
        ],
        schema=SET_MAP.schema(),
    )


def _refusals(sets: pa.Table, ids: siphash.Words, rules_version: int) -> pa.Table:
    schema = IDENTITY_REFUSALS.schema()
    listed = schema.field("refused").type
    chosen, refused, of_set, starts = _refused(sets)
    against = refused.field("against")
    refused = pa.StructArray.from_arrays(
        [
            refused.field("ident_id"),
            refused.field("type"),
            named(
                siphash.from_arrow(against),
                collection_codes(sets)[of_set],
                against.is_valid().to_numpy(False),
            ),
            refused.field("cause"),
            refused.field("limit_type"),
        ],
        fields=list(listed.value_type),
    )
    return pa.table(
        [
            siphash.to_arrow(ids[chosen]),
            sets.column("collection").take(pa.array(chosen)),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), refused, type=listed),
            repeated(rules_version, len(chosen), pa.int32()),
            slots(ids[chosen]),
        ],
        schema=schema,
    )


def _refused(sets: pa.Table) -> tuple[Rows, pa.StructArray, Rows, Rows]:
    """Return the sets with refusals, all refusals, the set of each, and where those of each begin."""
    lists = one(sets.column("refused"))
    refused, of_set = lists.flatten(), pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    chosen, starts = np.unique(of_set, return_index=True)
    return chosen, refused, of_set, np.append(starts, len(of_set)).astype(np.int64)


# ---- for profiles ------------------------------------------------------------------------------


def _founded(founded: pa.Table, sets: pa.Table, ids: siphash.Words) -> pa.Table:
    row = places(ids, ids_of(founded, "profile"))
    return founded.append_column("position", sets.column("position").take(pa.array(row))).cast(PROFILES)


def _belonging(sets: pa.Table, saying: Rows) -> pa.Table:
    mine = np.flatnonzero(sets.column("profile").is_valid().to_numpy())
    silent = np.ones(sets.num_rows, dtype=np.bool_)
    silent[saying] = False
    rows = sets.take(pa.array(mine)).combine_chunks()
    identifiers = one(rows.column("identifiers"))
    return pa.table(
        [
            rows.column("profile"),
            rows.column("set_id"),
            pa.array(received_at(rows.column("position"))),
            pa.array(received_at(rows.column("last_position"))),
            rows.column("events"),
            pc.if_else(pa.array(silent[mine]), pa.scalar(None, identifiers.type), identifiers),
        ],
        schema=BELONGING,
    )


def _with_profile(rows: pa.Table, of_set: Rows, profile: pa.Array, schema: pa.Schema) -> pa.Table:
    """Return the rows of sets that have a profile, with it."""
    rows = rows.append_column("profile", profile.take(pa.array(of_set)))
    return rows.filter(rows.column("profile").is_valid()).select(schema.names).cast(schema)


# ---- state -------------------------------------------------------------------------------------


def _state_of(
    sets: pa.Table,
    ids: siphash.Words,
    writes: pa.Table,
    statements: pa.Table,
    links: pa.Table,
    windows: pa.Table,
    leavings: tuple[bytes, ...],
) -> Iterator[StateRows]:
    """Yield the state of sets that stand in the order of their ids."""
    keys = siphash.to_arrow(ids)
    yield Db.SET, keys, _set_records(sets)
    yield (
        Db.ACTIVITY,
        keys,
        packed.record(
            packed.integers(sets.column("events").to_numpy()),
            packed.binaries(sets.column("last_position")),
            packed.texts(sets.column("last_message_id")),
            packed.texts(sets.column("last_source_id")),
        ),
    )
    yield _trait_records(writes, keys)
    yield _consent_records(statements, keys)
    yield _refusal_records(sets, keys)
    yield _membership_records(links, leavings)
    yield _sighting_records(windows)


def _set_records(sets: pa.Table) -> Packed:
    lists = one(sets.column("identifiers"))
    members = lists.flatten().field("ident_id").cast(pa.binary()).cast(pa.large_binary())
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    refused = pc.list_value_length(sets.column("refused")).fill_null(0).to_numpy() > 0
    never = packed.booleans(np.zeros(len(sizes), dtype=np.bool_))
    return packed.record(
        packed.integers(collection_codes(sets)),
        packed.binaries(packed.joined(members, np.append(0, np.cumsum(sizes)))),
        *(packed.binaries(_or_nobody(sets, name)) for name in ("anchor", "profile", "first_profile")),
        packed.binaries(sets.column("position")),
        packed.texts(sets.column("message_id")),
        packed.texts(sets.column("source_id")),
        packed.booleans(refused),
        never,
    )


def _or_nobody(rows: pa.Table, name: str) -> pa.Array:
    return one(rows.column(name)).cast(pa.binary()).fill_null(b"")


def _trait_records(writes: pa.Table, keys: pa.Array) -> StateRows:
    distinct = pa.array(sorted(pc.unique(writes.column("trait")).to_pylist()), pa.string())
    trait = pc.index_in(writes.column("trait"), value_set=distinct).to_numpy().astype(np.int64)
    last = last_writes(writes, writes.column("row").to_numpy() * max(len(distinct), 1) + trait)
    rows = writes.take(pa.array(last)).combine_chunks()
    chosen, starts = _runs(rows.column("row").to_numpy())
    records = packed.record(
        packed.texts(rows.column("value")),
        packed.integers(rows.column("timestamp").to_numpy()),
        packed.binaries(rows.column("position")),
        packed.texts(rows.column("source_id")),
        packed.texts(rows.column("message_id")),
    )
    return (
        Db.TRAITS,
        keys.take(pa.array(chosen)),
        packed.maps(packed.texts(rows.column("trait")), records, starts),
    )


def _consent_records(writes: pa.Table, keys: pa.Array) -> StateRows:
    said = last_statements(writes)
    chosen = writes.take(pa.array(said.rows)).combine_chunks()
    starts = np.searchsorted(said.known_statement, np.arange(len(said.sets) + 1))
    records = packed.record(
        packed.integers(chosen.column("timestamp").to_numpy()),
        packed.binaries(chosen.column("position")),
        packed.texts(chosen.column("source_id")),
        packed.texts(chosen.column("message_id")),
        packed.maps(
            packed.texts(said.categories.take(pa.array(said.known_category))),
            packed.booleans(said.allowed),
            starts,
        ),
    )
    return Db.CONSENT, keys.take(pa.array(said.sets)), records


def _refusal_records(sets: pa.Table, keys: pa.Array) -> StateRows:
    chosen, refused, _, starts = _refused(sets)
    records = packed.record(
        packed.binaries(refused.field("ident_id")),
        packed.texts(refused.field("type")),
        packed.binaries(refused.field("against").cast(pa.binary()).fill_null(b"")),
        packed.texts(refused.field("cause")),
        packed.texts(refused.field("limit_type").fill_null("")),
    )
    return Db.REFUSALS, keys.take(pa.array(chosen)), packed.lists(records, starts)


def _membership_records(links: pa.Table, leavings: tuple[bytes, ...]) -> StateRows:
    """Return `fold_spells.memberships` of the pairs of this part, by both ids."""
    spells = links.take(pa.array(first_of_spells(links, leavings))).combine_chunks()
    people, accounts = ids_of(spells, "set_id"), ids_of(spells, "account_set_id")
    # Spells of one pair stand together, in order: a stable order by pair keeps that.
    order = key_order(people, accounts)
    spells, pairs = spells.take(pa.array(order)).combine_chunks(), np.hstack([people, accounts])[order]
    begins = np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))[: len(pairs)]
    starts = np.append(np.flatnonzero(begins), len(pairs))
    records = packed.record(
        packed.binaries(spells.column("position")),
        packed.texts(spells.column("message_id")),
        packed.texts(spells.column("source_id")),
    )
    return Db.ACCOUNTS_OF, _pair_keys(pairs[begins]), packed.record(packed.lists(records, starts))


def _pair_keys(pairs: siphash.Words) -> pa.Array:
    """Return rows of words as keys of all their bytes."""
    width = pairs.shape[1] * 8
    buffer = pa.py_buffer(np.ascontiguousarray(pairs))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(pairs), [None, buffer])


def _sighting_records(windows: pa.Table) -> StateRows:
    number = windows.column("window").to_numpy().astype(np.uint64).byteswap()
    keys = np.column_stack([ids_of(windows, "set_id"), number])
    order = np.lexsort([keys[:, place].byteswap() for place in (2, 1, 0)])
    rows = windows.take(pa.array(order)).combine_chunks()
    records = packed.record(
        packed.binaries(rows.column("position")),
        packed.texts(rows.column("message_id")),
        packed.texts(rows.column("source_id")),
    )
    return Db.SIGHTING, _pair_keys(keys[order]), records


def _runs(values: Rows) -> tuple[Rows, Rows]:
    """Return the distinct ones of ascending values, and where each begins."""
    distinct, starts = np.unique(values, return_index=True)
    return distinct, np.append(starts, len(values)).astype(np.int64)
