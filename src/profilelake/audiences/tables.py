"""The tables of computed traits and audiences, and where personal data lies in them."""

from typing import Final

import pyarrow as pa

from profilelake.lake.tables import Column, TableDef

TIME: Final = pa.timestamp("us", tz="UTC")
POSITION: Final = pa.binary(32)

_VALUE: Final = (
    Column("value_id", pa.string(), "definition and profile, joined by a slash", required=True),
    Column("definition", pa.string(), "key of the definition", required=True),
    Column("profile_id", pa.string(), "public id of the profile", required=True),
    Column("collection", pa.string(), "users or accounts", required=True),
    Column("version", pa.int32(), "version of the definition that gave it", required=True),
)

COMPUTED_TRAITS: Final = TableDef(
    name="computed_traits",
    doc="what computed and SQL traits are worth now; a profile with none, or with a count of 0, has no row",
    columns=(
        *_VALUE,
        Column("value", pa.string(), "value as JSON", personal=True, required=True),
        Column("computed_at", TIME, "since when it has this value", required=True),
        Column("slot", pa.int32(), "first 16 bits of the founding set's id", required=True),
    ),
    kind="current",
    key="value_id",
    slot="slot",
)

AUDIENCE_MEMBERS: Final = TableDef(
    name="audience_members",
    doc="who is in which audience now",
    columns=(
        *_VALUE,
        Column("entered_at", TIME, "since when", required=True),
        Column("slot", pa.int32(), "first 16 bits of the founding set's id", required=True),
    ),
    kind="current",
    key="value_id",
    slot="slot",
)

AUDIENCE_CHANGES: Final = TableDef(
    name="audience_changes",
    doc="what was announced: every change of a computed trait or membership, in order of `sequence` and `number`",
    columns=(
        Column("sequence", pa.int64(), "micro-batch that announced it", required=True),
        Column("number", pa.int32(), "its place in the micro-batch", required=True),
        Column("changed_at", TIME, "pipeline time of the change", required=True),
        Column("definition", pa.string(), "key of the definition", required=True),
        Column("kind", pa.string(), "audience, trait, sql_audience or sql_trait", required=True),
        Column("version", pa.int32(), "version of the definition", required=True),
        Column("collection", pa.string(), "users or accounts", required=True),
        Column("profile_id", pa.string(), "public id of the profile", required=True),
        Column("value", pa.string(), "new value as JSON; null where it has none any more", personal=True),
        Column("previous", pa.string(), "value before as JSON", personal=True),
        Column("cause", pa.string(), "event, timer, identity, definition, resync or rebuild", required=True),
        Column("position", POSITION, "position of the fact that caused it, where one did"),
        Column(
            "idempotency_key",
            pa.string(),
            "equal for the same change however often it is told",
            required=True,
        ),
    ),
    day="changed_at",
)

DEFINITION_FACTS: Final = TableDef(
    name="definition_facts",
    doc="what people defined: every version of a computed trait or audience, and every one that was dropped",
    columns=(
        Column("position", POSITION, "place in the total order of facts", required=True),
        Column("decided_at", TIME, "when it was received", required=True),
        Column("definition", pa.string(), "key of the definition", required=True),
        Column("decision", pa.string(), "define or drop", required=True),
        Column("body", pa.string(), "the fact as JSON", required=True),
        Column("by", pa.string(), "who said it: a token's name or the command line", required=True),
    ),
    day="decided_at",
)

TABLES: Final = (DEFINITION_FACTS, COMPUTED_TRAITS, AUDIENCE_MEMBERS, AUDIENCE_CHANGES)
