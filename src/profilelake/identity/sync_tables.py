"""The identity tables of Profiles Sync: journals of what this region announced, in namespace `ws_W_sync`.

Names and columns are those that models written for Segment's Profiles Sync read; names are in lower
case, as Iceberg has no case of its own. Of people only: organisations have no rows here.
"""

from typing import Final

import pyarrow as pa

from profilelake.identity.tables import TIME
from profilelake.lake.tables import Column, TableDef

_SEQ: Final = Column(
    "seq", pa.string(), "place in the order of rows, 19 digits: micro-batch and row in it", required=True
)
_LOADED_AT: Final = Column(
    "uuid_ts", TIME, "when the row was made; grows with every micro-batch", required=True
)
_EVENT_ID: Final = Column(
    "triggering_event_id", pa.string(), "message id of the event it came from", personal=True
)
_EVENT_TYPE: Final = Column("triggering_event_type", pa.string(), "page, identify and so on")

ID_GRAPH_UPDATES: Final = TableDef(
    name="id_graph_updates",
    doc="which profile an id is part of, each time that was announced; the row with the last seq holds",
    columns=(
        Column("segment_id", pa.string(), "id as it was given to a profile when it was made", required=True),
        Column("canonical_segment_id", pa.string(), "profile it is part of as of this row", required=True),
        _EVENT_TYPE,
        _EVENT_ID,
        Column(
            "timestamp",
            TIME,
            "when that event happened, or was received where only that is at hand; null where there is none",
        ),
        _SEQ,
        _LOADED_AT,
    ),
    day="uuid_ts",
    part="sync",
)

EXTERNAL_ID_MAPPING_UPDATES: Final = TableDef(
    name="external_id_mapping_updates",
    doc="which profile an identifier came to, when it came to one; the row with the last timestamp holds",
    columns=(
        Column(
            "external_id_hash",
            pa.string(),
            "SHA-1 of type and value, lower-case hex",
            personal=True,
            required=True,
        ),
        Column("external_id_type", pa.string(), "identifier type, such as email", required=True),
        Column("external_id_value", pa.string(), "identifier as compared", personal=True, required=True),
        Column("id", pa.string(), "id of the row", required=True),
        Column("received_at", TIME, "when the event was received"),
        Column(
            "segment_id", pa.string(), "profile at that time; join id_graph for that of today", required=True
        ),
        _SEQ,
        Column(
            "timestamp",
            TIME,
            "when the event happened; uuid_ts where the row changes what an earlier one said",
            required=True,
        ),
        _EVENT_ID,
        Column(
            "triggering_event_name", pa.string(), "name of the tracked action, page or screen", personal=True
        ),
        Column("triggering_event_source_id", pa.string(), "source of the event"),
        Column("triggering_event_source_name", pa.string(), "its name; null, as events carry the id only"),
        Column("triggering_event_source_slug", pa.string(), "its id, which is its slug too"),
        _EVENT_TYPE,
        _LOADED_AT,
        Column("__operation", pa.string(), "CREATED or REMOVED", required=True),
    ),
    day="uuid_ts",
    part="sync",
)

TABLES: Final = (ID_GRAPH_UPDATES, EXTERNAL_ID_MAPPING_UPDATES)
