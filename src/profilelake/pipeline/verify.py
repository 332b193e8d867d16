"""Hold state and tables against the facts.

Needs the data directory to itself.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import CollectorRegistry

from profilelake.identity import background
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP, SET_SIGHTINGS
from profilelake.kernels.siphash import HASH_BYTES as SET_BYTES
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.lake.retention import Expired
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import FAILED_EVENTS
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.differences import DIFFERENCES_MAX, compare_rows
from profilelake.pipeline.differences import Difference as Difference
from profilelake.pipeline.fold_spells import left
from profilelake.pipeline.fold_state import Records, records
from profilelake.pipeline.fold_tables import whole_tables
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.observing import whole_schema
from profilelake.pipeline.progress import (
    Published,
    events_in,
    load_published,
)
from profilelake.pipeline.publish import APPENDED, JOURNALS
from profilelake.pipeline.rebuild import fold, standing_of
from profilelake.pipeline.told_by_events import consent_untold, links_untold
from profilelake.pipeline.verify_values import values_wrong
from profilelake.profiles.consent import policy_in_force
from profilelake.profiles.journal import TRAIT_UPDATES
from profilelake.profiles.plan import PROFILES__TRAITS_TOLD_WRONG
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, PROFILES
from profilelake.semantics.shapes import UNLISTED
from profilelake.shapes.tables import SCHEMA
from profilelake.state.records import (
    ProfileRecord,
    SetRecord,
    decode_consent,
    decode_positions,
    decode_quarantine,
    encode,
)
from profilelake.state.store import Db, State, Tx

LOAD_ROWS: Final = 50_000
RUN_ROWS: Final = 500_000

_FACTS: Final = (SET_SIGHTINGS, *APPENDED, *JOURNALS)
_log = logging.getLogger(__name__)


def verify(setup: WorkspaceSetup, state: State, lake: Lake) -> list[Difference]:
    """Return where state or tables differ from the facts; the state must be published whole."""
    found: list[Difference] = []
    with duckdb.connect() as connection, state.read(setup.name) as tx:
        attach(connection, lake, setup.name)
        gone = Expired.of(lake.load(setup.name, FAILED_EVENTS.name).table.properties).rows
        found += _conservation(connection, load_published(tx, setup.name), gone)
        standing = standing_of(connection, setup.rules)
        folds = fold(connection, standing, setup.untrusted(), policy_in_force(tx, setup.name))
        held = [records(folded) for folded in folds]
        for name, wanted in whole_tables(folds).items():
            found += _compare_table(connection, name, wanted)
        found += _compare_schema(connection, whole_schema(connection, setup.identifier_key))
        found += _compare_state(tx, setup.name, held)
        wrong = connection.sql(PROFILES__TRAITS_TOLD_WRONG).fetchall()
        if wrong:
            found.append(
                Difference(TRAIT_UPDATES.name, f"of {len(wrong)} people it does not say what is so now")
            )
        found += _untold(ACCOUNT_LINKS, links_untold(connection, standing))
        found += _untold(CONSENT_WRITES, consent_untold(connection))
        found += compare_rows("state of leavings", _left(tx, setup.name), left(standing))
        found += values_wrong(connection, tx, setup.name)
        waiting = background.load(tx, setup.name)
        if waiting:
            found.append(
                Difference("identity", f"{len(waiting)} replays wait; start the server to finish them")
            )
    return found


def finish_replays(setup: WorkspaceSetup, state: State, region: str, now: int) -> None:
    """Finish what a server left waiting when it was stopped: replays, and values whose time has come."""
    with state.read(setup.name) as tx:
        if not (background.load(tx, setup.name) or tx.count(setup.name, Db.DEFINITION)):
            return
    batcher = Batcher(state, [setup], region, now, Timer(Stages(CollectorRegistry())))
    while batcher.tend_replays(wait_seconds=1.0):
        pass
    while batcher.tend_computing(0):
        pass


# ---- comparing ---------------------------------------------------------------------------------


def _conservation(
    connection: duckdb.DuckDBPyConnection, published: Published, expired: int
) -> list[Difference]:
    """Count what there is, and what has left its table because its time was over."""
    counted = connection.execute(
        "SELECT (SELECT count(*) FROM events), (SELECT count(DISTINCT message_id) FROM events), "
        "(SELECT count(*) FROM failed_events)"
    ).fetchall()[0]
    rows, ids, failed = counted
    wanted = published.totals
    checks = (
        ("events in the lake", rows, wanted.get("in_lake", 0)),
        ("distinct message ids in the lake", ids, rows),
        ("failed events in the lake and expired", failed + expired, wanted.get("failed", 0)),
        ("accepted events accounted for", sum(wanted.values()), events_in(published.vector)),
    )
    return [
        Difference("conservation", f"{name}: {found}, should be {right}")
        for name, found, right in checks
        if found != right
    ]


def _compare_table(connection: duckdb.DuckDBPyConnection, name: str, wanted: pa.Table) -> list[Difference]:
    key = {d.name: d.key for d in (SET_MAP, IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, PROFILES)}[name]
    found = connection.table(name).to_arrow_table().select(wanted.column_names)
    return compare_rows(f"table {name}", _by_key(found, key), _by_key(wanted, key))


def _compare_schema(connection: duckdb.DuckDBPyConnection, wanted: pa.Table) -> list[Difference]:
    """Compare which shapes there are, since when, and in how many events.

    Where a limit was hit, which of the paths are listed depends on what came first: left out here.
    """
    found = connection.table(SCHEMA.name).to_arrow_table()
    crowded = {
        (row["type"], row["part"])
        for rows in (found, wanted)
        for row in rows.filter(
            pc.or_kleene(pc.equal(rows.column("path"), UNLISTED), pc.equal(rows.column("event"), UNLISTED))
        ).to_pylist()
    }

    def facts(rows: pa.Table) -> dict[str, tuple[Any, ...]]:
        return {
            row["schema_id"]: (row["path"], row["first_seen_at"], row["last_seen_at"], row["events"])
            for row in rows.to_pylist()
            if (row["type"], row["part"]) not in crowded
        }

    return compare_rows(f"table {SCHEMA.name}", facts(found), facts(wanted))


def _by_key(rows: pa.Table, key: str | None) -> dict[Any, Any]:
    names = rows.column_names
    place = names.index(str(key))
    columns = [column.to_pylist() for column in rows.columns]
    return {values[place]: values for values in zip(*columns, strict=True)}


def _compare_state(tx: Tx, workspace: str, held: Sequence[Records]) -> list[Difference]:
    wanted_sets = {key: _set_facts(record) for part in held for key, record in part.sets.items()}
    wanted_idents = {key: encode(record) for part in held for key, record in part.idents.items()}
    wanted_profiles = {key: _profile_facts(record) for part in held for key, record in part.profiles.items()}
    wanted_traits = {key: writes for part in held for key, writes in part.traits.items()}
    wanted_refusals = {key: encode(refusals) for part in held for key, refusals in part.refusals.items()}
    wanted_sightings = {key: encode(seen) for part in held for key, seen in part.sightings.items()}
    wanted_consent = {key: record for part in held for key, record in part.consent.items()}
    wanted_memberships = {key: encode(record) for part in held for key, record in part.memberships.items()}
    wanted_activity = {key: encode(record) for part in held for key, record in part.activity.items()}
    every = [key for key, _ in tx.items(workspace, Db.SET)]
    return [
        *compare_rows(
            "state of sets",
            {key: _set_facts(record) for key, record in tx.sets(workspace, every).items()},
            wanted_sets,
        ),
        *compare_rows("state of activity", dict(tx.items(workspace, Db.ACTIVITY)), wanted_activity),
        *compare_rows("state of identifiers", dict(tx.items(workspace, Db.IDENT)), wanted_idents),
        *compare_rows(
            "state of profiles",
            {
                key: _profile_facts(record)
                for key, record in tx.profiles(
                    workspace, [key for key, _ in tx.items(workspace, Db.PROFILE)]
                ).items()
            },
            wanted_profiles,
        ),
        *compare_rows("state of traits", tx.set_traits(workspace, every), wanted_traits),
        *compare_rows(
            "state of consent", tx.decoded(workspace, Db.CONSENT, every, decode_consent), wanted_consent
        ),
        *compare_rows("state of memberships", dict(tx.items(workspace, Db.ACCOUNTS_OF)), wanted_memberships),
        *compare_rows(
            "state of members",
            dict(tx.items(workspace, Db.MEMBERS)),
            {pair[SET_BYTES:] + pair[:SET_BYTES]: b"" for pair in wanted_memberships},
        ),
        *compare_rows("state of sightings", dict(tx.items(workspace, Db.SIGHTING)), wanted_sightings),
        *compare_rows(
            "state of quarantine",
            {
                key: True
                for key, value in tx.items(workspace, Db.QUARANTINE)
                if decode_quarantine(value).active
            },
            {key: True for part in held for key, record in part.quarantine.items() if record.active},
        ),
        *compare_rows("state of refusals", dict(tx.items(workspace, Db.REFUSALS)), wanted_refusals),
    ]


def _untold(definition: TableDef, missing: pa.Table) -> list[Difference]:
    if not missing.num_rows:
        return []
    shown = ", ".join(missing.column("message_id").slice(0, DIFFERENCES_MAX).to_pylist())
    return [Difference(f"table {definition.name}", f"{missing.num_rows} events are missing: {shown}")]


def _left(tx: Tx, workspace: str) -> dict[bytes, list[bytes]]:
    return {pair: decode_positions(value) for pair, value in tx.items(workspace, Db.LEFT)}


def _set_facts(record: SetRecord) -> tuple[Any, ...]:
    members = sorted(record.idents[i : i + 16] for i in range(0, len(record.idents), 16))
    return (
        record.collection,
        members,
        record.anchor,
        record.profile,
        record.first_profile,
        record.position,
        record.message_id,
        record.source_id,
        record.refused,
    )


def _profile_facts(record: ProfileRecord) -> tuple[Any, ...]:
    return (
        record.collection,
        record.position,
        sorted(record.idents),
        sorted(record.sets),
        record.merges,
    )
