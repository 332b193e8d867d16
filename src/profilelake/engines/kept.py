"""Rows between two steps: Parquet files on the storage of the lake, read and written by tasks."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.lake.storage import Storage

_COMPRESSION: Final = "lz4"
ROW_GROUP_ROWS: Final = 1 << 18


class KeptFile(msgspec.Struct, frozen=True):
    """A file of rows. `part` is the part of the step that wrote it, -1 where it was no part."""

    location: str
    rows: int
    bytes: int
    part: int = -1


def keep(
    storage: Storage, folder: str, rows: pa.Table | Iterable[pa.Table], part: int = -1
) -> list[KeptFile]:
    """Write rows to a file of a new name below `folder`; no file where there are none."""
    tables = iter((rows,) if isinstance(rows, pa.Table) else rows)
    first = next((table for table in tables if table.num_rows), None)
    if first is None:
        return []
    location = f"{folder}/{part:06d}-{uuid.uuid4().hex}.parquet"
    count = 0
    with (
        storage.output(location) as sink,
        pq.ParquetWriter(sink, first.schema, compression=_COMPRESSION, write_statistics=False) as writer,
    ):
        for table in chain((first,), tables):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            count += table.num_rows
    return [KeptFile(location, count, storage.size(location) or 0, part)]


def read_kept(
    storage: Storage, file: KeptFile, columns: Sequence[str] | None = None, rows: int = 1 << 20
) -> Iterator[pa.Table]:
    """Yield the rows of a kept file, at most about `rows` at a time."""
    with storage.input(file.location) as source, pq.ParquetFile(source) as opened:
        for batch in opened.iter_batches(rows, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch])
