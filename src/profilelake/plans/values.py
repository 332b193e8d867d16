"""Step 2 of a rebuild: values of identifiers brought together with the sets that have them, identifier by identifier.

What rules say of a value is decided here, so that texts need not travel further: each value stays where its
identifier's id puts it, and rows of identifiers are joined with it there.
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
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.identity.degree import several_of_one_type
from profilelake.identity.facts import Standing
from profilelake.identity.plan import IDENTITY__VALUES
from profilelake.identity.problem import clean
from profilelake.identity.tables import IDENTIFIERS
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.pinned import Shape, Share
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Bools, Rows, facts_of, words
from profilelake.plans._answers import Answer, kept_answer, together, whole
from profilelake.plans.facts import FactFiles, Read, SetFiles, read_share
from profilelake.plans.members import IDS, Members, ids_of, sets_only
from profilelake.plans.rows import ID, KNOWN, QUARANTINE, SEEN, VALUES
from profilelake.plans.sizes import Sizes
from profilelake.semantics.rules import COLLECTIONS, IdentityRules

_READ: Final = Read("values", IDENTITY__VALUES)

MET: Final = pa.schema([("ident_id", ID), ("sets", pa.int64()), ("met", pa.int64()), ("extra", pa.int64())])
"""In how many sets an identifier is, how many others it meets there at most where sets count, and by how
much these may raise its degree beyond one each (`several_of_one_type`)."""

WATCHED: Final = pa.schema(
    [
        ("ident_id", ID),
        ("collection", pa.string()),
        ("sets", pa.int64()),
        ("extra", pa.int64()),
        ("near", pa.bool_()),
        ("noted", pa.bool_()),
    ]
)
"""Identifiers that may have met too many (`near`), or that the state must know of (`noted`)."""


def gather_values(
    engine: Engine,
    job: Job,
    files: FactFiles,
    sets: Sequence[SetFiles],
    members: int,
    held: Standing,
    sizes: Sizes,
    lost: Sequence[KeptFile] = (),
) -> tuple[Answer, int]:
    """Keep the values of all identifiers of sets by parts of their ids; return where, and how many parts.

    Besides, by name: `apart`, ids whose value is blocked; `lost`, ids without a value; `watched`, those whose
    degree must be counted; `quarantine`, what is known of all others. Identifiers in `lost` do not count.
    """
    table = files.tables[IDENTIFIERS.name]
    units: list[Share | SetFiles] = [*table.shares(sizes.share_bytes), *sets]
    parts = power_of_two(max(engine.tasks, table.bytes / sizes.part_bytes, members / sizes.part_members))
    name = "values_without_lost" if lost else "values"
    inputs = {"values": VALUES, "met": MET}
    answers = job.step(
        name,
        lambda: engine.spread(
            name,
            units,
            _CutMembers(job.storage, {table.name: table.shape}, held, tuple(lost), parts),
            inputs,
            parts,
            _GatherValues(job.storage, job.folder(name), held.rules),
        ),
    )
    return together(answers), parts


def valued(owned: pa.Table, values: pa.Table) -> pa.Table:
    """Return rows with their `collection`, `type` and `value` from VALUES of the same part, which has all of them."""
    known, asked = (words(rows.column("ident_id")) for rows in (values, owned))
    numbers, first = dense_numbers(np.concatenate([known, asked]))
    rows = values.select(["collection", "type", "value"]).take(pa.array(first[numbers[len(known) :]]))
    for name in rows.column_names:
        owned = owned.append_column(name, rows.column(name))
    return owned


@dataclass(frozen=True)
class _CutMembers:
    storage: Storage
    shapes: dict[str, Shape]
    held: Standing
    lost: tuple[KeptFile, ...]
    parts: int

    def __call__(self, unit: Share | SetFiles) -> Iterator[Cut]:
        if isinstance(unit, Share):
            for rows in read_share(self.storage, self.shapes, unit, _READ):
                typed = rows.cast(VALUES)
                yield Cut("values", typed, parts_by_id(typed.column("ident_id"), self.parts))
            return
        known = whole(self.storage, [unit.known], KNOWN)
        lost = ids_of(self.storage, self.lost)
        if self.held.retracted:
            seen = whole(self.storage, [unit.seen], SEEN)
            for facts in facts_of(sets_only(known, seen, lost), self.held):
                identifiers = facts.identifiers
                yield self._met(
                    facts.offsets, facts.numbers, identifiers.ids, identifiers.types, facts.counts
                )
            return
        members = Members.of(known, lost)
        numbers, first = members.numbered()
        counts = np.ones(known.num_rows, dtype=np.bool_)
        yield self._met(
            members.offsets, numbers, members.ids[first], members.types.take(pa.array(first)), counts
        )

    def _met(
        self,
        offsets: Rows,
        numbers: npt.NDArray[np.int32],
        ids: siphash.Words,
        types: pa.Array | pa.ChunkedArray,
        counts: Bools,
    ) -> Cut:
        columns = [np.bincount(numbers, minlength=len(ids)), *(np.zeros(len(ids)) for _ in range(2))]
        if self.held.rules.degree_max is not None and len(ids):
            sizes = np.diff(offsets)
            others = np.repeat(np.where(counts, sizes - 1, 0), sizes)
            columns[1] = np.bincount(numbers, weights=others, minlength=len(ids))
            codes = pc.index_in(types, value_set=pc.unique(types)).to_numpy(zero_copy_only=False)
            columns[2] = several_of_one_type(offsets, codes.astype(np.int32), numbers)
        rows = pa.table(
            [siphash.to_arrow(ids), *(pa.array(column.astype(np.int64)) for column in columns)], schema=MET
        )
        return Cut("met", rows, parts_by_id(rows.column("ident_id"), self.parts))


@dataclass(frozen=True)
class _GatherValues:
    storage: Storage
    folder: str
    rules: IdentityRules

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        """Return where the rows are, and how many ids are `apart`, `lost` and `watched`."""
        values, met = tables["values"].combine_chunks(), tables["met"].combine_chunks()
        ids = np.concatenate([words(table.column("ident_id")) for table in (values, met)])
        numbers, first = dense_numbers(ids)
        of = numbers[values.num_rows :]
        sets, others, extra = (
            np.bincount(of, weights=met.column(name).to_numpy(), minlength=len(first)).astype(np.int64)
            for name in ("sets", "met", "extra")
        )
        # Only what some set has is asked for again.
        valued = np.flatnonzero((first < values.num_rows) & (sets > 0))
        lost = ids[first[first >= values.num_rows]]
        values = values.take(pa.array(first[valued]))
        apart = ids[first[valued[self._blocked(values)]]]
        watched, quarantine = self._near(values, sets[valued], others[valued], extra[valued])
        rows = {
            "values": values,
            "apart": pa.table([siphash.to_arrow(apart)], schema=IDS),
            "lost": pa.table([siphash.to_arrow(lost)], schema=IDS),
            "watched": watched,
            "quarantine": quarantine,
        }
        counts = {"apart": len(apart), "lost": len(lost), "watched": watched.num_rows}
        return kept_answer(self.storage, self.folder, rows, part, **counts)

    def _blocked(self, values: pa.Table) -> Bools:
        code = pc.index_in(values.column("collection"), value_set=pa.array(COLLECTIONS)).to_numpy()
        blocked = np.zeros(values.num_rows, dtype=np.bool_)
        for number, collection in enumerate(COLLECTIONS):
            rows = np.flatnonzero(code == number)
            chosen = values.select(["type", "value"]).take(pa.array(rows))
            blocked[rows] = clean(chosen.column(0), chosen.column(1), self.rules, collection).blocked
        return blocked

    def _near(self, values: pa.Table, sets: Rows, others: Rows, extra: Rows) -> tuple[pa.Table, pa.Table]:
        """Return which identifiers must be counted, and what the state must know of those that need not be."""
        most = self.rules.degree_max
        if most is None:
            return WATCHED.empty_table(), QUARANTINE.empty_table()
        near, noted = others > most, sets + extra > most
        rows = np.flatnonzero(near | noted)
        chosen = values.select(["ident_id", "collection"]).take(pa.array(rows))
        columns = [pa.array(column[rows]) for column in (sets, extra, near, noted)]
        watched = pa.table([*chosen.columns, *columns], schema=WATCHED)
        rows = np.flatnonzero((extra > 0) & ~noted)
        chosen = values.select(["ident_id", "collection"]).take(pa.array(rows))
        uncounted = (("", "string"), (0, "int64"), (b"", "binary"), (False, "bool"), (most + 1, "int64"))
        constant = [pa.repeat(pa.scalar(value, type), len(rows)) for value, type in uncounted]
        return watched, pa.table([*chosen.columns, *constant, pa.array(extra[rows])], schema=QUARANTINE)
