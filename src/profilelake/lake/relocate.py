"""A table whose files were copied elsewhere, made whole there.

Iceberg names files by absolute locations: in the metadata file, in manifest lists and in manifests. All
of them are written again with the new ones. Avro files keep their own schema and header, so nothing is
lost that another engine has written into them.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from pyiceberg.avro.file import META_SCHEMA, AvroFile, AvroFileHeader, AvroOutputFile
from pyiceberg.avro.resolver import construct_writer
from pyiceberg.io import InputFile, OutputFile
from pyiceberg.typedef import Record

from profilelake.errors import Corrupt
from profilelake.lake.file_io import StorageFileIO

RECORDS_PER_BLOCK: Final = 1_000
_DROPPED: Final = ("metadata-log", "statistics", "partition-statistics")
"""Parts of the metadata that name files which are only of use where they were made."""

Locate = Callable[[str], str]


def relocate(
    metadata_file: Path,
    location: str,
    new_location: str,
    snapshots: Collection[int],
    folder: Path | None = None,
) -> str:
    """Let a copied table lie at `new_location`; return the location of its metadata file there.

    `metadata_file` and all metadata it leads to are in their new places already, below `new_location` as they
    were below `location`; or meanwhile below `folder`, whence they are to be brought there. Only the given
    snapshots stay.

    Raises:
        Corrupt: a file is missing or not what it should be, or names one outside the table.
    """
    io = StorageFileIO() if folder is None else _Meanwhile(new_location, folder)

    def moved(old: str) -> str:
        if not old.startswith(location + "/") or ".." in old.removeprefix(location).split("/"):
            raise Corrupt(f"moving the table at {location}: it names {old}, which lies outside of it")
        return new_location + old.removeprefix(location)

    try:
        metadata = json.loads(metadata_file.read_bytes())
        kept = [s for s in metadata.get("snapshots", ()) if s["snapshot-id"] in snapshots]
        seen: set[str] = set()
        for snapshot in kept:
            place = moved(snapshot["manifest-list"])
            if place not in seen:
                seen.add(place)
                _move_manifests(io, place, moved, seen)
            snapshot["manifest-list"] = place
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"moving the table at {location}: {error}; take another backup") from error
    metadata["location"] = new_location
    metadata["snapshots"] = kept
    metadata["snapshot-log"] = [s for s in metadata.get("snapshot-log", ()) if s["snapshot-id"] in snapshots]
    for part in _DROPPED:
        if part in metadata:
            metadata[part] = []
    place = f"{new_location}/metadata/{metadata_file.name}"
    with io.new_output(place).create(overwrite=True) as stream:
        stream.write(json.dumps(metadata).encode())
    return place


def _move_manifests(io: StorageFileIO, manifest_list: str, moved: Locate, seen: set[str]) -> None:
    """Rewrite a manifest list and what it lists, the manifests first: the list has their lengths."""

    def move(manifest: Record, places: dict[str, int]) -> None:
        place = moved(manifest[places["manifest_path"]])
        if place not in seen:
            seen.add(place)
            _rewrite(io, place, lambda entry, names: _move_data_file(entry, names, moved))
        manifest[places["manifest_path"]] = place
        manifest[places["manifest_length"]] = len(io.new_input(place))

    _rewrite(io, manifest_list, move)


def _move_data_file(entry: Record, places: dict[str, int], moved: Locate) -> None:
    # The path is the one field of a data file that names another file, in tables without delete files.
    data_file = entry[places["data_file"]]
    data_file[places["data_file.file_path"]] = moved(data_file[places["data_file.file_path"]])


def _rewrite(io: StorageFileIO, place: str, change: Callable[[Record, dict[str, int]], None]) -> None:
    """Write an Avro file again with each record changed; `change` is told where which field stands."""
    with AvroFile[Record](io.new_input(place)) as source:
        places = {field.name: number for number, field in enumerate(source.schema.fields)}
        for field in source.schema.fields:
            for number, inner in enumerate(getattr(field.field_type, "fields", ())):
                places[f"{field.name}.{inner.name}"] = number
        records = list(source)
        for record in records:
            change(record, places)
    # The old content is read and closed; the new one takes its place when it is whole.
    with _SameHeader(io.new_output(place), source) as sink:
        for start in range(0, len(records), RECORDS_PER_BLOCK):
            sink.write_block(records[start : start + RECORDS_PER_BLOCK])


class _Meanwhile(StorageFileIO):
    """Files below a location that lie in a folder of this machine meanwhile."""

    def __init__(self, location: str, folder: Path) -> None:
        super().__init__()
        self._location, self._folder = location, folder

    def new_input(self, location: str) -> InputFile:
        return super().new_input(self._path(location))

    def new_output(self, location: str) -> OutputFile:
        return super().new_output(self._path(location))

    def _path(self, location: str) -> str:
        return str(self._folder / location.removeprefix(f"{self._location}/"))


class _SameHeader(AvroOutputFile[Record]):
    """An Avro file with the header of another one: its schema to the letter, its properties, its codec."""

    def __init__(self, output: OutputFile, source: AvroFile[Record]) -> None:
        super().__init__(output, source.schema, "unused", metadata=source.header.meta)
        self._header = AvroFileHeader(source.header[0], source.header.meta, self.sync_bytes)

    def _write_header(self) -> None:
        construct_writer(META_SCHEMA).write(self.encoder, self._header)
