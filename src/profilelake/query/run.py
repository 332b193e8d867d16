"""Run a query over the tables of a workspace and show the result."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, TypeVar

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from profilelake.errors import Corrupt, Invalid, NotFound
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.query.formats import FORMATS, batches, named_apart, rows, stream, text
from profilelake.settings import Layout

WORKSPACE: Final = "default"
TABLE_ROWS_MAX: Final = 1_000
"""Rows shown as a table on the terminal; the other formats have all of them."""
TABLE_CHARACTERS: Final = 200
"""Width of a table that is not shown on a terminal."""
CELL_CHARACTERS_MAX: Final = 200
INTERRUPT_AGAIN_SECONDS: Final = 0.1
"""An interrupt between two steps of a query is lost on it."""

_Answer = TypeVar("_Answer")


Attach: TypeAlias = Callable[[duckdb.DuckDBPyConnection, Lake, str, str], list[str]]
"""Shows a workspace to a connection, as far as a query asks for it; returns the names of its tables."""


def run_query(layout: Layout, query: str, show: Attach) -> pa.Table:
    """Return the whole result of a query over what `show` makes of the committed tables.

    Raises:
        Invalid: the query is wrong; the message says where.
        NotFound: there are no tables yet.
        Corrupt: a file of a table is missing or damaged.
    """
    return _answered(layout, query, show, lambda relation: relation.to_arrow_table())


def write_query(
    layout: Layout, query: str, show: Attach, write: Callable[[duckdb.DuckDBPyRelation], None]
) -> None:
    """Hand the result of a query to what `writer` made, which takes it as it comes.

    Raises: as `run_query`.
    """
    _answered(layout, query, show, write)


def _answered(
    layout: Layout, query: str, show: Attach, take: Callable[[duckdb.DuckDBPyRelation], _Answer]
) -> _Answer:
    lake = _lake(layout)
    with duckdb.connect() as connection:
        with damage_told():
            names = show(connection, lake, WORKSPACE, query)
        if not names:
            raise NotFound(f"sql: no tables in {layout.directory} yet; start the server once")
        try:
            return _interruptible(connection, query, take)
        except duckdb.Error as error:
            if sql.storage_fault(error) is not None:
                with damage_told():
                    raise
            if str(layout.warehouse.absolute()) in str(error):
                if isinstance(error, duckdb.IOException | duckdb.InvalidInputException):
                    with damage_told():
                        raise
                raise Corrupt(f"reading the tables: {error}; restore the file from backup") from error
            raise Invalid(f"sql: {error}") from error


def _interruptible(
    connection: duckdb.DuckDBPyConnection, query: str, take: Callable[[duckdb.DuckDBPyRelation], _Answer]
) -> _Answer:
    """Run a query in a thread of its own: Ctrl-C then ends it, whatever it is doing."""

    def rows() -> _Answer:
        relation = connection.sql(query)
        if relation is None:
            raise Invalid("sql: there is no query that gives rows; write a SELECT")
        return take(named_apart(relation))

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(rows)
        try:
            return running.result()
        except KeyboardInterrupt:
            while not running.done():
                connection.interrupt()
                wait([running], INTERRUPT_AGAIN_SECONDS)
            raise


def _lake(layout: Layout) -> Lake:
    if not layout.has_lake:
        raise NotFound(f"reading the lake in {layout.directory}: no catalog yet; start the server once")
    return Lake.of(layout)


def writer(format: str, output: Path | None) -> Callable[[duckdb.DuckDBPyRelation | pa.Table], None]:
    """Return what writes a result to stdout or a file, a relation as it comes; say at once if it could not.

    A file appears when it is whole. How values look is `formats`' business.

    Raises:
        Invalid: no such format, or one that a terminal cannot show.
    """
    if format not in ("table", *FORMATS):
        raise Invalid(f"--format {format}: it is one of table, {', '.join(FORMATS)}")
    if output is None and format in ("arrow", "parquet") and sys.stdout.isatty():
        raise Invalid(f"--format {format} on a terminal: name a file with --output")

    def write(result: duckdb.DuckDBPyRelation | pa.Table) -> None:
        if isinstance(result, pa.Table):
            with duckdb.connect() as connection:
                connection.execute("SET enable_progress_bar=false")
                write(connection.from_arrow(result))
            return
        relation = result
        try:
            if output is None:
                _write(relation, format, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                with _whole(output) as sink:
                    _write(relation, format, sink)
        except pa.ArrowException as error:
            raise Invalid(f"writing the result as {format}: {error}; cast the column in the query") from error

    return write


@contextmanager
def _whole(output: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `output` once all is written; pipes and devices are written to."""
    if output.exists() and not output.is_file():
        with output.open("wb") as sink:
            yield sink
        return
    place = output.resolve()  # a link stays one
    unfinished = place.with_name(f".{place.name}.unfinished")
    try:
        with unfinished.open("wb") as sink:
            yield sink
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)


def _write(relation: duckdb.DuckDBPyRelation, format: str, sink: Any) -> None:
    if format == "table":
        _write_table(relation, sink)
    else:
        stream(relation, format, sink, lambda _rows: None)


def _write_table(relation: duckdb.DuckDBPyRelation, sink: Any) -> None:
    # As `Text`, because markup of the terminal library may stand in any name and value.
    table = Table()
    for name in relation.columns:
        table.add_column(Text(_printable(name)), overflow="fold")
    count = 0
    for batch in batches(relation, lambda _rows: None):
        for row in rows(batch.slice(0, max(0, TABLE_ROWS_MAX - count))):
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        count += batch.num_rows
    terminal = sys.stdout.isatty() and sink is sys.stdout.buffer
    console = Console(width=None if terminal else TABLE_CHARACTERS)
    with console.capture() as captured:
        console.print(table)
    shown = captured.get()
    if count > TABLE_ROWS_MAX:
        shown += f"… {count - TABLE_ROWS_MAX:,} more rows; all of them with --format json\n"
    sink.write(shown.encode())


def _cell(value: Any) -> str:
    shown = _printable(text(value))
    return shown if len(shown) <= CELL_CHARACTERS_MAX else shown[: CELL_CHARACTERS_MAX - 1] + "…"


def _printable(value: str) -> str:
    """Return a text without what would move the cursor or turn the line around."""
    return "".join(character if character.isprintable() else " " for character in value)
