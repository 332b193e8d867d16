"""Current state from the journals of Profiles Sync, folded as published models fold them."""

from typing import Any, Final

import duckdb

from pipeline_driver import WORKSPACE, Desk
from profilelake.lake.reading import attach

LAST_ROWS: Final = """
    SELECT segment_id, canonical_segment_id
    FROM ws_default_sync.id_graph_updates
    QUALIFY row_number() OVER (PARTITION BY segment_id ORDER BY seq DESC) = 1
"""
"""The last row of each id."""

ID_GRAPH: Final = """
    WITH ahead AS (
        SELECT segment_id, canonical_segment_id AS later, max(uuid_ts) AS until
        FROM ws_default_sync.id_graph_updates
        WHERE segment_id <> canonical_segment_id
        GROUP BY ALL
    ), ranked AS (
        SELECT row.segment_id, row.canonical_segment_id, row.seq, EXISTS (
            SELECT 1 FROM ahead
            WHERE ahead.segment_id = row.canonical_segment_id
              AND ahead.later <> row.canonical_segment_id
              AND ahead.until + INTERVAL 2 HOURS > row.uuid_ts
        ) AS overtaken
        FROM ws_default_sync.id_graph_updates AS row
    )
    SELECT segment_id, canonical_segment_id
    FROM ranked
    QUALIFY row_number() OVER (PARTITION BY segment_id ORDER BY overtaken, seq DESC NULLS FIRST) = 1
"""
"""The same with the look-ahead of two hours that makes up for rows landing out of order."""

EXTERNAL_ID_MAPPING: Final = f"""
    WITH id_graph AS ({LAST_ROWS})
    SELECT external_id_hash, external_id_type, external_id_value,
           coalesce(canonical_segment_id, segment_id) AS canonical_segment_id, __operation
    FROM ws_default_sync.external_id_mapping_updates LEFT JOIN id_graph USING (segment_id)
    QUALIFY row_number() OVER (PARTITION BY external_id_hash ORDER BY timestamp DESC) = 1
"""  # noqa: S608 - names of ours
"""The latest row of each identifier, with the profile its id is part of now."""


def ask(desk: Desk, *queries: str) -> list[list[tuple[Any, ...]]]:
    """Return the rows of queries over the published tables."""
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        return [connection.sql(query).fetchall() for query in queries]


PROFILE_TRAITS: Final = f"""
    WITH id_graph AS ({LAST_ROWS}), last_rows AS (
        SELECT * FROM ws_default_sync.profile_traits_updates WHERE seq > '{{after}}'
        QUALIFY row_number() OVER (PARTITION BY segment_id ORDER BY coalesce(seq, '0') DESC) = 1
    ), folded AS (
        SELECT coalesce(canonical_segment_id, segment_id) AS canonical_segment_id,
               arg_max({{trait}}, seq) AS {{trait}}
        FROM last_rows LEFT JOIN id_graph USING (segment_id)
        GROUP BY ALL
    )
    SELECT ids.segment_id, CASE WHEN ids.segment_id = ids.canonical_segment_id THEN {{trait}} END AS {{trait}},
           CASE WHEN ids.segment_id <> ids.canonical_segment_id THEN ids.canonical_segment_id END AS merged_to
    FROM id_graph AS ids LEFT JOIN folded ON folded.canonical_segment_id = ids.segment_id
"""  # noqa: S608 - names of ours
"""A trait of each profile: of the last rows of its ids after a `seq`, the last value that there is."""
