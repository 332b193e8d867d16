"""Files of a table on disk: durable writing, Parquet data files, removal.

A catalog that survives a power cut must not point at files that did not, so everything written
here is on stable storage, with its directory entry, before the catalog is asked to swap.
"""

import io
import os
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import OutputStream
from pyiceberg.io.pyarrow import (
    PyArrowFile,
    PyArrowFileIO,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record

from profilelake.lake.schema import file_schema

DICTIONARY_SAMPLE_ROWS: Final = 1_000
"""About as many rows of a file tell which columns repeat."""
ROW_GROUP_ROWS_MAX: Final = 131_072
"""Small enough that a reader skips most of a sorted file, large enough to compress well."""


def local_path(location: str) -> Path:
    """Return the path behind a `file://` location (or a plain path)."""
    return Path(urlsplit(location).path if location.startswith("file:") else location)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that their names survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


class _SyncedStream(io.BufferedWriter):
    """A file that is on stable storage, with its name, once `close` returns."""

    def __init__(self, path: Path, mode: str) -> None:
        make_folder(path.parent)
        self._path = path
        super().__init__(io.FileIO(path, mode))

    def close(self) -> None:
        if self.closed:
            return
        try:
            self.flush()
            os.fsync(self.fileno())
        finally:
            super().close()
        sync_directory(self._path.parent)


class _SyncedOutput(PyArrowFile):
    def create(self, overwrite: bool = False) -> OutputStream:
        return _SyncedStream(local_path(self.location), "w" if overwrite else "x")


class DurableFileIO(PyArrowFileIO):
    """PyIceberg's file access, with local files made durable as they are closed."""

    def new_output(self, location: str) -> PyArrowFile:
        output = super().new_output(location)
        scheme, _, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return output  # Object stores acknowledge a write only when it is durable.
        return _SyncedOutput(location=location, path=path, fs=self.fs_by_scheme(scheme, None))


def write_data_files(
    metadata: TableMetadata, parts: Iterable[tuple[Record, pa.Table]], arrow_bytes_max: int
) -> list[DataFile]:
    """Write each part into Parquet files of at most about `arrow_bytes_max` and describe them.

    The files belong to nobody until a snapshot names them. If writing fails, what was written is
    removed before the error goes on.
    """
    written: list[DataFile] = []
    try:
        for partition, rows in parts:
            written.extend(
                _write_file(metadata, partition, [piece]) for piece in _pieces(rows, arrow_bytes_max)
            )
    except Exception:
        remove_files(f.file_path for f in written)
        raise
    return written


def write_in_order(
    metadata: TableMetadata, partition: Record, parts: Iterable[pa.Table], rows_per_file: int
) -> list[DataFile]:
    """Write parts of one partition, in their order, into files of `rows_per_file` rows and more.

    No more than a part is in memory; a file ends with the part that fills it. If writing fails, what was
    written is removed before the error goes on.
    """
    written: list[DataFile] = []
    coming = iter(parts)

    def fill(first: pa.Table) -> Iterator[pa.Table]:
        rows = first.num_rows
        yield first
        while rows < rows_per_file and (part := next(coming, None)) is not None:
            rows += part.num_rows
            yield part

    try:
        written.extend(_write_file(metadata, partition, fill(first)) for first in coming)
    except BaseException:
        remove_files(f.file_path for f in written)
        raise
    return written


def keep_young(files: Iterable[DataFile]) -> None:
    """Have a sweep spare files of a write that takes long: it goes by their age.

    Raises:
        FileNotFoundError: one of them is gone.
    """
    for file in files:
        os.utime(local_path(file.file_path))


def _pieces(rows: pa.Table, arrow_bytes_max: int) -> Iterator[pa.Table]:
    pieces = max(1, -(-rows.nbytes // arrow_bytes_max))
    step = max(1, -(-rows.num_rows // pieces))
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


def _repeating(rows: pa.Table) -> list[str] | bool:
    """Return the columns in which a dictionary saves space; True for all, where columns are nested.

    Ids and documents hardly repeat: a dictionary of them is built, found too large and thrown away,
    a quarter of the time it takes to write events.
    """
    if any(pa.types.is_nested(field.type) for field in rows.schema):
        return True
    # Spread evenly: sorted rows repeat more within a stretch than over all.
    step = max(1, rows.num_rows // DICTIONARY_SAMPLE_ROWS)
    sample = rows.take(pa.array(range(0, rows.num_rows, step), pa.int64()))
    return [
        name
        for name in sample.column_names
        if 2 * pc.count_distinct(sample.column(name)).as_py() < sample.num_rows
    ]


def _write_file(metadata: TableMetadata, partition: Record, parts: Iterable[pa.Table]) -> DataFile:
    schema, spec = metadata.schema(), metadata.spec()
    folder = f"{metadata.location}/data"
    if spec.fields:
        folder += "/" + spec.partition_to_path(partition, schema)
    location = f"{folder}/{uuid.uuid4().hex}.parquet"
    path = local_path(location)
    coming = iter(parts)
    rows = next(coming)
    arrow_schema = file_schema(metadata, rows.schema)
    make_folder(path.parent)
    try:
        with pq.ParquetWriter(
            path,
            arrow_schema,
            compression="zstd",
            store_decimal_as_integer=True,
            write_page_index=False,
            write_page_checksum=True,
            use_dictionary=_repeating(rows),
        ) as writer:
            for part in chain((rows,), coming):
                writer.write_table(
                    part.select(arrow_schema.names).cast(arrow_schema), row_group_size=ROW_GROUP_ROWS_MAX
                )
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)
    except BaseException:
        remove_files([location])
        raise
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=writer.writer.metadata,
        stats_columns=compute_statistics_plan(schema, metadata.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(schema),
    )
    described = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=path.stat().st_size,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    described.spec_id = metadata.default_spec_id
    return described


def remove_files(locations: Iterable[str]) -> None:
    """Remove files as far as possible; what stays is found by the next sweep."""
    for location in locations:
        try:
            local_path(location).unlink(missing_ok=True)
        except OSError:
            continue
