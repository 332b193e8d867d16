"""Whether the tables are whole: files there and readable, counts as told, progress never going back.

Reads only, takes no lock, and works beside a committing process. What is wrong is returned, not raised:
all of it is of interest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.exceptions import ValidationError
from pyiceberg.table.snapshots import Snapshot

from profilelake.errors import ProfilelakeError
from profilelake.lake import sql
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.commit import live_entries, manifests_of
from profilelake.lake.current import MERGED_THROUGH, Generation
from profilelake.lake.progress import Progress
from profilelake.lake.retention import Expired
from profilelake.lake.schema import KEY, KIND
from profilelake.lake.showing import Shown, all_tables, progress_of
from profilelake.lake.sql import LiveFile
from profilelake.lake.storage import Storage

UNREADABLE: Final = (ValueError, ValidationError, OSError, ProfilelakeError, EOFError, KeyError)
"""What the library says of metadata and manifests that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    table: str
    what: str
    detail: str


def check_tables(
    lake: Lake, workspace: str, connection: duckdb.DuckDBPyConnection, *, quick: bool
) -> Iterator[Problem]:
    """Yield what is wrong with the tables of a workspace.

    `quick` looks at metadata, manifests, presence and sizes of files only; otherwise every row is read
    and every page held against its checksum.
    """
    lake.storage.attach(connection)
    for shown in all_tables(lake, workspace):
        try:
            yield from _check(lake, workspace, shown, connection, quick)
        except UNREADABLE as error:
            yield Problem(shown.name, "metadata", f"cannot be read: {error}")
    if not quick:
        yield from _conservation(lake, workspace, connection)


def _check(
    lake: Lake, workspace: str, shown: Shown, connection: duckdb.DuckDBPyConnection, quick: bool
) -> Iterator[Problem]:
    storage = shown.published.storage
    location = shown.published.table.location()
    # One listing costs less than a question for each file.
    there = {storage.place(file.location): file.bytes for file in storage.list(location)}
    yield from _check_snapshots(lake, workspace, shown, there)
    yield from _check_progress(shown)
    for file in shown.published.files:
        found = _check_file(storage, file, there, quick)
        if found is not None and _still_there(lake, workspace, shown, file):
            yield Problem(shown.name, *found)
    if shown.published.table.properties.get(KIND) == "current":
        yield from _check_base(lake, workspace, shown, connection, quick)


def _check_snapshots(lake: Lake, workspace: str, shown: Shown, there: Mapping[str, int]) -> Iterator[Problem]:
    """Every snapshot that is kept can be read, and says what its manifests say."""
    for snapshot in shown.published.table.metadata.snapshots:
        problems = list(_check_snapshot(shown, snapshot, there))
        newest = lake.load(workspace, shown.bare, shown.part) if problems else shown.published
        # One that was forgotten while we looked may have lost its files by now.
        if newest.table.snapshot_by_id(snapshot.snapshot_id) is not None:
            yield from problems


def _check_snapshot(shown: Shown, snapshot: Snapshot, there: Mapping[str, int]) -> Iterator[Problem]:
    storage = shown.published.storage
    table, name = shown.published.table, f"snapshot {snapshot.snapshot_id}"
    try:
        entries = live_entries(table, manifests_of(table, snapshot))
    except UNREADABLE as error:
        yield Problem(shown.name, "manifests", f"{name} cannot be read: {error}")
        return
    said = dict(snapshot.summary.additional_properties) if snapshot.summary else {}
    counted = {
        "total-records": sum(e.data_file.record_count for e in entries),
        "total-data-files": len(entries),
    }
    for what, count in counted.items():
        if what in said and int(said[what]) != count:
            yield Problem(shown.name, "manifests", f"{name}: {what} {said[what]}, its manifests {count}")
    for entry in entries:
        location = entry.data_file.file_path
        if _bytes(storage, location, there) is None:
            yield Problem(shown.name, "files", f"{name}: {location} is missing")


def _check_progress(shown: Shown) -> Iterator[Problem]:
    """From snapshot to snapshot nothing goes back: epoch, sequence, vector, totals."""
    metadata = shown.published.table.metadata
    before: Progress | None = None
    for snapshot in sorted(metadata.snapshots, key=lambda s: s.sequence_number or 0):
        said = snapshot.summary.additional_properties if snapshot.summary else {}
        progress = Progress.from_properties(said)
        if progress is None:
            continue
        if before is not None and (gone := _gone_back(before, progress)):
            yield Problem(shown.name, "progress", f"snapshot {snapshot.snapshot_id}: {gone}")
        before = progress


def _gone_back(before: Progress, after: Progress) -> str:
    if after.epoch < before.epoch:
        return f"epoch {before.epoch!r} became {after.epoch!r}"
    if after.epoch == before.epoch and after.sequence < before.sequence:
        return f"sequence {before.sequence} became {after.sequence}"
    for log, (offset, events) in before.vector.items():
        then = after.vector.get(log, (-1, -1))
        if then[0] < offset or then[1] < events:
            return f"log {log} at {offset} with {events} events became {then[0]} with {then[1]}"
    return _less(before.totals, after.totals)


def _less(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    # What is in the lake may become less: an erasure moves events from there to `erased`.
    for name, count in before.items():
        if name != "in_lake" and after.get(name, 0) < count:
            return f"total {name} {count} became {after.get(name, 0)}"
    return ""


def _bytes(storage: Storage, location: str, there: Mapping[str, int]) -> int | None:
    """Return the size of a file as it was listed; of one that came since, as it is."""
    held = there.get(storage.place(location))
    return storage.size(location) if held is None else held


def _check_file(
    storage: Storage, file: LiveFile, there: Mapping[str, int], quick: bool
) -> tuple[str, str] | None:
    path = storage.place(file.location)
    try:
        size = _bytes(storage, file.location, there)
        if size is None:
            return "files", f"{path} is missing"
        if size != file.bytes:
            return "files", f"{path} has {size} bytes, its manifest says {file.bytes}"
        if quick:
            return None
        with (
            storage.input(file.location) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as opened,
        ):
            rows = sum(
                opened.read_row_group(group).num_rows for group in range(opened.metadata.num_row_groups)
            )
    except FileNotFoundError:
        return "files", f"{path} is missing"
    except (OSError, pa.ArrowException) as error:
        return "files", f"{path} cannot be read: {error}"
    return None if rows == file.rows else ("rows", f"{path} has {rows} rows, its manifest says {file.rows}")


def _still_there(lake: Lake, workspace: str, shown: Shown, file: LiveFile) -> bool:
    """Tell whether a file is part of the table now: maintenance may have replaced it while we looked."""
    newest = lake.load(workspace, shown.bare, shown.part)
    return any(held.location == file.location for held in newest.files)


def _check_base(
    lake: Lake, workspace: str, base: Shown, connection: duckdb.DuckDBPyConnection, quick: bool
) -> Iterator[Problem]:
    """A base has each key once, and its log has what it does not have yet."""
    table = base.published.table
    generation = Generation.of_base(table.properties)
    log = lake.load(workspace, f"{base.bare}_changes", base.part)
    if Generation.cut(log.table.properties) > generation and not _moved_on(lake, workspace, base):
        yield Problem(
            base.name, "log", f"cut through {Generation.cut(log.table.properties)}, base at {generation}"
        )
    progress, of_log = progress_of(base.published), progress_of(log)
    through = int(table.properties.get(MERGED_THROUGH, "-1"))
    newest = max((p.sequence for p in (progress, of_log) if p is not None), default=-1)
    if through > newest:
        yield Problem(base.name, "progress", f"merged through {through}, but nothing is beyond {newest}")
    if quick:
        return
    key = sql.identifier(table.properties[KEY])
    rows = sql.select_files(table.schema(), base.published.files)
    query = f"SELECT count(*) - count(DISTINCT {key}) FROM ({rows})"  # noqa: S608
    repeated = connection.sql(query).fetchall()[0][0]
    if repeated:
        yield Problem(base.name, "rows", f"{repeated} rows have a key that another row has")


def _moved_on(lake: Lake, workspace: str, base: Shown) -> bool:
    """Tell whether the base was merged since it was loaded; its log may be ahead of the old one then."""
    return (
        lake.load(workspace, base.bare, base.part).table.metadata_location
        != base.published.table.metadata_location
    )


_COUNTED: Final = (("events", "in_lake"), ("failed_events", "failed"))


def _conservation(lake: Lake, workspace: str, connection: duckdb.DuckDBPyConnection) -> Iterator[Problem]:
    """Tables of facts have as many rows as their own snapshots account for, each event once."""
    known = lake.names(workspace)
    for name, total in _COUNTED:
        if name not in known:
            continue
        published = lake.load(workspace, name)
        progress = progress_of(published)
        if progress is None:
            continue
        rows, gone = sum(f.rows for f in published.files), Expired.of(published.table.properties).rows
        if rows + gone != progress.totals.get(total, 0):
            said = progress.totals.get(total, 0)
            yield Problem(
                name, "conservation", f"{rows} rows and {gone} expired, its snapshot accounts for {said}"
            )
        read = sum(events for _, events in progress.vector.values())
        if sum(progress.totals.values()) != read:
            told = sum(progress.totals.values())
            yield Problem(name, "conservation", f"{told} events accounted for, {read} were read off the log")
        if name == "events":
            yield from _repeated(published, connection)


def _repeated(published: PublishedTable, connection: duckdb.DuckDBPyConnection) -> Iterator[Problem]:
    rows = sql.select_files(published.table.schema(), published.files)
    query = f"SELECT count(*) - count(DISTINCT message_id) FROM ({rows})"  # noqa: S608
    repeated = connection.sql(query).fetchall()[0][0]
    if repeated:
        yield Problem("events", "conservation", f"{repeated} events are there more than once")
