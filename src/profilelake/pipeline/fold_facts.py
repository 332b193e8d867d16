"""The facts about identity and profiles in the lake, read once into columns with numbers for ids.

Tables are read as they lie; whatever belongs together is found by numbering keyed hashes, which costs
a fraction of joining and sorting rows with texts in them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.facts import Standing
from profilelake.identity.plan import (
    IDENTITY__IDENTIFIERS,
    IDENTITY__SETS,
    IDENTITY__SHOWN,
    IDENTITY__SIGHTINGS,
)
from profilelake.identity.problem import Identifiers
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.profiles.plan import PROFILES__LINKS, PROFILES__STATEMENTS, PROFILES__TRAIT_WRITES
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import COLLECTIONS, Collection

Rows: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]

_FIRST = ("first_position", "first_message_id", "first_source_id")


@dataclass(frozen=True)
class Facts:
    """What the lake says about one collection.

    Sets stand in the order of their first sighting that counts, or of the very first where none does
    (`counts` tells). Set s has the identifiers `numbers[offsets[s]:offsets[s + 1]]`, which are rows of
    `identifiers`; `first_rows` has for each the first place in `numbers`. Its first and last sighting are
    rows of `sightings`. `counted` are all sightings that count, in position order, and `counted_sets`
    their sets. `traits` and `statements` are all writes of traits and consent, with the `row` of their set.
    `links` are the group events of its sets; only people have any.
    """

    collection: Collection
    set_ids: siphash.Words
    counts: Bools
    offsets: Rows
    numbers: Numbers
    first_rows: Rows
    identifiers: Identifiers
    sightings: pa.Table
    first_sighting: Rows
    last_sighting: Rows
    counted: Rows
    counted_sets: Rows
    events: Rows
    traits: pa.Table
    statements: pa.Table
    links: pa.Table

    @cached_property
    def sets(self) -> pa.Table:
        """All that is known of each set, in columns."""
        first = self.sightings.select(_FIRST).take(pa.array(self.first_sighting))
        last = self.sightings.select(["last_position", "last_message_id", "last_source_id"])
        return pa.table(
            {
                "set_id": siphash.to_arrow(self.set_ids),
                "position": first.column(0),
                "message_id": first.column(1),
                "source_id": first.column(2),
                "events": self.events,
                **dict(zip(last.column_names, last.take(pa.array(self.last_sighting)).columns, strict=True)),
            }
        ).combine_chunks()

    @cached_property
    def members(self) -> pa.Table:
        """The identifiers of sets, one row each: `row` of the set, type, ident_id, value."""
        rows = pa.array(self.numbers)
        return pa.table(
            {
                "row": np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets)),
                "type": self.identifiers.types.take(rows),
                "ident_id": siphash.to_arrow(self.identifiers.ids[self.numbers]),
                "value": self.identifiers.values.take(rows),
            }
        ).combine_chunks()

    def first_seen(self) -> Rows:
        """Return for each identifier the sighting that showed it first."""
        set_of = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return self.first_sighting[set_of[self.first_rows]]


@dataclass(frozen=True)
class FactTables:
    """What facts are read from, with the columns of the queries that read them, each column in one piece.

    `sightings` are all that may count: where sightings of a set were retracted, its single events among them.
    """

    known: pa.Table
    sightings: pa.Table
    identifiers: pa.Table
    writes: pa.Table
    statements: pa.Table
    links: pa.Table


def read(connection: duckdb.DuckDBPyConnection, held: Standing) -> list[Facts]:
    """Return the facts of each collection; sightings at retracted positions do not count."""
    sightings = connection.sql(IDENTITY__SIGHTINGS).to_arrow_table()
    if held.retracted:
        sightings = pa.concat_tables([sightings, _shown(connection, held)])
    queries = (IDENTITY__SETS, IDENTITY__IDENTIFIERS, PROFILES__TRAIT_WRITES, PROFILES__STATEMENTS)
    known, identifiers, writes, statements = (
        connection.sql(query).to_arrow_table().combine_chunks() for query in queries
    )
    links = connection.sql(PROFILES__LINKS).to_arrow_table().combine_chunks()
    return facts_of(
        FactTables(known, sightings.combine_chunks(), identifiers, writes, statements, links), held
    )


def facts_of(tables: FactTables, held: Standing) -> list[Facts]:
    """Return the facts of each collection that these rows tell, as `read` does."""
    known, sightings, writes, statements = tables.known, tables.sightings, tables.writes, tables.statements
    counts = _counting(sightings, held)
    order = in_order(sightings.column("first_position"))
    # Those that count before all others, so that the first of a set counts if any of it does.
    order = np.concatenate([order[counts[order]], order[~counts[order]]])
    seen_ids = words(sightings.column("set_id"))
    named = [words(table.column("set_id")) for table in (known, writes, statements)]
    numbers, first = dense_numbers(np.concatenate([seen_ids[order], *named]))
    ends = np.cumsum([len(order), known.num_rows, writes.num_rows])
    seen, listed, written, said = np.split(numbers, ends)
    sets = int(seen.max(initial=-1)) + 1
    first_sighting = order[first[:sets]]
    last_sighting = first_sighting
    if sets < len(order):
        last_sighting = np.empty(sets, dtype=np.int64)
        by_last = in_order(sightings.column("last_position").take(pa.array(order)))
        # Of several values for one place the last one stays.
        last_sighting[seen[by_last]] = order[by_last]
    events = np.bincount(seen, weights=sightings.column("events").to_numpy()[order], minlength=sets)
    place = np.full(len(first), -1, dtype=np.int64)
    inside = np.flatnonzero(listed < sets)[::-1]
    place[listed[inside]] = inside
    collections = pc.index_in(known.column("collection"), value_set=pa.array(COLLECTIONS)).to_numpy()
    by_position = np.arange(sets)
    if held.retracted:
        # Only where sets were put behind others that they stand before.
        by_position = in_order(sightings.column("first_position").take(pa.array(first_sighting)))
    counted = np.arange(len(order))[counts[order]]
    everything = _Everything(
        known=known,
        known_row=place[:sets],
        sightings=sightings,
        identifiers=tables.identifiers,
        writes=writes,
        written=written,
        statements=statements,
        said=said,
    )
    found = []
    for number, collection in enumerate(COLLECTIONS):
        mine = by_position[place[by_position] >= 0]
        mine = mine[collections[place[mine]] == number]
        row_of = np.full(len(first), -1, dtype=np.int64)
        row_of[mine] = np.arange(len(mine))
        counting = counted[row_of[seen[counted]] >= 0]
        offsets, members, first_rows, identified = everything.members(mine)
        found.append(
            Facts(
                collection=collection,
                set_ids=seen_ids[first_sighting[mine]],
                counts=counts[first_sighting[mine]],
                offsets=offsets,
                numbers=members,
                first_rows=first_rows,
                identifiers=identified,
                sightings=sightings,
                first_sighting=first_sighting[mine],
                last_sighting=last_sighting[mine],
                counted=order[counting],
                counted_sets=row_of[seen[counting]],
                events=events[mine].astype(np.int64),
                traits=everything.traits(row_of),
                statements=everything.statements_of(row_of),
                links=tables.links if collection == "users" else tables.links.slice(0, 0),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Everything:
    """The tables of all collections, and where sets stand in them."""

    known: pa.Table
    known_row: Rows
    sightings: pa.Table
    identifiers: pa.Table
    writes: pa.Table
    written: Numbers
    statements: pa.Table
    said: Numbers

    def members(self, sets: Rows) -> tuple[Rows, Numbers, Rows, Identifiers]:
        """Return where each set's identifiers begin, their numbers, where each is first, and which they are."""
        lists = one(self.known.column("identifiers"))
        listed = lists.offsets.to_numpy().astype(np.int64)
        rows = self.known_row[sets]
        sizes = np.diff(listed)[rows]
        offsets = np.append(0, np.cumsum(sizes)).astype(np.int64)
        flat = np.arange(offsets[-1]) + np.repeat(listed[:-1][rows] - offsets[:-1], sizes)
        ids = words(lists.values.field("ident_id"))[flat]
        known = words(self.identifiers.column("ident_id"))
        numbers, _ = dense_numbers(np.concatenate([known, ids]))
        numbers = numbers[len(known) :]
        valued = numbers < len(known)
        if not valued.all():
            # Of an identifier whose value is lost no more is known than that it was there.
            offsets = np.append(0, np.cumsum(valued))[offsets]
            numbers = numbers[valued]
        first = np.full(len(known), -1, dtype=np.int64)
        first[numbers[::-1]] = np.arange(len(numbers))[::-1]
        present = np.flatnonzero(first >= 0)
        renumbered = np.full(len(known), -1, dtype=np.int32)
        renumbered[present] = np.arange(len(present))
        chosen = self.identifiers.take(pa.array(present)) if len(present) < len(known) else self.identifiers
        identified = Identifiers(one(chosen.column("type")), one(chosen.column("value")), known[present])
        return offsets, renumbered[numbers], first[present], identified

    def traits(self, row_of: Rows) -> pa.Table:
        """Return the writes of traits on the sets that have a row."""
        return _of_rows(self.writes, row_of[self.written])

    def statements_of(self, row_of: Rows) -> pa.Table:
        """Return what was said of consent by the sets that have a row."""
        return _of_rows(self.statements, row_of[self.said])


def _of_rows(writes: pa.Table, rows: Rows) -> pa.Table:
    if (rows < 0).any():
        writes = writes.filter(pa.array(rows >= 0))
        rows = rows[rows >= 0]
    return writes.append_column("row", pa.array(rows))


def _shown(connection: duckdb.DuckDBPyConnection, held: Standing) -> pa.Table:
    """Return the single events that show sets of retracted ones: days say only which was the first."""
    connection.register("chosen", pa.table({"set_id": pa.array(list(held.retracted), pa.binary())}))
    try:
        return connection.sql(IDENTITY__SHOWN).to_arrow_table()
    finally:
        connection.unregister("chosen")


def _counting(sightings: pa.Table, held: Standing) -> Bools:
    counts = np.ones(sightings.num_rows, dtype=np.bool_)
    if held.retracted:
        column = sightings.column("set_id")
        retracted = pc.is_in(column, value_set=pa.array(list(held.retracted), column.type))
        rows = np.flatnonzero(np.array(retracted, dtype=np.bool_))
        touched = sightings.select(["set_id", "first_position"]).take(pa.array(rows)).to_pydict()
        pairs = zip(touched["set_id"], touched["first_position"], strict=True)
        counts[rows] = [place not in held.retracted[key] for key, place in pairs]
    return counts


# ---- columns -----------------------------------------------------------------------------------


def in_order(positions: pa.ChunkedArray | pa.Array) -> Rows:
    """Return the order of positions, least first."""
    columns = position_words(positions).T
    # Most of a position is the same everywhere (region, log), so little is left to compare.
    telling = [column.astype(np.uint64) for column in columns if len(column) and (column != column[0]).any()]
    if not telling:
        return np.arange(len(positions))
    if len(telling) == 1:
        return np.argsort(telling[0], kind="stable")
    return np.lexsort(telling[::-1])


def received_at(positions: pa.ChunkedArray | pa.Array) -> Rows:
    """Return the times inside positions, in microseconds."""
    times: Rows = position_words(positions)[:, 0].astype(np.int64)
    return times


def position_words(positions: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.uint64]:
    """Return positions as rows of numbers that sort as they do."""
    fixed = one(positions.cast(pa.binary(POSITION_BYTES)))
    numbers = np.frombuffer(fixed.buffers()[1] or b"", dtype=">u8").reshape(-1, POSITION_BYTES // 8)
    return numbers[fixed.offset : fixed.offset + len(fixed)]


def words(ids: pa.ChunkedArray | pa.Array) -> siphash.Words:
    """Return ids as rows of two words."""
    return siphash.from_arrow(ids.cast(pa.binary(siphash.HASH_BYTES)))


def one(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column in one piece."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
