"""Named queries over the lake's tables that give identity its facts."""

from typing import Final

IDENTITY__SETS: Final = "SELECT set_id, collection, identifiers FROM identifier_sets"
"""Every distinct set with its identifiers, some more than once, in no order."""

IDENTITY__IDENTIFIERS: Final = "SELECT ident_id, type, value FROM identifiers"
"""Every identifier once, in no order."""

IDENTITY__VALUES: Final = "SELECT ident_id, collection, type, value FROM identifiers"
"""The same with their collections."""

IDENTITY__SIGHTINGS: Final = """
    SELECT set_id, first_position, first_message_id, first_source_id,
           last_position, last_message_id, last_source_id, events
    FROM set_sightings
    UNION ALL
    SELECT set_id, position, message_id, source_id, position, message_id, source_id, 0
    FROM (SELECT unnest([set_id, account_set_id]) AS set_id, position, message_id, source_id FROM event_copies)
    WHERE set_id IS NOT NULL
"""
"""When sets were seen, by set and day: the first and the last event, and how many; in no order."""

IDENTITY__SHOWN: Final = """
    WITH shown AS (
        SELECT unnest([set_id, account_set_id]) AS set_id, position, message_id, source_id
        FROM events
        UNION ALL
        SELECT unnest([set_id, account_set_id]), position, message_id, source_id
        FROM event_copies
    )
    SELECT DISTINCT set_id, position AS first_position, message_id AS first_message_id,
           source_id AS first_source_id, position AS last_position, message_id AS last_message_id,
           source_id AS last_source_id, 0::BIGINT AS events
    FROM shown SEMI JOIN chosen USING (set_id)
"""
"""The single events that show the sets of `chosen` (set_id), in the form of `IDENTITY__SIGHTINGS`."""

IDENTITY__FACTS: Final = "SELECT position, fact FROM identity_facts ORDER BY position"
"""Every decision of people about identity."""

IDENTITY__MISSING: Final = """
    WITH seen AS (
        SELECT DISTINCT unnest([set_id, account_set_id]) AS set_id FROM events
    ), members AS (
        SELECT DISTINCT unnest(identifiers).ident_id AS ident_id FROM identifier_sets
    )
    SELECT (SELECT count(*) FROM seen ANTI JOIN identifier_sets USING (set_id) WHERE set_id IS NOT NULL),
           (SELECT count(*) FROM members ANTI JOIN identifiers USING (ident_id))
"""
"""How many sets of events are not known, and how many identifiers of sets have no value."""
