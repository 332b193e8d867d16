"""What there is to know of the tables without reading their rows: sizes, snapshots, and what changed between two."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

import duckdb
import pyarrow as pa

from profilelake.errors import NotFound
from profilelake.lake import sql
from profilelake.lake.catalog import Lake, PublishedTable, namespace_of
from profilelake.lake.commit import live_entries, manifests_of
from profilelake.lake.current import MERGED_THROUGH
from profilelake.lake.maintenance import bearer
from profilelake.lake.progress import Progress
from profilelake.lake.sql import LiveFile
from profilelake.lake.tables import Part

PARTS: Final[tuple[Part, ...]] = get_args(Part)
"""Namespaces of a workspace, its own first."""
_TIME: Final = pa.timestamp("us", tz="UTC")
_TABLES: Final = pa.schema(
    [
        ("table", pa.string()),
        ("rows", pa.int64()),
        ("files", pa.int64()),
        ("bytes", pa.int64()),
        ("snapshots", pa.int64()),
        ("committed_at", _TIME),
        ("sequence", pa.int64()),
        ("merged_through", pa.int64()),
        ("location", pa.string()),
        ("metadata", pa.string()),
    ]
)
_SNAPSHOTS: Final = pa.schema(
    [
        ("snapshot_id", pa.int64()),
        ("parent_id", pa.int64()),
        ("committed_at", _TIME),
        ("operation", pa.string()),
        ("rows_added", pa.int64()),
        ("rows_removed", pa.int64()),
        ("rows", pa.int64()),
        ("files", pa.int64()),
        ("epoch", pa.string()),
        ("sequence", pa.int64()),
        ("current", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One Iceberg table of a workspace: the name by which SQL knows it, and where it lies."""

    name: str
    part: Part
    bare: str
    published: PublishedTable


def all_tables(lake: Lake, workspace: str) -> Iterator[Shown]:
    """Yield every table of a workspace; those that lie not in `ws_W` itself as `ws_W_sync.<table>`."""
    for part in PARTS:
        for name in lake.names(workspace, part):
            shown = f"{namespace_of(workspace, part)}.{name}" if part else name
            yield Shown(shown, part, name, lake.load(workspace, name, part))


def table_of(lake: Lake, workspace: str, name: str) -> Shown:
    """Return one table by its shown name.

    Raises:
        NotFound: there is none of that name.
    """
    namespace, _, bare = name.rpartition(".")
    for part in PARTS:
        if namespace == namespace_of(workspace, part) or not (namespace or part):
            return Shown(name if part else bare, part, bare, lake.load(workspace, bare, part))
    raise NotFound(f"opening table {name}: no such namespace; see: profilelake lake tables")


def progress_of(published: PublishedTable) -> Progress | None:
    """Return how far a table has come; None where no snapshot of ours says so."""
    snapshot = bearer(published.table.metadata)
    if snapshot is None or snapshot.summary is None:
        return None
    return Progress.from_properties(snapshot.summary.additional_properties)


def tables(lake: Lake, workspace: str) -> pa.Table:
    """Return a row for each table: its size, when it was last committed to and how far it has come."""
    rows = []
    for shown in all_tables(lake, workspace):
        table, files = shown.published.table, shown.published.files
        current, progress = table.current_snapshot(), progress_of(shown.published)
        merged = table.properties.get(MERGED_THROUGH)
        rows.append(
            {
                "table": shown.name,
                "rows": sum(f.rows for f in files),
                "files": len(files),
                "bytes": sum(f.bytes for f in files),
                "snapshots": len(table.metadata.snapshots),
                "committed_at": None if current is None else current.timestamp_ms * 1_000,
                "sequence": None if progress is None else progress.sequence,
                "merged_through": None if merged is None else int(merged),
                "location": table.location().removeprefix("file://"),
                "metadata": table.metadata_location.removeprefix("file://"),
            }
        )
    return pa.Table.from_pylist(rows, schema=_TABLES)


def snapshots(shown: Shown) -> pa.Table:
    """Return a row for each snapshot of a table that is kept, oldest first."""
    metadata = shown.published.table.metadata
    rows = []
    for snapshot in sorted(metadata.snapshots, key=lambda s: s.sequence_number or 0):
        said = dict(snapshot.summary.additional_properties) if snapshot.summary else {}
        progress = Progress.from_properties(said)
        rows.append(
            {
                "snapshot_id": snapshot.snapshot_id,
                "parent_id": snapshot.parent_snapshot_id,
                "committed_at": snapshot.timestamp_ms * 1_000,
                "operation": snapshot.summary.operation.value if snapshot.summary else None,
                "rows_added": int(said.get("added-records", 0)),
                "rows_removed": int(said.get("deleted-records", 0)),
                "rows": int(said.get("total-records", 0)),
                "files": int(said.get("total-data-files", 0)),
                "epoch": None if progress is None else progress.epoch,
                "sequence": None if progress is None else progress.sequence,
                "current": snapshot.snapshot_id == metadata.current_snapshot_id,
            }
        )
    return pa.Table.from_pylist(rows, schema=_SNAPSHOTS)


def files_at(shown: Shown, snapshot_id: int) -> list[LiveFile]:
    """Return the data files of one snapshot.

    Raises:
        NotFound: the table has no such snapshot, or has it no longer.
    """
    table = shown.published.table
    snapshot = table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise NotFound(
            f"reading snapshot {snapshot_id} of {shown.name}: not there, or forgotten; "
            f"see: profilelake lake snapshots {shown.name}"
        )
    return [LiveFile.of(entry) for entry in live_entries(table, manifests_of(table, snapshot))]


def diff(
    connection: duckdb.DuckDBPyConnection, shown: Shown, before: int, after: int, *, counted: bool
) -> pa.Table:
    """Return the rows that one snapshot has and another has not, with `change` = added or removed.

    Rows that only moved to another file, as by compaction, are no change. Files that both have are not
    read. `counted` gives how many instead of which.
    """
    old, new = files_at(shown, before), files_at(shown, after)
    common = {f.location for f in old} & {f.location for f in new}
    schema = shown.published.table.schema()
    was, now = (
        sql.select_files(schema, [f for f in files if f.location not in common]) for files in (old, new)
    )
    changes = (
        f"SELECT 'added' AS change, * FROM (({now}) EXCEPT ALL ({was})) "  # noqa: S608
        f"UNION ALL SELECT 'removed' AS change, * FROM (({was}) EXCEPT ALL ({now}))"
    )
    if not counted:
        return connection.sql(changes).to_arrow_table()
    kinds = "(VALUES ('added'), ('removed')) AS kinds(kind)"
    query = f"SELECT kind AS change, count(change) AS rows FROM {kinds} LEFT JOIN ({changes}) ON kind = change GROUP BY kind ORDER BY kind"  # noqa: S608
    return connection.sql(query).to_arrow_table()


def parent_of(shown: Shown, snapshot_id: int | None) -> tuple[Any, Any]:
    """Return a snapshot (the newest where none is given) and the one before it.

    Raises:
        NotFound: there is none before it any more.
    """
    table = shown.published.table
    snapshot = table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    parent = None if snapshot is None else snapshot.parent_snapshot_id
    if snapshot is None or parent is None or table.snapshot_by_id(parent) is None:
        raise NotFound(
            f"comparing snapshots of {shown.name}: there are not two of them; "
            f"see: profilelake lake snapshots {shown.name}"
        )
    return parent, snapshot.snapshot_id
