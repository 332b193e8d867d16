"""Step 3 of a rebuild: how many others those identifiers meet that may meet too many, and who links nobody.

Whom an identifier meets is counted where the others' ids put them, so one that meets half of all people is
counted by all tasks together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.engines.keys import parts_by_id
from profilelake.errors import Invalid
from profilelake.identity.facts import Standing
from profilelake.identity.poison import NEVER
from profilelake.identity.problem import is_among
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Facts, Rows, facts_of, in_order, words
from profilelake.pipeline.rebuild import trusted_sets
from profilelake.plans._answers import Answer, kept_answer, together, whole
from profilelake.plans.facts import SetFiles
from profilelake.plans.members import IDS, Members, ids_of, sets_only
from profilelake.plans.rows import ID, KNOWN, POSITION, QUARANTINE, SEEN
from profilelake.plans.values import WATCHED

WATCHED_MAX: Final = 1 << 25
"""Identifiers whose degrees may be counted; each task holds their ids (16 bytes each)."""
APART_MAX: Final = 1 << 25
"""Identifiers that link nobody; each task holds their ids."""

PAIRS: Final = pa.schema([("ident_id", ID), ("other_id", ID), ("type", pa.string()), ("trusted", pa.bool_())])
"""An identifier, one of another type that it meets, and whether a trusted set shows it."""
LASTS: Final = pa.schema([("ident_id", ID), ("position", POSITION), ("attested", pa.bool_())])
"""When the last of an identifier's sets was first seen, and whether a trusted one that counts shows it."""
COUNTS: Final = pa.schema(
    [("ident_id", ID), ("type", pa.string()), ("met", pa.int64()), ("met_trusted", pa.int64())]
)
"""How many of a type an identifier meets: in all sets that count, and in trusted ones."""


def find_apart(
    engine: Engine,
    job: Job,
    values: Answer,
    parts: int,
    sets: Sequence[SetFiles],
    held: Standing,
    untrusted: frozenset[str],
    lost: Sequence[KeptFile],
) -> Answer:
    """Keep the ids of all identifiers that link nobody (`apart`), and what the state must know (`quarantine`).

    Raises:
        Invalid: there are more of them than a task holds.
    """
    _check("meet nearly too many", values.counts.get("watched", 0), WATCHED_MAX, "raise degree_max")
    blocked = values.counts.get("apart", 0) + len(held.quarantined)
    _check("are blocked", blocked, APART_MAX, "let no rule know a type rather than block most of its values")
    watched = tuple(values.files.get("watched", ()))
    counted = Answer()
    if watched:
        counted = together(
            job.step(
                "degrees",
                lambda: engine.spread(
                    "degrees",
                    sets,
                    _CutPairs(job.storage, watched, tuple(lost), held, untrusted, parts),
                    {"pairs": PAIRS, "lasts": LASTS},
                    parts,
                    _CountPairs(job.storage, job.folder("degrees")),
                ),
            )
        )
    told = _Told(
        apart=values.files.get("apart", []),
        watched=list(watched),
        counts=counted.files.get("counts", []),
        lasts=counted.files.get("lasts", []),
    )
    decide = _DecideApart(job.storage, job.folder("apart"), held)
    found = together(job.step("apart", lambda: engine.each("apart", [told], decide)))
    _check("link nobody", found.counts.get("apart", 0), APART_MAX, "raise degree_max")
    return found


def _check(what: str, count: int, most: int, hint: str) -> None:
    if count > most:
        raise Invalid(f"resolving identities: {count} identifiers {what}, more than {most}; {hint}")


@dataclass(frozen=True)
class _Told:
    apart: list[KeptFile]
    watched: list[KeptFile]
    counts: list[KeptFile]
    lasts: list[KeptFile]


@dataclass(frozen=True)
class _CutPairs:
    storage: Storage
    watched: tuple[KeptFile, ...]
    lost: tuple[KeptFile, ...]
    held: Standing
    untrusted: frozenset[str]
    parts: int

    def __call__(self, unit: SetFiles) -> Iterator[Cut]:
        watched = whole(self.storage, self.watched, WATCHED)
        ids = words(watched.column("ident_id"))
        near = ids[np.flatnonzero(watched.column("near").to_numpy(zero_copy_only=False))]
        known = whole(self.storage, [unit.known], KNOWN)
        members = Members.of(known, ids_of(self.storage, self.lost))
        hits = np.append(0, np.cumsum(is_among(members.ids, ids)))
        touched = np.flatnonzero(np.diff(hits[members.offsets]))
        if not len(touched):
            return
        known = known.take(pa.array(touched))
        seen = whole(self.storage, [unit.seen], SEEN)
        chosen = is_among(words(seen.column("set_id")), words(known.column("set_id")))
        seen = seen.filter(pa.array(chosen)).combine_chunks()
        lost = ids_of(self.storage, self.lost)
        for facts in facts_of(sets_only(known, seen, lost), self.held):
            trusted = trusted_sets(facts, self.untrusted)
            for name, rows, key in (
                ("lasts", _lasts(facts, trusted, ids), "ident_id"),
                ("pairs", _pairs(facts, trusted, near), "other_id"),
            ):
                yield Cut(name, rows, parts_by_id(rows.column(key), self.parts))


def _lasts(facts: Facts, trusted: npt.NDArray[np.bool_], watched: siphash.Words) -> pa.Table:
    count = len(facts.identifiers.ids)
    set_of = np.repeat(np.arange(len(facts.offsets) - 1), np.diff(facts.offsets))
    last = np.zeros(count, dtype=np.int64)
    # Sets stand in the order in which they were first seen.
    np.maximum.at(last, facts.numbers, set_of)
    attested = np.zeros(count, dtype=np.bool_)
    attested[facts.numbers[(trusted & facts.counts)[set_of]]] = True
    rows = np.flatnonzero(is_among(facts.identifiers.ids, watched))
    positions = facts.sightings.column("first_position").take(pa.array(facts.first_sighting[last[rows]]))
    return pa.table(
        [siphash.to_arrow(facts.identifiers.ids[rows]), positions, pa.array(attested[rows])], schema=LASTS
    )


def _pairs(facts: Facts, trusted: npt.NDArray[np.bool_], near: siphash.Words) -> pa.Table:
    """Return whom those that are near meet in the sets that count, each pair once."""
    numbers, ids = facts.numbers, facts.identifiers.ids
    types = facts.identifiers.types
    codes = pc.index_in(types, value_set=pc.unique(types)).to_numpy(zero_copy_only=False)
    sizes = np.diff(facts.offsets)
    set_of = np.repeat(np.arange(len(sizes)), sizes)
    asked = np.flatnonzero(is_among(ids, near)[numbers] & facts.counts[set_of]) if len(ids) else set_of
    repeats = sizes[set_of[asked]]
    starts = np.cumsum(repeats) - repeats
    other = np.arange(repeats.sum()) - np.repeat(starts, repeats)
    other += np.repeat(facts.offsets[set_of[asked]], repeats)
    one = np.repeat(asked, repeats)
    different = codes[numbers[one]] != codes[numbers[other]]
    one, other = one[different], other[different]
    key = numbers[one].astype(np.int64) * len(ids) + numbers[other]
    known, of = np.unique(key, return_inverse=True)
    shown = np.bincount(of[trusted[set_of[one]]], minlength=len(known)) > 0
    ident, met = np.divmod(known, max(len(ids), 1))
    return pa.table(
        [
            siphash.to_arrow(ids[ident]),
            siphash.to_arrow(ids[met]),
            types.take(pa.array(met)),
            pa.array(shown),
        ],
        schema=PAIRS,
    )


@dataclass(frozen=True)
class _CountPairs:
    storage: Storage
    folder: str

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        rows = {"counts": _counted(tables["pairs"]), "lasts": _latest(tables["lasts"])}
        return kept_answer(self.storage, self.folder, rows, part)


def _counted(pairs: pa.Table) -> pa.Table:
    """Return how many different others of each type there are."""
    (ident, idents), (other, others) = (
        dense_numbers(words(pairs.column(name))) for name in ("ident_id", "other_id")
    )
    names = pc.unique(pairs.column("type"))
    code = pc.index_in(pairs.column("type"), value_set=names).to_numpy()
    known, row, of = np.unique(
        ident.astype(np.int64) * max(len(others), 1) + other, return_index=True, return_inverse=True
    )
    shown = np.bincount(of[pairs.column("trusted").to_numpy(zero_copy_only=False)], minlength=len(known)) > 0
    group = ident[row].astype(np.int64) * max(len(names), 1) + code[row]
    groups, of = np.unique(group, return_inverse=True)
    ident, code = np.divmod(groups, max(len(names), 1))
    return pa.table(
        [
            pairs.column("ident_id").take(pa.array(idents[ident])),
            names.take(pa.array(code)),
            pa.array(np.bincount(of, minlength=len(groups))),
            pa.array(np.bincount(of[shown], minlength=len(groups))),
        ],
        schema=COUNTS,
    )


def _latest(lasts: pa.Table) -> pa.Table:
    """Return one row for each identifier."""
    numbers, first = dense_numbers(words(lasts.column("ident_id")))
    order = in_order(lasts.column("position"))
    last = np.zeros(len(first), dtype=np.int64)
    last[numbers[order]] = order
    attested = np.zeros(len(first), dtype=np.bool_)
    attested[numbers[lasts.column("attested").to_numpy(zero_copy_only=False)]] = True
    chosen = lasts.select(["ident_id", "position"]).take(pa.array(last))
    return pa.table([*chosen.columns, pa.array(attested)], schema=LASTS)


@dataclass(frozen=True)
class _DecideApart:
    storage: Storage
    folder: str
    held: Standing

    def __call__(self, told: _Told) -> bytes:
        watched = whole(self.storage, told.watched, WATCHED)
        ids = words(watched.column("ident_id"))
        degree, type = self._degrees(told, ids)
        most = self.held.rules.degree_max
        beyond = ids[:0] if most is None else ids[degree > most]
        sets_apart = [
            ids_of(self.storage, told.apart),
            beyond[~is_among(beyond, _words(self.held.released))],
            _words(self.held.quarantined),
        ]
        apart = np.concatenate(sets_apart)
        apart = apart[dense_numbers(apart)[1]]
        rows = {
            "apart": pa.table([siphash.to_arrow(apart)], schema=IDS),
            "quarantine": QUARANTINE.empty_table()
            if most is None
            else self._quarantine(told, watched, degree, type, most),
        }
        return kept_answer(self.storage, self.folder, rows, -1, apart=len(apart))

    def _degrees(self, told: _Told, ids: siphash.Words) -> tuple[Rows, pa.Array]:
        """Return the greatest degree of each watched identifier and of which type; -1 where nobody was counted."""
        counts, lasts = (
            whole(self.storage, files, schema)
            for files, schema in ((told.counts, COUNTS), (told.lasts, LASTS))
        )
        all_ids = np.concatenate([ids, words(lasts.column("ident_id")), words(counts.column("ident_id"))])
        numbers, _ = dense_numbers(all_ids)
        _, last_of, count_of = np.split(numbers, np.cumsum([len(ids), lasts.num_rows]))
        attested = np.zeros(len(ids), dtype=np.bool_)
        attested[last_of[lasts.column("attested").to_numpy(zero_copy_only=False)]] = True
        names = pa.array(sorted(pc.unique(counts.column("type")).to_pylist()), pa.string())
        code = pc.index_in(counts.column("type"), value_set=names).to_numpy()
        groups, of = np.unique(count_of.astype(np.int64) * max(len(names), 1) + code, return_inverse=True)
        ident, code = np.divmod(groups, max(len(names), 1))
        met, met_trusted = (
            np.bincount(of, weights=counts.column(name).to_numpy(), minlength=len(groups)).astype(np.int64)
            for name in ("met", "met_trusted")
        )
        met = np.where(attested[ident], met_trusted, met)
        ident, code, met = ident[met > 0], code[met > 0], met[met > 0]
        # Backwards, so that the greatest count of each stays, and of equal ones that of the first type.
        order = np.lexsort((code, -met, ident))[::-1]
        degree, type = (np.full(len(ids), -1, dtype=np.int64) for _ in range(2))
        degree[ident[order]], type[ident[order]] = met[order], code[order]
        return degree, names.take(pa.array(type, mask=type < 0))

    def _quarantine(
        self, told: _Told, watched: pa.Table, degree: Rows, type: pa.Array, most: int
    ) -> pa.Table:
        """Return what `pipeline.fold_state` says of those that came near the limit."""
        lasts = whole(self.storage, told.lasts, LASTS)
        known = words(lasts.column("ident_id"))
        numbers, first = dense_numbers(np.concatenate([known, words(watched.column("ident_id"))]))
        rows = np.flatnonzero(watched.column("noted").to_numpy(zero_copy_only=False))
        place = first[numbers[len(known) :]][rows]
        sets, extra = (watched.column(name).to_numpy()[rows] for name in ("sets", "extra"))
        # Who was not counted met too few; that it met just as many has it counted soon.
        degree = np.where(degree[rows] < 0, most, degree[rows])
        active = degree > most
        chosen = watched.select(["ident_id", "collection"]).take(pa.array(rows))
        return pa.table(
            [
                *chosen.columns,
                pc.fill_null(type.take(pa.array(rows)), ""),
                pa.array(degree),
                lasts.column("position").take(pa.array(place)).cast(pa.binary()),
                pa.array(active),
                pa.array(np.where(active, NEVER, sets + extra + 1 + most - degree)),
                pa.array(extra),
            ],
            schema=QUARANTINE,
        )


def _words(ids: set[bytes]) -> siphash.Words:
    return np.frombuffer(b"".join(ids), dtype=np.uint64).reshape(-1, 2)
