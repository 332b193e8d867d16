"""Lakes of random size for the plans that tend them, and what their tables hold, row by row."""

from pathlib import Path
from typing import Any

import duckdb

from lake_examples import MEMBERS, VISITS, changes, upto, visits
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.lake.catalog import Lake
from profilelake.lake.current import CurrentTable
from profilelake.lake.reading import attach
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef
from profilelake.pipeline.register import TABLES


def engine_in(folder: Path, tasks: int = 2) -> EmbeddedEngine:
    """Return an engine that works below a folder."""
    return EmbeddedEngine(folder / "engine", tasks)


def filled(lake: Lake, commits: int, rows: int) -> tuple[LakeTable, CurrentTable]:
    """Fill one table of each kind in many small commits."""
    held, people = lake.table("w", VISITS), lake.current_table("w", MEMBERS)
    for number in range(1, commits + 1):
        held.append(visits(number * rows, rows, step=3_600_000_000), upto(number))
        made = [
            (number, f"m{at}", None if (number + at) % 5 == 0 else number)
            for at in range(number % 3, rows, 1 + number % 3)
        ]
        people.append_changes(changes(people.log.definition.schema(), made), upto(number))
        if number % 4 == 0:
            people.merge()
    return held, people


def digests(lake: Lake, workspace: str = WORKSPACE) -> dict[str, tuple[int, int]]:
    """Return, for every table as readers see it, how many rows it has and the sum of their hashes."""
    with duckdb.connect() as connection:
        names = attach(connection, lake, workspace)
        return {name: _digest(connection, name) for name in names}


def _digest(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[int, int]:
    view = ".".join(f'"{part}"' for part in name.split("."))
    query = f"SELECT count(*), coalesce(sum(hash(t)::HUGEINT), 0) FROM {view} AS t"  # noqa: S608
    count, total = connection.sql(query).fetchall()[0]
    return int(count), int(total)


def rows_of(lake: Lake, name: str, workspace: str = WORKSPACE) -> list[dict[str, Any]]:
    """Return the rows of a table as readers see it."""
    with duckdb.connect() as connection:
        attach(connection, lake, workspace)
        return connection.table(name).to_arrow_table().to_pylist()


def parts(lake: Lake, definition: TableDef, workspace: str = WORKSPACE) -> list[LakeTable]:
    """Return the tables on disk behind a table."""
    if definition.kind != "current":
        return [lake.table(workspace, definition)]
    table = lake.current_table(workspace, definition)
    return [table.base, table.log]


def every_part(lake: Lake) -> list[LakeTable]:
    """Return all tables on disk of the pipeline's workspace."""
    return [part for definition in TABLES for part in parts(lake, definition)]


def shop(folder: Path, people: int = 3, calls: int = 4) -> Desk:
    """Return a desk with a small shop in it, published in several commits and merged."""
    desk, log = Desk(folder), LogBuilder("00000000000000aa")
    for number in range(calls):
        messages = [
            {
                "type": ("identify", "track", "group")[(number + person) % 3],
                "messageId": f"message-{number}-{person}",
                "userId": f"user-{person}",
                "anonymousId": f"device-{person}-{number % 2}",
                "groupId": f"group-{person % 2}",
                "event": "Bought",
                "traits": {"email": f"user-{person}@example.org", "calls": number},
                "context": {"consent": {"categoryPreferences": {"Ads": number % 2 == 0}}},
            }
            for person in range(people)
        ]
        desk.apply([log.record(START + number * 40_000_000_000, messages)])
        if number % 2:
            desk.publish()
    desk.tend()
    return desk
