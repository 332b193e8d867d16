"""What the demo asks the lake, in SQL anybody can type into `profilelake sql`."""

from dataclasses import dataclass
from typing import Any, Final

import duckdb

from profilelake.semantics.identifiers import Identifier

REVENUE_BY_WEEK: Final = """
SELECT strftime(date_trunc('week', timestamp), '%Y-%m-%d') AS week,
       count(*) AS orders,
       count(DISTINCT profile_id) AS buyers,
       round(sum(CAST(json_extract(properties, '$.revenue') AS DOUBLE)), 2) AS revenue
FROM events LEFT JOIN set_map USING (set_id)
WHERE event = 'Order Completed'
GROUP BY ALL ORDER BY week
""".strip()

_PROFILES_OF_IDENTIFIERS: Final = """
SELECT type, value, profile_id
FROM identifiers JOIN identity_map USING (ident_id)
WHERE identifiers.collection = 'users'
"""

_COUNTS: Final = """
SELECT (SELECT count(*) FROM events),
       (SELECT count(*) FROM profiles WHERE collection = 'users'),
       (SELECT count(*) FROM profiles WHERE collection = 'accounts'),
       (SELECT count(*) FROM identity_updates WHERE cause = 'merged' AND collection = 'users')
"""

# Evidence in the order of arrival: which event, with which identifiers, moved which identifier.
_LINKS: Final = """
SELECT min(updates.position) AS position,
       any_value(updates.cause) AS cause,
       list(DISTINCT identifiers.type || ':' || identifiers.value ORDER BY identifiers.type || ':' || identifiers.value) AS moved,
       strftime(any_value(events.timestamp), '%Y-%m-%d %H:%M') AS happened_at,
       any_value(events.type) AS type,
       any_value(coalesce(events.event, events.name)) AS name,
       any_value(updates.message_id) AS message_id
FROM identity_updates AS updates
JOIN identifiers USING (ident_id)
LEFT JOIN events USING (message_id)
WHERE updates.ident_id IN (SELECT ident_id FROM identity_map WHERE profile_id = ?)
GROUP BY updates.set_id, updates.cause
ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in the lake."""

    events: int
    profiles: int
    organisations: int
    merged_identifiers: int


@dataclass(frozen=True, slots=True)
class Link:
    """One piece of evidence: an event that brought identifiers into a profile, or moved them there."""

    happened_at: str | None
    call: str
    cause: str
    moved: tuple[str, ...]
    message_id: str


def profiles_of_identifiers(connection: duckdb.DuckDBPyConnection) -> dict[Identifier, str]:
    """Return the profile of every identifier that has one."""
    rows = connection.execute(_PROFILES_OF_IDENTIFIERS).fetchall()
    return {Identifier(kind, value): profile for kind, value, profile in rows}


def counts(connection: duckdb.DuckDBPyConnection) -> Counts:
    """Return how much is in the lake."""
    (row,) = connection.execute(_COUNTS).fetchall()
    return Counts(*row)


def links(connection: duckdb.DuckDBPyConnection, profile_id: str) -> list[Link]:
    """Return the evidence that made a profile what it is, in order of arrival."""
    rows = connection.execute(_LINKS, [profile_id]).fetchall()
    return [
        Link(happened_at, " ".join(filter(None, (method, name))), cause, tuple(moved), message_id)
        for _, cause, moved, happened_at, method, name, message_id in rows
    ]


def revenue_by_week(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return column names and rows of `REVENUE_BY_WEEK`."""
    result = connection.execute(REVENUE_BY_WEEK)
    return [column[0] for column in result.description or ()], result.fetchall()
