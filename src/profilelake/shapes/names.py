"""Reads which events, properties and traits there are by name, for those who write definitions."""

from typing import Final, Literal, TypeAlias

import duckdb
import msgspec

from profilelake.definitions.names import Names
from profilelake.semantics.shapes import UNLISTED, split_path
from profilelake.semantics.times import format_time

NAMES_MAX: Final = 200_000
"""Rows of the table of shapes that are read for a check of names."""
SAMPLED_EVENTS_MAX: Final = 10_000
"""Newest events of a name that are looked into for sample values."""
SAMPLES_MAX: Final = 100

What: TypeAlias = Literal["events", "properties", "traits", "samples"]

_NAMES: Final = """
    SELECT DISTINCT type, coalesce(event, ''), part, path FROM "schema"
    WHERE part IN ('properties', 'traits') OR event IS NOT NULL LIMIT $rows
"""
_CALLED: Final = """
    WITH called AS (
        SELECT *, CASE type WHEN 'page' THEN 'Page Viewed' WHEN 'screen' THEN 'Screen Viewed'
            WHEN 'track' THEN event END AS name
        FROM "schema"
    ), listed AS (
"""
_LISTED: Final[dict[What, str]] = {
    "events": """
        SELECT name, [] AS types, min(first_seen_at) AS first, max(last_seen_at) AS last, max(events) AS events
        FROM called WHERE name IS NOT NULL AND $event = '' GROUP BY name
    """,
    "properties": """
        SELECT path AS name, list_sort(list(DISTINCT json_type)) AS types, min(first_seen_at) AS first,
            max(last_seen_at) AS last, sum(events) AS events
        FROM called WHERE name = $event AND part = 'properties' GROUP BY path
    """,
    "traits": """
        SELECT path AS name, list_sort(list(DISTINCT json_type)) AS types, min(first_seen_at) AS first,
            max(last_seen_at) AS last, sum(events) AS events
        FROM called WHERE type = $event AND part = 'traits' GROUP BY path
    """,
}
_PAGE: Final = """
    ) SELECT name, types, epoch_us(first), epoch_us(last), events FROM listed
    WHERE name <> $unlisted AND name > $after AND contains(lower(name), lower($search))
    ORDER BY name LIMIT $rows
"""
_SAMPLES: Final = """
    SELECT value, count(*) AS events FROM (
        SELECT json_extract(properties, $path) AS value FROM events
        WHERE type = $type AND ($type <> 'track' OR event = $event) ORDER BY received_at DESC LIMIT $looked
    ) WHERE value IS NOT NULL GROUP BY value ORDER BY events DESC, value LIMIT $rows
"""
_TYPES: Final = {"Page Viewed": "page", "Screen Viewed": "screen"}


class NamesAsked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which names are wanted: events, the properties of one, traits of a `collection`, values of a property."""

    what: What
    event: str = ""
    path: str = ""
    collection: str = "users"
    search: str = ""
    after: str = ""
    rows: int = 100


class Named(msgspec.Struct, frozen=True, rename="camel"):
    """One name, which types of values it has, and since when it was seen how often."""

    name: str
    types: list[str]
    first_seen_at: str
    last_seen_at: str
    count: int


class Sample(msgspec.Struct, frozen=True, rename="camel"):
    """A value of a property, and how many of the events looked into have it."""

    value: msgspec.Raw
    count: int


def names(connection: duckdb.DuckDBPyConnection) -> Names:
    """Return the names there are; where more were sent than are listed, nobody knows."""
    found = connection.execute(_NAMES, {"rows": NAMES_MAX}).fetchall()
    if len(found) == NAMES_MAX:
        return Names()
    events: dict[str, set[str]] = {}
    traits: dict[str, set[str]] = {"identify": set(), "group": set()}
    untold: set[str] = set()
    for type, event, part, path in found:
        name = {"page": "Page Viewed", "screen": "Screen Viewed"}.get(type, event)
        if part == "traits" and type in traits:
            traits[type] |= _names_of(path)
        elif name and type in ("track", "page", "screen"):
            kept = events.setdefault(name, set())
            if part == "properties":
                kept |= _names_of(path)
                if path == UNLISTED:
                    untold.add(name)
    for name in untold:
        events[name] = set()
    return Names(
        events=None if UNLISTED in events else events,
        user_traits=None if UNLISTED in traits["identify"] else traits["identify"],
        account_traits=None if UNLISTED in traits["group"] else traits["group"],
    )


def named(connection: duckdb.DuckDBPyConnection, asked: NamesAsked) -> list[Named]:
    """Return a page of names, in order."""
    event = asked.event
    if asked.what == "traits":
        event = "group" if asked.collection == "accounts" else "identify"
    rows = connection.execute(
        _CALLED + _LISTED[asked.what] + _PAGE,
        {
            "event": event,
            "unlisted": UNLISTED,
            "after": asked.after,
            "search": asked.search,
            "rows": asked.rows,
        },
    ).fetchall()
    return [
        Named(name, types or [], format_time(first), format_time(last), int(count))
        for name, types, first, last, count in rows
    ]


def samples(connection: duckdb.DuckDBPyConnection, asked: NamesAsked) -> list[Sample]:
    """Return the most frequent values of a property among the newest events of a name."""
    pointer = "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in split_path(asked.path))
    rows = connection.execute(
        _SAMPLES,
        {
            "path": pointer,
            "type": _TYPES.get(asked.event, "track"),
            "event": asked.event,
            "looked": SAMPLED_EVENTS_MAX,
            "rows": min(asked.rows, SAMPLES_MAX),
        },
    ).fetchall()
    return [Sample(msgspec.Raw(value.encode()), count) for value, count in rows]


def _names_of(path: str) -> set[str]:
    return {path, split_path(path)[0]}
