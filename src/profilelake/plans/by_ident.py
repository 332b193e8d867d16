"""Step 7 of a rebuild: what was decided of identifiers.

Makes the tables of identifiers and of whose they are, their online state with the sets that hold them, the
ways back from accounts to people, and for each profile rows of its identifiers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut
from profilelake.engines.kept import keep, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.handover import TableFiles
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import in_order, one, received_at
from profilelake.pipeline.fold_profiles import slots
from profilelake.plans.rows import ID, OWNED, VALUES
from profilelake.plans.values import valued
from profilelake.plans.written import (
    FilesByPart,
    Kept,
    Made,
    StateRows,
    collection_codes,
    ids_of,
    keep_state,
    key_order,
    profile_names,
    rows_of_part,
    write_part,
)
from profilelake.state import packed
from profilelake.state.store import Db

HOLDING: Final = pa.schema([("ident_id", ID), ("set_id", ID)])
"""An identifier, and a set that holds it."""

MEMBERS: Final = pa.schema([("account_set_id", ID), ("set_id", ID)])
"""An account's set and a person's set that were seen together."""

INPUTS: Final = {"owned": OWNED, "holding": HOLDING, "members": MEMBERS}

PROFILE_IDENTS: Final = pa.schema(
    [("profile", ID), ("ident_id", ID), ("type", pa.string()), ("value", pa.string())]
)
"""The identifiers of a profile."""


@dataclass(frozen=True)
class CutIdents:
    """Cuts identifiers, sets by each of their identifiers, and links by the account's set."""

    storage: Storage
    parts: int

    def __call__(self, unit: Kept) -> Iterator[Cut]:
        """Yield the rows of one file."""
        if unit.input == "owned":
            for rows in read_kept(self.storage, unit.file, OWNED.names):
                yield Cut("owned", rows, parts_by_id(rows.column("ident_id"), self.parts))
        elif unit.input == "holding":
            for rows in read_kept(self.storage, unit.file, ["set_id", "identifiers"]):
                lists = one(rows.column("identifiers"))
                holders = one(rows.column("set_id")).take(pc.list_parent_indices(lists))
                pairs = pa.table([lists.flatten().field("ident_id"), holders], schema=HOLDING)
                yield Cut("holding", pairs, parts_by_id(pairs.column("ident_id"), self.parts))
        else:
            for rows in read_kept(self.storage, unit.file, MEMBERS.names):
                yield Cut("members", rows, parts_by_id(rows.column("account_set_id"), self.parts))


@dataclass(frozen=True)
class GatherIdents:
    """Makes everything that goes by identifiers, of one part; `values` are the files kept of each part."""

    storage: Storage
    folder: str
    identifiers: TableFiles
    identity_map: TableFiles
    values: FilesByPart

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        """Return what was made, as `Made`."""
        known = _once(rows["owned"].combine_chunks())
        known = valued(known, rows_of_part(self.storage, self.values, part, VALUES)).combine_chunks()
        ids = ids_of(known, "ident_id")
        owned = known.filter(known.column("profile").is_valid())
        state: tuple[StateRows, ...] = (
            (Db.IDENT, siphash.to_arrow(ids), _records(known)),
            _links(rows["holding"]),
            _members(rows["members"]),
        )
        return msgspec.msgpack.encode(
            Made(
                tables={
                    IDENTIFIERS.name: write_part(self.identifiers, _identifiers(known, ids)),
                    IDENTITY_MAP.name: write_part(self.identity_map, _identity_map(owned)),
                },
                state=keep_state(self.storage, f"{self.folder}/state", part, state),
                kept={
                    "owned": keep(
                        self.storage,
                        f"{self.folder}/owned",
                        owned.select(PROFILE_IDENTS.names).cast(PROFILE_IDENTS),
                        part,
                    )
                },
                rows=len(ids),
            )
        )


def _once(owned: pa.Table) -> pa.Table:
    """Return each identifier once, in the order of ids: the row of the least position, and the owner of any."""
    ids = ids_of(owned, "ident_id")
    numbers, first = dense_numbers(ids)
    if len(first) < len(ids):
        by_position = in_order(owned.column("position"))[::-1]
        least = np.empty(len(first), dtype=np.int64)
        # Backwards, so that of several values for one place the least stays.
        least[numbers[by_position]] = by_position
        mine = np.flatnonzero(owned.column("profile").is_valid().to_numpy())
        owner = least.copy()
        owner[numbers[mine]] = mine
        rows = owned.take(pa.array(least))
        for name in ("profile", "linked_at"):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, owned.schema.field(name), owned.column(name).take(pa.array(owner)))
        owned, ids = rows, ids[least]
    return owned.take(pa.array(key_order(ids))).combine_chunks()


def _identifiers(known: pa.Table, ids: siphash.Words) -> pa.Table:
    schema = IDENTIFIERS.schema()
    return pa.table(
        [
            known.column("ident_id"),
            known.column("collection"),
            known.column("type"),
            known.column("value"),
            known.column("source_id"),
            known.column("message_id"),
            pa.array(received_at(known.column("position"))).cast(schema.field("created_at").type),
            known.column("position"),
            slots(ids),
        ],
        schema=schema,
    )


def _identity_map(owned: pa.Table) -> pa.Table:
    return pa.table(
        [
            owned.column("ident_id"),
            owned.column("collection"),
            profile_names(owned, "profile"),
            slots(ids_of(owned, "ident_id")),
        ],
        schema=IDENTITY_MAP.schema(),
    )


def _records(known: pa.Table) -> packed.Packed:
    return packed.record(
        packed.integers(collection_codes(known)),
        *(packed.texts(known.column(name)) for name in ("type", "value", "source_id", "message_id")),
        packed.integers(received_at(known.column("position"))),
        packed.binaries(known.column("position")),
        packed.binaries(one(known.column("profile")).cast(pa.binary()).fill_null(b"")),
        packed.integers(known.column("linked_at").to_numpy()),
    )


def _links(holding: pa.Table) -> StateRows:
    idents, sets = ids_of(holding, "ident_id"), ids_of(holding, "set_id")
    order = key_order(idents, sets)
    idents, sets = idents[order], sets[order]
    new = _changes(idents, sets)
    values = siphash.to_arrow(sets[new]).cast(pa.binary()).cast(pa.large_binary())
    return Db.LINKS, siphash.to_arrow(idents[new]), values


def _members(pairs: pa.Table) -> StateRows:
    accounts, people = ids_of(pairs, "account_set_id"), ids_of(pairs, "set_id")
    order = key_order(accounts, people)
    accounts, people = accounts[order], people[order]
    new = _changes(accounts, people)
    keys = np.ascontiguousarray(np.hstack([accounts, people])[new])
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(2 * siphash.HASH_BYTES), len(keys), [None, pa.py_buffer(keys)]
    )
    return Db.MEMBERS, column, pa.repeat(pa.scalar(b"", pa.large_binary()), len(keys))


def _changes(first: siphash.Words, second: siphash.Words) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return where sorted pairs differ from the one before."""
    pairs = np.hstack([first, second])
    return np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))[: len(pairs)]
