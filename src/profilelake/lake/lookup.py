"""Rows of a few keys out of a large append-only table, without reading the rest of it.

Which files can hold a key is known from the bounds in the manifests, which row groups from the
statistics in their footers. After compaction by key that is one row group or two; files in order of
arrival hold all keys, and cost a look at one column of each.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from profilelake.lake import sql
from profilelake.lake.catalog import PublishedTable
from profilelake.lake.sql import LiveFile

KEYS_SPELT_MAX: Final = 64
"""So many keys are compared one by one, which skips row groups; more are joined."""
WANTED: Final = "wanted_keys"


@dataclass(frozen=True, slots=True)
class Slice:
    """Files that can hold wanted rows, all of which were received at `received_max` or before."""

    file: LiveFile
    received_max: int


def candidates(
    published: PublishedTable,
    column: str,
    keys: Collection[bytes],
    *,
    received_at: str = "received_at",
    received_from: int | None = None,
    received_to: int | None = None,
) -> list[Slice]:
    """Return the files that can hold rows of these keys, the latest received first.

    Only files with rows received from `received_from` on and up to `received_to` (both included,
    microseconds) count. A file whose bounds were not recorded counts always.
    """
    schema = published.table.schema()
    key, time = schema.find_field(column).field_id, schema.find_field(received_at).field_id
    ordered = sorted(keys)
    found: list[Slice] = []
    for file in published.files:
        latest, earliest = file.upper_bound(time), file.lower_bound(time)
        if received_from is not None and latest is not None and latest < received_from:
            continue
        if received_to is not None and earliest is not None and earliest > received_to:
            continue
        if _may_hold(file, key, ordered):
            found.append(Slice(file, _FOREVER if latest is None else latest))
    return sorted(found, key=lambda one: one.received_max, reverse=True)


_FOREVER: Final = (1 << 63) - 1


def _may_hold(file: LiveFile, field_id: int, ordered: Sequence[bytes]) -> bool:
    data_file = file.entry.data_file
    lower = (data_file.lower_bounds or {}).get(field_id)
    upper = (data_file.upper_bounds or {}).get(field_id)
    if lower is None or upper is None:
        # Without bounds all rows may be null, which no key is.
        nulls = (data_file.null_value_counts or {}).get(field_id)
        return nulls != file.rows
    place = bisect_left(ordered, lower)
    return place < len(ordered) and ordered[place] <= upper


def select_keys(
    connection: duckdb.DuckDBPyConnection,
    published: PublishedTable,
    files: Sequence[LiveFile],
    column: str,
    keys: Collection[bytes],
) -> str:
    """Return a SELECT of all columns of the rows of these keys; good until the next one on `connection`."""
    rows = sql.select_files(published.table.schema(), files)
    name = sql.identifier(column)
    if len(keys) <= KEYS_SPELT_MAX:
        spelt = ", ".join(f"from_hex('{key.hex()}')" for key in sorted(keys)) or "NULL"
        return f"SELECT * FROM ({rows}) WHERE {name} IN ({spelt})"  # noqa: S608 - hex digits only
    connection.register(WANTED, pa.table({WANTED: pa.array(sorted(keys), pa.binary())}))
    return f"SELECT * FROM ({rows}) SEMI JOIN {WANTED} ON {name} = {WANTED}.{WANTED}"  # noqa: S608
