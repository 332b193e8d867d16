"""An append-only table: rows and the progress behind them in one snapshot, exactly once."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import TableRequirement, TableUpdate

from profilelake.errors import Conflict, Internal, Invalid, Unavailable
from profilelake.lake import maintenance
from profilelake.lake.catalog_answers import NotCommitted
from profilelake.lake.commit import (
    Change,
    Staged,
    forgetting,
    last_sequence_number,
    live_entries,
    manifests_of,
    stage,
    unmoved,
)
from profilelake.lake.compaction import Compacted, Policy, next_step, steps
from profilelake.lake.data_files import write_data_files
from profilelake.lake.file_io import storage_behind
from profilelake.lake.gathering import Gathered, Group, gather, group_of
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.maintenance import Swept
from profilelake.lake.progress import PREFIX, Progress
from profilelake.lake.rewriting import Rewritten
from profilelake.lake.schema import ARROW_PER_PARQUET, FILE_BYTES_TARGET, checked, partitions
from profilelake.lake.sql import LiveFile
from profilelake.lake.tables import TableDef
from profilelake.ops.failpoints import reach

COMMIT_ATTEMPTS_MAX: Final = 4
"""We are the only committer of a table, so a conflict is rare, and a row of them means a second one."""

DEFAULT_POLICY: Final = Policy()
_ADDED: Final = PREFIX + "added-files"
"""Of a table: the mark of the files that were taken in last from somebody else."""

_LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What one snapshot did."""

    snapshot_id: int
    parent_id: int | None
    committed_at: int
    operation: str
    summary: Mapping[str, str]


class LakeTable:
    """One Iceberg table that this process alone commits to.

    The table is held between commits and loaded again only after a conflict: its metadata is
    immutable, and the catalog refuses a commit planned from anything but the newest.
    """

    def __init__(self, table: Table, definition: TableDef, clock: Callable[[], int]) -> None:
        self.definition = definition
        self.keep_from: int | None = None
        """The oldest snapshot that a reader known to us still needs; expiry keeps it and all after it."""
        self.storage = storage_behind(table)
        """Where its files lie."""
        self._table = table
        self._clock = clock
        self._lock = threading.RLock()
        self._stale = False
        self._manifests: tuple[int, tuple[ManifestFile, ...]] | None = None

    @property
    def name(self) -> str:
        """The name with its namespace, as other engines write it."""
        return ".".join(self._table.name())

    def location(self) -> str:
        """Return the folder of the table, for engines that are given one."""
        return self._table.location()

    def metadata_location(self) -> str:
        """Return the metadata file of the newest snapshot, for engines without a catalog."""
        return self._table.metadata_location

    def properties(self) -> Mapping[str, str]:
        """Return the table's properties."""
        with self._lock:
            self._refresh_if_stale()
            return self._table.properties

    def refresh(self) -> None:
        """Load the table as it is in the catalog now; needed only where another process commits."""
        with self._lock:
            self._stale = True
            self._refresh_if_stale()

    def progress(self) -> Progress | None:
        """Return the progress of the newest snapshot that carries one; None for a new table."""
        with self._lock:
            self._refresh_if_stale()
            bearer = maintenance.bearer(self._table.metadata)
        return None if bearer is None or bearer.summary is None else Progress.from_properties(bearer.summary)

    def snapshots(self) -> list[SnapshotInfo]:
        """Return the snapshots that still exist, oldest first; times in microseconds."""
        return [
            SnapshotInfo(
                snapshot_id=s.snapshot_id,
                parent_id=s.parent_snapshot_id,
                committed_at=s.timestamp_ms * 1000,
                operation=s.summary.operation.value if s.summary else "",
                summary=dict(s.summary.additional_properties) if s.summary else {},
            )
            for s in self._table.metadata.snapshots
        ]

    def files(self) -> list[LiveFile]:
        """Return the data files of the newest snapshot, in no particular order."""
        with self._lock:
            self._refresh_if_stale()
            return [LiveFile.of(e) for e in live_entries(self._table, self._held_manifests())]

    def last_file_sequence(self) -> int:
        """Return the number of the newest commit; data files of later commits have greater ones."""
        return last_sequence_number(self._table.metadata)

    def schema(self) -> Schema:
        """Return the Iceberg schema, for planning a read."""
        return self._table.schema()

    def field_id(self, column: str) -> int:
        """Return the id by which Iceberg knows a column."""
        return self._table.schema().find_field(column).field_id

    def scan(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """Read rows of the newest snapshot into memory; all columns unless some are named."""
        schema = self.definition.schema()
        names = list(columns or schema.names)
        files = self.files()
        return self._read(files, names, filter) if files else schema.empty_table().select(names)

    def append(
        self, rows: pa.Table | Iterable[pa.Table], progress: Progress, *, always: bool = False
    ) -> bool:
        """Add `rows` and the progress they bring in one snapshot.

        Rows may come in parts, each of which becomes files of its own, so that they need not fit into
        memory. Returns False, with nothing written, when the table already has this progress: a retry
        after a lost answer is normal. Without rows nothing is committed either, unless `always`.

        Raises:
            Conflict: the progress is of an epoch that has ended, or another process commits here.
            Internal: the rows are not those of the definition.
            Unavailable: the outcome is unknown or the disk is full; the same call may be repeated.
        """

        def missing() -> bool:
            held = self.progress()
            if held is not None and progress.epoch < held.epoch:
                raise Conflict(
                    f"appending to {self.name}: epoch {progress.epoch!r} has ended, the table is in "
                    f"{held.epoch!r}; stop this writer"
                )
            return held is None or not held.covers(progress)

        if not missing():
            return False
        # The rows do not depend on the snapshot: they are written once, before the table is locked.
        written = self._written([rows] if isinstance(rows, pa.Table) else rows)
        if not (written or always):
            return False
        change = Change(Operation.APPEND, added=written, summary=progress.properties())
        reach("lake.written")
        return self.commit(lambda: change if missing() else None, change.added)

    def append_with(self, files: Sequence[HandedFile], progress: Progress) -> bool:
        """Do what `append` does, always, with files that others wrote (`files_elsewhere`).

        Raises:
            Conflict: as `append`.
            Unavailable: as `append`.
        """
        change = Change(
            Operation.APPEND, added=[file.data_file() for file in files], summary=progress.properties()
        )

        def plan() -> Change | None:
            held = self.progress()
            if held is not None and progress.epoch < held.epoch:
                raise Conflict(
                    f"appending to {self.name}: epoch {progress.epoch!r} has ended; stop this writer"
                )
            return None if held is not None and held.covers(progress) else change

        return self.commit(plan, change.added)

    def _written(self, parts: Iterable[pa.Table]) -> list[DataFile]:
        """Write parts into files; when one of them cannot be written, none is left behind."""
        written: list[DataFile] = []
        try:
            for part in parts:
                rows = checked(self.definition, part)
                if rows.num_rows:
                    written += self.write(rows)
        except BaseException:
            self.storage.remove(f.file_path for f in written)
            raise
        return written

    def rewrite(self, removed: Iterable[str], rows: pa.Table, *, same_rows: bool) -> bool:
        """Put `rows` in the place of whole data files, keeping the progress.

        `same_rows` says that only the layout changes (compaction); readers of increments then skip
        the snapshot. Otherwise rows have gone or changed (erasure).

        Raises:
            Conflict: one of the files is no longer part of the table; read it again.
            Internal: a compaction changes the number of rows.
        """
        rows = checked(self.definition, rows)
        gone = frozenset(removed)
        if not gone:
            return False
        before = sum(f.rows for f in self.files() if f.location in gone)
        if same_rows and before != rows.num_rows:
            raise Internal(
                f"compacting {self.name}: {before} rows became {rows.num_rows}; nothing was changed"
            )
        return self._replace_files(
            Operation.REPLACE if same_rows else Operation.OVERWRITE, gone, self.write(rows)
        )

    def _replace_files(self, operation: Operation, gone: frozenset[str], added: Sequence[DataFile]) -> bool:
        def plan() -> Change:
            self._check_there(gone)
            return Change(operation, added=added, removed=gone, summary=self.carried())

        return self.commit(plan, added)

    def _check_there(self, locations: frozenset[str]) -> None:
        if lost := locations - {f.location for f in self.files()}:
            raise Conflict(f"rewriting files of {self.name}: {sorted(lost)} are gone; read the table again")

    def replace(self, parts: Iterable[pa.Table], progress: Progress) -> int:
        """Put these rows in the place of all there are, in one snapshot; return how many they are.

        Raises:
            Conflict: another process commits here.
            Internal: the rows are not those of the definition.
            Unavailable: the outcome is unknown or the disk is full; the same may be done again.
        """
        added: list[DataFile] = []
        rows = 0
        try:
            for part in parts:
                added += self.write(checked(self.definition, part))
                rows += part.num_rows
        except BaseException:
            self.storage.remove(file.file_path for file in added)
            raise
        reach("lake.written")

        def plan() -> Change:
            gone = frozenset(file.location for file in self.files())
            operation = Operation.OVERWRITE if gone else Operation.APPEND
            return Change(operation, added=added, removed=gone, summary=progress.properties())

        self.commit(plan, added)
        return rows

    def compact(
        self,
        open_from: int | None,
        policy: Policy = DEFAULT_POLICY,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Compacted | None:
        """Make fewer files, in the order of the table, out of small ones; None when all is well.

        One step, bounded by `policy`, in bounded memory. Partitions below `open_from` are closed, all of
        them where it is None. Appends go on meanwhile: only the swap locks the table. The new files are
        read back and hold the same rows before the old ones go.

        Raises:
            Conflict: a file went meanwhile; call again.
            Corrupt: the rows read back are not those that were there; nothing was changed.
            Unavailable: stopped, memory or disk full; nothing was changed.
        """
        files = next_step(self.files(), open_from, policy)
        if not files:
            return None
        done = gather(self.files_elsewhere(), self.storage, group_of(files, policy), stopping)
        self.commit_gathered([done])
        return done.compacted()

    def groups(self, open_from: int | None, policy: Policy = DEFAULT_POLICY) -> list[Group]:
        """Return what `compact` would do step by step and several processes may do at once, for `gather`."""
        return [group_of(files, policy) for files in steps(self.files(), open_from, policy)]

    def commit_gathered(self, done: Sequence[Gathered]) -> bool:
        """Put what was gathered in the place of the groups, all in one snapshot.

        Raises:
            Conflict: a file of a group is no part of the table any more; plan again.
        """
        gone = frozenset(location for one in done for location in one.group.locations)
        added = [file.data_file() for one in done for file in one.files]
        swapped = bool(gone) and self._replace_files(Operation.REPLACE, gone, added)
        reach("compact.committed")
        return swapped

    def commit_rewritten(
        self, done: Sequence[Rewritten], account: Callable[[Progress], Progress] = lambda held: held
    ) -> bool:
        """Put files from which rows have gone, or in which rows have changed, in the place of what they were.

        All in one snapshot. `account` says what the progress is then: rows that have gone are to be counted
        somewhere else.

        Raises:
            Conflict: one of the files is no part of the table any more; plan again.
        """
        gone = frozenset(one.location for one in done)
        added = [file.data_file() for one in done for file in one.files]
        if not gone:
            return False

        def plan() -> Change:
            self._check_there(gone)
            held = self.progress()
            summary = {} if held is None else account(held).properties()
            return Change(Operation.OVERWRITE, added=added, removed=gone, summary=summary)

        return self.commit(plan, added)

    def add_files(self, files: Sequence[HandedFile], mark: str) -> bool:
        """Take in files that others wrote, in one snapshot that brings no progress; once for each mark.

        False, with nothing changed, where the last files that were taken in so bore this mark.
        """
        added = [file.data_file() for file in files]

        def plan() -> Change | None:
            if not added or self.properties().get(_ADDED) == mark:
                return None
            return Change(Operation.APPEND, added=added, summary=self.carried(), properties={_ADDED: mark})

        return self.commit(plan)

    def write(self, rows: pa.Table) -> list[DataFile]:
        """Write rows into data files that no snapshot names yet.

        Raises:
            Unavailable: the disk is full; nothing is left behind.
        """
        try:
            return write_data_files(
                self.storage,
                self._table.metadata,
                partitions(self.definition, rows),
                ARROW_PER_PARQUET * FILE_BYTES_TARGET,
            )
        except OSError as error:
            raise Unavailable(
                f"writing files of {self.name}: {error}; nothing was committed, free space and retry"
            ) from error

    def files_elsewhere(self) -> TableFiles:
        """Return what writes files of this table in other processes, for `commit` to take."""
        return TableFiles(self.definition, self._table.metadata.model_dump_json(), self.storage)

    def carried(self) -> dict[str, str]:
        """Return the summary properties that repeat the progress in a commit that brings none."""
        progress = self.progress()
        return {} if progress is None else progress.properties()

    def commit(self, plan: Callable[[], Change | None], written: Sequence[DataFile] = ()) -> bool:
        """Commit what `plan` makes of the newest snapshot; False when it makes nothing of it.

        `plan` is asked again after each conflict, so it must look at the table each time; `written`
        are files it may name. Files of a commit that certainly failed are removed; where the
        outcome stays unknown they are kept, since the commit may yet arrive, and the next call or
        sweep decides.
        """
        unnamed = {f.file_path for f in written}
        certain = True
        with self._lock:
            try:
                for _ in range(COMMIT_ATTEMPTS_MAX):
                    self._refresh_if_stale()
                    try:
                        change = plan()
                        if change is None:
                            return False
                        unnamed.update(f.file_path for f in change.added)
                        staged = self._stage(change)
                    except OSError as error:
                        raise Unavailable(
                            f"writing files of {self.name}: {error}; nothing was committed, free space and retry"
                        ) from error
                    certain, was_certain = False, certain
                    reach("lake.staged")
                    try:
                        landed = self._swap(staged)
                    except NotCommitted:
                        certain = was_certain
                        raise
                    reach("lake.swapped")
                    certain = was_certain and landed is not None
                    if landed:
                        unnamed.difference_update(f.file_path for f in change.added)
                        return True
            finally:
                if certain:
                    self.storage.remove(unnamed)
        raise Conflict(
            f"committing to {self.name}: {COMMIT_ATTEMPTS_MAX} attempts failed; "
            "see whether another process writes this table, then retry"
        )

    def expire(self) -> int:
        """Forget every snapshot that nothing needs, however young, and return how many.

        Commits do this more gently as they go; this is for erasure and for operators. `keep_from` is
        respected. The files go with the next sweep.
        """
        with self._lock:
            self._refresh_if_stale()
            return self._forget(maintenance.expirable(self._table.metadata, self.keep_from))

    def _forget(self, expired: Sequence[int]) -> int:
        if not expired:
            return 0
        try:
            self._accept(unmoved(self._table.metadata), (forgetting(expired),))
        except CommitFailedException as error:
            raise Conflict(
                f"expiring snapshots of {self.name}: another process moved the table; retry"
            ) from error
        except Exception as error:
            raise Unavailable(f"expiring snapshots of {self.name}: {_said(error)}; retry later") from error
        reach("expire.committed")
        return len(expired)

    def expire_old(self, age_seconds: float, *, dry_run: bool = False) -> int:
        """Forget snapshots older than that which nothing needs, and return how many.

        For tables whose commits are too few to do it. With `dry_run` they are only counted.
        """
        with self._lock:
            self._refresh_if_stale()
            oldest_ms = self._clock() // 1_000_000 - int(age_seconds * 1_000)
            metadata = self._table.metadata
            old = {s.snapshot_id for s in metadata.snapshots if s.timestamp_ms < oldest_ms}
            expired = [s for s in maintenance.expirable(metadata, self.keep_from) if s in old]
            return len(expired) if dry_run else self._forget(expired)

    def merge_manifests(self) -> bool:
        """Gather the manifests of many small commits into one; commits do so at every fiftieth."""
        return self.commit(
            lambda: (
                Change(Operation.REPLACE, summary=self.carried(), manifests_max=2)
                if len(self._held_manifests()) > 1
                else None
            )
        )

    def forget_removed(self) -> bool:
        """Have the newest snapshot tell nothing of files that were removed: not their names, not their bounds.

        False where it does not anyway. The snapshots before it go with `expire`.
        """

        def plan() -> Change | None:
            if not any(manifest.deleted_files_count for manifest in self._held_manifests()):
                return None
            return Change(Operation.REPLACE, summary=self.carried(), forgetful=True)

        return self.commit(plan)

    def unreachable(self) -> list[Swept]:
        """Return the files in the table's folder that no live snapshot reaches."""
        return maintenance.unreachable(self._table)

    def sweep(self, *, min_age_seconds: int, dry_run: bool) -> list[Swept]:
        """Remove files in the table's folder that no live snapshot reaches, and return them.

        Only files older than `min_age_seconds` go, so it must exceed the longest write. With
        `dry_run` they are only returned.
        """
        before = self._clock() // 1_000_000_000 - min_age_seconds
        swept = [f for f in self.unreachable() if f.modified_at < before]
        if not dry_run:
            self.storage.remove(f.location for f in swept)
        return swept

    def _read(
        self, files: Sequence[LiveFile], names: list[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        schema = self.definition.schema()
        # A file from before a column existed has none of it, hence nulls, until the cast below.
        nullable = pa.schema([field.with_nullable(True) for field in schema])
        parts = []
        for file in files:
            with self.storage.input(file.location) as source:
                fragment = ds.ParquetFileFormat().make_fragment(source)
                parts.append(fragment.to_table(schema=nullable, columns=names or schema.names, filter=filter))
        rows = pa.concat_tables(parts)
        return rows.cast(pa.schema([schema.field(n) for n in rows.column_names]))

    def _stage(self, change: Change) -> Staged:
        now_ms = self._clock() // 1_000_000
        expired = maintenance.outdated(self._table.metadata, now_ms, self.keep_from)
        return stage(self._table, self._held_manifests(), replace(change, expired=expired), now_ms)

    def _swap(self, staged: Staged) -> bool | None:
        """Ask the catalog for the staged snapshot: True it is there, False never, None not yet."""
        try:
            self._accept(staged.requirements, staged.updates)
        except CommitFailedException:
            self.storage.remove(staged.locations)
            return False
        except NotCommitted:
            self.storage.remove(staged.locations)
            raise
        except Exception as error:
            # The answer is lost, not necessarily the commit: look before doing anything else. Should
            # the swap still be under way, it and our next attempt name the same parent, so one fails.
            _LOGGER.warning("committing to %s: outcome unknown, looking it up", self.name, exc_info=error)
            try:
                self._refresh_if_stale()
            except Unavailable as second:
                raise Unavailable(
                    f"committing to {self.name}: no answer ({_said(error)}), and none to the look-up ({second}); "
                    "repeat the same call, it looks first"
                ) from error
            return True if self._table.snapshot_by_id(staged.snapshot_id) is not None else None
        self._manifests = (staged.snapshot_id, staged.manifests)
        return True

    def _accept(self, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]) -> None:
        before = self._table.metadata
        self._stale = True
        response = self._table.catalog.commit_table(self._table, requirements, updates)
        self._table.metadata = response.metadata
        self._table.metadata_location = response.metadata_location
        self._stale = False
        if not maintenance.metadata_is_ours(self._table):
            return
        kept = {entry.metadata_file for entry in response.metadata.metadata_log}
        self.storage.remove(e.metadata_file for e in before.metadata_log if e.metadata_file not in kept)

    def _held_manifests(self) -> tuple[ManifestFile, ...]:
        snapshot = self._table.current_snapshot()
        if snapshot is None:
            return ()
        if self._manifests is None or self._manifests[0] != snapshot.snapshot_id:
            try:
                self._manifests = (snapshot.snapshot_id, manifests_of(self._table, snapshot))
            except Invalid:
                self._stale = True  # what another engine did to it, it may have put right the next time
                raise
        return self._manifests[1]

    def _refresh_if_stale(self) -> None:
        if not self._stale:
            return
        try:
            self._table.refresh()
        except Exception as error:
            raise Unavailable(f"loading table {self.name}: {_said(error)}; retry later") from error
        self._stale = False


def _said(error: Exception) -> str:
    """Return the first line of what a catalog or a storage said; some append the whole statement."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
