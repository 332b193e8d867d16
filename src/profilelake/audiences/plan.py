"""Named queries over the lake's tables that give definitions and what was announced of them."""

from typing import Final

AUDIENCES__FACTS: Final = "SELECT position, encode(body) AS body FROM definition_facts ORDER BY position"
"""Every decision about definitions, in order."""

AUDIENCES__ANNOUNCED: Final = """
    WITH last AS (
        SELECT definition, profile_id, collection, version, value, epoch_us(changed_at) AS since
        FROM audience_changes
        WHERE cause <> 'resync'
        QUALIFY row_number() OVER (
            PARTITION BY definition, profile_id ORDER BY sequence DESC, number DESC
        ) = 1
    )
    FROM last WHERE value IS NOT NULL ORDER BY definition, profile_id
"""
"""What was announced last of each profile and definition, where that is a value; what was told once more
changes nothing."""

AUDIENCES__KEEP_TOLD: Final = f"""
    CREATE OR REPLACE TABLE told AS
    FROM ({AUDIENCES__ANNOUNCED}) AS last
    WHERE NOT (value = '0' AND (definition, version) IN (SELECT (definition, version) FROM counting))
"""  # noqa: S608 - a query of ours
"""Keep that, but for counts that are 0: `counting` has the versions of definitions of which 0 is no value."""

AUDIENCES__TOLD_BY_KEY: Final = """
    FROM told WHERE list_contains($members, definition) = $inside ORDER BY definition || '/' || profile_id
"""
"""What was kept of members of audiences, or of the other definitions, by the key of the current table."""

AUDIENCES__TOLD_BY_PROFILE: Final = "FROM told ORDER BY profile_id, definition"
"""What was kept, profile by profile."""

AUDIENCES__SHOWN: Final = """
    SELECT definition, profile_id, value, version, epoch_us(computed_at) AS since FROM computed_traits
    UNION ALL
    SELECT definition, profile_id, 'true', version, epoch_us(entered_at) FROM audience_members
"""
"""What the current tables say."""
