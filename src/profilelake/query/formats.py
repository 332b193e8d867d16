"""The result of a query as bytes, piece by piece: Arrow, Parquet, CSV, JSON, lines of JSON.

Integers are numbers in JSON, decimals text, times have six digits (and `Z` where they have a zone), NaN
is null, binary is lower-case hex. Columns of plain types become text inside the engine; only nested and
rare ones row by row.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, Final, TypeAlias

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow.types import is_boolean, is_date, is_decimal, is_floating, is_integer, is_string

from profilelake.lake.sql import identifier

BATCH_ROWS: Final = 8_192
"""Rows that are held at the same time."""
JSON_BATCH_ROWS: Final = 4_096

Seen: TypeAlias = Callable[[int], None]
"""Is told the rows of each batch before they are written; it may raise to end the result there."""


def stream(relation: duckdb.DuckDBPyRelation, format: str, sink: Any, seen: Seen) -> None:
    """Write the rows of a relation to a binary sink as they come; columns are named apart.

    Raises:
        duckdb.Error: the query fails.
        pyarrow.ArrowException: the format cannot say a type of the result.
    """
    FORMATS[format](named_apart(relation), sink, seen)


def named_apart(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Return a relation with each name once: rows become objects, which would lose a column."""
    names: list[str] = []
    for name in relation.columns:
        spelling, number = name, 1
        # The engine takes names that differ in case for the same.
        while spelling.lower() in {taken.lower() for taken in names}:
            number += 1
            spelling = f"{name}_{number}"
        names.append(spelling)
    if names == relation.columns:
        return relation
    listed = ", ".join(identifier(name) for name in names)
    return relation.query("result", f"SELECT * FROM result AS apart({listed})")  # noqa: S608 - quoted


def batches(relation: duckdb.DuckDBPyRelation, seen: Seen) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a relation; no more than a few batches are held."""
    yield from _read(relation.to_arrow_reader(BATCH_ROWS), seen)


def _read(reader: pa.RecordBatchReader, seen: Seen) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            # Of the engine, whoever carries it: what the format cannot say is raised by its writer.
            raise duckdb.Error(str(error)) from error
        seen(batch.num_rows)
        yield batch


def _arrow(relation: duckdb.DuckDBPyRelation, sink: Any, seen: Seen) -> None:
    reader = relation.to_arrow_reader(BATCH_ROWS)
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in _read(reader, seen):
            writer.write_batch(batch)


def _parquet(relation: duckdb.DuckDBPyRelation, sink: Any, seen: Seen) -> None:
    reader = relation.to_arrow_reader(BATCH_ROWS)
    with pyarrow.parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in _read(reader, seen):
            writer.write_batch(batch)


def _csv(relation: duckdb.DuckDBPyRelation, sink: Any, seen: Seen) -> None:
    relation = _with_text(relation)
    reader = relation.to_arrow_reader(BATCH_ROWS)
    rest = [field.name for field in reader.schema if not _fits_csv(field.type)]
    schema = pa.schema(
        [pa.field(field.name, pa.string()) if field.name in rest else field for field in reader.schema]
    )
    with pyarrow.csv.CSVWriter(sink, schema) as writer:
        for batch in _read(reader, seen):
            writer.write_batch(_texts(batch, rest, schema) if rest else batch)


def _texts(batch: pa.RecordBatch, names: list[str], schema: pa.Schema) -> pa.RecordBatch:
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    for row in rows(batch.select(names)):
        for name, value in row.items():
            texts[name].append(None if value is None else text(value))
    columns = [
        pa.array(texts[name], pa.string()) if name in texts else batch.column(name) for name in schema.names
    ]
    return pa.record_batch(columns, schema=schema)


def _fits_csv(type: pa.DataType) -> bool:
    fits = (is_integer, is_floating, is_boolean, is_string, is_decimal, is_date)
    return any(test(type) for test in fits)


def _ndjson(relation: duckdb.DuckDBPyRelation, sink: Any, seen: Seen) -> None:
    for lines in _objects(relation, seen, before=b"", after=b"\n"):
        sink.write(lines)


def _json(relation: duckdb.DuckDBPyRelation, sink: Any, seen: Seen) -> None:
    sink.write(b"[")
    skip = 1  # the comma before the first
    for lines in _objects(relation, seen, before=b",\n ", after=b""):
        sink.write(memoryview(lines)[skip:])
        skip = 0
    sink.write(b"\n]\n")


def _objects(
    relation: duckdb.DuckDBPyRelation, seen: Seen, *, before: bytes, after: bytes
) -> Iterator[bytes | pa.Buffer]:
    """Yield the rows as JSON objects, many at a time, with the same bytes around each."""
    if all(_expression(name, str(type)) for name, type in _typed(relation)):
        parts = ", ".join(
            f"{identifier(name)} := {_expression(name, str(type))}" for name, type in _typed(relation)
        )
        # What stands around each object is ours and has no quotes.
        line = f"'{before.decode()}' || to_json(struct_pack({parts}))::VARCHAR || '{after.decode()}'"
        for batch in batches(relation.project(f"{line} AS line"), seen):
            yield _joined(batch.column(0))
        return
    for batch in batches(relation, seen):
        yield b"".join(before + msgspec.json.encode(row) + after for row in rows(batch))


def _joined(lines: pa.Array) -> pa.Buffer | bytes:
    """Return texts that stand one after the other in memory already, as the engine hands them out."""
    if not len(lines):
        return b""
    view = lines.cast(pa.large_string())
    offsets = memoryview(view.buffers()[1]).cast("q")
    begin, end = offsets[view.offset], offsets[view.offset + len(view)]
    return view.buffers()[2].slice(begin, end - begin)


def _typed(relation: duckdb.DuckDBPyRelation) -> Iterator[tuple[str, Any]]:
    return zip(relation.columns, relation.types, strict=True)


def _with_text(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Return the relation with times as the text they are shown as."""
    shown = [
        f"{_expression(name, str(type))} AS {identifier(name)}"
        if str(type).startswith("TIMESTAMP") and _expression(name, str(type))
        else identifier(name)
        for name, type in _typed(relation)
    ]
    return relation.project(", ".join(shown))


_AS_IT_IS: Final = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
)
_TIMES: Final = {
    "TIMESTAMP WITH TIME ZONE": "%Y-%m-%dT%H:%M:%S.%fZ",
    "TIMESTAMP": "%Y-%m-%dT%H:%M:%S.%f",
}


def _expression(name: str, type: str) -> str | None:
    """Return how the engine shows a column as it stands in JSON; None for types it would show otherwise."""
    column = identifier(name)
    if type in _AS_IT_IS:
        return column
    if type in ("VARCHAR", "JSON", "DATE", "UUID", "HUGEINT", "UHUGEINT") or type.startswith("DECIMAL"):
        return f"{column}::VARCHAR"
    if type in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN isfinite({column}) THEN {column} END"
    if type in _TIMES:
        return f"strftime({column}, '{_TIMES[type]}')"
    return None


def rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any]]:
    """Yield each row with values that JSON has."""
    columns = [_with_microseconds(column) for column in batch.columns]
    for part in pa.table(columns, names=batch.schema.names).to_batches(max_chunksize=JSON_BATCH_ROWS):
        for row in part.to_pylist(maps_as_pydicts="lossy"):
            yield {name: _plain(value) for name, value in row.items()}


def text(value: Any) -> str:
    """Return a value of a row as one text."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _with_microseconds(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    # Python has no nanoseconds.
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column.cast(pa.time64("us"), safe=False) if pa.types.is_time64(column.type) else column


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, time):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:f}S"
    return str(value)


FORMATS: Final[Mapping[str, Callable[[duckdb.DuckDBPyRelation, Any, Seen], None]]] = {
    "arrow": _arrow,
    "parquet": _parquet,
    "csv": _csv,
    "json": _json,
    "ndjson": _ndjson,
}
