"""Computed traits and audiences over a whole lake, on any engine: what definitions are worth, from the tables alone.

The same folding and the same answers as online; only where events and profiles come from differs. The events
that matter are brought together by profile and folded there. Where so many sets exist that no task can look up
whose they are, events are brought together by set first, and what they come to goes on to the profile.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.people import subjects, traits_read, types_asked
from profilelake.audiences.reading import (
    FOLDED,
    MEMORY_LIMIT,
    PART_ROWS,
    WANTED,
    Wanted,
    event_schema,
    in_parts,
    slices_for,
    told,
)
from profilelake.engines.engine import Cut, Engine, PartNumbers
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.errors import Invalid
from profilelake.identity.tables import SET_MAP
from profilelake.kernels import siphash
from profilelake.kernels.slots import slots_of
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.storage import Storage
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES
from profilelake.traits.answers import answers
from profilelake.traits.fold import fold
from profilelake.traits.merging import merged, ranked
from profilelake.traits.partials import Partials, numbered
from profilelake.traits.shipped import SHIPPED, shipped, unshipped
from profilelake.traits.steps import Plan

KIND: Final = "definitions"
VALUES: Final = pa.schema([("profile_id", pa.string()), ("value", pa.string())])
"""What a definition is worth for the profiles that have a value, as JSON."""
UNIT_ROWS: Final = 4_000_000
"""Events in the files that one task reads, about."""
UNITS_PER_TASK: Final = 2
"""At least so many units of events for each task that runs at the same time, as they are not equally dear."""
SETS_JOINED_MAX: Final = 1 << 22
"""Sets among which every task may look up the owners of events by itself: about 250 MB."""
CUT_ROWS: Final = 1 << 18
"""Rows that a task has in memory at once while it spreads them."""
BUSY_EVENTS: Final = 1 << 12
"""A set with more events among `CUT_ROWS` is folded before it is sent on, so that no part is much larger than another."""

_Input = Literal["events", "shipped", "sets", "profiles"]
_EVENTS: Final = event_schema()
_SETS: Final = pa.schema([("set_id", pa.binary(16)), ("profile_id", pa.string())])
_OWNED: Final = pa.schema([*_SETS, ("part", pa.int32())])
_PROFILES: Final = pa.schema(
    [("profile_id", pa.string()), ("identifiers", pa.string()), ("traits", pa.string())]
)
_SENT: Final = pa.schema([*SHIPPED, ("part", pa.int32())])
_COLUMN: Final = "value of "
"""Before the key of a definition in the columns of kept files."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_files: Final = msgspec.msgpack.Decoder(list[KeptFile]).decode


@dataclass(frozen=True, slots=True)
class Asked:
    """Definitions, and as of when (microseconds).

    With `received_until` only events received by then count; who belongs together is as it is now, so this is
    not what was known then (`as_of` of a profile is).
    """

    plan: Plan
    at: int
    received_until: int | None = None

    def checked(self) -> "Asked":
        """Return this. Raises `Invalid` where a definition can be computed online only."""
        for planned in self.plan:
            key = planned.held.definition.key
            if planned.held.definition.target != "users":
                raise Invalid(
                    f"computing {key!r} over the lake: it is about accounts; "
                    "only definitions about users are computed this way"
                )
            if planned.entities:
                raise Invalid(
                    f"computing {key!r} over the lake: it asks for rows of {', '.join(sorted(planned.entities))};"
                    " rows of entities are kept with profiles, so only live computing sees them"
                )
        return self

    def wanted(self) -> Wanted:
        """Return the events that are looked at."""
        steps = (one.step for one in numbered(self.plan))
        return Wanted.of(steps, self.at, until=self.at, received_until=self.received_until)

    def fold(self, events: pa.Table) -> Partials:
        """Return what events come to, however many they are."""
        parts = in_parts(events.to_batches(CUT_ROWS), PART_ROWS)
        steps = numbered(self.plan)
        return merged([fold(part.cast(_EVENTS), steps, at=self.at) for part in parts])


@dataclass(frozen=True, slots=True)
class Computed:
    """What definitions are worth, in files of a job: all values of a profile lie in one of them."""

    storage: Storage
    files: tuple[KeptFile, ...]
    keys: tuple[str, ...]
    profiles: int
    events: int
    """How many events could matter."""

    def slices(self, keys: Sequence[str] | None = None) -> Iterator[Mapping[str, pa.Table]]:
        """Yield by key `profile_id` and `value` of the profiles that have one, some profiles at a time."""
        chosen = self.keys if keys is None else tuple(keys)
        names = {key: _COLUMN + key for key in chosen}
        for file in self.files:
            for rows in read_kept(self.storage, file, ["profile_id", *names.values()]):
                yield {key: _with_value(rows, column) for key, column in names.items()}

    def values(self) -> Mapping[str, pa.Table]:
        """Return all of them by key: for who knows that they fit into memory."""
        found: dict[str, list[pa.Table]] = {key: [VALUES.empty_table()] for key in self.keys}
        for slice in self.slices():
            for key, rows in slice.items():
                found[key].append(rows)
        return {key: pa.concat_tables(parts) for key, parts in found.items()}


def compute(
    engine: Engine,
    lake: Lake,
    workspace: str,
    asked: Asked,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Job, Computed]:
    """Return what definitions are worth at a time, from the tables alone, and the job: `finish` it when they were read.

    Asked again about the same tables the job goes on where it was. Its files lie on the storage of the lake.

    Raises:
        Invalid: a definition is about accounts, in SQL, or asks for rows of entities.
        Unavailable: memory or disk is full, the cluster does not answer, or the tables change faster than they are read.
        Corrupt: a file of a table is missing or damaged.
    """
    storage = lake.storage
    inputs = _Inputs.of(lake, workspace, asked.checked(), storage, engine.tasks)
    # How many tasks there are says how events are cut into units, and what is remembered goes by these.
    named = [workspace, inputs.snapshots, engine.tasks, duckdb.__version__, _said(asked)]
    job = Job(storage, KIND, named, report)
    wanted = asked.wanted()
    counts = job.step("count", lambda: engine.each("count", inputs.counted(), _Count(storage, wanted)))
    told_of = [msgspec.msgpack.decode(counts[number], type=int) for number in range(len(counts))]
    events, profiles = sum(told_of[: len(inputs.events)]), told_of[-2]
    sets = told_of[-1]
    parts = slices_for(events, profiles)
    of_profiles = [*_units("sets", inputs.sets), *_units("profiles", inputs.profiles)]
    if sets <= SETS_JOINED_MAX:
        units = [*_units("events", inputs.events), *of_profiles]
        source: _Input = "events"
    else:
        of_sets = power_of_two(events / UNIT_ROWS * 16)
        by_set = _BySet(storage, wanted, asked, of_sets, parts)
        first = job.step(
            "fold",
            lambda: engine.spread(
                "fold",
                [*_units("events", inputs.events), *_units("sets", inputs.sets)],
                by_set,
                {"events": _EVENTS, "shipped": SHIPPED, "sets": _OWNED},
                of_sets,
                _FoldSets(storage, job.folder("fold"), asked),
            ),
        )
        units = [*_kept_units(first), *of_profiles]
        source = "shipped"
    by_profile = _ByProfile(storage, wanted, asked, inputs.all_sets if source == "events" else "", parts)
    answered = job.step(
        "answer",
        lambda: engine.spread(
            "answer",
            units,
            by_profile,
            {"events": _EVENTS, "shipped": SHIPPED, "sets": _SETS, "profiles": _PROFILES},
            parts,
            _Answer(storage, job.folder("answer"), asked),
        ),
    )
    files = tuple(file for body in answered.values() for file in _decode_files(body))
    keys = tuple(planned.held.definition.key for planned in asked.plan)
    return job, Computed(storage, files, keys, profiles, events)


# ---- what is read ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows of one input that one task reads: a SELECT, or a file of the step before."""

    input: _Input
    select: str = ""
    file: KeptFile | None = None


def _units(input: _Input, selects: Sequence[str]) -> list[_Unit]:
    return [_Unit(input, select) for select in selects]


def _kept_units(answers_of: Mapping[int, bytes]) -> list[_Unit]:
    return [_Unit("shipped", file=file) for body in answers_of.values() for file in _decode_files(body)]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The tables as they were at one moment, in SELECTs."""

    snapshots: list[str]
    events: list[str]
    sets: list[str]
    profiles: list[str]
    all_sets: str

    @classmethod
    def of(cls, lake: Lake, workspace: str, asked: Asked, storage: Storage, tasks: int) -> "_Inputs":
        events = lake.load(workspace, EVENTS.name)
        sets = reading.pieces(lake, workspace, SET_MAP.name, storage.place)
        profiles = reading.pieces(lake, workspace, PROFILES.name, storage.place)
        wanted = asked.wanted()
        files = wanted.files(events)
        rows = sum(file.rows for file in files)
        size = max(1, min(UNIT_ROWS, rows // (UNITS_PER_TASK * tasks)))
        groups: list[list[sql.LiveFile]] = []
        held = size
        for file in files:
            if held >= size:
                groups.append([])
                held = 0
            groups[-1].append(file)
            held += file.rows
        owned = [_select_sets(one) for one in sets.selects]
        return cls(
            snapshots=[events.table.metadata_location, sets.snapshot, profiles.snapshot],
            events=[wanted.select(events, group, storage.place) for group in groups],
            sets=owned,
            profiles=[_select_profiles(one, asked.plan) for one in profiles.selects],
            all_sets=" UNION ALL ".join(f"({one})" for one in owned),
        )

    def counted(self) -> list[str]:
        """Return what is counted before anything else: events, unit by unit, then profiles and sets."""
        profiles = " UNION ALL ".join(f"(SELECT 1 FROM ({one}))" for one in self.profiles)  # noqa: S608 - ours
        return [*self.events, profiles, self.all_sets]


def _select_sets(rows: str) -> str:
    return f"""
        SELECT set_id, profile_id FROM ({rows}) WHERE profile_id IS NOT NULL AND collection = 'users'
    """  # noqa: S608 - made here


def _select_profiles(rows: str, plan: Plan) -> str:
    identifiers = "identifiers" if types_asked(plan) else "NULL::VARCHAR AS identifiers"
    traits = "traits" if traits_read(plan) else "NULL::VARCHAR AS traits"
    return f"SELECT profile_id, {identifiers}, {traits} FROM ({rows}) WHERE collection = 'users'"  # noqa: S608


def _said(asked: Asked) -> list[object]:
    definitions = [[one.held.definition.key, one.held.definition.query, repr(one.held)] for one in asked.plan]
    return [definitions, asked.at, asked.received_until]


@contextmanager
def _opened(storage: Storage, wanted: Wanted) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that reads tables: bounded memory, one thread, as other tasks run beside it."""
    with tempfile.TemporaryDirectory(prefix="profilelake-") as spill:
        connection = sql.connect(MEMORY_LIMIT, spill)
        try:
            connection.execute("SET threads = 1")
            connection.execute("SET preserve_insertion_order = false")
            storage.attach(connection)
            connection.register(WANTED, wanted.rows())
            with told():
                yield connection
        finally:
            connection.close()


def _batches(connection: duckdb.DuckDBPyConnection, select: str) -> Iterator[pa.Table]:
    yield from in_parts(connection.sql(select).to_arrow_reader(CUT_ROWS), CUT_ROWS)


@dataclass(frozen=True, slots=True)
class _Count:
    """Counts rows."""

    storage: Storage
    wanted: Wanted

    def __call__(self, select: str) -> bytes:
        with _opened(self.storage, self.wanted) as connection:
            (rows,) = connection.sql(f"SELECT count(*) FROM ({select})").fetchall()[0]  # noqa: S608 - ours
        return _encode(int(rows))


# ---- bringing together -------------------------------------------------------------------------


def _part_of_profile(parts: int) -> str:
    return f"(hash(profile_id) % {parts:d})::INTEGER AS part"


def _parts_of(rows: pa.Table) -> PartNumbers:
    numbers: PartNumbers = rows.column("part").to_numpy()
    return numbers


@dataclass(frozen=True, slots=True)
class _ByProfile:
    """Spreads everything by profile. `all_sets` tells whose events are, where they were not folded by set before."""

    storage: Storage
    wanted: Wanted
    asked: Asked
    all_sets: str
    parts: int

    def __call__(self, unit: _Unit) -> Iterator[Cut]:
        if unit.file is not None:
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                yield Cut("shipped", rows.select(SHIPPED.names), _parts_of(rows))
            return
        part = _part_of_profile(self.parts)
        with _opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                owned = f"SELECT set_id, {part} FROM ({self.all_sets})"  # noqa: S608 - made here
                select = f"SELECT e.*, part FROM ({unit.select}) AS e JOIN ({owned}) USING (set_id)"  # noqa: S608
                for rows in _batches(connection, select):
                    yield from _sent(rows.select(FOLDED).cast(_EVENTS), _parts_of(rows), self.asked)
            else:
                schema = _SETS if unit.input == "sets" else _PROFILES
                for rows in _batches(connection, f"SELECT *, {part} FROM ({unit.select})"):  # noqa: S608
                    yield Cut(unit.input, rows.select(schema.names).cast(schema), _parts_of(rows))


@dataclass(frozen=True, slots=True)
class _BySet:
    """Spreads events and the owners of sets by set. An owner's row says to which part of profiles it goes."""

    storage: Storage
    wanted: Wanted
    asked: Asked
    parts: int
    parts_of_profiles: int

    def __call__(self, unit: _Unit) -> Iterator[Cut]:
        with _opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                for rows in _batches(connection, unit.select):
                    events = rows.cast(_EVENTS)
                    yield from _sent(events, parts_by_id(events.column("set_id"), self.parts), self.asked)
            else:
                part = _part_of_profile(self.parts_of_profiles)
                for rows in _batches(connection, f"SELECT *, {part} FROM ({unit.select})"):  # noqa: S608
                    owned = rows.cast(_OWNED)
                    yield Cut("sets", owned, parts_by_id(owned.column("set_id"), self.parts))


def _sent(events: pa.Table, parts: PartNumbers, asked: Asked) -> Iterator[Cut]:
    """Yield events as they are, but those of very busy sets as what they come to."""
    words = siphash.from_arrow(events.column("set_id"))
    slots = slots_of(words)
    # A set with many events makes its slot a large one; mostly none is, and then nothing else is looked at.
    if np.bincount(slots, minlength=1).max(initial=0) <= BUSY_EVENTS:
        yield Cut("events", events, parts)
        return
    _, places = ranked(words)
    busy = np.bincount(places)[places] > BUSY_EVENTS
    if not busy.all():
        yield Cut("events", events.filter(pa.array(~busy)), parts[~busy])
    if busy.any():
        folded = shipped(asked.fold(events.filter(pa.array(busy))))
        sets = events.column("set_id").filter(pa.array(busy))
        part = parts[busy][pc.index_in(folded.column("set_id"), value_set=sets.combine_chunks()).to_numpy()]
        yield Cut("shipped", folded, part)


# ---- folding and answering ---------------------------------------------------------------------


def _together(tables: Mapping[str, pa.Table], asked: Asked) -> Partials:
    return merged([asked.fold(tables["events"]), unshipped(tables["shipped"])])


@dataclass(frozen=True, slots=True)
class _FoldSets:
    """Keeps what the events of sets come to, with the part that their profiles are in."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        rows = shipped(_together(tables, self.asked))
        owned = tables["sets"]
        place = pc.index_in(rows.column("set_id"), value_set=owned.column("set_id").combine_chunks())
        rows = rows.append_column("part", owned.column("part").combine_chunks().take(place))
        return _encode(keep(self.storage, self.folder, rows.filter(place.is_valid()).cast(_SENT), part))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Keeps what definitions are worth for the profiles of a part: a row each, a column for each definition."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        plan = self.asked.plan
        numbers = {step.step.digest: step.number for step in numbered(plan)}
        people = subjects(tables["profiles"], tables["sets"], plan)
        found = answers(plan, numbers, _together(tables, self.asked), people, self.asked.at)
        columns = {_COLUMN + key: answer.values for key, answer in found.items()}
        rows = pa.table({"profile_id": tables["profiles"].column("profile_id"), **columns})
        return _encode(keep(self.storage, self.folder, rows, part))


def _with_value(rows: pa.Table, column: str) -> pa.Table:
    chosen = rows.select(["profile_id", column]).rename_columns(VALUES.names).cast(VALUES)
    return chosen.filter(chosen.column("value").is_valid())
