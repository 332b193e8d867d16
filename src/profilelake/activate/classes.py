"""What became of a definition between two moments, as classes of records: added, updated, deleted.

Made of the journal `audience_changes`, which has everything that was ever announced, so any two moments will do
and nobody keeps a copy of what he heard.
"""

from collections.abc import Callable
from typing import Final

import duckdb

from profilelake.errors import NotFound
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told

CLASSES__CHANGES: Final = """
WITH told AS (
    SELECT profile_id, any_value(collection) AS collection,
        first(previous ORDER BY sequence, number) AS previous,
        last(value ORDER BY sequence, number) AS value,
        max(changed_at) AS changed_at
    FROM audience_changes
    WHERE definition = $definition
        AND changed_at > make_timestamp($after) AT TIME ZONE 'UTC'
        AND changed_at <= make_timestamp($until) AT TIME ZONE 'UTC'
    GROUP BY profile_id
)
SELECT CASE WHEN previous IS NULL THEN 'added' WHEN value IS NULL THEN 'deleted' ELSE 'updated' END AS class,
    profile_id, collection, previous, value, changed_at
FROM told
WHERE previous IS DISTINCT FROM value
ORDER BY profile_id
"""
"""`$after`, `$until`: microseconds since 1970."""


def write_changes(
    lake: Lake,
    workspace: str,
    definition: str,
    after: int,
    until: int,
    write: Callable[[duckdb.DuckDBPyRelation], None],
) -> None:
    """Give `write` what differs between two moments, of each profile once, in the order of profile ids.

    Raises:
        NotFound: nothing was announced yet.
        Corrupt: a file of the table is missing or damaged.
    """
    with duckdb.connect() as connection, damage_told():
        if "audience_changes" not in attach(connection, lake, workspace):
            raise NotFound("comparing two moments: nothing was announced yet; start the server once")
        asked = {"definition": definition, "after": after, "until": until}
        write(connection.sql(CLASSES__CHANGES, params=asked))
