"""Computed traits and audiences over a whole lake, on any engine: what definitions are worth, from the tables alone.

The same folding and the same answers as online; only where events and profiles come from differs. The events
that matter are brought together by profile and folded there. Where so many sets exist that no task can look up
whose they are, events are brought together by set first, and what they come to goes on to the profile. Where
definitions are about accounts, what people did goes on from there to the accounts that they belong to.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.people import accounts_of, subjects
from profilelake.audiences.reading import PART_ROWS, Wanted, in_parts, slices_for
from profilelake.engines.engine import Cut, Engine, PartNumbers
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, keep_wide, read_kept, read_wide
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.errors import Invalid
from profilelake.kernels import siphash
from profilelake.kernels.places import Places
from profilelake.kernels.slots import slots_of
from profilelake.lake.catalog import Lake
from profilelake.lake.storage import Storage
from profilelake.plans.account_members import MEMBERS, account_members
from profilelake.plans.definition_inputs import (
    CUT_ROWS,
    UNIT_ROWS,
    AccountInputs,
    Counted,
    Counts,
    Input,
    Inputs,
    Unit,
    batches,
    kept_units,
    opened,
    part_of_profile,
    units,
)
from profilelake.semantics.definitions import Target
from profilelake.traits.answers import answers
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.merging import merged, ranked
from profilelake.traits.partials import Partials, numbered
from profilelake.traits.shipped import SHIPPED, shipped, unshipped
from profilelake.traits.steps import Plan

KIND: Final = "definitions"
FORMAT: Final = 1
"""Which steps there are and what they keep. It goes up with any change: a job begun in another form begins anew."""
VALUES: Final = pa.schema([("profile_id", pa.string()), ("value", pa.string())])
"""What a definition is worth for the profiles that have a value, as JSON."""
SETS_JOINED_MAX: Final = 1 << 22
"""Sets among which every task may look up the owners of events by itself: about 250 MB."""
BUSY_EVENTS: Final = 1 << 12
"""A set with more events among `CUT_ROWS` is folded before it is sent on, so that no part is much larger than another."""

_SETS: Final = pa.schema([("set_id", pa.binary(16)), ("profile_id", pa.string())])
_OWNED: Final = pa.schema([*_SETS, ("part", pa.int32())])
_OWNERS: Final = pa.schema([("set_id", pa.binary(16)), ("part", pa.int32())])
NOBODY: Final = -1
"""In place of a part, where nobody owns a set."""
_PROFILES: Final = pa.schema(
    [("profile_id", pa.string()), ("identifiers", pa.string()), ("traits", pa.string())]
)
_SENT: Final = pa.schema([*SHIPPED, ("part", pa.int32())])
_OF_PEOPLE: Final = {"shipped": SHIPPED, "sets": _SETS, "profiles": _PROFILES}
"""What is brought together by person, events aside."""
_LINKED: Final = pa.schema([MEMBERS.field("profile_id"), MEMBERS.field("account_id")])
_OF_ACCOUNTS: Final = {
    "accounts": _PROFILES, "members": _LINKED, "profiles": _PROFILES, "sets": _SETS, "shipped": SHIPPED
}  # fmt: skip
"""What is brought together by account; `profiles` and the others are of people."""
_COLUMN: Final = "value of "
"""Before the key of a definition in the columns of kept files."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_files: Final = msgspec.msgpack.Decoder(list[KeptFile]).decode
_decode_counts: Final = msgspec.msgpack.Decoder(Counts).decode


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
        wanted, steps = self.wanted(), numbered(self.plan)
        parts = in_parts(events.to_batches(CUT_ROWS), PART_ROWS)
        return merged([fold(wanted.restored(part), steps, at=self.at) for part in parts])

    def answered(self, ids: pa.ChunkedArray, partials: Partials, of: Subjects) -> pa.Table:
        """Return what definitions are worth for some profiles: a row each, a column for each definition about these."""
        numbers = {step.step.digest: step.number for step in numbered(self.plan)}
        found = answers(self.plan, numbers, partials, of, self.at)
        columns = {_COLUMN + key: answer.values for key, answer in found.items()}
        return pa.table({"profile_id": ids, **columns})

    def keys(self, of: Target) -> tuple[str, ...]:
        """Return the keys of the definitions about people, or about accounts."""
        return tuple(
            planned.held.definition.key for planned in self.plan if planned.held.definition.target == of
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What the definitions about one collection are worth, in files: all values of a profile lie in one of them."""

    keys: tuple[str, ...]
    files: tuple[KeptFile, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """What definitions are worth, in files of a job."""

    storage: Storage
    answered: tuple[Answered, ...]
    profiles: int
    """How many people there are."""
    accounts: int
    """How many accounts, 0 where none were looked at."""
    events: int
    """How many events could matter."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The definitions that were computed."""
        return tuple(key for answered in self.answered for key in answered.keys)

    def slices(self, keys: Sequence[str] | None = None) -> Iterator[Mapping[str, pa.Table]]:
        """Yield by key `profile_id` and `value` of the profiles that have one, some profiles at a time."""
        for answered in self.answered:
            names = {key: _COLUMN + key for key in answered.keys if keys is None or key in keys}
            for file in answered.files if names else ():
                for rows in read_wide(self.storage, file, ["profile_id", *names.values()]):
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
        Invalid: a definition is in SQL, or asks for rows of entities; too many decisions to leave accounts hold.
        Unavailable: memory or disk is full, the cluster does not answer, or the tables change faster than they are read.
        Corrupt: a file of a table is missing or damaged.
    """
    storage = lake.storage
    wanted = asked.checked().wanted()
    inputs = Inputs.of(lake, workspace, asked.plan, wanted, engine.tasks)
    # How many tasks there are says how events are cut into units, and what is remembered goes by these.
    named = [FORMAT, workspace, inputs.snapshots, engine.tasks, duckdb.__version__, _said(asked)]
    job = Job(storage, KIND, named, report)
    counted = job.step(
        "count", lambda: engine.each("count", inputs.counted(engine.tasks), _Count(storage, wanted))
    )
    counts = Counts(*(sum(of) for of in zip(*map(_decode_counts, counted.values()), strict=True)))
    parts = slices_for(counts.events, counts.profiles)
    happened, sets = units("events", inputs.events), units("sets", inputs.sets)
    owners: tuple[KeptFile, ...] = ()
    if counts.sets > SETS_JOINED_MAX:
        happened = kept_units("shipped", _folded(engine, job, inputs, asked, counts, parts))
    else:
        found = job.step(
            "owners",
            lambda: engine.each("owners", inputs.sets, _Owners(storage, job.folder("owners"), parts)),
        )
        owners = _files(found.values())
        sets = kept_units("sets", owners)
    by_profile = _ByProfile(storage, wanted, asked, owners, parts)
    of_people = [*happened, *sets, *units("profiles", inputs.profiles)]
    answer = _Answer(storage, job.folder("answer"), asked)
    if inputs.accounts is None:
        found = job.step(
            "answer",
            lambda: engine.spread("answer", of_people, by_profile, by_profile.inputs(), parts, answer),
        )
        answered = [Answered(asked.keys("users"), _files(found.values()))]
    else:
        answered = _with_accounts(engine, job, inputs, inputs.accounts, counts, of_people, by_profile, answer)
    return job, Computed(storage, tuple(answered), counts.profiles, counts.accounts, counts.events)


def _folded(
    engine: Engine, job: Job, inputs: Inputs, asked: Asked, counts: Counts, parts: int
) -> tuple[KeptFile, ...]:
    """Return files of what the events of each set come to, with the part that its profile is in."""
    of_sets = power_of_two(counts.events / UNIT_ROWS * 16)
    folded = job.step(
        "fold",
        lambda: engine.spread(
            "fold",
            [*units("events", inputs.events), *units("sets", inputs.sets)],
            _BySet(job.storage, asked.wanted(), asked, of_sets, parts),
            {"events": asked.wanted().numbered_schema(), "shipped": SHIPPED, "sets": _OWNED},
            of_sets,
            _FoldSets(job.storage, job.folder("fold"), asked),
        ),
    )
    return _files(folded.values())


def _with_accounts(
    engine: Engine,
    job: Job,
    inputs: Inputs,
    of: AccountInputs,
    counts: Counts,
    of_people: Sequence[Unit],
    by_profile: "_ByProfile",
    answer: "_Answer",
) -> list[Answered]:
    """Return what definitions about people and about accounts are worth: people answer, and go to their accounts."""
    asked, parts = answer.asked, by_profile.parts
    # What a person brings to an account is at most what there is of their sets.
    account_parts = slices_for(counts.links + min(counts.sets, counts.events), counts.accounts)
    members = account_members(engine, job, inputs, of, counts, parts, account_parts)
    people = job.step(
        "people",
        lambda: engine.spread(
            "people",
            [*of_people, *kept_units("members", members)],
            by_profile,
            {**by_profile.inputs(), "members": MEMBERS},
            parts,
            _AnswerAndSend(answer, job.folder("people")),
        ),
    )
    sent = [_decode_sent(body) for body in people.values()]
    accounts = job.step(
        "accounts",
        lambda: engine.spread(
            "accounts",
            [
                *(
                    unit
                    for one in sent
                    for input, files in one.going.items()
                    for unit in kept_units(input, files)
                ),
                *units("accounts", of.profiles),
            ],
            _ByAccount(job.storage, account_parts),
            _OF_ACCOUNTS,
            account_parts,
            _AnswerAccounts(job.storage, job.folder("accounts"), asked),
        ),
    )
    return [
        Answered(asked.keys("users"), tuple(file for one in sent for file in one.values)),
        Answered(asked.keys("accounts"), _files(accounts.values())),
    ]


def _files(bodies: Iterable[bytes]) -> tuple[KeptFile, ...]:
    return tuple(file for body in bodies for file in _decode_files(body))


def _said(asked: Asked) -> list[object]:
    definitions = [[one.held.definition.key, one.held.definition.query, repr(one.held)] for one in asked.plan]
    return [definitions, asked.at, asked.received_until]


@dataclass(frozen=True, slots=True)
class _Count:
    """Counts rows."""

    storage: Storage
    wanted: Wanted

    def __call__(self, counted: Counted) -> bytes:
        with opened(self.storage, self.wanted) as connection:
            return _encode(Counts(*(sum(_rows_of(connection, select) for select in of) for of in counted)))


def _rows_of(connection: duckdb.DuckDBPyConnection, select: str) -> int:
    (rows,) = connection.sql(f"SELECT count(*) FROM ({select})").fetchall()[0]  # noqa: S608 - ours
    return int(rows)


@dataclass(frozen=True, slots=True)
class _Owners:
    """Keeps whose sets are, with the part that their profiles are in."""

    storage: Storage
    folder: str
    parts: int

    def __call__(self, select: str) -> bytes:
        owned = f"SELECT *, {part_of_profile(self.parts)} FROM ({select})"  # noqa: S608 - made here
        with opened(self.storage) as connection:
            rows = (rows.select(_OWNED.names).cast(_OWNED) for rows in batches(connection, owned))
            return _encode(keep(self.storage, self.folder, rows))


# ---- bringing together -------------------------------------------------------------------------


def _parts_of(rows: pa.Table) -> PartNumbers:
    numbers: PartNumbers = rows.column("part").to_numpy()
    return numbers


@dataclass(frozen=True, slots=True)
class _ByProfile:
    """Spreads everything by profile. `owners` tell whose events are, where they were not folded by set before."""

    storage: Storage
    wanted: Wanted
    asked: Asked
    owners: tuple[KeptFile, ...]
    parts: int

    def inputs(self) -> dict[str, pa.Schema]:
        """Return the columns of what is brought together by person."""
        return {"events": self.wanted.numbered_schema(), **_OF_PEOPLE}

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        if unit.file is not None:
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                yield Cut(unit.input, rows.drop_columns(["part"]), _parts_of(rows))
            return
        with opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                yield from self._events(batches(connection, unit.select))
            else:
                schema = _SETS if unit.input == "sets" else _PROFILES
                select = f"SELECT *, {part_of_profile(self.parts)} FROM ({unit.select})"  # noqa: S608 - made here
                for rows in batches(connection, select):
                    yield Cut(unit.input, rows.select(schema.names).cast(schema), _parts_of(rows))

    def _events(self, read: Iterator[pa.Table]) -> Iterator[Cut]:
        """Yield the events of sets that have an owner."""
        owned = _read_owners(self.storage, self.owners)
        # A join in SQL costs ten times as much: each unit would build its table, and pass all columns through it.
        places = Places(_words(owned))
        part_of = np.append(owned.column("part").to_numpy(), np.int32(NOBODY))
        for rows in read:
            events = rows.cast(self.wanted.numbered_schema())
            parts = part_of[places.of(_words(events))]
            mine = parts != NOBODY
            if not mine.all():
                events, parts = events.filter(pa.array(mine)), parts[mine]
            yield from _sent(events, parts, self.asked)


@dataclass(frozen=True, slots=True)
class _BySet:
    """Spreads events and the owners of sets by set. An owner's row says to which part of profiles it goes."""

    storage: Storage
    wanted: Wanted
    asked: Asked
    parts: int
    parts_of_profiles: int

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        with opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                for rows in batches(connection, unit.select):
                    events = rows.cast(self.wanted.numbered_schema())
                    yield from _sent(events, parts_by_id(events.column("set_id"), self.parts), self.asked)
            else:
                part = part_of_profile(self.parts_of_profiles)
                select = f"SELECT *, {part} FROM ({unit.select})"  # noqa: S608 - made here
                for rows in batches(connection, select):
                    owned = rows.cast(_OWNED)
                    yield Cut("sets", owned, parts_by_id(owned.column("set_id"), self.parts))


def _read_owners(storage: Storage, files: Sequence[KeptFile]) -> pa.Table:
    read = (rows for file in files for rows in read_kept(storage, file, _OWNERS.names))
    return pa.concat_tables([_OWNERS.empty_table(), *(rows.select(_OWNERS.names) for rows in read)])


def _words(rows: pa.Table) -> siphash.Words:
    return siphash.from_arrow(rows.column("set_id"))


def _sent(events: pa.Table, parts: PartNumbers, asked: Asked) -> Iterator[Cut]:
    """Yield events as they are, but those of very busy sets as what they come to."""
    words = _words(events)
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
    """Keeps what definitions are worth for the people of a part: a row each, a column for each definition."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        return _encode(self.values(part, tables, _together(tables, self.asked)))

    def values(self, part: int, tables: Mapping[str, pa.Table], partials: Partials) -> list[KeptFile]:
        """Keep them, where it is known what the events come to."""
        if not self.asked.keys("users"):
            return []
        ids = tables["profiles"].column("profile_id")
        people = subjects(tables["profiles"], tables["sets"], self.asked.plan)
        return keep_wide(self.storage, self.folder, self.asked.answered(ids, partials, people), part)


# ---- from people to their accounts -------------------------------------------------------------


class _Sent(msgspec.Struct, frozen=True):
    """Files that a part of people left: what definitions are worth for them, and what goes to accounts, by input."""

    values: list[KeptFile]
    going: dict[Input, list[KeptFile]]


_decode_sent: Final = msgspec.msgpack.Decoder(_Sent).decode


@dataclass(frozen=True, slots=True)
class _AnswerAndSend:
    """Keeps what `answer` does; and of those who belong to accounts who they are and what they did, for these."""

    answer: _Answer
    folder: str

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        partials = _together(tables, self.answer.asked)
        values = self.answer.values(part, tables, partials)
        going = {} if not tables["members"].num_rows else self._going(part, tables, partials)
        return _encode(_Sent(values, going))

    def _going(
        self, part: int, tables: Mapping[str, pa.Table], partials: Partials
    ) -> dict[Input, list[KeptFile]]:
        members = tables["members"].rename_columns([*MEMBERS.names[:-1], "part"])
        members = members.group_by(members.column_names).aggregate([])
        # Somebody with several accounts in one part goes there once.
        people = members.select(["profile_id", "part"])
        people = people.group_by(people.column_names).aggregate([])
        sets = tables["sets"].join(people, "profile_id", join_type="inner")
        done = shipped(partials)
        rows: dict[Input, pa.Table] = {
            "members": members,
            "profiles": _placed(tables["profiles"], people, "profile_id"),
            "sets": sets,
            "shipped": _placed(done, sets, "set_id"),
        }
        storage = self.answer.storage
        return {input: keep(storage, self.folder, one, part) for input, one in rows.items()}


def _placed(rows: pa.Table, going: pa.Table, key: str) -> pa.Table:
    """Return rows with the parts that they go to: `going` has both, some rows several times and others never."""
    place = pc.index_in(going.column(key), value_set=rows.column(key).combine_chunks())
    known = going.filter(place.is_valid())
    return rows.take(place.drop_null()).append_column("part", known.column("part"))


@dataclass(frozen=True, slots=True)
class _ByAccount:
    """Spreads accounts, who belongs to them, and what these people did."""

    storage: Storage
    parts: int

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        if unit.file is not None:
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                told = rows.select(_OF_ACCOUNTS[unit.input].names).cast(_OF_ACCOUNTS[unit.input])
                yield Cut(unit.input, told, _parts_of(rows))
            return
        with opened(self.storage) as connection:
            select = f"SELECT *, {part_of_profile(self.parts)} FROM ({unit.select})"  # noqa: S608 - made here
            for rows in batches(connection, select):
                yield Cut(unit.input, rows.select(_PROFILES.names).cast(_PROFILES), _parts_of(rows))


@dataclass(frozen=True, slots=True)
class _AnswerAccounts:
    """Keeps what definitions are worth for the accounts of a part: a row each, a column for each definition."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        whole = accounts_of(
            tables["accounts"], tables["profiles"], tables["sets"], tables["members"], self.asked.plan
        )
        ids = tables["accounts"].column("profile_id")
        rows = self.asked.answered(ids, unshipped(tables["shipped"]), whole)
        return _encode(keep_wide(self.storage, self.folder, rows, part))


def _with_value(rows: pa.Table, column: str) -> pa.Table:
    chosen = rows.select(["profile_id", column]).rename_columns(VALUES.names).cast(VALUES)
    return chosen.filter(chosen.column("value").is_valid())
