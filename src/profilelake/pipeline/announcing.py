"""Take up the journals that a rebuild does not make again, and correct what they say."""

import duckdb

from profilelake.identity.sync_reload import corrected, founding_set, load_ids, load_mappings
from profilelake.identity.sync_tables import EXTERNAL_ID_MAPPING_UPDATES, ID_GRAPH_UPDATES
from profilelake.lake import sql
from profilelake.lake.catalog import Lake, namespace_of
from profilelake.lake.reading import attach
from profilelake.pipeline.progress import PROGRESS, PUBLISHED, load_applied, load_published
from profilelake.pipeline.publish import outbox_key, pack
from profilelake.profiles.journal import REGROUPED, regrouped_anew
from profilelake.profiles.plan import PROFILES__TRAITS_TOLD_AT, PROFILES__TRAITS_TOLD_WRONG
from profilelake.state.store import Db, State
from profilelake.state.working import Working


def take_up_journals(state: State, workspace: str, lake: Lake, now: int) -> int:
    """Let a state that was made again go on from what the journals said; return how many rows correct it.

    The rows wait for the lake as a micro-batch of their own. The state must not be in use yet.
    """
    schema = sql.identifier(namespace_of(workspace, "sync"))
    with duckdb.connect() as connection:
        attach(connection, lake, workspace)
        ids = load_ids(state, workspace, connection, schema)
        with state.write() as tx:
            work = Working(tx, workspace, load_applied(tx, workspace, "").sequence + 1)
            of_ids = corrected(work, ids, (), now).ids
            work.flush()
        idents = load_mappings(state, workspace, connection, schema)
        untold = [row[0] for row in connection.sql(PROFILES__TRAITS_TOLD_WRONG).fetchall()]
        (told_at,) = connection.sql(PROFILES__TRAITS_TOLD_AT).fetchall()[0]
    with state.write() as tx:
        applied = load_applied(tx, workspace, "")
        work = Working(tx, workspace, applied.sequence + 1)
        of_idents = corrected(work, (), idents, now).mappings
        work.flush()
        moved = regrouped_anew(sorted(founding_set(profile) for profile in untold))
        rows: int = of_ids.num_rows + of_idents.num_rows + moved.num_rows
        if rows:
            applied.sequence += 1
            for definition, table in (
                (ID_GRAPH_UPDATES, of_ids),
                (EXTERNAL_ID_MAPPING_UPDATES, of_idents),
                (REGROUPED, moved),
            ):
                tx.put(workspace, Db.OUTBOX, outbox_key(applied.sequence, definition), pack(table))
            tx.put_meta(workspace, PROGRESS, applied)
        published = load_published(tx, workspace)
        published.traits_told_at = told_at
        tx.put_meta(workspace, PUBLISHED, published)
    return rows
