"""Hold state and tables against the facts, and put the right ones in their place.

Both need the data directory to themselves.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import CollectorRegistry

from profilelake.errors import Conflict, Corrupt
from profilelake.identity import background, facts
from profilelake.identity.plan import IDENTITY__MISSING
from profilelake.identity.standing import store, store_rules
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP, SET_SIGHTINGS
from profilelake.kernels.siphash import HASH_BYTES as SET_BYTES
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.tables import TableDef
from profilelake.landing.dedup import DedupIndex, Entries
from profilelake.landing.land import CONTENT_COLUMNS, dedup_entries
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.ops.failpoints import reach
from profilelake.pipeline import fold_announced
from profilelake.pipeline.announcing import take_up_journals
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.differences import DIFFERENCES_MAX, compare_rows
from profilelake.pipeline.differences import Difference as Difference
from profilelake.pipeline.fold_spells import left
from profilelake.pipeline.fold_state import Records, records
from profilelake.pipeline.fold_tables import tables
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.observing import whole_schema
from profilelake.pipeline.progress import (
    PROGRESS,
    PUBLISHED,
    Applied,
    Published,
    events_in,
    load_applied,
    load_published,
)
from profilelake.pipeline.publish import APPENDED, EVERY_CURRENT, JOURNALS, Publisher
from profilelake.pipeline.rebuild import Fold, decisions, fold, standing_of
from profilelake.pipeline.recent_runs import run_rows
from profilelake.pipeline.told_by_events import add_untold, consent_untold, links_untold
from profilelake.pipeline.verify_values import values_wrong
from profilelake.profiles.consent import policy_in_force, store_policy
from profilelake.profiles.journal import TRAIT_UPDATES
from profilelake.profiles.plan import PROFILES__TRAITS_TOLD_WRONG
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, PROFILES
from profilelake.semantics.consent import DEFAULT_POLICY
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.shapes import UNLISTED
from profilelake.shapes.tables import SCHEMA
from profilelake.state import activity, recent
from profilelake.state.activity import Settled
from profilelake.state.records import (
    ProfileRecord,
    SetRecord,
    decode_consent,
    decode_positions,
    decode_quarantine,
    encode,
)
from profilelake.state.replacing import put_in_place
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
        found += _conservation(connection, load_published(tx, setup.name))
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


def rebuild(
    setup: WorkspaceSetup,
    state_path: Path,
    lake: Lake,
    now: int,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Make state, de-duplication index, recent events and current tables again from the lake's facts.

    What the log holds beyond the tables is applied by the next start. Returns counts and seconds
    by step; `report` is told the name of each when it is done.

    Raises:
        Conflict: the tables of facts do not stand at one and the same point.
    """
    clock = _Steps(report)
    _finish_publication(setup, state_path, lake, now)
    reached = lake.table(setup.name, EVENTS).progress() or Progress("", 0)
    _check_level(lake, setup.name, reached)
    # Journals are corrected, not made again: what they gain must come after what they have.
    told = [lake.table(setup.name, definition).progress() for definition in JOURNALS]
    last = max([reached.sequence, *(progress.sequence for progress in told if progress is not None)])
    progress = Progress(_next_epoch(reached.epoch, now), last + 1, reached.vector, reached.totals)
    with duckdb.connect() as connection:
        attach(connection, lake, setup.name)
        _check_whole(connection)
        decided = decisions(connection)
        standing = facts.standing(decided, setup.rules)
        policy = setup.consent_policy or DEFAULT_POLICY
        added = add_untold(connection, standing)
        folds = fold(connection, standing, setup.untrusted(), policy)
        clock.done("identity")
        whole = whole_tables(folds)
        whole[SCHEMA.name] = whole_schema(connection, setup.identifier_key)
        defined = fold_announced.decided(connection)
        told_values = fold_announced.announced(connection, defined)
        whole |= fold_announced.tables(told_values, fold_announced.kinds_of(defined))
        clock.done("tables")
        replace_tables(lake, setup.name, whole, progress)
        for definition in (EVENTS, *_FACTS):
            rows = added.get(definition.name, definition.schema().empty_table())
            lake.table(setup.name, definition).append(rows, progress, always=True)
            reach("rebuild.appended")
        clock.done("commit")
        held = [records(folded) for folded in folds]
        clock.done("records")
        fresh = state_path.with_name(state_path.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        state = State.open(fresh, writable=True)
        state.ensure([setup.name])
        for part in held:
            _load(state, setup.name, part)
        with state.write() as tx:
            for position, fact in decided:
                store(tx, setup.name, position, fact)
            if any(isinstance(fact, facts.NewRules) for _, fact in decided):
                store_rules(tx, setup.name, standing.rules)
            tx.put_many(
                setup.name, Db.LEFT, [(pair, encode(ended)) for pair, ended in left(standing).items()]
            )
            store_policy(tx, setup.name, policy)
        clock.done("state")
        _load_events(state, setup, connection, progress, now)
        take_up_journals(state, setup.name, lake, now)
        fold_announced.take_up_definitions(state, setup.name, defined, told_values, now)
        state.close()
        reach("rebuild.loaded")
        clock.done("events")
    put_in_place(fresh, state_path, lambda: reach("rebuild.moved"))
    return {
        "profiles": sum(len(part.profiles) for part in held),
        "identifiers": sum(len(part.idents) for part in held),
        "sets": sum(len(part.sets) for part in held),
        "events": events_in(reached.vector),
        "seconds": clock.seconds,
    }


def _next_epoch(epoch: str, now: int) -> str:
    """Return a later epoch, also where the clock was set back since the last one began."""
    return f"{max(now, int(epoch or 0) + 1):020d}"


class _Steps:
    def __init__(self, report: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._at = time.perf_counter()
        self._report = report

    def done(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._at, 3)
        self._at = now
        self._report(step)


def whole_tables(folds: Sequence[Fold]) -> dict[str, pa.Table]:
    """Return the current tables of all collections, by name."""
    parts = [tables(folded) for folded in folds]
    return {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}


def replace_tables(lake: Lake, workspace: str, whole: Mapping[str, pa.Table], progress: Progress) -> None:
    """Put the whole current tables that are given in the place of those that are there, one commit each."""
    for definition in EVERY_CURRENT:
        if definition.name in whole:
            lake.current_table(workspace, definition).replace(whole[definition.name], progress)
            reach("rebuild.replaced")


def _finish_publication(setup: WorkspaceSetup, state_path: Path, lake: Lake, now: int) -> None:
    """Commit the facts of a publication that was cut short: only the old state has them."""
    if not (state_path / "data.mdb").exists():
        return
    try:
        state = State.open(state_path, writable=True)
    except Corrupt as error:
        _log.warning("rebuilding without what only the old state knew: %s", error)
        return
    try:
        state.ensure([setup.name])
        with state.read(setup.name) as tx:
            epoch = load_applied(tx, setup.name, "").epoch
        facts = lake.table(setup.name, EVENTS).progress()
        if facts is None or facts.epoch == epoch:
            Publisher(
                workspace=setup.name,
                state=state,
                lake=lake,
                recent_directory=setup.recent_directory,
                rules=setup.rules,
                clock=lambda: now,
                publish_age_seconds=0.0,
            ).publish_facts()
    finally:
        state.close()


def _check_level(lake: Lake, workspace: str, facts: Progress) -> None:
    for definition in (SET_SIGHTINGS, *APPENDED):
        progress = lake.table(workspace, definition).progress()
        if progress is not None and (progress.epoch, progress.sequence) > (facts.epoch, facts.sequence):
            raise Conflict(
                f"rebuilding: table {definition.name} is ahead of events; a publication was cut short. "
                "Start the server once so that it is finished, then rebuild"
            )


def _check_whole(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse to rebuild from facts of which a part is missing: what is not there would be forgotten."""
    sets, identifiers = connection.sql(IDENTITY__MISSING).fetchall()[0]
    if sets or identifiers:
        raise Conflict(
            f"rebuilding: {sets} identifier sets of events and the values of {identifiers} identifiers are "
            "not in the lake; a publication was cut short and only the state has them. Put the state back "
            "in its place, then rebuild"
        )


# ---- comparing ---------------------------------------------------------------------------------


def _conservation(connection: duckdb.DuckDBPyConnection, published: Published) -> list[Difference]:
    counted = connection.execute(
        "SELECT (SELECT count(*) FROM events), (SELECT count(DISTINCT message_id) FROM events), "
        "(SELECT count(*) FROM failed_events)"
    ).fetchall()[0]
    rows, ids, failed = counted
    wanted = published.totals
    checks = (
        ("events in the lake", rows, wanted.get("in_lake", 0)),
        ("distinct message ids in the lake", ids, rows),
        ("failed events in the lake", failed, wanted.get("failed", 0)),
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


# ---- loading -----------------------------------------------------------------------------------


def _load(state: State, workspace: str, part: Records) -> None:
    stores: tuple[tuple[Db, Mapping[bytes, object]], ...] = (
        (Db.IDENT, part.idents),
        (Db.SET, part.sets),
        (Db.PROFILE, part.profiles),
        (Db.TRAITS, part.traits),
        (Db.CONSENT, part.consent),
        (Db.ACCOUNTS_OF, part.memberships),
        (Db.ACTIVITY, part.activity),
        (Db.REFUSALS, part.refusals),
        (Db.SIGHTING, part.sightings),
        (Db.QUARANTINE, part.quarantine),
    )
    for db, values in stores:
        for chunk in _chunks(sorted(values)):
            with state.write() as tx:
                tx.put_many(workspace, db, [(key, encode(values[key])) for key in chunk])
    for pairs in _chunks(sorted(pair[SET_BYTES:] + pair[:SET_BYTES] for pair in part.memberships)):
        with state.write() as tx:
            tx.put_many(workspace, Db.MEMBERS, [(pair, b"") for pair in pairs])
    for links in _chunks(sorted(part.links)):
        with state.write() as tx:
            tx.put_links(workspace, links)


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), LOAD_ROWS):
        yield items[start : start + LOAD_ROWS]


def _load_events(
    state: State,
    setup: WorkspaceSetup,
    connection: duckdb.DuckDBPyConnection,
    progress: Progress,
    now: int,
) -> None:
    """Make the de-duplication index and the runs of recent events again, and say where all stands."""
    events = connection.sql("SELECT * FROM events ORDER BY position").to_arrow_table()
    events = EVENTS.shape(events).combine_chunks()
    oldest = pa.scalar(now - recent.LOOK_BACK_SECONDS * 1_000_000, pa.int64()).cast(
        EVENTS.schema().field("received_at").type
    )
    late = events.filter(pc.greater_equal(events.column("received_at"), oldest))
    runs = [
        recent.write(
            setup.recent_directory,
            run_rows(late.slice(start, RUN_ROWS)),
            sequence_min=progress.sequence,
            sequence_max=progress.sequence,
            level=recent.LEVEL_TOP,
            label=f"{progress.epoch}-{number}",
        )
        for number, start in enumerate(range(0, late.num_rows, RUN_ROWS))
    ]
    position = events.column("position")[-1].as_py() if events.num_rows else b""
    vector = {log: (offset, count) for log, (offset, count) in progress.vector.items()}
    applied = Applied(
        progress.epoch, progress.sequence, vector, dict(progress.totals), position, watermark=now
    )
    published = Published(
        progress.sequence,
        vector,
        dict(progress.totals),
        progress.sequence,
        at=now,
        merged_at=now,
        facts_sequence=progress.sequence,
        facts_vector=vector,
        facts_totals=dict(progress.totals),
        facts_at=now,
    )
    with state.write() as tx:
        index = DedupIndex(setup.dedup_directory, setup.name)
        setup.dedup_directory.mkdir(parents=True, exist_ok=True)
        index.rebuild(tx, _seen(connection, setup.identifier_key), progress.epoch)
        recent.store(tx, setup.name, runs)
        activity.store(tx, setup.name, Settled(progress.sequence))
        tx.put_meta(setup.name, PROGRESS, applied)
        tx.put_meta(setup.name, PUBLISHED, published)


def _seen(connection: duckdb.DuckDBPyConnection, key: bytes) -> Iterator[Entries]:
    """Yield, part by part, what the de-duplication index must hold: accepted events and earlier copies."""
    columns = ", ".join(("message_id", "position", *CONTENT_COLUMNS))
    for table in (EVENTS, EVENT_COPIES):
        for part in connection.table(table.name).select(columns).to_arrow_reader(RUN_ROWS):
            rows = pa.Table.from_batches([part])
            place = rows.schema.get_field_index("position")
            rows = rows.set_column(place, "position", rows.column(place).cast(pa.binary(POSITION_BYTES)))
            yield dedup_entries(key, rows)
