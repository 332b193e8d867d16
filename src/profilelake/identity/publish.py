"""Rows of the published identity tables, from the records of the online state."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from profilelake.identity.rows import shown
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP, SET_SIGHTINGS
from profilelake.kernels.base62 import ID_BYTES, base62
from profilelake.lake.schema import changes_definition
from profilelake.lake.tables import TableDef
from profilelake.semantics.identifiers import PREFIX
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.heads import decode_set_head
from profilelake.state.records import collection_name, decode_refusals
from profilelake.state.store import Db, Tx

UPSERT: Final = "upsert"
DELETE: Final = "delete"
SIGHTING_COLUMNS: Final = ("key", "position", "message_id", "source_id")
Column: TypeAlias = Sequence[Any] | pa.Array
_PREFIXES: Final = np.array([list(PREFIX[collection].encode()) for collection in COLLECTIONS], dtype=np.uint8)
_DAY_MICROSECONDS: Final = 86_400_000_000


def slots_of(keys: Sequence[bytes]) -> pa.Array:
    """Return the first 16 bits of ids: the slots their rows lie in."""
    return pa.array(np.frombuffer(b"".join(keys), dtype=">u2").reshape(-1, 8)[:, 0].astype(np.int32))


def collections_of(numbers: Sequence[int]) -> pa.Array:
    """Return the collections that records' numbers stand for."""
    return pa.array(COLLECTIONS, pa.string()).take(pa.array(numbers, pa.int8()))


def public_ids(collections: Sequence[int], profiles: Sequence[bytes]) -> pa.Array:
    """Return the ids users see of profiles in those collections, null for `NOBODY`: `public_id`, but many."""
    known = np.fromiter(map(bool, profiles), dtype=bool, count=len(profiles))
    ids = np.frombuffer(b"".join(profiles), dtype=np.uint8).reshape(-1, ID_BYTES)
    text = np.hstack([_PREFIXES[np.array(collections, dtype=np.int64)[known]], base62(ids)])
    ends = np.concatenate([[0], known.cumsum() * text.shape[1]]).astype(np.int32)
    valid = np.packbits(known, bitorder="little")
    return pa.StringArray.from_buffers(
        len(known), pa.py_buffer(ends), pa.py_buffer(text.tobytes()), pa.py_buffer(valid)
    )


def set_map_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return where these sets lead now."""
    records = tx.decoded(workspace, Db.SET, keys, decode_set_head)
    found, sets = list(records), records.values()
    collections = [record.collection for record in sets]
    return change_rows(
        SET_MAP,
        sequence,
        [
            found,
            collections_of(collections),
            [record.anchor or None for record in sets],
            public_ids(collections, [record.profile for record in sets]),
            public_ids(collections, [record.first_profile for record in sets]),
            slots_of(found),
        ],
    )


def identifier_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return these identifiers as they were first seen."""
    records = tx.idents(workspace, keys)
    found, idents = list(records), records.values()
    return change_rows(
        IDENTIFIERS,
        sequence,
        [
            found,
            collections_of([record.collection for record in idents]),
            [record.type for record in idents],
            [record.value for record in idents],
            [record.source_id for record in idents],
            [record.message_id for record in idents],
            [record.created_at for record in idents],
            [record.position for record in idents],
            slots_of(found),
        ],
    )


def identity_map_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return who owns these identifiers now; one that nobody owns has its row deleted."""
    records = tx.idents(workspace, keys)
    owned = [(key, record.collection, record.profile) for key, record in records.items() if record.profile]
    orphans = [(key, record.collection) for key, record in records.items() if not record.profile]
    found, collections, profiles = _columns(owned, 3)
    lost, of_lost = _columns(orphans, 2)
    of_owned = [found, collections_of(collections), public_ids(collections, profiles), slots_of(found)]
    # A deleted row shows its key only; `profile_id` is required, so it names no profile.
    nobody = [PREFIX[collection_name(number)] for number in of_lost]
    of_orphans = [lost, collections_of(of_lost), nobody, slots_of(lost)]
    return pa.concat_tables(
        [
            change_rows(IDENTITY_MAP, sequence, of_owned),
            change_rows(IDENTITY_MAP, sequence, of_orphans, op=DELETE),
        ]
    )


def refusal_changes(
    tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int, rule_version: int
) -> pa.Table:
    """Return the refusals of these sets; a set with none any more has its row deleted."""
    records = tx.decoded(workspace, Db.SET, keys, decode_set_head)
    stored = tx.get_many(workspace, Db.REFUSALS, keys)
    standing = [key for key in keys if key in stored]
    gone = [key for key in keys if key not in stored]

    def rows(of: list[bytes], refused: list[list[dict[str, Any]] | None]) -> list[Column]:
        collections = collections_of([records[key].collection for key in of])
        return [of, collections, refused, [rule_version] * len(of), slots_of(of)]

    listed: list[list[dict[str, Any]] | None] = []
    for key in standing:
        collection = collection_name(records[key].collection)
        listed.append(
            [
                {
                    "ident_id": refusal.ident,
                    "type": refusal.type,
                    "against_profile_id": shown(collection, refusal.against_profile),
                    "cause": refusal.cause,
                    "limit_type": refusal.limit_type or None,
                }
                for refusal in decode_refusals(stored[key])
            ]
        )
    return pa.concat_tables(
        [
            change_rows(IDENTITY_REFUSALS, sequence, rows(standing, listed)),
            change_rows(IDENTITY_REFUSALS, sequence, rows(gone, [None] * len(gone)), op=DELETE),
        ]
    )


def change_rows(definition: TableDef, sequence: int, columns: Sequence[Column], op: str = UPSERT) -> pa.Table:
    """Return the columns of a current table as changes of its log."""
    schema = changes_definition(definition).schema()
    rows = len(columns[0])
    marks: list[Column] = [pa.repeat(pa.scalar(sequence, pa.int64()), rows), pa.repeat(op, rows)]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip([*marks, *columns], schema, strict=True)
    ]
    return pa.table(arrays, schema=schema)


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def sightings(rows: pa.Table) -> pa.Table:
    """Count recent events (columns of `SIGHTING_COLUMNS`) per set and UTC day of receipt.

    Rows without a set are left out. Any split of the same events gives rows with the same sums.
    """
    schema = SET_SIGHTINGS.schema()
    keys = _fixed(rows.column("key"), 16)
    positions = _fixed(rows.column("position"), POSITION_BYTES)
    kept = keys.any(axis=1)
    names = rows.select(["message_id", "source_id"]).filter(pa.array(kept))
    keys, positions = keys[kept], positions[kept]
    if not len(keys):
        return schema.empty_table()
    times = np.ascontiguousarray(positions[:, :8]).view(">i8").reshape(-1).astype(np.int64)
    days = times // _DAY_MICROSECONDS
    words = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
    place = np.ascontiguousarray(positions).view(">u8").reshape(-1, 4)
    order = np.lexsort((place[:, 3], place[:, 2], place[:, 1], place[:, 0], words[:, 1], words[:, 0]))
    words, days = words[order], days[order]
    head = np.ones(len(order), dtype=bool)
    head[1:] = (words[1:] != words[:-1]).any(axis=1) | (days[1:] != days[:-1])
    heads = np.flatnonzero(head)
    tails = np.append(heads[1:], len(order)) - 1
    first, last = order[heads], order[tails]
    return pa.table(
        [
            _binary(keys[first]),
            pa.array(days[heads].astype(np.int32)).cast(pa.date32()),
            _binary(positions[first]),
            _binary(positions[last]),
            *names.take(pa.array(first)).columns,
            *names.take(pa.array(last)).columns,
            pa.array(tails - heads + 1, pa.int64()),
            pa.array(times[first]).cast(schema.field("first_received_at").type),
            pa.array(times[last]).cast(schema.field("last_received_at").type),
        ],
        schema=schema,
    )


def _fixed(column: pa.ChunkedArray, width: int) -> Any:
    """Return a column of fixed-size bytes without nulls as a matrix of bytes."""
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8).reshape(-1, width)[
            chunk.offset : chunk.offset + len(chunk)
        ]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.uint8)


def _binary(rows: Any) -> pa.Array:
    data = np.ascontiguousarray(rows)
    return pa.Array.from_buffers(pa.binary(data.shape[1]), len(data), [None, pa.py_buffer(data.tobytes())])
