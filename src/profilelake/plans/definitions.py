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
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.people import accounts_of
from profilelake.audiences.queried import GIVEN
from profilelake.audiences.reading import Wanted, slices_for
from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, keep_wide, read_kept, read_wide
from profilelake.engines.keys import power_of_two
from profilelake.lake.catalog import Lake
from profilelake.lake.moment import Moment
from profilelake.lake.storage import Storage
from profilelake.plans.account_members import MEMBERS, account_members
from profilelake.plans.asked import COLUMN
from profilelake.plans.asked import Asked as Asked
from profilelake.plans.definition_inputs import (
    CUT_ROWS,
    UNIT_ROWS,
    Counted,
    Counts,
    Input,
    Inputs,
    Unit,
    batches,
    kept_units,
    opened,
    part_of_owner,
    part_of_profile,
    units,
)
from profilelake.plans.definition_spreading import (
    OWNED,
    PROFILES,
    SETS,
    ByProfile,
    BySet,
    parts_of,
)
from profilelake.plans.queried import Given, Results, bring
from profilelake.semantics.definitions import Target
from profilelake.traits.merging import merged
from profilelake.traits.partials import Partials
from profilelake.traits.shipped import SHIPPED, shipped, unshipped

KIND: Final = "definitions"
FORMAT: Final = 3
"""Which steps there are and what they keep. It goes up with any change: a job begun in another form begins anew."""
VALUES: Final = pa.schema([("profile_id", pa.string()), ("value", pa.string())])
"""What a definition is worth for the profiles that have a value, as JSON."""
SETS_JOINED_MAX: Final = 1 << 22
"""Sets among which every task may look up the owners of events by itself: about 250 MB."""
_SENT: Final = pa.schema([*SHIPPED, ("part", pa.int32())])
_LINKED: Final = pa.schema([MEMBERS.field("profile_id"), MEMBERS.field("account_id")])
_OF_ACCOUNTS: Final = {
    "accounts": PROFILES, "members": _LINKED, "profiles": PROFILES, "sets": SETS, "shipped": SHIPPED,
    "given": GIVEN, "account_given": GIVEN
}  # fmt: skip
"""What is brought together by account; `profiles` and the others are of people."""
NO_RESULTS: Final = Results()
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_files: Final = msgspec.msgpack.Decoder(list[KeptFile]).decode


class _Kept(msgspec.Struct, frozen=True):
    """Files that a part left, and how many of its sets have events and no published profile."""

    files: list[KeptFile]
    unpublished: int


_decode_kept: Final = msgspec.msgpack.Decoder(_Kept).decode
_decode_counts: Final = msgspec.msgpack.Decoder(Counts).decode


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
    moment: Moment
    """The tables that all of this is of."""
    unpublished: int
    """Identifier sets with events that could matter, of people who were in no published profile at that moment."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The definitions that were computed."""
        return tuple(key for answered in self.answered for key in answered.keys)

    def slices(self, keys: Sequence[str] | None = None) -> Iterator[Mapping[str, pa.Table]]:
        """Yield by key `profile_id` and `value` of the profiles that have one, some profiles at a time."""
        for answered in self.answered:
            names = {key: COLUMN + key for key in answered.keys if keys is None or key in keys}
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
    results: Results = NO_RESULTS,
) -> tuple[Job, Computed]:
    """Return what definitions are worth at a time, from the tables alone, and the job: `finish` it when they were read.

    Asked again about the same tables the job goes on where it was. Its files lie on the storage of the lake; use
    it in a `with` statement, so that others can go on with it where reading fails.
    `results` are what the queries of `asked.queried` gave; their files are needed until this returns.

    Raises:
        Invalid: a result is not as it has to be; too many decisions to leave accounts hold.
        Unavailable: memory or disk is full, the cluster does not answer, the tables move faster than those of one moment
            can be had, or another process computes the same.
        Conflict: another process took the job over.
        Corrupt: a file of a table is missing or damaged.
    """
    storage = lake.storage
    about = [one.target for one in asked.queried.definitions if one.kind != "entity"]
    inputs = Inputs.of(
        lake, workspace, asked.plan, asked.wanted(), engine.tasks, about=about, owners=results.owners
    )
    # How many tasks there are says how events are cut into units, and what is remembered goes by these.
    named = [
        FORMAT,
        workspace,
        inputs.snapshots,
        engine.tasks,
        duckdb.__version__,
        _said(asked),
        results.said(),
    ]
    job = Job(storage, KIND, named, report)
    try:
        return job, _computed(engine, job, inputs, asked, results)
    except BaseException:
        job.leave()
        raise


def _computed(engine: Engine, job: Job, inputs: Inputs, asked: Asked, results: Results) -> Computed:
    storage, wanted = job.storage, asked.wanted()
    counted = job.step(
        "count", lambda: engine.each("count", inputs.counted(engine.tasks), _Count(storage, wanted))
    )
    counts = Counts(*(sum(of) for of in zip(*map(_decode_counts, counted.values()), strict=True)))
    # Rows of entities lie in a part beside events, and may be many more.
    parts = slices_for(counts.events + results.weight("users"), counts.profiles)
    happened, sets = units("events", inputs.events), units("sets", inputs.sets)
    owners: tuple[KeptFile, ...] = ()
    unpublished = 0
    if counts.sets > SETS_JOINED_MAX:
        folded = _folded(engine, job, inputs, asked, counts, parts)
        happened = kept_units("shipped", [file for one in folded for file in one.files])
        unpublished = sum(one.unpublished for one in folded)
    else:
        found = job.step(
            "owners",
            lambda: engine.each("owners", inputs.whose, _Owners(storage, job.folder("owners"), parts)),
        )
        owners = _files(found.values())
        sets = kept_units("sets", owners)
    by_profile = ByProfile(storage, wanted, asked.fold, owners, parts)
    # What a person brings to an account is at most what there is of their sets.
    brought = min(counts.sets, counts.events) + results.weight("users") + results.weight("accounts")
    account_parts = slices_for(counts.links + brought, counts.accounts)
    given = Given([], [])
    if results.of:
        of_whom: dict[Target, int] = {"users": parts, "accounts": account_parts}
        given = bring(engine, job, inputs, results, asked.queried, counts.sets, of_whom)
    of_people = [*happened, *sets, *units("profiles", inputs.profiles), *kept_units("given", given.people)]
    answer = _Answer(storage, job.folder("answer"), asked)
    if inputs.accounts is None:
        found = job.step(
            "answer",
            lambda: engine.spread("answer", of_people, by_profile, by_profile.inputs(), parts, answer),
        )
        kept = [_decode_kept(body) for body in found.values()]
        answered = [Answered(asked.keys("users"), tuple(file for one in kept for file in one.files))]
        unpublished += sum(one.unpublished for one in kept)
    else:
        members = account_members(engine, job, inputs, inputs.accounts, counts, parts, account_parts)
        of_people += kept_units("members", members)
        of_accounts = [
            *units("accounts", inputs.accounts.profiles),
            *kept_units("account_given", given.accounts),
        ]
        by_account = _ByAccount(storage, account_parts)
        answered, more = _with_accounts(engine, job, of_people, by_profile, of_accounts, by_account, answer)
        unpublished += more
    return Computed(
        storage,
        tuple(answered),
        counts.profiles,
        counts.accounts,
        counts.events,
        inputs.moment,
        unpublished,
    )


def _folded(
    engine: Engine, job: Job, inputs: Inputs, asked: Asked, counts: Counts, parts: int
) -> list[_Kept]:
    """Return files of what the events of each set come to, with the part that its profile is in."""
    of_sets = power_of_two(counts.events / UNIT_ROWS * 16)
    folded = job.step(
        "fold",
        lambda: engine.spread(
            "fold",
            [*units("events", inputs.events), *units("sets", inputs.whose)],
            BySet(job.storage, asked.wanted(), asked.fold, of_sets, parts),
            {"events": asked.wanted().numbered_schema(), "shipped": SHIPPED, "sets": OWNED},
            of_sets,
            _FoldSets(job.storage, job.folder("fold"), asked),
        ),
    )
    return [_decode_kept(body) for body in folded.values()]


def _with_accounts(
    engine: Engine,
    job: Job,
    of_people: Sequence[Unit],
    by_profile: ByProfile,
    of_accounts: Sequence[Unit],
    by_account: "_ByAccount",
    answer: "_Answer",
) -> tuple[list[Answered], int]:
    """Return what definitions about people and about accounts are worth, and how many sets are in no published profile.

    People answer, and go to their accounts.
    """
    people = job.step(
        "people",
        lambda: engine.spread(
            "people",
            of_people,
            by_profile,
            {**by_profile.inputs(), "members": MEMBERS},
            by_profile.parts,
            _AnswerAndSend(answer, job.folder("people")),
        ),
    )
    sent = [_decode_sent(body) for body in people.values()]
    going = [unit for one in sent for input, files in one.going.items() for unit in kept_units(input, files)]
    accounts = job.step(
        "accounts",
        lambda: engine.spread(
            "accounts",
            [*going, *of_accounts],
            by_account,
            _OF_ACCOUNTS,
            by_account.parts,
            _AnswerAccounts(job.storage, job.folder("accounts"), answer.asked),
        ),
    )
    answered = [
        Answered(answer.asked.keys("users"), tuple(file for one in sent for file in one.values)),
        Answered(answer.asked.keys("accounts"), _files(accounts.values())),
    ]
    return answered, sum(one.unpublished for one in sent)


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
        owned = f"SELECT *, {part_of_owner(self.parts)} FROM ({select})"  # noqa: S608 - made here
        with opened(self.storage) as connection:
            rows = (rows.select(OWNED.names).cast(OWNED) for rows in batches(connection, owned))
            return _encode(keep(self.storage, self.folder, rows))


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
        strays = pc.count_distinct(rows.column("set_id").filter(place.is_null())).as_py()
        # Nothing is greater than an unknown part.
        going = rows.filter(pc.greater_equal(rows.column("part"), 0)).cast(_SENT)
        return _encode(_Kept(keep(self.storage, self.folder, going, part), strays))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Keeps what definitions are worth for the people of a part: a row each, a column for each definition."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        return _encode(self.values(part, tables, _together(tables, self.asked)))

    def values(self, part: int, tables: Mapping[str, pa.Table], partials: Partials) -> _Kept:
        """Keep them, where it is known what the events come to."""
        people, sets = tables["profiles"], tables["sets"]
        if not (people.num_rows and self.asked.keys("users")):
            return _Kept([], _unpublished(tables))
        answering = self.asked.people(tables)
        rows = self.asked.answered(people.column("profile_id"), partials, answering)
        # Mostly the profiles of all sets are there, and then nobody has to be looked for.
        all_there = len(answering.set_keys) == sets.num_rows and not tables["strays"].num_rows
        return _Kept(
            keep_wide(self.storage, self.folder, rows, part), 0 if all_there else _unpublished(tables)
        )


def _unpublished(tables: Mapping[str, pa.Table]) -> int:
    """Count the sets with events of a part whose profiles are not there."""
    sets, ids = tables["sets"], tables["profiles"].column("profile_id").combine_chunks()
    missing = sets.column("set_id").filter(pc.invert(pc.is_in(sets.column("profile_id"), value_set=ids)))
    active = [tables[name].column("set_id").combine_chunks() for name in ("events", "shipped")]
    busy = pc.or_(*(pc.is_in(missing, value_set=one.cast(missing.type)) for one in active))
    return int(pc.count_distinct(tables["strays"].column("set_id")).as_py() + (pc.sum(busy).as_py() or 0))


# ---- from people to their accounts -------------------------------------------------------------


class _Sent(msgspec.Struct, frozen=True):
    """Files that a part of people left: what definitions are worth for them, and what goes to accounts, by input."""

    values: list[KeptFile]
    going: dict[Input, list[KeptFile]]
    unpublished: int


_decode_sent: Final = msgspec.msgpack.Decoder(_Sent).decode


@dataclass(frozen=True, slots=True)
class _AnswerAndSend:
    """Keeps what `answer` does; and of those who belong to accounts who they are and what they did, for these."""

    answer: _Answer
    folder: str

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        partials = _together(tables, self.answer.asked)
        kept = self.answer.values(part, tables, partials)
        going = {} if not tables["members"].num_rows else self._going(part, tables, partials)
        return _encode(_Sent(kept.files, going, kept.unpublished))

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
            "given": tables["given"].join(people, "profile_id", join_type="inner"),
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
                yield Cut(unit.input, told, parts_of(rows))
            return
        with opened(self.storage) as connection:
            select = f"SELECT *, {part_of_profile(self.parts)} FROM ({unit.select})"  # noqa: S608 - made here
            for rows in batches(connection, select):
                yield Cut(unit.input, rows.select(PROFILES.names).cast(PROFILES), parts_of(rows))


@dataclass(frozen=True, slots=True)
class _AnswerAccounts:
    """Keeps what definitions are worth for the accounts of a part: a row each, a column for each definition."""

    storage: Storage
    folder: str
    asked: Asked

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        asked, accounts, ids = self.asked, tables["accounts"], tables["accounts"].column("profile_id")
        given = asked.queried.given(ids, tables["account_given"], "accounts", asked.plan)
        of = tables["profiles"].column("profile_id")
        whole = accounts_of(accounts, asked.people(tables), of, tables["members"], asked.plan, given)
        rows = asked.answered(ids, unshipped(tables["shipped"]), whole)
        return _encode(keep_wide(self.storage, self.folder, rows, part))


def _with_value(rows: pa.Table, column: str) -> pa.Table:
    chosen = rows.select(["profile_id", column]).rename_columns(VALUES.names).cast(VALUES)
    return chosen.filter(chosen.column("value").is_valid())
