"""Computed traits and audiences of a data directory, read from its tables by whoever may load them."""

import duckdb

from profilelake.app.directory import WORKSPACE
from profilelake.audiences.listing import TABLES, ValueSeen, values
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told
from profilelake.settings import Layout


def values_page(layout: Layout, key: str, *, audience: bool, after: str, rows: int) -> list[ValueSeen]:
    """Return who is in an audience or has a value, in order of profile ids, behind `after`.

    Raises:
        Corrupt: a file of a table is missing or damaged.
    """
    if not layout.has_lake:
        return []
    lake = Lake.of(layout)
    with duckdb.connect() as connection, damage_told():
        if TABLES[audience] not in attach(connection, lake, WORKSPACE):
            return []
        return values(connection, key, audience=audience, after=after, rows=rows)
