"""Rows of tables by file and number: what a plan has found is brought back to the files it is in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.engines.engine import Cut
from profilelake.engines.kept import KeptFile, read_kept
from profilelake.errors import Conflict
from profilelake.lake.handover import TableFiles
from profilelake.lake.rewriting import Held, Mask
from profilelake.lake.storage import Storage
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef

FILES_MAX: Final = 20_000
"""Files that one plan holds at once; more are to be compacted first."""
READ_ROWS: Final = 131_072
"""Rows of a file that pass at a time."""

CHOSEN: Final = pa.schema([("file", pa.int32()), ("row", pa.int64())])
"""A row of a file; `file` is a place in the files of the plan."""
INPUT: Final = "chosen"


@dataclass(frozen=True)
class Placed:
    """A file of a plan: which table it is of, where it stands among all files."""

    number: int
    table: str
    held: Held


@dataclass(frozen=True)
class Tables:
    """The tables that a plan reads, with all their files, as they were when it began."""

    storage: Storage
    files: tuple[Placed, ...]
    writers: Mapping[str, TableFiles]

    @classmethod
    def of(cls, storage: Storage, tables: Sequence[LakeTable]) -> "Tables":
        """Take the newest snapshot of each.

        Raises:
            Conflict: they have too many files.
        """
        found = [(table.definition.name, Held.of(file)) for table in tables for file in table.files()]
        if len(found) > FILES_MAX:
            raise Conflict(
                f"planning over {len(found)} files: at most {FILES_MAX}; run: profilelake lake compact, then again"
            )
        # In one order whatever the manifests say, so that the same files are the same plan.
        found.sort(key=lambda one: (one[0], one[1].location))
        placed = tuple(Placed(number, name, held) for number, (name, held) in enumerate(found))
        return cls(storage, placed, {table.definition.name: table.files_elsewhere() for table in tables})

    def of_table(self, *names: str) -> list[Placed]:
        """Return the files of some tables."""
        return [file for file in self.files if file.table in names]

    def definition(self, placed: Placed) -> TableDef:
        """Return what a file is a part of."""
        return self.writers[placed.table].definition

    def read(self, placed: Placed, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield columns of a file, some rows at a time, each with the number of the first one.

        A column that the file is too old to have is null.
        """
        schema = self.definition(placed).schema()
        with self.storage.input(placed.held.location) as source, pq.ParquetFile(source) as opened:
            there = [name for name in columns if name in opened.schema_arrow.names]
            first = 0
            for batch in opened.iter_batches(READ_ROWS, columns=there):
                found = {name: batch.column(name).cast(schema.field(name).type) for name in there}
                rows = pa.table(
                    {
                        name: found[name]
                        if name in found
                        else pa.nulls(batch.num_rows, schema.field(name).type)
                        for name in columns
                    }
                )
                yield first, rows
                first += batch.num_rows

    def location_digest(self) -> list[str]:
        """Return what names the files, for the identity of a job."""
        return [placed.held.location for placed in self.files]


@dataclass(frozen=True)
class ChosenByFile:
    """Cuts kept rows that name rows of files by these files."""

    storage: Storage

    def __call__(self, kept: KeptFile) -> Iterator[Cut]:
        for rows in read_kept(self.storage, kept):
            yield Cut(INPUT, rows, rows.column("file").to_numpy().astype(np.int32))


@dataclass(frozen=True)
class These:
    """The rows of these numbers, for `rewrite`; the numbers ascend."""

    numbers: npt.NDArray[np.int64]
    columns: Sequence[str] = ("position",)

    def may_hold(self, group: pq.RowGroupMetaData) -> bool:  # noqa: ARG002 - as in `Judge`
        """Numbers are of the file, not of a group: each is looked at."""
        return True

    def __call__(self, rows: pa.Table, first: int) -> Mask:
        """Tell which rows have one of the numbers."""
        mask = np.zeros(rows.num_rows, dtype=np.bool_)
        start, stop = np.searchsorted(self.numbers, (first, first + rows.num_rows))
        mask[self.numbers[start:stop] - first] = True
        return mask


def chosen_rows(tables: Tables, placed: Placed, numbers: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield whole rows of a file by their numbers, which ascend."""
    columns = [column.name for column in tables.definition(placed).columns]
    for first, rows in tables.read(placed, columns):
        start, stop = np.searchsorted(numbers, (first, first + rows.num_rows))
        if start < stop:
            yield rows.take(pa.array(numbers[start:stop] - first))
