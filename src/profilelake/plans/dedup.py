"""Every message id at most once in `events`, and nothing that hangs on a row that has gone.

Landing sees to it for all that it lands. What came past it (a restored backup, two lakes put together, rows
that another engine appended) is found here: all rows of one message id meet, the least position stays, the
others leave by rewriting their files. A row that says something else under the same id becomes a dead letter.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTITY_FACTS
from profilelake.kernels import siphash
from profilelake.lake.handover import HandedFile
from profilelake.lake.rewriting import Rewritten, rewrite
from profilelake.landing.land import CONTENT_COLUMNS, conflict_rows, position_bytes
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.plans.by_file import CHOSEN, INPUT, ChosenByFile, Placed, Tables, These, chosen_rows
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES

PART_ROWS: Final = 2_000_000
"""Rows that meet in one task, more or less; each is about 100 bytes."""

_TELLS: Final = {
    EVENTS.name: CONTENT_COLUMNS,
    EVENT_COPIES.name: (),
    TRAIT_WRITES.name: ("trait",),
    CONSENT_WRITES.name: ("category",),
    ACCOUNT_LINKS.name: ("set_id", "account_set_id"),
    IDENTIFIER_SETS.name: ("set_id",),
    FAILED_EVENTS.name: ("reason",),
    IDENTITY_FACTS.name: ("decision",),
}
"""Tables of rows that came from events, and the columns that tell apart rows of one position. Of events
they tell whether two of one message id are the same message."""
TABLES: Final = (
    EVENTS, EVENT_COPIES, TRAIT_WRITES, CONSENT_WRITES, ACCOUNT_LINKS, IDENTIFIER_SETS, FAILED_EVENTS, IDENTITY_FACTS,
)  # fmt: skip
_NUMBER: Final = {definition.name: number for number, definition in enumerate(TABLES)}
_HANGS: Final = (TRAIT_WRITES, CONSENT_WRITES, ACCOUNT_LINKS, IDENTIFIER_SETS)
"""Tables whose rows go with the event that they came from."""
_MET: Final = "met"
_MEETING: Final = pa.schema(
    [
        ("message", pa.binary(16)),
        ("table", pa.int8()),
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("position", pa.binary(32)),
        ("tells", pa.binary(16)),
    ]
)
_LEAVING: Final = pa.schema([*CHOSEN, ("conflict", pa.bool_())])


class Repeated(msgspec.Struct, frozen=True):
    """What one part of the message ids has too often. `named` are rows of events that have a message id."""

    kept: list[KeptFile]
    named: int = 0
    repeated: int = 0
    """Events that are there again, at their own position or a later one."""
    conflicts: int = 0
    """Events of a message id that another event has, with other content."""
    copies: int = 0
    """Copies that are no earlier than the event they repeat, or there twice."""
    hanging: int = 0
    """Rows that came from events that go, or are there twice."""


class Left(msgspec.Struct, frozen=True):
    """A file without the rows that go, and dead letters of those that conflict."""

    rewritten: Rewritten
    table: str
    letters: list[HandedFile]


@dataclass(frozen=True)
class _Meeting:
    """Cuts a file into what tells its rows apart, by message id."""

    tables: Tables
    salt: bytes
    parts: int

    def __call__(self, placed: Placed) -> Iterator[Cut]:
        telling = _TELLS[placed.table]
        there = {column.name for column in self.tables.definition(placed).columns}
        for first, rows in self.tables.read(placed, sorted({"position", "message_id", *telling} & there)):
            count = rows.num_rows
            messages = self._messages(rows)
            met = pa.table(
                [
                    siphash.to_arrow(messages),
                    pa.repeat(pa.scalar(_NUMBER[placed.table], pa.int8()), count),
                    pa.repeat(pa.scalar(placed.number, pa.int32()), count),
                    pa.array(np.arange(first, first + count)),
                    rows.column("position"),
                    siphash.to_arrow(self._tells(rows, telling)),
                ],
                schema=_MEETING,
            )
            yield Cut(_MET, met, parts_by_id(met.column("message"), self.parts))

    def _messages(self, rows: pa.Table) -> siphash.Words:
        """Return a keyed hash of each message id; a row without one meets none but those of its position."""
        places = siphash.hash_strings(self.salt, b"p", _texts(rows.column("position")))
        if "message_id" not in rows.column_names:
            return places
        column = rows.column("message_id").combine_chunks()
        hashed = siphash.hash_strings(self.salt, b"m", column)
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        hashed[missing] = places[missing]
        return hashed

    def _tells(self, rows: pa.Table, telling: tuple[str, ...]) -> siphash.Words:
        digest = np.zeros((rows.num_rows, 2), dtype=np.uint64)
        for name in telling:
            column = rows.column(name)
            hashed = siphash.hash_strings(self.salt, b"c", _texts(column))
            digest = digest * np.uint64(0x9E3779B97F4A7C15) + hashed
        return np.ascontiguousarray(digest)


@dataclass(frozen=True)
class _Judging:
    """Decides which rows of a part of the message ids stay."""

    tables: Tables
    folder: str

    def __call__(self, part: int, met: Mapping[str, pa.Table]) -> bytes:
        rows = met[_MET].combine_chunks()
        table = rows.column("table").to_numpy()
        events, copies = table == _NUMBER[EVENTS.name], table == _NUMBER[EVENT_COPIES.name]
        order, groups = _ordered(rows)
        leaving = np.zeros(rows.num_rows, dtype=np.bool_)
        conflict = np.zeros(rows.num_rows, dtype=np.bool_)
        tells = siphash.from_arrow(rows.column("tells"))
        # The first event of each message id in the order of positions stays.
        winner = _first_in_group(order, groups, events)
        mine = winner[groups]
        later = events & (mine != np.arange(len(mine)))
        same = (tells == tells[np.maximum(mine, 0)]).all(axis=1)
        leaving |= later
        conflict = later & ~same
        place = _places(rows, order)
        beyond = copies & (mine >= 0) & (place >= place[np.maximum(mine, 0)])
        leaving |= beyond
        # What came from an event that goes, and does not stand where the one stands that stays.
        hangs = np.isin(table, [_NUMBER[definition.name] for definition in _HANGS])
        gone_places = np.unique(
            _group_and_place(groups, place)[later & (place != place[np.maximum(mine, 0)])]
        )
        leaving |= hangs & np.isin(_group_and_place(groups, place), gone_places)
        leaving |= ~events & _again(table, groups, place, tells)
        # A run that was cut short may have written the dead letter and not taken the row away.
        lettered = _group_and_place(groups, place)[table == _NUMBER[FAILED_EVENTS.name]]
        letter = conflict & ~np.isin(_group_and_place(groups, place), lettered)
        chosen = np.flatnonzero(leaving)
        left = pa.table(
            [
                rows.column("file").take(pa.array(chosen)),
                rows.column("row").take(pa.array(chosen)),
                pa.array(letter[chosen]),
            ],
            schema=_LEAVING,
        )
        return msgspec.msgpack.encode(
            Repeated(
                kept=keep(self.tables.storage, self.folder, left, part),
                named=int(events.sum()),
                repeated=int((later & ~conflict).sum()),
                conflicts=int(conflict.sum()),
                copies=int((leaving & copies).sum()),
                hanging=int((leaving & ~events & ~copies).sum()),
            )
        )


@dataclass(frozen=True)
class _Leaving:
    """Writes a file anew without the rows that go, and what conflicts as dead letters."""

    tables: Tables

    def __call__(self, part: int, chosen: Mapping[str, pa.Table]) -> bytes:
        placed = self.tables.files[part]
        rows = chosen[INPUT].sort_by("row")
        numbers = rows.column("row").to_numpy()
        writer = self.tables.writers[placed.table]
        done = rewrite(writer, self.tables.storage, placed.held, These(numbers))
        letters: list[HandedFile] = []
        conflicts = rows.filter(rows.column("conflict")).column("row").to_numpy()
        if len(conflicts):
            for some in chosen_rows(self.tables, placed, conflicts):
                letters += self.tables.writers[FAILED_EVENTS.name].write(conflict_rows(some))
        if done is None:
            return b""
        return msgspec.msgpack.encode(Left(done, placed.table, letters))


def find(engine: Engine, job: Job, tables: Tables) -> Repeated:
    """Return what is there too often, in all."""
    salt = hashlib.sha256(job.id.encode()).digest()[:16]
    rows = sum(placed.held.rows for placed in tables.files)
    parts = power_of_two(max(rows / PART_ROWS, engine.tasks))
    answers = job.step(
        "repeated",
        lambda: engine.spread(
            "repeated",
            tables.files,
            _Meeting(tables, salt, parts),
            {_MET: _MEETING},
            parts,
            _Judging(tables, job.folder("repeated")),
        ),
    )
    found = [msgspec.msgpack.decode(answer, type=Repeated) for answer in answers.values()]
    return Repeated(
        kept=[file for one in found for file in one.kept],
        named=sum(one.named for one in found),
        repeated=sum(one.repeated for one in found),
        conflicts=sum(one.conflicts for one in found),
        copies=sum(one.copies for one in found),
        hanging=sum(one.hanging for one in found),
    )


def leave(engine: Engine, job: Job, tables: Tables, repeated: Repeated) -> list[Left]:
    """Write the files anew that hold what is there too often; nothing is committed yet."""
    answers = job.step(
        "leaving",
        lambda: engine.spread(
            "leaving",
            repeated.kept,
            ChosenByFile(tables.storage),
            {INPUT: _LEAVING},
            max(1, len(tables.files)),
            _Leaving(tables),
        ),
    )
    return [msgspec.msgpack.decode(answer, type=Left) for answer in answers.values() if answer]


# ---- columns -----------------------------------------------------------------------------------

Numbers = npt.NDArray[np.int64]


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """Return values as bytes of any length, which is what is hashed."""
    flat = column.combine_chunks()
    if pa.types.is_fixed_size_binary(flat.type):
        return flat.cast(pa.binary())
    return flat


def _ordered(rows: pa.Table) -> tuple[Numbers, Numbers]:
    """Return the order of rows by message and position, and a number for each message."""
    messages = siphash.from_arrow(rows.column("message"))
    places = np.ascontiguousarray(position_bytes(rows.column("position"))).view(">u8").reshape(-1, 4)
    order = np.lexsort((*(places[:, word] for word in (3, 2, 1, 0)), messages[:, 1], messages[:, 0]))
    turns = np.ones(len(order), dtype=np.bool_)
    turns[1:] = (messages[order][1:] != messages[order][:-1]).any(axis=1)
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = np.cumsum(turns) - 1
    return order, groups


def _first_in_group(order: Numbers, groups: Numbers, wanted: npt.NDArray[np.bool_]) -> Numbers:
    """Return for each group the first of its wanted rows in an order, -1 where it has none."""
    first = np.full(int(groups.max(initial=-1)) + 1, -1, dtype=np.int64)
    mine = order[wanted[order]][::-1]
    first[groups[mine]] = mine  # Of several values for one place the last one stays.
    return first


def _places(rows: pa.Table, order: Numbers) -> Numbers:
    """Return numbers that compare as the positions of rows of one message do."""
    places = np.ascontiguousarray(position_bytes(rows.column("position"))).view(">u8").reshape(-1, 4)
    turns = np.zeros(len(order), dtype=np.int64)
    turns[1:] = (places[order][1:] != places[order][:-1]).any(axis=1)
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.cumsum(turns)
    return found


def _group_and_place(groups: Numbers, places: Numbers) -> Numbers:
    return groups * (int(places.max(initial=0)) + 1) + places


def _again(
    table: npt.NDArray[np.int8], groups: Numbers, places: Numbers, tells: siphash.Words
) -> npt.NDArray[np.bool_]:
    """Return which rows repeat another one of their table at the same position."""
    order = np.lexsort((tells[:, 1], tells[:, 0], places, groups, table))
    same = np.zeros(len(order), dtype=np.bool_)
    columns = (table, groups, places, tells[:, 0], tells[:, 1])
    same[1:] = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    found = np.zeros(len(order), dtype=np.bool_)
    found[order] = same
    return found
