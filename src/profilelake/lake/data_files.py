"""Data files of a table: Parquet, on the storage of the table, described as snapshots name them."""

import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record

from profilelake.lake.schema import file_schema
from profilelake.lake.storage import Storage

DICTIONARY_SAMPLE_ROWS: Final = 1_000
"""About as many rows of a file tell which columns repeat."""
ROW_GROUP_ROWS_MAX: Final = 131_072
"""Small enough that a reader skips most of a sorted file, large enough to compress well."""


def write_data_files(
    storage: Storage,
    metadata: TableMetadata,
    parts: Iterable[tuple[Record, pa.Table]],
    arrow_bytes_max: int,
) -> list[DataFile]:
    """Write each part into Parquet files of at most about `arrow_bytes_max` and describe them.

    The files belong to nobody until a snapshot names them. If writing fails, what was written is
    removed before the error goes on.
    """
    written: list[DataFile] = []
    try:
        for partition, rows in parts:
            written.extend(
                _write_file(storage, metadata, partition, [piece]) for piece in _pieces(rows, arrow_bytes_max)
            )
    except Exception:
        storage.remove(f.file_path for f in written)
        raise
    return written


def write_in_order(
    storage: Storage,
    metadata: TableMetadata,
    partition: Record,
    parts: Iterable[pa.Table],
    rows_per_file: int,
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
        written.extend(_write_file(storage, metadata, partition, fill(first)) for first in coming)
    except BaseException:
        storage.remove(f.file_path for f in written)
        raise
    return written


def keep_young(storage: Storage, files: Iterable[DataFile]) -> None:
    """Have a sweep spare files of a write that takes long: it goes by their age.

    Raises:
        FileNotFoundError: one of them is gone.
    """
    storage.touch(file.file_path for file in files)


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


def _write_file(
    storage: Storage, metadata: TableMetadata, partition: Record, parts: Iterable[pa.Table]
) -> DataFile:
    schema, spec = metadata.schema(), metadata.spec()
    folder = f"{metadata.location}/data"
    if spec.fields:
        folder += "/" + spec.partition_to_path(partition, schema)
    location = f"{folder}/{uuid.uuid4().hex}.parquet"
    coming = iter(parts)
    rows = next(coming)
    arrow_schema = file_schema(metadata, rows.schema)
    with storage.output(location) as sink:
        with pq.ParquetWriter(
            sink,
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
        size = sink.tell()
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
        file_size_in_bytes=size,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    described.spec_id = metadata.default_spec_id
    return described
