"""Commands that hand the shapes of tables to other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json
from profilelake.errors import Invalid, NotFound

if TYPE_CHECKING:
    from profilelake.lake.catalog import Lake

WORKSPACE = "default"


def duckdb_file(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="DuckDB database to write into.")
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    sync_schema: Annotated[
        str | None, typer.Option(help="Schema of Profiles Sync; identified_events as in Segment's models.")
    ] = None,
    warehouse_schema: Annotated[
        str | None, typer.Option(help="Schema of the warehouse tables; for models the name of their source.")
    ] = None,
    tables_schema: Annotated[str | None, typer.Option(help="Schema of the tables themselves.")] = None,
    as_json: Json = False,
) -> None:
    """Write the tables and their shapes as views into a DuckDB file, for dbt, notebooks and the like."""
    from profilelake.lake.reading import damage_told
    from profilelake.views.database import write_database
    from profilelake.views.places import Places

    lake = _lake(directory)
    named = Places.of(WORKSPACE)
    places = Places(
        tables_schema or named.tables, sync_schema or named.sync, warehouse_schema or named.warehouse
    )
    if len({places.tables.lower(), places.sync.lower(), places.warehouse.lower()}) < 3:
        raise Invalid(
            f"writing {output}: the schemas {places.tables}, {places.sync} and {places.warehouse} must differ, "
            "as tables in them have the same names"
        )
    if not output.parent.is_dir():
        raise Invalid(f"writing {output}: there is no directory {output.parent}; make it first")
    with damage_told():
        written = write_database(lake, WORKSPACE, output, places)
    if as_json:
        print_json(
            {
                "path": str(output),
                "views": written.views,
                "sequence": written.sequence,
                "schemas": [places.tables, places.sync, places.warehouse],
            }
        )
        return
    print(f"{written.views} views in {output}: {places.tables}, {places.sync}, {places.warehouse}")


def materialize(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VIEW]...", help="such as sync.user_traits or warehouse.users, or sync for all in it"
        ),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Write views as Iceberg tables, for engines that cannot read views of DuckDB."""
    from profilelake.views.materialize import materialize as write

    lake = _lake(directory)
    spill = layout_of(directory).run / "materialize"
    written = []
    for each in write(lake, WORKSPACE, names or (), str(spill)):
        if not as_json:
            print(f"{each.table:<48} {each.rows:>13,} rows  as of publication {each.sequence}")
        written.append({"table": each.table, "rows": each.rows, "sequence": each.sequence})
    if as_json:
        print_json(written)


def _lake(directory: Path) -> "Lake":
    from profilelake.lake.catalog import Lake

    layout = layout_of(directory)
    if not layout.has_lake:
        raise NotFound(f"reading the lake in {layout.directory}: no catalog yet; start the server once")
    return Lake.of(layout)
