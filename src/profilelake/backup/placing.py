"""The tables of a backup, brought to where a lake is to lie, and made known to its catalog there.

Iceberg's metadata name files by absolute locations, so they are written again for the new place: on this
machine, before anything is sent. A mark lies in the new warehouse until all is there: by it a restore that
was cut short knows its own files, and nobody takes them for a lake.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from profilelake.backup.fetching import each_at_once
from profilelake.backup.manifest import Manifest, StoredFile, StoredTable
from profilelake.backup.pool import Contents
from profilelake.errors import Conflict, Invalid, Unavailable
from profilelake.lake.catalog import register_tables
from profilelake.lake.catalogs import close_catalog, open_catalog
from profilelake.lake.files import is_remote, local_path
from profilelake.lake.place import LakePlace, default_place, note_first
from profilelake.lake.relocate import relocate
from profilelake.lake.storage import Storage, storage_of
from profilelake.ops.failpoints import reach
from profilelake.settings import Layout

MARK: Final = "_restore.json"
"""Below the warehouse; the names of namespaces begin with `ws_`."""
AT_ONCE: Final = 8
"""Files that are sent at the same time; each waits whole in memory or, from 8 MiB on, in the temporary directory."""
TABLES: Final = "lake/"
"""How the paths of files of tables begin in a backup."""
_SCRATCH: Final = "restore"
_DATA: Final = ".parquet"
"""How the names of data files end; all others are metadata, which name files."""


def place_for(target: Layout, environment: Mapping[str, str], warehouse: str, catalog: str) -> LakePlace:
    """Return where the lake of a restored directory is to lie: where its settings say, unless other places are given.

    Raises:
        Invalid: there is no such place, or tables cannot be brought there.
    """
    given = {"PROFILELAKE_LAKE_WAREHOUSE": warehouse, "PROFILELAKE_LAKE_CATALOG": catalog}
    place = LakePlace.of(target, {**environment, **{name: text for name, text in given.items() if text}})
    if place.kind == "rest" and place.table_locations == "catalog":
        raise Invalid(
            f"restoring to {place.catalog}: it chooses itself where tables lie (lake.table_locations), and takes none that "
            "lie elsewhere; name another catalog with --catalog, such as sqlite:///catalog.sqlite, and a --warehouse"
        )
    return place


def is_inside(target: Layout, place: LakePlace) -> bool:
    """Tell whether a lake lies in the data directory itself, which is new."""
    return place.identity == default_place(target).identity


def refuse_taken(target: Layout, place: LakePlace, manifest: Manifest, id: str) -> None:
    """See that nothing is where the lake is to lie but what this restore brought there before.

    Raises:
        Conflict: there are other files, or the catalog knows tables.
        Unavailable: storage or catalog do not answer.
    """
    storage = storage_of(place.warehouse, place.storage)
    mark, ours = f"{storage.root}/{MARK}", _mark(target, id)
    begun = _read(storage, mark)
    if begun is not None and begun != ours:
        raise Conflict(
            f"restoring to {place.warehouse}: a restore of backup {begun.get('backup')} into {begun.get('directory')} was "
            f"begun there; finish that one, or name another place with --warehouse (or, once nobody needs what is "
            f"there, remove it, {mark} last)"
        )
    wanted = {(table.namespace, table.name): _metadata(place, table) for table in manifest.tables}
    if begun is None:
        for namespace in sorted({table.namespace for table in manifest.tables}):
            found = next(iter(storage.list(f"{storage.root}/{namespace}")), None)
            if found is not None:
                raise Conflict(
                    f"restoring to {place.warehouse}: there are files, {found.location} among them; name another place "
                    "with --warehouse or, once nobody needs them, remove them"
                )
    for key, location in sorted(_known(place).items()):
        if key in wanted and (begun is None or location != wanted[key]):
            raise Conflict(
                f"restoring to {place.catalog}: it knows a table {'.'.join(key)} already, at {location}; name another "
                "catalog with --catalog or, once nobody needs its tables, drop them there"
            )


def claim(target: Layout, place: LakePlace, id: str) -> None:
    """Mark the place of a lake as taken by this restore. Raises Conflict where another one was faster."""
    storage = storage_of(place.warehouse, place.storage)
    mark, ours = f"{storage.root}/{MARK}", _mark(target, id)
    if not storage.create(mark, json.dumps(ours).encode()) and _read(storage, mark) != ours:
        raise Conflict(f"restoring to {place.warehouse}: another restore has begun there; wait for it")


def place_inside(target: Layout, place: LakePlace, manifest: Manifest) -> None:
    """Let tables lie where their files were put already, in the directory itself."""
    moved = []
    for table in manifest.tables:
        location = f"{place.warehouse}/{table.namespace}/{table.name}"
        file = target.directory / table.metadata_file
        moved.append((table.namespace, table.name, relocate(file, table.location, location, table.snapshots)))
    if moved:
        register_tables(place, place.warehouse, moved)


def place_elsewhere(pool: Contents, target: Layout, place: LakePlace, manifest: Manifest, id: str) -> None:
    """Bring tables to a place that was claimed, and make its catalog know them.

    Raises:
        Unavailable: storage or catalog do not answer. What was sent is gone on with.
        Corrupt: a file of the backup is damaged.
        Conflict: somebody else has the place now.
    """
    storage = storage_of(place.warehouse, place.storage)
    scratch = target.run / _SCRATCH
    files = files_of_tables(manifest)
    data = [file for file in files if file.path.endswith(_DATA)]

    def give(file: StoredFile) -> None:
        pool.give(file.sha256, file.bytes, scratch / file.path.removeprefix(TABLES))

    each_at_once([file for file in files if not file.path.endswith(_DATA)], give, pool.at_once)
    moved = []
    for table in manifest.tables:
        below = f"{table.namespace}/{table.name}"
        there, folder = f"{place.warehouse}/{below}", scratch / below
        metadata_file = scratch / table.metadata_file.removeprefix(TABLES)
        location = relocate(metadata_file, table.location, there, table.snapshots, folder)
        moved.append((table.namespace, table.name, location))
    reach("restore.relocated")
    wanted = {f"{place.warehouse}/{file.path.removeprefix(TABLES)}": file.bytes for file in data}
    arrived = {
        location for location, size in _sizes(storage, manifest).items() if wanted.get(location) == size
    }

    def send(file: StoredFile) -> None:
        location = f"{place.warehouse}/{file.path.removeprefix(TABLES)}"
        if location not in arrived:
            pool.deliver(file.sha256, file.bytes, storage, location)
            reach("restore.sent")

    def send_metadata(path: Path) -> None:
        with path.open("rb") as source, storage.output(_sent(place, scratch, path)) as sink:
            shutil.copyfileobj(source, sink)

    each_at_once(data, send, AT_ONCE)
    metadata = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
    wanted |= {_sent(place, scratch, path): path.stat().st_size for path in metadata}
    each_at_once(metadata, send_metadata, AT_ONCE)
    _check_sizes(storage, manifest, wanted)
    if _read(storage, f"{storage.root}/{MARK}") != _mark(target, id):
        raise Conflict(f"restoring to {place.warehouse}: another restore has taken that place; name another")
    reach("restore.sent_all")
    register_tables(place, place.warehouse, moved)
    note_first(target, place)
    shutil.rmtree(scratch)


def release(place: LakePlace) -> None:
    """Take the mark away: the directory is one, and its lake too."""
    storage = storage_of(place.warehouse, place.storage)
    storage.remove([f"{storage.root}/{MARK}"])


def files_of_tables(manifest: Manifest) -> list[StoredFile]:
    """Return the files of tables that a backup has."""
    return [file for file in manifest.files if file.path.startswith(TABLES)]


def settings_to_write(target: Layout, environment: Mapping[str, str], place: LakePlace) -> list[str]:
    """Return the lines of `[lake]` without which a restored directory would look elsewhere for its lake."""
    said, usual = LakePlace.of(target, environment), default_place(target)
    lines = []
    if said.warehouse != place.warehouse:
        shown = target.warehouse.name if place.warehouse == usual.warehouse else place.warehouse
        lines.append(f"warehouse = {json.dumps(shown)}")
    if said.identity[0] != place.identity[0]:
        shown = f"sqlite:///{target.catalog.name}" if place.catalog == usual.catalog else place.catalog
        lines.append(f"catalog = {json.dumps(shown)}")
    return lines


def _mark(target: Layout, id: str) -> dict[str, str]:
    return {"backup": id, "directory": os.path.abspath(target.directory)}  # noqa: PTH100 - links stay


def _read(storage: Storage, mark: str) -> dict[str, str] | None:
    try:
        document = json.loads(storage.read(mark))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _known(place: LakePlace) -> dict[tuple[str, str], str]:
    if place.kind == "sqlite" and not Path(place.catalog.removeprefix("sqlite:///")).exists():
        return {}  # to look would be to make it
    catalog = open_catalog(place)
    try:
        return catalog.pointers()
    finally:
        close_catalog(catalog)


def _metadata(place: LakePlace, table: StoredTable) -> str:
    return f"{place.warehouse}/{table.metadata_file.removeprefix(TABLES)}"


def _sent(place: LakePlace, scratch: Path, path: Path) -> str:
    return f"{place.warehouse}/{path.relative_to(scratch)}"


def _sizes(storage: Storage, manifest: Manifest) -> dict[str, int]:
    """Return the files there are, in the spelling of the warehouse."""
    local = not is_remote(storage.root)
    found = {}
    for table in manifest.tables:
        folder = f"{storage.root}/{table.namespace}/{table.name}"
        for file in storage.list(folder):
            below = file.location.removeprefix(f"{local_path(storage.root)}/") if local else ""
            found[f"{storage.root}/{below}" if local else file.location] = file.bytes
    return found


def _check_sizes(storage: Storage, manifest: Manifest, wanted: Mapping[str, int]) -> None:
    there = _sizes(storage, manifest)
    wrong: Iterable[str] = (location for location, size in wanted.items() if there.get(location) != size)
    if (bad := next(iter(wrong), None)) is not None:
        found = "is not there" if bad not in there else f"has {there[bad]:,} bytes instead of {wanted[bad]:,}"
        raise Unavailable(
            f"restoring to {storage.root}: {bad} was sent and {found}; the object store loses or cuts off what it "
            "acknowledges, see its log, then run the same again"
        )
