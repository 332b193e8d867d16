"""The kinds of catalogs, by the URL of a place, and what is asked of all of them alike."""

import os
import threading
from pathlib import Path
from typing import Final

from pyiceberg.exceptions import NamespaceAlreadyExistsError
from sqlalchemy.exc import IntegrityError

from profilelake.errors import Conflict, Corrupt
from profilelake.lake.file_io import properties_of
from profilelake.lake.files import is_remote, local_path
from profilelake.lake.place import LakePlace
from profilelake.lake.rest_catalog import ServedCatalog, open_rest_catalog
from profilelake.lake.sql_catalog import TableRowsCatalog, open_sql_catalog

CATALOG_NAME: Final = "profilelake"
"""Part of every row of a SQL catalog: Spark, Trino and others must configure the catalog by this name."""
NAMESPACES_PREFIX: Final = "ws_"
"""How the names of our namespaces begin; a catalog may hold those of others."""

LakeCatalog = TableRowsCatalog | ServedCatalog

_shared: dict[tuple[int, LakePlace], LakeCatalog] = {}
_opening = threading.Lock()


def open_catalog(place: LakePlace) -> LakeCatalog:
    """Open the catalog of a place, made where a database has none yet.

    Raises:
        Invalid: it refuses us, or settings are wrong.
        Unavailable: it does not answer.
        Corrupt: the file of a SQLite catalog is none.
    """
    if not is_remote(place.warehouse):
        local_path(place.warehouse).mkdir(parents=True, exist_ok=True)
    properties = properties_of(place.warehouse, place.storage)
    if place.kind == "sqlite":
        return open_sql_catalog(CATALOG_NAME, place, properties | {"warehouse": place.warehouse})
    # Connections to a server, and what it said of itself, are those of the process, whoever opens the lake
    # for one question; but not those of another process this one was forked from.
    key = (os.getpid(), place)
    with _opening:
        held = _shared.get(key)
        if held is None:
            held = _shared[key] = _open_shared(place, properties)
        return held


def close_catalog(catalog: LakeCatalog) -> None:
    """Give up what only the caller uses."""
    if catalog not in _shared.values():
        catalog.close()


def _open_shared(place: LakePlace, properties: dict[str, str]) -> LakeCatalog:
    if place.kind == "rest":
        return open_rest_catalog(CATALOG_NAME, place, NAMESPACES_PREFIX, properties)
    return open_sql_catalog(CATALOG_NAME, place, properties | {"warehouse": place.warehouse})


def ensure_namespace(catalog: LakeCatalog, namespace: str) -> None:
    """Make a namespace where there is none, whoever else is about to."""
    try:
        catalog.create_namespace_if_not_exists(namespace)
    except (NamespaceAlreadyExistsError, IntegrityError):
        return


def check_place(place: LakePlace, pointers: dict[tuple[str, str], str]) -> None:
    """Refuse a warehouse that the tables of its catalog do not lie in.

    Tables name their files by absolute locations. Under a moved directory they cannot be read, and a
    copied one would read, and write, the files of the original.

    Raises:
        Conflict: they lie elsewhere.
        Corrupt: there are files of tables that the catalog does not know.
    """
    # Linked tables are their owners', and may lie anywhere.
    ours = [
        location
        for (namespace, _), location in pointers.items()
        if namespace.startswith(NAMESPACES_PREFIX) and not namespace.endswith("_linked")
    ]
    local = not is_remote(place.warehouse)
    warehouse = local_path(place.warehouse)
    if local and not pointers and next(warehouse.glob("*/*/data/**/*.parquet"), None) is not None:
        # Tables made anew would hide what is there, and a rebuild from them would forget everybody.
        raise Corrupt(
            f"opening the lake: the catalog knows no table, but there are files of tables in {warehouse}; "
            "restore the catalog from backup"
        )
    for found in sorted({location.rsplit("/", 4)[0] for location in ours}):
        if found == place.warehouse or (local and _same_folder(warehouse, found)):
            continue
        if place.kind != "sqlite":
            raise Conflict(
                f"opening the lake: {place.catalog} knows tables in {found}, and the warehouse is "
                f"{place.warehouse}: they are those of another installation, or the warehouse was moved; "
                "give this one a database of its own, or correct lake.warehouse"
            )
        raise Conflict(
            f"opening the lake: its tables lie in {local_path(found)}, not in {warehouse}; Iceberg tables hold "
            f"absolute paths, so they cannot be moved or copied: move the data directory back, or make "
            f"{local_path(found)} a symbolic link to {warehouse}"
        )


def _same_folder(warehouse: Path, location: str) -> bool:
    place = local_path(location)
    return place.exists() and warehouse.exists() and warehouse.samefile(place)
