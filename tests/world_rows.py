"""Rows of the entity of random worlds as queries give them: results with columns of a type each, and an id in each row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from condition_worlds import ENTITY, Account, Person, World
from profilelake.audiences.queried import Queried
from profilelake.errors import ProfilelakeError
from profilelake.plans.preview import Ask
from profilelake.plans.queried import Result, Results
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Definition, Held, Json, Target
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import Collection, segment_defaults
from world_ids import KEY, account_id, account_sets, profile_id, set_id

RULES: Final = segment_defaults()
_COLUMNS: Final = pa.schema([("a", pa.string()), ("b", pa.float64())])


def of_columns(world: World) -> World:
    """Return the world with rows that a query can have given, in the order in which they are kept."""
    return replace(
        world,
        people=tuple(replace(person, rows=_kept(person.rows, user_ids(person))) for person in world.people),
        accounts=tuple(
            replace(account, rows=_kept(account.rows, group_ids(number)))
            for number, account in enumerate(world.accounts)
        ),
    )


def only_rows_of(world: World, target: Target) -> World:
    """Return the world without the rows of others."""
    if target == "users":
        return replace(world, accounts=tuple(replace(account, rows=()) for account in world.accounts))
    return replace(world, people=tuple(replace(person, rows=()) for person in world.people))


def results(world: World, folder: Path) -> tuple[Queried, Results]:
    """Return what the queries of the entity gave, of people and of accounts; ids that nobody has are among them."""
    by_id = len(world.calls) % 2 == 0
    made: list[tuple[Definition, Path]] = []
    tables: Mapping[Collection, list[dict[str, Any]]] = {
        "users": [row for person in world.people for row in _told(person, user_ids(person), profile_id(person), by_id=by_id)],
        "accounts": [
            row
            for number, account in enumerate(world.accounts)
            for row in _told(account, group_ids(number), account_id(number), by_id=by_id)
        ],
    }  # fmt: skip
    for target, rows in tables.items():
        id_type = "profile_id" if not by_id else "user_id" if target == "users" else "group_id"
        rows.append({"external_id": "nobody", "a": "x", "b": 1.0})
        path = folder / f"{target}.parquet"
        schema = pa.schema([("external_id", pa.string()), *_COLUMNS])
        pq.write_table(pa.Table.from_pylist(rows[::-1], schema=schema), path)
        made.append((Definition(ENTITY, "entity", "SELECT", target, id_type=id_type), path))
    read = tuple(Result.read(definition, path) for definition, path in made)
    return Queried(tuple(definition for definition, _ in made)), Results(read, KEY, RULES)


def entities(target: Target) -> dict[str, Held]:
    """Return the entity as it is defined, of people or of accounts."""
    return {ENTITY: Held(Definition(ENTITY, "entity", "SELECT", target), 1, bytes(32), bytes(32))}


def asking(world: World, folder: Path) -> Ask:
    """Return what runs the query of the entity for a preview."""

    def ask(
        definitions: Iterable[Definition], _stopped: Callable[[], bool]
    ) -> tuple[Results, Mapping[str, ProfilelakeError]]:
        _, found = results(world, folder)
        of = [
            replace(one, definition=definition)
            for definition in definitions
            for one in found.of
            if one.definition.target == definition.target
        ]
        return replace(found, of=tuple(of)), {}

    return ask


def idents(world: World) -> list[tuple[bytes, str, Collection]]:
    """Return the identifiers in rows, and whose they are."""
    people = [
        (Identifier("user_id", id), profile_id(person), "users")
        for person in world.people
        for id in user_ids(person)
    ]
    accounts = [
        (Identifier("group_id", id), account_id(number), "accounts")
        for number in range(len(world.accounts))
        for id in group_ids(number)
    ]
    told: list[tuple[Identifier, str, Collection]] = [*people, *accounts]  # type: ignore[list-item]  # one of two words
    return [(ident_id(KEY, collection, ident), owner, collection) for ident, owner, collection in told]


def user_ids(person: Person) -> list[str]:
    """Return what the person of some sets is called."""
    return [f"user {set_id(one).hex()}" for one in person.sets]


def group_ids(number: int) -> list[str]:
    """Return what an account is called."""
    return [f"group {one.hex()}" for one in account_sets(number)]


def _told(of: Person | Account, ids: Sequence[str], profile: str, *, by_id: bool) -> list[dict[str, Any]]:
    return [
        {"external_id": ids[_place(row, len(ids))] if by_id else profile, **row} for row in map(dict, of.rows)
    ]


def _kept(rows: Sequence[Mapping[str, Json]], ids: Sequence[str]) -> tuple[Mapping[str, Json], ...]:
    typed = [
        {
            "a": None if row.get("a") is None else canonical(row["a"]),
            "b": float(row["b"])
            if isinstance(row.get("b"), int | float) and not isinstance(row["b"], bool)
            else None,
        }
        for row in rows
    ]
    return tuple(sorted(typed, key=lambda row: (ids[_place(row, len(ids))], msgspec.json.encode(row))))  # type: ignore[arg-type]


def _place(row: Mapping[str, Any], count: int) -> int:
    """Return which of the ids of its profile a row has: equal rows have one."""
    return len(str(row["a"])) % count
