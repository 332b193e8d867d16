"""Bring the lake's tables up to the state: exactly once, table by table, from the outbox.

Runs beside the micro-batches, on a consistent view of the state. Every table carries the sequence it
has reached in its own snapshots, so a publication that was cut short anywhere is continued, never
repeated; what the outbox holds is let go only when every table has it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Conflict
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
from profilelake.pipeline.observing import Observing, held_by
from profilelake.pipeline.progress import PROGRESS, PUBLISHED, Published, load_applied, load_published
from profilelake.profiles.journal import REGROUPED, TRAIT_UPDATES, trait_updates
from profilelake.profiles.publish import profile_changes, written_profiles
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, PROFILES, TRAIT_WRITES
from profilelake.semantics.rules import IdentityRules
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
    *SYNC_TABLES,
)
"""Tables whose rows wait in the outbox as they are."""
JOURNALS: Final = (TRAIT_UPDATES,)
"""Tables whose rows are made when they are published."""
CURRENT: Final = (SET_MAP, IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, PROFILES)
"""Tables that show what the state holds."""
EVERY_CURRENT: Final = (*CURRENT, SCHEMA)
ACTIVITY_EVENTS_MAX: Final = 10_000
"""Events whose counts are shown with every publication; the counts of more wait for `publish_age`."""

PROFILES_AGE_SECONDS: Final = 30.0
"""How far the `profiles` table may lag while more events than that arrive: a busy profile changes again
and again, and one row for all of it is enough."""

PROFILES_SHARE: Final = 0.05
"""Part of the time that goes into publishing `profiles`: where one publication is long, the next one
waits, but never longer than `publish_age`."""


_WRITTEN: Final = (
    (Db.TRAITS, Dirty.TRAITS, Dirty.AGAIN),
    (Db.CONSENT, Dirty.CONSENT, Dirty.CONSENT_AGAIN),
)
"""What hangs on sets, with the marks of new values and of old ones that were written again."""

_PROFILE_MARKS: Final = frozenset(
    kind.encode() for kind in (Dirty.PROFILE, *(kind for _, *kinds in _WRITTEN for kind in kinds))
)
"""Marks of what only the `profiles` table shows."""


def ensure_tables(lake: Lake, workspace: str) -> None:
    """Make the tables that are missing, so that a question finds them empty before the first event."""
    for definition in (EVENTS, SET_SIGHTINGS, *APPENDED, *JOURNALS):
        lake.table(workspace, definition)
    for definition in EVERY_CURRENT:
        lake.current_table(workspace, definition)


def check_epoch(state: State, lake: Lake, workspace: str) -> None:
    """Refuse a state that the tables were not made from: it would publish everything once more.

    Raises:
        Conflict: a rebuild was cut short, or the state is gone or from a backup.
    """
    with state.read(workspace) as tx:
        mine = load_applied(tx, workspace, "").epoch
    appended = (EVENTS, SET_SIGHTINGS, *APPENDED, *JOURNALS)
    reached = [lake.table(workspace, table).progress() for table in appended]
    reached += [lake.current_table(workspace, table).progress() for table in EVERY_CURRENT]
    for progress in reached:
        if progress is not None and progress.epoch != mine:
            raise Conflict(
                f"publishing workspace {workspace}: its state is of epoch {mine!r}, its tables of "
                f"{progress.epoch!r}: a rebuild was cut short, or the state is not the one that belongs here; "
                "run: profilelake rebuild"
            )


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes one workspace. One thread of one process uses it."""

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
            fresh = _Fresh(self.recent_directory, runs)
            self._publish_facts(tx, fresh, progress)
            self._publish_schema(fresh, progress, published, whole=whole)
            self._append(TRAIT_UPDATES, progress, partial(self._trait_updates, tx, progress.sequence))
            reach("publish.journals")
            settled = activity.load(tx, self.workspace)
            waiting = activity.pending(settled, runs)
            through = settled.through if waiting else applied.sequence
            profiles = whole or waiting <= ACTIVITY_EVENTS_MAX or self._profiles_due(published)
            # Where an earlier try got as far as this table, it has no room for what was settled since.
            held = self.lake.current_table(self.workspace, PROFILES).progress()
            profiles = profiles and held_by(held, progress) < progress.sequence
            only = CURRENT if profiles else tuple(table for table in CURRENT if table is not PROFILES)
            began = time.monotonic()
            active = self._active(tx, runs, published.activity_through, through) if profiles else set()
            self._publish_current(tx, progress, active, only)
            seconds = time.monotonic() - began
            reach("publish.current")
        committed = self.lake.table(self.workspace, EVENTS).progress()
        if committed is None:
            return False
        self._let_go(committed, (through, seconds) if profiles else None)
        return True

    def _settle(self, *, whole: bool) -> None:
        """Settle how often sets were seen, where that is little work or due."""
        with self.state.read(self.workspace) as tx:
            settled = activity.load(tx, self.workspace)
            waiting = activity.pending(settled, recent.load(tx, self.workspace))
            due = self._older(load_published(tx, self.workspace).activity_at, self.publish_age_seconds)
        if whole or due or settled.done or waiting <= ACTIVITY_EVENTS_MAX:
            activity.settle(self.state, self.workspace, self.recent_directory)

    def _profiles_due(self, published: Published) -> bool:
        wait = max(PROFILES_AGE_SECONDS, published.profiles_seconds / PROFILES_SHARE)
        return self._older(
            published.profiles_at, min(wait, max(PROFILES_AGE_SECONDS, self.publish_age_seconds))
        )

    def publish_facts(self) -> None:
        """Commit what a rebuild starts from and only the state has: facts, and values of identifiers."""
        with self.state.read(self.workspace) as tx:
            progress = load_applied(tx, self.workspace, "").as_progress()
            if progress.sequence <= load_published(tx, self.workspace).sequence:
                return
            fresh = _Fresh(self.recent_directory, recent.load(tx, self.workspace))
            self._publish_facts(tx, fresh, progress)
            identifiers = self.lake.current_table(self.workspace, IDENTIFIERS).progress()
            if identifiers is None or identifiers.epoch == progress.epoch:
                self._publish_current(tx, progress, set(), only=(IDENTIFIERS,))

    def _publish_schema(
        self, fresh: "_Fresh", progress: Progress, published: Published, *, whole: bool
    ) -> None:
        """Look at what events are new, and show it where it is due."""
        self.observing.look(self.lake, self.workspace, progress, published.sequence, fresh.events)
        self.observing.show(
            self.lake, self.workspace, progress, self.clock(), self.publish_age_seconds, whole=whole
        )

    def _publish_waiting_schema(
        self, tx: Tx, progress: Progress, published: Published, *, whole: bool
    ) -> None:
        """Show counts that waited for their time; nothing was applied since they were made."""
        if 0 < progress.sequence == published.sequence and self.observing.waits(progress):
            fresh = _Fresh(self.recent_directory, recent.load(tx, self.workspace))
            self._publish_schema(fresh, progress, published, whole=whole)

    def _publish_facts(self, tx: Tx, fresh: "_Fresh", progress: Progress) -> None:
        self._publish_events(fresh, progress)
        reach("publish.events")
        for definition in APPENDED:
            self._append(definition, progress, partial(waiting_rows, tx, self.workspace, definition))
        reach("publish.appended")

    def _trait_updates(self, tx: Tx, sequence: int, held: int) -> pa.Table:
        changed, again = (_marked(tx, self.workspace, kind, held) for kind in (Dirty.TRAITS, Dirty.AGAIN))
        moved = waiting_rows(tx, self.workspace, REGROUPED, held)
        if not (changed or again or moved.num_rows):
            return TRAIT_UPDATES.schema().empty_table()
        return trait_updates(
            tx,
            self.workspace,
            changed=changed,
            again=again,
            writes=waiting_rows(tx, self.workspace, TRAIT_WRITES, held),
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

    def merge(self) -> None:
        """Fold the change logs of current tables into their bases, and recent runs into larger ones."""
        for definition in EVERY_CURRENT:
            if self.lake.current_table(self.workspace, definition).merge():
                reach("publish.merged")
        with self.state.write() as tx:
            published = load_published(tx, self.workspace)
            published.merged_at = self.clock()
            tx.put_meta(self.workspace, PUBLISHED, published)

    def tend_runs(self) -> None:
        """Merge small recent runs that the lake has, drop those beyond the look-back, sweep files."""
        oldest = self.clock() - recent.LOOK_BACK_SECONDS * 1_000_000
        with self.state.read(self.workspace) as tx:
            published = load_published(tx, self.workspace)
            runs = recent.load(tx, self.workspace)
            counted = activity.load(tx, self.workspace)
            applied = load_applied(tx, self.workspace, "").as_progress()
        shown = held_by(self.lake.current_table(self.workspace, SCHEMA).progress(), applied)
        settled = [run for run in runs if run.sequence_max <= min(published.sequence, counted.through)]
        # A run must be counted as a whole or not at all; its shapes too.
        later = [run for run in runs if counted.through < run.sequence_max <= published.sequence]
        due: list[Run] = []
        for part in (settled, [] if counted.done else later):
            due = due or recent.merge_due([run for run in part if run.sequence_max <= shown])
            due = due or recent.merge_due([run for run in part if run.sequence_max > shown])
        if due:
            merged = recent.merge(self.recent_directory, due)
            reach("runs.merged")
            names = {run.name for run in due}
            with self.state.write() as tx:
                now = recent.load(tx, self.workspace)
                kept = [run for run in now if run.name not in names]
                place = next(number for number, run in enumerate(now) if run.name in names)
                recent.store(tx, self.workspace, [*kept[:place], merged, *kept[place:]])
            reach("runs.listed")
        expired = {run.name for run in settled if run.received_max < oldest}
        if expired:
            with self.state.write() as tx:
                now = recent.load(tx, self.workspace)
                recent.store(tx, self.workspace, [run for run in now if run.name not in expired])
        if due or expired:
            with self.state.read(self.workspace) as tx:
                recent.sweep(self.recent_directory, recent.load(tx, self.workspace))
            reach("runs.swept")

    def _append(
        self,
        definition: TableDef,
        progress: Progress,
        rows_after: Callable[[int], pa.Table],
        *,
        always: bool = False,
    ) -> None:
        table = self.lake.table(self.workspace, definition)
        held = held_by(table.progress(), progress)
        if held < progress.sequence:
            table.append(rows_after(held), progress, always=always)

    def _publish_events(self, fresh: "_Fresh", progress: Progress) -> None:
        def events_after(held: int) -> pa.Table:
            events = fresh.events(held, progress.sequence)
            return events.sort_by([(name, "ascending") for name in EVENTS.sort]) if len(events) else events

        def sightings_after(held: int) -> pa.Table:
            parts = [
                recent.read_keys(self.recent_directory, run, identity_rows.SIGHTING_COLUMNS)
                for run in _between(fresh.runs, held, progress.sequence)
            ]
            return (
                identity_rows.sightings(pa.concat_tables(parts))
                if parts
                else SET_SIGHTINGS.schema().empty_table()
            )

        self._append(EVENTS, progress, events_after, always=True)
        self._append(SET_SIGHTINGS, progress, sightings_after)

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
        self, tx: Tx, progress: Progress, active: set[bytes], only: tuple[TableDef, ...] = CURRENT
    ) -> None:
        workspace, sequence = self.workspace, progress.sequence
        version = rules_in_force(tx, workspace, self.rules).version
        makers: Mapping[str, tuple[Dirty, Callable[[list[bytes]], pa.Table]]] = {
            SET_MAP.name: (
                Dirty.SET,
                lambda keys: identity_rows.set_map_changes(tx, workspace, keys, sequence),
            ),
            IDENTIFIERS.name: (
                Dirty.IDENT,
                lambda keys: identity_rows.identifier_changes(tx, workspace, keys, sequence),
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
        }
        for definition in only:
            kind, make = makers[definition.name]
            table = self.lake.current_table(self.workspace, definition)
            held = held_by(table.progress(), progress)
            if held >= progress.sequence:
                continue
            keys = _marked(tx, workspace, kind, held)
            if definition is PROFILES:
                shown = active.union(keys)
                for db, *kinds in _WRITTEN:
                    changed, again = (_marked(tx, workspace, kind, held) for kind in kinds)
                    shown |= written_profiles(tx, workspace, db, changed, again)
                keys = sorted(shown)
            if keys:
                table.append_changes(make(keys), progress)

    def _let_go(self, committed: Progress, profiles: tuple[int, float] | None) -> None:
        """Forget what every table has now, and note how far the lake has come.

        `profiles` says through which micro-batch counts are shown and how long that took, None where
        the `profiles` table was left for later; its marks stay then.
        """
        waiting = _PROFILE_MARKS if profiles is None else frozenset()
        with self.state.write() as tx:
            for key in tx.keys(self.workspace, Db.OUTBOX):
                if int.from_bytes(key[:8], "big") > committed.sequence:
                    break
                tx.delete(self.workspace, Db.OUTBOX, key)
            _unmark(tx, self.workspace, committed.sequence, waiting)
            published = load_published(tx, self.workspace)
            published.sequence = committed.sequence
            published.vector = dict(committed.vector)
            published.totals = dict(committed.totals)
            if profiles is not None:
                through, published.profiles_seconds = profiles
                published.profiles_at = self.clock()
                if through != published.activity_through:
                    published.activity_through = through
                    published.activity_at = self.clock()
            published.at = self.clock()
            tx.put_meta(self.workspace, PUBLISHED, published)
            reach("publish.let_go")
        reach("publish.done")


class _Fresh:
    """The events that a publication brings, read once for all that is made of them."""

    def __init__(self, directory: Path, runs: list[Run]) -> None:
        self.runs = runs
        self._directory = directory
        self._range = (-1, -1)
        self._events = EVENTS.schema().empty_table()

    def events(self, after: int, through: int) -> pa.Table:
        """Return the events of the micro-batches behind one up to another, in no order."""
        if self._range != (after, through):
            parts = [
                recent.read_whole(self._directory, run, EVENTS.schema().names)
                for run in _between(self.runs, after, through)
            ]
            self._events = pa.concat_tables([EVENTS.schema().empty_table(), *parts])
            self._range = (after, through)
        return self._events


def _marked(tx: Tx, workspace: str, kind: Dirty, after: int) -> list[bytes]:
    """Return the keys, sorted, of what was marked in the micro-batches after that one."""
    prefix, first = kind.encode(), (after + 1).to_bytes(8, "big")
    keys = []
    for key, mark in tx.items(workspace, Db.DIRTY, prefix):
        if not key.startswith(prefix):
            break
        if mark >= first:
            keys.append(key[1:])
    return keys


def _unmark(tx: Tx, workspace: str, through: int, waiting: frozenset[bytes]) -> None:
    """Take away the marks of the micro-batches through that one, except those that are `waiting`."""
    last = through.to_bytes(8, "big")
    gone: list[bytes] = []
    kept: list[tuple[bytes, bytes]] = []
    for key, mark in tx.items(workspace, Db.DIRTY):
        if mark <= last and key[:1] not in waiting:
            gone.append(key)
        else:
            kept.append((key, mark))
    if len(kept) < len(gone):
        # Micro-batches wait meanwhile, and putting the few back costs less than taking the many out.
        tx.clear(workspace, Db.DIRTY)
        tx.put_many(workspace, Db.DIRTY, kept)
        return
    for key in gone:
        tx.delete(workspace, Db.DIRTY, key)


def _between(runs: Iterable[Run], after: int, through: int) -> list[Run]:
    return [run for run in runs if run.sequence_min > after and run.sequence_max <= through]


def outbox_key(sequence: int, definition: TableDef) -> bytes:
    """Return the key under which rows of a micro-batch wait for the lake."""
    return outbox.key_of(sequence, definition.name)


def waiting_rows(tx: Tx, workspace: str, definition: TableDef, after: int = -1) -> pa.Table:
    """Return what micro-batches behind `after` have for an append-only table that the lake may not have yet."""
    parts = outbox.parts(tx, workspace, definition.name, after)
    return pa.concat_tables([definition.schema().empty_table(), *parts], promote_options="default")


def run_rows(events: pa.Table) -> pa.Table:
    """Return accepted events as the rows of a recent run: sorted, group events under both their sets."""
    nobody = pa.scalar(bytes(16), pa.binary(16))
    users, accounts = events.column("set_id"), events.column("account_set_id")
    key = pc.coalesce(users, accounts, nobody)
    both = pc.and_(pc.is_valid(users), pc.is_valid(accounts))
    own = _keyed(events, key, copy=False)
    second = events.filter(both)
    if second.num_rows:
        own = pa.concat_tables([own, _keyed(second, second.column("account_set_id"), copy=True)])
    return own.sort_by([("key", "ascending"), ("position", "ascending")])


def _keyed(events: pa.Table, key: pa.ChunkedArray, *, copy: bool) -> pa.Table:
    mark = pa.array(np.full(events.num_rows, copy))
    return events.add_column(0, "key", key).add_column(1, "copy", mark)
