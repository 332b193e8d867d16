"""Resolve sets that come in order: from the profiles their identifiers have now, through the compiled kernel."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from profilelake.errors import Internal
from profilelake.identity import replay
from profilelake.identity.facts import Standing
from profilelake.identity.linking import Linking
from profilelake.identity.problem import CAUSES
from profilelake.identity.replay import Entry
from profilelake.identity.rows import IdentityRows
from profilelake.kernels import identity as kernel
from profilelake.semantics.rules import Collection
from profilelake.state.records import (
    NOBODY,
    ProfileRecord,
    RefusalRecord,
    decode_refusals,
    encode,
    received_at,
)
from profilelake.state.store import Db
from profilelake.state.working import Working


def resolve(
    work: Working,
    collection: Collection,
    entries: list[Entry],
    rows: IdentityRows,
    linking: Linking,
    held: Standing,
) -> None:
    """Resolve entries in position order, all after what was applied; each may link something."""
    members, idents = replay.numbered(entries)
    owners = {work.idents[ident].profile for ident in idents} - {NOBODY}
    work.load_profiles(owners)
    profiles = sorted(owners, key=lambda key: work.profiles[key].position)
    if held.unlinks:
        # Members that may not meet each other must be known, though no set here names them.
        types = linking.types[collection]
        among = {ident for key in profiles for ident, type in work.profiles[key].idents if type in types}
        idents += sorted((among & held.unlinks.keys()).difference(idents))
        work.load_idents(idents)
    resolution = _ask_kernel(work, collection, entries, members, idents, profiles, linking, held)
    _carry_out(work, collection, entries, idents, profiles, resolution, rows, linking)


def _ask_kernel(
    work: Working,
    collection: Collection,
    entries: list[Entry],
    members: kernel.Int32s,
    idents: list[bytes],
    profiles: list[bytes],
    linking: Linking,
    held: Standing,
) -> kernel.Resolution:
    types = linking.types[collection]
    code = {type: number for number, type in enumerate(types)}
    row = {key: number for number, key in enumerate(profiles)} | {NOBODY: -1}
    type_limit, type_window = linking.limits(collection)
    return kernel.resolve(
        kernel.Problem(
            set_offsets=replay.offsets(entries),
            set_idents=members,
            ident_type=np.array([code[work.idents[ident].type] for ident in idents], dtype=np.int32),
            type_limit=type_limit,
            type_window=type_window,
            set_time=replay.times(entries),
            lowest_priority=linking.rules.demotion == "lowest_priority",
            identifiers_max=linking.rules.identifiers_max,
            merges_max=linking.rules.merges_max,
            ident_profile=np.array([row[work.idents[ident].profile] for ident in idents], dtype=np.int32),
            profiles=_counted(work, code, profiles, type_window),
            unlinks=replay.pairs(held, {ident: number for number, ident in enumerate(idents)})
            if held.unlinks
            else np.empty((0, 2), dtype=np.int32),
        )
    )


def _counted(
    work: Working, code: dict[str, int], profiles: list[bytes], type_window: kernel.Int64s
) -> kernel.Profiles:
    """Return the counters of profiles as they are now; a windowed one is that of its last window."""
    counts = np.zeros((len(profiles), len(code)), dtype=np.uint16)
    windowed = np.flatnonzero(type_window).tolist()
    windows = np.zeros((len(profiles), len(windowed)), dtype=np.int64)
    column = {type: place for place, type in enumerate(windowed)}
    if windowed:
        work.load_idents(ident for key in profiles for ident, _ in work.profiles[key].idents)
    for number, key in enumerate(profiles):
        for ident, name in work.profiles[key].idents:
            type = code.get(name, -1)
            if type < 0:
                continue  # of a type that new rules do not know; the profile waits to be resolved again
            if type not in column:
                counts[number, type] += 1
                continue
            window = work.idents[ident].linked_at // int(type_window[type])
            place = column[type]
            if not counts[number, type] or window > windows[number, place]:
                windows[number, place], counts[number, type] = window, 0
            counts[number, type] += window == windows[number, place]
    return kernel.Profiles(
        counts=counts,
        members=np.array([len(work.profiles[key].idents) for key in profiles], dtype=np.int32),
        merges=np.array([work.profiles[key].merges for key in profiles], dtype=np.int32),
        windows=windows,
    )


def _carry_out(
    work: Working,
    collection: Collection,
    entries: list[Entry],
    idents: list[bytes],
    profiles: list[bytes],
    resolution: kernel.Resolution,
    rows: IdentityRows,
    linking: Linking,
) -> None:
    """Do to the records what the kernel decided, entry by entry, and write the journal of it."""
    keys = [*profiles, *(entries[number].key for number in resolution.founding_set.tolist())]
    merges = _by_set(resolution.merge_set, resolution.merge_survivor, resolution.merge_loser)
    refusals = _by_set(
        resolution.refusal_set,
        resolution.refusal_ident,
        resolution.refusal_owner,
        resolution.refusal_cause,
        resolution.refusal_type,
    )
    windowed = linking.windows[collection] is not None
    joined: list[bytes] = []
    for number, first_profile in enumerate(resolution.set_first_profile.tolist()):
        entry, key = entries[number], keys[first_profile]
        for survivor, loser in merges.get(number, ()):
            _merge(work, collection, keys[survivor], keys[loser], entry, rows)
        refused = refusals.get(number)
        out: Container[bytes] = () if refused is None else {idents[ident] for ident, *_ in refused}
        joined += _join(work, collection, entry, key, out, rows, windowed=windowed)
        if refused is not None:
            _refuse(work, collection, entry, key, refused, idents, linking)
    work.touch_idents(joined)
    work.touch_sets([entry.key for entry in entries], publish=True)
    work.touch_profiles([keys[number] for number in resolution.set_profile.tolist()])
    final = resolution.set_profile.tolist()
    for number, entry in enumerate(entries):
        if entry.record.profile != keys[final[number]]:
            raise Internal(f"resolving set {entry.key.hex()}: records and kernel disagree")


def _refuse(
    work: Working,
    collection: Collection,
    entry: Entry,
    key: bytes,
    refusals: Sequence[tuple[int, ...]],
    idents: list[bytes],
    linking: Linking,
) -> None:
    types = linking.types[collection]
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
    before = work.tx.get(work.workspace, Db.REFUSALS, entry.key) if entry.record.refused else None
    if before is not None:
        # Refused in an earlier window too.
        records = [*decode_refusals(before), *records]
    entry.record.refused = True
    work.tx.put(work.workspace, Db.REFUSALS, entry.key, encode(records))
    work.publish_refusals(entry.key)


def _join(
    work: Working,
    collection: Collection,
    entry: Entry,
    key: bytes,
    refused: Container[bytes],
    rows: IdentityRows,
    *,
    windowed: bool,
) -> list[bytes]:
    """Let a set join a profile, which it founds where there is none; return the identifiers that joined."""
    profile = work.profiles.get(key)
    cause = "joined"
    if profile is None:
        cause = "created"
        profile = ProfileRecord(entry.record.collection, entry.first.position, [], [])
        work.profiles[key] = profile
    joined = []
    at = received_at(entry.first.position) if windowed else 0
    for ident in entry.idents:
        record = work.idents[ident]
        if record.profile == NOBODY and ident not in refused:
            record.profile, record.linked_at = key, at
            profile.idents.append((ident, record.type))
            rows.add_update(collection, ident, NOBODY, key, cause, entry.key, entry.first)
            joined.append(ident)
    if entry.record.profile == NOBODY:
        profile.sets.append(entry.key)
        entry.record.first_profile = key
    entry.record.profile = key
    return joined


def _merge(
    work: Working, collection: Collection, survivor: bytes, loser: bytes, evidence: Entry, rows: IdentityRows
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
