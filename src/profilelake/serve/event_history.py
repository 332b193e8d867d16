"""All events of a profile, those of years ago too: `/events?history=full`."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

import duckdb
import msgspec

from profilelake.lake.lookup import Slice
from profilelake.semantics.events import EventType
from profilelake.semantics.times import is_time
from profilelake.serve import _past, _property_filters, _visible
from profilelake.serve._answer import invalid, time_text
from profilelake.serve._events import PromotedId, ShownEvent
from profilelake.serve._past import SET_COLUMN, Past
from profilelake.serve._profile import Cursor, Found, cursor
from profilelake.serve._request import Query
from profilelake.serve._visible import Allowed
from profilelake.state.recent import shown_name

EVENTS_DEFAULT: Final = 10
EVENTS_MAX: Final = 1_000
FILES_FIRST: Final = 8
"""Files that are looked into first, the newest ones; then eight times as many at a time, until a page is full."""
TYPES: Final = get_args(EventType)

_WHAT: Final = "reading the events of a profile"
_NAME: Final = (
    "CASE type WHEN 'page' THEN 'Page Viewed' WHEN 'screen' THEN 'Screen Viewed' ELSE coalesce(event, '') END"
)
_COLUMNS: Final = (
    "epoch_us(timestamp) AS happened_at, coalesce(message_id, '') AS message_id, position,"
    " epoch_us(received_at) AS received_at, type, event, source_id, context, properties, traits"
)
_CURSOR_BYTES_MAX: Final = 4_096


class HistoricEvent(ShownEvent):
    """One event: what `/events` shows of it, and when it was received and the traits it brought."""

    received_at: str
    traits: msgspec.Raw


class HistoryPage(msgspec.Struct):
    """Answer of `/events?history=full`."""

    data: list[HistoricEvent]
    cursor: Cursor


class _Row(NamedTuple):
    timestamp: int
    message_id: str
    position: bytes
    received_at: int
    type: str
    event: str | None
    source_id: str
    context: str | None
    properties: str | None
    traits: str | None
    key: bytes


class _After(NamedTuple):
    timestamp: int
    message_id: str


def event_history(found: Found, query: Query, past: Past, allowed: Allowed = None) -> HistoryPage:
    """Return one page of events by (timestamp, message id), newest first unless asked otherwise.

    Every event is there once: published ones from the lake, later ones from what the pipeline keeps.
    Newest first, only as many files are read as can hold the page.

    Raises:
        FileNotFoundError: a run was merged away since the transaction began; begin another one.
        Unavailable, Invalid: it takes too long or too many files.
    """
    wanted = _Wanted.of(query)
    keys = frozenset(found.record.sets)
    where = past.events(found.tx, found.space, found.collection, keys, received_from=wanted.received_from)
    with past.asking(_WHAT) as connection:
        rows = _Search(connection, where, SET_COLUMN[found.collection], keys, wanted).page()
    page = rows[: wanted.limit]
    following = _next(page[-1]) if len(rows) > wanted.limit else None
    return HistoryPage(_shown(found, page, allowed), cursor(found, "events", query, wanted.limit, following))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which events: as SQL conditions with parameters, and in which order."""

    limit: int
    descending: bool
    conditions: str
    parameters: dict[str, Any]
    received_from: int | None

    @classmethod
    def of(cls, query: Query) -> "_Wanted":
        clauses, parameters = _property_filters.conditions(query)
        descending = query.choice("sort", ("asc", "desc")) != "asc"
        start, end = query.time("start", _NEVER), query.time("end", _NEVER)
        if start != _NEVER:
            clauses.append("timestamp >= make_timestamptz($start)")
            parameters["start"] = start
        if end != _NEVER:
            clauses.append("timestamp < make_timestamptz($end)")
            parameters["end"] = end
        if types := query.names("type"):
            if unknown := sorted(types - {*TYPES}):
                raise invalid(f"`type` names `{unknown[0]}`; it takes: {', '.join(TYPES)}.")
            clauses.append("list_contains($types, type)")
            parameters["types"] = sorted(types)
        for name, clause in (("include", "list_contains"), ("exclude", "NOT list_contains")):
            if names := query.names(name):
                clauses.append(f"{clause}(${name}, {_NAME})")
                parameters[name] = sorted(names)
        after = _parse_next(query.text("next"))
        if after is not None:
            sign = "<" if descending else ">"
            clauses.append(
                f"(timestamp {sign} make_timestamptz($after) OR (timestamp = make_timestamptz($after)"
                f" AND coalesce(message_id, '') {sign} $after_id))"
            )
            parameters |= {"after": after.timestamp, "after_id": after.message_id}
        limit = query.limit(EVENTS_DEFAULT, EVENTS_MAX)
        # No event happened after it was received.
        return cls(
            limit,
            descending,
            " AND ".join(clauses) or "true",
            parameters,
            None if start == _NEVER else start,
        )


_NEVER: Final = -(1 << 62)


class _Search:
    """Looks for a page, file by file."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        found: _past.Found,
        column: str,
        keys: frozenset[bytes],
        wanted: _Wanted,
    ) -> None:
        self._connection = connection
        self._found = found
        self._column = column
        self._keys = keys
        self._wanted = wanted

    def page(self) -> list[_Row]:
        """Return the rows of the page in order, and one more if there are more."""
        slices = self._found.slices
        if not self._wanted.descending:
            return self._read(slices, waiting=True)
        best: list[_Row] = []
        size = self._wanted.limit + 1
        start, count = 0, FILES_FIRST
        while True:
            rows = self._read(slices[start : start + count], waiting=start == 0)
            best = sorted([*best, *rows], key=lambda row: row[:2], reverse=True)[:size]
            start, count = start + count, count * 8
            # What is in the other files was received, hence happened, before all that is chosen.
            if start >= len(slices) or (
                len(best) == size and best[-1].timestamp > slices[start].received_max
            ):
                return best

    def _read(self, slices: Sequence[Slice], *, waiting: bool) -> list[_Row]:
        wanted = self._wanted
        rows = _past.select(self._connection, self._found, self._column, self._keys, slices, waiting=waiting)
        direction = "DESC" if wanted.descending else "ASC"
        # Conditions are made of our own words; all that a request says is a parameter.
        question = (
            f"SELECT {_COLUMNS}, {self._column} AS key FROM ({rows}) WHERE {wanted.conditions}"  # noqa: S608
            f" ORDER BY happened_at {direction}, message_id {direction} LIMIT {wanted.limit + 1:d}"
        )
        return [_Row(*row) for row in self._connection.execute(question, wanted.parameters).fetchall()]


def _shown(found: Found, page: Sequence[_Row], allowed: Allowed) -> list[HistoricEvent]:
    sets = found.tx.sets(found.space, {row.key for row in page})
    members = {
        key: [record.idents[i : i + 16] for i in range(0, len(record.idents), 16)]
        for key, record in sets.items()
    }
    idents = found.tx.idents(found.space, {ident for some in members.values() for ident in some})
    related: dict[str, str] = {found.collection: found.segment_id}
    return [
        HistoricEvent(
            [
                PromotedId(found.collection, idents[ident].type, idents[ident].value, "none")
                for ident in members.get(row.key, ())
                if ident in idents
            ],
            _visible.context(row.context, allowed),
            row.type,
            row.message_id,
            row.source_id,
            time_text(row.timestamp),
            _visible.document(row.properties),
            shown_name(row.type, row.event),
            related,
            time_text(row.received_at),
            _visible.traits(row.traits, allowed),
        )
        for row in page
    ]


def _next(row: _Row) -> str:
    text = f"full:{row.timestamp}:{row.message_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parse_next(text: str) -> _After | None:
    if not text:
        return None
    try:
        if len(text) <= _CURSOR_BYTES_MAX:
            raw = base64.b64decode(text + "==", altchars=b"-_", validate=True).decode()
            mark, micros, message_id = raw.split(":", 2)
            if mark == "full" and is_time(int(micros)):
                return _After(int(micros), message_id)
    except (binascii.Error, ValueError):
        pass
    raise invalid("The parameter `next` is not a cursor of this resource; take it from the page before.")
