"""Find out which values the events of a workspace carry: from the `schema` table, or from the events."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import duckdb

from profilelake.views.fields import Field, Part

FIELDS_MAX: Final = 200_000
"""Values of all kinds of events together that are known of; the least frequent ones beyond have no column."""
EVENTS_MAX: Final = 200_000
"""The newest events, in which values are looked for where there is no `schema` table."""
NAMES_MAX: Final = 10_000
"""Names of tracked events that are told apart."""
UNLISTED: Final = "…"
"""What the `schema` table calls paths beyond one of its limits."""

_PARTS: Final[tuple[Part, ...]] = ("properties", "traits", "context")
_KINDS: Final = {"VARCHAR": "string", "DOUBLE": "number", "BOOLEAN": "boolean"}
_NO_VALUE: Final = frozenset({"object", "null"})
_MIXED: Final = frozenset({"string", "number"})

Kind: TypeAlias = tuple[str, str | None]
"""Type of a call, and the name of what a track call tracks."""
_Row: TypeAlias = tuple[str, str | None, str, str, list[str], int]
"""Type, event, part, path, JSON types, number of events."""

VIEWS__FIELDS: Final = """
    SELECT type, event, part, path, list(DISTINCT json_type) AS kinds, sum(events)::BIGINT AS events
    FROM {tables}.schema
    GROUP BY ALL
    ORDER BY events DESC
    LIMIT {most}
"""
VIEWS__STRUCTURES: Final = """
    SELECT type, CASE WHEN type = 'track' THEN event END AS name, count(*),
           json_group_structure(properties::JSON), json_group_structure(traits::JSON),
           json_group_structure(context::JSON)
    FROM (
        SELECT type, event, properties, traits, context FROM {tables}.events
        ORDER BY received_at DESC
        LIMIT {most}
    )
    GROUP BY ALL
"""
"""What the newest events are made of."""
VIEWS__TRACKED: Final = """
    SELECT event, count(*) FROM {tables}.events
    WHERE type = 'track' AND event IS NOT NULL
    GROUP BY event
    ORDER BY count(*) DESC, event
    LIMIT {most}
"""
"""What was tracked. All of these read tables in the schema that they are given."""


@dataclass(frozen=True, slots=True)
class _Seen:
    kind: Kind
    part: str
    field: Field


class Known:
    """The values that events carry. Nothing is read before it is asked for."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, tables: str, *, schema: bool) -> None:
        """Ask in `tables`, a quoted schema; `schema` says whether there is a table of that name in it."""
        self._connection = connection
        self._tables = tables
        self._schema = schema

    @cached_property
    def _seen(self) -> dict[tuple[str, str], list[_Seen]]:
        found = (
            _told(self._rows(VIEWS__FIELDS, FIELDS_MAX))
            if self._schema
            else _found(self._rows(VIEWS__STRUCTURES, EVENTS_MAX))
        )
        grouped: dict[tuple[str, str], list[_Seen]] = {}
        for seen in found:
            grouped.setdefault((seen.kind[0], seen.part), []).append(seen)
        return grouped

    @cached_property
    def tracked(self) -> dict[str, int]:
        """The names of what track calls tracked, and how often; the most frequent first."""
        return dict(self._rows(VIEWS__TRACKED, NAMES_MAX))

    def fields(self, type: str, part: Part, events: Iterable[str] | None = None) -> list[Field]:
        """Return the values in one part of calls of a type, or of those that tracked one of `events`.

        One without a path says that there are more.
        """
        wanted = None if events is None else {None, *events}
        kinds: dict[tuple[str, ...], frozenset[str]] = {}
        counts: dict[tuple[str, ...], int] = {}
        for seen in self._seen.get((type, part), []):
            if wanted is None or seen.kind[1] in wanted:
                path = seen.field.path
                kinds[path] = kinds.get(path, frozenset()) | seen.field.kinds
                counts[path] = counts.get(path, 0) + seen.field.events
        return [Field(path, kinds[path], counts[path]) for path in kinds]

    def _rows(self, query: str, most: int) -> list[tuple[Any, ...]]:
        asked = self._connection.sql(query.format(tables=self._tables, most=most))
        rows: list[tuple[Any, ...]] = asked.fetchall()
        return rows


def path_of(text: str) -> tuple[str, ...]:
    r"""Return the keys of a path as the `schema` table writes it: joined by `.`, a dot in a key as `\.`.

    No keys where it stands for paths that are not listed.
    """
    if text == UNLISTED:
        return ()
    keys, key, escaped = [], "", False
    for character in text:
        if escaped:
            key, escaped = key + character, False
        elif character == "\\":
            escaped = True
        elif character == ".":
            keys.append(key)
            key = ""
        else:
            key += character
    return (*keys, key)


def _told(rows: Iterable[_Row]) -> Iterator[_Seen]:
    for type, event, part, path, kinds, events in rows:
        values = frozenset(kinds) - {"null"}
        if values - _NO_VALUE:
            yield _Seen((type, event), part, Field(path_of(path), values, events))


def _found(rows: Iterable[tuple[Any, ...]]) -> Iterator[_Seen]:
    for type, event, events, *structures in rows:
        for part, structure in zip(_PARTS, structures, strict=True):
            for path, kinds in _leaves((), json.loads(structure) if structure else "NULL"):
                yield _Seen((type, event), part, Field(path, kinds, events))


def _leaves(path: tuple[str, ...], structure: Any) -> Iterator[tuple[tuple[str, ...], frozenset[str]]]:
    """Yield the values of a structure as DuckDB writes it: names of types, in lists for arrays."""
    if isinstance(structure, dict):
        for key, inner in structure.items():
            yield from _leaves((*path, key), inner)
    elif isinstance(structure, list):
        yield path, frozenset({"array"})
    elif structure == "JSON":
        yield path, _MIXED
    elif structure != "NULL" and path:
        yield path, frozenset({_KINDS.get(structure, "integer")})
