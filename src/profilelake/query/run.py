"""Run a query over the tables of a workspace and show the result."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from profilelake.errors import Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.settings import Layout

WORKSPACE: Final = "default"
TABLE_ROWS_MAX: Final = 1_000
"""Rows shown as a table on the terminal; the other formats have all of them."""
CELL_CHARACTERS_MAX: Final = 200
JSON_BATCH_ROWS: Final = 4_096


def run_query(layout: Layout, query: str) -> pa.Table:
    """Return the result of a query over the committed tables.

    Raises:
        Invalid: the query is wrong; the message says where.
        NotFound: there are no tables yet.
    """
    lake = _lake(layout)
    with duckdb.connect() as connection:
        if not attach(connection, lake, WORKSPACE):
            raise NotFound(f"sql: no tables in {layout.directory} yet; send an event first")
        try:
            relation = connection.sql(query)
        except duckdb.Error as error:
            raise Invalid(f"sql: {error}") from error
        if relation is None:
            return pa.table({})
        try:
            return relation.to_arrow_table()
        except duckdb.Error as error:
            raise Invalid(f"sql: {error}") from error


def list_tables(layout: Layout) -> pa.Table:
    """Return every table with its rows, files, last commit and place."""
    lake = _lake(layout)
    rows = []
    for name in lake.names(WORKSPACE):
        published = lake.load(WORKSPACE, name)
        rows.append(
            {
                "table": name,
                "files": len(published.files),
                "rows": sum(file.rows for file in published.files),
                "location": published.table.location().removeprefix("file://"),
                "metadata": published.table.metadata_location.removeprefix("file://"),
            }
        )
    return pa.Table.from_pylist(rows)


def _lake(layout: Layout) -> Lake:
    if not (layout.directory / "catalog.sqlite").exists():
        raise NotFound(f"reading the lake in {layout.directory}: no catalog yet; start the server once")
    return Lake.open(layout.catalog_uri, layout.warehouse)


def write_result(result: pa.Table, format: str, output: Path | None) -> None:
    """Write a result to stdout or a file.

    JSON is one array of objects: integers as numbers, decimals as text, times with six digits and
    `Z`, NaN as null, binary as lower-case hex.
    """
    writers: Mapping[str, Callable[[pa.Table, Any], None]] = {
        "table": _write_table,
        "json": _write_json,
        "csv": _write_csv,
        "arrow": _write_arrow,
        "parquet": _write_parquet,
    }
    writer = writers.get(format)
    if writer is None:
        raise Invalid(f"--format {format}: it is one of {', '.join(writers)}")
    if output is None:
        if format in ("arrow", "parquet") and sys.stdout.isatty():
            raise Invalid(f"--format {format} on a terminal: name a file with --output")
        writer(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with output.open("wb") as sink:
        writer(result, sink)


def _write_table(result: pa.Table, sink: Any) -> None:
    table = Table(show_lines=False)
    for name in result.column_names:
        table.add_column(name, overflow="fold")
    for row in result.slice(0, TABLE_ROWS_MAX).to_pylist():
        table.add_row(*(_cell(value) for value in row.values()))
    terminal = sys.stdout.isatty() and sink is sys.stdout.buffer
    console = Console(width=None if terminal else 200)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    if result.num_rows > TABLE_ROWS_MAX:
        text += f"… {result.num_rows - TABLE_ROWS_MAX:,} more rows; all of them with --format json\n"
    sink.write(text.encode())


def _cell(value: Any) -> str:
    plain = _plain(value)
    text = plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
    # A trait may hold anything; markup and control characters must not reach the terminal as such.
    text = "".join(c if c.isprintable() else " " for c in text).replace("[", "\\[")
    return text if len(text) <= CELL_CHARACTERS_MAX else text[: CELL_CHARACTERS_MAX - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "isoformat"):
        return _time(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _time(value: Any) -> str:
    if not hasattr(value, "hour"):
        return str(value.isoformat())
    text = value.isoformat(timespec="microseconds") if hasattr(value, "microsecond") else value.isoformat()
    return str(text).replace("+00:00", "Z")


def _write_json(result: pa.Table, sink: Any) -> None:
    sink.write(b"[")
    separator = b"\n "
    for batch in result.to_batches(max_chunksize=JSON_BATCH_ROWS):
        for row in batch.to_pylist():
            sink.write(separator + msgspec.json.encode(_plain(row)))
            separator = b",\n "
    sink.write(b"\n]\n")


def _write_csv(result: pa.Table, sink: Any) -> None:
    flat = [
        column
        if not pa.types.is_nested(column.type) and not pa.types.is_fixed_size_binary(column.type)
        else pa.array([_cell(value) for value in column.to_pylist()])
        for column in result.columns
    ]
    pyarrow.csv.write_csv(pa.table(flat, names=result.column_names), sink)


def _write_arrow(result: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, result.schema) as writer:
        writer.write_table(result)


def _write_parquet(result: pa.Table, sink: Any) -> None:
    pyarrow.parquet.write_table(result, sink, compression="zstd")
