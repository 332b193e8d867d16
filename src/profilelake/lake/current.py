"""Tables of current state: a base, and an append-only log of the changes it does not have yet.

There is no commit over two tables, so the base says how much of the log it contains, and the log
is cut one generation late: whoever has planned a read of the previous base still finds its changes.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile
from pyiceberg.table.snapshots import Operation

from profilelake.errors import Conflict, Internal, Unavailable
from profilelake.lake import sql
from profilelake.lake.commit import Change
from profilelake.lake.data_files import keep_young
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.progress import PREFIX, Progress
from profilelake.lake.schema import BUCKET_WIDTH, bucket_of, checked
from profilelake.lake.sql import LiveFile
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef
from profilelake.ops.failpoints import reach

MERGED_THROUGH: Final = PREFIX + "merged-through"
"""Of the base: the highest `seq` of the log it contains. Part of what other engines may rely on."""
_MERGED_FILES: Final = PREFIX + "merged-files-through"
_PREVIOUS: Final = PREFIX + "merged-previously"
_CUT: Final = PREFIX + "cut-through"
_REPLACED: Final = PREFIX + "replaced-at"

MERGE_MEMORY_LIMIT: Final = "1GB"


@dataclass(frozen=True, slots=True, order=True)
class Generation:
    """How much of the log a base contains: all files up to a commit, and of the rest rows up to `through`.

    `files_through` moves only when an epoch ends and its sequence begins anew; `through` alone would
    then hide the new rows behind the old.
    """

    files_through: int
    through: int

    @classmethod
    def of_base(cls, properties: Mapping[str, str]) -> "Generation":
        """Read the generation of a base from its table properties."""
        return cls(int(properties.get(_MERGED_FILES, "0")), int(properties.get(MERGED_THROUGH, "-1")))

    @classmethod
    def cut(cls, properties: Mapping[str, str]) -> "Generation":
        """Read from a log's table properties how much of it is gone."""
        return cls._parsed(properties.get(_CUT))

    @classmethod
    def previous(cls, properties: Mapping[str, str]) -> "Generation":
        """Read from a base's table properties what the base before it contained."""
        return cls._parsed(properties.get(_PREVIOUS))

    @classmethod
    def _parsed(cls, value: str | None) -> "Generation":
        files_through, through = (value or "0/-1").split("/")
        return cls(int(files_through), int(through))

    def __str__(self) -> str:
        return f"{self.files_through}/{self.through}"


@dataclass(frozen=True, slots=True)
class Merging:
    """What a merge takes: changes in these files of the log, and for each bucket the files of the base.

    A value that passes between processes; made by `CurrentTable.merging`, for `commit_merged`.
    """

    definition: TableDef
    base: TableFiles
    log: TableFiles
    base_files: Mapping[int | None, Sequence[str]]
    pending: Sequence[str]
    generation: Generation
    through: int
    brought: Progress | None
    """How far the base will have come."""

    def rows(self, connection: duckdb.DuckDBPyConnection, base: str, newest: str) -> pa.Table:
        """Return the current rows, in their order, of a SELECT of base rows and one of their newest changes."""
        names = [column.name for column in self.definition.columns]
        merged = sql.select_current(base, newest, str(self.definition.key), names)
        rows = connection.sql(merged).to_arrow_table().cast(self.definition.schema())
        return in_key_order(self.definition, rows)


class CurrentTable:
    """A base and its log, read as one table and written as changes.

    `seq` of a change is on the scale of `Progress.sequence` and never goes back within an epoch. A
    new epoch begins with `replace`, because its sequence says nothing about the old rows.
    """

    def __init__(self, definition: TableDef, base: LakeTable, log: LakeTable) -> None:
        if definition.key is None:
            raise Internal(f"opening current table {definition.name}: no key")
        self.definition = definition
        self.base = base
        self.log = log
        self._key = definition.key

    def progress(self) -> Progress | None:
        """Return how far base and log together have come; None for a new table."""
        known = [p for p in (self.base.progress(), self.log.progress()) if p is not None]
        return max(known, key=lambda p: (p.epoch, p.sequence), default=None)

    def append_changes(self, changes: pa.Table, progress: Progress, *, always: bool = False) -> bool:
        """Add changes (columns `seq` and `op`, then the table's) to the log in one snapshot.

        Returns False, with nothing written, when the table already has this progress. A key
        changes at most once per `seq`; a deletion needs key and slot only.

        Raises:
            Conflict: the progress is of another epoch; begin a new one with `replace`.
            Internal: rows are not those of the definition, or their `seq` is not after the
                progress held and up to the progress brought.
        """
        changes = checked(self.log.definition, changes)
        held = self.progress()
        if held is not None:
            if held.covers(progress):
                return False
            if held.epoch != progress.epoch:
                raise Conflict(
                    f"changing {self.base.name}: it is in epoch {held.epoch!r}, the changes are of "
                    f"{progress.epoch!r}; stop an old writer, or begin the new epoch with a whole replacement"
                )
        if changes.num_rows:
            self._check_changes(changes, -1 if held is None else held.sequence, progress.sequence)
        return self.log.append(changes, progress, always=always)

    def merge(self, progress: Progress | None = None) -> bool:
        """Fold the log into the base, bucket by bucket, then cut what the base before it had.

        Returns False when the log has nothing new. May be stopped anywhere and repeated: the base
        and what it contains change in one commit, and cutting only forgets what is in two bases.
        """

        merged = self._merge(progress)
        self._cut()
        return merged

    def _merge(self, progress: Progress | None) -> bool:
        merging = self.merging(progress)
        if merging is None:
            return False
        # The new base is made while changes go on; only the swap locks the table.
        with tempfile.TemporaryDirectory(prefix="profilelake-merge-") as spill:
            connection = sql.connect(MERGE_MEMORY_LIMIT, spill, self.base.storage)
            try:
                buckets, added = self._merged(connection, merging)
            except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
                raise Unavailable(
                    f"merging {self.base.name}: {error}; nothing was changed, free memory or disk and retry"
                ) from error
            except duckdb.Error as error:
                fault = sql.storage_fault(error)
                if fault is None:
                    raise
                raise Unavailable(f"merging {self.base.name}: {fault}; nothing was changed") from error
            finally:
                connection.close()
        return self._commit_merged(merging, buckets, added)

    def merging(self, progress: Progress | None = None) -> Merging | None:
        """Return what a merge would take now; None where the log has nothing new."""
        generation = Generation.of_base(self.base.properties())
        # Read before the log's files, so that it speaks of no change they lack.
        brought = progress or self.log.progress()
        pending = self._pending(generation)
        if not pending:
            return None
        seq = self.log.field_id("seq")
        base_files: dict[int | None, list[str]] = {}
        for file in self.base.files():
            base_files.setdefault(file.partition, []).append(file.location)
        return Merging(
            definition=self.definition,
            base=self.base.files_elsewhere(),
            log=self.log.files_elsewhere(),
            base_files=base_files,
            pending=[file.location for file in pending],
            generation=generation,
            through=max(_highest(file, seq) for file in pending),
            brought=brought,
        )

    def commit_merged(
        self, merging: Merging, buckets: Iterable[int | None], files: Sequence[HandedFile]
    ) -> bool:
        """Put what others merged, bucket by bucket, in the place of the base, then cut the log as `merge` does.

        `buckets` are all those with changes. False where somebody has replaced or merged the base meanwhile.
        """
        merged = self._commit_merged(merging, buckets, [file.data_file() for file in files])
        self._cut()
        return merged

    def _commit_merged(
        self, merging: Merging, buckets: Iterable[int | None], added: Sequence[DataFile]
    ) -> bool:
        reach("merge.written")
        change = Change(
            Operation.OVERWRITE,
            added=added,
            removed=frozenset(file for bucket in buckets for file in merging.base_files.get(bucket, ())),
            summary=(merging.brought.properties() if merging.brought else {})
            | {MERGED_THROUGH: str(merging.through)},
            properties=self._properties(
                Generation(merging.generation.files_through, merging.through), merging.generation
            ),
        )

        def plan() -> Change | None:
            # Otherwise somebody has replaced the base meanwhile.
            return change if Generation.of_base(self.base.properties()) == merging.generation else None

        return self.base.commit(plan, change.added)

    def replace(self, rows: pa.Table, progress: Progress) -> bool:
        """Make `rows` the whole table, as of `progress`, in one snapshot.

        Changes with a `seq` up to the progress' sequence no longer count, nor any of an epoch
        before it. Returns False when just this replacement has been made already.

        Raises:
            Conflict: the table is further on than `progress`, or in a later epoch.
            Internal: rows are not those of the definition, or two have one key.
        """
        rows = in_key_order(self.definition, checked(self.definition, rows))
        if self._repeated(rows):
            raise Internal(f"replacing {self.base.name}: two rows have the same {self._key}")
        return self._replace(lambda: self.base.write(rows), progress)

    def replace_in_parts(self, parts: Iterable[pa.Table], progress: Progress) -> bool:
        """Do what `replace` does with rows that come in parts, so that they need not fit into memory.

        Keys ascend within and across the parts, as the rows of a file do. A part makes one file (or
        several), so it should be neither small nor larger than memory allows.

        Raises:
            Conflict: as for `replace`.
            Internal: rows are not those of the definition, or a key does not ascend.
        """
        if self.base.properties().get(_REPLACED) == _mark(progress):
            return False
        written: list[DataFile] = []
        last: pa.Scalar | None = None
        try:
            for part in parts:
                rows = checked(self.definition, part)
                if not rows.num_rows:
                    continue
                keys = rows.column(self._key).combine_chunks()
                ascending = pc.all(pc.less(keys[:-1], keys[1:])).as_py() is not False
                if not ascending or (last is not None and not pc.less(last, keys[0]).as_py()):
                    raise Internal(f"replacing {self.base.name}: {self._key} does not ascend from row to row")
                last = keys[-1]
                keep_young(self.base.storage, written)
                written += self.base.write(rows)
        except BaseException:
            self.base.storage.remove(f.file_path for f in written)
            raise
        return self._replace(lambda: written, progress, written)

    def replace_with(self, files: Sequence[HandedFile], progress: Progress) -> bool:
        """Do what `replace` does with files that others wrote (`LakeTable.files_elsewhere`).

        Whoever wrote them answers for it that each key is there once. Where just this replacement was made
        already, the files are nobody's, and the sweep's.

        Raises:
            Conflict: as for `replace`.
        """
        written = [file.data_file() for file in files]
        return self._replace(lambda: written, progress)

    def _replace(
        self, write: Callable[[], list[DataFile]], progress: Progress, written: Sequence[DataFile] = ()
    ) -> bool:
        mark = _mark(progress)

        def plan() -> Change | None:
            properties = self.base.properties()
            if properties.get(_REPLACED) == mark:
                return None
            held, generation = self.progress(), Generation.of_base(properties)
            same_epoch = held is None or held.epoch == progress.epoch
            if held is not None and (
                progress.epoch < held.epoch or (same_epoch and progress.sequence < generation.through)
            ):
                raise Conflict(
                    f"replacing {self.base.name} as of {mark}: it is in epoch {held.epoch!r} and contains "
                    f"changes up to {generation.through}; take the rows again from the newest state"
                )
            if same_epoch:
                after, previous = Generation(generation.files_through, progress.sequence), generation
            else:
                # All of the log is of the epoch that has ended, since a new one begins here. It is
                # cut at once: its rows may be numbered above those of the new epoch.
                after = Generation(self.log.last_file_sequence(), progress.sequence)
                previous = Generation(after.files_through, -1)
            return Change(
                Operation.OVERWRITE,
                added=write(),
                removed=frozenset(f.location for f in self.base.files()),
                summary=progress.properties() | {MERGED_THROUGH: str(after.through)},
                properties=self._properties(after, previous) | {_REPLACED: mark},
            )

        replaced = self.base.commit(plan, written)
        self._cut()
        return replaced

    def scan(self) -> pa.Table:
        """Read all current rows into memory."""
        generation = Generation.of_base(self.base.properties())
        names = [c.name for c in self.definition.columns]
        with tempfile.TemporaryDirectory(prefix="profilelake-scan-") as spill:
            connection = sql.connect(MERGE_MEMORY_LIMIT, spill, self.base.storage)
            try:
                newest = sql.select_newest(
                    sql.select_files(self.log.schema(), self._pending(generation)),
                    self._key,
                    generation.through,
                )
                base = sql.select_files(self.base.schema(), self.base.files())
                return self._typed(connection, sql.select_current(base, newest, self._key, names))
            finally:
                connection.close()

    def _check_changes(self, changes: pa.Table, after: int, through: int) -> None:
        seq = pc.min_max(changes.column("seq")).as_py()
        if seq["min"] <= after or seq["max"] > through:
            raise Internal(
                f"changing {self.base.name}: seq {seq['min']} to {seq['max']} is not within {after + 1} to {through}"
            )
        ops = set(pc.unique(changes.column("op")).to_pylist())
        if not ops <= {"upsert", "delete"}:
            raise Internal(f"changing {self.base.name}: op is one of {sorted(ops)}, not upsert or delete")
        if changes.column(self._key).null_count:
            raise Internal(f"changing {self.base.name}: a change has no {self._key}")
        if changes.group_by([self._key, "seq"]).aggregate([]).num_rows != changes.num_rows:
            raise Internal(f"changing {self.base.name}: a {self._key} changes twice at one seq")
        upserts = changes.filter(pc.equal(changes.column("op"), "upsert"))
        checked(self.definition, upserts.drop_columns(["seq", "op"]))

    def _pending(self, generation: Generation) -> list[LiveFile]:
        """Return the files of the log with rows the base may not contain."""
        seq = self.log.field_id("seq")
        return [
            f
            for f in self.log.files()
            if f.sequence > generation.files_through and _highest(f, seq) > generation.through
        ]

    def _merged(
        self, connection: duckdb.DuckDBPyConnection, merging: Merging
    ) -> tuple[list[int | None], list[DataFile]]:
        changes = sql.select_locations(self.log.schema(), merging.pending)
        connection.execute(
            f"CREATE TEMP TABLE newest AS {sql.select_newest(changes, self._key, merging.generation.through)}"
        )
        buckets: list[int | None] = [None]
        if self.definition.slot is not None:
            slots = connection.sql(f"SELECT DISTINCT {sql.identifier(self.definition.slot)} FROM newest")  # noqa: S608
            buckets = pc.unique(bucket_of(slots.to_arrow_table().column(0))).to_pylist()
        added: list[DataFile] = []
        try:
            for bucket in buckets:
                newest = "SELECT * FROM newest"
                if self.definition.slot is not None and bucket is not None:
                    slot = sql.identifier(self.definition.slot)
                    newest = f"{newest} WHERE {slot} & {-BUCKET_WIDTH:d} = {bucket:d}"
                base = sql.select_locations(self.base.schema(), merging.base_files.get(bucket, ()))
                added.extend(self.base.write(merging.rows(connection, base, newest)))
        except BaseException:
            self.base.storage.remove(f.file_path for f in added)
            raise
        return buckets, added

    def _typed(self, connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
        schema = self.definition.schema()
        return connection.sql(query).to_arrow_table().cast(schema)

    def _repeated(self, rows: pa.Table) -> bool:
        """Tell whether two of the sorted rows have one key."""
        keys = rows.column(self._key)
        if self.definition.sort:
            return bool(pc.count_distinct(keys, mode="all").as_py() != rows.num_rows)
        # A key has one slot, so equal keys are neighbours; counting distinct ones costs as much as the rest.
        return bool(pc.any(pc.equal(keys[1:], keys[:-1]), min_count=0).as_py())

    @staticmethod
    def _properties(after: Generation, previous: Generation) -> dict[str, str]:
        return {
            MERGED_THROUGH: str(after.through),
            _MERGED_FILES: str(after.files_through),
            _PREVIOUS: str(previous),
        }

    def cut_merged(self) -> None:
        """Drop the files of the log that the base contains, without waiting for its next generation.

        For removals: who has planned a read of the base before this one plans again.
        """
        self._cut(Generation.of_base)

    def _cut(self, through: Callable[[Mapping[str, str]], Generation] = Generation.previous) -> None:
        """Drop the files of the log whose rows the previous base contained already."""

        def plan() -> Change | None:
            cut = through(self.base.properties())
            seq = self.log.field_id("seq")
            gone = frozenset(
                f.location
                for f in self.log.files()
                if f.sequence <= cut.files_through or _highest(f, seq) <= cut.through
            )
            if not gone:
                return None
            return Change(
                Operation.DELETE, removed=gone, summary=self.log.carried(), properties={_CUT: str(cut)}
            )

        self.log.commit(plan)


def in_key_order(definition: TableDef, rows: pa.Table) -> pa.Table:
    """Return rows of a current table in the order in which a base has them."""
    order = definition.sort or tuple(c for c in (definition.slot, definition.key) if c)
    return rows.sort_by([(name, "ascending") for name in order])


def _mark(progress: Progress) -> str:
    """Return how a table says which replacement was made last."""
    return f"{progress.epoch}/{progress.sequence}"


def _highest(file: LiveFile, seq: int) -> int:
    highest = file.upper_bound(seq)
    if highest is None:
        raise Internal(
            f"reading the log file {file.location}: no upper bound of seq; was it written by another engine?"
        )
    return highest
