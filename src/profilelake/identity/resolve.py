"""Resolve the identifier sets of a micro-batch against the online state.

Known sets cost one look-up. New sets in position order go through the compiled kernel, starting
from the profiles their identifiers have now. A set that comes late (its position lies before what
was applied already) has its whole component resolved again from nothing, in position order: the
answer is the one in-order arrival would have given.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.errors import Internal, Invalid
from profilelake.identity.problem import CAUSES, clean, rules_by_strength, strongest_first
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.kernels import identity as kernel
from profilelake.kernels.dense import dense_numbers
from profilelake.kernels.known_ids import KnownIds
from profilelake.kernels.siphash import HASH_BYTES, to_bytes
from profilelake.landing.land import SetSightings
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    ProfileRecord,
    RefusalRecord,
    SetRecord,
    encode,
    received_at,
)
from profilelake.state.store import Db
from profilelake.state.working import Working

KNOWN_SETS_MAX: Final = 1 << 22
"""Sets that are known without a look-up; 16 bytes each."""


class _Set(NamedTuple):
    """A set on its way through resolution; `idents` are cleaned, strongest first."""

    key: bytes
    first: Sighting
    record: SetRecord
    idents: list[bytes]


class Resolver:
    """Resolves the sets of one workspace under one version of the rules."""

    def __init__(self, rules: IdentityRules, *, known_sets_max: int = KNOWN_SETS_MAX) -> None:
        """Resolve under `rules`; remember that many known sets between micro-batches."""
        for rule in rules.types:
            if rule.window_seconds is not None:
                raise Invalid(
                    f"identity rule of {rule.type}: limits per time window are not supported live yet; "
                    "leave window_seconds out"
                )
        self._rules = rules
        self._known = KnownIds(known_sets_max)
        self._types: dict[Collection, list[str]] = {
            collection: [rule.type for rule in rules_by_strength(rules, collection)]
            for collection in COLLECTIONS
        }

    def apply(
        self, work: Working, sightings: Sequence[SetSightings], events: pa.Table, applied: bytes
    ) -> IdentityRows:
        """Resolve every set seen in `events`; `applied` is the greatest position applied before.

        All changes go into `work`; the rows for append-only tables are returned.
        """
        rows = IdentityRows(self._rules.version, work.sequence)
        for batch in sightings:
            new, late = self._meet(work, batch, events, applied, rows)
            if new:
                self._resolve(work, batch.collection, new, rows)
            if late:
                self._replay(work, batch.collection, late, rows)
        return rows

    def move_back(self, work: Working, copies: pa.Table, rows: IdentityRows) -> None:
        """Give sets the earlier first sighting that copies of their events have turned out to be."""
        for collection, column in (("users", "set_id"), ("accounts", "account_set_id")):
            keys = copies.column(column).to_pylist()
            seen = _sightings(copies, np.arange(copies.num_rows))
            work.load_sets(key for key in keys if key is not None)
            moved = []
            for key, sighting in zip(keys, seen, strict=True):
                record = None if key is None else work.sets.get(key)
                if record is not None and sighting.position < record.position:
                    _set_first(work, record, sighting)
                    moved.append(key)
            if moved:
                work.touch_sets(moved, publish=False)
                self._replay(work, collection, moved, rows)  # type: ignore[arg-type]

    def _meet(
        self, work: Working, batch: SetSightings, events: pa.Table, applied: bytes, rows: IdentityRows
    ) -> tuple[list[_Set], list[bytes]]:
        """Find the sets that are not known yet and make their records; return new sets and late ones.

        A known set that is seen again in order changes nothing, so most sets are not even looked up.
        """
        asked = np.flatnonzero(
            ~self._known.contains(batch.set_ids) | (batch.first < _rows_before(events, applied))
        )
        keys = to_bytes(np.ascontiguousarray(batch.set_ids[asked]))
        firsts = _sightings(events, batch.first[asked])
        work.load_sets(keys)
        unknown: list[int] = []
        found: list[int] = []
        late: list[bytes] = []
        for number, key in enumerate(keys):
            record = work.sets.get(key)
            if record is None:
                unknown.append(number)
                continue
            found.append(number)
            if firsts[number].position < record.position:
                _set_first(work, record, firsts[number])
                late.append(key)
        work.touch_sets(late, publish=False)
        # Only what was stored before: the transaction that stores the new ones may fail.
        self._known.add(batch.set_ids[asked[found]])
        new: list[_Set] = []
        if unknown:
            unknown_keys, unknown_firsts = [keys[n] for n in unknown], [firsts[n] for n in unknown]
            for met in self._new_sets(work, batch, asked[unknown], unknown_keys, unknown_firsts, rows):
                if met.first.position < applied:
                    late.append(met.key)
                else:
                    new.append(met)
        new.sort(key=lambda met: met.first.position)
        return new, late

    def _new_sets(
        self,
        work: Working,
        batch: SetSightings,
        chosen: npt.NDArray[np.int64],
        keys: list[bytes],
        firsts: list[Sighting],
        rows: IdentityRows,
    ) -> list[_Set]:
        """Make the records of the chosen sets of a batch, and of their identifiers that are new too."""
        start, stop = batch.start[chosen], batch.stop[chosen]
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        taken = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        types, values = batch.types.take(pa.array(taken)), batch.values.take(pa.array(taken))
        joined = np.ascontiguousarray(batch.ident_ids[taken]).tobytes()
        idents = _split(joined)
        work.load_idents(idents)
        rows.add_sets(batch.collection, keys, firsts, offsets, types, joined)
        self._note_idents(work, batch.collection, keys, firsts, offsets, types, values, idents)

        cleaned = clean(types, values, self._rules, batch.collection)
        kept = np.flatnonzero(cleaned.links)
        bounds = np.searchsorted(kept, offsets)
        kept = kept[strongest_first(bounds, cleaned.type_code[kept], values, kept)]
        linking = [idents[row] for row in kept.tolist()]
        collection = COLLECTIONS.index(batch.collection)
        offset, bound = offsets.tolist(), bounds.tolist()
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
            new.append(_Set(key, first, record, mine))
        work.touch_sets(keys, publish=True)
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
        sets = np.repeat(np.arange(len(keys)), sizes).tolist()
        fresh = []
        for ident, set, type, value in zip(idents, sets, types.to_pylist(), values.to_pylist(), strict=True):
            first = firsts[set]
            known = work.idents.get(ident)
            if known is None:
                at = received_at(first.position)
                work.idents[ident] = IdentRecord(
                    number, type, value, first.source_id, first.message_id, at, first.position, NOBODY
                )
                fresh.append(ident)
            elif first.position < known.position:
                _bring_forward(work, ident, first)
            work.links.append((ident, keys[set]))
        work.touch_idents(fresh)

    def _clean(self, collection: Collection, members: Iterable[tuple[bytes, str, str]]) -> list[bytes]:
        """Return the identifiers that may link, strongest first."""
        kept = []
        for ident, type, value in members:
            rule = self._rules.rule(collection, type)
            if rule is not None and value and not rule.blocks(value):
                kept.append((rule.priority, type, value, ident))
        kept.sort()
        return [ident for _, _, _, ident in kept]

    def _resolve(self, work: Working, collection: Collection, sets: list[_Set], rows: IdentityRows) -> None:
        sets = [met for met in sets if met.idents]
        members, idents = _numbered(sets)
        held = {work.idents[ident].profile for ident in idents} - {NOBODY}
        work.load_profiles(held)
        profiles = sorted(held, key=lambda key: work.profiles[key].position)
        resolution = self._ask_kernel(work, collection, sets, members, idents, profiles)
        self._carry_out(work, collection, sets, idents, profiles, resolution, rows)

    def _ask_kernel(
        self,
        work: Working,
        collection: Collection,
        sets: list[_Set],
        members: kernel.Int32s,
        idents: list[bytes],
        profiles: list[bytes],
    ) -> kernel.Resolution:
        types = self._types[collection]
        code = {type: number for number, type in enumerate(types)}
        records = [work.idents[ident] for ident in idents]
        row = {key: number for number, key in enumerate(profiles)} | {NOBODY: -1}
        counts = np.zeros((len(profiles), len(types)), dtype=np.uint16)
        for number, key in enumerate(profiles):
            for _, type in work.profiles[key].idents:
                counts[number, code[type]] += 1
        limits = []
        for type in types:
            rule = self._rules.rule(collection, type)
            limits.append(kernel.NO_LIMIT if rule is None or rule.limit is None else rule.limit)
        return kernel.resolve(
            kernel.Problem(
                set_offsets=np.cumsum([0, *[len(met.idents) for met in sets]], dtype=np.int64),
                set_idents=members,
                ident_type=np.array([code[record.type] for record in records], dtype=np.int32),
                type_limit=np.array(limits, dtype=np.int32),
                type_window=np.zeros(len(types), dtype=np.int64),
                lowest_priority=self._rules.demotion == "lowest_priority",
                identifiers_max=self._rules.identifiers_max,
                merges_max=self._rules.merges_max,
                ident_profile=np.array([row[record.profile] for record in records], dtype=np.int32),
                profiles=kernel.Profiles(
                    counts=counts,
                    members=np.array([len(work.profiles[key].idents) for key in profiles], dtype=np.int32),
                    merges=np.array([work.profiles[key].merges for key in profiles], dtype=np.int32),
                    windows=np.zeros((len(profiles), 0), dtype=np.int64),
                ),
            )
        )

    def _carry_out(
        self,
        work: Working,
        collection: Collection,
        sets: list[_Set],
        idents: list[bytes],
        profiles: list[bytes],
        resolution: kernel.Resolution,
        rows: IdentityRows,
    ) -> None:
        """Do to the records what the kernel decided, set by set, and write the journal of it."""
        keys = [*profiles, *(sets[number].key for number in resolution.founding_set.tolist())]
        merges = _by_set(resolution.merge_set, resolution.merge_survivor, resolution.merge_loser)
        refusals = _by_set(
            resolution.refusal_set,
            resolution.refusal_ident,
            resolution.refusal_owner,
            resolution.refusal_cause,
            resolution.refusal_type,
        )
        joined: list[bytes] = []
        for number, first_profile in enumerate(resolution.set_first_profile.tolist()):
            met, key = sets[number], keys[first_profile]
            for survivor, loser in merges.get(number, ()):
                _merge(work, collection, keys[survivor], keys[loser], met, rows)
            refused = refusals.get(number)
            if refused is None:
                joined += _join(work, collection, met, key, (), rows)
            else:
                joined += _join(work, collection, met, key, {idents[ident] for ident, *_ in refused}, rows)
                self._refuse(work, collection, met, key, refused, idents)
        work.touch_idents(joined)
        work.touch_sets([met.key for met in sets], publish=True)
        work.touch_profiles([met.record.first_profile for met in sets])
        final = resolution.set_profile.tolist()
        for number, met in enumerate(sets):
            if met.record.profile != keys[final[number]]:
                raise Internal(f"resolving set {met.key.hex()}: records and kernel disagree")

    def _refuse(
        self,
        work: Working,
        collection: Collection,
        met: _Set,
        key: bytes,
        refusals: Sequence[tuple[int, ...]],
        idents: list[bytes],
    ) -> None:
        types = self._types[collection]
        records = [
            RefusalRecord(
                idents[ident],
                work.idents[idents[ident]].type,
                key,
                CAUSES[cause],
                types[type] if type >= 0 else "",
            )
            for ident, _, cause, type in refusals
        ]
        met.record.refused = True
        work.tx.put(work.workspace, Db.REFUSALS, met.key, encode(records))
        work.publish_refusals(met.key)

    def _replay(
        self, work: Working, collection: Collection, seeds: Sequence[bytes], rows: IdentityRows
    ) -> None:
        """Resolve the components of these sets again, from nothing, in position order."""
        work.flush()
        sets = self._component(work, collection, seeds)
        if not sets:
            return  # everything in these sets is blocked: they link nobody
        members, idents = _numbered(sets)
        before = {ident: work.idents[ident].profile for ident in idents}
        held = {met.record.profile for met in sets} | set(before.values())
        work.load_profiles(held)
        gone = held - {NOBODY}
        for key in gone:
            del work.profiles[key]
        work.touch_profiles(gone)
        for ident in idents:
            work.idents[ident].profile = NOBODY
        work.touch_idents(idents)
        for met in sets:
            met.record.profile = met.record.first_profile = NOBODY
            if met.record.refused:
                met.record.refused = False
                work.tx.delete(work.workspace, Db.REFUSALS, met.key)
                work.publish_refusals(met.key)
        work.touch_sets([met.key for met in sets], publish=True)
        resolution = self._ask_kernel(work, collection, sets, members, idents, [])
        unannounced = IdentityRows(self._rules.version, work.sequence)
        self._carry_out(work, collection, sets, idents, [], resolution, unannounced)
        seed = next((met for met in sets if met.key in seeds), sets[0])
        for ident in idents:
            after = work.idents[ident].profile
            if after != before[ident]:
                rows.add_update(collection, ident, before[ident], after, "replayed", seed.key, seed.first)

    def _component(self, work: Working, collection: Collection, seeds: Sequence[bytes]) -> list[_Set]:
        """Return every set connected to the seeds through identifiers that may link, in position order."""
        found: dict[bytes, _Set] = {}
        followed: set[bytes] = set()
        frontier = set(seeds)
        while frontier:
            work.load_sets(frontier)
            members = {key: _split(work.sets[key].idents) for key in frontier}
            work.load_idents(ident for ids in members.values() for ident in ids)
            reached: set[bytes] = set()
            for key, ids in members.items():
                typed = ((ident, work.idents[ident].type, work.idents[ident].value) for ident in ids)
                cleaned = self._clean(collection, typed)
                if cleaned:
                    record = work.sets[key]
                    first = Sighting(record.position, record.message_id, record.source_id)
                    found[key] = _Set(key, first, record, cleaned)
                for ident in cleaned:
                    if ident not in followed:
                        followed.add(ident)
                        reached.update(work.tx.linked_sets(work.workspace, ident))
            frontier = reached - found.keys()
        return sorted(found.values(), key=lambda met: met.first.position)


def _numbered(sets: list[_Set]) -> tuple[kernel.Int32s, list[bytes]]:
    """Number the identifiers of these sets as they first appear; return the members' numbers, and who is who."""
    flat = list(chain.from_iterable([met.idents for met in sets]))
    numbers, first_row = dense_numbers(np.frombuffer(b"".join(flat), dtype=np.uint64).reshape(-1, 2))
    return numbers, [flat[row] for row in first_row.tolist()]


def _join(
    work: Working,
    collection: Collection,
    met: _Set,
    key: bytes,
    refused: Container[bytes],
    rows: IdentityRows,
) -> list[bytes]:
    """Let a set join a profile, which it founds where there is none; return the identifiers that joined."""
    profile = work.profiles.get(key)
    cause = "joined"
    if profile is None:
        cause = "created"
        profile = ProfileRecord(met.record.collection, met.record.position, [], [])
        work.profiles[key] = profile
    joined = []
    for ident in met.idents:
        record = work.idents[ident]
        if record.profile == NOBODY and ident not in refused:
            record.profile = key
            profile.idents.append((ident, record.type))
            rows.add_update(collection, ident, NOBODY, key, cause, met.key, met.first)
            joined.append(ident)
    profile.sets.append(met.key)
    met.record.profile = met.record.first_profile = key
    return joined


def _merge(
    work: Working, collection: Collection, survivor: bytes, loser: bytes, evidence: _Set, rows: IdentityRows
) -> None:
    into, gone = work.profiles[survivor], work.profiles.pop(loser)
    idents = [ident for ident, _ in gone.idents]
    work.load_idents(idents)
    work.load_sets(gone.sets)
    for ident in idents:
        work.idents[ident].profile = survivor
        rows.add_update(collection, ident, loser, survivor, "merged", evidence.key, evidence.first)
    for key in gone.sets:
        work.sets[key].profile = survivor
    work.touch_idents(idents)
    work.touch_sets(gone.sets, publish=True)
    into.idents += gone.idents
    into.sets += gone.sets
    into.merges += gone.merges + 1
    work.touch_profiles((survivor, loser))


def _by_set(sets: npt.NDArray[Any], *columns: npt.NDArray[Any]) -> dict[int, list[tuple[int, ...]]]:
    grouped: dict[int, list[tuple[int, ...]]] = {}
    for number, *values in zip(sets.tolist(), *(column.tolist() for column in columns), strict=True):
        grouped.setdefault(number, []).append(tuple(values))
    return grouped


def _split(joined: bytes) -> list[bytes]:
    return [joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES)]


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
    idents = _split(record.idents)
    work.load_idents(idents)
    for ident in idents:
        _bring_forward(work, ident, sighting)


def _bring_forward(work: Working, ident: bytes, sighting: Sighting) -> None:
    known = work.idents[ident]
    if sighting.position < known.position:
        known.position, known.created_at = sighting.position, received_at(sighting.position)
        known.message_id, known.source_id = sighting.message_id, sighting.source_id
        work.touch_idents((ident,))
