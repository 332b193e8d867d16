"""What definitions over a whole lake are computed from: the tables as they are published, in SELECTs for tasks."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import duckdb
import pyarrow as pa

from profilelake.audiences.people import traits_read, types_asked
from profilelake.audiences.reading import MEMORY_LIMIT, WANTED, Wanted, in_parts, told
from profilelake.engines.kept import KeptFile
from profilelake.identity.tables import IDENTITY_FACTS, IDENTITY_MAP, SET_MAP
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.moment import Moment, moment
from profilelake.lake.storage import Storage
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import ACCOUNT_LINKS, PROFILES
from profilelake.semantics.definitions import Target
from profilelake.semantics.rules import Collection
from profilelake.traits.steps import Plan

UNIT_ROWS: Final = 4_000_000
"""Events in the files that one task reads, about."""
UNITS_PER_TASK: Final = 2
"""At least so many units of events for each task that runs at the same time, as they are not equally dear."""
UNIT_ROWS_LEAST: Final = 1_000_000
"""Units are no smaller to be more: opening a DuckDB for one costs as much as 100,000 events."""
CUT_ROWS: Final = 1 << 18
"""Rows that a task has in memory at once while it spreads them."""

Input = Literal[
    "events", "shipped", "sets", "profiles", "links", "members", "accounts", "said", "owners", "given", "account_given"
]  # fmt: skip
Owners = Literal["identifiers", "sets"]
"""Where it stands whose something is: by identifier, or by identifier set."""
NO_PROFILE: Final = -2
"""In place of a part, where a set is known to belong to no profile: all of its identifiers are blocked."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows of one input that one task reads: a SELECT, or a file of the step before."""

    input: Input
    select: str = ""
    file: KeptFile | None = None


def units(input: Input, selects: Sequence[str]) -> list[Unit]:
    """Return a unit for each SELECT."""
    return [Unit(input, select) for select in selects]


def kept_units(input: Input, files: Sequence[KeptFile]) -> list[Unit]:
    """Return a unit for each file."""
    return [Unit(input, file=file) for file in files]


@dataclass(frozen=True, slots=True)
class AccountInputs:
    """What besides is read where definitions are about accounts."""

    sets: list[str]
    profiles: list[str]
    links: list[str]
    left: str
    """`position` and `fact` of the decisions to leave."""
    identifiers: list[str]
    """`ident_id` and `profile_id` of all identifiers."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables as they all were at one moment, in SELECTs. `accounts` is None where no definition is about any.

    Beside a server profiles are published later than events: who is in no profile of that moment has no value.
    """

    moment: Moment
    snapshots: list[str]
    events: list[str]
    sets: list[str]
    whose: list[str]
    """`sets` with those too that belong to no profile."""
    profiles: list[str]
    accounts: AccountInputs | None = None
    owners: Sequence[str] = ()
    """`key` and `profile_id` of what results of queries are looked up among."""

    @classmethod
    def of(
        cls,
        lake: Lake,
        workspace: str,
        plan: Plan,
        wanted: Wanted,
        tasks: int,
        *,
        about: Iterable[Target] = (),
        owners: frozenset[Owners] = frozenset(),
    ) -> "Inputs":
        """Return what a plan reads of a workspace, cut for so many tasks at the same time.

        `about` says of whom definitions besides the plan are, `owners` what their ids are looked up among.

        Raises: as `lake.moment.moment`.
        """
        place = lake.storage.place
        of_accounts = "accounts" in {*about, *(planned.held.definition.target for planned in plan)}
        by_identifier = of_accounts or "identifiers" in owners
        beside = (
            *((ACCOUNT_LINKS, IDENTITY_FACTS) if of_accounts else ()),
            *((IDENTITY_MAP,) if by_identifier else ()),
        )
        now = moment(lake, workspace, (EVENTS, SET_MAP, PROFILES, *beside))
        events = now.load(workspace, EVENTS.name)
        sets = reading.pieces(now, workspace, SET_MAP.name, place)
        profiles = reading.pieces(now, workspace, PROFILES.name, place)
        snapshots = [events.table.metadata_location, sets.snapshot, profiles.snapshot]
        owned = [f"SELECT set_id AS key, profile_id FROM ({one})" for one in sets.selects if "sets" in owners]  # noqa: S608 - made here
        if by_identifier:
            identifiers = reading.pieces(now, workspace, IDENTITY_MAP.name, place)
            snapshots.append(identifiers.snapshot)
            if "identifiers" in owners:
                owned += [f"SELECT ident_id AS key, profile_id FROM ({one})" for one in identifiers.selects]  # noqa: S608 - made here
        accounts = None
        if of_accounts:
            links = now.load(workspace, ACCOUNT_LINKS.name)
            facts = now.load(workspace, IDENTITY_FACTS.name)
            snapshots += [links.table.metadata_location, facts.table.metadata_location]
            said = sql.select_files(facts.table.schema(), facts.files, place)
            accounts = AccountInputs(
                sets=[_select_sets(one, "accounts") for one in sets.selects],
                profiles=[_select_profiles(one, plan, "accounts") for one in profiles.selects],
                links=[
                    select_links(sql.select_files(links.table.schema(), group, place))
                    for group in _grouped(links.files, tasks) or [[]]
                ],
                left=select_left(said),
                identifiers=[select_identifiers(one) for one in identifiers.selects],
            )
        return cls(
            moment=now,
            snapshots=snapshots,
            events=[
                wanted.select_numbered(events, group, place)
                for group in _grouped(wanted.files(events), tasks)
            ],
            sets=[_select_sets(one, "users") for one in sets.selects],
            whose=[_select_whose(one, "users") for one in sets.selects],
            profiles=[_select_profiles(one, plan, "users") for one in profiles.selects],
            accounts=accounts,
            owners=owned,
        )

    def counted(self, tasks: int) -> list["Counted"]:
        """Return what is counted before anything else, for so many tasks."""
        of = self.accounts
        counted = [self.events, self.profiles, self.sets, of.profiles if of else [], of.links if of else []]
        return [
            Counted(*(tuple(selects[task::tasks]) for selects in counted))
            for task in range(min(tasks, max(map(len, counted))))
        ]


class Counted(NamedTuple):
    """SELECTs whose rows one task counts, as `Counts` has them."""

    events: tuple[str, ...]
    profiles: tuple[str, ...]
    sets: tuple[str, ...]
    accounts: tuple[str, ...]
    links: tuple[str, ...]


class Counts(NamedTuple):
    """How many rows of what there are."""

    events: int
    profiles: int
    sets: int
    accounts: int
    links: int


@contextmanager
def opened(storage: Storage, wanted: Wanted | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that reads tables: bounded memory, one thread, as other tasks run beside it."""
    with tempfile.TemporaryDirectory(prefix="profilelake-") as spill:
        connection = sql.connect(MEMORY_LIMIT, spill)
        try:
            connection.execute("SET threads = 1")
            connection.execute("SET preserve_insertion_order = false")
            storage.attach(connection)
            if wanted is not None:
                connection.register(WANTED, wanted.rows())
            with told():
                yield connection
        finally:
            connection.close()


def batches(connection: duckdb.DuckDBPyConnection, select: str) -> Iterator[pa.Table]:
    """Yield the rows of a SELECT, some at a time."""
    yield from in_parts(connection.sql(select).to_arrow_reader(CUT_ROWS), CUT_ROWS)


def part_of_profile(parts: int) -> str:
    """Return the expression for the part that a profile is in."""
    return f"(hash(profile_id) % {parts:d})::INTEGER AS part"


def part_of_owner(parts: int) -> str:
    """Return the same where there may be no profile: `NO_PROFILE` then."""
    return f"CASE WHEN profile_id IS NULL THEN {NO_PROFILE:d} ELSE (hash(profile_id) % {parts:d})::INTEGER END AS part"


def _select_sets(rows: str, collection: Collection) -> str:
    return f"FROM ({_select_whose(rows, collection)}) WHERE profile_id IS NOT NULL"


def _select_whose(rows: str, collection: Collection) -> str:
    return f"SELECT set_id, profile_id FROM ({rows}) WHERE collection = {sql.text(collection)}"  # noqa: S608 - made here


def _select_profiles(rows: str, plan: Plan, collection: Collection) -> str:
    of_users = collection == "users"
    identifiers = "identifiers" if of_users and types_asked(plan) else "NULL::VARCHAR AS identifiers"
    traits = "traits" if traits_read(plan, collection) else "NULL::VARCHAR AS traits"
    return f"""
        SELECT profile_id, {identifiers}, {traits} FROM ({rows}) WHERE collection = {sql.text(collection)}
    """  # noqa: S608 - names of our own columns


def select_left(facts: str) -> str:
    """Return the SELECT of the decisions to leave among all facts."""
    return f"SELECT position, fact FROM ({facts}) WHERE decision = 'leave'"  # noqa: S608 - made here


def select_identifiers(rows: str) -> str:
    """Return the SELECT of whose identifiers are."""
    return f"SELECT ident_id, profile_id FROM ({rows})"  # noqa: S608 - made here


def select_links(rows: str) -> str:
    """Return the SELECT of who was seen with which account."""
    return f"SELECT set_id, account_set_id, position, message_id FROM ({rows})"  # noqa: S608 - made here


def _grouped(files: Sequence[sql.LiveFile], tasks: int) -> list[list[sql.LiveFile]]:
    """Return files in groups of about `UNIT_ROWS` rows, or fewer where otherwise tasks had nothing to do."""
    rows = sum(file.rows for file in files)
    size = min(UNIT_ROWS, max(UNIT_ROWS_LEAST, rows // (UNITS_PER_TASK * tasks)))
    groups: list[list[sql.LiveFile]] = []
    held = size
    for file in files:
        if held >= size:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += file.rows
    return groups
