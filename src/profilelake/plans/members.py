"""The identifiers of sets as numbers, in a task that has some sets; and which of them link."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.kept import KeptFile
from profilelake.identity.problem import is_among, rules_by_strength
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Bools, FactTables, Numbers, Rows, one, words
from profilelake.plans._answers import whole
from profilelake.plans.rows import ID, LINKS, STATEMENTS, WRITES
from profilelake.semantics.rules import COLLECTIONS, IdentityRules

IDS = pa.schema([("ident_id", ID)])
"""Identifiers by their ids alone."""
_IDENTIFIERS = pa.schema([("ident_id", ID), ("type", pa.string()), ("value", pa.string())])


def ids_of(storage: Storage, files: Sequence[KeptFile]) -> siphash.Words:
    """Return the ids in kept files."""
    return words(whole(storage, files, IDS).column("ident_id"))


@dataclass(frozen=True)
class Members:
    """The identifiers of sets: set s has `ids[offsets[s]:offsets[s + 1]]`, whose types are `types`."""

    offsets: Rows
    ids: siphash.Words
    types: pa.Array

    @classmethod
    def of(cls, known: pa.Table, lost: siphash.Words) -> "Members":
        """Return the members of the sets in rows of KNOWN, without those whose value is `lost`."""
        lists = one(known.column("identifiers"))
        offsets = lists.offsets.to_numpy().astype(np.int64)
        begin = int(offsets[0]) if len(offsets) else 0
        flat = lists.values.slice(begin, int(offsets[-1]) - begin if len(offsets) else 0)
        members = cls(offsets - begin, words(flat.field("ident_id")), flat.field("type"))
        return members.without(is_among(members.ids, lost)) if len(lost) else members

    def without(self, gone: Bools) -> "Members":
        """Return the members but those that are marked."""
        stay = np.flatnonzero(~gone)
        return Members(
            np.searchsorted(stay, self.offsets).astype(np.int64),
            self.ids[stay],
            self.types.take(pa.array(stay)),
        )

    def numbered(self) -> tuple[Numbers, Rows]:
        """Return the number of each member's identifier, and the row of each identifier that is first."""
        return dense_numbers(self.ids)

    def beside_its_like(self) -> Bools:
        """Tell of each member whether its set has another one of its type."""
        codes = pc.index_in(self.types, value_set=pc.unique(self.types)).to_numpy(zero_copy_only=False)
        sizes = np.diff(self.offsets)
        keys = np.repeat(np.arange(len(sizes)), sizes) * (int(codes.max(initial=0)) + 1) + codes
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(np.diff(keys[order]) == 0)
        found = np.zeros(len(keys), dtype=np.bool_)
        found[order[same]] = found[order[same + 1]] = True
        return found

    def identifiers(self, texts: pa.Table | None = None) -> pa.Table:
        """Return each identifier once, as `IDENTITY__IDENTIFIERS` does, with the values that `texts` have."""
        _, first = self.numbered()
        ids = self.ids[first]
        values: pa.Array = pa.nulls(len(ids), pa.string())
        if texts is not None and texts.num_rows:
            known = words(texts.column("ident_id"))
            numbers, rows = dense_numbers(np.concatenate([known, ids]))
            places = rows[numbers[len(known) :]]
            values = one(texts.column("value")).take(pa.array(places, mask=places >= len(known)))
        return pa.table(
            [siphash.to_arrow(ids), self.types.take(pa.array(first)), values], schema=_IDENTIFIERS
        )


def sets_only(
    known: pa.Table, seen: pa.Table, lost: siphash.Words, texts: pa.Table | None = None
) -> FactTables:
    """Return what sets say of identity alone, as `facts_of` takes it: no traits, and values only in `texts`."""
    return FactTables(
        known=known,
        sightings=seen,
        identifiers=Members.of(known, lost).identifiers(texts),
        writes=WRITES.empty_table(),
        statements=STATEMENTS.empty_table(),
        links=LINKS.empty_table(),
    )


@dataclass(frozen=True)
class Links:
    """Tells which identifiers of sets link, whatever limits there are; `plans.components` asks it."""

    COLUMNS: ClassVar = ("collection", "identifiers")
    """What it must be given of KNOWN."""
    storage: Storage
    types: tuple[tuple[str, ...], ...]
    """The types that rules know, for each of `COLLECTIONS`."""
    apart: tuple[KeptFile, ...]
    """Identifiers that link nobody: blocked, quarantined, or lost."""

    @classmethod
    def under(cls, rules: IdentityRules, storage: Storage, apart: Sequence[KeptFile]) -> "Links":
        """Return what links under rules."""
        types = (tuple(rule.type for rule in rules_by_strength(rules, name)) for name in COLLECTIONS)
        return cls(storage, tuple(types), tuple(apart))

    def __call__(self, known: pa.Table) -> tuple[siphash.Words, Rows]:
        """Return the ids that link in the sets of rows of KNOWN, and where those of each set begin."""
        members = Members.of(known, np.empty((0, 2), dtype=np.uint64))
        collection = pc.index_in(known.column("collection"), value_set=pa.array(COLLECTIONS)).to_numpy()
        of = np.repeat(collection, np.diff(members.offsets))
        links = np.zeros(len(of), dtype=np.bool_)
        for number, types in enumerate(self.types):
            ruled = pc.is_in(members.types, value_set=pa.array(types, members.types.type))
            links |= np.asarray(ruled) & (of == number)
        apart = ids_of(self.storage, self.apart)
        if len(apart):
            links &= ~is_among(members.ids, apart)
        stay = np.flatnonzero(links)
        return members.ids[stay], np.searchsorted(stay, members.offsets).astype(np.int64)
