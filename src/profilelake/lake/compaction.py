"""Which small files become larger ones, and the rows of these in the order of their table.

Here it is decided and read; `gathering` writes, `LakeTable` commits. Only append-only tables are compacted: the
base of a current table is written anew by its merges, and its log is cut.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa
from pyiceberg.schema import Schema

from profilelake.errors import Corrupt, Unavailable
from profilelake.lake import sql
from profilelake.lake.schema import FILE_BYTES_TARGET
from profilelake.lake.sql import LiveFile
from profilelake.lake.storage import Storage
from profilelake.lake.tables import TableDef

MEMORY_LIMIT: Final = "512MB"
"""What a sort may hold in memory; the rest of it goes to the temporary directory."""
THREADS: Final = 1
"""Compaction has time; the other cores are for what somebody waits for."""
BATCH_ROWS: Final = 131_072
"""Rows that pass from the sort to the file at a time."""


class Stopped(Unavailable):
    """The process is to end; nothing was changed, the next start goes on."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is worth a rewrite, and how much one step may take.

    A closed partition (a day that is over) becomes files of `file_bytes`, each a stretch of the order of its
    table. In an open one only many small files are gathered, size by size, so that a row is written a
    few times at most before its day is over.
    """

    file_bytes: int = FILE_BYTES_TARGET
    step_bytes: int = 2 * FILE_BYTES_TARGET
    """Parquet bytes that one step reads at most. It bounds its time, and its room in the temporary directory."""
    open_files_min: int = 32
    open_file_bytes: int = 16 << 20
    """Files of this size wait for the end of their day."""


_TIER_WIDTH: Final = 16
_TIER_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one step did."""

    files_before: int
    files_after: int
    rows: int
    bytes_before: int
    bytes_after: int


def next_step(files: Sequence[LiveFile], open_from: int | None, policy: Policy) -> list[LiveFile]:
    """Return the files that should become fewer next, all of one partition; none when all is well.

    Partitions below `open_from` are closed; all of them where it is None. Repeated steps come to an
    end, because each makes fewer files out of those it takes.
    """
    partitions: dict[int | None, list[LiveFile]] = {}
    for file in sorted(files, key=lambda f: (f.sequence, f.location)):
        partitions.setdefault(file.partition, []).append(file)
    for partition in sorted(partitions, key=lambda p: (p is None, p or 0)):
        held = partitions[partition]
        closed = open_from is None or (partition is not None and partition < open_from)
        group = _of_closed(held, policy) if closed else _of_open(held, policy)
        if group:
            return group
    return []


def steps(files: Sequence[LiveFile], open_from: int | None, policy: Policy) -> list[list[LiveFile]]:
    """Return all steps that have no file in common, in the order in which `next_step` would take them.

    What they make may be worth further steps.
    """
    found = []
    left = {file.location: file for file in files}
    while group := next_step(list(left.values()), open_from, policy):
        found.append(group)
        for file in group:
            del left[file.location]
    return found


def _of_closed(files: Sequence[LiveFile], policy: Policy) -> list[LiveFile]:
    small = [f for f in files if f.bytes < policy.file_bytes // 2]
    # The smallest first: a step then takes as many as it may.
    return _worth(_bounded(sorted(small, key=lambda f: f.bytes), policy), policy)


def _of_open(files: Sequence[LiveFile], policy: Policy) -> list[LiveFile]:
    tiers: dict[int, list[LiveFile]] = {}
    for file in files:
        if file.bytes < policy.open_file_bytes:
            tiers.setdefault(_tier(file.bytes), []).append(file)
    for tier in sorted(tiers):
        if len(tiers[tier]) >= policy.open_files_min:
            return _worth(_bounded(tiers[tier], policy), policy)
    return []


def _tier(size: int) -> int:
    tier = 0
    while size >= _TIER_BYTES:
        size //= _TIER_WIDTH
        tier += 1
    return tier


def _bounded(files: Sequence[LiveFile], policy: Policy) -> list[LiveFile]:
    group: list[LiveFile] = []
    for file in files:
        if group and sum(f.bytes for f in group) + file.bytes > policy.step_bytes:
            break
        group.append(file)
    return group


def _worth(group: list[LiveFile], policy: Policy) -> list[LiveFile]:
    return group if files_wanted(group, policy) < len(group) else []


def files_wanted(group: Sequence[LiveFile], policy: Policy) -> int:
    """Return how many files a group becomes."""
    return max(1, -(-sum(f.bytes for f in group) // policy.file_bytes))


@contextmanager
def reading(storage: Storage) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection for one step: bounded memory, one thread.

    Raises:
        Unavailable: memory or the temporary directory are full; nothing was changed.
        Corrupt: a file is missing or not what it should be; nothing was changed.
    """
    with tempfile.TemporaryDirectory(prefix="profilelake-compact-") as spill:
        connection = sql.connect(MEMORY_LIMIT, spill, storage)
        try:
            connection.execute(f"SET threads = {THREADS:d}")
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise Unavailable(f"compacting: {error}; nothing was changed, free memory or disk") from error
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            if "No space left" in str(error):
                raise Unavailable(f"compacting: {error}; nothing was changed, free space") from error
            raise Corrupt(
                f"compacting: {error}; nothing was changed. Run: profilelake lake verify"
            ) from error
        except duckdb.Error as error:
            fault = sql.storage_fault(error)
            if fault is None:
                raise
            if isinstance(fault, OSError):
                raise Corrupt(
                    f"compacting: {fault}; nothing was changed. Run: profilelake lake verify"
                ) from error
            raise fault from error
        finally:
            connection.close()


def sorted_parts(
    connection: duckdb.DuckDBPyConnection,
    definition: TableDef,
    schema: Schema,
    locations: Sequence[str],
    stopping: Callable[[], bool],
    place: Callable[[str], str] = sql.local_place,
) -> Iterator[pa.Table]:
    """Yield the rows of these files in the order of their table, `BATCH_ROWS` at a time.

    Raises:
        Stopped: `stopping` said so.
    """
    query = sql.select_locations(schema, locations, place)
    if definition.sort:
        query = f"SELECT * FROM ({query}) ORDER BY {sql.columns(definition.sort)}"  # noqa: S608
    wanted = definition.schema()
    for batch in connection.sql(query).to_arrow_reader(BATCH_ROWS):
        if stopping():
            raise Stopped(f"compacting {definition.name}: stopped; nothing was changed")
        yield pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)


def digest(
    connection: duckdb.DuckDBPyConnection,
    schema: Schema,
    locations: Sequence[str],
    place: Callable[[str], str] = sql.local_place,
) -> tuple[int, int]:
    """Return how many rows files have and the sum of their hashes: the same rows in any order, the same sum.

    Every value of every row is decoded for it.
    """
    names = sql.columns(f.name for f in schema.fields)
    rows = sql.select_locations(schema, locations, place)
    query = f"SELECT count(*), coalesce(sum(hash({names})::HUGEINT), 0) FROM ({rows})"  # noqa: S608
    count, total = connection.sql(query).fetchall()[0]
    return int(count), int(total)
