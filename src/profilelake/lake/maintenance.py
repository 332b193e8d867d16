"""What old snapshots cost and when they may go: expiry, and the sweep of files nothing reaches.

The library's expiry edits metadata only and deletes no file, so an erased row would stay on disk.
Both are ours; `LakeTable` commits what is decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from profilelake.lake.file_io import storage_behind
from profilelake.lake.progress import Progress

EXPIRE_AT_SNAPSHOTS: Final = 25
"""Commits slow down with every live snapshot, so from this number on old ones are forgotten."""
SNAPSHOTS_KEPT: Final = 5
SNAPSHOT_AGE_MIN_MS: Final = 300_000
"""A reader has at least this long to finish with the files it planned."""
SNAPSHOTS_MAX: Final = 100
"""Above this a snapshot goes however young it is: only a writer at ten commits a second gets there."""


_METADATA: Final = (".metadata.json", ".metadata.json.gz")


@dataclass(frozen=True, slots=True)
class Swept:
    """A file that was, or in a dry run would be, removed."""

    location: str
    bytes: int
    modified_at: int


def bearer(metadata: TableMetadata) -> Snapshot | None:
    """Return the newest snapshot, going back from the current one, that carries our progress."""
    line = list(_line(metadata))
    return line[-1] if line and _carries_progress(line[-1]) else None


def _line(metadata: TableMetadata) -> Iterator[Snapshot]:
    """Yield the snapshots from the current one back to the newest that carries progress."""
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        yield snapshot
        if _carries_progress(snapshot) or snapshot.parent_snapshot_id is None:
            return
        snapshot = metadata.snapshot_by_id(snapshot.parent_snapshot_id)


def _carries_progress(snapshot: Snapshot) -> bool:
    return (
        snapshot.summary is not None
        and Progress.from_properties(snapshot.summary.additional_properties) is not None
    )


def needed(metadata: TableMetadata) -> set[int]:
    """Return the snapshots that no expiry may take: see `expirable`."""
    return {s.snapshot_id for s in _line(metadata)} | {ref.snapshot_id for ref in metadata.refs.values()}


def expirable(metadata: TableMetadata, keep_from: int | None) -> list[int]:
    """Return the snapshots that nothing needs, oldest first.

    Needed are: the current one and its ancestors up to the newest with progress (another engine
    may have committed since), what a branch or tag names, and `keep_from` with all that followed.
    """
    kept_always = needed(metadata)
    in_order = sorted(metadata.snapshots, key=lambda s: s.sequence_number or 0)
    kept = metadata.snapshot_by_id(keep_from) if keep_from is not None else None
    if kept is not None:
        in_order = [s for s in in_order if (s.sequence_number or 0) < (kept.sequence_number or 0)]
    return [s.snapshot_id for s in in_order if s.snapshot_id not in kept_always]


def outdated(metadata: TableMetadata, now_ms: int, keep_from: int | None) -> list[int]:
    """Return what the next commit should forget: nothing while snapshots are few or young."""
    excess = len(metadata.snapshots) - SNAPSHOTS_KEPT
    if len(metadata.snapshots) < EXPIRE_AT_SNAPSHOTS:
        return []
    too_many = max(0, len(metadata.snapshots) - SNAPSHOTS_MAX)
    committed_at = {s.snapshot_id: s.timestamp_ms for s in metadata.snapshots}
    return [
        snapshot_id
        for place, snapshot_id in enumerate(expirable(metadata, keep_from)[:excess])
        if place < too_many or now_ms - committed_at[snapshot_id] >= SNAPSHOT_AGE_MIN_MS
    ]


def unreachable(table: Table) -> list[Swept]:
    """Return the files of a table that no live snapshot reaches, however young.

    Files are listed before the metadata is read: one that is committed in between is then seen as
    reachable. One written but not committed yet is here, so whoever removes files must go by their age.
    """
    storage = storage_behind(table)
    found = list(storage.list(table.location()))
    # A table of its own: the one given belongs to a committer that may be at work.
    reachable = {storage.place(location) for location in _reachable(table.catalog.load_table(table.name()))}
    if not metadata_is_ours(table):
        found = [f for f in found if not f.location.endswith(_METADATA)]
    return [
        Swept(f.location, f.bytes, f.modified_at) for f in found if storage.place(f.location) not in reachable
    ]


def metadata_is_ours(table: Table) -> bool:
    """Tell whether we write the table's metadata files, and remove old ones; a REST catalog does that itself."""
    return bool(getattr(table.catalog, "owns_metadata", True))


def _reachable(table: Table) -> set[str]:
    metadata = table.metadata
    locations = {table.metadata_location}
    locations.update(entry.metadata_file for entry in metadata.metadata_log)
    # Other engines count what is in a table, and keep that beside it.
    locations.update(file.statistics_path for file in metadata.statistics)
    locations.update(file.statistics_path for file in metadata.partition_statistics)
    manifests = {}
    for snapshot in metadata.snapshots:
        locations.add(snapshot.manifest_list)
        manifests.update({m.manifest_path: m for m in snapshot.manifests(table.io)})
    for path, manifest in manifests.items():
        locations.add(path)
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        locations.update(e.data_file.file_path for e in entries)
    return locations
