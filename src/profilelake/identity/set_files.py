"""Identifier sets in Parquet files, in order of position: read with their identifiers hashed, or put in order.

A file has a row per set: `identifiers` (list of struct of `type` and `value`), `position` (of any type
that has an order), and, where the rules have windows, `received_at`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilelake.errors import Invalid, Unavailable
from profilelake.identity.problem import SetColumns, rules_by_strength
from profilelake.kernels import siphash
from profilelake.kernels.identity import Int64s
from profilelake.semantics.identifiers import ident_prefix
from profilelake.semantics.rules import Collection, IdentityRules

BATCH_SETS: Final = 1 << 19
"""Sets read at a time."""
SORT_MEMORY: Final = "2GB"
ROW_GROUP_SETS: Final = 1 << 20

IDENTIFIERS: Final = "identifiers"
POSITION: Final = "position"
RECEIVED_AT: Final = "received_at"


def read_sets(
    paths: Sequence[Path],
    rules: IdentityRules,
    key: bytes,
    collection: Collection = "users",
    chosen: npt.NDArray[np.bool_] | None = None,
) -> Iterator[SetColumns]:
    """Yield the sets of files, one after the other, `BATCH_SETS` at a time.

    `chosen` tells of every set whether it is wanted; None: all are.

    Raises:
        Invalid: a position does not follow the one before it, a column is missing, or an identifier is null.
    """
    at = 0
    timed = any(rule.window_seconds for rule in rules_by_strength(rules, collection))
    columns = [IDENTIFIERS, POSITION, *([RECEIVED_AT] if timed else [])]
    last: pa.Scalar | None = None
    for path in paths:
        metadata = pq.read_metadata(path)
        leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        # Writers differ in what they call the levels of a list.
        types = [leaf for leaf in leaves if leaf.startswith(f"{IDENTIFIERS}.") and leaf.endswith(".type")]
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=types) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise Invalid(f"reading sets from {path}: the columns {missing} are missing")
            for batch in _batches(file, columns):
                last = _check_order(path, batch.column(POSITION), last)
                if chosen is not None:
                    wanted = chosen[at : at + batch.num_rows]
                    at += batch.num_rows
                    batch = batch.filter(pa.array(wanted))
                received_at = (
                    np.asarray(pc.cast(batch.column(RECEIVED_AT), pa.int64()), dtype=np.int64)
                    if timed
                    else np.empty(0, dtype=np.int64)
                )
                yield _hashed(batch.column(IDENTIFIERS), received_at, key, collection)


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # Each row group has dictionaries of its own, and a nested column cannot hold two.
    for group in range(file.num_row_groups):
        yield from file.iter_batches(BATCH_SETS, row_groups=[group], columns=columns)


def _hashed(sets: pa.ListArray, received_at: Int64s, key: bytes, collection: Collection) -> SetColumns:
    if sets.null_count:
        raise Invalid("reading sets: identifiers are null; give an empty list")
    ends = np.asarray(sets.offsets, dtype=np.int64)
    # Flattening applies what slices and filters have cut off.
    types, values = sets.values.slice(ends[0], ends[-1] - ends[0]).flatten()
    if types.null_count or values.null_count:
        raise Invalid("reading sets: a type or value is null")
    if not pa.types.is_dictionary(types.type):
        types = types.dictionary_encode()
    names = pc.cast(types.dictionary, pa.large_string()).to_pylist()
    codes = np.asarray(types.indices, dtype=np.int32)
    ids = siphash.hash_typed(key, [ident_prefix(collection, name) for name in names], codes, values)
    return SetColumns(ends - ends[0], types, values, ids, received_at)


def _check_order(path: Path, positions: pa.Array, last: pa.Scalar | None) -> pa.Scalar | None:
    """Return the last position after seeing that they ascend: who owns an identifier depends on it."""
    if not len(positions):
        return last
    known = positions.null_count == 0
    ascend = known and pc.all(pc.less_equal(positions[:-1], positions[1:])).as_py() is not False
    if not ascend or (last is not None and pc.less(positions[0], last).as_py()):
        raise Invalid(f"reading sets from {path}: positions do not ascend; sort them: sort_sets")
    return positions[-1]


def sort_sets(paths: Sequence[Path], to: Path, spill: Path, *, memory: str = SORT_MEMORY) -> None:
    """Write the sets of files to one file in order of position; what does not fit `memory` goes to `spill`.

    Raises:
        Unavailable: memory or disk are full.
    """
    with duckdb.connect(
        config={"memory_limit": memory, "temp_directory": str(spill), "threads": 2}
    ) as connection:
        connection.execute("SET enable_progress_bar=false")
        sets = connection.read_parquet([str(path) for path in paths]).order(POSITION)
        try:
            sets.write_parquet(str(to), compression="zstd", row_group_size=ROW_GROUP_SETS)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise Unavailable(f"sorting sets into {to}: {error}; free memory or disk and retry") from error
