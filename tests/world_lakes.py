"""Writes random worlds (`condition_worlds`) into the tables of a small lake, as the pipeline would have."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from condition_worlds import Person, World, events_table, set_id
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import FOLDER
from profilelake.identity.tables import SET_MAP
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.plans import definitions
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.identifiers import public_id
from profilelake.traits.steps import Plan

WORKSPACE: Final = "default"


def open_lake(directory: Path) -> Lake:
    """Return a new lake."""
    return Lake.open(f"sqlite:///{directory / 'catalog.sqlite'}", directory / "lake")


def profile_id(person: Person) -> str:
    """Return the id of a person of the world."""
    return public_id("users", set_id(person.sets[0]))


def write(lake: Lake, world: World, cuts: Sequence[int] = ()) -> None:
    """Write what happened, in as many commits as `cuts` make of it, and who is who."""
    ends = sorted({*cuts, len(world.calls)})
    table = lake.table(WORKSPACE, EVENTS)
    for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
        table.append(events_table(world.calls[start:stop]), Progress("0", number), always=True)
    of_sets: list[dict[str, Any]] = []
    of_people: list[dict[str, Any]] = []
    for person in world.people:
        mine = profile_id(person)
        of_sets += [{"set_id": set_id(one), "profile_id": mine} for one in person.sets]
        identifiers = {type: ["x"] for type in sorted(person.identifier_types)}
        of_people.append(
            {
                "profile_id": mine,
                "identifiers": json.dumps(identifiers),
                "traits": json.dumps(
                    {key: value for key, value in person.traits.items() if value is not None}
                ),
                "slot": int.from_bytes(set_id(person.sets[0])[:2], "big"),
            }
        )
    replace(lake, SET_MAP, of_sets)
    replace(lake, PROFILES, of_people)


def computed(lake: Lake, plan: Plan, at: int, engine: Engine | None = None) -> Mapping[str, pa.Table]:
    """Return what definitions are worth over the whole lake, by key; on this machine where no engine is given."""
    storage = lake.storage
    with tempfile.TemporaryDirectory() as scratch:
        asked = definitions.Asked(plan, at)
        job, found = definitions.compute(engine or EmbeddedEngine(Path(scratch)), lake, WORKSPACE, asked)
        values = found.values()
        job.finish()
        assert not list(storage.list(f"{storage.root}/{FOLDER}"))
        assert not list(Path(scratch).iterdir())
    return values


def replace(lake: Lake, definition: TableDef, rows: Sequence[dict[str, Any]]) -> None:
    """Make rows the whole of a current table; columns they leave out have some value."""
    schema = definition.schema()
    usual: dict[pa.DataType, object] = {pa.int32(): 0, pa.int64(): 0, pa.string(): ""}
    full = [
        {
            field.name: {
                "collection": "users",
                **{f.name: usual.get(f.type, 0) for f in schema if not f.nullable},
                **row,
            }.get(field.name)
            for field in schema
        }
        | {"collection": "users"}
        for row in rows
    ]
    lake.current_table(WORKSPACE, definition).replace(
        pa.Table.from_pylist(full, schema=schema), Progress("0", 1)
    )
