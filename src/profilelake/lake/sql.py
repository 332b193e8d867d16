"""Planned files as SQL: the one place where file names and column names become query text.

DuckDB reads the files of exactly one snapshot. Columns are found by Iceberg's field ids, so a file
written before a column existed reads as null there, and no file has to be opened to plan a query.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import ManifestEntry
from pyiceberg.schema import Schema
from pyiceberg.types import LongType

from profilelake.errors import Invalid, Unavailable
from profilelake.lake.files import is_remote, local_path
from profilelake.lake.schema import sql_type
from profilelake.lake.storage import Storage

_RAISED_AS: Final[dict[str, type[Exception]]] = {
    "Unavailable": Unavailable,
    "Invalid": Invalid,
    "FileNotFoundError": FileNotFoundError,
    "OSError": OSError,
}
_RAISED: Final = re.compile(
    rf"^(?:profilelake\.errors\.)?(?P<kind>{'|'.join(_RAISED_AS)}): (?P<said>.+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A data file of a snapshot. `sequence` orders commits; `partition` is the day or bucket, if any."""

    location: str
    rows: int
    bytes: int
    partition: int | None
    sequence: int
    entry: ManifestEntry

    @classmethod
    def of(cls, entry: ManifestEntry) -> "LiveFile":
        """Describe a live manifest entry."""
        data_file = entry.data_file
        return cls(
            location=data_file.file_path,
            rows=data_file.record_count,
            bytes=data_file.file_size_in_bytes,
            partition=data_file.partition[0] if len(data_file.partition) else None,
            sequence=entry.sequence_number or 0,
            entry=entry,
        )

    def upper_bound(self, field_id: int) -> int | None:
        """Return the greatest value of a 64-bit integer column; None when it was not recorded."""
        bound = (self.entry.data_file.upper_bounds or {}).get(field_id)
        return None if bound is None else int(from_bytes(LongType(), bound))

    def lower_bound(self, field_id: int) -> int | None:
        """Return the least value of a 64-bit integer column; None when it was not recorded."""
        bound = (self.entry.data_file.lower_bounds or {}).get(field_id)
        return None if bound is None else int(from_bytes(LongType(), bound))


def identifier(name: str) -> str:
    """Quote a name for use in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Quote a text for use in SQL."""
    return "'" + value.replace("'", "''") + "'"


def columns(names: Iterable[str], of: str | None = None) -> str:
    """Return a column list, each name taken from table `of` if one is given."""
    prefix = f"{of}." if of else ""
    return ", ".join(prefix + identifier(n) for n in names)


def local_place(location: str) -> str:
    """Return where a file lies, for who may open it by name: a path here, or the location of an object."""
    return location if is_remote(location) else str(local_path(location))


def select_files(schema: Schema, files: Sequence[LiveFile], place: Callable[[str], str] = local_place) -> str:
    """Return a SELECT of all columns over the files; of no rows, with types, when there are none.

    `place` gives the name by which a file is opened.
    """
    return select_locations(schema, [f.location for f in files], place)


def select_locations(
    schema: Schema, locations: Sequence[str], place: Callable[[str], str] = local_place
) -> str:
    """Return what `select_files` does for files that no snapshot names yet."""
    if not locations:
        empty = (f"CAST(NULL AS {sql_type(f.field_type)}) AS {identifier(f.name)}" for f in schema.fields)
        return f"SELECT {', '.join(empty)} WHERE false"
    by_id = ", ".join(
        f"{f.field_id}: {{name: {text(f.name)}, type: {text(sql_type(f.field_type))}, default_value: NULL}}"
        for f in schema.fields
    )
    paths = ", ".join(text(place(location)) for location in locations)
    names = columns(f.name for f in schema.fields)
    return f"SELECT {names} FROM read_parquet([{paths}], schema=MAP {{{by_id}}}, hive_partitioning=false)"  # noqa: S608


def select_by_name(
    schema: Schema, files: Sequence[LiveFile], names: Sequence[str], place: Callable[[str], str] = local_place
) -> str:
    """Return a SELECT of some columns over the files, for joins with few rows of a large table.

    Columns are found by name, so only such will do as were never added or renamed. In return a join skips
    what it has no partner for while the file is read, which is five times cheaper than by field id.
    """
    if not files:
        return f"SELECT {columns(names)} FROM ({select_locations(schema, [])})"  # noqa: S608
    paths = ", ".join(text(place(file.location)) for file in files)
    return (
        f"SELECT {columns(names)} FROM read_parquet([{paths}], union_by_name=true, hive_partitioning=false)"  # noqa: S608
    )


def select_newest(changes: str, key: str, merged_through: int) -> str:
    """Return a SELECT of the last change of each key above `merged_through` from a SELECT of changes."""
    return (
        f"SELECT * FROM ({changes}) WHERE seq > {merged_through:d} "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY {identifier(key)} ORDER BY seq DESC) = 1"
    )


def select_current(base: str, newest: str, key: str, names: Sequence[str]) -> str:
    """Return a SELECT of the current rows: the last change of each key, and base rows without one.

    An anti-join costs about twice a plain read; taking the newest over base and log together
    costs four times.
    """
    return (
        f"WITH newest AS ({newest}) "  # noqa: S608
        f"SELECT {columns(names)} FROM newest WHERE op = 'upsert' "
        f"UNION ALL SELECT {columns(names, 'base')} FROM ({base}) AS base "
        f"ANTI JOIN newest ON base.{identifier(key)} = newest.{identifier(key)}"
    )


def select_upserts(newest: str, names: Sequence[str]) -> str:
    """Return a SELECT of the rows that the last change of each key left: that part of `select_current`."""
    return f"SELECT {columns(names)} FROM ({newest}) WHERE op = 'upsert'"  # noqa: S608


def select_unchanged(base: str, changes: str, key: str, merged_through: int) -> str:
    """Return a SELECT of the base rows that no change replaces: the other part of `select_current`."""
    return (
        f"SELECT base.* FROM ({base}) AS base "  # noqa: S608
        f"ANTI JOIN (SELECT {identifier(key)} FROM ({changes}) WHERE seq > {merged_through:d}) AS newer "
        f"ON base.{identifier(key)} = newer.{identifier(key)}"
    )


def storage_fault(error: duckdb.Error) -> Exception | None:
    """Return what a storage raised inside a query; None where the query itself failed.

    DuckDB makes one kind of error of whatever a filesystem of ours raises, and keeps only its text.
    """
    if type(error) is not duckdb.Error:
        return None
    found = _RAISED.search(str(error))
    return None if found is None else _RAISED_AS[found["kind"]](found["said"])


def connect(
    memory_limit: str, temp_directory: str, storage: Storage | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB for our own plans: bounded memory, spill in one place, times in UTC.

    It reads files of `storage`; those of this machine always.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": memory_limit,
            "temp_directory": temp_directory,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
    )
    connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
    if storage is not None:
        storage.attach(connection)
    return connection
