"""Sets as they come: which of those that a micro-batch shows are new, which come late, and what is seen of them.

A known set that is seen again in order changes nothing and costs one look-up. Whom the sets belong to is
decided elsewhere (`identity.resolve`).
"""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity import windows
from profilelake.identity.facts import Standing
from profilelake.identity.linking import Linking
from profilelake.identity.poison import split
from profilelake.identity.replay import Entry
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.kernels.known_ids import KnownIds
from profilelake.kernels.siphash import HASH_BYTES, to_bytes
from profilelake.landing.land import SetSightings
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.records import NOBODY, IdentRecord, SetRecord, received_at
from profilelake.state.working import Working

SET_COLUMNS: Final[dict[Collection, str]] = {"users": "set_id", "accounts": "account_set_id"}
"""Where events name their set of a collection."""


@dataclass(frozen=True, slots=True)
class Met:
    """What a micro-batch shows that was not known.

    `new` are sets, and where rules have windows known sets in a new one, in position order. `late` are
    the keys of sets to be resolved out of order. `wide` are new sets with several identifiers of one
    type, and `fresh` the identifiers that nobody had seen before.
    """

    new: list[Entry]
    late: list[bytes]
    wide: list[SetRecord] = field(default_factory=list)
    fresh: set[bytes] = field(default_factory=set)


class Arrivals:
    """Tells new sets from known ones, for one workspace under the decisions that hold there."""

    def __init__(self, held: Standing, linking: Linking, known_sets_max: int) -> None:
        """Know no set yet; remember that many of them."""
        self._held = held
        self._linking = linking
        self._known_sets_max = known_sets_max
        self._known = KnownIds(known_sets_max)
        self._known_window: dict[Collection, int] = {}
        self._bare: set[bytes] = set()

    def hold(self, held: Standing, linking: Linking) -> None:
        """Take in what a decision changed; sets are known from the state alone again."""
        self._held, self._linking = held, linking
        self._known = KnownIds(self._known_sets_max)

    def find_bare(self, work: Working) -> None:
        """Know the identifiers of sets that are no evidence any more: their next event makes them one."""
        self._bare = set()
        for key in self._held.retracted:
            work.load_sets((key,))
            record = work.sets.get(key)
            if record is not None and self.is_bare(key, record):
                self._bare.update(split(record.idents))

    def meet(
        self, work: Working, batch: SetSightings, events: pa.Table, applied: bytes, rows: IdentityRows
    ) -> Met:
        """Return what is new among the sets of `events`; `applied` is the greatest position applied before.

        Records of new sets and identifiers go into `work`, and into `rows`. Most sets are known and not even
        looked up.
        """
        if self._held.retracted:
            batch = self._counted(batch, events)
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
                if self.is_bare(key, record) and entry.first.position < record.position:
                    _set_first(work, record, entry.first)
                    late.append(key)
                continue
            if self.is_bare(key, record):
                self._revive(work, batch.collection, entry)
                late.append(key)
                continue
            found.append(number)
            if entry.first.position < applied:
                if self._bring_forward(work, batch.collection, entry):
                    late.append(key)
            elif window is not None and windows.note_first(work, entry.key, entry.first, window):
                new.append(entry._replace(idents=self.linked(work, batch.collection, record)))
        work.touch_sets(late, publish=False)
        # Only what was stored before: the transaction that stores the new ones may fail.
        self._known.add(batch.set_ids[asked[found]])
        met = Met(new, late)
        if unknown:
            unknown_keys, unknown_firsts = [keys[n] for n in unknown], [firsts[n] for n in unknown]
            met = self._new_sets(work, batch, asked[unknown], unknown_keys, unknown_firsts, rows)
            late += [entry.key for entry in met.new if self._is_late(work, entry, applied, window)]
            new += met.new
        lately = set(late)
        new = [entry for entry in new if entry.key not in lately]
        new.sort(key=lambda entry: entry.first.position)
        return replace(met, new=new, late=late)

    def _is_late(self, work: Working, entry: Entry, applied: bytes, window: int | None) -> bool:
        """Note a new set's first event in its window; tell whether the set must be resolved out of order."""
        if self._is_retracted(entry.key, entry.first.position):
            self._bare.update(split(entry.record.idents))
            return True
        if window is not None:
            windows.note_first(work, entry.key, entry.first, window)
        # With an identifier of a set that is no evidence, that set gets an owner by this one.
        return entry.first.position < applied or not self._bare.isdisjoint(split(entry.record.idents))

    def is_bare(self, key: bytes, record: SetRecord) -> bool:
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
        first_seen_again(work, set(split(record.idents)))
        window = self._linking.windows[collection]
        if window is not None:
            windows.note_first(work, entry.key, entry.first, window)

    def _counted(self, batch: SetSightings, events: pa.Table) -> SetSightings:
        """Return sightings with each set's first event that counts, where any does: decisions may come first."""
        keys = to_bytes(np.ascontiguousarray(batch.set_ids))
        concerned = [number for number, key in enumerate(keys) if key in self._held.retracted]
        if not concerned:
            return batch
        first = batch.first.copy()
        column = events.column(SET_COLUMNS[batch.collection]).to_pylist()
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

    def move_back(self, work: Working, collection: Collection, copies: pa.Table) -> list[bytes]:
        """Give sets the earlier first sighting that copies of their events are; return those that took one."""
        keys = copies.column(SET_COLUMNS[collection]).to_pylist()
        seen = _sightings(copies, np.arange(copies.num_rows))
        work.load_sets(key for key in keys if key is not None)
        moved = []
        for key, sighting in zip(keys, seen, strict=True):
            record = None if key is None else work.sets.get(key)
            if record is not None and self._bring_forward(work, collection, Entry(key, sighting, record, [])):
                moved.append(key)
        work.touch_sets(moved, publish=False)
        return moved

    def _bring_forward(self, work: Working, collection: Collection, entry: Entry) -> bool:
        """Note an earlier event of a set, first of all or first in its window; tell whether it was earlier."""
        if self._is_retracted(entry.key, entry.first.position) and not self.is_bare(entry.key, entry.record):
            return False
        moved = entry.first.position < entry.record.position
        if moved:
            _set_first(work, entry.record, entry.first)
        window = self._linking.windows[collection]
        if window is not None:
            moved |= windows.note_first(work, entry.key, entry.first, window)
        return moved

    def linked(self, work: Working, collection: Collection, record: SetRecord) -> list[bytes]:
        """Return the identifiers of a set that may link, strongest first."""
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
    ) -> Met:
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
        fresh = self._note_idents(work, batch.collection, keys, firsts, offsets, types, values, idents)

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
        wide = [new[number].record for number in _wide(offsets, types)]
        return Met(new, late=[], wide=wide, fresh=fresh)

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
    ) -> set[bytes]:
        """Make records of the identifiers nobody has seen before, and return these; link all to their sets."""
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
        return set(fresh)


def first_seen_again(work: Working, idents: set[bytes]) -> None:
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
