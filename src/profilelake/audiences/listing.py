"""Reads who is in an audience, or what a computed trait is worth, from the published tables."""

from dataclasses import dataclass
from typing import Final

import duckdb

from profilelake.audiences.tables import AUDIENCE_MEMBERS, COMPUTED_TRAITS
from profilelake.semantics.times import format_time

_MEMBERS: Final = """
    SELECT profile_id, 'true', epoch_us(entered_at), version FROM audience_members
    WHERE definition = $definition AND profile_id > $after ORDER BY profile_id LIMIT $rows
"""
_VALUES: Final = """
    SELECT profile_id, value, epoch_us(computed_at), version FROM computed_traits
    WHERE definition = $definition AND profile_id > $after ORDER BY profile_id LIMIT $rows
"""
TABLES: Final = {True: AUDIENCE_MEMBERS.name, False: COMPUTED_TRAITS.name}


@dataclass(frozen=True, slots=True)
class ValueSeen:
    """What a definition is worth for one profile (JSON), since when, and by which version of it."""

    profile_id: str
    value: str
    since: str
    version: int


def values(
    connection: duckdb.DuckDBPyConnection, definition: str, *, audience: bool, after: str, rows: int
) -> list[ValueSeen]:
    """Return members or values in order of profile ids; `connection` has the tables attached."""
    found = connection.execute(
        _MEMBERS if audience else _VALUES, {"definition": definition, "after": after, "rows": rows}
    ).fetchall()
    return [
        ValueSeen(profile_id, value, format_time(since), version)
        for profile_id, value, since, version in found
    ]
