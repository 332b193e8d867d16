"""Shapes of tables as Iceberg tables, for engines that cannot share a view."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from profilelake.errors import Invalid, NotFound
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import Column, Part, TableDef
from profilelake.views.attach import JOURNALS, attach
from profilelake.views.places import Places, Schema

ROWS_AT_ONCE: Final = 1_000_000
"""Rows of a view in memory, and at most in one file."""
SNAPSHOT_SECONDS: Final = 600
"""How long a copy that was replaced can still be read."""
ORPHAN_SECONDS: Final = 3_600
"""How old files are that are removed with it; longer than any writing takes."""
MEMORY_LIMIT: Final = "1GB"

_PARTS: Final[dict[Schema, Part]] = {"tables": "", "sync": "sync", "warehouse": "warehouse"}


@dataclass(frozen=True, slots=True)
class Materialized:
    """A view that was written as a table: everything that was published through `sequence`."""

    table: str
    rows: int
    sequence: int


def materialize(lake: Lake, workspace: str, names: Sequence[str], spill: str) -> Iterator[Materialized]:
    """Write views as tables of their names, each in one snapshot; yield each as it is there.

    `names` are as `sync.user_traits`, `warehouse.order_completed` or `events_resolved`; a part alone means
    all in it. `spill` is a folder for what does not fit into memory.

    Raises:
        Invalid: no such view.
        NotFound: there are no tables yet.
        Conflict: another process is writing the same table.
        Unavailable: disk full or the like; the same may be done again.
    """
    places = Places.of(workspace)
    progress = lake.load(workspace, "events").progress if "events" in lake.names(workspace) else None
    if progress is None:
        raise NotFound(f"materialising views of workspace {workspace}: nothing was published yet")
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill}) as connection:
        with reading.damage_told():
            attach(connection, lake, workspace)
        there = _views(connection, places)
        for place, name in _chosen(names, there):
            yield _write(connection, lake, workspace, places, place, name, progress)


def _views(connection: duckdb.DuckDBPyConnection, places: Places) -> list[tuple[Schema, str]]:
    """Return the views that are not tables already."""
    found: list[tuple[Schema, str]] = [("tables", "events_resolved")]
    for place in ("sync", "warehouse"):
        rows = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? ORDER BY 1",
            [getattr(places, place)],
        ).fetchall()
        found += [(place, name) for (name,) in rows if place != "sync" or name not in JOURNALS]
    return found


def _chosen(names: Sequence[str], there: list[tuple[Schema, str]]) -> list[tuple[Schema, str]]:
    chosen: list[tuple[Schema, str]] = []
    for asked in names or ("sync", "warehouse"):
        place, _, name = asked.rpartition(".")
        matching = [view for view in there if view == (place or "tables", name)]
        matching += [view for view in there if not place and view[0] == asked]
        if not matching:
            raise Invalid(
                f"materialising {asked!r}: there is no such view; name one as sync.user_traits or "
                "warehouse.users, or a whole part: sync, warehouse"
            )
        chosen += matching
    return list(dict.fromkeys(chosen))


def _write(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    workspace: str,
    places: Places,
    place: Schema,
    name: str,
    progress: Progress,
) -> Materialized:
    view = f"{places.schema(place)}.{sql.identifier(name)}"
    with reading.damage_told():
        reader = connection.sql(f"FROM {view}").to_arrow_reader(ROWS_AT_ONCE)
        definition = TableDef(
            name=name,
            doc=f"the view {name} as of one publication",
            # What a column holds is not known, so none of them has metrics that outlive an erasure.
            columns=tuple(
                Column(field.name, _kept(field.type), f"as in the view {name}", personal=True)
                for field in reader.schema
            ),
            part=_PARTS[place],
        )
        table = lake.replaced_table(workspace, definition)
        schema = definition.schema()
        rows = table.replace((pa.Table.from_batches([batch]).cast(schema) for batch in reader), progress)
        # Nobody else tends these tables, and each replacement leaves a whole copy behind.
        table.expire_old(SNAPSHOT_SECONDS)
        table.sweep(min_age_seconds=ORPHAN_SECONDS, dry_run=False)
    return Materialized(table.name, rows, progress.sequence)


def _kept(kind: pa.DataType) -> pa.DataType:
    """Return the type a column has in a table."""
    if pa.types.is_null(kind) or pa.types.is_large_string(kind):
        return pa.string()
    return pa.timestamp("us", tz="UTC") if pa.types.is_timestamp(kind) and kind.tz else kind
