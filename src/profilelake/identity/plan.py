"""Named queries over the lake's tables that give identity its facts."""

from typing import Final

IDENTITY__SETS: Final = """
    WITH seen AS (
        SELECT set_id, events, first_position, first_message_id, first_source_id,
               last_position, last_message_id, last_source_id
        FROM set_sightings
        UNION ALL
        SELECT unnest([set_id, account_set_id]), 0, position, message_id, source_id,
               position, message_id, source_id
        FROM event_copies
    ), known AS (
        SELECT set_id, min(collection) AS collection
        FROM identifier_sets
        GROUP BY set_id
    )
    SELECT set_id,
           min(collection) AS collection,
           min(first_position) AS position,
           arg_min(first_message_id, first_position) AS message_id,
           arg_min(first_source_id, first_position) AS source_id,
           max(last_position) AS last_position,
           arg_max(last_message_id, last_position) AS last_message_id,
           arg_max(last_source_id, last_position) AS last_source_id,
           sum(events)::BIGINT AS events
    FROM known JOIN seen USING (set_id)
    GROUP BY set_id
    ORDER BY position, set_id
"""
"""Every distinct set with its first and last sighting and its events, in position order."""

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

IDENTITY__MEMBERS: Final = """
    WITH members AS (
        SELECT set_id, unnest(identifiers) AS member
        FROM (SELECT set_id, any_value(identifiers) AS identifiers FROM identifier_sets GROUP BY set_id)
    )
    SELECT sets.row, members.member.type AS type, members.member.ident_id AS ident_id, identifiers.value
    FROM members
    JOIN numbered_sets AS sets USING (set_id)
    JOIN identifiers ON identifiers.ident_id = members.member.ident_id
    ORDER BY sets.row
"""
"""The identifiers of the sets of `numbered_sets` (set_id, row), in the order of rows."""
