"""Step 5 of a rebuild: who is who, component by component.

Sets that hang together are in one part, with all sightings of them, so that `pipeline.rebuild` decides in a part
what it would decide in the whole. No texts are there but those that put two identifiers of one type in order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine, PartNumbers
from profilelake.engines.jobs import Job
from profilelake.engines.kept import ROW_GROUP_ROWS, KeptFile, keep
from profilelake.engines.keys import parts_by_id
from profilelake.errors import Invalid
from profilelake.identity.degree import Degrees
from profilelake.identity.facts import Standing
from profilelake.identity.problem import CAUSES, is_among, rules_by_strength
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Rows, facts_of, one, words
from profilelake.pipeline.rebuild import Fold, fold_apart
from profilelake.plans._answers import Answer, kept_answer, together, whole
from profilelake.plans.facts import SetFiles
from profilelake.plans.found import Found, FoundFile, components_of
from profilelake.plans.members import Members, ids_of, sets_only
from profilelake.plans.parts import PartOf
from profilelake.plans.rows import FOUNDED, ID, KNOWN, OWNED, REFUSED, SEEN, SETS, VALUES, WINDOWS
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import IdentityRules

ASKED: Final = pa.schema([("ident_id", ID), ("part", pa.int32())])
"""Identifiers whose values a part must compare."""
TEXTS: Final = pa.schema([("ident_id", ID), ("part", pa.int32()), ("value", pa.string())])
"""The same with their values."""

_HEAVY: Final = "sets of part "


class Placed(msgspec.Struct, frozen=True):
    """A part of sets, and for each row of `known` the part of components it goes to."""

    files: SetFiles
    parts: KeptFile


def resolve_parts(
    engine: Engine,
    job: Job,
    sets: Sequence[SetFiles],
    found: Found,
    values: Sequence[KeptFile],
    ident_parts: int,
    held: Standing,
    apart: Sequence[KeptFile],
    lost: Sequence[KeptFile],
    *,
    several: bool,
    sets_per_task_max: int,
) -> Answer:
    """Keep what is decided of sets and identifiers, by parts of components.

    `apart` are the identifiers that link nobody, `lost` those that are left out. `several`: some sets have more
    than one identifier of a type.

    Raises:
        Invalid: a component has more than `sets_per_task_max` sets.
    """
    placing = _Place(job.storage, job.folder("place"), found.part_of, several, sets_per_task_max // 2)
    units = [_Placing(files, of, len(sets)) for files, of in zip(sets, found.files, strict=True)]
    placed = job.step("place", lambda: engine.each("place", units, placing))
    told = together(placed)
    heaviest = max((count for name, count in told.counts.items() if name.startswith(_HEAVY)), default=0)
    if heaviest > sets_per_task_max:
        raise Invalid(
            f"resolving identities: about {heaviest} sets hang together, more than the {sets_per_task_max} of a "
            "task; lower degree_max in the identity rules, or block or quarantine the values that tie so many together"
        )
    parts = {file.part: file for file in told.files.get("parts", [])}
    given: list[Placed | KeptFile] = [Placed(files, parts[files.known.part]) for files in sets]
    given += _texts(engine, job, told.files.get("asked", []), values, ident_parts)
    gather = _Resolve(job.storage, job.folder("resolve"), held, tuple(apart), tuple(lost))
    inputs = {"known": KNOWN, "seen": SEEN, "texts": TEXTS}
    return together(
        job.step(
            "resolve",
            lambda: engine.spread(
                "resolve", given, _CutPlaced(job.storage), inputs, max(1, found.part_of.parts), gather
            ),
        )
    )


def _texts(
    engine: Engine, job: Job, asked: list[KeptFile], values: Sequence[KeptFile], ident_parts: int
) -> list[KeptFile]:
    """Keep the values that parts of components must compare."""
    if not asked:
        return []
    by_part: dict[int, list[KeptFile]] = {}
    for file in values:
        by_part.setdefault(file.part, []).append(file)
    answers = job.step(
        "texts",
        lambda: engine.spread(
            "texts",
            asked,
            _CutAsked(job.storage, ident_parts),
            {"asked": ASKED},
            ident_parts,
            _GatherTexts(job.storage, job.folder("texts"), by_part),
        ),
    )
    return together(answers).files.get("texts", [])


# ---- where sets go -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Placing:
    files: SetFiles
    found: FoundFile
    of: int
    """How many files there are in all."""


@dataclass(frozen=True)
class _Place:
    storage: Storage
    folder: str
    part_of: PartOf
    several: bool
    heavy: int

    def __call__(self, unit: _Placing) -> bytes:
        """Return where the parts and the identifiers asked for are, and about how many sets heavy parts have."""
        parts = self.part_of(components_of(self.storage, unit.found))
        nowhere = np.flatnonzero(parts < 0)
        # A set that links nothing may be anywhere.
        parts[nowhere] = nowhere % max(1, self.part_of.parts)
        part = unit.files.known.part
        files = {"parts": keep(self.storage, f"{self.folder}/parts", pa.table({"part": parts}), part)}
        if self.several:
            asked = _several(whole(self.storage, [unit.files.known], KNOWN), parts)
            files["asked"] = keep(self.storage, f"{self.folder}/asked", asked, part)
        counts = np.bincount(parts)
        # Ids are spread evenly over files, so what is heavy in all shows in each.
        heavy = np.flatnonzero(counts * unit.of > self.heavy)
        return Answer(files, {f"{_HEAVY}{number}": int(counts[number]) for number in heavy}).encoded()


def _several(known: pa.Table, parts: PartNumbers) -> pa.Table:
    """Return the identifiers that stand beside another one of their type, with the parts of their sets."""
    members = Members.of(known, np.empty((0, 2), dtype=np.uint64))
    rows = np.flatnonzero(members.beside_its_like())
    set_of = np.repeat(np.arange(known.num_rows), np.diff(members.offsets))[rows]
    numbers, first = dense_numbers(members.ids[rows])
    keys = np.unique(numbers.astype(np.int64) << 32 | parts[set_of])
    ids = siphash.to_arrow(members.ids[rows[first]])
    return pa.table([ids.take(pa.array(keys >> 32)), (keys & 0xFFFFFFFF).astype(np.int32)], schema=ASKED)


@dataclass(frozen=True)
class _CutAsked:
    storage: Storage
    parts: int

    def __call__(self, unit: KeptFile) -> Iterator[Cut]:
        rows = whole(self.storage, [unit], ASKED)
        yield Cut("asked", rows, parts_by_id(rows.column("ident_id"), self.parts))


@dataclass(frozen=True)
class _GatherTexts:
    storage: Storage
    folder: str
    values: dict[int, list[KeptFile]]

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        asked = tables["asked"].combine_chunks()
        columns = pa.schema([VALUES.field("ident_id"), VALUES.field("value")])
        values = whole(self.storage, self.values.get(part, ()), columns)
        known = words(values.column("ident_id"))
        numbers, first = dense_numbers(np.concatenate([known, words(asked.column("ident_id"))]))
        places = first[numbers[len(known) :]]
        valued = np.flatnonzero(places < len(known))
        chosen = values.column("value").take(pa.array(places[valued]))
        rows = asked.take(pa.array(valued)).append_column("value", chosen)
        return kept_answer(self.storage, self.folder, {"texts": rows}, part)


# ---- resolving ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CutPlaced:
    storage: Storage

    def __call__(self, unit: Placed | KeptFile) -> Iterator[Cut]:
        if isinstance(unit, KeptFile):
            texts = whole(self.storage, [unit], TEXTS)
            yield Cut("texts", texts, texts.column("part").to_numpy())
            return
        known = whole(self.storage, [unit.files.known], KNOWN)
        seen = whole(self.storage, [unit.files.seen], SEEN)
        column = whole(self.storage, [unit.parts], pa.schema([("part", pa.int32())])).column("part")
        parts = column.to_numpy()
        yield Cut("known", known, parts)
        if known.num_rows == seen.num_rows:  # one each, in the same order
            yield Cut("seen", seen, parts)
            return
        ids = words(known.column("set_id"))
        numbers, _ = dense_numbers(np.concatenate([ids, words(seen.column("set_id"))]))
        yield Cut("seen", seen, parts[numbers[len(ids) :]])


@dataclass(frozen=True)
class _Resolve:
    storage: Storage
    folder: str
    held: Standing
    apart: tuple[KeptFile, ...]
    lost: tuple[KeptFile, ...]

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        """Return where the rows are."""
        lost, apart = ids_of(self.storage, self.lost), ids_of(self.storage, self.apart)
        known, seen, texts = (tables[name].combine_chunks() for name in ("known", "seen", "texts"))
        facts = facts_of(sets_only(known, seen, lost, texts), self.held)
        # What rules say of values is among what is apart already.
        held = replace(self.held, rules=_without_values(self.held.rules))
        none = np.empty(0, dtype=np.int32)
        uncounted = Degrees(none, none.astype(np.int64), none)
        files: dict[str, list[KeptFile]] = {}
        for of_collection in facts:
            mine = apart
            if len(apart):
                ids = of_collection.identifiers.ids
                mine = ids[is_among(ids, apart)]
            folded = fold_apart(of_collection, held, mine, pa.array([], pa.string()), uncounted)
            founders = siphash.to_arrow(of_collection.set_ids[folded.resolution.founding_set])
            # In slices, as what is written takes more memory than what was decided.
            for name, rows in (
                ("sets", _sets(folded, founders)),
                ("owned", _owned(folded, founders)),
                ("founded", _founded(folded, founders)),
                ("windows", _windows(folded)),
            ):
                files.setdefault(name, []).extend(keep(self.storage, f"{self.folder}/{name}", rows, part))
        return Answer(files).encoded()


def _without_values(rules: IdentityRules) -> IdentityRules:
    types = (replace(rule, blocked_exact=frozenset(), blocked_patterns=()) for rule in rules.types)
    return replace(rules, types=tuple(types), degree_max=None)


def _sets(folded: Fold, founders: pa.Array) -> Iterator[pa.Table]:
    facts, found = folded.facts, folded.resolution
    types, ids = one(facts.identifiers.types), siphash.to_arrow(facts.identifiers.ids)
    anchors = folded.anchor_identifiers()
    first = ["first_position", "first_message_id", "first_source_id"]
    last = ["last_position", "last_message_id", "last_source_id"]
    refused = _refused(folded, founders, ids)
    fields = list(KNOWN.field("identifiers").type.value_type)
    for rows in _slices(len(facts.set_ids)):
        offsets = facts.offsets[rows.start : rows.stop + 1]
        numbers = pa.array(facts.numbers[offsets[0] : offsets[-1]])
        members = pa.StructArray.from_arrays([types.take(numbers), ids.take(numbers)], fields=fields)
        seen = facts.sightings.select(first).take(pa.array(facts.first_sighting[rows]))
        later = facts.sightings.select(last).take(pa.array(facts.last_sighting[rows]))
        yield pa.table(
            [
                siphash.to_arrow(facts.set_ids[rows]),
                pa.repeat(pa.scalar(folded.collection), rows.stop - rows.start),
                pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), members),
                _taken(ids, anchors[rows]),
                _taken(founders, found.set_profile[rows]),
                _taken(founders, found.set_first_profile[rows]),
                refused.slice(rows.start, rows.stop - rows.start),
                *seen.columns,
                *later.columns,
                pa.array(facts.events[rows]),
            ],
            schema=SETS,
        )


def _refused(folded: Fold, founders: pa.Array, ids: pa.Array) -> pa.Array:
    """Return for each set what it did not join, in the order in which that happened."""
    found = folded.resolution
    order = np.argsort(found.refusal_set, kind="stable")
    bounds = np.searchsorted(found.refusal_set[order], np.arange(len(folded.facts.set_ids) + 1))
    rows = folded.by_identifier.ident_row[found.refusal_ident[order]]
    causes = pa.array([CAUSES.get(code) for code in range(max(CAUSES) + 1)], pa.string())
    types = pa.array([rule.type for rule in rules_by_strength(folded.rules, folded.collection)], pa.string())
    refused = pa.StructArray.from_arrays(
        [
            ids.take(pa.array(rows)),
            one(folded.facts.identifiers.types).take(pa.array(rows)),
            _taken(founders, folded.refusal_profile[order]),
            causes.take(pa.array(found.refusal_cause[order])),
            _taken(types, found.refusal_type[order]),
        ],
        fields=list(REFUSED),
    )
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), refused)


def _owned(folded: Fold, founders: pa.Array) -> Iterator[pa.Table]:
    facts = folded.facts
    columns = ["first_position", "first_message_id", "first_source_id"]
    first_seen = facts.first_seen()
    for rows in _slices(len(first_seen)):
        seen = facts.sightings.select(columns).take(pa.array(first_seen[rows]))
        yield pa.table(
            [
                siphash.to_arrow(facts.identifiers.ids[rows]),
                _taken(founders, folded.owners[rows]),
                pa.array(folded.linked_at[rows]),
                *seen.columns,
            ],
            schema=OWNED,
        )


def _founded(folded: Fold, founders: pa.Array) -> pa.Table:
    found = folded.resolution
    alive = np.flatnonzero(found.survivor == np.arange(len(found.survivor)))
    return pa.table(
        [
            founders.take(pa.array(alive)),
            pa.repeat(pa.scalar(folded.collection), len(alive)),
            pa.array(found.profiles.merges[alive].astype(np.int64)),
        ],
        schema=FOUNDED,
    )


def _windows(folded: Fold) -> Iterator[pa.Table]:
    if common_window(folded.rules, folded.collection) is None:
        return
    facts, entries = folded.facts, folded.entries
    columns = ["first_position", "first_message_id", "first_source_id"]
    for rows in _slices(len(entries.sets)):
        seen = facts.sightings.select(columns).take(pa.array(entries.sightings[rows]))
        ids = siphash.to_arrow(facts.set_ids[entries.sets[rows]])
        yield pa.table([ids, pa.array(entries.windows[rows]), *seen.columns], schema=WINDOWS)


def _slices(rows: int) -> Iterator[slice]:
    for start in range(0, rows, ROW_GROUP_ROWS):
        yield slice(start, min(rows, start + ROW_GROUP_ROWS))


def _taken(values: pa.Array, numbers: Rows | npt.NDArray[np.int32]) -> pa.Array:
    """Return `values[number]`, null where the number is -1."""
    return values.take(pa.array(numbers, pa.int64(), mask=numbers < 0))
