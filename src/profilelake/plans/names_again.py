"""Whom events name, read again from their rows, for sets that are not known and identifiers without a value.

Tasks read texts with the parser of landing. Whether that is what an event named when it landed is told by its set
id, a keyed hash; the key stays in the process that drives the plan, which gives texts their ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.identity.publish import slots_of
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS
from profilelake.kernels import siphash
from profilelake.lake.handover import HandedFile
from profilelake.landing.again import READ_COLUMNS, identifiers_again, set_hashes
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.fold_facts import words
from profilelake.plans.by_file import CHOSEN, INPUT, ChosenByFile, Placed, Tables, chosen_rows
from profilelake.plans.facts_again import HELD, KNOWN_IDS, LOG, WANTED, Missing, as_set, firsts, parts_of
from profilelake.plans.rows import ID, POSITION
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules

ADDED_ROWS: Final = 200_000
"""Rows of sets and identifiers that the driver holds and writes at a time."""

_NAMED: Final = pa.schema(
    [
        *(field for field in WANTED if field.name not in CHOSEN.names),
        ("rules", pa.int32()),
        ("types", pa.list_(pa.string())),
        ("values", pa.list_(pa.string())),
        ("position", POSITION),
        ("received_at", EVENTS.schema().field("received_at").type),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
    ]
)
_VALUED: Final = pa.schema(
    [field.with_nullable(True) for field in IDENTIFIERS.schema() if field.name != "slot"]
)


class Named(msgspec.Struct, frozen=True):
    """Sets that were read again: their rows, their identifiers, and how many could not be."""

    sets: int = 0
    unread: int = 0
    files: list[HandedFile] = []
    identifiers: list[KeptFile] = []


class Valued(msgspec.Struct, frozen=True):
    """Identifiers that have their value again, and how many have not."""

    values: int = 0
    lost: int = 0
    files: list[HandedFile] = []


# ---- whom events name --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """Reads events of one file again, under every version of the rules there has been."""

    tables: Tables
    rules: tuple[IdentityRules, ...]
    folder: str

    def __call__(self, part: int, chosen: Mapping[str, pa.Table]) -> bytes:
        placed = self.tables.files[part]
        wanted = chosen[INPUT].sort_by("row")
        numbers = np.unique(wanted.column("row").to_numpy())
        events = pa.concat_tables(list(chosen_rows(self.tables, placed, numbers)))
        place = np.searchsorted(numbers, wanted.column("row").to_numpy())
        named = [
            self._named(events, wanted, place, version, rules) for version, rules in enumerate(self.rules)
        ]
        return msgspec.msgpack.encode(keep(self.tables.storage, self.folder, pa.concat_tables(named), part))

    def _named(
        self,
        events: pa.Table,
        wanted: pa.Table,
        place: "np.ndarray[tuple[int], np.dtype[np.int64]]",
        version: int,
        rules: IdentityRules,
    ) -> pa.Table:
        found = identifiers_again(events.select(READ_COLUMNS), rules)
        lists = {}
        for number in range(len(COLLECTIONS)):
            mine = found.filter(pc.equal(found.column("collection"), number))
            order = np.argsort(mine.column("row").to_numpy(), kind="stable")
            rows = mine.column("row").to_numpy()[order]
            offsets = pa.array(np.searchsorted(rows, np.arange(events.num_rows + 1)), pa.int32())
            lists[number] = [
                pa.ListArray.from_arrays(offsets, mine.column(name).combine_chunks().take(pa.array(order)))
                for name in ("type", "value")
            ]
        parts = []
        collections = wanted.column("collection").to_numpy()
        for number, (types, values) in lists.items():
            rows = np.flatnonzero(collections == number)
            of = pa.array(place[rows])
            mine = wanted.take(pa.array(rows))
            columns = {
                "set_id": mine.column("set_id"),
                "collection": mine.column("collection"),
                "missing": mine.column("missing"),
                "rules": pa.repeat(pa.scalar(version, pa.int32()), len(rows)),
                "types": types.take(of),
                "values": values.take(of),
                **{
                    name: events.column(name).take(of)
                    for name in ("position", "received_at", "message_id", "source_id")
                },
            }
            parts.append(pa.table([columns[name] for name in _NAMED.names], schema=_NAMED))
        return pa.concat_tables(parts)


def read_again(
    engine: Engine, job: Job, tables: Tables, missing: Sequence[Missing], rules: Sequence[IdentityRules]
) -> list[KeptFile]:
    """Return whom the events name that show sets which are not known, or identifiers without a value."""
    kept = [file for one in missing for file in one.wanted]
    answers = job.step(
        "named",
        lambda: engine.spread(
            "named",
            kept,
            ChosenByFile(tables.storage),
            {INPUT: WANTED},
            max(1, len(tables.files)),
            _Reading(tables, tuple(rules), job.folder("named")),
        ),
    )
    return [
        file for answer in answers.values() for file in msgspec.msgpack.decode(answer, type=list[KeptFile])
    ]


def identified(job: Job, tables: Tables, named: Sequence[KeptFile], key: bytes, *, dry_run: bool) -> Named:
    """Give sets that were read again their identifiers, in this process, which has the key."""

    def run() -> list[bytes]:
        return [_identified(job, tables, file, key, dry_run=dry_run) for file in named]

    found = [msgspec.msgpack.decode(one, type=Named) for one in job.step("identified", run).values()]
    return Named(
        sets=sum(one.sets for one in found),
        unread=sum(one.unread for one in found),
        files=[file for one in found for file in one.files],
        identifiers=[file for one in found for file in one.identifiers],
    )


def _identified(job: Job, tables: Tables, file: KeptFile, key: bytes, *, dry_run: bool) -> bytes:
    sets: list[pa.Table] = []
    values: list[pa.Table] = []
    read: list[pa.Array] = []
    asked: list[pa.Array] = []
    for rows in read_kept(tables.storage, file, rows=ADDED_ROWS):
        for number, collection in enumerate(COLLECTIONS):
            mine = rows.filter(pc.equal(rows.column("collection"), number)).combine_chunks()
            asked.append(pc.unique(mine.column("set_id").filter(mine.column("missing"))))
            if not mine.num_rows:
                continue
            right, members = _as_named(mine, collection, key)
            sets.append(_set_rows(right, members, collection))
            values.append(_value_rows(right, members, collection))
            read.append(pc.unique(right.column("set_id")))
    known = pc.unique(pa.chunked_array(read, ID)) if read else pa.array([], ID)
    unread = pa.chunked_array(asked, ID)
    lost = pc.sum(pc.invert(pc.is_in(pc.unique(unread), known))).as_py() or 0
    added = pa.concat_tables([IDENTIFIER_SETS.schema().empty_table(), *sets])
    found = pa.concat_tables([_VALUED.empty_table(), *values])
    return msgspec.msgpack.encode(
        Named(
            sets=added.num_rows,
            unread=int(lost),
            files=[] if dry_run else tables.writers[IDENTIFIER_SETS.name].write(added),
            identifiers=keep(tables.storage, job.folder("identified"), found),
        )
    )


def _as_named(mine: pa.Table, collection: Collection, key: bytes) -> tuple[pa.Table, pa.ListArray]:
    """Return the rows whose identifiers make the id that their set has, once each, and these identifiers."""
    types, values = (mine.column(name).combine_chunks() for name in ("types", "values"))
    sizes = pc.list_value_length(types).to_numpy().astype(np.int64)
    named = np.flatnonzero(sizes)
    flat = pa.table({"type": types.flatten(), "value": values.flatten()})
    of = np.repeat(np.arange(len(sizes)), sizes)
    hashes, ident_ids, offsets = set_hashes(key, collection, of, flat)
    claimed = words(mine.column("set_id"))[named]
    right = np.flatnonzero((hashes == claimed).all(axis=1))
    # Several versions of the rules may read the same.
    right = right[firsts(mine.column("set_id").take(pa.array(named[right])))]
    rows = np.concatenate([np.arange(offsets[one], offsets[one + 1]) for one in right] or [of[:0]])
    starts = np.append(0, np.cumsum(offsets[right + 1] - offsets[right]))
    chosen = flat.take(pa.array(rows))
    members = pa.StructArray.from_arrays(
        [
            chosen.column("type").combine_chunks(),
            siphash.to_arrow(ident_ids).take(pa.array(rows)),
            chosen.column("value").combine_chunks(),
        ],
        ["type", "ident_id", "value"],
    )
    return mine.take(pa.array(named[right])), pa.ListArray.from_arrays(pa.array(starts, pa.int32()), members)


def _set_rows(right: pa.Table, members: pa.ListArray, collection: Collection) -> pa.Table:
    schema = IDENTIFIER_SETS.schema()
    listed = schema.field("identifiers").type
    flat = members.flatten()
    items = pa.StructArray.from_arrays(
        [flat.field("type"), flat.field("ident_id")], fields=list(listed.value_type)
    )
    columns = {
        "collection": pa.repeat(pa.scalar(collection), right.num_rows),
        "identifiers": pa.ListArray.from_arrays(members.offsets, items, type=listed),
    }
    rows = pa.table(
        [columns[name] if name in columns else right.column(name) for name in schema.names], schema=schema
    )
    return rows.filter(right.column("missing"))


def _value_rows(right: pa.Table, members: pa.ListArray, collection: Collection) -> pa.Table:
    of = pc.list_parent_indices(members)
    flat = members.flatten()
    columns = {
        "ident_id": flat.field("ident_id"),
        "collection": pa.repeat(pa.scalar(collection), len(flat)),
        "type": flat.field("type"),
        "value": flat.field("value"),
        "source_id": right.column("source_id").take(of),
        "first_message_id": right.column("message_id").take(of),
        "created_at": right.column("received_at").take(of),
        "position": right.column("position").take(of),
    }
    return pa.table([columns[name] for name in _VALUED.names], schema=_VALUED)


# ---- values of identifiers ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """Cuts values that were read again, identifiers that lack one, and those that have one."""

    tables: Tables
    parts: int

    def __call__(self, unit: Placed | tuple[str, KeptFile]) -> Iterator[Cut]:
        if isinstance(unit, Placed):
            for _, rows in self.tables.read(unit, ("ident_id",)):
                yield self._cut("known", pa.table([rows.column("ident_id")], schema=KNOWN_IDS), "key")
        else:
            name, file = unit
            for rows in read_kept(self.tables.storage, file):
                yield self._cut(name, rows, "ident_id")

    def _cut(self, name: str, rows: pa.Table, key: str) -> Cut:
        return Cut(name, rows, parts_by_id(rows.column(key), self.parts))


@dataclass(frozen=True)
class _Valuing:
    tables: Tables
    dry_run: bool

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:  # noqa: ARG002 - as in `Gather`
        read = rows["read"].combine_chunks()
        fresh = read.filter(pc.invert(pc.is_in(read.column("ident_id"), as_set(rows["known"].column("key")))))
        fresh = fresh.sort_by("position")
        fresh = fresh.take(pa.array(firsts(fresh.column("ident_id")))).sort_by("ident_id")
        lost = pc.invert(pc.is_in(rows["held"].column("ident_id"), as_set(fresh.column("ident_id"))))
        lacking = pc.count_distinct(rows["held"].column("ident_id").filter(lost)).as_py()
        slots = slots_of(fresh.column("ident_id").to_pylist()) if fresh.num_rows else pa.array([], pa.int32())
        files: list[HandedFile] = []
        if fresh.num_rows and not self.dry_run:
            files = self.tables.writers[IDENTIFIERS.name].write(
                IDENTIFIERS.shape(fresh.append_column("slot", slots))
            )
        return msgspec.msgpack.encode(Valued(fresh.num_rows, int(lacking), files))


def valued(
    engine: Engine,
    job: Job,
    tables: Tables,
    read: Sequence[KeptFile],
    valueless: Sequence[KeptFile],
    *,
    dry_run: bool,
) -> Valued:
    """Write identifiers that had no value and have one now, each as its earliest event has it."""
    units: list[Placed | tuple[str, KeptFile]] = [
        *tables.of_table(IDENTIFIERS.name, LOG.name),
        *(("read", file) for file in read),
        *(("held", file) for file in valueless),
    ]
    parts = parts_of(engine, tables.of_table(IDENTIFIERS.name, LOG.name))
    answers = job.step(
        "valued",
        lambda: engine.spread(
            "valued",
            units,
            _Values(tables, parts),
            {"read": _VALUED, "held": HELD, "known": KNOWN_IDS},
            parts,
            _Valuing(tables, dry_run),
        ),
    )
    found = [msgspec.msgpack.decode(answer, type=Valued) for answer in answers.values()]
    return Valued(
        values=sum(one.values for one in found),
        lost=sum(one.lost for one in found),
        files=[file for one in found for file in one.files],
    )
