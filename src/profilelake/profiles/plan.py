"""Named queries over the lake's tables that give profiles their facts."""

from typing import Final

PROFILES__TRAIT_WRITES: Final = """
    SELECT set_id, trait, value, epoch_us(timestamp) AS timestamp, position, source_id, message_id
    FROM trait_writes
"""
"""Every write of a trait, in no order."""
