"""Compaction of all tables at once: every group of small files, every bucket with changes, is work for a task.

Rounds are bounded, and committed before the next begins, so what a killed driver loses is one round. What a
task does is what `LakeTable.compact` and `CurrentTable.merge` do.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.errors import Unavailable
from profilelake.lake import sql
from profilelake.lake.compaction import Compacted, Policy
from profilelake.lake.current import MERGE_MEMORY_LIMIT, CurrentTable, Merging
from profilelake.lake.gathering import Gathered, Group, gather
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.schema import BUCKET_WIDTH, BUCKETS
from profilelake.lake.storage import Storage
from profilelake.lake.table import DEFAULT_POLICY, LakeTable
from profilelake.ops.failpoints import reach
from profilelake.plans.committing import with_files

ROUND_GROUPS_PER_TASK: Final = 4
"""Groups that a task does in one round, more or less: enough that none waits long for the slowest."""
CHANGES_AT_ONCE: Final = 131_072
"""Rows of a log of changes that pass to their buckets at a time."""

_CHANGES: Final = "changes"


@dataclass(frozen=True)
class _Gathering:
    """The work of compaction: from a group of a table to the files that take its place."""

    storage: Storage
    tables: Mapping[str, TableFiles]

    def __call__(self, unit: tuple[str, Group]) -> bytes:
        name, group = unit
        return msgspec.msgpack.encode(gather(self.tables[name], self.storage, group))


def compact(
    engine: Engine,
    storage: Storage,
    tables: Sequence[LakeTable],
    *,
    open_from: int | None = None,
    policy: Policy = DEFAULT_POLICY,
    go_on: Callable[[], bool] = lambda: True,
    report: Callable[[LakeTable, Compacted], None] = lambda _, __: None,
) -> int:
    """Make fewer files out of small ones in all of these append-only tables; return how many groups there were.

    Partitions below `open_from` are closed, all of them where it is None. `go_on` is asked before each
    round; `report` is told of each group that is committed.

    Raises:
        Conflict: a table moved on so that a group is gone, or another process took the job over; what was committed
            stays. Run it again.
        Corrupt, Unavailable: as `LakeTable.compact`, or another process does the same; what was committed stays.
    """
    done = 0
    while go_on():
        units = _next_round(engine, tables, open_from, policy)
        if not units:
            break
        with _round(engine, storage, tables, units) as (job, gathered):
            reach("plan.compact.gathered")
            for table in tables:
                mine = [one for name, one in gathered if name == table.name]
                if mine:
                    job.check()
                    table.commit_gathered(mine)
                    for one in mine:
                        report(table, one.compacted())
            job.finish()
        done += len(units)
    return done


def _next_round(
    engine: Engine, tables: Sequence[LakeTable], open_from: int | None, policy: Policy
) -> list[tuple[str, Group]]:
    """Return the largest groups there are, as many as one round takes."""
    units = [(table.name, group) for table in tables for group in table.groups(open_from, policy)]
    units.sort(key=lambda unit: (-unit[1].bytes, unit[0], unit[1].locations))
    return units[: max(1, ROUND_GROUPS_PER_TASK * engine.tasks)]


def _round(
    engine: Engine, storage: Storage, tables: Sequence[LakeTable], units: Sequence[tuple[str, Group]]
) -> AbstractContextManager[tuple[Job, list[tuple[str, Gathered]]]]:
    named = {name for name, _ in units}
    work = _Gathering(
        storage, {table.name: table.files_elsewhere() for table in tables if table.name in named}
    )

    def run(job: Job) -> list[tuple[str, Gathered]]:
        answers = job.step("gather", lambda: engine.each("gather", units, work))
        found = [msgspec.msgpack.decode(answers[number], type=Gathered) for number in range(len(units))]
        return [(name, one) for (name, _), one in zip(units, found, strict=True)]

    return with_files(
        lambda: _job(storage, units),
        run,
        lambda gathered: [file.location for _, one in gathered for file in one.files],
    )


def _job(storage: Storage, units: Sequence[tuple[str, Group]]) -> Job:
    # Names of files are never used twice, so a round of the same files is the same round.
    return Job(storage, "compact", [[name, group.locations, group.rows_per_file] for name, group in units])


# ---- current tables ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Changes:
    """Cuts the changes in a file of a log into buckets of the base."""

    storage: Storage
    merging: Merging

    def __call__(self, location: str) -> Iterator[Cut]:
        definition = self.merging.log.definition
        schema, wanted = self.merging.log.schema(), definition.schema()
        query = (
            f"SELECT * FROM ({sql.select_locations(schema, [location], self.storage.place)}) "  # noqa: S608
            f"WHERE seq > {self.merging.generation.through:d}"
        )
        with _merging(self.storage, self.merging) as connection:
            for batch in connection.sql(query).to_arrow_reader(CHANGES_AT_ONCE):
                rows = pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)
                if self.merging.definition.slot is None:
                    buckets = np.zeros(rows.num_rows, dtype=np.int32)
                else:
                    buckets = rows.column(self.merging.definition.slot).to_numpy() // BUCKET_WIDTH
                yield Cut(_CHANGES, rows, buckets.astype(np.int32))


@dataclass(frozen=True)
class _Merged:
    """Writes a bucket of the base anew with the changes in it."""

    storage: Storage
    merging: Merging

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        merging = self.merging
        held = merging.base_files.get(_bucket(merging, part), ())
        base = sql.select_locations(merging.base.schema(), held, self.storage.place)
        with _merging(self.storage, merging) as connection:
            connection.register(_CHANGES, rows[_CHANGES])
            newest = sql.select_newest(
                f"SELECT * FROM {_CHANGES}",  # noqa: S608
                str(merging.definition.key),
                merging.generation.through,
            )
            return msgspec.msgpack.encode(merging.base.write(merging.rows(connection, base, newest)))


def merge(engine: Engine, storage: Storage, tables: Sequence[CurrentTable]) -> int:
    """Fold the changes of current tables into their bases, bucket by bucket; return how many had any.

    Raises:
        Conflict: another process took the job over; what was committed stays.
        Unavailable: memory or disk full, or another process does the same; what was committed stays.
    """
    merged = 0
    for table in tables:
        merging = table.merging()
        if merging is None:
            continue

        def begin(merging: Merging = merging) -> Job:
            # Files of the base too: a repair adds to it, and what was merged before lacks that.
            held = sorted(file for files in merging.base_files.values() for file in files)
            named = hashlib.sha256("\n".join(held).encode()).hexdigest()
            return Job(
                storage,
                "merge",
                [merging.base.definition.name, str(merging.generation), sorted(merging.pending), named],
            )

        def run(job: Job, merging: Merging = merging) -> list[tuple[int, list[HandedFile]]]:
            answers = job.step(
                "merge",
                lambda: engine.spread(
                    "merge",
                    merging.pending,
                    _Changes(storage, merging),
                    {_CHANGES: merging.log.definition.schema()},
                    1 if merging.definition.slot is None else BUCKETS,
                    _Merged(storage, merging),
                ),
            )
            return [
                (part, msgspec.msgpack.decode(answer, type=list[HandedFile]))
                for part, answer in answers.items()
            ]

        with with_files(begin, run, lambda made: [file.location for _, files in made for file in files]) as (
            job,
            made,
        ):
            buckets = [_bucket(merging, part) for part, _ in made]
            job.check()
            merged += table.commit_merged(merging, buckets, [file for _, files in made for file in files])
            job.finish()
    return merged


def _bucket(merging: Merging, part: int) -> int | None:
    return None if merging.definition.slot is None else part * BUCKET_WIDTH


@contextmanager
def _merging(storage: Storage, merging: Merging) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="profilelake-merge-") as spill:
        connection = sql.connect(MERGE_MEMORY_LIMIT, spill)
        try:
            storage.attach(connection)
            yield connection
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise Unavailable(
                f"merging {merging.definition.name}: {error}; nothing was changed, free memory or disk and retry"
            ) from error
        finally:
            connection.close()
