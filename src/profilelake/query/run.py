"""Run a query over the tables of a workspace and show the result."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final, TypeAlias

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow.types import is_boolean, is_date, is_decimal, is_floating, is_integer, is_string
from rich.console import Console
from rich.table import Table
from rich.text import Text

from profilelake.errors import Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.settings import Layout

WORKSPACE: Final = "default"
TABLE_ROWS_MAX: Final = 1_000
"""Rows shown as a table on the terminal; the other formats have all of them."""
TABLE_CHARACTERS: Final = 200
"""Width of a table that is not shown on a terminal."""
CELL_CHARACTERS_MAX: Final = 200
JSON_BATCH_ROWS: Final = 4_096
INTERRUPT_AGAIN_SECONDS: Final = 0.1
"""An interrupt between two steps of a query is lost on it."""


Attach: TypeAlias = Callable[[duckdb.DuckDBPyConnection, Lake, str, str], list[str]]
"""Shows a workspace to a connection, as far as a query asks for it; returns the names of its tables."""


def run_query(layout: Layout, query: str, show: Attach) -> pa.Table:
    """Return the result of a query over what `show` makes of the committed tables.

    Raises:
        Invalid: the query is wrong; the message says where.
        NotFound: there are no tables yet.
        Corrupt: a file of a table is missing or damaged.
    """
    lake = _lake(layout)
    with duckdb.connect() as connection:
        with damage_told():
            names = show(connection, lake, WORKSPACE, query)
        if not names:
            raise NotFound(f"sql: no tables in {layout.directory} yet; start the server once")
        try:
            return _named_apart(_interruptible(connection, query))
        except duckdb.Error as error:
            if str(layout.warehouse.absolute()) in str(error):
                with damage_told():
                    raise
            raise Invalid(f"sql: {error}") from error


def _interruptible(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Return the rows of a query, in a thread of its own: Ctrl-C then ends it, whatever it is doing."""

    def rows() -> pa.Table:
        relation = connection.sql(query)
        if relation is None:
            raise Invalid("sql: there is no query that gives rows; write a SELECT")
        return relation.to_arrow_table()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(rows)
        try:
            return running.result()
        except KeyboardInterrupt:
            while not running.done():
                connection.interrupt()
                wait([running], INTERRUPT_AGAIN_SECONDS)
            raise


def _named_apart(result: pa.Table) -> pa.Table:
    """Return the result with each name once: rows become objects, which would lose a column."""
    names: list[str] = []
    for name in result.column_names:
        spelling, number = name, 1
        while spelling in names:
            number += 1
            spelling = f"{name}_{number}"
        names.append(spelling)
    return result.rename_columns(names)


def _lake(layout: Layout) -> Lake:
    if not (layout.directory / "catalog.sqlite").exists():
        raise NotFound(f"reading the lake in {layout.directory}: no catalog yet; start the server once")
    return Lake.open(layout.catalog_uri, layout.warehouse)


def writer(format: str, output: Path | None) -> Callable[[pa.Table], None]:
    """Return what writes a result to stdout or a file; say at once if it could not.

    JSON is one array of objects: integers as numbers, decimals as text, times with six digits (and
    `Z` where they have a zone), NaN as null, binary as lower-case hex.

    Raises:
        Invalid: no such format, or one that a terminal cannot show.
    """
    writers: Mapping[str, Callable[[pa.Table, Any], None]] = {
        "table": _write_table,
        "json": _write_json,
        "csv": _write_csv,
        "arrow": _write_arrow,
        "parquet": _write_parquet,
    }
    chosen = writers.get(format)
    if chosen is None:
        raise Invalid(f"--format {format}: it is one of {', '.join(writers)}")
    if output is None and format in ("arrow", "parquet") and sys.stdout.isatty():
        raise Invalid(f"--format {format} on a terminal: name a file with --output")

    def write(result: pa.Table) -> None:
        try:
            if output is None:
                chosen(result, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                with output.open("wb") as sink:
                    chosen(result, sink)
        except pa.ArrowException as error:
            raise Invalid(f"writing the result as {format}: {error}; cast the column in the query") from error

    return write


def _write_table(result: pa.Table, sink: Any) -> None:
    # As `Text`, because markup of the terminal library may stand in any name and value.
    table = Table()
    for name in result.column_names:
        table.add_column(Text(_printable(name)), overflow="fold")
    for row in _rows(result.slice(0, TABLE_ROWS_MAX)):
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    terminal = sys.stdout.isatty() and sink is sys.stdout.buffer
    console = Console(width=None if terminal else TABLE_CHARACTERS)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    if result.num_rows > TABLE_ROWS_MAX:
        text += f"… {result.num_rows - TABLE_ROWS_MAX:,} more rows; all of them with --format json\n"
    sink.write(text.encode())


def _cell(value: Any) -> str:
    text = _printable(_text(value))
    return text if len(text) <= CELL_CHARACTERS_MAX else text[: CELL_CHARACTERS_MAX - 1] + "…"


def _printable(text: str) -> str:
    """Return a text without what would move the cursor or turn the line around."""
    return "".join(character if character.isprintable() else " " for character in text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _rows(result: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield each row with values that JSON has."""
    columns = [_with_microseconds(column) for column in result.columns]
    for batch in pa.table(columns, names=result.column_names).to_batches(max_chunksize=JSON_BATCH_ROWS):
        for row in batch.to_pylist(maps_as_pydicts="lossy"):
            yield {name: _plain(value) for name, value in row.items()}


def _with_microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
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


def _write_json(result: pa.Table, sink: Any) -> None:
    sink.write(b"[")
    separator = b"\n "
    for row in _rows(result):
        sink.write(separator + msgspec.json.encode(row))
        separator = b",\n "
    sink.write(b"\n]\n")


def _write_csv(result: pa.Table, sink: Any) -> None:
    whole = result.select([name for name in result.column_names if not _fits_csv(result.schema.field(name))])
    texts: dict[str, list[str | None]] = {name: [] for name in whole.column_names}
    for row in _rows(whole):
        for name, value in row.items():
            texts[name].append(None if value is None else _text(value))
    columns = [
        pa.array(texts[name], pa.string()) if name in texts else column
        for name, column in zip(result.column_names, result.columns, strict=True)
    ]
    pyarrow.csv.write_csv(pa.table(columns, names=result.column_names), sink)


def _fits_csv(field: pa.Field) -> bool:
    fits = (is_integer, is_floating, is_boolean, is_string, is_decimal, is_date)
    return any(test(field.type) for test in fits)


def _write_arrow(result: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, result.schema) as stream:
        stream.write_table(result)


def _write_parquet(result: pa.Table, sink: Any) -> None:
    pyarrow.parquet.write_table(result, sink, compression="zstd")
