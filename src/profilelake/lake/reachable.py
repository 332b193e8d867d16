"""The files that make up a table as one metadata file has it: what a copy of the table must hold.

Of its snapshots only those count that something needs: the newest, those before it up to the one that
carries our progress, and what a branch or tag names. Older ones are for readers that are at work.
"""

from dataclasses import dataclass
from pathlib import Path

from pyiceberg.serializers import FromInputFile

from profilelake.errors import Corrupt, Unavailable
from profilelake.lake import maintenance
from profilelake.lake.file_io import StorageFileIO
from profilelake.lake.files import local_path


@dataclass(frozen=True, slots=True)
class Reachable:
    """What one metadata file leads to. `location` is the table's folder, as its metadata spell it."""

    location: str
    metadata_file: Path
    snapshots: tuple[int, ...]
    files: tuple[Path, ...]
    """Manifest lists, manifests and data files; not the metadata file itself."""


def reachable(metadata_location: str) -> Reachable:
    """Return the files behind a metadata file.

    Raises:
        Unavailable: a file is gone: the table has moved on long since. Begin again from the catalog.
        Corrupt: a file is not what it should be.
    """
    io = StorageFileIO()
    try:
        metadata = FromInputFile.table_metadata(io.new_input(metadata_location))
        kept = maintenance.needed(metadata)
        snapshots = [snapshot for snapshot in metadata.snapshots if snapshot.snapshot_id in kept]
        manifests = {
            manifest.manifest_path: manifest for snapshot in snapshots for manifest in snapshot.manifests(io)
        }
        files = {snapshot.manifest_list for snapshot in snapshots} | manifests.keys()
        for manifest in manifests.values():
            entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
            files.update(entry.data_file.file_path for entry in entries)
    except FileNotFoundError as error:
        raise Unavailable(f"reading a table at {metadata_location}: {error}; it has moved on") from error
    except (ValueError, EOFError) as error:
        raise Corrupt(
            f"reading a table at {metadata_location}: {error}; restore the file from backup"
        ) from error
    return Reachable(
        location=metadata.location,
        metadata_file=local_path(metadata_location),
        snapshots=tuple(sorted(kept)),
        files=tuple(sorted(local_path(file) for file in files)),
    )
