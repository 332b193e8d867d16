"""Resolve whole components again, from nothing and in position order, and put what changed in place.

This is what late events, decisions and new rules need: their place in the order lies before what was
applied. The answer is the one that in-order arrival would have given; records that say so already
are not written again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from profilelake.identity.facts import Standing
from profilelake.identity.linking import Linking
from profilelake.identity.poison import split
from profilelake.identity.problem import CAUSES
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.kernels import identity as kernel
from profilelake.kernels.dense import dense_numbers
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    ProfileRecord,
    RefusalRecord,
    SetRecord,
    decode_sighting,
    encode,
    received_at,
)
from profilelake.state.store import Db
from profilelake.state.working import Working

WINDOW_BYTES: Final = 8
Evidence: TypeAlias = tuple[bytes, Sighting]
"""The set, and the sighting of it, that a row of the journal names."""


class Entry(NamedTuple):
    """One first sighting of a set; `idents` are those that may link, strongest first."""

    key: bytes
    first: Sighting
    record: SetRecord
    idents: list[bytes]


@dataclass(slots=True)
class Component:
    """Sets that are connected through identifiers that may link.

    `entries` count, in position order; a set has one per window where rules have windows. `sets` are
    all of them with their anchors, also those that are no evidence any more.
    """

    collection: Collection
    entries: list[Entry] = field(default_factory=list)
    sets: dict[bytes, bytes] = field(default_factory=dict)
    idents: set[bytes] = field(default_factory=set)

    def add(
        self, work: Working, key: bytes, idents: list[bytes], linking: Linking, held: Standing
    ) -> list[bytes]:
        """Add a set that is at hand; return its identifiers that may link, strongest first."""
        record = work.sets[key]
        typed = ((ident, work.idents[ident].type, work.idents[ident].value) for ident in idents)
        linked = linking.strongest_first(self.collection, typed)
        self.sets[key] = linked[0] if linked else b""
        self.idents.update(idents)
        if linked:
            firsts = sightings(work, key, record, linking, held)
            self.entries += [Entry(key, first, record, linked) for first in firsts]
        return linked

    def sort(self) -> None:
        """Bring the entries into position order."""
        self.entries.sort(key=lambda entry: entry.first.position)


@dataclass(slots=True)
class Solution:
    """What is right for a component: owners of identifiers, profiles and what was refused."""

    owners: dict[bytes, bytes] = field(default_factory=dict)
    linked_at: dict[bytes, int] = field(default_factory=dict)
    set_profiles: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    refusals: dict[bytes, list[RefusalRecord]] = field(default_factory=dict)
    profiles: dict[bytes, ProfileRecord] = field(default_factory=dict)


def gather(
    work: Working,
    collection: Collection,
    seeds: Iterable[bytes],
    linking: Linking,
    held: Standing,
    sets_max: int | None = None,
    *,
    whole_profiles: bool = False,
) -> Component | None:
    """Return the components of the sets `seeds`; None where they have more than `sets_max` sets.

    `whole_profiles`: with all sets of the profiles that any of them belongs to now. Needed while what
    was decided is not in place everywhere: such a profile may reach over several components.
    """
    component = Component(collection)
    if not follow(work, component, set(seeds), set(), linking, held, sets_max, whole_profiles=whole_profiles):
        return None
    component.sort()
    return component


def follow(
    work: Working,
    component: Component,
    frontier: set[bytes],
    followed: set[bytes],
    linking: Linking,
    held: Standing,
    sets_max: int | None = None,
    *,
    whole_profiles: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Add the sets `frontier` and all that identifiers not `followed` yet lead to; False where too many."""
    sets = component.sets
    complete: set[bytes] = set()
    while frontier:
        if stopped() or (sets_max is not None and len(sets) + len(frontier) > sets_max):
            return False
        work.load_sets(frontier)
        members = {key: split(work.sets[key].idents) for key in frontier}
        work.load_idents(ident for ids in members.values() for ident in ids)
        reached: set[bytes] = set()
        for key, ids in members.items():
            for ident in component.add(work, key, ids, linking, held):
                if ident not in followed:
                    followed.add(ident)
                    reached.update(work.tx.linked_sets(work.workspace, ident))
        if whole_profiles:
            held_by = {work.sets[key].profile for key in members}
            held_by |= {work.idents[ident].profile for ids in members.values() for ident in ids}
            met = held_by - complete - {NOBODY}
            complete |= met
            work.load_profiles(met)
            for key in met & work.profiles.keys():
                reached.update(work.profiles[key].sets)
        frontier = reached - sets.keys()
    return True


def everything(work: Working, collection: Collection, linking: Linking, held: Standing) -> Component:
    """Return all sets of a collection as one."""
    number = COLLECTIONS.index(collection)
    every = list(work.tx.keys(work.workspace, Db.SET))
    work.load_sets(every)
    work.load_idents(work.tx.keys(work.workspace, Db.IDENT))
    component = Component(collection)
    for key in every:
        if work.sets[key].collection == number:
            component.add(work, key, split(work.sets[key].idents), linking, held)
    component.sort()
    return component


def sightings(
    work: Working, key: bytes, record: SetRecord, linking: Linking, held: Standing
) -> list[Sighting]:
    """Return when a set counts: at its first event, or at the first in each window; never if all are retracted."""
    if record.position in held.retracted.get(key, ()):
        return []
    if linking.windows[COLLECTIONS[record.collection]] is None:
        return [Sighting(record.position, record.message_id, record.source_id)]
    found = []
    for place, value in work.tx.items(work.workspace, Db.SIGHTING, key):
        if place[: len(key)] != key:
            break
        seen = decode_sighting(value)
        found.append(Sighting(seen.position, seen.message_id, seen.source_id))
    return found


def numbered(entries: list[Entry]) -> tuple[kernel.Int32s, list[bytes]]:
    """Number identifiers as they first appear; return the members' numbers, and who is who."""
    flat = list(chain.from_iterable([entry.idents for entry in entries]))
    numbers, first_row = dense_numbers(np.frombuffer(b"".join(flat), dtype=np.uint64).reshape(-1, 2))
    return numbers, [flat[row] for row in first_row.tolist()]


def offsets(entries: list[Entry]) -> kernel.Int64s:
    """Return where each entry's members begin, and the end."""
    return np.cumsum([0, *[len(entry.idents) for entry in entries]], dtype=np.int64)


def times(entries: list[Entry]) -> kernel.Int64s:
    """Return when each entry was received, in microseconds."""
    return np.array([received_at(entry.first.position) for entry in entries], dtype=np.int64)


def pairs(held: Standing, number: dict[bytes, int]) -> kernel.Int32s:
    """Return the unlinked pairs among numbered identifiers."""
    found = [
        (number[one], number[other])
        for one, others in held.unlinks.items()
        if one in number
        for other in others
        if other in number and one < other
    ]
    return np.array(found, dtype=np.int32).reshape(-1, 2)


def solve(
    known: Mapping[bytes, IdentRecord], component: Component, linking: Linking, held: Standing
) -> Solution:
    """Return what is right for a component; `known` has its identifiers."""
    collection, entries = component.collection, component.entries
    solution = Solution(owners=dict.fromkeys(component.idents, NOBODY))
    code = {type: number for number, type in enumerate(linking.types[collection])}
    members, idents = numbered(entries)
    type_limit, type_window = linking.limits(collection)
    resolution = kernel.resolve(
        kernel.Problem(
            set_offsets=offsets(entries),
            set_idents=members,
            ident_type=np.array([code[known[ident].type] for ident in idents], dtype=np.int32),
            type_limit=type_limit,
            type_window=type_window,
            set_time=times(entries),
            lowest_priority=linking.rules.demotion == "lowest_priority",
            identifiers_max=linking.rules.identifiers_max,
            merges_max=linking.rules.merges_max,
            unlinks=pairs(held, {ident: number for number, ident in enumerate(idents)}),
        )
    )
    keys = _found(solution, component, resolution)
    _place_sets(known, solution, component, resolution, idents, keys, linking)
    for ident, owner in zip(idents, resolution.ident_profile.tolist(), strict=True):
        if owner >= 0:
            solution.owners[ident] = keys[owner]
            solution.profiles[keys[owner]].idents.append((ident, known[ident].type))
    for key, anchor in component.sets.items():
        if key not in solution.set_profiles:
            # It links nothing any more, and leads where its anchor leads.
            solution.set_profiles[key] = (NOBODY, solution.owners.get(anchor, NOBODY))
        last = solution.set_profiles[key][1]
        if last != NOBODY:
            solution.profiles[last].sets.append(key)
    return solution


def _found(solution: Solution, component: Component, resolution: kernel.Resolution) -> list[bytes]:
    """Make the profiles that live; return the keys of all that were ever founded."""
    number = COLLECTIONS.index(component.collection)
    founding = [component.entries[place] for place in resolution.founding_set.tolist()]
    merges = resolution.profiles.merges.tolist()
    for profile, survivor in enumerate(resolution.survivor.tolist()):
        if profile == survivor:
            first = founding[profile]
            solution.profiles[first.key] = ProfileRecord(
                number, first.first.position, [], [], merges[profile]
            )
    return [entry.key for entry in founding]


def _place_sets(
    known: Mapping[bytes, IdentRecord],
    solution: Solution,
    component: Component,
    resolution: kernel.Resolution,
    idents: list[bytes],
    keys: list[bytes],
    linking: Linking,
) -> None:
    """Say where each set leads, what was refused, and since when identifiers belong to anybody."""
    refused = _refused(known, component, resolution, idents, keys, linking)
    windowed = linking.windows[component.collection] is not None
    for place, (entry, first, last) in enumerate(
        zip(
            component.entries,
            resolution.set_first_profile.tolist(),
            resolution.set_profile.tolist(),
            strict=True,
        )
    ):
        solution.set_profiles.setdefault(entry.key, (keys[first], keys[last]))
        out = refused.get(place, ())
        if out:
            solution.refusals.setdefault(entry.key, []).extend(out)
        if windowed:
            apart = {refusal.ident for refusal in out}
            at = received_at(entry.first.position)
            for ident in entry.idents:
                if ident not in apart:
                    solution.linked_at.setdefault(ident, at)


def _refused(
    known: Mapping[bytes, IdentRecord],
    component: Component,
    resolution: kernel.Resolution,
    idents: list[bytes],
    keys: list[bytes],
    linking: Linking,
) -> dict[int, list[RefusalRecord]]:
    """Return what was refused, by place of the entry."""
    types = linking.types[component.collection]
    found: dict[int, list[RefusalRecord]] = {}
    first = resolution.set_first_profile.tolist()
    for place, ident, cause, limit in zip(
        resolution.refusal_set.tolist(),
        resolution.refusal_ident.tolist(),
        resolution.refusal_cause.tolist(),
        resolution.refusal_type.tolist(),
        strict=True,
    ):
        refused = known[idents[ident]]
        limit_type = types[limit] if limit >= 0 else ""
        found.setdefault(place, []).append(
            RefusalRecord(idents[ident], refused.type, keys[first[place]], CAUSES[cause], limit_type)
        )
    return found


@dataclass(frozen=True, slots=True)
class Before:
    """The records of a component as they were when it was gathered, or as they were changed since."""

    idents: Mapping[bytes, IdentRecord]
    sets: Mapping[bytes, SetRecord]
    profiles: Mapping[bytes, ProfileRecord]


def held_profiles(
    idents: Mapping[bytes, IdentRecord], sets: Mapping[bytes, SetRecord], of: Component
) -> set[bytes]:
    """Return the profiles that a component's identifiers and sets belong to by these records."""
    held = {idents[ident].profile for ident in of.idents} | {sets[key].profile for key in of.sets}
    return held - {NOBODY}


def install(
    work: Working,
    before: Before,
    component: Component,
    solution: Solution,
    rows: IdentityRows,
    cause: str,
    evidence: Evidence,
) -> None:
    """Put a solution in place of what the records say, and write the journal of what that changes."""
    held = held_profiles(before.idents, before.sets, component)
    _install_idents(work, before, component, solution, rows, cause, evidence)
    _install_sets(work, before, component, solution)
    gone = held - solution.profiles.keys()
    changed = [
        key
        for key, profile in solution.profiles.items()
        if (known := before.profiles.get(key)) is None or _content(known) != _content(profile)
    ]
    work.load_profiles([*gone, *changed])
    for key in gone:
        work.profiles.pop(key, None)
    for key in changed:
        work.profiles[key] = solution.profiles[key]
    work.touch_profiles([*gone, *changed])


def _content(profile: ProfileRecord) -> tuple[bytes, int, set[tuple[bytes, str]], set[bytes]]:
    return profile.position, profile.merges, set(profile.idents), set(profile.sets)


def _install_idents(
    work: Working,
    before: Before,
    component: Component,
    solution: Solution,
    rows: IdentityRows,
    cause: str,
    evidence: Evidence,
) -> None:
    changed = []
    for ident, owner in solution.owners.items():
        record = before.idents[ident]
        if record.profile != owner or record.linked_at != solution.linked_at.get(ident, 0):
            changed.append(ident)
    changed.sort()
    work.load_idents(changed)
    for ident in changed:
        record, owner = work.idents[ident], solution.owners[ident]
        if record.profile != owner:
            rows.add_update(component.collection, ident, record.profile, owner, cause, *evidence)
        record.profile, record.linked_at = owner, solution.linked_at.get(ident, 0)
    work.touch_idents(changed)


def _install_sets(work: Working, before: Before, component: Component, solution: Solution) -> None:
    refusing = [key for key in component.sets if key in solution.refusals or before.sets[key].refused]
    refused = work.tx.get_many(work.workspace, Db.REFUSALS, sorted(refusing))
    changed = []
    for key, anchor in component.sets.items():
        record = before.sets[key]
        first, profile = solution.set_profiles[key]
        told = (record.anchor, record.first_profile, record.profile, record.refused)
        if told != (anchor, first, profile, key in solution.refusals):
            changed.append(key)
    for key in refusing:
        written = encode(solution.refusals[key]) if key in solution.refusals else None
        if refused.get(key) != written:
            if written is None:
                work.tx.delete(work.workspace, Db.REFUSALS, key)
            else:
                work.tx.put(work.workspace, Db.REFUSALS, key, written)
            work.publish_refusals(key)
    work.load_sets(changed)
    for key in changed:
        record = work.sets[key]
        record.anchor = component.sets[key]
        record.first_profile, record.profile = solution.set_profiles[key]
        record.refused = key in solution.refusals
    work.touch_sets(changed, publish=True)
