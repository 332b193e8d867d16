"""Named queries over the lake's tables that give profiles their facts."""

from typing import Final

PROFILES__SET_TRAITS: Final = """
    SELECT sets.row, trait, value, epoch_us(timestamp) AS timestamp, position, source_id, message_id
    FROM trait_writes
    JOIN numbered_sets AS sets USING (set_id)
    QUALIFY row_number() OVER (
        PARTITION BY sets.row, trait ORDER BY trait_writes.timestamp DESC, position DESC
    ) = 1
    ORDER BY sets.row, trait
"""
"""The last write of each trait by each set of `numbered_sets` (set_id, row)."""
