"""The views of a workspace in a DuckDB connection, beside the tables they read."""

from collections.abc import Iterator
from typing import Final

import duckdb

from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.views.discover import Known
from profilelake.views.places import Places, View
from profilelake.views.sync import sync_views
from profilelake.views.warehouse import events__resolved, synced_events, warehouse_views

INPUTS: Final = frozenset({"events", "set_map", "trait_writes", "identity_map", "identifiers"})
"""Tables that every start makes; without them there is nothing to show."""
JOURNALS: Final = frozenset({"id_graph_updates", "external_id_mapping_updates"})

_LISTING: Final = ("information_schema", "duckdb_", "pg_", "sqlite_", "show", "describe", "pragma")
"""Words in questions about what there is."""


def attach(
    connection: duckdb.DuckDBPyConnection, lake: Lake, workspace: str, query: str | None = None
) -> list[str]:
    """Create a view for each table of a workspace and each shape of them; return the names of the tables.

    Tables have their bare names and are in the schema `ws_W` as well; `ws_W_sync` is Profiles Sync and
    `ws_W_warehouse` the warehouse. A shape that the text of `query` does not name is left out, since
    thousands of them take longer than a question. For the promises see `lake.reading.attach`, whose
    errors these are.
    """
    names = reading.attach(connection, lake, workspace)
    places = Places.of(workspace)
    wanted = None if query is None or _asks_what_there_is(query) else query.lower()
    # Most questions are about tables alone, and views of everything take a second.
    if not names or not (_mentioned(places.tables, wanted) or _mentioned("events_resolved", wanted)):
        return names
    create_schemas(connection, places)
    bare = [name for name in names if "." not in name]
    for name in bare:
        View("tables", name, f"FROM main.{sql.identifier(name)}").create(connection, places)
    known = Known(connection, places.schema("tables"), schema="schema" in bare)
    held = frozenset([*bare, *(name for name in JOURNALS if f"{places.sync}.{name}" in names)])
    create(connection, places, known, held, wanted)
    if "events_resolved" not in bare and (wanted is None or "events_resolved" in wanted):
        connection.execute(
            f"CREATE OR REPLACE VIEW main.events_resolved AS FROM {places.schema('tables')}.events_resolved"
        )
    return names


def create_schemas(connection: duckdb.DuckDBPyConnection, places: Places) -> None:
    """Make the schemas of the places."""
    for place in ("tables", "sync", "warehouse"):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {places.schema(place)}")


def create(
    connection: duckdb.DuckDBPyConnection,
    places: Places,
    known: Known,
    held: frozenset[str],
    wanted: str | None = None,
) -> list[View]:
    """Create the views over the tables that are `held`, those that a text in lower case names; return them."""
    made: list[View] = []
    if not held >= INPUTS:
        return made
    for view in views(places, known, held, wanted):
        if wanted is None or _named(view.name, wanted):
            view.create(connection, places)
            made.append(view)
    return made


def views(places: Places, known: Known, held: frozenset[str], wanted: str | None = None) -> Iterator[View]:
    """Yield every view, each after those that it reads; of groups that a text does not name only the first.

    What columns there are is found out only where a view has such columns.
    """
    yield View("tables", "events_resolved", events__resolved(places.schema("tables")))
    if held >= JOURNALS and _mentioned(places.sync, wanted):
        synced = list(sync_views(places, known, held))
        yield from synced
        yield from synced_events(places, known, JOURNALS | {view.name for view in synced})
    if _mentioned(places.warehouse, wanted):
        yield from warehouse_views(places, known)


def _mentioned(name: str, wanted: str | None) -> bool:
    return wanted is None or name.lower() in wanted


# Views of Profiles Sync that others read.
_READ_BY_OTHERS: Final = frozenset({"id_graph", "external_id_mapping"})


def _named(name: str, wanted: str) -> bool:
    return name in _READ_BY_OTHERS or name.lower() in wanted


def _asks_what_there_is(query: str) -> bool:
    lower = query.lower()
    return any(word in lower for word in _LISTING)
