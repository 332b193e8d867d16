"""The rows that pass between the steps of a rebuild, as columns.

`set_id`, `ident_id` and founders are 16-byte ids; positions have 32 bytes. A profile is named by its founding set.
"""

from typing import Final

import pyarrow as pa

from profilelake.identity.tables import IDENTIFIER_SETS

ID: Final = pa.binary(16)
POSITION: Final = pa.binary(32)
TIME: Final = pa.int64()
"""Microseconds since 1970."""

KNOWN: Final = pa.schema(
    [
        ("set_id", ID),
        ("collection", pa.string()),
        ("identifiers", IDENTIFIER_SETS.schema().field("identifiers").type),
    ]
)
"""Every set once, with its identifiers before any rule."""

SEEN: Final = pa.schema(
    [
        ("set_id", ID),
        ("first_position", POSITION),
        ("first_message_id", pa.string()),
        ("first_source_id", pa.string()),
        ("last_position", POSITION),
        ("last_message_id", pa.string()),
        ("last_source_id", pa.string()),
        ("events", pa.int64()),
    ]
)
"""When sets were seen: one row a set, more where rules have windows or decisions have taken sightings back."""

WRITES: Final = pa.schema(
    [
        ("set_id", ID),
        ("trait", pa.string()),
        ("value", pa.string()),
        ("timestamp", TIME),
        ("position", POSITION),
        ("source_id", pa.string()),
        ("message_id", pa.string()),
    ]
)
"""The last write of each trait on each set; a removal has no value."""

STATEMENTS: Final = pa.schema(
    [
        ("set_id", ID),
        ("category", pa.string()),
        ("allowed", pa.bool_()),
        ("timestamp", TIME),
        ("position", POSITION),
        ("source_id", pa.string()),
        ("message_id", pa.string()),
    ]
)
"""What each set said last of consent: a row for each category that it ever named, as the last statement has it.

A set that never named one has a row without category: it allows nothing."""

LINKS: Final = pa.schema(
    [
        ("set_id", ID),
        ("account_set_id", ID),
        ("position", POSITION),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
    ]
)
"""Group events that began a spell."""

VALUES: Final = pa.schema(
    [("ident_id", ID), ("collection", pa.string()), ("type", pa.string()), ("value", pa.string())]
)
"""Every identifier of a set once."""

REFUSED: Final = pa.struct(
    [
        ("ident_id", ID),
        ("type", pa.string()),
        ("against", ID),
        ("cause", pa.string()),
        ("limit_type", pa.string()),
    ]
)
"""An identifier that a set did not join to the profile founded by `against`."""

SETS: Final = pa.schema(
    [
        ("set_id", ID),
        ("collection", pa.string()),
        ("identifiers", IDENTIFIER_SETS.schema().field("identifiers").type),
        ("anchor", ID),
        ("profile", ID),
        ("first_profile", ID),
        ("refused", pa.list_(REFUSED)),
        ("position", POSITION),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
        ("last_position", POSITION),
        ("last_message_id", pa.string()),
        ("last_source_id", pa.string()),
        ("events", pa.int64()),
    ]
)
"""What was decided of each set; anchor and profiles are null where nothing in it may link."""

WINDOWS: Final = pa.schema(
    [
        ("set_id", ID),
        ("window", pa.int64()),
        ("position", POSITION),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
    ]
)
"""The first sighting of each set in each window; none unless rules have windows."""

OWNED: Final = pa.schema(
    [
        ("ident_id", ID),
        ("profile", ID),
        ("linked_at", TIME),
        ("position", POSITION),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
    ]
)
"""What was decided of each identifier, with the sighting that showed it first; VALUES say which it is.

`profile` is null where it was refused everywhere or may link nothing. Of an identifier that may link nothing
there may be a row for each part of components it was seen in; the one of the least position holds.
"""

FOUNDED: Final = pa.schema([("profile", ID), ("collection", pa.string()), ("merges", pa.int64())])
"""Each profile that lives, and how many it took in."""

QUARANTINE: Final = pa.schema(
    [
        ("ident_id", ID),
        ("collection", pa.string()),
        ("type", pa.string()),
        ("degree", pa.int64()),
        ("position", pa.binary()),
        ("active", pa.bool_()),
        ("again_at", pa.int64()),
        ("extra", pa.int64()),
    ]
)
"""What the state must know of identifiers that came near the limit of degrees (`QuarantineRecord`), each once."""
