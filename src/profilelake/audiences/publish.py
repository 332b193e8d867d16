"""Rows of the published tables of definitions and their values, from the online state."""

from collections.abc import Sequence
from typing import Final

import msgspec
import pyarrow as pa

from profilelake.audiences import definitions_now
from profilelake.audiences.loading import AUDIENCES
from profilelake.audiences.tables import AUDIENCE_MEMBERS, COMPUTED_TRAITS, DEFINITION_FACTS, TIME
from profilelake.identity.publish import DELETE, change_rows, collections_of, public_ids, slots_of
from profilelake.lake.tables import TableDef
from profilelake.state.computed import DefinitionRecord, decode_computed
from profilelake.state.heads import decode_set_head
from profilelake.state.records import received_at
from profilelake.state.store import Db, Tx

_ID: Final = 16


class _Told(msgspec.Struct):
    """What every decision says of itself, whatever it is."""

    decision: str = ""
    by: str = ""
    key: str = ""
    definition: "_Keyed | None" = None


class _Keyed(msgspec.Struct):
    key: str = ""


_told: Final = msgspec.json.Decoder(_Told)


def fact_rows(decided: Sequence[tuple[bytes, bytes]]) -> pa.Table:
    """Return decisions with their positions, as they stand in the log, as rows of `definition_facts`."""
    told = [_told.decode(body) for _, body in decided]
    columns = {
        "position": [position for position, _ in decided],
        "decided_at": pa.array([received_at(position) for position, _ in decided], pa.int64()).cast(TIME),
        "definition": [each.definition.key if each.definition else each.key for each in told],
        "decision": [each.decision for each in told],
        "body": [body.decode() for _, body in decided],
        "by": [each.by for each in told],
    }
    schema = DEFINITION_FACTS.schema()
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def trait_changes(tx: Tx, workspace: str, marks: Sequence[bytes], sequence: int) -> pa.Table:
    """Return what marked computed traits are worth now; one that is worth nothing has its row deleted."""
    return _changes(tx, workspace, COMPUTED_TRAITS, marks, sequence)


def member_changes(tx: Tx, workspace: str, marks: Sequence[bytes], sequence: int) -> pa.Table:
    """Return the marked memberships that there are; one that is over has its row deleted."""
    return _changes(tx, workspace, AUDIENCE_MEMBERS, marks, sequence)


def whole(tx: Tx, workspace: str, definition: TableDef) -> list[bytes]:
    """Return marks for every row a table of values has to have."""
    kinds = {r.number: r.kind in AUDIENCES for r in definitions_now.records(tx, workspace).values()}
    members = definition is AUDIENCE_MEMBERS
    return [
        profile + number.to_bytes(4, "big")
        for profile, value in tx.items(workspace, Db.COMPUTED)
        for number in decode_computed(value).values
        if kinds.get(number) is members
    ]


def _changes(tx: Tx, workspace: str, definition: TableDef, marks: Sequence[bytes], sequence: int) -> pa.Table:
    records: dict[int, DefinitionRecord] = {
        record.number: record for record in definitions_now.records(tx, workspace).values()
    }
    profiles = sorted({mark[:_ID] for mark in marks})
    held = tx.decoded(workspace, Db.COMPUTED, profiles, decode_computed)
    heads = tx.decoded(workspace, Db.SET, profiles, decode_set_head)
    places = [
        (mark[:_ID], number) for mark in marks if (number := int.from_bytes(mark[_ID:], "big")) in records
    ]
    standing = [
        (key, number, held[key].values[number])
        for key, number in places
        if key in held and number in held[key].values
    ]
    gone = [(key, number) for key, number in places if key not in held or number not in held[key].values]

    def named(keys: list[bytes], numbers: list[int]) -> tuple[list[str], list[str], pa.Array, pa.Array]:
        collections = [heads[key].collection if key in heads else 0 for key in keys]
        ids = public_ids(collections, keys)
        definitions = [records[number].key for number in numbers]
        values = [f"{one}/{profile}" for one, profile in zip(definitions, ids.to_pylist(), strict=True)]
        return values, definitions, ids, collections_of(collections)

    keys, numbers = [key for key, _, _ in standing], [number for _, number, _ in standing]
    values = [value for _, _, value in standing]
    texts: list[list[str | None]] = (
        [] if definition is AUDIENCE_MEMBERS else [[value.value for value in values]]
    )
    versions, since = [value.version for value in values], [value.since for value in values]
    there = change_rows(
        definition, sequence, [*named(keys, numbers), versions, *texts, since, slots_of(keys)]
    )
    keys, numbers = [key for key, _ in gone], [number for _, number in gone]
    nothing: list[str | None] = [None] * len(gone)
    # A deleted row shows its key only; the other required columns hold nothing.
    texts = [] if definition is AUDIENCE_MEMBERS else [nothing]
    over = change_rows(
        definition,
        sequence,
        [*named(keys, numbers), [0] * len(gone), *texts, [0] * len(gone), slots_of(keys)],
        op=DELETE,
    )
    return pa.concat_tables([there, over])
