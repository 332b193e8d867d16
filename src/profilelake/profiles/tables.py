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
    sort=("set_id", "position"),
)

ACCOUNT_LINKS: Final = TableDef(
    name="account_links",
    doc="since when a person's set and an account's set belong together: the first group event with both,"
    " and the first after each decision that ended memberships; of several rows between two such decisions"
    " the least position counts",
    columns=(
        Column("set_id", ID, "identifier set of the person", required=True),
        Column("account_set_id", ID, "identifier set of the account", required=True),
        Column("position", POSITION, "position of the event", required=True),
        Column("linked_at", TIME, "when it was received", required=True),
        Column("message_id", pa.string(), "the event", personal=True),
        Column("source_id", pa.string(), "source of the event", required=True),
    ),
    day="linked_at",
)

CONSENT_WRITES: Final = TableDef(
    name="consent_writes",
    doc="what events said of consent, one row for each category they name; the last statement of a set by"
    " timestamp and position holds, and denies every category that it does not name",
    columns=(
        Column("set_id", ID, "identifier set that said it", required=True),
        Column(
            "category", pa.string(), "category as sent; null where the event named none and so denied all"
        ),
        Column("allowed", pa.bool_(), "whether it is allowed", required=True),
        Column("timestamp", TIME, "when it happened: the latest statement holds", required=True),
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
        Column(
            "consent",
            pa.string(),
            "object of category to true, false or conflict, as JSON; null where it never said",
            personal=True,
        ),
        Column("first_seen_at", TIME, "when its first event was received", required=True),
        Column("last_seen_at", TIME, "when its latest event was received", required=True),
        Column("event_count", pa.int64(), "events of its sets", required=True),
        Column("slot", pa.int32(), "first 16 bits of the founding set's id", required=True),
    ),
    kind="current",
    key="profile_id",
    slot="slot",
)

TABLES: Final = (TRAIT_WRITES, ACCOUNT_LINKS, CONSENT_WRITES, PROFILES)
