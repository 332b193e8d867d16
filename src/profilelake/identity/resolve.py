"""Resolve the identifier sets of a micro-batch against the online state, and apply what people decide.

New sets (`identity.arrivals` finds them) in position order go through the compiled kernel, starting
from the profiles their identifiers have now. What comes late (its position lies before what was
applied already), and every decision, has the components it touches resolved again from nothing:
the answer is the one in-order arrival would have given (`identity.replay`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Final, Protocol

import pyarrow as pa

from profilelake.errors import Internal
from profilelake.identity import background, in_order, replay, standing, windows
from profilelake.identity.arrivals import Arrivals, Met, first_seen_again
from profilelake.identity.background import Job, Pending
from profilelake.identity.facts import Fact, Leave, NewRules, Quarantine, Retract, Standing, Unlink
from profilelake.identity.linking import Linking
from profilelake.identity.poison import Watch, split
from profilelake.identity.replay import Entry, Evidence
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.landing.land import SetSightings
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.records import (
    NOBODY,
    decode_names,
)
from profilelake.state.store import Db, Tx
from profilelake.state.working import Working

REPLAY_SETS_MAX: Final = 20_000
"""Sets of components that are resolved again at once, in about half a second; more are left to `background`."""
_UNTRUSTED: Final = "untrusted"
"""Name under which the state keeps the sources that were open to strangers when last counted."""
KNOWN_SETS_MAX: Final = 1 << 22
"""Sets that are known without a look-up; 16 bytes each."""


class History(Protocol):
    """All events that were ever applied, for the few questions the state cannot answer."""

    def sightings(self, tx: Tx, workspace: str, keys: Sequence[bytes]) -> list[tuple[bytes, Sighting]]:
        """Return every event that shows one of these sets, in order of position."""

    def windows(
        self,
        tx: Tx,
        workspace: str,
        lengths: Mapping[int, int],
        retracted: Mapping[bytes, AbstractSet[bytes]],
    ) -> Iterable[tuple[bytes, int, Sighting]]:
        """Return, per set and window, the first event; `lengths` in microseconds by collection number.

        Events at the positions `retracted`, by set, are passed over.
        """

    def behind(self, tx: Tx, workspace: str, position: bytes) -> pa.Table:
        """Return the group events behind a position: sets of both, position, message, source and type."""


class Resolver:
    """Resolves the sets of one workspace under the decisions that hold there."""

    def __init__(
        self,
        rules: IdentityRules,
        *,
        history: History | None = None,
        untrusted: Callable[[], frozenset[str]] = frozenset,
        known_sets_max: int = KNOWN_SETS_MAX,
    ) -> None:
        """Resolve under `rules` until a decision says others; remember that many known sets.

        `untrusted` tells which sources are open to strangers (see `semantics.facts.quarantined`).
        """
        self._default = rules
        self._history = history
        self._untrusted = untrusted
        self._held = Standing(rules)
        self._watch = Watch({}, self._held, frozenset(), noted=False)
        self._linking = Linking(rules)
        self._arrivals = Arrivals(self._held, self._linking, known_sets_max)
        self._trust_checked = False
        self._trusting: frozenset[str] = frozenset()
        self._waiting: list[Pending] = []
        self._job: Job | None = None
        self._retired: Job | None = None

    @property
    def rules(self) -> IdentityRules:
        """The rules in force."""
        return self._held.rules

    @property
    def held(self) -> Standing:
        """The decisions that hold; they change with `decide`."""
        return self._held

    @property
    def quarantined(self) -> int:
        """How many identifiers link nobody."""
        return len(self._linking.quarantined)

    @property
    def _events(self) -> History:
        if self._history is None:
            raise Internal("looking for the events of sets: this process was given no history of events")
        return self._history

    def load(self, tx: Tx, workspace: str) -> None:
        """Take what holds from the state; needed at a start, and after a transaction failed."""
        work = Working(tx, workspace, 0)
        self._held = standing.load(tx, workspace, self._default)
        self._trusting = self._untrusted()
        self._watch = Watch.load(work, self._held, self._trusting)
        known = tx.meta(workspace, _UNTRUSTED)
        self._trust_checked = known is not None and set(decode_names(known)) == self._trusting
        self._waiting = background.load(tx, workspace)
        self._decided()
        self._arrivals.find_bare(work)

    def trust(self, untrusted: frozenset[str]) -> None:
        """Take in which sources are open to strangers now; the next micro-batch counts anew where it matters."""
        if untrusted != self._trusting:
            self._trusting = untrusted
            self._watch.trust(untrusted)
            self._trust_checked = False

    def _decided(self) -> None:
        """Take in what a decision changed; a replay in work would not know of it."""
        self._give_up()
        self._linking = Linking(self._held.rules, self._watch.quarantined())
        self._arrivals.hold(self._held, self._linking)

    # ---- events --------------------------------------------------------------------------------

    def apply(
        self, work: Working, sightings: Sequence[SetSightings], events: pa.Table, applied: bytes
    ) -> IdentityRows:
        """Resolve every set seen in `events`; `applied` is the greatest position applied before.

        All changes go into `work`; the rows for append-only tables are returned.
        """
        rows = IdentityRows(self.rules.version, work.sequence)
        if not self._trust_checked:
            self._check_trust(work, rows)
        for batch in sightings:
            met = self._arrivals.meet(work, batch, events, applied, rows)
            for record in met.wide:
                self._watch.note_wide(work, record)
            if self._changed_quarantine(work, batch.collection, met, rows):
                continue
            linking = [entry for entry in met.new if entry.idents]
            if linking:
                in_order.resolve(work, batch.collection, linking, rows, self._linking, self._held)
            if met.late:
                self._replay(work, batch.collection, met.late, rows, "replayed")
        return rows

    def _check_trust(self, work: Working, rows: IdentityRows) -> None:
        """Count again what rests on whom we trust: that may be other sources than before the start."""
        self._trust_checked = True
        work.tx.put_meta(work.workspace, _UNTRUSTED, sorted(self._trusting))
        seeds: dict[Collection, set[bytes]] = {}
        for ident in self._watch.forget(work, self._watch.watched()):
            collection = COLLECTIONS[work.idents[ident].collection]
            seeds.setdefault(collection, set()).update(work.tx.linked_sets(work.workspace, ident))
        if seeds:
            self._decided()
            for collection, keys in seeds.items():
                self._replay(work, collection, sorted(keys), rows, "quarantined")

    def move_back(self, work: Working, copies: pa.Table, rows: IdentityRows) -> None:
        """Give sets the earlier first sighting that copies of their events have turned out to be."""
        for collection in COLLECTIONS:
            moved = self._arrivals.move_back(work, collection, copies)
            if moved and not self._changed_quarantine(work, collection, Met([], moved), rows):
                self._replay(work, collection, moved, rows, "replayed")

    def _changed_quarantine(
        self,
        work: Working,
        collection: Collection,
        met: Met,
        rows: IdentityRows,
    ) -> bool:
        """Look whether identifiers of these sets met too many others; if so resolve all they touch again."""
        if self.rules.degree_max is None or not (met.new or met.late):
            return False
        work.flush_links()
        moved = [work.sets[key] for key in met.late]
        changed = self._watch.meet(work, [*(entry.record for entry in met.new), *moved], moved, met.fresh)
        if not changed:
            return False
        self._decided()
        seeds = {key for ident in changed for key in work.tx.linked_sets(work.workspace, ident)}
        seeds.update([*(entry.key for entry in met.new), *met.late])
        self._replay(work, collection, sorted(seeds), rows, "quarantined")
        return True

    # ---- out of order --------------------------------------------------------------------------

    def _replay(
        self,
        work: Working,
        collection: Collection,
        seeds: Sequence[bytes],
        rows: IdentityRows,
        cause: str,
        evidence: Evidence | None = None,
    ) -> None:
        """Resolve the components of these sets again, from nothing, in position order.

        Where they are large that is left for later, and what is new among them takes its place at the end.
        """
        work.flush()
        component = replay.gather(
            work,
            collection,
            seeds,
            self._linking,
            self._held,
            REPLAY_SETS_MAX,
            whole_profiles=bool(self._waiting),
        )
        if component is not None:
            if component.sets:
                self._put_right(work, component, rows, cause, evidence or _earliest(work, seeds))
            return
        work.load_sets(seeds if evidence is None else ())
        position = evidence[1].position if evidence else max(work.sets[key].position for key in seeds)
        self._postpone(work, Pending(collection, list(seeds), whole=False, cause=cause, position=position))
        if evidence is None:
            self._resolve_last(work, collection, seeds, rows)

    def _resolve_last(
        self, work: Working, collection: Collection, keys: Sequence[bytes], rows: IdentityRows
    ) -> None:
        """Resolve those of the sets that have no profile yet as if they came after all others."""
        entries = []
        for key in keys:
            record = work.sets[key]
            if record.profile == NOBODY and not self._arrivals.is_bare(key, record):
                first = Sighting(record.position, record.message_id, record.source_id)
                entries.append(Entry(key, first, record, self._arrivals.linked(work, collection, record)))
        entries = [entry for entry in entries if entry.idents]
        entries.sort(key=lambda entry: entry.first.position)
        if entries:
            in_order.resolve(work, collection, entries, rows, self._linking, self._held)

    def _postpone(self, work: Working, pending: Pending) -> None:
        """Note what waits; with what waits in the same collection already, but for a replay in work."""
        at_work = None if self._job is None else self._job.pending
        for other in self._waiting:
            if other is not at_work and other.collection == pending.collection:
                other.whole = other.whole or pending.whole
                other.seeds = [] if other.whole else sorted({*other.seeds, *pending.seeds})
                break
        else:
            self._waiting.append(pending)
        background.store(work.tx, work.workspace, self._waiting)

    def _put_right(
        self,
        work: Working,
        component: replay.Component,
        rows: IdentityRows,
        cause: str,
        evidence: Evidence,
    ) -> None:
        rows.replayed = True
        solution = replay.solve(work.idents, component, self._linking, self._held)
        work.load_profiles(replay.held_profiles(work.idents, work.sets, component) | solution.profiles.keys())
        before = replay.Before(work.idents, work.sets, work.profiles)
        replay.install(work, before, component, solution, rows, cause, evidence)

    # ---- in the background ---------------------------------------------------------------------

    @property
    def waiting(self) -> Sequence[Pending]:
        """What waits to be resolved again."""
        return self._waiting

    def begin(self, read: Callable[[], AbstractContextManager[Tx]], workspace: str) -> Job | None:
        """Return the replay in work, beginning with what waits longest; None where nothing waits."""
        if self._retired is not None and not self._retired.ready():
            return None
        self._retired = None
        if self._job is None and self._waiting:
            self._job = Job(self._waiting[0], self._linking, self._held)
            self._job.start(read, workspace)
        return self._job

    def _give_up(self) -> None:
        """Begin the replay in work anew some time; not before its thread has ended."""
        if self._job is not None:
            self._job.cancel()
            self._retired, self._job = self._job, None

    def note(self, work: Working) -> None:
        """Tell the replay in work what a micro-batch has written."""
        if self._job is not None:
            self._job.note(work)

    def finish(self, work: Working) -> IdentityRows:
        """Put the answer of the replay in work in place."""
        rows = IdentityRows(self.rules.version, work.sequence)
        job, self._job = self._job, None
        if job is not None:
            rows.replayed = True
            job.finish(work, rows)
            self._waiting.remove(job.pending)
            background.store(work.tx, work.workspace, self._waiting)
        return rows

    # ---- decisions -----------------------------------------------------------------------------

    def decide(self, work: Working, position: bytes, fact: Fact) -> IdentityRows:
        """Let a decision hold, for all that was and will be; return the rows for append-only tables."""
        standing.store(work.tx, work.workspace, position, fact)
        lengths, degree_max = dict(self._linking.windows), self.rules.degree_max
        changed = self._held.take(position, fact)
        rows = IdentityRows(self.rules.version, work.sequence)
        rows.add_fact(position, fact)
        if not changed:
            return rows
        match fact:
            case Unlink():
                self._decided()
                seeds = self._containing(work, (fact.one, fact.other))
                self._again(
                    work, {fact.collection: seeds}, rows, "unlinked" if fact.apart else "relinked", position
                )
            case Quarantine():
                self._decided()
                seeds = self._containing(work, (fact.ident,))
                cause = "quarantined" if fact.quarantined else "released"
                self._again(work, {fact.collection: seeds}, rows, cause, position)
            case Retract():
                self._retract(work, fact, rows, position)
            case NewRules():
                standing.store_rules(work.tx, work.workspace, fact.rules)
                if self.rules.degree_max != degree_max:
                    self._watch = Watch.recount(work, self._held, self._trusting, wide=degree_max is None)
                self._new_rules(work, lengths, rows, position)
            case Leave():
                pass  # who is who stays as it is; memberships are folded from `held`
        return rows

    def _containing(self, work: Working, idents: Iterable[str]) -> set[bytes]:
        return {key for ident in idents for key in work.tx.linked_sets(work.workspace, bytes.fromhex(ident))}

    def _again(
        self,
        work: Working,
        seeds: dict[Collection, set[bytes]],
        rows: IdentityRows,
        cause: str,
        position: bytes,
    ) -> None:
        for collection, keys in seeds.items():
            if keys:
                first = min(keys)
                self._replay(work, collection, sorted(keys), rows, cause, (first, Sighting(position, "", "")))

    def _retract(self, work: Working, fact: Retract, rows: IdentityRows, position: bytes) -> None:
        """Let an event count no more, or again: its sets are known from their first event that counts."""
        keys = {bytes.fromhex(key): collection for collection, key in fact.sets}
        work.load_sets(keys)
        known = [key for key in keys if key in work.sets]
        seen: dict[bytes, list[Sighting]] = {key: [] for key in known}
        for key, sighting in self._events.sightings(work.tx, work.workspace, known):
            seen[key].append(sighting)
        seeds: dict[Collection, set[bytes]] = {}
        idents: set[bytes] = set()
        for key in known:
            record = work.sets[key]
            gone = self._held.retracted.get(key, set())
            counted = [sighting for sighting in seen[key] if sighting.position not in gone]
            first = counted[0] if counted else seen[key][0]
            record.position = first.position
            record.message_id, record.source_id = first.message_id, first.source_id
            window = self._linking.windows[keys[key]]
            if window is not None:
                windows.note_again(work, key, counted, window)
            idents.update(split(record.idents))
            seeds.setdefault(keys[key], set()).add(key)
            seeds[keys[key]] |= self._recount(work, idents)
        work.touch_sets(known, publish=False)
        first_seen_again(work, idents)
        self._decided()
        self._arrivals.find_bare(work)
        self._again(work, seeds, rows, "restored" if fact.counts else "retracted", position)

    def _recount(self, work: Working, idents: set[bytes]) -> set[bytes]:
        """Count who met whom again; return the sets of identifiers whose quarantine changed."""
        changed = self._watch.forget(work, idents)
        return {key for ident in changed for key in work.tx.linked_sets(work.workspace, ident)}

    def _new_rules(
        self, work: Working, before: dict[Collection, int | None], rows: IdentityRows, position: bytes
    ) -> None:
        """Resolve everything again under new rules."""
        self._decided()
        if self._linking.windows != before:
            self._find_windows(work)
        work.flush()
        if work.tx.count(work.workspace, Db.SET) > REPLAY_SETS_MAX:
            for collection in COLLECTIONS:
                self._postpone(work, Pending(collection, [], whole=True, cause="rules", position=position))
            return
        for collection in COLLECTIONS:
            component = replay.everything(work, collection, self._linking, self._held)
            for key in component.sets:
                if work.sets[key].refused:
                    work.publish_refusals(key)  # each names the version that refused
            if component.sets:
                first = min(component.sets)
                evidence = first, Sighting(position, "", "")
                self._put_right(work, component, rows, "rules", evidence)

    def _find_windows(self, work: Working) -> None:
        """Know the first event of each set in each window from all events that ever were."""
        lengths = {
            COLLECTIONS.index(collection): window
            for collection, window in self._linking.windows.items()
            if window is not None
        }
        retracted = self._held.retracted
        windows.replace_all(
            work, self._events.windows(work.tx, work.workspace, lengths, retracted) if lengths else ()
        )


def _earliest(work: Working, keys: Sequence[bytes]) -> Evidence:
    """Return the set of these that was seen first, and when."""
    key = min(keys, key=lambda key: work.sets[key].position)
    record = work.sets[key]
    return key, Sighting(record.position, record.message_id, record.source_id)
