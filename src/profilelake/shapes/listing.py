"""Reads the table of shapes: what was seen under which path and type, since when, and what is at odds."""

import re
from typing import Final, Literal, TypeAlias, get_args

import duckdb
import msgspec

from profilelake.errors import Invalid
from profilelake.semantics.shapes import PARTS, UNLISTED
from profilelake.semantics.times import MICROSECONDS, format_time, parse_time

AtOdds: TypeAlias = Literal["types", "case", "column"]
AT_ODDS: Final[tuple[AtOdds, ...]] = get_args(AtOdds)
"""A path with several types of values; paths that differ in their case only; paths with one column name."""

_AGO: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

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


class SchemaAsked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which shapes are wanted: `path` is one path and what lies below it, `new_since` in microseconds."""

    event: str | None = None
    type: str | None = None
    part: str | None = None
    path: str | None = None
    new_since: int | None = None
    at_odds: Literal["types", "case", "column", "any"] | None = None
    after: str = ""
    rows: int = 100


class ShapeSeen(msgspec.Struct, frozen=True):
    """One path with one type of value, and what it is at odds with. Without an event it is of calls with no name."""

    id: str
    type: str
    event: str | None
    part: str
    path: str
    json_type: str
    first_seen_at: str
    last_seen_at: str
    events: int
    example: str | None
    column_name: str | None
    at_odds: list[AtOdds]

    def place(self) -> str:
        """Return what tells where the list goes on behind this row."""
        return msgspec.json.encode(
            (self.type, self.event or "", self.part, self.path, self.json_type)
        ).decode()


def schema_asked(
    *,
    event: str | None = None,
    type: str | None = None,
    part: str | None = None,
    path: str | None = None,
    new_since: str | None = None,
    at_odds: str | None = None,
    after: str = "",
    rows: int,
    now: int,
) -> SchemaAsked:
    """Return a question as people write it; `new_since` is a time, or a while such as `90m`.

    Raises:
        Invalid: a word is none of those that are known.
    """
    if part is not None and part not in PARTS:
        raise Invalid(f"part={part[:40]!r}: it is one of {', '.join(PARTS)}")
    if at_odds is not None and at_odds not in (*AT_ODDS, "any"):
        raise Invalid(f"at_odds={at_odds[:40]!r}: it is one of {', '.join(AT_ODDS)}, any")
    since = None if new_since is None else _since(new_since, now)
    if after:
        _place(after)
    return msgspec.convert(
        {
            "event": event,
            "type": type,
            "part": part,
            "path": path,
            "new_since": since,
            "at_odds": at_odds,
            "after": after,
            "rows": rows,
        },
        SchemaAsked,
    )


def listed(connection: duckdb.DuckDBPyConnection, asked: SchemaAsked) -> list[ShapeSeen]:
    """Return the shapes that are wanted, in order; `connection` has the tables attached."""
    type, event, part, path, json_type = _place(asked.after) if asked.after else [""] * 5
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


def _since(text: str, now: int) -> int:
    ago = _AGO.fullmatch(text)
    time = parse_time(text) if ago is None else now - int(ago[1]) * _SECONDS[ago[2]] * MICROSECONDS
    if time is None:
        raise Invalid(f"new_since={text[:40]!r}: write a while as 90m, 24h or 7d, or a time in ISO 8601")
    return time


def _place(after: str) -> list[str]:
    try:
        place = msgspec.json.decode(after, type=list[str])
    except (msgspec.DecodeError, UnicodeError):
        place = []
    if len(place) != len(("type", "event", "part", "path", "json_type")):
        raise Invalid("the cursor is not one of ours: take it from `pagination.next` of the page before")
    return place
