"""One snapshot: what it changes, the files that describe it, and the request that swaps it in.

Nothing here retries or decides; `LakeTable` does. PyIceberg's own producers copy the metadata once
per question asked of it, which is most of the cost of a small commit, so the snapshot is written
directly: manifests, manifest list, and one catalog request that appends, expires, and sets
properties together.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import (
    Operation,
    Snapshot,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from profilelake.errors import Internal, Invalid

MANIFESTS_MAX: Final = 50
"""At this many the small manifests of a snapshot are merged: each costs a reader about 2 ms to open."""
MANIFEST_BYTES_MERGED: Final = 8 << 20
"""A manifest of this size is left alone."""

DELETE_FILES: Final = "has delete files"
"""What the refusal of such a table says."""

_AVRO: Final = "deflate"


@dataclass(frozen=True, slots=True)
class Change:
    """What one snapshot does to the snapshot before it.

    `removed` are paths of data files that must be there. `summary` goes into the snapshot,
    `properties` into the table.
    """

    operation: Operation
    added: Sequence[DataFile] = ()
    removed: frozenset[str] = frozenset()
    summary: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    expired: Sequence[int] = ()
    manifests_max: int = MANIFESTS_MAX
    forgetful: bool = False
    """Manifests do not go on telling of files that earlier snapshots removed, with the bounds of their columns."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A snapshot whose files are written and which the catalog does not know yet."""

    snapshot_id: int
    manifests: tuple[ManifestFile, ...]
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]
    locations: tuple[str, ...]


def manifests_of(table: Table, snapshot: Snapshot | None) -> tuple[ManifestFile, ...]:
    """Read which manifests make up a snapshot.

    Raises:
        Invalid: another writer has put delete files into the table; none of our paths applies them.
    """
    if snapshot is None:
        return ()
    found = snapshot.manifests(table.io)
    # One whose files are all gone only says so; rewriting the data files leaves such.
    if any(
        m.content != ManifestContent.DATA and (m.has_added_files() or m.has_existing_files()) for m in found
    ):
        name = ".".join(table.name())
        raise Invalid(
            f"reading table {name}: snapshot {snapshot.snapshot_id} {DELETE_FILES}, of a merge-on-read by another "
            f"engine; run there: CALL profilelake.system.rewrite_data_files(table => '{name}', "
            "options => map('delete-file-threshold', '1', 'remove-dangling-deletes', 'true')); "
            "and set write.delete.mode, write.update.mode and write.merge.mode to copy-on-write"
        )
    return tuple(m for m in found if m.content == ManifestContent.DATA)


def live_entries(table: Table, manifests: Iterable[ManifestFile]) -> list[ManifestEntry]:
    """Read the data files that the manifests say are part of the table."""
    return [e for m in manifests for e in m.fetch_manifest_entry(table.io, discard_deleted=True)]


def last_sequence_number(metadata: TableMetadata) -> int:
    """Return the number of the newest commit; data files carry the number of theirs."""
    if metadata.format_version == 1:
        raise Invalid(f"reading table {metadata.location}: it is of format version 1; upgrade it to 2")
    return metadata.last_sequence_number


class _Writer:
    """Writes the manifests of one snapshot and remembers which files it made."""

    def __init__(self, table: Table, snapshot_id: int) -> None:
        self.table = table
        self.metadata = table.metadata
        self.snapshot_id = snapshot_id
        self.uuid = uuid.uuid4()
        self.locations: list[str] = []

    def new_location(self, name: str) -> str:
        location = f"{self.metadata.location}/metadata/{name}"
        self.locations.append(location)
        return location

    def manifest(self, spec: PartitionSpec) -> ManifestWriter:
        location = self.new_location(f"{self.uuid}-m{len(self.locations)}.avro")
        return write_manifest(
            format_version=2,
            spec=spec,
            schema=self.metadata.schema(),
            output_file=self.table.io.new_output(location),
            snapshot_id=self.snapshot_id,
            avro_compression=_AVRO,
        )

    def added(self, files: Sequence[DataFile]) -> ManifestFile:
        with self.manifest(self.metadata.spec()) as writer:
            for data_file in files:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=self.snapshot_id, data_file=data_file
                )
                writer.add_entry(entry)
        return writer.to_manifest_file()

    def without(
        self, manifest: ManifestFile, removed: frozenset[str]
    ) -> tuple[ManifestFile, list[DataFile]] | None:
        """Rewrite a manifest with files marked as deleted; None when it has none of them."""
        entries = manifest.fetch_manifest_entry(self.table.io, discard_deleted=True)
        gone = [e.data_file for e in entries if e.data_file.file_path in removed]
        if not gone:
            return None
        with self.manifest(self.metadata.specs()[manifest.partition_spec_id]) as writer:
            for entry in entries:
                if entry.data_file.file_path in removed:
                    writer.delete(entry)
                else:
                    writer.existing(entry)
        return writer.to_manifest_file(), gone

    def living(self, manifest: ManifestFile) -> ManifestFile:
        """Rewrite a manifest without what it says of files that are gone."""
        with self.manifest(self.metadata.specs()[manifest.partition_spec_id]) as writer:
            for entry in live_entries(self.table, [manifest]):
                writer.existing(entry)
        return writer.to_manifest_file()

    def merged(self, manifests: Sequence[ManifestFile]) -> list[ManifestFile]:
        """Replace the small manifests of earlier snapshots by one per partition spec."""
        kept: list[ManifestFile] = []
        small: dict[int, list[ManifestFile]] = {}
        for manifest in manifests:
            ours = manifest.added_snapshot_id == self.snapshot_id
            if ours or manifest.manifest_length >= MANIFEST_BYTES_MERGED:
                kept.append(manifest)
            else:
                small.setdefault(manifest.partition_spec_id, []).append(manifest)
        for spec_id, group in small.items():
            entries = live_entries(self.table, group)
            if len(group) == 1 or not entries:
                kept.extend(group if entries else ())
                continue
            with self.manifest(self.metadata.specs()[spec_id]) as writer:
                for entry in entries:
                    writer.existing(entry)
            kept.append(writer.to_manifest_file())
        return kept


def stage(table: Table, held: Sequence[ManifestFile], change: Change, now_ms: int) -> Staged:
    """Write the metadata of the snapshot that follows the table's current one.

    `held` are the manifests of the current snapshot. The request asserts that snapshot as its
    parent, so it can never be applied to another state than it was made from.
    """
    metadata = table.metadata
    parent = metadata.current_snapshot()
    writer = _Writer(table, metadata.new_snapshot_id())
    manifests = [writer.added(change.added)] if change.added else []
    gone: list[DataFile] = []
    for manifest in held:
        if not (manifest.has_added_files() or manifest.has_existing_files()):
            continue  # Only says what its snapshot removed; the next snapshot need not repeat it.
        rewritten = writer.without(manifest, change.removed) if change.removed else None
        if rewritten is None:
            manifests.append(
                writer.living(manifest) if change.forgetful and manifest.deleted_files_count else manifest
            )
        else:
            manifests.append(rewritten[0])
            gone.extend(rewritten[1])
    if len(gone) != len(change.removed):
        missing = sorted(change.removed - {f.file_path for f in gone})
        raise Internal(f"writing a snapshot of {'.'.join(table.name())}: {missing} are not part of the table")
    if len(manifests) >= change.manifests_max:
        manifests = writer.merged(manifests)

    sequence_number = last_sequence_number(metadata) + 1
    for manifest in manifests:
        # What the list writer would write is set on the objects too, so that they can be kept for
        # the next commit instead of being read back.
        if manifest.added_snapshot_id == writer.snapshot_id:
            manifest.sequence_number = sequence_number
            if manifest.min_sequence_number == -1:
                manifest.min_sequence_number = sequence_number
    parent_id = parent.snapshot_id if parent else None
    list_location = writer.new_location(f"snap-{writer.snapshot_id}-0-{writer.uuid}.avro")
    with write_manifest_list(
        format_version=2,
        output_file=table.io.new_output(list_location),
        snapshot_id=writer.snapshot_id,
        parent_snapshot_id=parent_id,
        sequence_number=sequence_number,
        avro_compression=_AVRO,
    ) as list_writer:
        list_writer.add_manifests(manifests)

    summary = _summary(metadata, parent, change, gone)
    snapshot = Snapshot.model_validate(
        {
            "snapshot-id": writer.snapshot_id,
            "parent-snapshot-id": parent_id,
            "manifest-list": list_location,
            "sequence-number": sequence_number,
            # A clock that was set back must not make a snapshot older than its parent.
            "timestamp-ms": max(now_ms, metadata.last_updated_ms),
            "summary": summary,
            "schema-id": metadata.current_schema_id,
        }
    )
    updates: list[TableUpdate] = [
        AddSnapshotUpdate(snapshot=snapshot),
        SetSnapshotRefUpdate.model_validate(
            {"ref-name": MAIN_BRANCH, "type": SnapshotRefType.BRANCH, "snapshot-id": writer.snapshot_id}
        ),
    ]
    if change.properties:
        updates.append(SetPropertiesUpdate(updates=dict(change.properties)))
    if change.expired:
        updates.append(forgetting(change.expired))
    return Staged(
        snapshot_id=writer.snapshot_id,
        manifests=tuple(manifests),
        requirements=unmoved(metadata),
        updates=tuple(updates),
        locations=tuple(writer.locations),
    )


def unmoved(metadata: TableMetadata) -> tuple[TableRequirement, ...]:
    """Return the requirements that the table is the same and its newest snapshot still this one."""
    current = metadata.current_snapshot_id
    return (
        AssertTableUUID(uuid=metadata.table_uuid),
        AssertRefSnapshotId.model_validate({"ref": MAIN_BRANCH, "snapshot-id": current}),
    )


def forgetting(snapshot_ids: Sequence[int]) -> TableUpdate:
    """Return the update that removes snapshots from the metadata."""
    return RemoveSnapshotsUpdate.model_validate({"snapshot-ids": list(snapshot_ids)})


def _summary(
    metadata: TableMetadata, parent: Snapshot | None, change: Change, gone: Sequence[DataFile]
) -> Summary:
    collector = SnapshotSummaryCollector()
    schema, specs = metadata.schema(), metadata.specs()
    for data_file in change.added:
        collector.add_file(data_file, schema, specs[data_file.spec_id])
    for data_file in gone:
        collector.remove_file(data_file, schema, specs[data_file.spec_id])
    # The library counts totals for a `replace` like for any other change, but refuses its name.
    counted = Operation.OVERWRITE if change.operation is Operation.REPLACE else change.operation
    summary = update_snapshot_summaries(
        summary=Summary(operation=counted, **collector.build(), **change.summary),
        previous_summary=parent.summary if parent else None,
    )
    return Summary(change.operation, **summary.additional_properties)
