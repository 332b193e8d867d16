"""The table of shapes, and where personal data can lie in it."""

from typing import Final

import pyarrow as pa

from profilelake.lake.tables import Column, TableDef

TIME: Final = pa.timestamp("us", tz="UTC")

SCHEMA: Final = TableDef(
    name="schema",
    doc="every path that events were sent with, by type of the event and of the value",
    columns=(
        Column("schema_id", pa.string(), "hash of type, event, part, path and json_type", required=True),
        Column("type", pa.string(), "type of the event: identify, track, …", required=True),
        Column(
            "event", pa.string(), "name of the tracked action; … for those beyond the limit", personal=True
        ),
        Column("part", pa.string(), "properties, traits or context", required=True),
        Column(
            "path",
            pa.string(),
            "keys joined by `.`; … for those beyond a limit",
            personal=True,
            required=True,
        ),
        Column("json_type", pa.string(), "string, integer, number, boolean, object or array", required=True),
        Column("first_seen_at", TIME, "when the first such event was received", required=True),
        Column("last_seen_at", TIME, "when the latest such event was received", required=True),
        Column("events", pa.int64(), "how many events have it", required=True),
        Column("example", pa.string(), "the form of a value: letters and digits are masked", personal=True),
        Column(
            "column_name", pa.string(), "column of the warehouse views; null where it has none", personal=True
        ),
        Column("slot", pa.int32(), "first 16 bits of schema_id", required=True),
    ),
    kind="current",
    key="schema_id",
    slot="slot",
)

TABLES: Final = (SCHEMA,)
