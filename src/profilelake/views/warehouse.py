"""The events of a workspace as Segment's warehouses show them: a table for each call and each tracked event.

The same tables with the profile of each event stand beside Profiles Sync.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from profilelake.lake import sql
from profilelake.views.discover import Known
from profilelake.views.fields import COLUMNS_MAX, REST, Columns, Part, choose, name_of, read, rest, show
from profilelake.views.places import Places, Schema, View

EVENT_TABLES_MAX: Final = 2_000
"""Tracked events that have a table of their own: the most frequent ones. The others are in `tracks` alone."""

SLUG: Final = "lower(array_to_string(regexp_extract_all(event, '[A-Z0-9]+[a-z0-9]*|[a-z][a-z0-9]*'), '_'))"
"""`semantics.snake_case` of the name of a tracked event."""
_SLUG_OR_NAME: Final = (
    f"coalesce(nullif({SLUG}, ''), "
    "trim(lower(regexp_replace(event, '[^\\p{L}\\p{N}_]+', '_', 'g')), '_'))"
)

Given: TypeAlias = dict[str, str]
"""Columns by name, and what they are made from."""

_TIMES: Final[Given] = {
    "received_at": "received_at",
    "sent_at": "sent_at",
    "timestamp": "timestamp",
    "original_timestamp": "original_timestamp",
    "uuid_ts": "received_at",
}
_CALL: Final[Given] = {"id": "message_id", "anonymous_id": "anonymous_id", "user_id": "user_id"}
_TRACK: Final[Given] = {"event": _SLUG_OR_NAME, "event_text": "event"}
_NAMED: Final[Given] = {"name": "coalesce(name, json_extract_string(properties, '/name'))"}
_LATEST: Final[Given] = {"id": "id", "received_at": "received_at", "uuid_ts": "received_at"}
_PROFILE: Final[Given] = {"segment_id": "segment_id", "event_source_id": "source_id"}


@dataclass(frozen=True, slots=True)
class _Shape:
    """A table of calls of one type: its own columns, and the documents whose values are columns too.

    `covered` are keys of the document that a column of its own shows already.
    """

    type: str
    given: Given
    document: Part | None = None
    events: tuple[str, ...] | None = None
    covered: frozenset[str] = frozenset()


_SHAPES: Final = {
    "identifies": _Shape("identify", {}, "traits"),
    "tracks": _Shape("track", _TRACK),
    "pages": _Shape("page", _NAMED, "properties", covered=frozenset({"name"})),
    "screens": _Shape("screen", _NAMED, "properties", covered=frozenset({"name"})),
    "groups": _Shape("group", {"group_id": "group_id"}, "traits"),
    "aliases": _Shape("alias", {"previous_id": "previous_id"}, "traits"),
}
LATEST: Final = {"users": ("identify", "user_id"), "accounts": ("group", "group_id")}
"""Tables with one row per person or organisation: the call that writes them, and the id of a row."""
TAKEN: Final = frozenset({*_SHAPES, *LATEST})
"""Names that no table of a tracked event can have."""


def warehouse_views(places: Places, known: Known) -> Iterator[View]:
    """Yield the tables of calls, those of the latest state, and one for each tracked event."""
    base = places.schema("tables")
    for name, (type, id) in LATEST.items():
        yield View("warehouse", name, warehouse__latest(base, known, type, id))
    yield from _of_calls("warehouse", known, f"{base}.events", TAKEN, {})


def synced_events(places: Places, known: Known, taken: frozenset[str]) -> Iterator[View]:
    """Yield the same tables of calls and tracked events with the profile of each event."""
    base = places.schema("tables")
    source = f"({events__with_segment(base, places.schema('sync'))})"
    yield from _of_calls("sync", known, source, TAKEN | taken, _PROFILE)


def events__resolved(tables: str) -> str:
    """Every event with the person and the organisation it belongs to now."""
    return f"""
        SELECT events.*, people.profile_id, accounts.profile_id AS account_profile_id
        FROM {tables}.events AS events
        LEFT JOIN {tables}.set_map AS people ON people.set_id = events.set_id
        LEFT JOIN {tables}.set_map AS accounts ON accounts.set_id = events.account_set_id
    """  # noqa: S608 - quoted names here and below


def events__with_segment(tables: str, sync: str) -> str:
    """Every event with the profile it was taken for when it came: one that leads to the profile of now.

    An event that made two people one was taken for the one that was merged away; any other for whom
    its set was given to first. Where that one does not lead to the profile of now, because the set was
    taken out of it, it is the profile of now.
    """
    return f"""
        SELECT events.*, CASE
                   WHEN merged_graph.canonical_segment_id = sets.profile_id THEN merged.segment_id
                   WHEN first_graph.canonical_segment_id = sets.profile_id THEN sets.first_profile_id
                   ELSE sets.profile_id
               END AS segment_id
        FROM {tables}.events AS events
        LEFT JOIN {tables}.set_map AS sets ON sets.set_id = events.set_id
        LEFT JOIN {sync}.id_graph AS first_graph ON first_graph.segment_id = sets.first_profile_id
        LEFT JOIN (
            SELECT triggering_event_id, arg_min(segment_id, seq) AS segment_id
            FROM {sync}.id_graph_updates
            WHERE segment_id <> canonical_segment_id AND triggering_event_id IS NOT NULL
            GROUP BY triggering_event_id
        ) AS merged ON merged.triggering_event_id = events.message_id
        LEFT JOIN {sync}.id_graph AS merged_graph ON merged_graph.segment_id = merged.segment_id
    """  # noqa: S608


def table_names(tracked: Iterable[str], taken: frozenset[str] = TAKEN) -> dict[str, tuple[str, ...]]:
    """Return the tables of tracked events with the names that go into each: those with one spelling."""
    tables: dict[str, list[str]] = {}
    for event in tracked:
        name = name_of((event,))
        if not name:
            continue
        if name in taken or name[0].isdigit():
            name = f"_{name}"
        tables.setdefault(name, []).append(event)
    return {name: tuple(events) for name, events in list(tables.items())[:EVENT_TABLES_MAX]}


def _of_calls(place: Schema, known: Known, source: str, taken: frozenset[str], more: Given) -> Iterator[View]:
    for name, shape in _SHAPES.items():
        yield View(place, name, warehouse__calls(source, known, shape, more))
    for name, events in table_names(known.tracked, taken).items():
        shape = _Shape("track", _TRACK, "properties", events)
        yield View(place, name, warehouse__calls(source, known, shape, more))


def warehouse__calls(source: str, known: Known, shape: _Shape, more: Given) -> str:
    """One row per call, as it was sent; its values in columns."""
    given = {**_CALL, **shape.given, **_TIMES, **more}
    columns = _columns(known, shape, given)
    where = f"type = {sql.text(shape.type)}"
    if shape.events is not None:
        where += f" AND event IN ({', '.join(map(sql.text, shape.events))})"
    return _select(f"{source} WHERE {where}", given, columns)


def warehouse__latest(tables: str, known: Known, type: str, id: str) -> str:
    """One row per id: of each trait the last write, of all else what the last call said."""
    taken = {**_LATEST, **_CALL, "group_id": "group_id"}
    columns = {"traits": choose("traits", known.fields(type, "traits"), taken)}
    columns["context"] = _context(known, _Shape(type, {}), taken, columns["traits"])
    writes = f"""
        SELECT {id} AS id, trait, arg_max(value, (timestamp, position)) AS value
        FROM (
            SELECT {id}, timestamp, position, unnest(json_keys(traits)) AS trait,
                   unnest(json_extract(traits, '$.*')) AS value
            FROM {tables}.events
            WHERE type = {sql.text(type)} AND {id} IS NOT NULL AND traits IS NOT NULL
        )
        GROUP BY ALL
        HAVING json_type(arg_max(value, (timestamp, position))) <> 'NULL'
    """  # noqa: S608
    source = f"""(
        SELECT calls.id, calls.last.received_at AS received_at, calls.last.context AS context, written.traits
        FROM (
            SELECT {id} AS id, arg_max({{'received_at': received_at, 'context': context}}, position) AS last
            FROM {tables}.events
            WHERE type = {sql.text(type)} AND {id} IS NOT NULL
            GROUP BY ALL
        ) AS calls LEFT JOIN (
            SELECT id, CAST(json_group_object(trait, value) AS VARCHAR) AS traits FROM ({writes}) GROUP BY id
        ) AS written ON written.id = calls.id
    )"""  # noqa: S608
    return _select(source, _LATEST, columns)


def _columns(known: Known, shape: _Shape, given: Given) -> dict[str, Columns]:
    columns: dict[str, Columns] = {}
    if shape.document is not None:
        fields = known.fields(shape.type, shape.document, shape.events)
        columns[shape.document] = choose(shape.document, fields, given, covered=shape.covered)
    columns["context"] = _context(known, shape, given, columns.get(shape.document or ""))
    return columns


def _context(known: Known, shape: _Shape, given: Given, beside: Columns | None) -> Columns:
    """Choose columns of the context: names that values beside it have taken are not to be had."""
    shown = () if beside is None else beside.shown
    fields = known.fields(shape.type, "context", shape.events)
    taken = {*given, *(column.name for column in shown)}
    return choose("context", fields, taken, prefix="context", room=COLUMNS_MAX - len(shown))


def _select(source: str, given: Given, columns: dict[str, Columns]) -> str:
    inner = [f"{made} AS {sql.identifier(name)}" for name, made in given.items()]
    outer = [sql.identifier(name) for name in given]
    for name, shown in columns.items():
        inner += read(shown, f"_{name}")
        outer += show(shown, f"_{name}")
    inner.append(rest(columns))
    return f"SELECT {', '.join([*outer, REST])} FROM (SELECT {', '.join(inner)} FROM {source})"  # noqa: S608
