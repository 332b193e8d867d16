"""What events say and the tables of facts lack, found and written by tasks: nothing is committed here.

Sets, sightings, traits, links and consent of one part of the sets meet the events that show them. Whom an event
names is read again from its row by the parser of landing; whether that is what it named is told by its set id, a
keyed hash. The key stays with the driver: tasks hand it texts, and get ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.identity.facts import Standing
from profilelake.identity.publish import SIGHTING_COLUMNS, sightings
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.handover import HandedFile
from profilelake.lake.rewriting import Rewritten, rewrite
from profilelake.lake.schema import changes_definition
from profilelake.landing.land import SET_COLUMNS
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.pipeline.fold_facts import received_at, words
from profilelake.pipeline.told_by_events import links_untold
from profilelake.plans.by_file import CHOSEN, INPUT, ChosenByFile, Placed, Tables, These
from profilelake.plans.rows import ID, POSITION
from profilelake.profiles.fold import WRITERS, trait_counts, trait_rows, writers_among
from profilelake.profiles.fold_consent import consent_rows
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.rules import COLLECTIONS

PART_ROWS: Final = 500_000
"""Rows that meet in one task, more or less: events with their traits, hundreds of bytes each."""
ADDED_ROWS: Final = 200_000
"""Rows of sets and identifiers that the driver holds and writes at a time."""
LOG: Final = changes_definition(IDENTIFIERS)

_SHOWN_COLUMNS: Final = (
    "position", "received_at", "message_id", "type", "timestamp", "source_id", "consent", "traits", "set_id",
    "account_set_id",
)  # fmt: skip
_SHOWN: Final = pa.schema(
    [
        ("key", ID),
        ("collection", pa.int8()),
        ("copy", pa.bool_()),
        *CHOSEN,
        *(EVENTS.schema().field(name).with_nullable(True) for name in _SHOWN_COLUMNS),
    ]
)
KNOWN_IDS: Final = pa.schema([("key", ID)])
_COUNTED: Final = pa.schema(
    [("key", ID), *CHOSEN, ("first_position", POSITION), ("last_position", POSITION), ("events", pa.int64())]
)
_WROTE: Final = pa.schema([("key", ID), ("position", POSITION), ("trait", pa.string())])
_SAID: Final = pa.schema([("key", ID), ("position", POSITION), ("category", pa.string())])
_LINKED: Final = pa.schema([("key", ID), *ACCOUNT_LINKS.schema()])
HELD: Final = pa.schema([("ident_id", ID), ("set_id", ID)])
_ROW: Final = ["set_id", "position", "category"]
"""What makes a row of `consent_writes` be there."""
WANTED: Final = pa.schema([*CHOSEN, ("set_id", ID), ("collection", pa.int8()), ("missing", pa.bool_())])
_DAY: Final = 86_400_000_000


class Missing(msgspec.Struct, frozen=True):
    """What one part of the sets lacks, and the files that have it now."""

    sets: int = 0
    sightings: int = 0
    beyond: int = 0
    """Sightings that no event tells of."""
    traits: int = 0
    links: int = 0
    consent: int = 0
    wanted: list[KeptFile] = []
    recounted: list[KeptFile] = []
    """Rows of sightings that others take the place of."""
    files: dict[str, list[HandedFile]] = {}


# ---- identifiers without a value ---------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """Cuts identifiers: those that sets have, and those whose value is known."""

    tables: Tables
    parts: int

    def __call__(self, placed: Placed) -> Iterator[Cut]:
        if placed.table == IDENTIFIER_SETS.name:
            for _, rows in self.tables.read(placed, ("set_id", "identifiers")):
                lists = rows.column("identifiers").combine_chunks()
                members = lists.flatten().field("ident_id")
                of = rows.column("set_id").combine_chunks().take(pc.list_parent_indices(lists))
                held = pa.table([members, of], schema=HELD)
                yield Cut("held", held, parts_by_id(members, self.parts))
        else:
            for _, rows in self.tables.read(placed, ("ident_id",)):
                known = pa.table([rows.column("ident_id")], schema=KNOWN_IDS)
                yield Cut("known", known, parts_by_id(known.column("key"), self.parts))


@dataclass(frozen=True)
class _WithoutValue:
    tables: Tables
    folder: str

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        held, known = rows["held"], rows["known"].column("key")
        lacking = held.filter(pc.invert(pc.is_in(held.column("ident_id"), as_set(known))))
        count = pc.count_distinct(lacking.column("ident_id")).as_py()
        return msgspec.msgpack.encode((int(count), keep(self.tables.storage, self.folder, lacking, part)))


def without_value(engine: Engine, job: Job, tables: Tables) -> tuple[int, list[KeptFile]]:
    """Return how many identifiers of sets have no value, and these with their sets."""
    units = tables.of_table(IDENTIFIER_SETS.name, IDENTIFIERS.name, LOG.name)
    parts = parts_of(engine, units)
    answers = job.step(
        "valueless",
        lambda: engine.spread(
            "valueless",
            units,
            _Held(tables, parts),
            {"held": HELD, "known": KNOWN_IDS},
            parts,
            _WithoutValue(tables, job.folder("valueless")),
        ),
    )
    found = [msgspec.msgpack.decode(answer, type=tuple[int, list[KeptFile]]) for answer in answers.values()]
    return sum(count for count, _ in found), [file for _, files in found for file in files]


# ---- what sets lack ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """Cuts everything there is about sets, by set: files of tables, and kept rows that name sets."""

    tables: Tables
    parts: int

    def __call__(self, unit: Placed | KeptFile) -> Iterator[Cut]:
        if isinstance(unit, KeptFile):
            for rows in read_kept(self.tables.storage, unit, ["set_id"]):
                yield self._cut("valued", pa.table([rows.column("set_id")], schema=KNOWN_IDS))
        elif unit.table in (EVENTS.name, EVENT_COPIES.name):
            yield from self._events(unit)
        else:
            yield from self._facts(unit)

    def _events(self, placed: Placed) -> Iterator[Cut]:
        for first, rows in self.tables.read(placed, _SHOWN_COLUMNS):
            numbers = pa.array(np.arange(first, first + rows.num_rows))
            for number, (collection, column) in enumerate(SET_COLUMNS.items()):
                call, _ = WRITERS[collection]
                writing = pc.equal(rows.column("type"), call)
                count = rows.num_rows
                shown = {
                    "key": rows.column(column),
                    "collection": pa.repeat(pa.scalar(number, pa.int8()), count),
                    "copy": pa.repeat(placed.table == EVENT_COPIES.name, count),
                    "file": pa.repeat(pa.scalar(placed.number, pa.int32()), count),
                    "row": numbers,
                    **{name: rows.column(name) for name in _SHOWN_COLUMNS},
                    "traits": pc.if_else(writing, rows.column("traits"), pa.scalar(None, pa.string())),
                }
                if collection != "users":
                    shown["consent"] = pa.nulls(count, pa.string())
                table = pa.table([shown[name] for name in _SHOWN.names], schema=_SHOWN)
                yield self._cut("shown", table.filter(pc.is_valid(table.column("key"))))

    def _facts(self, placed: Placed) -> Iterator[Cut]:
        name, columns, schema = _FACTS[placed.table]
        for first, rows in self.tables.read(placed, columns):
            table = pa.table([rows.column("set_id"), *rows.columns], names=["key", *columns])
            if "row" in schema.names:
                numbers = pa.array(np.arange(first, first + rows.num_rows))
                table = table.append_column("row", numbers).append_column(
                    "file", pa.repeat(pa.scalar(placed.number, pa.int32()), rows.num_rows)
                )
            yield self._cut(name, table.select(schema.names).cast(schema))

    def _cut(self, name: str, rows: pa.Table) -> Cut:
        return Cut(name, rows, parts_by_id(rows.column("key"), self.parts))


_FACTS: Final = {
    IDENTIFIER_SETS.name: ("known", ("set_id",), KNOWN_IDS),
    SET_SIGHTINGS.name: ("counted", ("set_id", "first_position", "last_position", "events"), _COUNTED),
    TRAIT_WRITES.name: ("wrote", ("set_id", "position", "trait"), _WROTE),
    CONSENT_WRITES.name: ("said", ("set_id", "position", "category"), _SAID),
    ACCOUNT_LINKS.name: ("linked", tuple(ACCOUNT_LINKS.schema().names), _LINKED),
}
_INPUTS: Final = {
    "shown": _SHOWN,
    "valued": KNOWN_IDS,
    **{name: schema for name, _, schema in _FACTS.values()},
}


@dataclass(frozen=True)
class _Lacking:
    """Finds what a part of the sets lacks, and writes it unless it is only to be told."""

    tables: Tables
    folder: str
    held: Standing
    complete: bool
    dry_run: bool

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        shown = rows["shown"].combine_chunks()
        events = shown.filter(pc.invert(shown.column("copy")))
        wanted = self._wanted(shown, rows["known"].column("key"), rows["valued"].column("key"))
        seen, recounted, beyond = self._sightings(events, rows["counted"])
        added = {
            SET_SIGHTINGS.name: seen,
            TRAIT_WRITES.name: self._traits(events, rows["wrote"]),
            CONSENT_WRITES.name: self._consent(events, rows["said"]),
            ACCOUNT_LINKS.name: self._links(shown, rows["linked"]),
        }
        storage = self.tables.storage
        return msgspec.msgpack.encode(
            Missing(
                sets=int(pc.sum(wanted.column("missing")).as_py() or 0),
                sightings=seen.num_rows,
                beyond=beyond,
                traits=added[TRAIT_WRITES.name].num_rows,
                links=added[ACCOUNT_LINKS.name].num_rows,
                consent=added[CONSENT_WRITES.name].num_rows,
                wanted=keep(storage, self.folder, wanted, part),
                recounted=[] if self.dry_run else keep(storage, self.folder, recounted, part),
                files={
                    name: self.tables.writers[name].write(table)
                    for name, table in added.items()
                    if table.num_rows and not self.dry_run
                },
            )
        )

    def _wanted(self, shown: pa.Table, known: pa.ChunkedArray, valued: pa.ChunkedArray) -> pa.Table:
        """Return what to read again of each set that is not known, or lacks values of identifiers."""
        missing = pc.invert(pc.is_in(shown.column("key"), as_set(known)))
        lacking = pc.is_in(shown.column("key"), as_set(valued))
        chosen = shown.append_column("missing", missing).filter(pc.or_(missing, lacking))
        chosen = chosen.append_column("void", self._retracted(chosen))
        # Landing told a set by the event that it accepted; a copy that came first was found later.
        chosen = chosen.sort_by([(name, "ascending") for name in ("void", "copy", "position")])
        first = chosen.take(pa.array(firsts(chosen.column("key"))))
        # Values are those of the earliest showing that counts, whatever landed first.
        chosen = chosen.sort_by([("void", "ascending"), ("position", "ascending")])
        earliest = chosen.take(pa.array(firsts(chosen.column("key"))))
        landed = as_set(first.column("key").filter(pc.invert(first.column("copy"))))
        copied = earliest.filter(
            pc.and_(earliest.column("copy"), pc.is_in(earliest.column("key"), landed))
        ).drop_columns("missing")
        no = pa.repeat(pa.scalar(False), copied.num_rows)
        copied = copied.append_column("missing", no).select(first.column_names)
        first = pa.concat_tables([first, copied])
        columns = ["key" if name == "set_id" else name for name in WANTED.names]
        return first.select(columns).rename_columns(WANTED.names).cast(WANTED)

    def _retracted(self, shown: pa.Table) -> pa.ChunkedArray:
        """Return which rows show a set in an event that somebody said is no evidence of it."""
        of = pa.array(list(self.held.retracted), ID)
        places = pa.array(sorted(set().union(*self.held.retracted.values())), POSITION)
        return pc.and_(
            pc.is_in(shown.column("key"), of), pc.is_in(shown.column("position").cast(POSITION), places)
        )

    def _sightings(self, events: pa.Table, counted: pa.Table) -> tuple[pa.Table, pa.Table, int]:
        """Return rows to add, rows that these replace, and how many sightings no event tells of."""
        actual = sightings(events.select(["key", *SIGHTING_COLUMNS[1:]]))
        told = pa.table(
            {
                "set_id": counted.column("key"),
                "day": _day_of(counted.column("first_position")),
                "file": counted.column("file"),
                "row": counted.column("row"),
                "first": counted.column("first_position"),
                "last": counted.column("last_position"),
                "told": counted.column("events"),
            }
        )
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; SET enable_progress_bar = false")
            connection.register("actual", actual)
            connection.register("told", told)
            connection.execute(_COMPARED)
            added = connection.sql(_ADDED, params=[self.complete]).to_arrow_table()
            gone = connection.sql(_GONE, params=[self.complete, self.complete]).to_arrow_table()
            beyond = connection.sql(_BEYOND).fetchall()[0][0]
        schema = SET_SIGHTINGS.schema()
        return (
            added.select(schema.names).cast(schema),
            gone.cast(CHOSEN),
            int(beyond),
        )

    def _traits(self, events: pa.Table, wrote: pa.Table) -> pa.Table:
        """Return the writes of events of which not all are there."""
        found = [TRAIT_WRITES.schema().empty_table()]
        held = wrote.group_by(["key", "position", "trait"]).aggregate([])
        counts = held.group_by(["key", "position"]).aggregate([("trait", "count")])
        for number, collection in enumerate(COLLECTIONS):
            mine = events.filter(pc.equal(events.column("collection"), number))
            writers = writers_among(mine, collection)
            if not writers.num_rows:
                continue
            wanted = pa.table(
                {
                    "key": writers.column("key"),
                    "position": writers.column("position"),
                    "wanted": pa.array(trait_counts(writers.column("traits").to_pylist()), pa.int64()),
                    "place": pa.array(np.arange(writers.num_rows)),
                }
            )
            joined = wanted.join(counts, ["key", "position"])
            short = joined.filter(
                pc.less(pc.fill_null(joined.column("trait_count"), 0), joined.column("wanted"))
            )
            rows = trait_rows(writers.take(short.column("place")), collection)
            keyed = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
            left = keyed.select(["set_id", "position", "trait", "place"]).join(
                held.rename_columns({"key": "set_id"}), ["set_id", "position", "trait"], join_type="left anti"
            )
            found.append(rows.take(left.column("place")))
        return pa.concat_tables(found)

    def _consent(self, events: pa.Table, said: pa.Table) -> pa.Table:
        """Return the last of equal statements of each set, where it is not there, or not with all categories."""
        stated = events.filter(pc.is_valid(events.column("consent"))).sort_by("position")
        rows = consent_rows(stated) if stated.num_rows else CONSENT_WRITES.schema().empty_table()
        numbered = pa.table(
            {
                "set_id": rows.column("set_id"),
                "position": rows.column("position"),
                "category": _named(rows.column("category")),
                "place": pa.array(np.arange(rows.num_rows)),
            }
        )
        there = pa.table([said.column("key"), said.column("position"), _named(said.column("category"))], _ROW)
        left = numbered.join(there, _ROW, join_type="left anti")
        return CONSENT_WRITES.shape(rows.take(left.column("place")))

    def _links(self, shown: pa.Table, linked: pa.Table) -> pa.Table:
        """Return the group events that began a spell which is not there so early."""
        mine = shown.filter(
            pc.and_(
                pc.equal(shown.column("collection"), COLLECTIONS.index("users")),
                pc.equal(shown.column("type"), "group"),
            )
        )
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; SET enable_progress_bar = false")
            for name, copy in ((EVENTS.name, False), (EVENT_COPIES.name, True)):
                connection.register(name, mine.filter(pc.equal(mine.column("copy"), copy)))
            connection.register(ACCOUNT_LINKS.name, ACCOUNT_LINKS.shape(linked))
            return links_untold(connection, self.held)


_COMPARED: Final = """
    CREATE TEMP TABLE compared AS
    SELECT set_id, day, wanted, counted,
           counted > wanted OR (counted > 0 AND (first <> wanted_first OR last <> wanted_last)) AS wrong
    FROM (
        SELECT set_id, day, events AS wanted, first_position AS wanted_first, last_position AS wanted_last
        FROM actual
    ) LEFT JOIN (
        SELECT set_id, day, sum(told)::BIGINT AS counted, min(first) AS first, max(last) AS last
        FROM told GROUP BY set_id, day
    ) USING (set_id, day)
"""
"""How many events of a set there are on a day, and how many were counted."""
_ADDED: Final = """
    SELECT actual.* REPLACE (if(coalesce(wrong, false), wanted, wanted - coalesce(counted, 0)) AS events)
    FROM actual JOIN compared USING (set_id, day)
    WHERE if(coalesce(wrong, false), $1, coalesce(counted, 0) < wanted)
"""
"""What is missing in the count of a day; the whole of it where it is wrong, which only a complete lake can say."""
_GONE: Final = """
    SELECT file, row FROM told JOIN compared USING (set_id, day) WHERE wrong AND $1
    UNION ALL
    SELECT file, row FROM told ANTI JOIN actual USING (set_id, day) WHERE $2
"""
_BEYOND: Final = """
    SELECT coalesce(sum(greatest(0, counted - coalesce(wanted, 0))), 0)::BIGINT
    FROM (SELECT set_id, day, sum(told)::BIGINT AS counted FROM told GROUP BY set_id, day)
    LEFT JOIN (SELECT set_id, day, wanted FROM compared) USING (set_id, day)
"""


def lacking(
    engine: Engine,
    job: Job,
    tables: Tables,
    valueless: Sequence[KeptFile],
    held: Standing,
    *,
    complete: bool,
    dry_run: bool,
) -> list[Missing]:
    """Return what sets lack, by part. `complete` says that no event has been let go, so that counts are right."""
    units: list[Placed | KeptFile] = [
        *tables.of_table(EVENTS.name, EVENT_COPIES.name, *_FACTS),
        *valueless,
    ]
    parts = parts_of(engine, tables.of_table(EVENTS.name, *_FACTS))
    answers = job.step(
        "lacking",
        lambda: engine.spread(
            "lacking",
            units,
            _Shown(tables, parts),
            _INPUTS,
            parts,
            _Lacking(tables, job.folder("lacking"), held, complete, dry_run),
        ),
    )
    return [msgspec.msgpack.decode(answer, type=Missing) for answer in answers.values()]


@dataclass(frozen=True)
class _Recounting:
    tables: Tables

    def __call__(self, part: int, chosen: Mapping[str, pa.Table]) -> bytes:
        placed = self.tables.files[part]
        numbers = chosen[INPUT].sort_by("row").column("row").to_numpy()
        judge = These(np.unique(numbers), ("first_position",))
        done = rewrite(self.tables.writers[placed.table], self.tables.storage, placed.held, judge)
        return b"" if done is None else msgspec.msgpack.encode(done)


def recount(engine: Engine, job: Job, tables: Tables, missing: Sequence[Missing]) -> list[Rewritten]:
    """Write the files of sightings anew without the rows that others take the place of."""
    kept = [file for one in missing for file in one.recounted]
    answers = job.step(
        "recounted",
        lambda: engine.spread(
            "recounted",
            kept,
            ChosenByFile(tables.storage),
            {INPUT: CHOSEN},
            max(1, len(tables.files)),
            _Recounting(tables),
        ),
    )
    return [msgspec.msgpack.decode(answer, type=Rewritten) for answer in answers.values() if answer]


# ---- columns -----------------------------------------------------------------------------------


def parts_of(engine: Engine, units: Sequence[Placed]) -> int:
    rows = sum(placed.held.rows for placed in units)
    return power_of_two(max(rows / PART_ROWS, engine.tasks))


def as_set(ids: pa.ChunkedArray) -> pa.Array:
    return ids.combine_chunks().cast(ID)


def firsts(ids: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the row that has each id first, in their order."""
    return dense_numbers(words(ids))[1]


def _day_of(positions: pa.ChunkedArray) -> pa.Array:
    """Return the UTC days of receipt inside positions."""
    return pa.array((received_at(positions) // _DAY).astype(np.int32)).cast(pa.date32())


def _named(categories: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return categories so that none at all is a value too, and another one than no characters."""
    return pc.fill_null(pc.binary_join_element_wise("=", categories, ""), "")
