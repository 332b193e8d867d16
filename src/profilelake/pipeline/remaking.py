"""What every rebuild does around the fold: where it begins, what it commits, and the state it loads.

`rebuild` folds a lake that fits into memory, here and now. `profilelake.plans` folds larger ones on any
engine, and begins and ends with the same functions.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from profilelake.errors import Conflict, Corrupt
from profilelake.identity import facts
from profilelake.identity.facts import Fact, Standing
from profilelake.identity.plan import IDENTITY__MISSING
from profilelake.identity.standing import store, store_rules
from profilelake.identity.tables import SET_SIGHTINGS
from profilelake.kernels.siphash import HASH_BYTES as SET_BYTES
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.retention import Expired
from profilelake.landing.dedup import DedupIndex, Entries, message_key
from profilelake.landing.land import CONTENT_COLUMNS, dedup_entries
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.ops.failpoints import reach
from profilelake.pipeline import fold_announced
from profilelake.pipeline.announcing import take_up_journals
from profilelake.pipeline.batch import WorkspaceSetup
from profilelake.pipeline.fold_announced import Announced
from profilelake.pipeline.fold_spells import left
from profilelake.pipeline.fold_state import Records, records
from profilelake.pipeline.fold_tables import whole_tables
from profilelake.pipeline.forgetting import tell_expired
from profilelake.pipeline.observing import whole_schema
from profilelake.pipeline.progress import PROGRESS, PUBLISHED, Applied, Published, events_in, load_applied
from profilelake.pipeline.publish import APPENDED, EVERY_CURRENT, JOURNALS, Publisher
from profilelake.pipeline.rebuild import decisions, fold
from profilelake.pipeline.recent_runs import run_rows
from profilelake.pipeline.told_by_events import add_untold
from profilelake.profiles.consent import store_policy
from profilelake.semantics.consent import DEFAULT_POLICY, Policy
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.shapes.tables import SCHEMA
from profilelake.state import activity, recent
from profilelake.state.activity import Settled
from profilelake.state.records import encode
from profilelake.state.replacing import put_in_place
from profilelake.state.store import Db, State, Tx

LOAD_ROWS: Final = 50_000
RUN_ROWS: Final = 500_000

FACTS: Final = (EVENTS, SET_SIGHTINGS, *APPENDED, *JOURNALS)
"""Tables that a rebuild begins a new epoch of; it takes nothing from them."""
_log = logging.getLogger(__name__)


def rebuild(
    setup: WorkspaceSetup,
    state_path: Path,
    lake: Lake,
    now: int,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Make state, de-duplication index, recent events and current tables again from the lake's facts.

    What the log holds beyond the tables is applied by the next start. Returns counts and seconds
    by step; `report` is told of each that is done.

    Raises:
        Conflict: the tables of facts do not stand at one and the same point.
    """
    clock = Steps(report)
    reached = reached_by(setup, state_path, lake, now)
    progress = next_progress(lake, setup.name, reached, now)
    with duckdb.connect() as connection:
        attach(connection, lake, setup.name)
        _check_whole(connection)
        decided = Decided.of(connection, setup)
        added = add_untold(connection, decided.standing)
        folds = fold(connection, decided.standing, setup.untrusted(), decided.policy)
        clock.done("identity")
        defined = Defined.of(connection)
        whole = whole_tables(folds) | defined.tables()
        whole[SCHEMA.name] = whole_schema(connection, setup.identifier_key)
        clock.done("tables")
        replace_tables(lake, setup.name, whole, progress)
        for definition in FACTS:
            rows = added.get(definition.name, definition.schema().empty_table())
            lake.table(setup.name, definition).append(rows, progress, always=True)
            reach("rebuild.appended")
        clock.done("commit")
        held = [records(folded) for folded in folds]
        clock.done("records")
        state = fresh_state(state_path, setup.name)
        for part in held:
            _load(state, setup.name, part)
        decided.load(state, setup.name)
        clock.done("state")
        load_events(state, setup, connection, progress, now)
        take_up(state, setup.name, lake, defined.facts, defined.by_profile(), now)
        clock.done("events")
    replace_state(state_path)
    return {
        "profiles": sum(len(part.profiles) for part in held),
        "identifiers": sum(len(part.idents) for part in held),
        "sets": sum(len(part.sets) for part in held),
        "events": events_in(reached.vector),
        "seconds": clock.seconds,
    }


class Steps:
    """Seconds of each step; tells of it when it is done."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._at = time.perf_counter()
        self._report = report

    def done(self, step: str) -> None:
        """Note that a step has ended now."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._at, 3)
        self._at = now
        self._report(f"{step}: {self.seconds[step]:.1f} s")


# ---- beginning ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decided:
    """What people decided about identity, and how consent is brought together."""

    facts: list[tuple[bytes, Fact]]
    standing: Standing
    policy: Policy

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, setup: WorkspaceSetup) -> "Decided":
        """Return what the attached tables say."""
        decided = decisions(connection)
        return cls(decided, facts.standing(decided, setup.rules), setup.consent_policy or DEFAULT_POLICY)

    def load(self, state: State, workspace: str) -> None:
        """Let a new state know of it."""
        with state.write() as tx:
            for position, fact in self.facts:
                store(tx, workspace, position, fact)
            if any(isinstance(fact, facts.NewRules) for _, fact in self.facts):
                store_rules(tx, workspace, self.standing.rules)
            tx.put_many(
                workspace, Db.LEFT, [(pair, encode(ended)) for pair, ended in left(self.standing).items()]
            )
            store_policy(tx, workspace, self.policy)


@dataclass(frozen=True, slots=True)
class Defined:
    """Decisions about definitions, and the values that were announced of them."""

    facts: list[tuple[bytes, bytes]]
    values: list[Announced]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "Defined":
        """Return what the attached tables say."""
        defined = fold_announced.decided(connection)
        return cls(defined, fold_announced.announced(connection, defined))

    def by_profile(self) -> list[Announced]:
        """Return the values, those of a profile one after the other."""
        return sorted(self.values, key=lambda row: row.profile_id)

    def tables(self) -> dict[str, pa.Table]:
        """Return the current tables of values, by name."""
        return fold_announced.tables(self.values, fold_announced.kinds_of(self.facts))


def reached_by(setup: WorkspaceSetup, state_path: Path, lake: Lake, now: int) -> Progress:
    """Return the point at which all tables of facts stand, once what only the old state knew is among them.

    Raises:
        Conflict: they do not stand at one and the same point.
    """
    _finish_publication(setup, state_path, lake, now)
    reached = lake.table(setup.name, EVENTS).progress() or Progress("", 0)
    for definition in (SET_SIGHTINGS, *APPENDED):
        progress = lake.table(setup.name, definition).progress()
        if progress is not None and (progress.epoch, progress.sequence) > (reached.epoch, reached.sequence):
            raise Conflict(
                f"rebuilding: table {definition.name} is ahead of events; a publication was cut short. "
                "Start the server once so that it is finished, then rebuild"
            )
    return reached


def next_progress(lake: Lake, workspace: str, reached: Progress, now: int) -> Progress:
    """Return where tables will stand in a new epoch.

    It is later also where the clock was set back since the last one began. Journals are corrected, not made
    again: what they gain must come after what they have.
    """
    told = [lake.table(workspace, definition).progress() for definition in JOURNALS]
    last = max([reached.sequence, *(progress.sequence for progress in told if progress is not None)])
    # One that was cut short has taken some current tables to an epoch in which no facts are yet.
    current = [lake.current_table(workspace, definition).progress() for definition in EVERY_CURRENT]
    known = (reached, *(progress for progress in (*told, *current) if progress is not None))
    epoch = f"{max(now, *(int(progress.epoch or 0) + 1 for progress in known)):020d}"
    return Progress(epoch, last + 1, reached.vector, reached.totals)


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


def _check_whole(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse to rebuild from facts of which a part is missing: what is not there would be forgotten."""
    refuse_missing(*connection.sql(IDENTITY__MISSING).fetchall()[0])


def refuse_missing(sets: int, identifiers: int) -> None:
    """Refuse to go on where sets of events, or values of identifiers, are not in the lake.

    Raises:
        Conflict: some are not.
    """
    if sets or identifiers:
        raise Conflict(
            f"rebuilding: {sets} identifier sets of events and the values of {identifiers} identifiers are "
            "not in the lake; a publication was cut short and only the state has them. Put the state back "
            "in its place, then rebuild"
        )


# ---- committing --------------------------------------------------------------------------------


def replace_tables(lake: Lake, workspace: str, whole: Mapping[str, pa.Table], progress: Progress) -> None:
    """Put the whole current tables that are given in the place of those that are there, one commit each."""
    for definition in EVERY_CURRENT:
        if definition.name in whole:
            lake.current_table(workspace, definition).replace(whole[definition.name], progress)
            reach("rebuild.replaced")


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


def fresh_state(state_path: Path, workspace: str) -> State:
    """Return a new, empty state beside the one in use; what an earlier attempt left there is gone."""
    fresh = _fresh(state_path)
    shutil.rmtree(fresh, ignore_errors=True)
    state = State.open(fresh, writable=True)
    state.ensure([workspace])
    return state


def load_events(
    state: State,
    setup: WorkspaceSetup,
    connection: duckdb.DuckDBPyConnection,
    progress: Progress,
    now: int,
) -> None:
    """Make the de-duplication index and the runs of recent events again, and say where all stands.

    No more than `RUN_ROWS` events are in memory; `connection` sorts those of the look-back as far as it may
    take memory, then on disk.
    """
    oldest = now - recent.LOOK_BACK_SECONDS * 1_000_000
    late = connection.sql(
        f"FROM events WHERE received_at >= make_timestamp({oldest:d})::TIMESTAMPTZ ORDER BY position"
    ).to_arrow_reader(RUN_ROWS)
    runs = [
        recent.write(
            setup.recent_directory,
            run_rows(EVENTS.shape(pa.Table.from_batches([rows])).combine_chunks()),
            sequence_min=progress.sequence,
            sequence_max=progress.sequence,
            level=recent.LEVEL_TOP,
            label=f"{progress.epoch}-{number}",
        )
        for number, rows in enumerate(late)
    ]
    (position,) = connection.sql("SELECT coalesce(max(position), ''::BLOB) FROM events").fetchall()[0]
    with state.write() as tx:
        fresh_index(setup).rebuild(tx, _seen(connection, message_key(setup.identifier_key)), progress.epoch)
        note_events(tx, setup.name, runs, position, progress, now)


def fresh_index(setup: WorkspaceSetup) -> DedupIndex:
    """Return an index of message ids that holds nothing yet."""
    setup.dedup_directory.mkdir(parents=True, exist_ok=True)
    return DedupIndex(setup.dedup_directory, setup.name)


def note_events(
    tx: Tx, workspace: str, runs: Sequence[recent.Run], position: bytes, progress: Progress, now: int
) -> None:
    """Say which runs of recent events there are, and where all stands; `position` is that of the last event."""
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
    recent.store(tx, workspace, runs)
    activity.store(tx, workspace, Settled(progress.sequence))
    tx.put_meta(workspace, PROGRESS, applied)
    tx.put_meta(workspace, PUBLISHED, published)


def take_up(
    state: State,
    workspace: str,
    lake: Lake,
    decided: Sequence[tuple[bytes, bytes]],
    values: Iterable[Announced],
    now: int,
) -> None:
    """Let a loaded state go on from what journals and definitions said, and close it.

    `decided` is about definitions, `values` were announced of them, those of a profile one after the other.
    """
    take_up_journals(state, workspace, lake, now)
    fold_announced.take_up_definitions(state, workspace, decided, values, now)
    tell_expired(state, workspace, Expired.of(lake.table(workspace, FAILED_EVENTS).properties()).rows)
    state.close()
    reach("rebuild.loaded")


def replace_state(state_path: Path) -> None:
    """Put the state that was loaded in the place of the one in use."""
    put_in_place(_fresh(state_path), state_path, lambda: reach("rebuild.moved"))


def _fresh(state_path: Path) -> Path:
    return state_path.with_name(state_path.name + ".new")


def _seen(connection: duckdb.DuckDBPyConnection, key: bytes) -> Iterator[Entries]:
    """Yield, part by part, what the de-duplication index must hold: accepted events and earlier copies."""
    columns = ", ".join(("message_id", "position", *CONTENT_COLUMNS))
    for table in (EVENTS, EVENT_COPIES):
        for part in connection.table(table.name).select(columns).to_arrow_reader(RUN_ROWS):
            rows = pa.Table.from_batches([part])
            place = rows.schema.get_field_index("position")
            rows = rows.set_column(place, "position", rows.column(place).cast(pa.binary(POSITION_BYTES)))
            yield dedup_entries(key, rows)
