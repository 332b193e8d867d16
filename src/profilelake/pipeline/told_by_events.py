"""Hold what was written of account links and consent against the events that said it.

Both outlive events, so a rebuild reads what was written. Whether that is all of it is seen here; what an
older program, which knew nothing of them, did not write can be had from the events that are left.
"""

import duckdb
import pyarrow as pa

from profilelake.identity.facts import Standing
from profilelake.lake.sql import identifier
from profilelake.pipeline.fold_facts import received_at
from profilelake.pipeline.fold_spells import first_of_spells, memberships
from profilelake.profiles.fold_consent import consent_rows
from profilelake.profiles.plan import (
    PROFILES__GROUP_EVENTS,
    PROFILES__LINKS,
    PROFILES__MOVED,
    PROFILES__SAID,
    PROFILES__UNTOLD,
)
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES
from profilelake.semantics.memberships import interval


def links_untold(connection: duckdb.DuckDBPyConnection, held: Standing) -> pa.Table:
    """Return the group events that began a spell which `account_links` does not know so early, as its rows.

    With them are copies before a decision of events that are written behind it, where they begin nothing.
    """
    seen = connection.sql(PROFILES__GROUP_EVENTS).to_arrow_table().combine_chunks()
    links = connection.sql(PROFILES__LINKS).to_arrow_table()
    moved = _moved(connection, held).select(links.column_names).cast(links.schema)
    written = memberships(pa.concat_tables([links, moved]).combine_chunks(), held)
    first = seen.take(pa.array(first_of_spells(seen, held.leavings)))
    known = {
        (pair, interval(spell.position, held.leavings)): spell.position
        for pair, record in written.items()
        for spell in record.spells
    }
    missing = []
    for person, account, position in zip(*(first.column(at).to_pylist() for at in range(3)), strict=True):
        place = known.get((person + account, interval(position, held.leavings)))
        missing.append(place is None or place > position)
    rows = pa.concat_tables([moved, first.filter(pa.array(missing, pa.bool_())).cast(links.schema)])
    linked_at = pa.array(received_at(rows.column("position"))).cast(
        ACCOUNT_LINKS.schema().field("linked_at").type
    )
    return ACCOUNT_LINKS.shape(rows.append_column("linked_at", linked_at))


def _moved(connection: duckdb.DuckDBPyConnection, held: Standing) -> pa.Table:
    """Return the first copies of events that stand before a decision, and are written only behind it."""
    moved = connection.sql(PROFILES__MOVED).to_arrow_table()
    places = (moved.column(name).to_pylist() for name in ("position", "last"))
    before = [
        interval(copy, held.leavings) < interval(last, held.leavings)
        for copy, last in zip(*places, strict=True)
    ]
    return moved.filter(pa.array(before, pa.bool_()))


def consent_untold(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return which sets said something of consent that is not in `consent_writes`, and the last event in which."""
    return connection.sql(PROFILES__UNTOLD).to_arrow_table()


def add_untold(connection: duckdb.DuckDBPyConnection, held: Standing) -> dict[str, pa.Table]:
    """Let `account_links` and `consent_writes` show what is missing in them too; return that by table."""
    added = {ACCOUNT_LINKS.name: links_untold(connection, held)}
    untold = consent_untold(connection)
    if untold.num_rows:
        connection.register("untold", untold)
        said = connection.sql(PROFILES__SAID).to_arrow_table().combine_chunks()
        added[CONSENT_WRITES.name] = CONSENT_WRITES.shape(consent_rows(said))
        connection.unregister("untold")
    for name, rows in added.items():
        view, before, more = (identifier(name + end) for end in ("", "_before", "_added"))
        connection.execute(f"ALTER VIEW {view} RENAME TO {before}")
        connection.register(f"{name}_added", rows)
        connection.execute(f"CREATE VIEW {view} AS (FROM {before}) UNION ALL BY NAME (FROM {more})")
    return added
