"""A DuckDB database file with the tables of a workspace and their shapes, for tools that open such files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from profilelake.errors import Conflict, Invalid, Unavailable
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.views.attach import JOURNALS, create, create_schemas
from profilelake.views.discover import Known
from profilelake.views.places import Places, Schema, View

MAGIC: Final = b"DUCK"
HEAD_BYTES: Final = 12
"""What a DuckDB file begins with: a checksum, then four letters."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a database file has now. `sequence` is the publication that its newest events are of."""

    path: Path
    places: Places
    views: int
    sequence: int


def write_database(lake: Lake, workspace: str, path: Path, places: Places) -> Written:
    """Have a DuckDB file show the newest snapshots; what else is in the file stays as it is.

    Either all of its views are of now afterwards or none. The file holds no rows: it reads those of the
    lake, as long as the snapshots exist, so it is to be written again from time to time.

    Raises:
        Invalid: the file is no DuckDB database.
        Conflict: there is something else where a view is to be.
        Unavailable: another program has the file open.
    """
    progress = lake.load(workspace, "events").progress
    _check_database(path)
    try:
        connection = duckdb.connect(str(path))
    except (duckdb.IOException, duckdb.CatalogException, duckdb.SerializationException) as error:
        if "lock" in str(error).lower():
            raise Unavailable(
                f"writing {path}: another program has it open ({error}); close it there"
            ) from error
        raise Invalid(
            f"writing {path}: no DuckDB database can be there: {error}; name another file"
        ) from error
    with connection:
        connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
        lake.storage.attach(connection)
        connection.execute("BEGIN")
        try:
            made = _write(connection, lake, workspace, places)
        except duckdb.CatalogException as error:
            raise Conflict(
                f"writing {path}: {error}; give the views a schema of their own, or name another file"
            ) from error
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT")
    return Written(path, places, made, -1 if progress is None else progress.sequence)


def _check_database(path: Path) -> None:
    """Refuse a file of another kind: DuckDB itself would begin a small one anew."""
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not head.endswith(MAGIC):
        raise Invalid(f"writing {path}: that file is no DuckDB database; name another file")


def _write(connection: duckdb.DuckDBPyConnection, lake: Lake, workspace: str, places: Places) -> int:
    create_schemas(connection, places)
    names = lake.names(workspace)
    tables = [View("tables", name, reading.select(lake, workspace, name)) for name in names]
    tables += [
        View("sync", name, reading.select(lake, workspace, name, "sync"))
        for name in lake.names(workspace, "sync")
        if name in JOURNALS
    ]
    for view in tables:
        view.create(connection, places)
    known = Known(connection, places.schema("tables"), schema="schema" in names)
    made = tables + create(connection, places, known, frozenset(view.name for view in tables))
    for view in made:
        view.mark(connection, places)
    _drop_others(connection, places, made)
    return len(made)


def _drop_others(connection: duckdb.DuckDBPyConnection, places: Places, made: list[View]) -> None:
    """Drop views that an earlier writing made, of which there is nothing any more."""
    kept = {(view.place, view.name) for view in made}
    schemas: dict[str, Schema] = {
        places.tables: "tables",
        places.sync: "sync",
        places.warehouse: "warehouse",
    }
    found = connection.execute(
        "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal AND comment = ?", [View.MARK]
    ).fetchall()
    for schema, name in found:
        if schema in schemas and (schemas[schema], name) not in kept:
            connection.execute(f"DROP VIEW {sql.identifier(schema)}.{sql.identifier(name)}")
