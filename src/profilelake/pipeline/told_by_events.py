"""Hold what was written of account links and consent against the events that said it.

Both outlive events, so a rebuild reads what was written; here it is seen whether that is all of it.
"""

import duckdb

from profilelake.identity.facts import Standing
from profilelake.pipeline.fold_spells import memberships
from profilelake.profiles.plan import PROFILES__GROUP_EVENTS, PROFILES__LINKS, PROFILES__UNTOLD
from profilelake.semantics.memberships import interval


def links_untold(connection: duckdb.DuckDBPyConnection, held: Standing) -> list[str]:
    """Return the messages of group events that began a spell which `account_links` does not know so early."""
    seen, written = (
        memberships(connection.sql(query).to_arrow_table().combine_chunks(), held)
        for query in (PROFILES__GROUP_EVENTS, PROFILES__LINKS)
    )
    missing = []
    for pair, record in seen.items():
        known = written[pair].spells if pair in written else []
        first = {interval(spell.position, held.leavings): spell.position for spell in known}
        for spell in record.spells:
            place = first.get(interval(spell.position, held.leavings))
            if place is None or place > spell.position:
                missing.append(spell.message_id)
    return missing


def consent_untold(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the messages of events that said the last of their set on consent and are not in `consent_writes`."""
    return [message_id for (message_id,) in connection.sql(PROFILES__UNTOLD).fetchall()]
