"""Resolve the identifier sets of a micro-batch against the online state.

Known sets cost one look-up. New sets in position order go through the compiled kernel, starting
from the profiles their identifiers have now. A set that comes late (its position lies before what
was applied already) has its whole component resolved again from nothing, in position order: the
answer is the one in-order arrival would have given.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.errors import Internal, Invalid
from profilelake.identity.problem import CAUSES, clean, rules_by_strength
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTITY_UPDATES
from profilelake.kernels import identity as kernel
from profilelake.kernels.known_ids import KnownIds
from profilelake.kernels.siphash import to_bytes
from profilelake.landing.land import SetSightings
from profilelake.semantics.identifiers import public_id
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
SHOWN_IDS_MAX: Final = 100_000
"""Public ids kept at hand: the same profiles are written again and again."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One event that showed a set."""

    position: bytes
    message_id: str
    source_id: str


class _Member(NamedTuple):
    """One identifier of a new set; `strength` is its type's place in the rules, -1 if it may not link."""

    ident: bytes
    type: str
    value: str
    strength: int


@dataclass(slots=True)
class IdentityRows:
    """Rows that a micro-batch adds to append-only identity tables."""

    _sets: list[tuple[Any, ...]] = field(default_factory=list)
    _updates: list[tuple[Any, ...]] = field(default_factory=list)

    def add_set(
        self, key: bytes, collection: Collection, members: list[_Member], first: Sighting, at: int
    ) -> None:
        """Add a set that became known."""
        listed = [{"type": member.type, "ident_id": member.ident} for member in members]
        self._sets.append((key, collection, listed, first.position, at, first.message_id, first.source_id))

    def add_update(self, row: tuple[Any, ...]) -> None:
        """Add a change of ownership."""
        self._updates.append(row)

    def identifier_sets(self) -> pa.Table:
        """Return the sets that became known."""
        return rows_table(IDENTIFIER_SETS.schema(), self._sets)

    def identity_updates(self) -> pa.Table:
        """Return the changes of ownership, in the order in which they happened."""
        return rows_table(IDENTITY_UPDATES.schema(), self._updates)


def rows_table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Return rows as a table of a schema."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


@dataclass(slots=True)
class _Set:
    """A set on its way through resolution; `idents` are cleaned, strongest first."""

    key: bytes
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
        rows = IdentityRows()
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
                    work.touch_set(key, publish=False)
                    moved.append(key)
            if moved:
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
                work.touch_set(key, publish=False)
                late.append(key)
        # Only what was stored before: the transaction that stores the new ones may fail.
        self._known.add(batch.set_ids[asked[found]])
        new: list[_Set] = []
        for number, members in self._members(work, batch, asked, unknown):
            key, first = keys[number], firsts[number]
            met = self._new_set(work, batch.collection, key, first, members, rows)
            if first.position < applied:
                late.append(key)
            else:
                new.append(met)
        new.sort(key=lambda met: met.record.position)
        return new, late

    def _members(
        self, work: Working, batch: SetSightings, asked: npt.NDArray[np.int64], numbers: list[int]
    ) -> Iterator[tuple[int, list["_Member"]]]:
        """Yield each numbered set of those asked for with its identifiers, whose records are loaded before."""
        if not numbers:
            return
        chosen = asked[numbers]
        start, stop = batch.start[chosen], batch.stop[chosen]
        sizes = stop - start
        ends = np.cumsum(sizes)
        rows = np.arange(ends[-1]) + np.repeat(start - (ends - sizes), sizes)
        taken = pa.array(rows)
        types, values = batch.types.take(taken), batch.values.take(taken)
        cleaned = clean(types, values, self._rules, batch.collection)
        strength = np.where(cleaned.links, cleaned.type_code, -1).tolist()
        ids = to_bytes(np.ascontiguousarray(batch.ident_ids[rows]))
        members = [
            _Member(*member)
            for member in zip(ids, types.to_pylist(), values.to_pylist(), strength, strict=True)
        ]
        work.load_idents(ids)
        for number, end, size in zip(numbers, ends.tolist(), sizes.tolist(), strict=True):
            yield number, members[end - size : end]

    def _new_set(
        self,
        work: Working,
        collection: Collection,
        key: bytes,
        first: Sighting,
        members: list["_Member"],
        rows: IdentityRows,
    ) -> _Set:
        at = received_at(first.position)
        number = COLLECTIONS.index(collection)
        for ident, type, value, _ in members:
            known = work.idents.get(ident)
            if known is None:
                work.idents[ident] = IdentRecord(
                    number, type, value, first.source_id, first.message_id, at, first.position, NOBODY
                )
                work.touch_ident(ident)
            else:
                _bring_forward(work, ident, first)
            work.links.append((ident, key))
        linking = sorted((m.strength, m.value, m.ident) for m in members if m.strength >= 0)
        cleaned = [ident for _, _, ident in linking]
        record = SetRecord(
            collection=number,
            idents=b"".join([member.ident for member in members]),
            anchor=cleaned[0] if cleaned else b"",
            profile=NOBODY,
            first_profile=NOBODY,
            position=first.position,
            message_id=first.message_id,
            source_id=first.source_id,
        )
        work.sets[key] = record
        work.touch_set(key, publish=True)
        rows.add_set(key, collection, members, first, at)
        return _Set(key, record, cleaned)

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
        idents = list(dict.fromkeys(ident for met in sets for ident in met.idents))
        work.load_profiles({work.idents[ident].profile for ident in idents})
        held = {work.idents[ident].profile for ident in idents} - {NOBODY}
        profiles = sorted(held, key=lambda key: work.profiles[key].position)
        resolution = self._ask_kernel(work, collection, sets, idents, profiles)
        self._carry_out(work, collection, sets, idents, profiles, resolution, rows)

    def _ask_kernel(
        self,
        work: Working,
        collection: Collection,
        sets: list[_Set],
        idents: list[bytes],
        profiles: list[bytes],
    ) -> kernel.Resolution:
        types = self._types[collection]
        code = {type: number for number, type in enumerate(types)}
        place = {ident: number for number, ident in enumerate(idents)}
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
                set_offsets=np.cumsum([0, *(len(met.idents) for met in sets)], dtype=np.int64),
                set_idents=np.array([place[ident] for met in sets for ident in met.idents], dtype=np.int32),
                ident_type=np.array([code[work.idents[ident].type] for ident in idents], dtype=np.int32),
                type_limit=np.array(limits, dtype=np.int32),
                type_window=np.zeros(len(types), dtype=np.int64),
                lowest_priority=self._rules.demotion == "lowest_priority",
                identifiers_max=self._rules.identifiers_max,
                merges_max=self._rules.merges_max,
                ident_profile=np.array([row[work.idents[ident].profile] for ident in idents], dtype=np.int32),
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
        first_profile = resolution.set_first_profile.tolist()
        for number, met in enumerate(sets):
            journal = _Journal(rows, collection, met, self._rules.version, work.sequence)
            for survivor, loser in merges.get(number, ()):
                _merge(work, keys[survivor], keys[loser], journal)
            key = keys[first_profile[number]]
            refused = {idents[ident] for ident, *_ in refusals.get(number, ())}
            self._join(work, met, key, refused, journal)
            if number in refusals:
                self._refuse(work, collection, met, keys[first_profile[number]], refusals[number], idents)
        final = resolution.set_profile.tolist()
        for number, met in enumerate(sets):
            if met.record.profile != keys[final[number]]:
                raise Internal(f"resolving set {met.key.hex()}: records and kernel disagree")

    def _join(self, work: Working, met: _Set, key: bytes, refused: set[bytes], journal: "_Journal") -> None:
        profile = work.profiles.get(key)
        cause = "joined"
        if profile is None:
            cause = "created"
            profile = ProfileRecord(met.record.collection, met.record.position, [], [])
            work.profiles[key] = profile
        for ident in met.idents:
            record = work.idents[ident]
            if ident in refused or record.profile != NOBODY:
                continue
            record.profile = key
            profile.idents.append((ident, record.type))
            work.touch_ident(ident)
            journal.write(ident, NOBODY, key, cause)
        profile.sets.append(met.key)
        met.record.profile = met.record.first_profile = key
        work.touch_set(met.key, publish=True)
        work.touch_profile(key)

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
        idents = list(dict.fromkeys(ident for met in sets for ident in met.idents))
        before = {ident: work.idents[ident].profile for ident in idents}
        held = {met.record.profile for met in sets} | set(before.values())
        work.load_profiles(held)
        for key in held - {NOBODY}:
            del work.profiles[key]
            work.touch_profile(key)
        for ident in idents:
            work.idents[ident].profile = NOBODY
            work.touch_ident(ident)
        for met in sets:
            met.record.profile = met.record.first_profile = NOBODY
            if met.record.refused:
                met.record.refused = False
                work.tx.delete(work.workspace, Db.REFUSALS, met.key)
                work.publish_refusals(met.key)
            work.touch_set(met.key, publish=True)
        resolution = self._ask_kernel(work, collection, sets, idents, [])
        self._carry_out(work, collection, sets, idents, [], resolution, IdentityRows())
        seed = next((met for met in sets if met.key in seeds), sets[0])
        journal = _Journal(rows, collection, seed, self._rules.version, work.sequence)
        for ident in idents:
            after = work.idents[ident].profile
            if after != before[ident]:
                journal.write(ident, before[ident], after, "replayed")

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
                    found[key] = _Set(key, work.sets[key], cleaned)
                for ident in cleaned:
                    if ident not in followed:
                        followed.add(ident)
                        reached.update(work.tx.linked_sets(work.workspace, ident))
            frontier = reached - found.keys()
        return sorted(found.values(), key=lambda met: met.record.position)


@dataclass(frozen=True, slots=True)
class _Journal:
    """Writes `identity_updates` rows that one set is the evidence of."""

    rows: IdentityRows
    collection: Collection
    evidence: _Set
    rule_version: int
    sequence: int

    def write(self, ident: bytes, before: bytes, after: bytes, cause: str) -> None:
        record = self.evidence.record
        self.rows.add_update(
            (
                received_at(record.position),
                ident,
                self.collection,
                shown(self.collection, before),
                shown(self.collection, after),
                cause,
                self.evidence.key,
                record.message_id,
                record.source_id,
                self.rule_version,
                record.position,
                self.sequence,
            )
        )


@lru_cache(maxsize=SHOWN_IDS_MAX)
def shown(collection: Collection, profile: bytes) -> str | None:
    """Return the public id of a profile key, None for nobody."""
    return None if profile == NOBODY else public_id(collection, profile)


def _merge(work: Working, survivor: bytes, loser: bytes, journal: _Journal) -> None:
    into, gone = work.profiles[survivor], work.profiles.pop(loser)
    work.load_idents(ident for ident, _ in gone.idents)
    work.load_sets(gone.sets)
    for ident, _ in gone.idents:
        work.idents[ident].profile = survivor
        work.touch_ident(ident)
        journal.write(ident, loser, survivor, "merged")
    for key in gone.sets:
        work.sets[key].profile = survivor
        work.touch_set(key, publish=True)
    into.idents += gone.idents
    into.sets += gone.sets
    into.merges += gone.merges + 1
    work.touch_profile(survivor)
    work.touch_profile(loser)


def _by_set(sets: npt.NDArray[Any], *columns: npt.NDArray[Any]) -> dict[int, list[tuple[int, ...]]]:
    grouped: dict[int, list[tuple[int, ...]]] = {}
    for number, *values in zip(sets.tolist(), *(column.tolist() for column in columns), strict=True):
        grouped.setdefault(number, []).append(tuple(values))
    return grouped


def _split(joined: bytes) -> list[bytes]:
    return [joined[i : i + 16] for i in range(0, len(joined), 16)]


def _sightings(events: pa.Table, rows: npt.NDArray[np.int64]) -> list[Sighting]:
    """Return what some rows say of when and through what their sets were seen."""
    chosen = events.select(["position", "message_id", "source_id"]).take(pa.array(rows))
    return [Sighting(*values) for values in zip(*(c.to_pylist() for c in chosen.columns), strict=True)]


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
        work.touch_ident(ident)
