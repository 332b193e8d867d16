"""The tables identity owns, and where personal data lies in them.

Ids are keyed hashes: without the workspace's secret they name nobody, so only `value` is personal.
"""

from typing import Final

import pyarrow as pa

from profilelake.lake.tables import Column, TableDef

TIME: Final = pa.timestamp("us", tz="UTC")
POSITION: Final = pa.binary(32)
ID: Final = pa.binary(16)

_COLLECTION: Final = Column("collection", pa.string(), "users or accounts", required=True)
_SLOT: Final = Column(
    "slot", pa.int32(), "first 16 bits of the row's id: the bucket it lies in", required=True
)

IDENTIFIER_SETS: Final = TableDef(
    name="identifier_sets",
    doc="every distinct set of identifiers seen in one event; a set never changes",
    columns=(
        Column("set_id", ID, "keyed hash of the set", required=True),
        _COLLECTION,
        Column(
            "identifiers",
            pa.list_(pa.struct([("type", pa.string()), ("ident_id", ID)])),
            "its identifiers before any rule; ident_id joins identifiers",
        ),
        Column("position", POSITION, "position of the sighting that made the set known", required=True),
        Column("received_at", TIME, "when that was", required=True),
        Column("message_id", pa.string(), "event of that sighting", personal=True),
        Column("source_id", pa.string(), "source of that sighting", required=True),
    ),
    day="received_at",
)

SET_SIGHTINGS: Final = TableDef(
    name="set_sightings",
    doc="how often a set was seen on a UTC day, as additions: sum `events`, take the least and greatest position",
    columns=(
        Column("set_id", ID, "identifier set", required=True),
        Column("day", pa.date32(), "UTC day of receipt", required=True),
        Column("first_position", POSITION, "earliest event counted here", required=True),
        Column("last_position", POSITION, "latest event counted here", required=True),
        Column("first_message_id", pa.string(), "the earliest event", personal=True),
        Column("first_source_id", pa.string(), "source of the earliest event", required=True),
        Column("last_message_id", pa.string(), "the latest event", personal=True),
        Column("last_source_id", pa.string(), "source of the latest event", required=True),
        Column("events", pa.int64(), "events counted here", required=True),
        Column("first_received_at", TIME, "when the earliest was received", required=True),
        Column("last_received_at", TIME, "when the latest was received", required=True),
    ),
    day="first_received_at",
)

SET_MAP: Final = TableDef(
    name="set_map",
    doc="which profile a set belongs to now; joins events to profiles",
    columns=(
        Column("set_id", ID, "identifier set", required=True),
        _COLLECTION,
        Column(
            "anchor",
            ID,
            "strongest identifier of the set under the current rules; null where all are blocked",
        ),
        Column("profile_id", pa.string(), "profile now; null where the set has none"),
        Column("first_profile_id", pa.string(), "profile when the set was first seen"),
        _SLOT,
    ),
    kind="current",
    key="set_id",
    slot="slot",
)

IDENTIFIERS: Final = TableDef(
    name="identifiers",
    doc="every identifier ever seen, with the event that brought it",
    columns=(
        Column("ident_id", ID, "keyed hash of collection, type and value", required=True),
        _COLLECTION,
        Column("type", pa.string(), "identifier type, such as user_id or email", required=True),
        Column("value", pa.string(), "identifier as compared", personal=True, required=True),
        Column("source_id", pa.string(), "source that brought it first", required=True),
        Column("first_message_id", pa.string(), "event that brought it first", personal=True),
        Column("created_at", TIME, "when that was received", required=True),
        Column("position", POSITION, "position of that event", required=True),
        _SLOT,
    ),
    kind="current",
    key="ident_id",
    slot="slot",
)

IDENTITY_MAP: Final = TableDef(
    name="identity_map",
    doc="which profile an identifier belongs to now; no row where it was refused everywhere or blocked",
    columns=(
        Column("ident_id", ID, "identifier", required=True),
        _COLLECTION,
        Column("profile_id", pa.string(), "profile now", required=True),
        _SLOT,
    ),
    kind="current",
    key="ident_id",
    slot="slot",
)

IDENTITY_UPDATES: Final = TableDef(
    name="identity_updates",
    doc="every change of an identifier's profile, as announced by this region; never rewritten",
    columns=(
        Column("at", TIME, "when the evidence was received", required=True),
        Column("ident_id", ID, "identifier", required=True),
        _COLLECTION,
        Column("from_profile_id", pa.string(), "profile before; null where it had none"),
        Column("to_profile_id", pa.string(), "profile after; null where it has none"),
        Column("cause", pa.string(), "created, joined, merged or replayed", required=True),
        Column("set_id", ID, "identifier set that is the evidence", required=True),
        Column("message_id", pa.string(), "event that brought the evidence", personal=True),
        Column("source_id", pa.string(), "source of that event", required=True),
        Column("rule_version", pa.int32(), "version of the identity rules", required=True),
        Column("position", POSITION, "position of the evidence", required=True),
        Column(
            "sequence", pa.int64(), "micro-batch that announced it; rows of one are in order", required=True
        ),
    ),
    day="at",
)

IDENTITY_REFUSALS: Final = TableDef(
    name="identity_refusals",
    doc="which identifiers of a set were not joined, and why; as of the current rules",
    columns=(
        Column("set_id", ID, "identifier set", required=True),
        _COLLECTION,
        Column(
            "refused",
            pa.list_(
                pa.struct(
                    [
                        ("ident_id", ID),
                        ("type", pa.string()),
                        ("against_profile_id", pa.string()),
                        ("cause", pa.string()),
                        ("limit_type", pa.string()),
                    ]
                )
            ),
            "the refused identifiers with the profile they did not join and the rule that refused them",
        ),
        Column("rule_version", pa.int32(), "version of the identity rules", required=True),
        _SLOT,
    ),
    kind="current",
    key="set_id",
    slot="slot",
)

IDENTITY_FACTS: Final = TableDef(
    name="identity_facts",
    doc="what people decided about identity, each decision once; the latest about a thing holds",
    columns=(
        Column("position", POSITION, "position of the decision", required=True),
        Column("at", TIME, "when it was accepted", required=True),
        Column("decision", pa.string(), "unlink, quarantine, retract, rules or leave", required=True),
        Column("by", pa.string(), "token or command line that asked for it", required=True),
        Column("note", pa.string(), "why, in their words", personal=True),
        Column("fact", pa.string(), "the decision as JSON, with ids in hex", personal=True, required=True),
    ),
    day="at",
)

TABLES: Final = (
    IDENTIFIER_SETS,
    SET_SIGHTINGS,
    SET_MAP,
    IDENTIFIERS,
    IDENTITY_MAP,
    IDENTITY_UPDATES,
    IDENTITY_REFUSALS,
    IDENTITY_FACTS,
)
