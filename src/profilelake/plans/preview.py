"""Who would be in an audience that nobody has defined yet, and what an edit would do: exactly, or from a sample.

A sample is of whole profiles, chosen by their slots: these are bits of keyed hashes, so any range of them is
as good as drawn by lot. Their events are read from the lake like those of all; accounts come with all of their people.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.effects import effects_of_rows
from profilelake.audiences.people import accounts_of, subjects
from profilelake.audiences.queried import GIVEN, Queried
from profilelake.audiences.reading import PART_ROWS, Reading, Wanted, event_schema, in_parts, scratch, told
from profilelake.audiences.tables import AUDIENCE_MEMBERS
from profilelake.errors import Invalid, NotFound, ProfilelakeError
from profilelake.identity.tables import IDENTITY_FACTS, IDENTITY_MAP
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.schema import SLOTS
from profilelake.plans.account_members import members_here
from profilelake.plans.definition_inputs import Owners, select_identifiers, select_left, select_links
from profilelake.plans.queried import Results, given_here
from profilelake.profiles.tables import ACCOUNT_LINKS
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import And, Or
from profilelake.semantics.definitions import SQL_KINDS, Definition, Held, Target
from profilelake.semantics.rules import COLLECTIONS
from profilelake.traits.answers import answers
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.merging import merge
from profilelake.traits.partials import Partials, numbered
from profilelake.traits.steps import Plan, needed, planned

How = Literal["exact", "estimate", "unknown"]
Ask: TypeAlias = Callable[
    [Sequence[Definition], Callable[[], bool]], tuple[Results, Mapping[str, ProfilelakeError]]
]
"""Runs the queries of definitions until it is told to stop: what they gave, and why others gave nothing, by key."""

EXACT_EVENTS_MAX: Final = 200_000
"""Where no more events matter, and no more profiles exist than a sample has, all of them are looked at."""
SAMPLE_PROFILES: Final = 20_000
"""So many are looked at otherwise: a share of 1 % is then known to within an eighth of it, one of 10 % to a 25th."""
SAMPLE_ACCOUNTS: Final = 5_000
"""So many accounts are looked at where a definition is about these: each brings its people along."""
PEOPLE_MAX: Final = 200_000
"""People of the accounts of a sample; where there are more, nothing is counted."""
QUERIED_ROWS_MAX: Final = 2_000_000
"""Rows that the queries of entities and SQL definitions may give together."""
SECONDS_MAX: Final = 10.0
MEMBERS_MAX: Final = 20
PARTS_MAX: Final = 20
OVERLAPS_MAX: Final = 50
Z_95: Final = 1.959963984540054

_BEFORE: Final = "\x00before"
_PART: Final = "\x00part"
_FIRST: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Size:
    """How many profiles: `count`, and between which bounds it lies in 95 of 100 samples; equal where it is exact."""

    count: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit does: how many come to have a value, lose it, or have another one."""

    enter: Size
    leave: Size
    change: Size


@dataclass(frozen=True, slots=True)
class Preview:
    """What a definition would be worth at `at` (microseconds).

    `size` counts the profiles with a value. `parts` has each top-level condition alone, `overlaps` the members of other
    audiences among those of this one. `examples` are some profiles with their values. `how` says what the counts
    are: `unknown` where the time was over before there were any, for the reason in `failure`.
    """

    how: How
    at: int
    profiles: int
    sampled: int
    events: int
    size: Size
    parts: tuple[tuple[str, Size], ...] = ()
    overlaps: tuple[tuple[str, Size], ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    change: Change | None = None
    failure: str = ""


def preview(
    lake: Lake,
    workspace: str,
    definition: Definition,
    others: Mapping[str, Held],
    at: int,
    *,
    directory: Path,
    ask: Ask | None = None,
    seed: int = 0,
    sample_profiles: int | None = None,
    exact_events_max: int = EXACT_EVENTS_MAX,
    seconds_max: float = SECONDS_MAX,
) -> Preview:
    """Return what a definition would be worth at a time, beside the `others` that hold.

    Where one of its key holds already, `change` says what the edit would do. `seed` chooses the sample: the same
    one gives the same answer. `ask` runs queries, where entities or SQL are asked for: they give what they give
    now, and all of it, of which only what is of the sample is looked at.

    Raises:
        Invalid: the definition cannot be read, or is in SQL.
        Unavailable, Corrupt: the tables cannot be read.
    """
    if definition.kind not in ("audience", "trait"):
        raise Invalid(
            f"previewing {definition.key!r}: only audiences and computed traits of the language can be previewed"
        )
    asked = _Asked.of(definition, others)
    most = sample_profiles or (SAMPLE_PROFILES if asked.target == "users" else SAMPLE_ACCOUNTS)
    with scratch(directory) as folder:
        reading = Reading(lake, workspace, folder)
        try:
            with _Limit(reading.connection, seconds_max) as limit:
                sample = _Sample(reading, asked, at, seed, most, exact_events_max, limit)
                return sample.preview(lake, workspace, _results(asked, ask, limit))
        except (duckdb.InterruptException, _TooLong):
            return _unknown(
                at, f"reading the events took longer than {seconds_max:g} seconds; allow more time"
            )
        except _TooMuch as error:
            return _unknown(at, str(error))
        finally:
            reading.close()


def _unknown(at: int, reason: str) -> Preview:
    return Preview("unknown", at, 0, 0, 0, Size(0, 0, 0), failure=reason)


def _results(asked: "_Asked", ask: Ask | None, limit: "_Limit") -> Results:
    """Return what the queries give that are asked for."""
    enabled = [one for one in asked.queried.definitions if one.enabled]
    if not enabled:
        return Results()
    if ask is None:
        raise Invalid(f"previewing {asked.key!r}: nothing here runs the query of {enabled[0].key}")
    results, failed = ask(enabled, limit.is_over)
    limit.check()
    for key, error in failed.items():
        raise _TooMuch(f"the query of {key} gave nothing: {error}")
    rows = sum(result.rows for result in results.of)
    if rows > QUERIED_ROWS_MAX:
        keys = ", ".join(result.definition.key for result in results.of)
        raise _TooMuch(
            f"the queries of {keys} give {rows:,} rows, and a preview looks at {QUERIED_ROWS_MAX:,} at most; compute it"
            " over the lake: profilelake compute"
        )
    return results


@dataclass(frozen=True, slots=True)
class _Asked:
    """Everything that one preview computes: the definition, its parts, what holds now, and what these read."""

    key: str
    target: Target
    plan: Plan
    queried: Queried
    parts: Sequence[str]
    """Texts of the parts; part i is computed under the key `_PART` and i."""
    edited: bool

    @classmethod
    def of(cls, definition: Definition, others: Mapping[str, Held]) -> "_Asked":
        definition = replace(definition, enabled=True)
        first = others.get(definition.key)
        created = _FIRST if first is None else first.created
        held = {**others, definition.key: Held(definition, 1, _FIRST, created)}
        alone = planned({definition.key: held[definition.key]})[0]
        texts: list[str] = []
        if isinstance(alone.root, And | Or):
            texts = [written(part) for part in alone.root.parts[:PARTS_MAX]]
        for number, text in enumerate(texts):
            part = replace(definition, key=f"{_PART}{number}", query=text)
            held[part.key] = replace(held[definition.key], definition=part)
        edited = first is not None and first.definition.kind == definition.kind
        if first is not None and edited:
            held[_BEFORE] = replace(first, definition=replace(first.definition, key=_BEFORE))
        wanted = {definition.key, _BEFORE, *(f"{_PART}{number}" for number in range(len(texts)))}
        plan = needed(planned(held), wanted)
        slugs = {key for one in plan for key in one.reads | one.entities}
        in_sql = (held[key].definition for key in sorted(slugs & held.keys()))
        queried = Queried(tuple(one for one in in_sql if one.kind in SQL_KINDS))
        return cls(definition.key, definition.target, plan, queried, texts, edited)


class _Sample:
    """The profiles that are looked at: all, or those of some slots."""

    def __init__(
        self,
        reading: Reading,
        asked: _Asked,
        at: int,
        seed: int,
        sample_profiles: int,
        exact_events_max: int,
        limit: "_Limit",
    ) -> None:
        self._limit = limit
        self._reading = reading
        self._asked = asked
        self._at = at
        self._steps = numbered(asked.plan)
        self._everybody = reading.count(reading.select_profiles(asked.target))
        few = self._everybody <= sample_profiles and (
            reading.rows_at_most() <= exact_events_max or self._everybody == 0
        )
        share = 1.0 if few else min(1.0, sample_profiles / max(1, self._everybody))
        self._slots = SLOTS if share == 1.0 else max(1, round(share * SLOTS))
        self._first = int(np.random.default_rng(seed).integers(SLOTS))

    def preview(self, lake: Lake, workspace: str, results: Results) -> Preview:
        """Look at the profiles of the sample."""
        reading, asked = self._reading, self._asked
        self._limit.check()
        profiles = reading.table(f"{reading.select_profiles(asked.target)} AND {self._chosen()}")
        reading.connection.register("sampled", profiles.select(["profile_id"]))
        people, members = profiles, None
        if asked.target == "accounts":
            members = self._members(lake, workspace)
            reading.connection.register("belonging", members.select(["profile_id"]))
            everybody = reading.select_profiles("users")
            people = reading.table(f"FROM ({everybody}) SEMI JOIN belonging USING (profile_id)")
        reading.connection.register("people", people.select(["profile_id"]))
        sets = reading.table(f"FROM ({reading.select_sets('users')}) SEMI JOIN people USING (profile_id)")
        self._limit.check()
        partials, rows = self._folded(sets)
        given = self._given(lake, workspace, results, [people, profiles])
        self._limit.check()
        numbers = {step.step.digest: step.number for step in self._steps}
        whole = self._subjects(profiles, people, sets, members, given)
        found = answers(asked.plan, numbers, partials, whole, self._at)
        values = {key: answer.values for key, answer in found.items()}
        mine = values[asked.key]
        ids = profiles.column("profile_id")
        self._sampled = profiles.num_rows
        return Preview(
            how="exact" if self._slots == SLOTS else "estimate",
            at=self._at,
            profiles=self._everybody,
            sampled=self._sampled,
            events=rows,
            size=self._size(len(mine) - mine.null_count),
            parts=tuple(
                (text, self._size(len(values[key]) - values[key].null_count))
                for text, key in ((text, f"{_PART}{number}") for number, text in enumerate(asked.parts))
            ),
            overlaps=self._overlaps(lake, workspace, ids.filter(mine.is_valid())),
            examples=_examples(ids, mine),
            change=self._change(values[_BEFORE], mine) if asked.edited else None,
        )

    def _members(self, lake: Lake, workspace: str) -> pa.Table:
        """Return who belongs to the accounts of the sample."""
        reading = self._reading
        of_accounts = reading.table(
            f"FROM ({reading.select_sets('accounts')}) SEMI JOIN sampled USING (profile_id)"
        )
        links, facts, idents = (
            reading.select(lake, workspace, one.name) for one in (ACCOUNT_LINKS, IDENTITY_FACTS, IDENTITY_MAP)
        )
        with told():
            members = members_here(
                reading.connection,
                select_links(links),
                select_left(facts),
                select_identifiers(idents),
                reading.select_sets("users"),
                of_accounts,
            )
        self._limit.check()
        people = len(pc.unique(members.column("profile_id")))
        if people > PEOPLE_MAX:
            raise _TooMuch(
                f"the {len(pc.unique(of_accounts.column('profile_id'))):,} accounts that are looked at"
                f" have {people:,} people, and a preview looks at {PEOPLE_MAX:,} at most; compute it over the lake:"
                " profilelake compute"
            )
        return members

    def _folded(self, sets: pa.Table) -> tuple[Partials, int]:
        """Return what the events of sets come to, and how many there are."""
        reading = self._reading
        reading.connection.register("sampled_sets", sets.select(["set_id"]))
        wanted = Wanted.of((step.step for step in self._steps), self._at, until=self._at)
        events = reading.select_events(wanted, "sampled_sets")
        partials, rows = Partials(), 0
        with told():
            parts = in_parts(reading.connection.sql(events).to_arrow_reader(PART_ROWS), PART_ROWS)
            for part in parts:
                self._limit.check()
                rows += part.num_rows
                partials = merge(partials, fold(part.cast(event_schema()), self._steps, at=self._at))
        return partials, rows

    def _given(self, lake: Lake, workspace: str, results: Results, of: Sequence[pa.Table]) -> pa.Table:
        """Return what queries gave the profiles that are looked at."""
        if not results.of:
            return GIVEN.empty_table()
        self._limit.check()
        reading = self._reading
        sets = " UNION ALL ".join(f"({reading.select_sets(one)})" for one in COLLECTIONS)
        idents = reading.select(lake, workspace, IDENTITY_MAP.name)
        owners: dict[Owners, str] = {
            "sets": f"SELECT set_id AS key, profile_id FROM ({sets})",  # noqa: S608 - made here
            "identifiers": f"SELECT ident_id AS key, profile_id FROM ({idents})",  # noqa: S608 - made here
        }
        ids = pa.concat_tables([one.select(["profile_id"]) for one in of])
        with told():
            return given_here(reading.connection, results, self._asked.queried, owners, ids)

    def _subjects(
        self,
        profiles: pa.Table,
        people: pa.Table,
        sets: pa.Table,
        members: pa.Table | None,
        given: pa.Table,
    ) -> Subjects:
        plan, queried = self._asked.plan, self._asked.queried
        user_ids, ids = people.column("profile_id"), profiles.column("profile_id")
        users = subjects(people, sets, plan, queried.given(user_ids, given, "users", plan))
        if members is None:
            return users
        return accounts_of(
            profiles, users, user_ids, members, plan, queried.given(ids, given, "accounts", plan)
        )

    def _chosen(self) -> str:
        """Return the condition on `slot` that a profile of the sample meets."""
        return f"(slot + {SLOTS - self._first:d}) % {SLOTS:d} < {self._slots:d}"

    def _size(self, hits: int) -> Size:
        return estimated(hits, self._sampled, self._everybody)

    def _change(self, before: pa.Array, after: pa.Array) -> Change:
        return Change(*(self._size(len(rows)) for rows in effects_of_rows(before, after)))

    def _overlaps(self, lake: Lake, workspace: str, members: pa.ChunkedArray) -> tuple[tuple[str, Size], ...]:
        reading = self._reading
        try:
            known = reading.select(lake, workspace, AUDIENCE_MEMBERS.name)
        except NotFound:
            return ()
        reading.connection.register("found_members", pa.table({"profile_id": members}))
        rows = reading.table(
            f"SELECT definition, count(*) AS n FROM ({known}) SEMI JOIN found_members USING (profile_id) "  # noqa: S608 - of files we planned
            f"WHERE {self._chosen()} AND definition <> {sql.text(self._asked.key)} "
            f"GROUP BY definition ORDER BY n DESC, definition LIMIT {OVERLAPS_MAX:d}"
        ).to_pydict()
        return tuple((key, self._size(n)) for key, n in zip(rows["definition"], rows["n"], strict=True))


def estimated(hits: int, sampled: int, everybody: int) -> Size:
    """Return how many of all profiles meet what `hits` of `sampled` do, with a 95 % interval.

    Wilson's, corrected for continuity: so it holds the truth at least that often, with very few hits too. The
    smaller the rest that was not looked at, the narrower: what was counted is certain.
    """
    rest = everybody - sampled
    if rest <= 0 or not sampled:
        return Size(hits, hits, hits) if sampled else Size(0, 0, max(0, everybody))
    n = sampled * (everybody - 1) / rest
    shift = 0.5 / sampled
    low = max(hits, math.floor(_bound(hits / sampled - shift, n, -1) * everybody))
    high = min(everybody - (sampled - hits), math.ceil(_bound(hits / sampled + shift, n, 1) * everybody))
    return Size(min(max(round(hits / sampled * everybody), low), high), low, high)


def _bound(share: float, n: float, side: int) -> float:
    """Return Wilson's lower or upper bound of a share seen in `n` draws."""
    share, z = min(1.0, max(0.0, share)), Z_95
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (share + z * z / (2 * n) + side * half) / (1 + z * z / n)


def _examples(ids: pa.ChunkedArray, values: pa.Array) -> tuple[tuple[str, str], ...]:
    known = pa.table({"id": ids, "value": values}).filter(values.is_valid())
    rows = known.sort_by("id").slice(0, MEMBERS_MAX).to_pydict()
    return tuple(zip(rows["id"], rows["value"], strict=True))


class _Limit:
    """Ends a preview whose time is over, also in the middle of a query."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._timer = threading.Timer(max(0.0, seconds), connection.interrupt)
        self._timer.daemon = True

    def is_over(self) -> bool:
        """Tell whether there is no time left."""
        return time.monotonic() >= self._until

    def check(self) -> None:
        """Go on only while there is time: between two queries an interruption is lost."""
        if self.is_over():
            raise _TooLong

    def __enter__(self) -> "_Limit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class _TooLong(Exception):
    """The time of a preview is over."""


class _TooMuch(Exception):
    """More would have to be looked at than a preview looks at, or a query gave nothing."""
