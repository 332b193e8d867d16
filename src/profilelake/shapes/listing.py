"""Reads the table of shapes: what was seen under which path and type, since when, and what is at odds."""

from typing import Final

import duckdb

from profilelake.semantics.shapes import UNLISTED
from profilelake.semantics.times import format_time
from profilelake.shapes.asking import AT_ODDS, AtOdds, SchemaAsked, ShapeSeen, place_of

_SEEN: Final = """
    WITH seen AS (SELECT *, coalesce(event, '') AS event_name FROM "schema"),
    listed AS (SELECT * FROM seen WHERE path <> $unlisted),
    of_types AS (
        SELECT type, event_name, part, path FROM listed GROUP BY type, event_name, part, path
        HAVING count(DISTINCT CASE json_type WHEN 'integer' THEN 'number' ELSE json_type END) > 1
    ),
    of_case AS (
        SELECT type, event_name, part, lower(path) AS folded FROM listed
        GROUP BY type, event_name, part, folded HAVING count(DISTINCT path) > 1
    ),
    of_column AS (
        SELECT type, event_name, column_name FROM listed WHERE column_name IS NOT NULL
        GROUP BY type, event_name, column_name HAVING count(DISTINCT (part, path)) > 1
    ),
    told AS (
        SELECT seen.*,
            of_types.path IS NOT NULL AND seen.path <> $unlisted AS types_at_odds,
            of_case.folded IS NOT NULL AND seen.path <> $unlisted AS case_at_odds,
            of_column.column_name IS NOT NULL AS column_at_odds
        FROM seen
        LEFT JOIN of_types USING (type, event_name, part, path)
        LEFT JOIN of_case ON of_case.type = seen.type AND of_case.event_name = seen.event_name
            AND of_case.part = seen.part AND of_case.folded = lower(seen.path)
        LEFT JOIN of_column ON of_column.type = seen.type AND of_column.event_name = seen.event_name
            AND of_column.column_name = seen.column_name
    )
    SELECT schema_id, type, event, part, path, json_type, epoch_us(first_seen_at), epoch_us(last_seen_at),
        events, example, column_name, types_at_odds, case_at_odds, column_at_odds
    FROM told
    WHERE ($event IS NULL OR event_name = $event) AND ($type IS NULL OR type = $type)
        AND ($part IS NULL OR part = $part)
        AND ($path IS NULL OR path = $path OR starts_with(path, $path || '.'))
        AND ($new_since IS NULL OR epoch_us(first_seen_at) >= $new_since)
        AND ($at_odds IS NULL OR CASE $at_odds WHEN 'types' THEN types_at_odds WHEN 'case' THEN case_at_odds
            WHEN 'column' THEN column_at_odds ELSE types_at_odds OR case_at_odds OR column_at_odds END)
        AND (NOT $going_on OR (type, event_name, part, path, json_type)
            > ($after_type, $after_event, $after_part, $after_path, $after_json_type))
    ORDER BY type, event_name, part, path, json_type
    LIMIT $rows
"""


def listed(connection: duckdb.DuckDBPyConnection, asked: SchemaAsked) -> list[ShapeSeen]:
    """Return the shapes that are wanted, in order; `connection` has the tables attached."""
    type, event, part, path, json_type = place_of(asked.after) if asked.after else [""] * 5
    found = connection.execute(
        _SEEN,
        {
            "unlisted": UNLISTED,
            "event": asked.event,
            "type": asked.type,
            "part": asked.part,
            "path": asked.path,
            "new_since": asked.new_since,
            "at_odds": asked.at_odds,
            "going_on": bool(asked.after),
            "after_type": type,
            "after_event": event,
            "after_part": part,
            "after_path": path,
            "after_json_type": json_type,
            "rows": asked.rows,
        },
    ).fetchall()
    return [_shape(*row) for row in found]


def _shape(
    id: str,
    type: str,
    event: str | None,
    part: str,
    path: str,
    json_type: str,
    first: int,
    last: int,
    events: int,
    example: str | None,
    column: str | None,
    *at_odds: bool,
) -> ShapeSeen:
    words: list[AtOdds] = [word for word, holds in zip(AT_ODDS, at_odds, strict=True) if holds]
    times = format_time(first), format_time(last)
    return ShapeSeen(id, type, event, part, path, json_type, *times, events, example, column, words)
