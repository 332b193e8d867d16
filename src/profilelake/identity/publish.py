"""Rows of the published identity tables, from the records of the online state."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from profilelake.identity.resolve import rows_table, shown
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP, SET_SIGHTINGS
from profilelake.lake.schema import changes_definition
from profilelake.lake.tables import TableDef
from profilelake.semantics.identifiers import PREFIX
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.state.records import NOBODY, collection_name, decode_refusals
from profilelake.state.store import Db, Tx

UPSERT: Final = "upsert"
DELETE: Final = "delete"
SIGHTING_COLUMNS: Final = ("key", "position", "message_id", "source_id")
_DAY_MICROSECONDS: Final = 86_400_000_000


def slot_of(key: bytes) -> int:
    """Return the first 16 bits of an id: the slot its rows lie in."""
    return int.from_bytes(key[:2], "big")


def set_map_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return where these sets lead now."""
    rows = []
    for key, record in tx.sets(workspace, keys).items():
        collection = collection_name(record.collection)
        rows.append(
            (
                key,
                collection,
                record.anchor or None,
                shown(collection, record.profile),
                shown(collection, record.first_profile),
                slot_of(key),
            )
        )
    return change_rows(SET_MAP, sequence, rows)


def identifier_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return these identifiers as they were first seen."""
    rows = [
        (
            key,
            collection_name(record.collection),
            record.type,
            record.value,
            record.source_id,
            record.message_id,
            record.created_at,
            record.position,
            slot_of(key),
        )
        for key, record in tx.idents(workspace, keys).items()
    ]
    return change_rows(IDENTIFIERS, sequence, rows)


def identity_map_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return who owns these identifiers now; one that nobody owns has its row deleted."""
    owned, orphans = [], []
    for key, record in tx.idents(workspace, keys).items():
        collection = collection_name(record.collection)
        if record.profile == NOBODY:
            # A deleted row shows its key only; `profile_id` is required, so it names no profile.
            orphans.append((key, collection, PREFIX[collection], slot_of(key)))
        else:
            owned.append((key, collection, shown(collection, record.profile), slot_of(key)))
    return pa.concat_tables(
        [
            change_rows(IDENTITY_MAP, sequence, owned),
            change_rows(IDENTITY_MAP, sequence, orphans, op=DELETE),
        ]
    )


def refusal_changes(
    tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int, rule_version: int
) -> pa.Table:
    """Return the refusals of these sets; a set with none any more has its row deleted."""
    records = tx.sets(workspace, keys)
    stored = tx.get_many(workspace, Db.REFUSALS, keys)
    standing, gone = [], []
    for key in keys:
        collection = collection_name(records[key].collection)
        if key not in stored:
            gone.append((key, collection, None, rule_version, slot_of(key)))
            continue
        refused = [
            {
                "ident_id": refusal.ident,
                "type": refusal.type,
                "against_profile_id": shown(collection, refusal.against_profile),
                "cause": refusal.cause,
                "limit_type": refusal.limit_type or None,
            }
            for refusal in decode_refusals(stored[key])
        ]
        standing.append((key, collection, refused, rule_version, slot_of(key)))
    return pa.concat_tables(
        [
            change_rows(IDENTITY_REFUSALS, sequence, standing),
            change_rows(IDENTITY_REFUSALS, sequence, gone, op=DELETE),
        ]
    )


def change_rows(
    definition: TableDef, sequence: int, rows: Iterable[tuple[Any, ...]], op: str = UPSERT
) -> pa.Table:
    """Return rows of a current table as changes of its log."""
    schema = changes_definition(definition).schema()
    return rows_table(schema, [(sequence, op, *row) for row in rows])


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
