"""The catalog: which tables exist and which metadata file is the current one of each."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.table import Table

from profilelake.errors import Conflict, Corrupt, Internal, Invalid, NotFound, Unavailable
from profilelake.lake import maintenance
from profilelake.lake.catalog_answers import answering
from profilelake.lake.catalogs import (
    CATALOG_NAME,
    NAMESPACES_PREFIX,
    LakeCatalog,
    check_place,
    close_catalog,
    ensure_namespace,
    open_catalog,
)
from profilelake.lake.commit import live_entries, manifests_of
from profilelake.lake.current import CurrentTable
from profilelake.lake.file_io import storage_behind
from profilelake.lake.maintenance import Swept
from profilelake.lake.place import LakePlace, note_first, refuse_another
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
from profilelake.lake.storage import Storage, storage_of
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import Part, TableDef
from profilelake.settings import Layout, StorageOptions

__all__ = ["CATALOG_NAME", "Lake", "PublishedTable", "namespace_of", "register_tables"]

_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PARTS: Final = ("_sync", "_warehouse", "_linked")
"""Ends of namespaces that hold more tables of a workspace; the name of no workspace ends so."""

Clock = Callable[[], int]


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

    @property
    def storage(self) -> Storage:
        """Where its files lie."""
        return storage_behind(self.table)

    def missing(self) -> list[str]:
        """Return the data files of the newest snapshot that are not there, or not of their size."""
        # One listing costs less than a question for each file.
        storage = self.storage
        held = {storage.place(file.location): file.bytes for file in storage.list(self.table.location())}
        return [
            file.location
            for file in self.files
            if held.get(storage.place(file.location)) != file.bytes
            and storage.size(file.location) != file.bytes
        ]

    def unreachable(self, modified_before: int) -> list[Swept]:
        """Return the files in the table's folder that no live snapshot reaches, older than a second since 1970."""
        return [found for found in maintenance.unreachable(self.table) if found.modified_at < modified_before]


class Lake:
    """The tables of all workspaces under one catalog and one warehouse.

    Any number of processes may read; one process commits to a table.
    """

    def __init__(self, catalog: LakeCatalog, place: LakePlace, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._tables: dict[tuple[str, str, str], LakeTable] = {}
        self._published: dict[tuple[str, str], PublishedTable] = {}
        self._opening = threading.Lock()
        self.place = place
        self.storage = storage_of(place.warehouse, place.storage)
        """Where the files of all tables lie."""

    @property
    def warehouse(self) -> str:
        """The location below which tables lie, without a slash at its end."""
        return self.place.warehouse

    @classmethod
    def open(
        cls,
        catalog_uri: str,
        warehouse: Path | str,
        *,
        storage: StorageOptions | None = None,
        clock: Clock = time.time_ns,
    ) -> "Lake":
        """Open the lake of a catalog (`sqlite:////abs/path.db`, `postgresql://…`, `https://…`) and a warehouse.

        That is a folder, or `s3://bucket/prefix`; `storage` says how it is spoken to. Raises as `at`.
        """
        place = LakePlace.at(catalog_uri, warehouse)
        return cls.at(place if storage is None else replace(place, storage=storage), clock=clock)

    @classmethod
    def at(cls, place: LakePlace, *, clock: Clock = time.time_ns) -> "Lake":
        """Open the lake at a place. Open it after forking, connections are not shared.

        `clock` gives nanoseconds since 1970.

        Raises:
            Invalid: the catalog refuses us: no such database, a wrong password, no right.
            Unavailable: the catalog does not answer.
            Corrupt: the catalog's file is not one, or does not know the tables that are there.
            Conflict: the tables lie elsewhere: the directory was moved or copied.
        """
        catalog = open_catalog(place)
        try:
            if place.kind != "rest":
                with answering(f"opening the catalog {place.catalog}", opening=True):
                    pointers = catalog.pointers()
                check_place(place, pointers)
        except BaseException:
            close_catalog(catalog)
            raise
        return cls(catalog, place, clock)

    @classmethod
    def of(cls, layout: Layout, *, clock: Clock = time.time_ns) -> "Lake":
        """Open the lake of a data directory, wherever its settings say that it lies.

        Raises: as `at`, and Conflict where the settings name another place than they did before.
        """
        place = LakePlace.of(layout, os.environ)
        known = refuse_another(layout, place)
        lake = cls.at(place, clock=clock)
        try:
            # Our own processes note the place before they make a table, so look again after the catalog.
            if not known and (found := lake.any_table()) and not refuse_another(layout, place):
                raise Conflict(
                    f"opening the lake of {layout.directory}: {place.catalog} knows tables already ({found}), and "
                    "this directory did not make them: two installations cannot share tables; give this one a "
                    "catalog and a warehouse of its own, or restore the data directory that they belong to"
                )
        except BaseException:
            lake.close()
            raise
        note_first(layout, place)
        return lake

    def close(self) -> None:
        """Give up the connections to the catalog, where they are not those of the process."""
        close_catalog(self._catalog)

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
            with answering(f"linking table {name}"):
                ensure_namespace(self._catalog, namespace)
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
        except CommitFailedException as error:
            raise Unavailable(f"linking table {name}: {error}; try again") from error

    def names(self, workspace: str, part: Part = "") -> list[str]:
        """Return the names of the tables in one namespace of a workspace, sorted; logs of changes included."""
        namespace = namespace_of(workspace, part)
        with answering(f"listing the tables of workspace {workspace}"):
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
        published = self._published.get(key)
        try:
            with answering(f"opening table {name} of workspace {workspace}"):
                table = self._catalog.newer(key, published.table.metadata_location if published else None)
        except NoSuchTableError as error:
            raise NotFound(f"opening table {name} of workspace {workspace}: no such table") from error
        if published is None or table is not None:
            if table is None:
                raise Internal(f"opening table {name} of workspace {workspace}: the catalog gave none")
            published = self._published[key] = PublishedTable(table, published)
        return published

    def any_table(self) -> str | None:
        """Return the name of some table of a workspace, with its namespace; None where the catalog knows none.

        Raises:
            Unavailable: the catalog does not answer.
        """
        with answering("reading the catalog"):
            for namespace in self._catalog.list_namespaces():
                if namespace[0].startswith(NAMESPACES_PREFIX):
                    for table in self._catalog.list_tables(namespace):
                        return ".".join(table)
        return None

    def pointers(self) -> dict[tuple[str, str], str]:
        """Return the current metadata file of every table of every workspace.

        All of one moment, but for REST catalogs, which are asked for one table after the other.

        Raises:
            Unavailable: the catalog does not answer.
        """
        with answering("reading the catalog"):
            known = self._catalog.pointers()
        return {key: location for key, location in known.items() if key[0].startswith(NAMESPACES_PREFIX)}

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
        doing = f"opening table {definition.name} of workspace {workspace}"
        with answering(doing):
            ensure_namespace(self._catalog, namespace)
            try:
                table = self._catalog.load_table((namespace, definition.name))
            except NoSuchTableError:
                table = self._create(namespace, definition, kind)
        if table.properties.get(KIND) != kind:
            raise Invalid(
                f"opening table {definition.name} of workspace {workspace}: it is {table.properties.get(KIND)!r} "
                f"in the lake and {kind!r} in its definition; rebuild it under another name"
            )
        with answering(doing):
            shape(table, definition)
        opened = LakeTable(table, definition, self._clock)
        self._tables[workspace, definition.part, definition.name] = opened
        return opened

    def _create(self, namespace: str, definition: TableDef, kind: str) -> Table:
        schema = iceberg_schema(definition)
        location = f"{self.warehouse}/{namespace}/{definition.name}"
        if self.place.table_locations == "warehouse" and next(self.storage.list(f"{location}/data"), None):
            # A table made anew would hide these rows, and its sweep would remove them.
            try:
                return self._catalog.load_table((namespace, definition.name))  # made since we looked
            except NoSuchTableError:
                raise Corrupt(
                    f"making table {definition.name} in {location}: there are files of a table, and the catalog "
                    f"{self.place.catalog} does not know it; restore the catalog from backup, or, where they are "
                    "those of another installation, set lake.warehouse to a prefix of its own"
                ) from None
        try:
            return self._catalog.create_table(
                (namespace, definition.name),
                schema=schema,
                location=None if self.place.table_locations == "catalog" else location,
                partition_spec=partition_spec(definition, schema),
                properties=table_properties(definition, schema, kind),
            )
        except TableAlreadyExistsError:
            return self._catalog.load_table((namespace, definition.name))


def register_tables(
    catalog_uri: str | LakePlace, warehouse: Path | str, tables: Iterable[tuple[str, str, str]]
) -> None:
    """Make a catalog know tables whose files lie in the warehouse already.

    Each is a namespace, a name and a metadata file, as `relocate` leaves it. A table it knows at that very
    file is well, so the same may be done again.

    Raises: as `Lake.at`, and Conflict where the catalog knows another table of that name.
    """
    place = catalog_uri if isinstance(catalog_uri, LakePlace) else LakePlace.at(catalog_uri, warehouse)
    catalog = open_catalog(place)
    try:
        with answering(f"making the catalog {place.catalog}"):
            for namespace, name, metadata_location in tables:
                ensure_namespace(catalog, namespace)
                known = catalog.metadata_location(namespace, name)
                if known is None:
                    catalog.register_table((namespace, name), metadata_location)
                elif known != metadata_location:
                    raise Conflict(
                        f"making the catalog {place.catalog}: it knows another table {namespace}.{name}, at {known}"
                    )
    finally:
        close_catalog(catalog)


def namespace_of(workspace: str, part: Part) -> str:
    """Return the namespace of a workspace that holds those of its tables.

    Raises:
        Invalid: no workspace can have that name.
    """
    if not _WORKSPACE.fullmatch(workspace):
        raise Invalid(f"opening workspace {workspace!r}: use letters, digits, _ and -, at most 64")
    if workspace.endswith(_PARTS):
        raise Invalid(f"opening workspace {workspace!r}: its name must not end in {' or '.join(_PARTS)}")
    return f"{NAMESPACES_PREFIX}{workspace}_{part}" if part else f"{NAMESPACES_PREFIX}{workspace}"
