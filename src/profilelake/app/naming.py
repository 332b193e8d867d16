"""Which events, properties and traits were ever sent, read from the tables of a data directory."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from profilelake.app.directory import WORKSPACE
from profilelake.definitions.names import NOTHING, Names
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told
from profilelake.settings import Layout
from profilelake.shapes.names import Named, NamesAsked, Sample, named, names, samples
from profilelake.shapes.tables import SCHEMA


def names_of(layout: Layout) -> Names:
    """Return the names there are in the tables, nothing known where nothing was published yet."""
    with _attached(layout) as connection:
        return NOTHING if connection is None else names(connection)


def names_page(layout: Layout, asked: NamesAsked) -> list[Named] | list[Sample]:
    """Return a page of names, or sample values, as they are asked for."""
    with _attached(layout) as connection:
        if connection is None:
            return []
        return samples(connection, asked) if asked.what == "samples" else named(connection, asked)


@contextmanager
def _attached(layout: Layout) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """Open the tables, None where there are none yet.

    Raises:
        Corrupt: a file of a table is missing or damaged.
    """
    if not layout.has_lake:
        yield None
        return
    with duckdb.connect() as connection, damage_told():
        lake = Lake.of(layout)
        yield connection if SCHEMA.name in attach(connection, lake, WORKSPACE) else None
