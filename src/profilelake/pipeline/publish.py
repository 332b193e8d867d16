"""Bring the lake's tables up to the state: exactly once, table by table, from the outbox.

Runs beside the micro-batches, each time on a consistent view of the state. Every table carries the
sequence it has reached in its own snapshots, so a publication that was cut short anywhere is continued,
never repeated; what the outbox holds is let go only when every table that needs it has it.

Facts (events, what hangs on them, values of identifiers) and what is derived from them (who belongs
together, profiles) are published apart: facts are little work and are waited for, the others may be much.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.publish import member_changes, trait_changes
from profilelake.audiences.tables import (
    AUDIENCE_CHANGES,
    AUDIENCE_MEMBERS,
    COMPUTED_TRAITS,
    DEFINITION_FACTS,
)
from profilelake.errors import Conflict, Unavailable
from profilelake.identity import publish as identity_rows
from profilelake.identity.standing import rules_in_force
from profilelake.identity.sync_tables import TABLES as SYNC_TABLES
from profilelake.identity.tables import (
    IDENTIFIER_SETS,
    IDENTIFIERS,
    IDENTITY_FACTS,
    IDENTITY_MAP,
    IDENTITY_REFUSALS,
    IDENTITY_UPDATES,
    SET_MAP,
    SET_SIGHTINGS,
)
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.pipeline import marks, recent_runs
from profilelake.pipeline.observing import Observing, held_by
from profilelake.pipeline.progress import (
    PROGRESS,
    PUBLISHED,
    Applied,
    Published,
    load_applied,
    load_published,
)
from profilelake.pipeline.register import TABLES
from profilelake.profiles.journal import REGROUPED, TRAIT_UPDATES, trait_updates
from profilelake.profiles.publish import profile_changes, written_profiles
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, PROFILES, TRAIT_WRITES
from profilelake.semantics.rules import IdentityRules
from profilelake.shapes.observed import COLUMNS
from profilelake.shapes.tables import SCHEMA
from profilelake.state import activity, outbox, recent
from profilelake.state.heads import decode_set_head
from profilelake.state.outbox import pack as pack
from profilelake.state.recent import Run
from profilelake.state.records import NOBODY
from profilelake.state.store import Db, State, Tx
from profilelake.state.working import Dirty

APPENDED: Final = (
    EVENT_COPIES,
    FAILED_EVENTS,
    IDENTIFIER_SETS,
    IDENTITY_UPDATES,
    IDENTITY_FACTS,
    TRAIT_WRITES,
    ACCOUNT_LINKS,
    CONSENT_WRITES,
    DEFINITION_FACTS,
    AUDIENCE_CHANGES,
    *SYNC_TABLES,
)
"""Tables whose rows wait in the outbox as they are."""
JOURNALS: Final = (TRAIT_UPDATES,)
"""Tables whose rows are made when they are published, from rows in the outbox and marks."""
CURRENT: Final = (SET_MAP, IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, PROFILES)
DERIVED: Final = tuple(table for table in CURRENT if table is not IDENTIFIERS)
"""Current tables that a rebuild makes again from facts. The values of identifiers are facts themselves."""
ANNOUNCED: Final = (COMPUTED_TRAITS, AUDIENCE_MEMBERS)
"""Current tables of what was announced: a journal folded, which a rebuild corrects and does not make again."""
EVERY_CURRENT: Final = (*CURRENT, SCHEMA, *ANNOUNCED)
"""With the one that follows from events alone, and those that follow from a journal."""
ACTIVITY_EVENTS_MAX: Final = 10_000
"""Events whose counts are shown with every publication; the counts of more wait for `publish_age`."""

PROFILES_AGE_SECONDS: Final = 30.0
"""How far the `profiles` table may lag while more events than that arrive: a busy profile changes again
and again, and one row for all of it is enough."""

PROFILES_SHARE: Final = 0.05
"""Part of the time that goes into publishing `profiles`: where one publication is long, the next one
waits, but never longer than `publish_age`."""


IDLE_COMMIT_SECONDS: Final = 600.0
"""How often a workspace for which nothing comes commits how far the log was read, so that it can be pruned."""
_WRITTEN: Final = (
    (Db.TRAITS, Dirty.TRAITS, Dirty.AGAIN),
    (Db.CONSENT, Dirty.CONSENT, Dirty.CONSENT_AGAIN),
)
"""What hangs on sets, with the marks of new values and of old ones that were written again."""

_PROFILE_MARKS: Final = frozenset(
    kind.encode() for kind in (Dirty.PROFILE, *(kind for _, *kinds in _WRITTEN for kind in kinds))
)
"""Marks of what only the `profiles` table shows."""

_log = logging.getLogger(__name__)


def ensure_tables(lake: Lake, workspace: str) -> None:
    """Make the tables that are missing, so that a question finds them empty before the first event."""
    for definition in TABLES:
        if definition.kind == "current":
            lake.current_table(workspace, definition)
        else:
            lake.table(workspace, definition)


def check_epoch(state: State, lake: Lake, workspace: str) -> None:
    """Refuse a state that the tables were not made from: it would publish everything once more.

    Raises:
        Conflict: a rebuild was cut short, or the state is gone or from a backup.
    """
    with state.read(workspace) as tx:
        mine = load_applied(tx, workspace, "")
    for table in TABLES:
        opened = (lake.current_table if table.kind == "current" else lake.table)(workspace, table)
        progress = opened.progress()
        if progress is None:
            continue
        if progress.epoch == mine.epoch and progress.sequence > mine.sequence:
            raise Conflict(
                f"publishing workspace {workspace}: its state stands at micro-batch {mine.sequence}, table "
                f"{table.name} at {progress.sequence}: it is an older copy; run: profilelake rebuild"
            )
        if progress.epoch != mine.epoch:
            raise Conflict(
                f"publishing workspace {workspace}: its state is of epoch {mine.epoch!r}, its tables of "
                f"{progress.epoch!r}: a rebuild was cut short, or the state is not the one that belongs here; "
                "run: profilelake rebuild"
            )


@dataclass(frozen=True, slots=True)
class FactsPublished:
    """What one publication of facts brought; `oldest_at` is when the earliest of its events was received."""

    events: int
    oldest_at: int | None


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes one workspace.

    One process uses it: one thread for `publish_facts`, one for `publish_current` and `tend_runs`, one for
    `merge`; they never wait for each other longer than one commit takes.
    """

    workspace: str
    state: State
    lake: Lake
    recent_directory: Path
    rules: IdentityRules
    clock: Clock
    publish_age_seconds: float
    observing: Observing = field(default_factory=Observing)

    def publish(self, *, whole: bool) -> bool:
        """Commit what the state has and the lake has not; return False when there was nothing.

        `whole` shows every count, however many profiles were active.

        Raises:
            Unavailable: disk full or an unknown outcome; call again.
        """
        if whole:
            self._make_room_for_counts()
        facts = self.publish_facts()
        return self.publish_current(whole=whole) or facts is not None

    def facts_waiting(self) -> int:
        """Return about how many events are in the state and not in the lake; 0 while nothing need be committed.

        A workspace for which nothing came only moves on in the log; that is committed once in
        `IDLE_COMMIT_SECONDS`, or when somebody asks.
        """
        with self.state.read(self.workspace) as tx:
            applied = load_applied(tx, self.workspace, "")
            published = load_published(tx, self.workspace)
            if applied.sequence <= published.facts_sequence:
                return 0
            events = sum(applied.totals.values()) - sum(published.facts_totals.values())
            if events > 0:
                return events
            # What a replay beside the micro-batches changed has marks and nothing else: moving on lets them go.
            only_marks = applied.vector == published.facts_vector and marks.any_mark(tx, self.workspace)
            if only_marks or self._facts_marked(tx, published.facts_sequence):
                return 1
        moved = applied.vector != published.facts_vector
        return int(moved and self._older(published.facts_at, IDLE_COMMIT_SECONDS))

    def current_waiting(self) -> int:
        """Return about how many events the derived tables do not show yet; 0 while nothing need be committed."""
        with self.state.read(self.workspace) as tx:
            applied = load_applied(tx, self.workspace, "")
            published = load_published(tx, self.workspace)
            if applied.sequence <= published.sequence:
                if self._profiles_behind(applied, published):
                    return 1
                # Counts of shapes may wait for their time.
                return int(applied.sequence > 0 and self.observing.waits(applied.as_progress()))
            events = sum(applied.totals.values()) - sum(published.totals.values())
            if events > 0:
                return events
            if marks.any_mark(tx, self.workspace):
                return 1
        moved = applied.vector != published.vector
        return int(moved and self._older(published.at, IDLE_COMMIT_SECONDS))

    def _facts_marked(self, tx: Tx, after: int) -> bool:
        """Tell whether rows of facts wait, or values of identifiers that changed behind a micro-batch."""
        return bool(_tables_waiting(tx, self.workspace, after)) or bool(
            marks.marked(tx, self.workspace, Dirty.IDENT, after)
        )

    def publish_facts(self) -> FactsPublished | None:
        """Commit what only the state has and nothing else could tell: facts, and values of identifiers.

        Returns None when there was nothing. The view of the state is given up before the first commit.

        Raises:
            Unavailable: as `publish`.
        """
        with self.state.read(self.workspace) as tx:
            progress = load_applied(tx, self.workspace, "").as_progress()
            published = load_published(tx, self.workspace)
            if progress.sequence <= published.facts_sequence:
                return None
            came = progress.vector != published.facts_vector or progress.totals != published.facts_totals
            if not came and not self._facts_marked(tx, published.facts_sequence):
                self._let_go_facts(progress)
                return None
            runs = recent.load(tx, self.workspace)
            # Tables for which there is nothing are not even opened: with many workspaces they are most.
            named = _tables_waiting(tx, self.workspace, published.facts_sequence)
            waiting = [
                (table, self._waiting(tx, table, progress)) for table in APPENDED if table.name in named
            ]
            values = self._identifier_values(tx, progress)
        facts = self._publish_events(runs, progress)
        reach("publish.events")
        for definition, rows in waiting:
            self.lake.table(self.workspace, definition).append(rows, progress)
        reach("publish.appended")
        if values is not None:
            self.lake.current_table(self.workspace, IDENTIFIERS).append_changes(values, progress)
        self._let_go_facts(progress)
        return facts

    def publish_current(self, *, whole: bool) -> bool:
        """Commit what follows from the facts of the state: the derived tables, `profiles` when it is due.

        Returns False when there was nothing.

        Raises:
            Unavailable: as `publish`.
        """
        with self.state.read(self.workspace) as tx:
            applied = load_applied(tx, self.workspace, "")
            published = load_published(tx, self.workspace)
        # Where nothing more comes, profiles that were left for later are shown when their time has come.
        idle = applied.sequence <= published.sequence
        whole = whole or (idle and self._profiles_behind(applied, published))
        if whole:
            self._make_room_for_counts()
        self._settle(whole=whole)
        with self.state.read(self.workspace) as tx:
            applied = load_applied(tx, self.workspace, "")
            published = load_published(tx, self.workspace)
            if applied.sequence <= published.sequence and not (
                whole and published.activity_through < applied.sequence
            ):
                self._publish_waiting_schema(tx, applied.as_progress(), published, whole=whole)
                return False
            progress = applied.as_progress()
            runs = recent.load(tx, self.workspace)
            self._publish_schema(runs, progress, whole=whole)
            self._publish_journals(tx, progress)
            settled = activity.load(tx, self.workspace)
            waiting = activity.pending(settled, runs)
            through = settled.through if waiting else applied.sequence
            due = whole or waiting <= ACTIVITY_EVENTS_MAX or self._profiles_due(published)
            # Where an earlier try got as far as this table, it has no room for what was settled since.
            held = self.lake.current_table(self.workspace, PROFILES).progress()
            profiles = due and held_by(held, progress) < progress.sequence
            only = DERIVED if profiles else tuple(table for table in DERIVED if table is not PROFILES)
            only += ANNOUNCED
            began = time.monotonic()
            active = self._active(tx, runs, published.activity_through, through) if profiles else set()
            self._publish_current(tx, progress, active, only)
            seconds = time.monotonic() - began
            reach("publish.current")
        self._let_go(
            progress, (through, seconds) if profiles else None, frozenset() if due else _PROFILE_MARKS
        )
        return True

    def _identifier_values(self, tx: Tx, progress: Progress) -> pa.Table | None:
        if not marks.any_of(tx, self.workspace, Dirty.IDENT):
            return None
        held = self.lake.current_table(self.workspace, IDENTIFIERS).progress()
        # A rebuild that was cut short may have begun the next epoch there.
        if held is not None and held.epoch != progress.epoch:
            return None
        keys = marks.marked(tx, self.workspace, Dirty.IDENT, held_by(held, progress))
        if not keys:
            return None
        return identity_rows.identifier_changes(tx, self.workspace, keys, progress.sequence)

    def _waiting(self, tx: Tx, definition: TableDef, progress: Progress) -> pa.Table:
        held = self.lake.table(self.workspace, definition).progress()
        return waiting_rows(tx, self.workspace, definition, held_by(held, progress))

    def _publish_schema(self, runs: list[Run], progress: Progress, *, whole: bool) -> None:
        """Look at what events are new, and show it where it is due."""

        def events(after: int, through: int) -> Iterator[pa.Table]:
            for run in recent_runs.between(runs, after, through):
                yield recent.read_whole(self.recent_directory, run, COLUMNS)

        try:
            self.observing.look(self.lake, self.workspace, progress, events)
        except Unavailable as error:
            # The list of shapes is made again from the events; what else is published must not wait for it.
            _log.error("the table of shapes is not brought up to date: %s", error)
            return
        self.observing.show(
            self.lake, self.workspace, progress, self.clock(), self.publish_age_seconds, whole=whole
        )

    def _publish_waiting_schema(
        self, tx: Tx, progress: Progress, published: Published, *, whole: bool
    ) -> None:
        """Show counts that waited for their time; nothing was applied since they were made."""
        if 0 < progress.sequence == published.sequence and self.observing.waits(progress):
            self._publish_schema(recent.load(tx, self.workspace), progress, whole=whole)

    def _publish_journals(self, tx: Tx, progress: Progress) -> None:
        table = self.lake.table(self.workspace, TRAIT_UPDATES)
        held = held_by(table.progress(), progress)
        if held < progress.sequence:
            table.append(self.trait_updates(tx, progress.sequence, held), progress)
        reach("publish.journals")

    def trait_updates(self, tx: Tx, sequence: int, held: int) -> pa.Table:
        """Return the rows of the journal of traits behind `held`."""
        changed, again = (
            marks.marked(tx, self.workspace, kind, held) for kind in (Dirty.TRAITS, Dirty.AGAIN)
        )
        moved = waiting_rows(tx, self.workspace, REGROUPED, held)
        if not (changed or again or moved.num_rows):
            return TRAIT_UPDATES.schema().empty_table()
        return trait_updates(
            tx,
            self.workspace,
            changed=changed,
            again=again,
            moved=moved,
            sequence=sequence,
            loaded_at=self._told_at(),
        )

    def _told_at(self) -> int:
        """Return now, or later: whoever reads from the last `uuid_ts` on must not miss a row."""
        with self.state.write() as tx:
            published = load_published(tx, self.workspace)
            published.traits_told_at = max(self.clock(), published.traits_told_at + 1)
            tx.put_meta(self.workspace, PUBLISHED, published)
            return published.traits_told_at

    def _settle(self, *, whole: bool) -> None:
        """Settle how often sets were seen, where that is little work or due."""
        with self.state.read(self.workspace) as tx:
            settled = activity.load(tx, self.workspace)
            waiting = activity.pending(settled, recent.load(tx, self.workspace))
            due = self._older(load_published(tx, self.workspace).activity_at, self.publish_age_seconds)
        if whole or due or settled.done or waiting <= ACTIVITY_EVENTS_MAX:
            activity.settle(self.state, self.workspace, self.recent_directory)
            if whole and settled.done:
                # That has only finished what a crash, or the moment of a backup, had cut short.
                activity.settle(self.state, self.workspace, self.recent_directory)

    def _profiles_behind(self, applied: Applied, published: Published) -> bool:
        """Tell whether it is time to show profiles that a publication has left for later."""
        return published.activity_through < applied.sequence and self._profiles_due(published)

    def _profiles_due(self, published: Published) -> bool:
        wait = max(PROFILES_AGE_SECONDS, published.profiles_seconds / PROFILES_SHARE)
        return self._older(
            published.profiles_at, min(wait, max(PROFILES_AGE_SECONDS, self.publish_age_seconds))
        )

    def _make_room_for_counts(self) -> None:
        """Begin a new sequence where `profiles` has the present one already, and not all counts."""
        held = self.lake.current_table(self.workspace, PROFILES).progress()
        with self.state.read(self.workspace) as tx:
            shown = load_published(tx, self.workspace).activity_through
            progress = load_applied(tx, self.workspace, "").as_progress()
        if shown >= progress.sequence or held_by(held, progress) < progress.sequence:
            return
        with self.state.write() as tx:
            applied = load_applied(tx, self.workspace, "")
            applied.sequence += 1
            tx.put_meta(self.workspace, PROGRESS, applied)

    def merge(self) -> int:
        """Fold the change logs of current tables into their bases; return how many had something new."""
        merged = 0
        for definition in TABLES:
            if definition.kind != "current":
                continue
            if self.lake.current_table(self.workspace, definition).merge():
                merged += 1
                reach("publish.merged")
        with self.state.write() as tx:
            published = load_published(tx, self.workspace)
            published.merged_at = self.clock()
            tx.put_meta(self.workspace, PUBLISHED, published)
        return merged

    def tend_runs(self) -> None:
        """Merge small recent runs that the lake has, drop those beyond the look-back, sweep files."""
        shapes = self.lake.current_table(self.workspace, SCHEMA).progress()
        recent_runs.tend(self.state, self.workspace, self.recent_directory, shapes, self.clock())

    def _publish_events(self, runs: list[Run], progress: Progress) -> FactsPublished:
        events = self.lake.table(self.workspace, EVENTS)
        missing = recent_runs.between(runs, held_by(events.progress(), progress), progress.sequence)
        received: list[tuple[int, int]] = []
        events.append(self._events_of(missing, received), progress, always=True)
        sightings = self.lake.table(self.workspace, SET_SIGHTINGS)
        missing = recent_runs.between(runs, held_by(sightings.progress(), progress), progress.sequence)
        sightings.append(self._sightings_of(missing), progress)
        return FactsPublished(
            sum(count for count, _ in received), min((oldest for _, oldest in received), default=None)
        )

    def _events_of(self, runs: list[Run], received: list[tuple[int, int]]) -> Iterator[pa.Table]:
        """Yield the events of runs part by part, and note how many each has and the earliest receipt."""
        for part in recent_runs.in_parts(runs):
            rows = pa.concat_tables(
                [recent.read_whole(self.recent_directory, run, EVENTS.schema().names) for run in part]
            )
            if rows.num_rows:
                received.append((rows.num_rows, pc.min(rows.column("received_at")).cast(pa.int64()).as_py()))
            yield rows.sort_by([(name, "ascending") for name in EVENTS.sort])

    def _sightings_of(self, runs: list[Run]) -> Iterator[pa.Table]:
        for part in recent_runs.in_parts(runs):
            rows = [
                recent.read_keys(self.recent_directory, run, identity_rows.SIGHTING_COLUMNS) for run in part
            ]
            yield identity_rows.sightings(pa.concat_tables(rows))

    def _active(self, tx: Tx, runs: list[Run], shown: int, through: int) -> set[bytes]:
        """Return profiles with events in the micro-batches after `shown`, as far as they are settled."""
        wanted = [run for run in runs if run.sequence_max > shown and run.sequence_min <= through]
        if not wanted:
            return set()
        parts = [recent.read_keys(self.recent_directory, run, ("key",)).column("key") for run in wanted]
        keys = pc.unique(pa.chunked_array([chunk for part in parts for chunk in part.chunks]))
        records = tx.decoded(self.workspace, Db.SET, keys.to_pylist(), decode_set_head)
        return {record.profile for record in records.values()} - {NOBODY}

    def _older(self, at: int, seconds: float) -> bool:
        return self.clock() - at > seconds * 1_000_000

    def _publish_current(
        self, tx: Tx, progress: Progress, active: set[bytes], only: tuple[TableDef, ...]
    ) -> None:
        workspace, sequence = self.workspace, progress.sequence
        version = rules_in_force(tx, workspace, self.rules).version
        makers: Mapping[str, tuple[Dirty, Callable[[list[bytes]], pa.Table]]] = {
            SET_MAP.name: (
                Dirty.SET,
                lambda keys: identity_rows.set_map_changes(tx, workspace, keys, sequence),
            ),
            IDENTITY_MAP.name: (
                Dirty.IDENT,
                lambda keys: identity_rows.identity_map_changes(tx, workspace, keys, sequence),
            ),
            IDENTITY_REFUSALS.name: (
                Dirty.REFUSALS,
                lambda keys: identity_rows.refusal_changes(tx, workspace, keys, sequence, version),
            ),
            PROFILES.name: (Dirty.PROFILE, lambda keys: profile_changes(tx, workspace, keys, sequence)),
            COMPUTED_TRAITS.name: (Dirty.VALUE, lambda keys: trait_changes(tx, workspace, keys, sequence)),
            AUDIENCE_MEMBERS.name: (Dirty.MEMBER, lambda keys: member_changes(tx, workspace, keys, sequence)),
        }
        for definition in only:
            kind, make = makers[definition.name]
            if definition is not PROFILES and not marks.any_of(tx, workspace, kind):
                continue
            table = self.lake.current_table(self.workspace, definition)
            held = held_by(table.progress(), progress)
            if held >= progress.sequence:
                continue
            keys = marks.marked(tx, workspace, kind, held)
            if definition is PROFILES:
                shown = active.union(keys)
                for db, *kinds in _WRITTEN:
                    changed, again = (marks.marked(tx, workspace, kind, held) for kind in kinds)
                    shown |= written_profiles(tx, workspace, db, changed, again)
                keys = sorted(shown)
            if keys:
                table.append_changes(make(keys), progress)

    def _let_go_facts(self, committed: Progress) -> None:
        """Note how far facts have come; their rows are let go when the derived tables have passed them too."""
        with self.state.write() as tx:
            published = load_published(tx, self.workspace)
            published.facts_sequence = committed.sequence
            published.facts_vector = dict(committed.vector)
            published.facts_totals = dict(committed.totals)
            published.facts_at = self.clock()
            tx.put_meta(self.workspace, PUBLISHED, published)
            reach("publish.facts_let_go")

    def _let_go(
        self, committed: Progress, profiles: tuple[int, float] | None, waiting: frozenset[bytes]
    ) -> None:
        """Forget the rows and marks of what all tables show now, and note how far these have come.

        `profiles` says through which micro-batch counts are shown and how long that took, None where
        they are not shown anew. The marks that are `waiting` stay for a later publication.
        """
        with self.state.write() as tx:
            published = load_published(tx, self.workspace)
            # Facts may be behind: rows and some of the marks are theirs too, and nothing is said to be in
            # all tables before it is.
            through_all = min(committed.sequence, published.facts_sequence)
            marks.unmark(tx, self.workspace, through_all, waiting)
            outbox.let_go(tx, self.workspace, through_all)
            behind = committed.sequence > published.facts_sequence
            published.sequence = through_all
            if not waiting:
                # Whoever waits for events to be shown waits for profiles too.
                published.vector = dict(published.facts_vector if behind else committed.vector)
                published.totals = dict(published.facts_totals if behind else committed.totals)
            if profiles is not None:
                counted, published.profiles_seconds = profiles
                published.profiles_at = self.clock()
                if counted != published.activity_through:
                    published.activity_through = counted
                    published.activity_at = self.clock()
            published.at = self.clock()
            tx.put_meta(self.workspace, PUBLISHED, published)
            reach("publish.let_go")
        reach("publish.done")


def _tables_waiting(tx: Tx, workspace: str, after: int) -> set[str]:
    """Return the names of the append-only tables that have rows in the outbox behind a micro-batch."""
    start = (after + 1).to_bytes(8, "big")
    return {key[8:].decode() for key in tx.keys(workspace, Db.OUTBOX, start)}


def outbox_key(sequence: int, definition: TableDef) -> bytes:
    """Return the key under which rows of a micro-batch wait for the lake."""
    return outbox.key_of(sequence, definition.name)


def waiting_rows(tx: Tx, workspace: str, definition: TableDef, after: int = -1) -> pa.Table:
    """Return what micro-batches behind `after` have for an append-only table that the lake may not have yet."""
    parts = outbox.parts(tx, workspace, definition.name, after)
    return pa.concat_tables([definition.schema().empty_table(), *parts], promote_options="default")
