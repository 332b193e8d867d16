"""A data file without some of its rows, or with some values gone: written anew wherever there is room.

Which rows is asked of a judge; the others stay as they are and in their order, which is seen when the new
file is read back. `LakeTable.commit_rewritten` swaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.errors import Corrupt, Unavailable
from profilelake.lake import sql
from profilelake.lake.compaction import digest, reading
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.sql import LiveFile
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach

Mask: TypeAlias = npt.NDArray[np.bool_]

_ONE_FILE: Final = 1 << 62


class Held(msgspec.Struct, frozen=True):
    """A data file of a table, for a task."""

    location: str
    partition: list[int | None]
    rows: int

    @classmethod
    def of(cls, file: LiveFile) -> "Held":
        """Describe a file of a snapshot."""
        partition = file.entry.data_file.partition
        return cls(file.location, [partition[place] for place in range(len(partition))], file.rows)


class Rewritten(msgspec.Struct, frozen=True):
    """A file that was written anew: how many rows it had, how many have gone, how many have changed."""

    location: str
    rows: int
    gone: int
    changed: int
    files: list[HandedFile]


class Judge(Protocol):
    """Says which rows are meant."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns it looks at."""

    def may_hold(self, group: pq.RowGroupMetaData) -> bool:
        """Tell whether any row of a row group can be meant, by what its metadata say."""

    def __call__(self, rows: pa.Table, first: int) -> Mask:
        """Tell of each row whether it is meant; `first` is the number of the first one in its file."""


def rewrite(
    files: TableFiles, storage: Storage, held: Held, judge: Judge, nulled: Sequence[str] = ()
) -> Rewritten | None:
    """Write a file without the rows that are meant; None where there are none.

    With `nulled` they stay, and have no value in these columns. Memory holds one row group at a time.

    Raises:
        Corrupt: the file is missing or damaged, or what was written is not what should be there.
        Unavailable: memory or disk full; what was written is the sweep's.
    """
    name = files.definition.name
    try:
        with (
            storage.input(held.location) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as opened,
            reading(storage) as connection,
        ):
            masks = list(_masks(opened, judge))
            meant = sum(int(mask.sum()) for mask in masks if mask is not None)
            if not meant:
                return None
            kept = _Kept(files, connection, [field.name for field in files.schema().fields])
            made = files.write_in_order(held.partition, kept.parts(opened, masks, nulled), _ONE_FILE)
            reach("rewrite.written")
            found = digest(connection, files.schema(), [file.location for file in made], storage.place)
    except FileNotFoundError as error:
        raise Corrupt(f"rewriting {name}: {error}; restore the file from backup") from error
    except pa.ArrowInvalid as error:
        raise Corrupt(f"rewriting {name}: {held.location}: {error}; run: profilelake lake verify") from error
    except OSError as error:
        raise Unavailable(f"rewriting {name}: {error}; nothing was changed, free space") from error
    wanted = held.rows - (0 if nulled else meant)
    if kept.rows != wanted or found != (kept.rows, kept.total):
        storage.remove(file.location for file in made)
        raise Corrupt(
            f"rewriting {name}: {held.rows} rows by the manifests, {meant} of them meant, {kept.rows} kept, "
            f"{found[0]} read back; nothing was changed. Run: profilelake lake verify"
        )
    return Rewritten(
        held.location, held.rows, gone=0 if nulled else meant, changed=meant if nulled else 0, files=made
    )


def _masks(opened: pq.ParquetFile, judge: Judge) -> Iterator[Mask | None]:
    """Yield for each row group which of its rows are meant; None where none are."""
    there = set(opened.schema_arrow.names)
    names = [name for name in judge.columns if name in there]
    first = 0
    for number in range(opened.num_row_groups):
        group = opened.metadata.row_group(number)
        mask = None
        if judge.may_hold(group):
            found = judge(opened.read_row_group(number, columns=names), first)
            mask = found if found.any() else None
        first += group.num_rows
        yield mask


@dataclass
class _Kept:
    """What stays of a file, counted and hashed as it passes."""

    files: TableFiles
    connection: duckdb.DuckDBPyConnection
    names: list[str]
    rows: int = field(default=0, init=False)
    total: int = field(default=0, init=False)

    def parts(
        self, opened: pq.ParquetFile, masks: Sequence[Mask | None], nulled: Sequence[str]
    ) -> Iterator[pa.Table]:
        for number, mask in enumerate(masks):
            if mask is not None and mask.all() and not nulled:
                continue
            rows = self._shaped(opened.read_row_group(number))
            if mask is not None:
                rows = _without_values(rows, mask, nulled) if nulled else rows.filter(pa.array(~mask))
            if rows.num_rows:
                self._count(rows)
                yield rows

    def _shaped(self, rows: pa.Table) -> pa.Table:
        """Return rows with the columns and types that the table has now."""
        schema = self.files.definition.schema()
        columns = [
            rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema)

    def _count(self, rows: pa.Table) -> None:
        self.connection.register("kept", rows)
        query = f"SELECT count(*), coalesce(sum(hash({sql.columns(self.names)})::HUGEINT), 0) FROM kept"  # noqa: S608
        count, total = self.connection.sql(query).fetchall()[0]
        self.connection.unregister("kept")
        self.rows += int(count)
        self.total += int(total)


def _without_values(rows: pa.Table, mask: Mask, names: Sequence[str]) -> pa.Table:
    for name in names:
        place = rows.schema.get_field_index(name)
        column = rows.column(place).combine_chunks()
        # `take` knows every type; a place that is null gives a null.
        places = pa.array(np.arange(len(column)), mask=mask)
        rows = rows.set_column(place, rows.schema.field(place), column.take(places))
    return rows
