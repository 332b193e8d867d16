"""The tables of a workspace as DuckDB views, for any process, while another one commits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import duckdb
from pyiceberg.exceptions import ValidationError

from profilelake.errors import Corrupt, Invalid, Unavailable
from profilelake.lake import sql
from profilelake.lake.catalog import Lake, PublishedTable, namespace_of
from profilelake.lake.commit import DELETE_FILES
from profilelake.lake.current import Generation
from profilelake.lake.schema import (
    BUCKET_WIDTH,
    KEY,
    KIND,
    SLOT,
    SLOTS,
    personal_columns,
    sql_type,
)
from profilelake.lake.sql import LiveFile
from profilelake.lake.tables import Part

PLAN_ATTEMPTS_MAX: Final = 5
PIECE_BYTES: Final = 64 << 20
"""Parquet bytes of a current table that one task reads."""
_BESIDE: Final[tuple[Part, ...]] = ("sync", "linked")
"""Namespaces beside that of the workspace itself."""


@dataclass(frozen=True, slots=True)
class ColumnRead:
    """A column of a table: its name, its type in SQL, and whether it can hold personal data."""

    name: str
    type: str
    personal: bool


class Loads(Protocol):
    """Gives tables for reading: the lake as it is now, or tables of one moment (`moment.Moment`)."""

    def load(self, workspace: str, name: str, part: Part = "") -> PublishedTable:
        """Return a table. Raises as `Lake.load`."""


@contextmanager
def damage_told() -> Iterator[None]:
    """Read tables inside, no files that a user named: what cannot be read then is damage.

    Raises:
        Corrupt: a file of a table is missing or not what it should be.
        Unavailable: where the files lie there is no answer.
    """
    try:
        yield
    except (duckdb.IOException, duckdb.InvalidInputException, FileNotFoundError) as error:
        if DELETE_FILES in str(error):
            raise Invalid(str(error).removeprefix("Invalid Input Error: ")) from error
        raise Corrupt(f"reading the tables: {error}; restore the file from backup") from error
    except duckdb.Error as error:
        fault = sql.storage_fault(error)
        if fault is None:
            raise
        if isinstance(fault, OSError):
            raise Corrupt(f"reading the tables: {fault}; restore the file from backup") from error
        raise fault from error


def attach(connection: duckdb.DuckDBPyConnection, lake: Lake, workspace: str) -> list[str]:
    """Create a view for each table of a workspace and return the names.

    A table has its bare name, one of Profiles Sync the name `ws_W_sync.<table>`, a linked one
    `ws_W_linked.<table>`.

    A view shows the snapshot that was the newest when it was made, whole, for as long as its files
    exist (`maintenance.SNAPSHOT_AGE_MIN_MS` at least); attach again to see newer ones. A current
    table shows base and log together; the log alone is `<name>_changes`.

    Raises:
        Invalid: a table of ours has delete files of another engine; a linked one says so when it is asked for.
        Unavailable: the tables changed faster than they could be read.
        Corrupt: the metadata of a table cannot be read.
    """
    # A bar of progress would go to stdout, among the rows of commands.
    connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
    lake.storage.attach(connection)
    names = lake.names(workspace)
    for name in names:
        _show(connection, sql.identifier(name), lake, workspace, name)
    for part in _BESIDE:
        schema = namespace_of(workspace, part)
        others = lake.names(workspace, part)
        if others:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.identifier(schema)}")
        for name in others:
            view = f"{sql.identifier(schema)}.{sql.identifier(name)}"
            _show(connection, view, lake, workspace, name, part)
        names = [*names, *(f"{schema}.{name}" for name in others)]
    return names


def _show(
    connection: duckdb.DuckDBPyConnection, view: str, lake: Lake, workspace: str, name: str, part: Part = ""
) -> None:
    try:
        rows = select(lake, workspace, name, part)
    except Invalid as error:
        if part != "linked":
            raise
        # Its owner's engine made it unreadable to us: that is told to whoever asks for it, and for no other.
        rows = f"SELECT error({sql.text(str(error))}) AS unreadable"
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS {rows}")


def select(
    lake: Lake,
    workspace: str,
    name: str,
    part: Part = "",
    place: Callable[[str], str] = sql.local_place,
) -> str:
    """Return the SELECT of a table's rows as the catalog has them now, as `attach` shows them.

    `place` gives the name by which each file is opened, from its location in the table.

    Raises: as `attach`, and NotFound where there is no such table.
    """
    try:
        return _select(lake, workspace, name, part, place)
    except (ValueError, ValidationError) as error:
        # What the library says of metadata and manifests that are not what they should be.
        raise Corrupt(f"reading the tables: {name}: {error}; restore the file from backup") from error


@dataclass(frozen=True, slots=True)
class Pieces:
    """A current table as it was at one moment, as SELECTs that can be run apart; together they have each row once."""

    snapshot: str
    """Names what was read: tables of another name may have other rows."""
    selects: tuple[str, ...]


def pieces(
    lake: Loads,
    workspace: str,
    name: str,
    place: Callable[[str], str] = sql.local_place,
    piece_bytes: int = PIECE_BYTES,
) -> Pieces:
    """Return a current table of the workspace in ranges of slots, each of about so many bytes.

    Raises: as `select`.
    """
    base, log, generation = _current(lake, workspace, name, "", lake.load(workspace, name))
    slot = sql.identifier(base.table.properties[SLOT])
    sizes = dict.fromkeys(range(0, SLOTS, BUCKET_WIDTH), 0)
    for file in base.files:
        sizes[file.partition or 0] += file.bytes
    bounds, held = [0], 0
    for bucket, size in sizes.items():
        held += size
        count = min(BUCKET_WIDTH, held // piece_bytes)
        # Small buckets are read together, a large one in several pieces.
        bounds += [bucket + BUCKET_WIDTH * number // count for number in range(1, count + 1)]
        held = 0 if count else held
    selects = [
        _select_current(
            base,
            log,
            generation,
            place,
            [f for f in base.files if start - BUCKET_WIDTH < (f.partition or 0) < stop],
            f"{slot} >= {start:d} AND {slot} < {stop:d}",
        )
        for start, stop in pairwise([*bounds, *([SLOTS] if bounds[-1] < SLOTS else [])])
    ]
    return Pieces(f"{base.table.metadata_location} {log.table.metadata_location}", tuple(selects))


def _select(lake: Lake, workspace: str, name: str, part: Part, place: Callable[[str], str]) -> str:
    published = lake.load(workspace, name, part)
    if published.table.properties.get(KIND) != "current":
        return sql.select_files(published.table.schema(), published.files, place)
    base, log, generation = _current(lake, workspace, name, part, published)
    return _select_current(base, log, generation, place, base.files)


def _current(
    lake: Loads, workspace: str, name: str, part: Part, published: PublishedTable
) -> tuple[PublishedTable, PublishedTable, Generation]:
    """Return base and log of a current table that belong together."""
    for _ in range(PLAN_ATTEMPTS_MAX):
        # The base first: changes the log has lost since are in a later base, never in neither.
        generation = Generation.of_base(published.table.properties)
        log = lake.load(workspace, f"{name}_changes", part)
        if Generation.cut(log.table.properties) <= generation:
            return published, log, generation
        published = lake.load(workspace, name, part)
    raise Unavailable(f"reading {name} of workspace {workspace}: it is merged faster than read; retry later")


def _select_current(
    base: PublishedTable,
    log: PublishedTable,
    generation: Generation,
    place: Callable[[str], str],
    files: Sequence[LiveFile],
    within: str = "",
) -> str:
    schema, key = base.table.schema(), base.table.properties[KEY]
    below = _within(sql.select_files(schema, files, place), within)
    pending = [f for f in log.files if f.sequence > generation.files_through]
    if not pending:
        return below
    changes = _within(sql.select_files(log.table.schema(), pending, place), within)
    newest = sql.select_newest(changes, key, generation.through)
    return sql.select_current(below, newest, key, [f.name for f in schema.fields])


def _within(select: str, within: str) -> str:
    return f"SELECT * FROM ({select}) WHERE {within}" if within else select  # noqa: S608 - made here


def columns(lake: Lake, workspace: str, name: str, part: Part = "") -> list[ColumnRead]:
    """Return the columns of a table as queries see them. Raises NotFound where there is no such table.

    What a linked table holds nobody has said, so all of it counts as personal.
    """
    table = lake.load(workspace, name, part).table
    personal = personal_columns(table)
    return [
        ColumnRead(field.name, sql_type(field.field_type), part == "linked" or field.name in personal)
        for field in table.schema().fields
    ]
