"""What was announced of definitions, from the journal alone: as values, as online state, as current tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from profilelake.audiences import definitions_now, facts, life
from profilelake.audiences.announcing import timer_position
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.life import Moment
from profilelake.audiences.loading import AUDIENCES, counts
from profilelake.audiences.plan import (
    AUDIENCES__ANNOUNCED,
    AUDIENCES__FACTS,
    AUDIENCES__KEEP_TOLD,
    AUDIENCES__TOLD_BY_KEY,
    AUDIENCES__TOLD_BY_PROFILE,
)
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
"""Records that one transaction puts, and values that are in memory together."""


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


class Told:
    """What the journal comes to, as `announced` has it, in a table of a connection that spills to its disk.

    So values are never all in memory, however many were announced.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Take what the attached tables say."""
        self.facts = decided(connection)
        self._connection = connection
        zero = sorted(_counting(self.facts))
        connection.register(
            "counting",
            pa.table(
                {
                    "definition": pa.array([key for key, _ in zero], pa.string()),
                    "version": pa.array([version for _, version in zero], pa.int64()),
                }
            ),
        )
        connection.execute(AUDIENCES__KEEP_TOLD)
        connection.unregister("counting")

    def parts(self, table: str) -> Iterator[pa.Table]:
        """Yield the rows of `audience_members` or `computed_traits` by their key, some at a time."""
        members = sorted(key for key, kind in kinds_of(self.facts).items() if kind in AUDIENCES)
        schema = {one.name: one.schema() for one in (AUDIENCE_MEMBERS, COMPUTED_TRAITS)}[table]
        wanted = {"members": members, "inside": table == AUDIENCE_MEMBERS.name}
        for rows in self._rows(AUDIENCES__TOLD_BY_KEY, wanted):
            yield _table(rows, schema)

    def by_profile(self) -> Iterator[Announced]:
        """Yield all values, those of a profile one after the other."""
        for rows in self._rows(AUDIENCES__TOLD_BY_PROFILE, {}):
            yield from rows

    def _rows(self, query: str, wanted: Mapping[str, object]) -> Iterator[list[Announced]]:
        # Of a connection a result is good until the next question: another cursor is another connection.
        found = self._connection.cursor().execute(query, wanted)
        while rows := found.fetchmany(_ROWS):
            yield list(map(Announced._make, rows))


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
    state: State, workspace: str, decided: Sequence[tuple[bytes, bytes]], rows: Iterable[Announced], now: int
) -> None:
    """Let a state that was made again go on from what was announced: only what differs is told.

    `rows` of a profile come one after the other. All steps wait for a backfill. The state must not be in use yet.
    """
    if not decided:
        return
    kinds = kinds_of(decided)
    numbers: dict[str, int] = {}
    with state.write() as tx:
        tx.put_many(workspace, Db.DEFINITION_FACT, decided)
        for key in kinds:
            numbers[key] = life.fresh_definition_number(tx, workspace)
    members = dict.fromkeys(kinds, 0)
    some: list[tuple[bytes, bytes]] = []
    for profile, told in groupby(rows, key=attrgetter("profile_id")):
        parsed = parse_public_id(profile)
        known = [row for row in told if row.definition in numbers]
        if parsed is None or not known:
            continue
        values = {numbers[row.definition]: ValueRecord(row.value, row.since, row.version) for row in known}
        for row in known:
            members[row.definition] += 1
        some.append((parsed[1], encode(ComputedRecord(0, values))))
        if len(some) == _ROWS:
            _put(state, workspace, some)
            some = []
    _put(state, workspace, some)
    with state.write() as tx:
        _begin(tx, workspace, numbers, kinds, members, now)


def _put(state: State, workspace: str, items: Sequence[tuple[bytes, bytes]]) -> None:
    with state.write() as tx:
        tx.put_many(workspace, Db.COMPUTED, items)


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
