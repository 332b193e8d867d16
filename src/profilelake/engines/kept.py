"""Rows between two steps: files on the storage of the lake, read and written by tasks.

Parquet (`keep`) is small; Arrow (`keep_wide`) costs a quarter of its CPU for many columns of short texts, and is
three to four times as large.
"""

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


def keep_wide(storage: Storage, folder: str, rows: pa.Table, part: int = -1) -> list[KeptFile]:
    """Write rows of many columns to a file of a new name below `folder`, for `read_wide`; no file where there are none."""
    if not rows.num_rows:
        return []
    location = f"{folder}/{part:06d}-{uuid.uuid4().hex}.arrow"
    options = pa.ipc.IpcWriteOptions(compression=_COMPRESSION)
    with (
        storage.output(location) as sink,
        pa.ipc.new_file(sink, rows.schema, options=options) as writer,
    ):
        writer.write_table(rows.combine_chunks(), max_chunksize=ROW_GROUP_ROWS)
    return [KeptFile(location, rows.num_rows, storage.size(location) or 0, part)]


def kept_bytes(storage: Storage, folder: str, body: bytes, rows: int, part: int = -1) -> KeptFile:
    """Write rows, of whatever form, to a file of a new name below `folder`."""
    location = f"{folder}/{part:06d}-{uuid.uuid4().hex}.bin"
    with storage.output(location) as sink:
        sink.write(body)
    return KeptFile(location, rows, len(body), part)


def read_wide(storage: Storage, file: KeptFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a file of `keep_wide`, in this order, at most `ROW_GROUP_ROWS` rows at a time."""
    with storage.input(file.location) as source:
        schema = pa.ipc.open_file(source).schema
        chosen = pa.ipc.IpcReadOptions(
            included_fields=sorted(schema.get_field_index(name) for name in columns)
        )
        opened = pa.ipc.open_file(source, options=chosen)
        for number in range(opened.num_record_batches):
            yield pa.Table.from_batches([opened.get_batch(number)]).select(list(columns))


def read_kept(
    storage: Storage, file: KeptFile, columns: Sequence[str] | None = None, rows: int = 1 << 20
) -> Iterator[pa.Table]:
    """Yield the rows of a kept file, at most about `rows` at a time."""
    with storage.input(file.location) as source, pq.ParquetFile(source) as opened:
        for batch in opened.iter_batches(rows, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch])
