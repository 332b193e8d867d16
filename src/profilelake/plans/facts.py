"""Step 1 of a rebuild: the facts of each set brought together, and no more of them than later steps need."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.identity.facts import Standing
from profilelake.identity.plan import IDENTITY__SETS, IDENTITY__SHOWN, IDENTITY__SIGHTINGS
from profilelake.identity.problem import is_among
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.kernels.dense import dense_numbers
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.pinned import PinnedFile, PinnedTable, Shape, Share
from profilelake.lake.reading import damage_told
from profilelake.lake.storage import Storage
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.pipeline.fold_facts import Rows, in_order, received_at, words
from profilelake.pipeline.fold_profiles import last_writes
from profilelake.pipeline.fold_spells import first_of_spells
from profilelake.pipeline.fold_statements import last_statements
from profilelake.plans._answers import Answer, kept_answer, together
from profilelake.plans.members import Members
from profilelake.plans.rows import KNOWN, LINKS, SEEN, STATEMENTS, WRITES
from profilelake.plans.sizes import Sizes
from profilelake.profiles.plan import PROFILES__LINKS, PROFILES__STATEMENTS, PROFILES__TRAIT_WRITES
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import COLLECTIONS

SQL_MEMORY: Final = "512MB"
"""What DuckDB may take in a task that reads tables; it spills beyond."""
READ_ROWS: Final = 1 << 20
READ_BYTES: Final = 128 << 20
"""What a task reads of a table at a time, whichever is reached first."""
FETCHED_ROWS: Final = 1 << 14
"""Rows that DuckDB hands over at a time: a column of Arrow holds less than 2 GiB of texts, an event has up to 32 KiB."""

FACTS: Final = {"known": KNOWN, "seen": SEEN, "writes": WRITES, "statements": STATEMENTS, "links": LINKS}
"""What is brought together, by name."""

TABLES: Final = (
    IDENTIFIER_SETS,
    SET_SIGHTINGS,
    IDENTIFIERS,
    EVENTS,
    EVENT_COPIES,
    TRAIT_WRITES,
    CONSENT_WRITES,
    ACCOUNT_LINKS,
)


class Read(NamedTuple):
    """A query over the rows of a table; of the tables `beside` it there are none, as other units read them."""

    input: str
    query: str
    beside: tuple[str, ...] = ()


_READS: Final = {
    IDENTIFIER_SETS.name: Read("known", IDENTITY__SETS),
    SET_SIGHTINGS.name: Read("seen", IDENTITY__SIGHTINGS, (EVENT_COPIES.name,)),
    EVENT_COPIES.name: Read("seen", IDENTITY__SIGHTINGS, (SET_SIGHTINGS.name,)),
    TRAIT_WRITES.name: Read("writes", PROFILES__TRAIT_WRITES),
    CONSENT_WRITES.name: Read("statements", PROFILES__STATEMENTS),
    ACCOUNT_LINKS.name: Read("links", PROFILES__LINKS),
}
_SHOWN: Final = {
    # Days say only which event was the first, so for sets with retracted sightings single events are asked.
    EVENTS.name: Read("seen", IDENTITY__SHOWN, (EVENT_COPIES.name,)),
    EVENT_COPIES.name: Read("seen", IDENTITY__SHOWN, (EVENTS.name,)),
}


@dataclass(frozen=True)
class FactFiles:
    """The tables of facts as they were at one moment."""

    tables: dict[str, PinnedTable]

    @classmethod
    def of(cls, lake: Lake, workspace: str) -> "FactFiles":
        """Return the tables as the catalog has them now. Raises as `PinnedTable.of`."""
        return cls({table.name: PinnedTable.of(lake, workspace, table.name) for table in TABLES})

    def adding(self, table: str, files: Iterable[PinnedFile]) -> "FactFiles":
        """Return the same with rows of a table that no snapshot has yet (written by `TableFiles`)."""
        return replace(self, tables=self.tables | {table: self.tables[table].adding(files)})

    def snapshots(self) -> dict[str, list[int]]:
        """Return what a job over these files is named by."""
        return {name: list(table.snapshots) for name, table in self.tables.items()}


class SetFiles(msgspec.Struct, frozen=True):
    """The kept rows of one part of sets: which there are, and when they were seen."""

    known: KeptFile
    seen: KeptFile


def set_files(facts: Answer) -> list[SetFiles]:
    """Return the files of each part of sets."""
    seen = {file.part: file for file in facts.files.get("seen", [])}
    return [SetFiles(file, seen[file.part]) for file in facts.files.get("known", [])]


def gather_facts(
    engine: Engine, job: Job, files: FactFiles, held: Standing, sizes: Sizes
) -> tuple[Answer, int]:
    """Keep the facts by parts of set ids; return where they are, and how many parts there are.

    Sets are those that are known and were seen, in one order in `known` and `seen`. Of sightings there is
    one row a set, but one a window where rules have windows, and all where some were retracted; of writes the
    last of each trait, of statements the last with all categories ever named, of links those that begin spells.
    """
    names = {*_READS, *(_SHOWN if held.retracted else ())}
    units = [share for name in sorted(names) for share in files.tables[name].shares(sizes.share_bytes)]
    parts = power_of_two(max(engine.tasks, sum(share.bytes for share in units) / sizes.part_bytes))
    shapes = {name: table.shape for name, table in files.tables.items()}
    answers = job.step(
        "facts",
        lambda: engine.spread(
            "facts",
            units,
            _CutTables(job.storage, shapes, frozenset(held.retracted), parts),
            FACTS,
            parts,
            _GatherFacts(job.storage, job.folder("facts"), held),
        ),
    )
    return together(answers), parts


def read_share(
    storage: Storage, shapes: Mapping[str, Shape], share: Share, read: Read, chosen: Iterable[bytes] = ()
) -> Iterator[pa.Table]:
    """Yield what a query says over the rows of one share of a table.

    `chosen` are the ids of the sets in the table of that name.

    Raises:
        Corrupt: a file of the table is missing or not what it should be.
        Unavailable: where it lies there is no answer.
    """
    with tempfile.TemporaryDirectory(prefix="profilelake-read-") as spill, damage_told():
        connection = sql.connect(SQL_MEMORY, spill)
        try:
            connection.execute(
                "SET threads=1; SET preserve_insertion_order=false; SET enable_progress_bar=false"
            )
            storage.attach(connection)
            for one in (share, *(Share(name, ()) for name in read.beside)):
                rows = shapes[one.table].select(one, storage.place)
                connection.execute(f"CREATE VIEW {sql.identifier(one.table)} AS {rows}")
            connection.register("chosen", pa.table({"set_id": pa.array(list(chosen), pa.binary())}))
            yield from _some(connection.sql(read.query).to_arrow_reader(FETCHED_ROWS))
        finally:
            connection.close()


def _some(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield batches as tables of some size, each in one piece."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) >= READ_ROWS or sum(one.nbytes for one in held) >= READ_BYTES:
            yield pa.Table.from_batches(held).combine_chunks()
            held = []
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


@dataclass(frozen=True)
class _CutTables:
    """Cuts shares of the tables of facts by their sets."""

    storage: Storage
    shapes: dict[str, Shape]
    retracted: frozenset[bytes]
    """Sets of which some sightings do not count."""
    parts: int

    def __call__(self, share: Share) -> Iterator[Cut]:
        """Yield the rows of a share."""
        reads = [_READS.get(share.table), _SHOWN.get(share.table) if self.retracted else None]
        for read in reads:
            if read is not None:
                for rows in read_share(self.storage, self.shapes, share, read, self.retracted):
                    typed = rows.cast(FACTS[read.input])
                    yield Cut(read.input, typed, parts_by_id(typed.column("set_id"), self.parts))


@dataclass(frozen=True)
class _GatherFacts:
    """Keeps what later steps need of the facts of a part's sets."""

    storage: Storage
    folder: str
    held: Standing

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        """Return where the rows are, and how many `sets` there are, with how many identifiers (`members`).

        `several` are the identifiers that stand beside another one of their type.
        """
        known, seen, writes, statements = (
            tables[name].combine_chunks() for name in ("known", "seen", "writes", "statements")
        )
        named = [words(table.column("set_id")) for table in (known, seen, writes, statements)]
        numbers, first = dense_numbers(np.concatenate(named))
        ends = np.cumsum([known.num_rows, seen.num_rows, writes.num_rows])
        listed, sighted, written, said = np.split(numbers, ends)
        count = int(listed.max(initial=-1)) + 1
        row_of = np.full(len(first), -1, dtype=np.int64)
        there = np.zeros(len(first), dtype=np.bool_)
        there[sighted] = True
        both = np.flatnonzero(there[:count])
        row_of[both] = np.arange(len(both))
        sets = known.take(pa.array(first[both]))
        rows = {"known": sets, "seen": self._seen(sets, seen, row_of[sighted])}
        rows["writes"] = _last_written(writes, row_of[written])
        rows["statements"] = _last_said(statements, row_of[said])
        links = tables["links"].combine_chunks()
        rows["links"] = links.take(pa.array(first_of_spells(links, self.held.leavings)))
        members = Members.of(sets, np.empty((0, 2), dtype=np.uint64))
        counts = {
            "sets": sets.num_rows,
            "members": len(members.ids),
            "several": int(members.beside_its_like().sum()),
        }
        return kept_answer(self.storage, self.folder, rows, part, **counts)

    def _seen(self, sets: pa.Table, seen: pa.Table, set_of: Rows) -> pa.Table:
        """Return the sightings of sets, as few as say the same."""
        rows = np.flatnonzero(set_of >= 0)
        if len(rows) < len(set_of):
            seen, set_of = seen.take(pa.array(rows)), set_of[rows]
        groups = self._groups(sets, seen, set_of)
        firsts = in_order(seen.column("first_position"))[::-1]
        lasts = in_order(seen.column("last_position"))
        count = int(groups.max(initial=-1)) + 1
        first, last = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        # Of several values for one place the last one stays.
        first[groups[firsts]] = firsts
        last[groups[lasts]] = lasts
        events = np.bincount(groups, weights=seen.column("events").to_numpy(), minlength=count)
        chosen = seen.take(pa.array(first))
        later = seen.select(["last_position", "last_message_id", "last_source_id"]).take(pa.array(last))
        for name in later.column_names:
            chosen = chosen.set_column(chosen.schema.get_field_index(name), name, later.column(name))
        place = chosen.schema.get_field_index("events")
        return chosen.set_column(place, "events", pa.array(events.astype(np.int64))).cast(SEEN)

    def _groups(self, sets: pa.Table, seen: pa.Table, set_of: Rows) -> Rows:
        """Return which sightings may be told as one: by number, those of sets in the order of sets."""
        windows = [common_window(self.held.rules, collection) or 0 for collection in COLLECTIONS]
        if not any(windows) and not self.held.retracted:
            return set_of
        code = pc.index_in(sets.column("collection"), value_set=pa.array(COLLECTIONS)).to_numpy()
        length = np.array(windows, dtype=np.int64)[code[set_of]]
        at = received_at(seen.column("first_position"))
        inside = np.where(length > 0, at // np.maximum(length, 1), 0)
        if self.held.retracted:
            touched = is_among(
                words(seen.column("set_id")),
                np.frombuffer(b"".join(self.held.retracted), dtype=np.uint64).reshape(-1, 2),
            )
            inside = np.where(touched, np.arange(len(inside)), inside)
        return np.unique(np.column_stack([set_of, inside]), axis=0, return_inverse=True)[1].reshape(-1)


def _last_written(writes: pa.Table, set_of: Rows) -> pa.Table:
    rows = np.flatnonzero(set_of >= 0)
    if not len(rows):
        return writes.slice(0, 0)
    mine = writes.take(pa.array(rows))
    traits = pc.dictionary_encode(mine.column("trait").combine_chunks())
    traits = traits.combine_chunks() if isinstance(traits, pa.ChunkedArray) else traits
    code = traits.indices.to_numpy().astype(np.int64)
    last = last_writes(mine, set_of[rows] * len(traits.dictionary) + code)
    return mine if len(last) == mine.num_rows else mine.take(pa.array(last))


def _last_said(statements: pa.Table, set_of: Rows) -> pa.Table:
    """Return of each set a row for each category it ever named, all of them in its last statement."""
    rows = np.flatnonzero(set_of >= 0)
    if not len(rows):
        return statements.slice(0, 0)
    mine = statements.take(pa.array(rows))
    last = last_statements(mine.append_column("row", pa.array(set_of[rows])))
    # A set that never named a category still said something: that it allows none.
    silent = np.setdiff1d(np.arange(len(last.sets)), last.known_statement)
    of = np.append(last.known_statement, silent)
    category = np.append(last.known_category, np.full(len(silent), -1))
    said = mine.take(pa.array(last.rows[of]))
    said = said.set_column(
        said.schema.get_field_index("category"),
        "category",
        last.categories.take(pa.array(category, mask=category < 0)),
    )
    allowed = np.append(last.allowed, np.zeros(len(silent), dtype=np.bool_))
    return said.set_column(said.schema.get_field_index("allowed"), "allowed", pa.array(allowed))
