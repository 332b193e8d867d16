"""What a query is handed: open files of the snapshots it reads, or copies without personal columns.

Planning happens here, outside the jail: which tables there are, which files hold them now. A worker
gets descriptors and views over them; names of files never reach it.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from profilelake.errors import Unavailable
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake, namespace_of
from profilelake.lake.files import is_remote
from profilelake.lake.local_copies import LocalCopies
from profilelake.lake.tables import Part
from profilelake.query.failures import Failed, failed
from profilelake.query.gate import Checked, TableNamed
from profilelake.query.worker import FILES_AT, FILES_MAX, View

ATTEMPTS_MAX: Final = 3
"""Times that tables are planned again because files went away before they were open."""
COPY_MEMORY: Final = "512MB"
COPY_SPILL: Final = "4GB"
"""What a copy may put on disk beside itself while it is made."""

_PARTS: Final[tuple[Part, ...]] = ("", "sync", "linked")


@dataclass(slots=True)
class HandedOver:
    """Views for a worker, and the descriptors they read."""

    views: list[View] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def opened(self, path: Path | str) -> str:
        """Open a file for the worker and return the name it has there.

        Raises:
            Failed: these are more files than a worker takes.
        """
        self.check_room()
        return self.took(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def check_room(self) -> None:
        """See whether the worker takes one more. Raises Failed."""
        if len(self.files) >= FILES_MAX:
            raise _too_many()

    def took(self, descriptor: int) -> str:
        """Hand on a file that is open; return the name it has for the worker."""
        self.files.append(descriptor)
        return f"/proc/self/fd/{FILES_AT + len(self.files) - 1}"

    def close(self) -> None:
        """Close the descriptors; the worker has its own by then, or is not wanted."""
        for file in self.files:
            os.close(file)
        self.files.clear()
        self.views.clear()


def _too_many() -> Failed:
    return failed("too_complex", f"the query reads more than {FILES_MAX:,} files; name fewer tables at once")


class Interruption:
    """Ends what `Inputs.hand_over` does in another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._connection: duckdb.DuckDBPyConnection | None = None

    def interrupt(self) -> None:
        """End it soon. Call again until it has: between two steps of a copy an interrupt is lost."""
        with self._lock:
            self._asked = True
            if self._connection is not None:
                self._connection.interrupt()

    @contextmanager
    def of(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Let what a connection does be interrupted. Raises Failed where it was."""
        self.check()
        with self._lock:
            self._connection = connection
        try:
            yield
        except duckdb.InterruptException:
            raise failed("cancelled", "the query was cancelled") from None
        finally:
            with self._lock:
                self._connection = None

    def check(self) -> None:
        """Go on only if nobody has asked to end it. Raises Failed."""
        if self._asked:
            raise failed("cancelled", "the query was cancelled")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables of one workspace, for queries. `spool` is a private folder on a disk with room.

    `copies` are needed where the lake does not lie on this machine: a worker reads open files, no network.
    """

    lake: Lake
    workspace: str
    spool: Path
    copies: LocalCopies | None = None

    def hand_over(
        self, query: str, checked: Checked, *, masked: bool, interruption: Interruption | None = None
    ) -> HandedOver:
        """Return what a query may read; close it once the worker has it.

        With `masked`, personal columns are null and their values are in no file the worker can open.

        Raises:
            Failed: the query names a table that does not exist, or reads too many files; or it was interrupted.
            Unavailable: tables change faster than they could be opened.
            Corrupt: a table cannot be read.
        """
        interruption = interruption or Interruption()
        views = dict.fromkeys(self._found(query, table) for table in checked.tables)
        tables = dict.fromkeys((part, name) for _, part, name in views)
        for _ in range(ATTEMPTS_MAX):
            interruption.check()
            handed = HandedOver()
            try:
                selects = {
                    table: self._select(handed, *table, interruption, masked=masked) for table in tables
                }
                handed.views.extend(View(schema, name, selects[part, name]) for schema, part, name in views)
                if checked.all_tables:
                    handed.views.extend(self._names({(view.schema, view.name) for view in handed.views}))
            except (FileNotFoundError, duckdb.IOException):
                # Merged and expired between the plan and the opening; the next plan names other files.
                handed.close()
            except duckdb.Error as error:
                handed.close()
                fault = sql.storage_fault(error)
                if fault is None:
                    raise
                if not isinstance(fault, FileNotFoundError):
                    raise fault from error
            except BaseException:
                handed.close()
                raise
            else:
                return handed
        raise Unavailable("reading the tables: they change faster than they can be opened; try again")

    def _found(self, query: str, table: TableNamed) -> tuple[str, Part, str]:
        """Return the schema as which the query names a table, and which table it is, as they are spelt."""
        schema = table.schema.lower()
        for part in _PARTS:
            here = namespace_of(self.workspace, part)
            if schema in ({"", "main", here.lower()} if part == "" else {here.lower()}):
                for name in self.lake.names(self.workspace, part):
                    if name.lower() == table.name.lower():
                        return "" if schema in ("", "main") else here, part, name
        shown = f"{table.schema}.{table.name}" if table.schema else table.name
        raise failed(
            "table_not_found", f"there is no table {shown}; SHOW TABLES lists all", query, table.offset
        )

    def _select(
        self, handed: HandedOver, part: Part, name: str, interruption: Interruption, *, masked: bool
    ) -> str:
        columns = reading.columns(self.lake, self.workspace, name, part)
        if not (masked and any(column.personal for column in columns)):
            self._fetch(name, part, interruption)

            def place(location: str) -> str:
                if self.copies is None or not is_remote(location):
                    return handed.opened(sql.local_place(location))
                handed.check_room()
                return handed.took(self.copies.open(location))

            return reading.select(self.lake, self.workspace, name, part, place)
        shown = [column for column in columns if not column.personal]
        path = self._copied(reading.select(self.lake, self.workspace, name, part), shown, interruption)
        try:
            source = f"read_parquet(['{handed.opened(path)}'])"
        finally:
            path.unlink()
        listed = ", ".join(
            (f"CAST(NULL AS {column.type}) AS " if column.personal else "") + sql.identifier(column.name)
            for column in columns
        )
        return f"SELECT {listed} FROM {source}"  # noqa: S608 - quoted

    def _fetch(self, name: str, part: Part, interruption: Interruption) -> None:
        """Have the files of a table on this machine, several at a time; what moves meanwhile comes singly."""
        if self.copies is None:
            return
        wanted: list[str] = []

        def noted(location: str) -> str:
            if is_remote(location):
                wanted.append(location)
            return location

        reading.select(self.lake, self.workspace, name, part, noted)
        if len(wanted) > FILES_MAX:
            raise _too_many()
        if wanted:
            self.copies.fetch(wanted, interruption.check)

    def _copied(self, select: str, columns: Sequence[reading.ColumnRead], interruption: Interruption) -> Path:
        """Write some columns of a table into a file of the spool and return its path."""
        path = self.spool / f"{secrets.token_hex(16)}.parquet"
        listed = sql.columns(column.name for column in columns) or "NULL AS nothing"
        try:
            with (
                sql.connect(COPY_MEMORY, str(self.spool), self.lake.storage) as connection,
                interruption.of(connection),
            ):
                connection.execute(f"SET max_temp_directory_size={sql.text(COPY_SPILL)}")
                connection.execute("SET preserve_insertion_order=false")
                connection.execute(
                    f"COPY (SELECT {listed} FROM ({select})) TO {sql.text(str(path))} "  # noqa: S608 - quoted
                    "(FORMAT parquet, COMPRESSION lz4_raw)"
                )
        except BaseException as error:
            with suppress(FileNotFoundError):
                path.unlink()
            if isinstance(error, duckdb.OutOfMemoryException):
                raise failed(
                    "memory_limit", "copying a table without its personal columns: no room"
                ) from None
            raise
        return path

    def _names(self, known: set[tuple[str, str]]) -> Iterator[View]:
        """Yield a view without rows for each table that the query does not name, for it to be listed."""
        for part in _PARTS:
            schema = namespace_of(self.workspace, part) if part else ""
            for name in self.lake.names(self.workspace, part):
                if (schema, name) not in known:
                    columns = reading.columns(self.lake, self.workspace, name, part)
                    typed = ", ".join(
                        f"CAST(NULL AS {column.type}) AS {sql.identifier(column.name)}" for column in columns
                    )
                    yield View(schema, name, f"SELECT {typed} WHERE false")
