"""The tables profiles own, and where personal data lies in them."""

from typing import Final

import pyarrow as pa

from profilelake.lake.tables import Column, TableDef

TIME: Final = pa.timestamp("us", tz="UTC")
POSITION: Final = pa.binary(32)
ID: Final = pa.binary(16)

TRAIT_WRITES: Final = TableDef(
    name="trait_writes",
    doc="every write of a trait by an identify or group call",
    columns=(
        Column("set_id", ID, "identifier set the write hangs on", required=True),
        Column("collection", pa.string(), "users or accounts", required=True),
        Column("trait", pa.string(), "trait name as sent", personal=True, required=True),
        Column("value", pa.string(), "value as JSON; null where the write removes the trait", personal=True),
        Column("timestamp", TIME, "when it happened: the latest write wins", required=True),
        Column("position", POSITION, "position of the event: decides between equal times", required=True),
        Column("received_at", TIME, "when it was received", required=True),
        Column("source_id", pa.string(), "source of the event", required=True),
        Column("message_id", pa.string(), "the event", personal=True),
    ),
    day="received_at",
)

PROFILES: Final = TableDef(
    name="profiles",
    doc="every profile as it is now",
    columns=(
        Column("profile_id", pa.string(), "public id: that of the founding set", required=True),
        Column("collection", pa.string(), "users or accounts", required=True),
        Column(
            "identifiers", pa.string(), "object of identifier type to list of values, as JSON", personal=True
        ),
        Column("traits", pa.string(), "object of trait to value, as JSON", personal=True),
        Column("first_seen_at", TIME, "when its first event was received", required=True),
        Column("last_seen_at", TIME, "when its latest event was received", required=True),
        Column("event_count", pa.int64(), "events of its sets", required=True),
        Column("slot", pa.int32(), "first 16 bits of the founding set's id", required=True),
    ),
    kind="current",
    key="profile_id",
    slot="slot",
)

TABLES: Final = (TRAIT_WRITES, PROFILES)
