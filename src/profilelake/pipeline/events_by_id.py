"""Where a published event stands, by its message id."""

from typing import Final

import duckdb

from profilelake.identity.decide import EventSeen
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told
from profilelake.semantics.rules import COLLECTIONS, Collection

EVENTS__BY_ID: Final = """
    SELECT position, set_id, account_set_id FROM events WHERE message_id = $id
    UNION
    SELECT position, set_id, account_set_id FROM event_copies WHERE message_id = $id
    ORDER BY position
"""
"""Where an event and its copies stand, and their sets."""


def find_event(lake: Lake, workspace: str, message_id: str) -> EventSeen | None:
    """Return where a published event stands and its sets, None where there is none."""
    with duckdb.connect() as connection, damage_told():
        attach(connection, lake, workspace)
        rows = connection.execute(EVENTS__BY_ID, {"id": message_id}).fetchall()
    if not rows:
        return None
    found: dict[tuple[Collection, bytes], None] = {}
    for _, *keys in rows:
        found |= {
            (collection, bytes(key)): None for collection, key in zip(COLLECTIONS, keys, strict=True) if key
        }
    return EventSeen(tuple(dict.fromkeys(bytes(position) for position, *_ in rows)), tuple(found))
