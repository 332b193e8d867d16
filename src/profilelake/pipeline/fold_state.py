"""The online state that the facts in the lake say, whole, from a `Fold`."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.degree import several_of_one_type
from profilelake.identity.poison import NEVER
from profilelake.identity.problem import CAUSES, rules_by_strength
from profilelake.kernels import siphash
from profilelake.pipeline.fold_facts import received_at
from profilelake.pipeline.fold_profiles import last_writes
from profilelake.pipeline.fold_spells import memberships
from profilelake.pipeline.fold_statements import last_statements
from profilelake.pipeline.rebuild import Fold
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.records import (
    NOBODY,
    ActivityRecord,
    ConsentRecord,
    IdentRecord,
    MembershipRecord,
    ProfileRecord,
    QuarantineRecord,
    RefusalRecord,
    SetRecord,
    SightingRecord,
    TraitRecord,
)


@dataclass(frozen=True, slots=True)
class Records:
    """The online state of one collection.

    `memberships` are by both sets of a pair. `sightings` are by set and window; none unless rules have windows.
    """

    idents: dict[bytes, IdentRecord]
    sets: dict[bytes, SetRecord]
    activity: dict[bytes, ActivityRecord]
    profiles: dict[bytes, ProfileRecord]
    traits: dict[bytes, dict[str, TraitRecord]]
    refusals: dict[bytes, list[RefusalRecord]]
    sightings: dict[bytes, SightingRecord]
    quarantine: dict[bytes, QuarantineRecord]
    links: list[tuple[bytes, bytes]]
    consent: dict[bytes, ConsentRecord]
    memberships: dict[bytes, MembershipRecord]


def records(folded: Fold) -> Records:
    """Return what the online state must hold for this collection."""
    number = COLLECTIONS.index(folded.collection)
    set_keys = siphash.to_bytes(folded.facts.set_ids)
    keys = [*(set_keys[row] for row in folded.resolution.founding_set.tolist()), NOBODY]  # -1 is nobody
    known = siphash.to_bytes(folded.facts.identifiers.ids)
    ident_ids = [known[number] for number in folded.facts.numbers.tolist()]
    refusals = _refusals(folded, known, set_keys, keys)
    sets: dict[bytes, SetRecord] = {}
    activity: dict[bytes, ActivityRecord] = {}
    links: list[tuple[bytes, bytes]] = []
    offsets = folded.facts.offsets.tolist()
    columns = ("position", "message_id", "source_id", "events")
    last = ("last_position", "last_message_id", "last_source_id")
    for key, start, stop, anchor, profile, first, position, message_id, source_id, events, *seen in zip(
        set_keys,
        offsets[:-1],
        offsets[1:],
        folded.anchor_identifiers().tolist(),
        folded.resolution.set_profile.tolist(),
        folded.resolution.set_first_profile.tolist(),
        *(folded.sets.column(name).to_pylist() for name in (*columns, *last)),
        strict=True,
    ):
        members = ident_ids[start:stop]
        links += [(ident, key) for ident in members]
        sets[key] = SetRecord(
            number,
            b"".join(members),
            b"" if anchor < 0 else known[anchor],
            keys[profile],
            keys[first],
            position,
            message_id,
            source_id,
            key in refusals,
        )
        activity[key] = ActivityRecord(events, *seen)
    return Records(
        idents=_idents(folded, number, keys),
        sets=sets,
        activity=activity,
        profiles=_profiles(folded, number, sets, keys),
        traits=_set_traits(folded, set_keys),
        refusals=refusals,
        sightings=_sightings(folded, set_keys),
        quarantine=_quarantine(folded, number, known),
        links=links,
        consent=last_statements(folded.facts.statements).records(set_keys),
        memberships=memberships(folded.facts.links, folded.held),
    )


def _idents(folded: Fold, number: int, keys: list[bytes]) -> dict[bytes, IdentRecord]:
    known = folded.facts.identifiers
    columns = ["first_source_id", "first_message_id", "first_position"]
    seen = folded.facts.sightings.select(columns).take(pa.array(folded.facts.first_seen()))
    return {
        ident: IdentRecord(number, type, value, source_id, message_id, at, position, keys[owner], linked_at)
        for ident, type, value, source_id, message_id, position, at, owner, linked_at in zip(
            siphash.to_bytes(known.ids),
            known.types.to_pylist(),
            known.values.to_pylist(),
            *(column.to_pylist() for column in seen.columns),
            received_at(seen.column("first_position")).tolist(),
            folded.owners.tolist(),
            folded.linked_at.tolist(),
            strict=True,
        )
    }


def _profiles(
    folded: Fold, number: int, sets: dict[bytes, SetRecord], keys: list[bytes]
) -> dict[bytes, ProfileRecord]:
    merges = folded.resolution.profiles.merges.tolist()
    profiles = {
        keys[profile]: ProfileRecord(number, sets[keys[profile]].position, [], [], merges[profile])
        for profile, survivor in enumerate(folded.resolution.survivor.tolist())
        if profile == survivor
    }
    known = folded.facts.identifiers
    owned = zip(siphash.to_bytes(known.ids), known.types.to_pylist(), folded.owners.tolist(), strict=True)
    for ident, type, owner in owned:
        if owner >= 0:
            profiles[keys[owner]].idents.append((ident, type))
    for key, record in sets.items():
        if record.profile != NOBODY:
            profiles[record.profile].sets.append(key)
    return profiles


def _set_traits(folded: Fold, set_keys: list[bytes]) -> dict[bytes, dict[str, TraitRecord]]:
    found: dict[bytes, dict[str, TraitRecord]] = {}
    writes = folded.facts.traits
    names = pc.unique(writes.column("trait"))
    trait = pc.index_in(writes.column("trait"), value_set=names).to_numpy().astype(np.int64)
    last = last_writes(writes, writes.column("row").to_numpy() * len(names) + trait)
    names = ("row", "trait", "value", "timestamp", "position", "source_id", "message_id")
    columns = [column.to_pylist() for column in writes.select(names).take(pa.array(last)).columns]
    for row, name, *written in zip(*columns, strict=True):
        found.setdefault(set_keys[row], {})[name] = TraitRecord(*written)
    return found


def _refusals(
    folded: Fold, known: list[bytes], set_keys: list[bytes], keys: list[bytes]
) -> dict[bytes, list[RefusalRecord]]:
    resolution = folded.resolution
    types = [rule.type for rule in rules_by_strength(folded.rules, folded.collection)]
    found: dict[bytes, list[RefusalRecord]] = {}
    for row, against, ident, cause, type in zip(
        resolution.refusal_set.tolist(),
        folded.refusal_profile.tolist(),
        resolution.refusal_ident.tolist(),
        resolution.refusal_cause.tolist(),
        resolution.refusal_type.tolist(),
        strict=True,
    ):
        found.setdefault(set_keys[row], []).append(
            RefusalRecord(
                known[int(folded.by_identifier.ident_row[ident])],
                types[int(folded.by_identifier.problem.ident_type[ident])],
                keys[against],
                CAUSES[cause],
                types[type] if type >= 0 else "",
            )
        )
    return found


def _sightings(folded: Fold, set_keys: list[bytes]) -> dict[bytes, SightingRecord]:
    if common_window(folded.rules, folded.collection) is None:
        return {}
    columns = ["first_position", "first_message_id", "first_source_id"]
    seen = folded.facts.sightings.select(columns).take(pa.array(folded.entries.sightings))
    return {
        set_keys[row] + window.to_bytes(8, "big"): SightingRecord(*sighting)
        for row, window, *sighting in zip(
            folded.entries.sets.tolist(),
            folded.entries.windows.tolist(),
            *(column.to_pylist() for column in seen.columns),
            strict=True,
        )
    }


def _quarantine(folded: Fold, number: int, known: list[bytes]) -> dict[bytes, QuarantineRecord]:
    """Return what `identity.poison` must know of the identifiers that came near the limit."""
    most, facts = folded.rules.degree_max, folded.facts
    if most is None or not known:
        return {}
    codes = pc.index_in(facts.identifiers.types, value_set=folded.types).to_numpy().astype(np.int32)
    sets = np.bincount(facts.numbers, minlength=len(known))
    extra = several_of_one_type(facts.offsets, codes, facts.numbers)
    met = {
        ident: (degree, folded.types[type].as_py())
        for ident, degree, type in zip(
            folded.degrees.ident.tolist(),
            folded.degrees.degree.tolist(),
            folded.degrees.type.tolist(),
            strict=True,
        )
    }
    last = np.zeros(len(known), dtype=np.int64)
    set_of = np.repeat(np.arange(len(facts.offsets) - 1), np.diff(facts.offsets))
    np.maximum.at(last, facts.numbers, set_of)
    positions = facts.sightings.column("first_position")
    found = {}
    for ident in np.flatnonzero((sets + extra > most) | (extra > 0)).tolist():
        count, more = int(sets[ident]), int(extra[ident])
        if count + more <= most:
            found[known[ident]] = QuarantineRecord(number, "", 0, b"", False, most + 1, more)
            continue
        # Who was not counted met too few; that it met just as many has it counted soon.
        degree, type = met.get(ident, (most, ""))
        active = degree > most
        again_at = NEVER if active else count + more + 1 + most - degree
        position = positions[int(facts.first_sighting[last[ident]])].as_py()
        found[known[ident]] = QuarantineRecord(number, type, degree, position, active, again_at, more)
    return found
