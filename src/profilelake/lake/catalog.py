"""The catalog: which tables exist and which metadata file is the current one of each."""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from sqlalchemy import event, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, OperationalError

from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.lake import maintenance
from profilelake.lake.commit import live_entries, manifests_of
from profilelake.lake.current import CurrentTable
from profilelake.lake.files import DurableFileIO, remove_files
from profilelake.lake.maintenance import Swept
from profilelake.lake.progress import Progress
from profilelake.lake.schema import (
    KIND,
    changes_definition,
    grow,
    iceberg_schema,
    partition_spec,
    reshape,
    table_properties,
)
from profilelake.lake.sql import LiveFile
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import Part, TableDef
from profilelake.settings import Layout

CATALOG_NAME: Final = "profilelake"
"""Part of every row of the catalog: Spark, Trino and others must configure the catalog by this name."""

BUSY_TIMEOUT_SECONDS: Final = 10
"""How long a statement waits for another process that is writing to the catalog."""

_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PARTS: Final = ("_sync", "_warehouse", "_linked")
"""Ends of namespaces that hold more tables of a workspace; the name of no workspace ends so."""
_PATH_REFUSED: Final = re.compile(r"[*?\[\]{}#%\"\\\x00-\x1f]")

Clock = Callable[[], int]


class _HeldTableCatalog(SqlCatalog):
    """The SQL catalog, committing from the table the caller holds instead of a fresh load.

    The swap is one UPDATE that asks for the metadata location the caller's metadata came from.
    Metadata files never change, so if the location is still the same, so is everything planned
    from it; if it is not, nothing happens and the commit has failed. Saves reading and parsing the
    metadata, about a third of a small commit.
    """

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _configure_connection)
            self.engine.dispose()  # Connections opened before the listener was there.

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        staged = self._update_and_stage_table(table, table.name(), requirements, updates)
        if staged.metadata == table.metadata:
            return _response(table)
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        *namespace, name = table.name()
        statement = (
            update(IcebergTables)
            .where(
                IcebergTables.catalog_name == self.name,
                IcebergTables.table_namespace == ".".join(namespace),
                IcebergTables.table_name == name,
                IcebergTables.metadata_location == table.metadata_location,
            )
            .values(
                metadata_location=staged.metadata_location, previous_metadata_location=table.metadata_location
            )
        )
        with self.engine.begin() as connection:
            swapped = connection.execute(statement).rowcount
        if swapped != 1:
            remove_files([staged.metadata_location])
            raise CommitFailedException(
                f"table {'.'.join(table.name())} is no longer at {table.metadata_location}"
            )
        return _response(staged)


def _response(table: Table) -> CommitTableResponse:
    # Not the library's constructor: it would validate, and so copy, metadata we have just made.
    values: dict[str, Any] = {"metadata": table.metadata, "metadata_location": table.metadata_location}
    return CommitTableResponse.model_construct(None, **values)


def _configure_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    # WAL syncs at each commit only at FULL; a swap that a power cut undoes would be a lost commit.
    connection.execute("PRAGMA synchronous=FULL")


class PublishedTable:
    """One table as its newest metadata file had it; never changes."""

    def __init__(self, table: Table, before: "PublishedTable | None" = None) -> None:
        """Show `table`; what `before`, an earlier state of it, has read need not be read again."""
        self.table = table
        self.by_manifest: dict[str, tuple[LiveFile, ...]] = {} if before is None else before.by_manifest

    @cached_property
    def files(self) -> tuple[LiveFile, ...]:
        """The data files of the newest snapshot."""
        # A manifest never changes, and a commit adds one: reading all of them again for every look-up
        # after a commit would cost more than the look-up.
        known = self.by_manifest
        manifests = manifests_of(self.table, self.table.current_snapshot())
        self.by_manifest = {
            manifest.manifest_path: known[manifest.manifest_path]
            if manifest.manifest_path in known
            else tuple(LiveFile.of(entry) for entry in live_entries(self.table, [manifest]))
            for manifest in manifests
        }
        return tuple(file for files in self.by_manifest.values() for file in files)

    @cached_property
    def progress(self) -> Progress | None:
        """How far the table had come; None where nothing was ever committed."""
        bearer = maintenance.bearer(self.table.metadata)
        return None if bearer is None or bearer.summary is None else Progress.from_properties(bearer.summary)

    def unreachable(self, modified_before: int) -> list[Swept]:
        """Return the files in the table's folder that no live snapshot reaches, older than a second since 1970."""
        return [found for found in maintenance.unreachable(self.table) if found.modified_at < modified_before]


class Lake:
    """The tables of all workspaces under one catalog and one warehouse.

    Any number of processes may read; one process commits to a table. Catalogs other than SQL ones
    would be chosen here by their URL.
    """

    def __init__(self, catalog: SqlCatalog, warehouse: Path, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._tables: dict[tuple[str, str, str], LakeTable] = {}
        self._published: dict[tuple[str, str], PublishedTable] = {}
        self._opening = threading.Lock()
        self.warehouse = warehouse

    @classmethod
    def open(cls, catalog_uri: str, warehouse: Path, *, clock: Clock = time.time_ns) -> "Lake":
        """Open the catalog at `catalog_uri` (`sqlite:////abs/path.db`, `postgresql+psycopg://…`).

        A SQLite catalog is put into WAL mode, so that readers in other processes neither wait for
        the committer nor keep it waiting. Open it after forking, connections are not shared.
        `clock` gives nanoseconds since 1970.

        Raises:
            Invalid: no such kind of catalog, or a warehouse path that other readers would
                take for a pattern or an escape.
            Unavailable: the catalog does not answer.
            Corrupt: the catalog's file is not one.
            Conflict: the tables lie elsewhere: the directory was moved or copied.
        """
        path = Path(os.path.abspath(warehouse))  # noqa: PTH100 - a link stays a link in published paths
        if refused := _PATH_REFUSED.search(str(path)):
            raise Invalid(
                f"opening the lake: warehouse path {str(path)!r} contains {refused.group()!r}; choose another"
            )
        url = make_url(catalog_uri)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise Invalid(f"opening the lake: catalog {catalog_uri!r} is neither sqlite: nor postgresql:")
        path.mkdir(parents=True, exist_ok=True)
        try:
            if url.get_backend_name() == "sqlite":
                _prepare_sqlite(url.database)
            catalog = _open_catalog(catalog_uri, path)
        except (OperationalError, sqlite3.OperationalError) as error:
            raise Unavailable(
                f"opening the lake: catalog {url!r} does not answer: {error}; retry later"
            ) from error
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise Corrupt(
                f"opening the lake: catalog {url!r} cannot be read: {error}; restore it from backup"
            ) from error
        _check_place(catalog, path)
        return cls(catalog, path, clock)

    @classmethod
    def of(cls, layout: Layout, *, clock: Clock = time.time_ns) -> "Lake":
        """Open the lake of a data directory, wherever its settings say that it lies. Raises as `open`."""
        return cls.open(layout.catalog_uri, layout.warehouse, clock=clock)

    def close(self) -> None:
        """Give up the connections to the catalog."""
        self._catalog.close()

    def table(self, workspace: str, definition: TableDef) -> LakeTable:
        """Open an append-only table, made when missing, with columns its definition has gained.

        Raises:
            Invalid: the table in the lake differs from its definition in another way.
        """
        if definition.kind != "append":
            raise Invalid(
                f"opening table {definition.name}: it is of kind {definition.kind}; use current_table"
            )
        return self._open(workspace, definition, "append")

    def replaced_table(self, workspace: str, definition: TableDef) -> LakeTable:
        """Open a table whose rows are replaced as a whole, made when missing, with the columns it has now.

        What it holds has no value of its own, so columns go, and come anew where their type is another;
        until the rows are replaced such a column is null.
        """
        return self._open(workspace, definition, "replaced", shape=reshape)

    def current_table(self, workspace: str, definition: TableDef) -> CurrentTable:
        """Open a current-state table: its base and its log of changes, made when missing.

        Raises:
            Invalid: as for `table`, or the definition names no key.
        """
        if definition.kind != "current" or definition.key is None:
            raise Invalid(
                f"opening table {definition.name}: a current table is of kind current and has a key"
            )
        log = changes_definition(definition)
        return CurrentTable(
            definition, self._open(workspace, definition, "current"), self._open(workspace, log, "changes")
        )

    def opened(self, workspace: str) -> list[LakeTable]:
        """Return the tables of a workspace that this process has opened to commit to, in the order of that."""
        # A copy: another thread may be opening one.
        return [table for (of, _, _), table in list(self._tables.items()) if of == workspace]

    def put_linked(self, workspace: str, name: str, rows: pa.Table) -> None:
        """Let a linked table have exactly these rows, in one commit where it has their columns already.

        Linked tables belong to the owners of the workspace: nothing here tends, verifies or expires them.

        Raises:
            Invalid: no table can have that name, or columns of such types.
            Unavailable: somebody else commits to it, or the catalog does not answer.
        """
        if not _WORKSPACE.fullmatch(name):
            raise Invalid(f"linking table {name!r}: use letters, digits, _ and -, at most 64")
        namespace = namespace_of(workspace, "linked")
        try:
            self._catalog.create_namespace_if_not_exists(namespace)
            key = (namespace, name)
            if self._catalog.table_exists(key):
                table = self._catalog.load_table(key)
                if table.schema().as_arrow().names == rows.schema.names:
                    table.overwrite(rows)
                    return
                self._catalog.drop_table(key)
            self._catalog.create_table(key, rows.schema).append(rows)
        except (TypeError, ValueError) as error:
            raise Invalid(f"linking table {name}: {error}") from error
        except (CommitFailedException, OperationalError) as error:
            raise Unavailable(f"linking table {name}: {error}; try again") from error

    def names(self, workspace: str, part: Part = "") -> list[str]:
        """Return the names of the tables in one namespace of a workspace, sorted; logs of changes included."""
        namespace = namespace_of(workspace, part)
        if not self._catalog.namespace_exists(namespace):
            return []
        return sorted(identifier[-1] for identifier in self._catalog.list_tables(namespace))

    def load(self, workspace: str, name: str, part: Part = "") -> "PublishedTable":
        """Load a table as the catalog has it now, for reading.

        What was loaded before is returned again while the catalog still names its metadata file,
        so asking often is cheap.

        Raises:
            NotFound: there is no such table.
            Unavailable: the catalog does not answer.
        """
        key = (namespace_of(workspace, part), name)
        try:
            published = self._published.get(key)
            if published is None or published.table.metadata_location != self._metadata_location(*key):
                published = self._published[key] = PublishedTable(self._catalog.load_table(key), published)
        except NoSuchTableError as error:
            raise NotFound(f"opening table {name} of workspace {workspace}: no such table") from error
        except OperationalError as error:
            raise Unavailable(
                f"opening table {name} of workspace {workspace}: {error}; retry later"
            ) from error
        return published

    def pointers(self) -> dict[tuple[str, str], str]:
        """Return the current metadata file of every table of every workspace, all of one moment.

        Raises:
            Unavailable: the catalog does not answer.
        """
        statement = select(
            IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location
        ).where(IcebergTables.catalog_name == CATALOG_NAME, IcebergTables.metadata_location.is_not(None))
        try:
            with self._catalog.engine.connect() as connection:
                rows = connection.execute(statement).all()
        except OperationalError as error:
            raise Unavailable(f"reading the catalog: {error}; retry later") from error
        return {(namespace, name): str(location) for namespace, name, location in rows}

    def _metadata_location(self, namespace: str, name: str) -> str | None:
        statement = select(IcebergTables.metadata_location).where(
            IcebergTables.catalog_name == CATALOG_NAME,
            IcebergTables.table_namespace == namespace,
            IcebergTables.table_name == name,
        )
        with self._catalog.engine.connect() as connection:
            return connection.execute(statement).scalar()

    def _open(
        self,
        workspace: str,
        definition: TableDef,
        kind: str,
        shape: Callable[[Table, TableDef], None] = grow,
    ) -> LakeTable:
        held = self._tables.get((workspace, definition.part, definition.name))
        if held is not None and held.definition == definition:
            return held
        # Threads that commit to a table share one object, whose lock they take turns at.
        with self._opening:
            held = self._tables.get((workspace, definition.part, definition.name))
            if held is not None and held.definition == definition:
                return held
            return self._open_anew(workspace, definition, kind, shape)

    def _open_anew(
        self, workspace: str, definition: TableDef, kind: str, shape: Callable[[Table, TableDef], None]
    ) -> LakeTable:
        namespace = namespace_of(workspace, definition.part)
        self._catalog.create_namespace_if_not_exists(namespace)
        try:
            table = self._catalog.load_table((namespace, definition.name))
        except NoSuchTableError:
            table = self._create(namespace, definition, kind)
        if table.properties.get(KIND) != kind:
            raise Invalid(
                f"opening table {definition.name} of workspace {workspace}: it is {table.properties.get(KIND)!r} "
                f"in the lake and {kind!r} in its definition; rebuild it under another name"
            )
        shape(table, definition)
        opened = LakeTable(table, definition, self._clock)
        self._tables[workspace, definition.part, definition.name] = opened
        return opened

    def _create(self, namespace: str, definition: TableDef, kind: str) -> Table:
        schema = iceberg_schema(definition)
        try:
            return self._catalog.create_table(
                (namespace, definition.name),
                schema=schema,
                location=f"file://{self.warehouse}/{namespace}/{definition.name}",
                partition_spec=partition_spec(definition, schema),
                properties=table_properties(definition, schema, kind),
            )
        except TableAlreadyExistsError:
            return self._catalog.load_table((namespace, definition.name))


def register_tables(catalog_uri: str, warehouse: Path, tables: Iterable[tuple[str, str, str]]) -> None:
    """Make a new catalog that knows tables whose files lie in the warehouse already.

    Each is a namespace, a name and a metadata file, as `relocate` leaves it.

    Raises:
        Conflict: the catalog knows a table of that name.
    """
    path = Path(os.path.abspath(warehouse))  # noqa: PTH100 - as in `Lake.open`
    _prepare_sqlite(make_url(catalog_uri).database)
    catalog = _open_catalog(catalog_uri, path)
    try:
        for namespace, name, metadata_location in tables:
            catalog.create_namespace_if_not_exists(namespace)
            catalog.register_table((namespace, name), metadata_location)
    except TableAlreadyExistsError as error:
        raise Conflict(f"making the catalog {catalog_uri}: {error}") from error
    finally:
        catalog.close()


def namespace_of(workspace: str, part: Part) -> str:
    """Return the namespace of a workspace that holds those of its tables.

    Raises:
        Invalid: no workspace can have that name.
    """
    if not _WORKSPACE.fullmatch(workspace):
        raise Invalid(f"opening workspace {workspace!r}: use letters, digits, _ and -, at most 64")
    if workspace.endswith(_PARTS):
        raise Invalid(f"opening workspace {workspace!r}: its name must not end in {' or '.join(_PARTS)}")
    return f"ws_{workspace}_{part}" if part else f"ws_{workspace}"


def _prepare_sqlite(database: str | None) -> None:
    if not database or database == ":memory:":
        raise Invalid("opening the lake: a SQLite catalog is a file; give its absolute path")
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _check_place(catalog: SqlCatalog, warehouse: Path) -> None:
    """Refuse a warehouse that its tables do not lie in.

    Tables name their files by absolute paths. Under a moved directory they cannot be read, and a
    copied one would read, and write, the files of the original.
    """
    statement = select(IcebergTables.metadata_location).where(IcebergTables.catalog_name == CATALOG_NAME)
    with catalog.engine.connect() as connection:
        locations = connection.execute(statement).scalars().all()
    if not locations and next(warehouse.glob("*/*/data/**/*.parquet"), None) is not None:
        # Tables made anew would hide what is there, and a rebuild from them would forget everybody.
        raise Corrupt(
            f"opening the lake: the catalog knows no table, but there are files of tables in {warehouse}; "
            "restore the catalog from backup"
        )
    places = {location.removeprefix("file://").rsplit("/", 4)[0] for location in locations if location}
    for place in sorted(places - {str(warehouse)}):
        if not Path(place).exists() or not warehouse.samefile(place):
            raise Conflict(
                f"opening the lake: its tables lie in {place}, not in {warehouse}; Iceberg tables hold absolute "
                f"paths, so they cannot be moved or copied: move the data directory back, or make {place} "
                f"a symbolic link to {warehouse}"
            )


def _open_catalog(uri: str, warehouse: Path) -> SqlCatalog:
    properties: dict[str, Any] = {
        "uri": uri,
        "warehouse": f"file://{warehouse}",
        "py-io-impl": f"{DurableFileIO.__module__}.{DurableFileIO.__qualname__}",
    }
    try:
        return _HeldTableCatalog(CATALOG_NAME, **properties)
    except OperationalError as error:
        if "already exists" not in str(error):
            raise
        # Another process made the catalog's tables between our look and our try.
        return _HeldTableCatalog(CATALOG_NAME, **properties)
