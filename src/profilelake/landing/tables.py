"""The tables landing owns, and where personal data lies in them."""

from typing import Final

import pyarrow as pa

from profilelake.lake.tables import Column, TableDef

TIME: Final = pa.timestamp("us", tz="UTC")
POSITION: Final = pa.binary(32)
ID: Final = pa.binary(16)

_CONTENT: Final = (
    Column("message_id", pa.string(), "id the sender gave, else derived from the position", personal=True),
    Column("type", pa.string(), "identify, track, page, screen, group or alias", required=True),
    Column("event", pa.string(), "name of a tracked action", personal=True),
    Column("name", pa.string(), "name of a page or screen", personal=True),
    Column("user_id", pa.string(), "userId", personal=True),
    Column("anonymous_id", pa.string(), "anonymousId", personal=True),
    Column("group_id", pa.string(), "groupId", personal=True),
    Column("previous_id", pa.string(), "previousId of an alias", personal=True),
    Column("timestamp", TIME, "when it happened, corrected by the sender's clock skew", required=True),
    Column("original_timestamp", TIME, "when it happened by the sender's own clock"),
    Column("sent_at", TIME, "when it was sent by the sender's own clock"),
    Column("source_id", pa.string(), "source whose write key was used", required=True),
    Column("library", pa.string(), "name of the sending library"),
    Column("consent", pa.string(), "context.consent as JSON", personal=True),
    Column("context", pa.string(), "context as JSON", personal=True),
    Column("properties", pa.string(), "properties as JSON", personal=True),
    Column("traits", pa.string(), "traits of an identify or group call as JSON", personal=True),
    Column("integrations", pa.string(), "integrations as JSON", personal=True),
    Column("region", pa.string(), "region that accepted the event", required=True),
)
_PLACE: Final = (
    Column("position", POSITION, "place in the total order of facts", required=True),
    Column("received_at", TIME, "when we received it", required=True),
)
_SETS: Final = (
    Column("set_id", ID, "identifier set of the person; joins set_map"),
    Column("account_set_id", ID, "identifier set of the organisation; joins set_map"),
)

EVENTS: Final = TableDef(
    name="events",
    doc="every accepted event, once",
    columns=(*_PLACE, *_CONTENT[:-1], *_SETS, _CONTENT[-1]),
    day="received_at",
    sort=("set_id", "position"),
)

EVENT_COPIES: Final = TableDef(
    name="event_copies",
    doc="copies of accepted events that turned out to have an earlier position",
    columns=EVENTS.columns,
    day="received_at",
)

FAILED_EVENTS: Final = TableDef(
    name="failed_events",
    doc="events that could not be accepted: the bytes as received, and why",
    columns=(
        *_PLACE,
        Column("message_id", pa.string(), "id the sender gave, where it could be read", personal=True),
        Column("reason", pa.string(), "stable reason code", required=True),
        Column("detail", pa.string(), "what was wrong in this event", personal=True),
        Column("raw", pa.binary(), "the event as received", personal=True),
        Column("request", pa.string(), "what its request said besides, as JSON", personal=True),
        Column(
            "batch",
            pa.string(),
            "what its batch hands down, as JSON; on the first failed event of a batch only",
            personal=True,
        ),
        Column("source_id", pa.string(), "source whose write key was used", required=True),
        Column("region", pa.string(), "region that received the event", required=True),
    ),
    day="received_at",
)

TABLES: Final = (EVENTS, EVENT_COPIES, FAILED_EVENTS)
