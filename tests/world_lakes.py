"""Writes random worlds (`condition_worlds`) into the tables of a small lake, as the pipeline would have."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from condition_worlds import Account, Person, World, events_table, position, set_id
from profilelake.audiences.queried import NOTHING
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import FOLDER
from profilelake.identity.facts import Leave, encode
from profilelake.identity.tables import IDENTITY_FACTS, IDENTITY_MAP, SET_MAP
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.plans import definitions
from profilelake.plans.definitions import NO_RESULTS
from profilelake.profiles.tables import ACCOUNT_LINKS, PROFILES
from profilelake.traits.steps import Plan
from world_ids import account_id as account_id
from world_ids import account_sets
from world_ids import profile_id as profile_id
from world_rows import idents, results

WORKSPACE: Final = "default"
_AT: Final = 1_770_000_000_000_000


def open_lake(directory: Path) -> Lake:
    """Return a new lake."""
    return Lake.open(f"sqlite:///{directory / 'catalog.sqlite'}", directory / "lake")


def write(lake: Lake, world: World, cuts: Sequence[int] = ()) -> None:
    """Write what happened, in as many commits as `cuts` make of it, and who is who."""
    ends = sorted({*cuts, len(world.calls)})
    table = lake.table(WORKSPACE, EVENTS)
    for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
        table.append(events_table(world.calls[start:stop]), Progress("0", number), always=True)
    of_sets: list[dict[str, Any]] = []
    of_profiles: list[dict[str, Any]] = []
    of_idents: list[dict[str, Any]] = []
    for person in world.people:
        mine = profile_id(person)
        of_sets += [{"set_id": set_id(one), "profile_id": mine} for one in person.sets]
        of_profiles.append(_profile(mine, person, set_id(person.sets[0])))
        of_idents.append({"ident_id": set_id(person.sets[0]), "profile_id": mine})
    for number, account in enumerate(world.accounts):
        mine, sets = account_id(number), account_sets(number)
        of_sets += [{"set_id": one, "profile_id": mine, "collection": "accounts"} for one in sets]
        of_profiles.append(_profile(mine, account, sets[0]))
        of_idents.append({"ident_id": sets[0], "profile_id": mine, "collection": "accounts"})
    of_idents += [
        {"ident_id": ident, "profile_id": owner, "collection": collection}
        for ident, owner, collection in idents(world)
    ]
    replace(lake, SET_MAP, of_sets)
    replace(lake, PROFILES, of_profiles)
    replace(lake, IDENTITY_MAP, of_idents)
    write_members(lake, world)


def write_members(lake: Lake, world: World) -> None:
    """Write who belongs to accounts: some never left, some came back, and all others were there and left.

    One call of those who left is there twice, as its first copy came from before that.
    """
    links: list[dict[str, Any]] = []
    left: list[tuple[bytes, Leave]] = []

    def seen(person: Person, number: int, at: int, message: str) -> None:
        links.append(
            {
                # Copies of a call are of the same sets.
                "set_id": set_id(person.sets[len(message) % len(person.sets)]),
                "account_set_id": account_sets(number)[len(message) % 2],
                "position": position(at),
                "message_id": message,
            }
        )

    def leaves(person: Person, number: int, at: int, *, gone: bool = True) -> None:
        user, account = set_id(person.sets[0]).hex(), account_sets(number)[0].hex()
        left.append((position(at), Leave(by="test", user=user, account=account, left=gone)))

    for number, account in enumerate(world.accounts):
        for who, person in enumerate(world.people):
            seen(person, number, 1, "first")
            if who not in account.users:
                seen(person, number, 2, "again")
                leaves(person, number, 4)
                seen(person, number, 6, "again")
                seen(person, number, 3, "by another device")
            elif who % 3 == 1:
                leaves(person, number, 4)
                seen(person, number, 5, "back")
            elif who % 3 == 2:
                leaves(person, number, 4)
                leaves(person, number, 5, gone=False)
    facts = [
        {"position": at, "decision": "leave", "by": "test", "fact": encode(fact).decode()}
        for at, fact in left
    ]
    for definition, rows in ((ACCOUNT_LINKS, links), (IDENTITY_FACTS, facts)):
        half = len(rows) // 2
        for commit, part in enumerate((rows[:half], rows[half:]), 1):
            lake.table(WORKSPACE, definition).append(
                full(definition, part), Progress("0", commit), always=True
            )


def _profile(id: str, of: Person | Account, founded_by: bytes) -> dict[str, Any]:
    types = of.identifier_types if isinstance(of, Person) else ("group_id",)
    return {
        "profile_id": id,
        "collection": "users" if isinstance(of, Person) else "accounts",
        "identifiers": json.dumps({type: ["x"] for type in sorted(types)}),
        "traits": json.dumps({key: value for key, value in of.traits.items() if value is not None}),
        "slot": int.from_bytes(founded_by[:2], "big"),
    }


def computed(
    lake: Lake, plan: Plan, at: int, engine: Engine | None = None, rows_of: World | None = None
) -> Mapping[str, pa.Table]:
    """Return what definitions are worth over the whole lake, by key; on this machine where no engine is given.

    `rows_of` is the world whose people and accounts have rows of the entity.
    """
    storage = lake.storage
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as given:
        queried, found_rows = (NOTHING, NO_RESULTS) if rows_of is None else results(rows_of, Path(given))
        asked = definitions.Asked(plan, at, queried=queried)
        on = engine or EmbeddedEngine(Path(scratch))
        job, found = definitions.compute(on, lake, WORKSPACE, asked, results=found_rows)
        values = found.values()
        job.finish()
        assert not list(storage.list(f"{storage.root}/{FOLDER}"))
        assert not list(Path(scratch).iterdir())
    return values


def replace(lake: Lake, definition: TableDef, rows: Sequence[dict[str, Any]], sequence: int = 1) -> None:
    """Make rows the whole of a current table; columns they leave out have some value."""
    lake.current_table(WORKSPACE, definition).replace(full(definition, rows), Progress("0", sequence))


def full(definition: TableDef, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as a table; columns they leave out have some value."""
    schema = definition.schema()
    usual: dict[pa.DataType, object] = {
        pa.int32(): 0, pa.int64(): 0, pa.string(): "", pa.timestamp("us", tz="UTC"): _AT
    }  # fmt: skip
    base = {field.name: None if field.nullable else usual.get(field.type, 0) for field in schema}
    base |= {"collection": "users"} if "collection" in base else {}
    return pa.Table.from_pylist([{**base, **row} for row in rows], schema=schema)
