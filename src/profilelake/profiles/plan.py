"""Named queries over the lake's tables that give profiles their facts."""

from typing import Final

PROFILES__TRAIT_WRITES: Final = """
    SELECT set_id, trait, value, epoch_us(timestamp) AS timestamp, position, source_id, message_id
    FROM trait_writes
"""
"""Every write of a trait, in no order."""

PROFILES__LINKS: Final = "SELECT set_id, account_set_id, position, message_id, source_id FROM account_links"
"""Every sighting of a person's and an account's set that began a spell when it came, in no order."""

PROFILES__GROUP_EVENTS: Final = """
    WITH calls AS (FROM events UNION ALL FROM event_copies)
    SELECT set_id, account_set_id, position, message_id, source_id
    FROM calls
    WHERE type = 'group' AND set_id IS NOT NULL AND account_set_id IS NOT NULL
"""
"""Every sighting that the events themselves tell of, copies included; in no order."""

PROFILES__MOVED: Final = """
    WITH copies AS (
        SELECT set_id, account_set_id, message_id, min(position) AS position,
               arg_min(source_id, position) AS source_id
        FROM event_copies
        WHERE type = 'group' AND set_id IS NOT NULL AND account_set_id IS NOT NULL
        GROUP BY set_id, account_set_id, message_id
    ), written AS (
        SELECT set_id, account_set_id, message_id, min(position) AS first, max(position) AS last
        FROM account_links SEMI JOIN copies USING (message_id)
        GROUP BY set_id, account_set_id, message_id
    )
    SELECT set_id, account_set_id, position, message_id, source_id, last
    FROM copies JOIN written USING (set_id, account_set_id, message_id)
    WHERE position < first
"""
"""The earliest copies of events of which only later places are written, and the last of these; in no order."""

PROFILES__UNTOLD: Final = """
    WITH said AS (
        SELECT set_id, arg_max({position: position, message_id: message_id}, (timestamp, position)) AS last
        FROM events
        WHERE set_id IS NOT NULL AND json_type(consent, '$.categoryPreferences') = 'OBJECT'
        GROUP BY set_id
    )
    SELECT set_id, last.message_id FROM said
    WHERE NOT EXISTS (
        FROM consent_writes
        WHERE consent_writes.set_id = said.set_id AND consent_writes.position = said.last.position
    )
    ORDER BY last.position
"""
"""Sets with the last event that said something of consent, where that is not in `consent_writes`."""

PROFILES__SAID: Final = """
    SELECT set_id, timestamp, position, received_at, source_id, message_id, consent
    FROM events SEMI JOIN untold USING (set_id)
    WHERE consent IS NOT NULL
    ORDER BY position
"""
"""What the sets of `untold` (set_id) said of consent, in order."""

PROFILES__STATEMENTS: Final = """
    SELECT set_id, category, allowed, epoch_us(timestamp) AS timestamp, position, source_id, message_id
    FROM consent_writes
"""
"""What was said of consent, one row for each category; in no order."""

PROFILES__TRAITS_TOLD_WRONG: Final = """
    SELECT profile_id
    FROM profiles LEFT JOIN (
        SELECT profile_id, arg_max(traits, seq) AS told FROM trait_updates GROUP BY profile_id
    ) USING (profile_id)
    WHERE collection = 'users' AND traits <> coalesce(told, '{}')
"""
"""People of whom the journal of traits does not say what is so."""

PROFILES__TRAITS_TOLD_AT: Final = "SELECT coalesce(max(epoch_us(uuid_ts)), 0) FROM trait_updates"
"""When its last rows were made, in microseconds."""
