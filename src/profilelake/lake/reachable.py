"""The files that make up a table as one metadata file has it: what a copy of the table must hold.

Of its snapshots only those count that something needs: the newest, those before it up to the one that
carries our progress, and what a branch or tag names. Older ones are for readers that are at work.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.serializers import FromInputFile

from profilelake.errors import Conflict, Corrupt, Unavailable
from profilelake.lake import maintenance
from profilelake.lake.file_io import StorageFileIO
from profilelake.lake.files import local_path


class MovedOn(Unavailable):
    """What was to be read is gone, because the table has changed since: begin again from the catalog."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table: where it lies, its path below the table's folder, and its size as the file that names
    it has it; None where none does."""

    location: str
    below: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Reachable:
    """What one metadata file leads to. `location` is the table's folder, as its metadata spell it."""

    location: str
    metadata_file: TableFile
    snapshots: tuple[int, ...]
    files: tuple[TableFile, ...]
    """Manifest lists, manifests and data files; not the metadata file itself."""


Listed = MutableMapping[str, tuple[tuple[str, int], ...]]
"""Locations and sizes of the data files of each manifest."""


def reachable(
    metadata_location: str, io: FileIO | None = None, listed: Listed | None = None, name: str = ""
) -> Reachable:
    """Return the files behind a metadata file. Manifests never change: those in `listed` are not read again.

    Raises:
        MovedOn: a file is gone. Begin again from the catalog.
        Unavailable: the storage does not answer.
        Corrupt: a file is not what it should be.
        Conflict: the table has files outside of its folder.
    """
    io = io or StorageFileIO()
    known: Listed = {} if listed is None else listed
    sizes: dict[str, int | None] = {}
    try:
        metadata = FromInputFile.table_metadata(io.new_input(metadata_location))
        kept = maintenance.needed(metadata)
        for snapshot in metadata.snapshots:
            if snapshot.snapshot_id not in kept:
                continue
            sizes[snapshot.manifest_list] = None
            for manifest in snapshot.manifests(io):
                sizes[manifest.manifest_path] = manifest.manifest_length
                sizes.update(_data_files(manifest, io, known))
    except FileNotFoundError as error:
        raise MovedOn(f"reading a table at {metadata_location}: {error}; it has moved on") from error
    except (ValueError, EOFError) as error:
        raise Corrupt(
            f"reading a table at {metadata_location}: {error}; restore the file from backup"
        ) from error
    folder = _spelt(metadata.location)

    def placed(location: str, size: int | None) -> TableFile:
        spelt = _spelt(location)
        if not spelt.startswith(f"{folder}/"):
            raise Conflict(
                f"reading table {name or metadata_location}: {location} lies outside of its folder {metadata.location}, "
                "so it cannot be copied as a whole; write the table anew, or drop it"
            )
        return TableFile(location, spelt.removeprefix(f"{folder}/"), size)

    return Reachable(
        location=metadata.location,
        metadata_file=placed(metadata_location, None),
        snapshots=tuple(sorted(kept)),
        files=tuple(placed(location, sizes[location]) for location in sorted(sizes)),
    )


def _data_files(manifest: ManifestFile, io: FileIO, known: Listed) -> tuple[tuple[str, int], ...]:
    found = known.get(manifest.manifest_path)
    if found is None:
        entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
        found = tuple((entry.data_file.file_path, entry.data_file.file_size_in_bytes) for entry in entries)
        known[manifest.manifest_path] = found
    return found


def _spelt(location: str) -> str:
    """Return a location in one spelling: files of this machine may be plain paths, too."""
    path = str(local_path(location)) if "://" not in location or location.startswith("file:") else location
    return path.rstrip("/")
