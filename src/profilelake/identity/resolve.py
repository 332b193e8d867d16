"""Resolve the identifier sets of a micro-batch against the online state, and apply what people decide.

Known sets cost one look-up. New sets in position order go through the compiled kernel, starting
from the profiles their identifiers have now. What comes late (its position lies before what was
applied already), and every decision, has the components it touches resolved again from nothing:
the answer is the one in-order arrival would have given (`identity.replay`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import takewhile
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Internal
from profilelake.identity import background, in_order, replay, standing
from profilelake.identity.background import Job, Pending
from profilelake.identity.facts import Fact, Leave, NewRules, Quarantine, Retract, Standing, Unlink
from profilelake.identity.linking import Linking
from profilelake.identity.poison import Watch, split
from profilelake.identity.replay import Entry, Evidence
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.kernels.known_ids import KnownIds
from profilelake.kernels.siphash import HASH_BYTES, to_bytes
from profilelake.landing.land import SetSightings
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    SetRecord,
    SightingRecord,
    decode_names,
    decode_sighting,
    encode,
    received_at,
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
        self._known_sets_max = known_sets_max
        self._held = Standing(rules)
        self._watch = Watch({}, self._held, frozenset(), noted=False)
        self._linking = Linking(rules)
        self._known = KnownIds(known_sets_max)
        self._known_window: dict[Collection, int] = {}
        self._bare: set[bytes] = set()
        self._fresh: set[bytes] = set()
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
        self._give_up()
        self._bare = set()
        for key in self._held.retracted:
            self._note_bare(work, key)
        self._decided()

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
        self._known = KnownIds(self._known_sets_max)

    def _note_bare(self, work: Working, key: bytes) -> None:
        """Know the identifiers of a set that is no evidence any more: its next event makes it one."""
        work.load_sets((key,))
        record = work.sets.get(key)
        if record is not None and record.position in self._held.retracted.get(key, ()):
            self._bare.update(split(record.idents))

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
        for whole in sightings:
            batch = self._counted(whole, events) if self._held.retracted else whole
            self._fresh = set()
            new, late = self._meet(work, batch, events, applied, rows)
            fresh = [entry for entry in new if entry.idents]
            if self._changed_quarantine(work, batch.collection, new, late, rows):
                continue
            if fresh:
                in_order.resolve(work, batch.collection, fresh, rows, self._linking, self._held)
            if late:
                self._replay(work, batch.collection, late, rows, "replayed")
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
        columns: dict[Collection, str] = {"users": "set_id", "accounts": "account_set_id"}
        for collection, column in columns.items():
            keys = copies.column(column).to_pylist()
            seen = _sightings(copies, np.arange(copies.num_rows))
            work.load_sets(key for key in keys if key is not None)
            moved = []
            for key, sighting in zip(keys, seen, strict=True):
                record = None if key is None else work.sets.get(key)
                if record is not None and self._bring_forward(
                    work, collection, Entry(key, sighting, record, [])
                ):
                    moved.append(key)
            if moved:
                work.touch_sets(moved, publish=False)
                self._fresh = set()
                if not self._changed_quarantine(work, collection, [], moved, rows):
                    self._replay(work, collection, moved, rows, "replayed")

    def _bring_forward(self, work: Working, collection: Collection, entry: Entry) -> bool:
        """Note an earlier event of a set, first of all or first in its window; tell whether it was earlier."""
        if self._is_retracted(entry.key, entry.first.position) and not self._is_bare(entry.key, entry.record):
            return False
        moved = entry.first.position < entry.record.position
        if moved:
            _set_first(work, entry.record, entry.first)
        window = self._linking.windows[collection]
        if window is not None:
            moved |= self._first_in_window(work, entry, window)
        return moved

    def _first_in_window(self, work: Working, entry: Entry, window: int) -> bool:
        place = _place(entry.key, entry.first, window)
        known = work.tx.get(work.workspace, Db.SIGHTING, place)
        if known is not None and decode_sighting(known).position <= entry.first.position:
            return False
        work.tx.put(work.workspace, Db.SIGHTING, place, _encoded(entry.first))
        return True

    def _meet(
        self, work: Working, batch: SetSightings, events: pa.Table, applied: bytes, rows: IdentityRows
    ) -> tuple[list[Entry], list[bytes]]:
        """Find what is new: sets, and where rules have windows known sets in a new one.

        Returns the new entries and the keys of sets that come late. A known set that is seen again in
        order changes nothing, so most sets are not even looked up.
        """
        window = self._linking.windows[batch.collection]
        if window is not None:
            self._turn_window(batch, events, window)
        asked = np.flatnonzero(
            ~self._known.contains(batch.set_ids) | (batch.first < _rows_before(events, applied))
        )
        keys = to_bytes(np.ascontiguousarray(batch.set_ids[asked]))
        firsts = _sightings(events, batch.first[asked])
        work.load_sets(keys)
        unknown: list[int] = []
        found: list[int] = []
        late: list[bytes] = []
        new: list[Entry] = []
        for number, key in enumerate(keys):
            record = work.sets.get(key)
            if record is None:
                unknown.append(number)
                continue
            entry = Entry(key, firsts[number], record, [])
            if self._held.retracted and self._is_retracted(key, entry.first.position):
                if self._is_bare(key, record) and entry.first.position < record.position:
                    _set_first(work, record, entry.first)
                    late.append(key)
                continue
            if self._is_bare(key, record):
                self._revive(work, batch.collection, entry)
                late.append(key)
                continue
            found.append(number)
            if entry.first.position < applied:
                if self._bring_forward(work, batch.collection, entry):
                    late.append(key)
            elif window is not None and self._first_in_window(work, entry, window):
                new.append(entry._replace(idents=self._linked(work, batch.collection, record)))
        work.touch_sets(late, publish=False)
        # Only what was stored before: the transaction that stores the new ones may fail.
        self._known.add(batch.set_ids[asked[found]])
        if unknown:
            unknown_keys, unknown_firsts = [keys[n] for n in unknown], [firsts[n] for n in unknown]
            met = self._new_sets(work, batch, asked[unknown], unknown_keys, unknown_firsts, rows)
            new += met
            late += [entry.key for entry in met if self._is_late(work, entry, applied, window)]
        lately = set(late)
        new = [entry for entry in new if entry.key not in lately]
        new.sort(key=lambda entry: entry.first.position)
        return new, late

    def _is_late(self, work: Working, entry: Entry, applied: bytes, window: int | None) -> bool:
        """Note a new set's first event in its window; tell whether the set must be resolved out of order."""
        if self._is_retracted(entry.key, entry.first.position):
            self._bare.update(split(entry.record.idents))
            return True
        if window is not None:
            self._first_in_window(work, entry, window)
        # With an identifier of a set that is no evidence, that set gets an owner by this one.
        return entry.first.position < applied or not self._bare.isdisjoint(split(entry.record.idents))

    def _is_bare(self, key: bytes, record: SetRecord) -> bool:
        """Tell whether no event of a set counts: it stands at its first one then."""
        return self._is_retracted(key, record.position)

    def _is_retracted(self, key: bytes, position: bytes) -> bool:
        return bool(self._held.retracted) and position in self._held.retracted.get(key, ())

    def _revive(self, work: Working, collection: Collection, entry: Entry) -> None:
        """Let a set count from this event on: none before it did."""
        record, first = entry.record, entry.first
        record.position, record.message_id, record.source_id = (
            first.position,
            first.message_id,
            first.source_id,
        )
        self._first_seen_again(work, set(split(record.idents)))
        window = self._linking.windows[collection]
        if window is not None:
            self._first_in_window(work, entry, window)

    def _counted(self, batch: SetSightings, events: pa.Table) -> SetSightings:
        """Return sightings with each set's first event that counts, where any does: decisions may come first."""
        keys = to_bytes(np.ascontiguousarray(batch.set_ids))
        concerned = [number for number, key in enumerate(keys) if key in self._held.retracted]
        if not concerned:
            return batch
        first = batch.first.copy()
        column = events.column("set_id" if batch.collection == "users" else "account_set_id").to_pylist()
        positions = events.column("position").to_pylist()
        for number in concerned:
            gone = self._held.retracted[keys[number]]
            counted = (
                row for row, key in enumerate(column) if key == keys[number] and positions[row] not in gone
            )
            first[number] = next(counted, first[number])
        return replace(batch, first=first)

    def _turn_window(self, batch: SetSightings, events: pa.Table, window: int) -> None:
        """Forget which sets are known where a new window begins: each counts once in it."""
        if not len(batch.first):
            return
        last = events.column("position")[-1].as_py()
        now = received_at(last) // window
        if self._known_window.get(batch.collection) != now:
            self._known_window[batch.collection] = now
            self._known = KnownIds(self._known_sets_max)

    def _linked(self, work: Working, collection: Collection, record: SetRecord) -> list[bytes]:
        idents = split(record.idents)
        work.load_idents(idents)
        typed = ((ident, work.idents[ident].type, work.idents[ident].value) for ident in idents)
        return self._linking.strongest_first(collection, typed)

    def _new_sets(
        self,
        work: Working,
        batch: SetSightings,
        chosen: npt.NDArray[np.int64],
        keys: list[bytes],
        firsts: list[Sighting],
        rows: IdentityRows,
    ) -> list[Entry]:
        """Make the records of the chosen sets of a batch, and of their identifiers that are new too."""
        start, stop = batch.start[chosen], batch.stop[chosen]
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        taken = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        types, values = batch.types.take(pa.array(taken)), batch.values.take(pa.array(taken))
        words = np.ascontiguousarray(batch.ident_ids[taken])
        joined = words.tobytes()
        idents = split(joined)
        work.load_idents(idents)
        rows.add_sets(batch.collection, keys, firsts, offsets, types, joined)
        self._note_idents(work, batch.collection, keys, firsts, offsets, types, values, idents)

        kept, bound = self._linking.rows(batch.collection, offsets, types, values, words)
        linking = [idents[row] for row in kept]
        collection = COLLECTIONS.index(batch.collection)
        offset = offsets.tolist()
        new = []
        for number, (key, first) in enumerate(zip(keys, firsts, strict=True)):
            mine = linking[bound[number] : bound[number + 1]]
            record = SetRecord(
                collection,
                joined[HASH_BYTES * offset[number] : HASH_BYTES * offset[number + 1]],
                anchor=mine[0] if mine else b"",
                profile=NOBODY,
                first_profile=NOBODY,
                position=first.position,
                message_id=first.message_id,
                source_id=first.source_id,
            )
            work.sets[key] = record
            new.append(Entry(key, first, record, mine))
        work.touch_sets(keys, publish=True)
        for number in _wide(offsets, types):
            self._watch.note_wide(work, new[number].record)
        return new

    def _note_idents(
        self,
        work: Working,
        collection: Collection,
        keys: list[bytes],
        firsts: list[Sighting],
        offsets: npt.NDArray[np.int64],
        types: pa.Array,
        values: pa.Array,
        idents: list[bytes],
    ) -> None:
        """Make records of the identifiers nobody has seen before; link all to their sets."""
        number = COLLECTIONS.index(collection)
        sizes = np.diff(offsets)
        places = np.repeat(np.arange(len(keys)), sizes).tolist()
        fresh = []
        for ident, place, type, value in zip(
            idents, places, types.to_pylist(), values.to_pylist(), strict=True
        ):
            first = firsts[place]
            known = work.idents.get(ident)
            if known is None:
                at = received_at(first.position)
                work.idents[ident] = IdentRecord(
                    number, type, value, first.source_id, first.message_id, at, first.position, NOBODY
                )
                fresh.append(ident)
            elif first.position < known.position:
                _first_seen(work, ident, first)
            work.links.append((ident, keys[place]))
        work.touch_idents(fresh)
        self._fresh = set(fresh)

    def _changed_quarantine(
        self,
        work: Working,
        collection: Collection,
        new: list[Entry],
        late: list[bytes],
        rows: IdentityRows,
    ) -> bool:
        """Look whether identifiers of these sets met too many others; if so resolve all they touch again."""
        if self.rules.degree_max is None or not (new or late):
            return False
        work.flush_links()
        moved = [work.sets[key] for key in late]
        changed = self._watch.meet(work, [*(entry.record for entry in new), *moved], moved, self._fresh)
        if not changed:
            return False
        self._decided()
        seeds = {key for ident in changed for key in work.tx.linked_sets(work.workspace, ident)}
        seeds.update([*(entry.key for entry in new), *late])
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
            if record.profile == NOBODY and not self._is_bare(key, record):
                first = Sighting(record.position, record.message_id, record.source_id)
                entries.append(Entry(key, first, record, self._linked(work, collection, record)))
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
        windows, degree_max = dict(self._linking.windows), self.rules.degree_max
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
                self._new_rules(work, windows, rows, position)
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
                self._store_windows(work, key, counted, window)
            idents.update(split(record.idents))
            seeds.setdefault(keys[key], set()).add(key)
            seeds[keys[key]] |= self._recount(work, idents)
        work.touch_sets(known, publish=False)
        self._first_seen_again(work, idents)
        self._bare = set()
        for key in self._held.retracted:
            self._note_bare(work, key)
        self._decided()
        self._again(work, seeds, rows, "restored" if fact.counts else "retracted", position)

    def _recount(self, work: Working, idents: set[bytes]) -> set[bytes]:
        """Count who met whom again; return the sets of identifiers whose quarantine changed."""
        changed = self._watch.forget(work, idents)
        return {key for ident in changed for key in work.tx.linked_sets(work.workspace, ident)}

    def _first_seen_again(self, work: Working, idents: set[bytes]) -> None:
        """Find the first event of identifiers anew, over all their sets."""
        work.load_idents(idents)
        for ident in idents:
            sets = work.tx.linked_sets(work.workspace, ident)
            work.load_sets(sets)
            first = min((work.sets[key] for key in sets), key=lambda record: record.position)
            record = work.idents[ident]
            record.position, record.created_at = first.position, received_at(first.position)
            record.message_id, record.source_id = first.message_id, first.source_id
        work.touch_idents(idents)

    def _store_windows(self, work: Working, key: bytes, counted: list[Sighting], window: int) -> None:
        places = work.tx.keys(work.workspace, Db.SIGHTING, key)
        for place in list(takewhile(lambda place: place[:HASH_BYTES] == key, places)):
            work.tx.delete(work.workspace, Db.SIGHTING, place)
        for sighting in counted:
            self._first_in_window(work, Entry(key, sighting, work.sets[key], []), window)

    def _new_rules(
        self, work: Working, windows: dict[Collection, int | None], rows: IdentityRows, position: bytes
    ) -> None:
        """Resolve everything again under new rules."""
        self._linking = Linking(self.rules, self._watch.quarantined())
        if self._linking.windows != windows:
            self._load_windows(work)
        self._decided()
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

    def _load_windows(self, work: Working) -> None:
        """Know the first event of each set in each window from all events that ever were."""
        work.tx.clear(work.workspace, Db.SIGHTING)
        lengths = {
            COLLECTIONS.index(collection): window
            for collection, window in self._linking.windows.items()
            if window is not None
        }
        if not lengths:
            return
        found = self._events.windows(work.tx, work.workspace, lengths, self._held.retracted)
        work.tx.put_many(
            work.workspace,
            Db.SIGHTING,
            [
                (key + window.to_bytes(replay.WINDOW_BYTES, "big"), _encoded(sighting))
                for key, window, sighting in found
            ],
        )


def _earliest(work: Working, keys: Sequence[bytes]) -> Evidence:
    """Return the set of these that was seen first, and when."""
    key = min(keys, key=lambda key: work.sets[key].position)
    record = work.sets[key]
    return key, Sighting(record.position, record.message_id, record.source_id)


def _encoded(sighting: Sighting) -> bytes:
    return encode(SightingRecord(sighting.position, sighting.message_id, sighting.source_id))


def _place(key: bytes, sighting: Sighting, window: int) -> bytes:
    number = received_at(sighting.position) // window
    return key + number.to_bytes(replay.WINDOW_BYTES, "big")


def _wide(offsets: npt.NDArray[np.int64], types: pa.Array) -> list[int]:
    """Return which sets have several identifiers of one type."""
    code = pc.dictionary_encode(types).indices.to_numpy().astype(np.int64)
    typed = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * (int(code.max(initial=0)) + 1) + code
    typed.sort()
    again = typed[1:][typed[1:] == typed[:-1]]
    return [int(number) for number in np.unique(again // (int(code.max(initial=0)) + 1))]


def _sightings(events: pa.Table, rows: npt.NDArray[np.int64]) -> list[Sighting]:
    """Return what some rows say of when and through what their sets were seen."""
    chosen = events.select(["position", "message_id", "source_id"]).take(pa.array(rows))
    position, message_id, source_id = chosen.columns
    # Bytes of a fixed size become Python objects twenty times as fast by way of NumPy.
    positions = position.to_numpy().tolist()
    return list(map(Sighting, positions, message_id.to_pylist(), source_id.to_pylist()))


def _rows_before(events: pa.Table, position: bytes) -> int:
    """Return how many events, which are in position order, stand before a position."""
    places = events.column("position")
    if not len(places) or places[0].as_py() >= position:
        return 0
    return bisect_left(places.to_pylist(), position)


def _set_first(work: Working, record: SetRecord, sighting: Sighting) -> None:
    """Note an earlier first sighting of a set, which may be that of its identifiers too."""
    record.position = sighting.position
    record.message_id, record.source_id = sighting.message_id, sighting.source_id
    idents = split(record.idents)
    work.load_idents(idents)
    for ident in idents:
        _first_seen(work, ident, sighting)


def _first_seen(work: Working, ident: bytes, sighting: Sighting) -> None:
    known = work.idents[ident]
    if sighting.position < known.position:
        known.position, known.created_at = sighting.position, received_at(sighting.position)
        known.message_id, known.source_id = sighting.message_id, sighting.source_id
        work.touch_idents((ident,))
