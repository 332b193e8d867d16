"""What was announced of definitions, from the journal alone: as values, as online state, as current tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from profilelake.audiences import definitions_now, facts, life
from profilelake.audiences.announcing import timer_position
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.life import Moment
from profilelake.audiences.loading import AUDIENCES, counts
from profilelake.audiences.plan import AUDIENCES__ANNOUNCED, AUDIENCES__FACTS
from profilelake.audiences.tables import AUDIENCE_MEMBERS, COMPUTED_TRAITS
from profilelake.errors import Invalid
from profilelake.pipeline.progress import load_applied
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.definitions import Definition
from profilelake.semantics.identifiers import parse_public_id
from profilelake.state.computed import ComputedRecord, DefinitionRecord, ValueRecord
from profilelake.state.records import encode
from profilelake.state.store import Db, State, Tx

_ROWS: Final = 50_000
"""Records that one transaction puts."""


class Announced(NamedTuple):
    """What a definition is worth for a profile, as it was announced last."""

    definition: str
    profile_id: str
    collection: str
    version: int
    value: str
    since: int


def decided(connection: duckdb.DuckDBPyConnection) -> list[tuple[bytes, bytes]]:
    """Return every decision about definitions with its position, as it stood in the log, in order."""
    return [(position, body) for position, body in connection.sql(AUDIENCES__FACTS).fetchall()]


def announced(
    connection: duckdb.DuckDBPyConnection, decided: Iterable[tuple[bytes, bytes]]
) -> list[Announced]:
    """Return what the journal comes to: the last change of each value, as far as that is a value."""
    zero = _counting(decided)
    found = map(Announced._make, connection.sql(AUDIENCES__ANNOUNCED).fetchall())
    return [one for one in found if one.value != "0" or (one.definition, one.version) not in zero]


def tables(rows: Sequence[Announced], kinds: Mapping[str, str]) -> dict[str, pa.Table]:
    """Return the current tables of what was announced; `kinds` are those of definitions, by key."""
    members = [row for row in rows if kinds.get(row.definition) in AUDIENCES]
    traits = [row for row in rows if kinds.get(row.definition) not in AUDIENCES]
    return {
        AUDIENCE_MEMBERS.name: _table(members, AUDIENCE_MEMBERS.schema()),
        COMPUTED_TRAITS.name: _table(traits, COMPUTED_TRAITS.schema()),
    }


def kinds_of(decided: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the kind of every definition that ever was, by key."""
    return {one.key: one.kind for _, one in _versions(decided)}


def take_up_definitions(
    state: State, workspace: str, decided: Sequence[tuple[bytes, bytes]], rows: Sequence[Announced], now: int
) -> None:
    """Let a state that was made again go on from what was announced: only what differs is told.

    All steps wait for a backfill. The state must not be in use yet.
    """
    if not decided:
        return
    kinds = kinds_of(decided)
    numbers: dict[str, int] = {}
    with state.write() as tx:
        tx.put_many(workspace, Db.DEFINITION_FACT, decided)
        for key in kinds:
            numbers[key] = life.fresh_definition_number(tx, workspace)
    values: dict[bytes, ComputedRecord] = {}
    members = dict.fromkeys(kinds, 0)
    for row in rows:
        parsed = parse_public_id(row.profile_id)
        if parsed is None or row.definition not in numbers:
            continue
        record = values.setdefault(parsed[1], ComputedRecord(0, {}))
        record.values[numbers[row.definition]] = ValueRecord(row.value, row.since, row.version)
        members[row.definition] += 1
    keys = sorted(values)
    for start in range(0, len(keys), _ROWS):
        with state.write() as tx:
            part = keys[start : start + _ROWS]
            tx.put_many(workspace, Db.COMPUTED, [(key, encode(values[key])) for key in part])
    with state.write() as tx:
        _begin(tx, workspace, numbers, kinds, members, now)


def _begin(
    tx: Tx,
    workspace: str,
    numbers: Mapping[str, int],
    kinds: Mapping[str, str],
    members: Mapping[str, int],
    now: int,
) -> None:
    """Have every definition computed anew, and what is over withdrawn."""
    definitions_now.put_records(
        tx,
        workspace,
        {
            key: DefinitionRecord(number, key, "", members=members[key], kind=kinds[key])
            for key, number in numbers.items()
        },
    )
    known, applied = Known.of(definitions_now.held(tx, workspace)), load_applied(tx, workspace, "")
    place = timer_position(now, b"")
    life.settle(tx, workspace, None, known, place, Moment(applied.sequence, applied.position))
    definitions_now.put_records(
        tx,
        workspace,
        {
            key: msgspec.structs.replace(record, cause=life.REBUILD, caused_by=place)
            for key, record in definitions_now.records(tx, workspace).items()
        },
    )


def _versions(decided: Iterable[tuple[bytes, bytes]]) -> list[tuple[int, Definition]]:
    """Return every version of every definition, as `semantics.definitions.standing` counts them."""
    latest: dict[str, Definition] = {}
    numbers: dict[str, int] = {}
    found: list[tuple[int, Definition]] = []
    for _, body in decided:
        try:
            fact = facts.decode(body)
        except Invalid:
            continue
        if isinstance(fact, facts.Drop):
            latest.pop(fact.key, None)
        elif isinstance(fact, facts.Define) and latest.get(fact.definition.key) != fact.definition:
            key = fact.definition.key
            latest[key] = fact.definition
            numbers[key] = numbers.get(key, 0) + 1
            found.append((numbers[key], fact.definition))
    return found


def _counting(decided: Iterable[tuple[bytes, bytes]]) -> set[tuple[str, int]]:
    """Return the versions of definitions that count: their 0 is announced, and no value."""
    found: set[tuple[str, int]] = set()
    for version, definition in _versions(decided):
        if definition.kind != "trait":
            continue
        try:
            if counts(parse(definition.query)):
                found.add((definition.key, version))
        except Invalid:
            continue
    return found


def _table(rows: Sequence[Announced], schema: pa.Schema) -> pa.Table:
    parsed = [parse_public_id(row.profile_id) for row in rows]
    columns: Mapping[str, list[object]] = {
        "value_id": [f"{row.definition}/{row.profile_id}" for row in rows],
        "computed_at": [row.since for row in rows],
        "entered_at": [row.since for row in rows],
        "slot": [int.from_bytes(one[1][:2], "big") if one else 0 for one in parsed],
        **{
            name: [getattr(row, name) for row in rows]
            for name in ("definition", "profile_id", "collection", "version", "value")
        },
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
