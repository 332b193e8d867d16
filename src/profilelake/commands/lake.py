"""`profilelake lake …`: what the tables hold, what changed, whether they are whole, and their upkeep.

Reading commands take no lock. The changing ones ask the lake process of a running server; without one
they take the directory's lock and do it themselves, so nobody else ever commits beside them.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from profilelake.commands import _lake_places
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    without_token,
)
from profilelake.errors import Conflict, Corrupt, Invalid, NotFound
from profilelake.settings import Layout

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.lake_requests import Request

WORKSPACE: Final = "default"
MEMORY_LIMIT: Final = "1GB"
WAIT_SECONDS_MAX: Final = 900.0
"""How long a command waits for the lake process, which may be in a step of its own."""
ORPHAN_MINUTES_MIN: Final = 10

lake_commands = typer.Typer(no_args_is_help=True, help="The Iceberg tables.")
lake_commands.command("connect")(_lake_places.connect)
lake_commands.command("move")(_lake_places.move)

Table = Annotated[str, typer.Argument(help="Table, as `lake tables` names it.")]
Tables = Annotated[
    list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables; all where none is named.")
]
EngineUrl = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="URL",
        help="Where the work is done: embedded, or a cluster.",
        callback=without_token,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]


@lake_commands.command("tables")
def tables(
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="What the columns mean, instead of sizes.")
    ] = False,
    format: Annotated[
        str, typer.Option(help="table, json, csv, arrow or parquet; with --schema also markdown.")
    ] = "table",
) -> None:
    """List the tables: rows, files, bytes, snapshots, last commit, how far the base of each has come."""
    from profilelake.lake import showing
    from profilelake.pipeline.register import TABLES
    from profilelake.pipeline.table_docs import columns, markdown

    if schema and format == "markdown":
        print(markdown(TABLES), end="")
    elif schema:
        _show(columns(TABLES), as_json, format)
    else:
        found = showing.tables(_lake(directory), WORKSPACE)
        # A terminal is too narrow for paths; the other formats have them.
        narrow = format == "table" and not as_json
        _show(found.drop_columns(["location", "metadata"]) if narrow else found, as_json, format)


@lake_commands.command("link")
def link(
    name: Annotated[str, typer.Argument(help="Name of the table, such as orders.")],
    file: Annotated[
        Path, typer.Argument(help="A file of rows: .parquet, .csv, .ndjson or .json.", exists=True)
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put the rows of a file into a table of your own beside ours, for SQL and entities to read."""
    from profilelake.lake.linked import read_rows

    rows = read_rows(file)
    _lake(directory).put_linked(WORKSPACE, name, rows)
    if as_json:
        print_json({"table": f"ws_{WORKSPACE}_linked.{name}", "rows": rows.num_rows})
    else:
        print(f"ws_{WORKSPACE}_linked.{name}: {rows.num_rows:,} rows")


@lake_commands.command("snapshots")
def snapshots(table: Table, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List the snapshots of a table that are kept, oldest first, with what each did."""
    from profilelake.lake import showing

    _show(showing.snapshots(showing.table_of(_lake(directory), WORKSPACE, table)), as_json)


@lake_commands.command("diff")
def diff(
    table: Table,
    before: Annotated[
        int | None, typer.Argument(help="Snapshot; the one before AFTER where not given.")
    ] = None,
    after: Annotated[int | None, typer.Argument(help="Snapshot; the newest where not given.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
    format: Annotated[str, typer.Option(help="table, json, csv, arrow or parquet.")] = "table",
    count: Annotated[bool, typer.Option("--count", help="Only how many rows.")] = False,
) -> None:
    """Show the rows that one snapshot of a table has and another has not."""
    from profilelake.lake import showing
    from profilelake.lake.reading import damage_told

    lake = _lake(directory)
    shown = showing.table_of(lake, WORKSPACE, table)
    if before is None:
        before, after = showing.parent_of(shown, None)
    elif after is None:
        after = shown.published.table.metadata.current_snapshot_id
    if before is None or after is None:
        raise NotFound(f"comparing snapshots of {table}: it has none yet")
    with _connection(lake) as connection, damage_told():
        result = showing.diff(connection, shown, before, after, counted=count)
    _show(result, as_json, format)


@lake_commands.command("compact")
def compact(
    tables: Tables = None,
    directory: Directory = DEFAULT_DIRECTORY,
    dry_run: DryRun = False,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Begin no step after this long.")] = 600.0,
    engine: EngineUrl = "",
    as_json: Json = False,
) -> None:
    """Gather small files of append-only tables into large sorted ones, days that are not over included.

    With --engine all tables at once, as many files at a time as there is room; changes of current tables are
    merged too. The server must not run then.
    """
    from profilelake.pipeline.lake_requests import Request

    if engine:
        if dry_run:
            raise Invalid("lake compact: --dry-run does not go with --engine; leave one of them out")
        from profilelake.app.upkeep import compact_directory

        _lake(directory)  # that there is one is told before anything is locked
        _show_rows(compact_directory(layout_of(directory), engine, tuple(tables or ()), seconds), as_json)
        return

    request = Request(action="compact", tables=tuple(tables or ()), dry_run=dry_run, seconds_max=seconds)
    _show_rows(_change(layout_of(directory), request, seconds + WAIT_SECONDS_MAX), as_json)


@lake_commands.command("repair")
def repair(
    directory: Directory = DEFAULT_DIRECTORY,
    dry_run: DryRun = False,
    engine: EngineUrl = "embedded",
    as_json: Json = False,
) -> None:
    """Put the facts right: every event once, and what events say in all tables where it belongs.

    The server must not run. What no event tells any more is said, and stays as it is.
    """
    from profilelake.app.upkeep import repair_directory

    _lake(directory)  # that there is one is told before anything is locked
    done = repair_directory(
        layout_of(directory), engine, dry_run=dry_run, report=lambda step: print(step, file=sys.stderr)
    )
    rows = [{"what": what, "rows": count, "told": told} for what, count, told in done.told()]
    if as_json:
        print_json(rows)
    else:
        _show_rows(rows, as_json=False)
    if not done.looked_at_facts:
        print("the other tables are looked at once these events have left", file=sys.stderr)
    if done.rebuild:
        later = "then run" if dry_run else "run"
        print(f"events are counted elsewhere now; {later}: profilelake rebuild", file=sys.stderr)


@lake_commands.command("expire")
def expire(
    tables: Tables = None,
    directory: Directory = DEFAULT_DIRECTORY,
    older_than: Annotated[float, typer.Option(min=0, help="Hours; younger snapshots stay.")] = 1.0,
    orphans_older_than: Annotated[
        float,
        typer.Option(
            min=ORPHAN_MINUTES_MIN, help="Minutes; younger files stay. Longer than any write takes."
        ),
    ] = 60.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Forget old snapshots that nothing needs, and remove files that no snapshot reaches any more."""
    from profilelake.pipeline.lake_requests import Request

    request = Request(
        action="expire",
        tables=tuple(tables or ()),
        dry_run=dry_run,
        age_seconds=older_than * 3600,
        orphan_seconds=orphans_older_than * 60,
    )
    _show_rows(_change(layout_of(directory), request, WAIT_SECONDS_MAX), as_json)


@lake_commands.command("verify")
def verify(
    directory: Directory = DEFAULT_DIRECTORY,
    quick: Annotated[
        bool, typer.Option("--quick", help="Metadata and sizes of files only; rows are not read.")
    ] = False,
    as_json: Json = False,
) -> None:
    """See whether the tables are whole: every file readable, counts, checksums, progress, conservation."""
    from profilelake.lake.checking import check_tables

    lake = _lake(directory)
    with _connection(lake) as connection:
        problems = [
            {"table": problem.table, "what": problem.what, "detail": problem.detail}
            for problem in check_tables(lake, WORKSPACE, connection, quick=quick)
        ]
    if as_json:
        print_json(problems)
    for problem in () if as_json else problems:
        print(f"{problem['table']}: {problem['what']}: {problem['detail']}")
    if problems:
        raise Corrupt(
            f"lake verify: {len(problems)} problems; restore files from backup, or rebuild current tables: "
            "profilelake rebuild"
        )
    print("the tables are whole", file=sys.stderr)


@lake_commands.command("digest")
def digest(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables; without one all of them.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    engine: Annotated[
        str, typer.Option(help="Where it is computed: `embedded`, or the URL of a cluster.")
    ] = "embedded",
    as_json: Json = False,
) -> None:
    """Print a digest of the rows of each table: equal ones hold the same, whatever engine wrote or reads them."""
    from profilelake.app.rebuilding import digests_of

    lake = _lake(directory)
    try:
        found = digests_of(layout_of(directory), lake, engine, tables or ())
    finally:
        lake.close()
    _show_rows(
        [
            {
                "table": one.table,
                "rows": one.digest.rows,
                "digest": str(one.digest),
                "columns": ", ".join(one.columns),
            }
            for one in found
        ],
        as_json,
    )


def _lake(directory: "Directory") -> "Lake":
    from profilelake.lake.catalog import Lake

    layout = layout_of(directory)
    if not layout.has_lake:
        raise NotFound(f"reading the lake in {layout.directory}: no catalog yet; start the server once")
    return Lake.of(layout)


@contextmanager
def _connection(lake: "Lake") -> "Iterator[duckdb.DuckDBPyConnection]":
    from profilelake.lake import sql

    with tempfile.TemporaryDirectory(prefix="profilelake-lake-") as spill:
        connection = sql.connect(MEMORY_LIMIT, spill, lake.storage)
        try:
            yield connection
        finally:
            connection.close()


def _change(layout: Layout, request: "Request", seconds_max: float) -> list[dict[str, Any]]:
    """Have a request carried out by whoever commits to the tables: the lake process, or else this one."""
    from profilelake.app.directory import DirectoryLock
    from profilelake.ops.clock import wall
    from profilelake.pipeline.lake_requests import ask
    from profilelake.pipeline.upkeep import Record, Upkeep

    lake = _lake(layout.directory)
    try:
        lock = DirectoryLock(layout)
    except Conflict:
        return ask(layout.lake_requests, request, seconds_max, lambda: _owned(layout))
    try:
        record = Record(layout.maintenance_record, wall)
        return Upkeep(WORKSPACE, lake, wall, record).carry_out(request)
    finally:
        lock.release()


def _owned(layout: Layout) -> bool:
    """Tell whether the process that holds the directory lives."""
    try:
        owner = (layout.run / "lock").read_text().split()
        os.kill(int(owner[1]), 0)
    except PermissionError:
        return True  # It is somebody else's, and there.
    except (OSError, ValueError, IndexError):
        return False
    return True


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    import pyarrow as pa

    if rows:
        _show(pa.Table.from_pylist(rows), as_json)
    elif as_json:
        print_json([])


def _show(result: "pa.Table", as_json: bool, format: str = "table") -> None:
    from profilelake.query.run import writer

    if format == "markdown":
        raise Invalid("--format markdown: it goes with --schema")
    writer("json" if as_json else format, None)(result)
