"""Data files that other processes write for the one that commits.

A task on another machine gets a `TableFiles` (a value), writes rows with it, and hands back descriptions of
the files as bytes; the committer takes these into a snapshot. Files nobody commits are found by the sweep.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.typedef import Record

from profilelake.lake.data_files import write_data_files, write_in_order
from profilelake.lake.schema import ARROW_PER_PARQUET, FILE_BYTES_TARGET, checked, partitions
from profilelake.lake.storage import Storage
from profilelake.lake.tables import TableDef


class HandedFile(msgspec.Struct, frozen=True):
    """A data file in words that pass between processes; the fields are those of Iceberg's manifests."""

    location: str
    partition: list[int | None]
    size: int
    rows: int
    spec_id: int
    column_sizes: dict[int, int]
    value_counts: dict[int, int]
    null_value_counts: dict[int, int]
    nan_value_counts: dict[int, int]
    lower_bounds: dict[int, bytes]
    upper_bounds: dict[int, bytes]
    split_offsets: list[int] | None

    @classmethod
    def of(cls, file: DataFile) -> "HandedFile":
        """Describe a file that was written."""
        return cls(
            location=file.file_path,
            partition=[file.partition[place] for place in range(len(file.partition))],
            size=file.file_size_in_bytes,
            rows=file.record_count,
            spec_id=file.spec_id,
            column_sizes=dict(file.column_sizes or {}),
            value_counts=dict(file.value_counts or {}),
            null_value_counts=dict(file.null_value_counts or {}),
            nan_value_counts=dict(file.nan_value_counts or {}),
            lower_bounds=dict(file.lower_bounds or {}),
            upper_bounds=dict(file.upper_bounds or {}),
            split_offsets=None if file.split_offsets is None else list(file.split_offsets),
        )

    def data_file(self) -> DataFile:
        """Return the file as a snapshot takes it."""
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.location,
            file_format=FileFormat.PARQUET,
            partition=Record(*self.partition),
            record_count=self.rows,
            file_size_in_bytes=self.size,
            column_sizes=self.column_sizes,
            value_counts=self.value_counts,
            null_value_counts=self.null_value_counts,
            nan_value_counts=self.nan_value_counts,
            lower_bounds=self.lower_bounds,
            upper_bounds=self.upper_bounds,
            split_offsets=self.split_offsets,
            sort_order_id=None,
            equality_ids=None,
            key_metadata=None,
        )
        file.spec_id = self.spec_id
        return file


@dataclass(frozen=True)
class TableFiles:
    """Writes files of one table wherever it was sent; `LakeTable.files_elsewhere` makes it."""

    definition: TableDef
    metadata: str
    """The table's Iceberg metadata as JSON: where it lies and how it is partitioned."""
    storage: Storage

    def write(self, rows: pa.Table) -> list[HandedFile]:
        """Write rows, in the order they have, into files that no snapshot names yet.

        Raises:
            Internal: the rows are not those of the definition.
            OSError, Unavailable: the storage is full or does not answer; nothing is left behind.
        """
        rows = checked(self.definition, rows)
        metadata = self._parsed()
        target = ARROW_PER_PARQUET * FILE_BYTES_TARGET
        files = write_data_files(self.storage, metadata, partitions(self.definition, rows), target)
        return [HandedFile.of(file) for file in files]

    def write_in_order(
        self, partition: Sequence[int | None], parts: Iterable[pa.Table], rows_per_file: int
    ) -> list[HandedFile]:
        """Write parts of one partition, in their order, into files of about `rows_per_file` rows.

        Raises:
            OSError, Unavailable: as `write`.
        """
        files = write_in_order(self.storage, self._parsed(), Record(*partition), parts, rows_per_file)
        return [HandedFile.of(file) for file in files]

    def schema(self) -> Schema:
        """Return the Iceberg schema, for reading files of the table."""
        return self._parsed().schema()

    def _parsed(self) -> TableMetadata:
        return TableMetadataUtil.parse_raw(self.metadata)
