"""A profile's recent events, newest first unless asked otherwise."""

import base64
import binascii
from typing import Final

import msgspec

from profilelake.semantics.times import TIME_MAX, TIME_MIN, is_time
from profilelake.serve import _visible
from profilelake.serve._answer import not_a_cursor, time_text
from profilelake.serve._profile import Cursor, Found, cursor
from profilelake.serve._request import Query
from profilelake.state import recent
from profilelake.state.recent import EventKey, EventQuery, RecentEvent, RunReader
from profilelake.state.records import IdentRecord, SetRecord

EVENTS_DEFAULT: Final = 10
EVENTS_MAX: Final = 100


class PromotedId(msgspec.Struct):
    """An identifier that the event itself carried."""

    collection: str
    type: str
    id: str
    encoding: str


class ShownEvent(msgspec.Struct):
    """One event: our fields in snake_case, `context` and `properties` as they were sent."""

    external_ids: list[PromotedId]
    context: msgspec.Raw
    type: str
    message_id: str
    source_id: str
    timestamp: str
    properties: msgspec.Raw
    event: str
    related: dict[str, str]


class EventsPage(msgspec.Struct):
    """Answer of `/events`."""

    data: list[ShownEvent]
    cursor: Cursor


def events(found: Found, query: Query, reader: RunReader) -> EventsPage:
    """Return one page of events by (timestamp, message id), back to the oldest run that is kept.

    Raises:
        FileNotFoundError: a run was merged away since the transaction began; begin another one.
    """
    limit = query.limit(EVENTS_DEFAULT, EVENTS_MAX)
    wanted = EventQuery(
        start=query.time("start", TIME_MIN),
        end=query.time("end", TIME_MAX + 1),
        limit=limit,
        descending=query.choice("sort", ("asc", "desc")) != "asc",
        include=query.names("include"),
        exclude=query.names("exclude"),
        after=_parse_next(query.text("next")),
    )
    rows = reader.find(recent.load(found.tx, found.space), found.record.sets, wanted)
    page = rows[:limit]
    sets = found.tx.sets(found.space, {row.key for row in page})
    idents = found.tx.idents(found.space, {key for record in sets.values() for key in _members(record)})
    related: dict[str, str] = {found.collection: found.segment_id}
    following = _next(page[-1]) if len(rows) > limit else None
    return EventsPage(
        [_shown(found, row, sets, idents, related) for row in page],
        cursor(found, "events", query, limit, following),
    )


def _shown(
    found: Found,
    row: RecentEvent,
    sets: dict[bytes, SetRecord],
    idents: dict[bytes, IdentRecord],
    related: dict[str, str],
) -> ShownEvent:
    record = sets.get(row.key)
    carried = [] if record is None else [idents[key] for key in _members(record) if key in idents]
    return ShownEvent(
        [PromotedId(found.collection, ident.type, ident.value, "none") for ident in carried],
        _visible.context(row.context, found.scope.traits),
        row.type,
        row.message_id,
        row.source_id,
        time_text(row.timestamp),
        _visible.document(row.properties),
        recent.shown_name(row.type, row.event),
        related,
    )


def _members(record: SetRecord) -> list[bytes]:
    return [record.idents[i : i + 16] for i in range(0, len(record.idents), 16)]


def _next(row: RecentEvent) -> str:
    text = f"{row.timestamp * 1_000}::{row.message_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parse_next(text: str) -> EventKey | None:
    if not text:
        return None
    try:
        # Both alphabets are taken: who copies a cursor by hand may have met either.
        raw = base64.b64decode(text.translate(_STANDARD) + "==", validate=False).decode()
        nanos, separator, message_id = raw.partition("::")
        if separator and is_time(micros := int(nanos) // 1_000):
            return EventKey(micros, message_id)
    except (binascii.Error, ValueError):
        pass
    raise not_a_cursor()


_STANDARD: Final = str.maketrans("-_", "+/")
