"""Computes definitions over the whole lake: one shared scan of the events, then profiles slice by slice.

The same folding and the same answers as online; only where events and profiles come from differs. Memory is
bounded by `MEMORY_LIMIT` and a slice per thread, however large the lake; what does not fit lies on disk meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final

import pyarrow as pa

from profilelake.audiences.people import subjects
from profilelake.audiences.reading import (
    PART_ROWS,
    THREADS,
    Divided,
    Reading,
    Wanted,
    event_schema,
    in_parts,
    scratch,
    slices_for,
    told,
)
from profilelake.errors import Invalid
from profilelake.lake.catalog import Lake
from profilelake.semantics.rules import Collection
from profilelake.traits.answers import answers
from profilelake.traits.fold import fold
from profilelake.traits.merging import merge
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import Plan

VALUES: Final = pa.schema([("profile_id", pa.string()), ("value", pa.string())])
"""What a definition is worth for the profiles that have a value, as JSON."""
_SETS: Final = pa.schema([("set_id", pa.binary(16)), ("profile_id", pa.string())])
_PROFILES: Final = pa.schema(
    [("profile_id", pa.string()), ("identifiers", pa.string()), ("traits", pa.string())]
)
_EVENTS: Final = event_schema()


@dataclass(frozen=True, slots=True)
class Done:
    """How far a computation is: slices that are done, of how many; events that matter, before that."""

    slices: int
    of: int
    events: int


Values = Mapping[str, pa.Table]
"""By the key of a definition: `profile_id` and `value` of the profiles that have one."""


def compute(
    lake: Lake,
    workspace: str,
    plan: Plan,
    at: int,
    *,
    directory: Path,
    received_until: int | None = None,
    progress: Callable[[Done], None] = lambda _: None,
) -> Values:
    """Return what definitions are worth at a time (microseconds), from the tables alone.

    With `received_until` only events received by then count; who belongs together is as it is now, so this is
    not what was known then (`as_of` of a profile is). Intermediate files go below `directory`.

    Raises:
        Invalid: a definition is about accounts, in SQL, or asks for rows of entities.
        Unavailable: memory or disk is full, or the tables change faster than they are read.
        Corrupt: a file of a table is missing or damaged.
    """
    found: dict[str, list[pa.Table]] = {planned.held.definition.key: [] for planned in plan}
    for values in slices(
        lake, workspace, plan, at, directory=directory, received_until=received_until, progress=progress
    ):
        for key, rows in values.items():
            found[key].append(rows)
    return {key: pa.concat_tables([VALUES.empty_table(), *rows]) for key, rows in found.items()}


def slices(
    lake: Lake,
    workspace: str,
    plan: Plan,
    at: int,
    *,
    directory: Path,
    received_until: int | None = None,
    progress: Callable[[Done], None] = lambda _: None,
) -> Iterator[Values]:
    """Yield what `compute` returns in parts, each of which has all values of some profiles.

    For who goes through values of very many profiles without having all of them in memory.
    """
    for planned in plan:
        if planned.held.definition.target != "users":
            raise Invalid(
                f"computing {planned.held.definition.key!r} over the lake: it is about accounts; "
                "only definitions about users are computed this way"
            )
        if planned.entities:
            raise Invalid(
                f"computing {planned.held.definition.key!r} over the lake: it asks for rows of {', '.join(sorted(planned.entities))};"
                " rows of entities are kept with profiles, so only live computing sees them"
            )
    with scratch(directory) as folder:
        reading = Reading(lake, workspace, folder)
        try:
            yield from _Whole(reading, plan, at, received_until, progress).values()
        finally:
            reading.close()


class _Whole:
    """One computation over all profiles of a collection."""

    def __init__(
        self,
        reading: Reading,
        plan: Plan,
        at: int,
        received_until: int | None,
        progress: Callable[[Done], None],
    ) -> None:
        self._reading = reading
        self._plan = plan
        self._at = at
        self._progress = progress
        self._steps = numbered(plan)
        self._wanted = Wanted.of(
            (step.step for step in self._steps), at, until=at, received_until=received_until
        )

    def values(self, collection: Collection = "users") -> Iterator[Values]:
        """Yield the values of all profiles, slice by slice."""
        reading = self._reading
        events, sets = reading.select_events(self._wanted), reading.select_sets(collection)
        profiles = reading.select_profiles(collection)
        rows = reading.count(events)
        count = slices_for(rows, reading.count(profiles))
        self._progress(Done(0, count, rows))
        if count == 1:
            with told():
                parts = in_parts(reading.connection.sql(events).to_arrow_reader(PART_ROWS), PART_ROWS)
                partials = self._folded(part.cast(_EVENTS) for part in parts)
            yield self._answered(reading.table(profiles), reading.table(sets), partials)
            self._progress(Done(1, 1, rows))
            return
        number = f"(hash(profile_id) % {count:d})::INTEGER AS slice"
        people = reading.divide(f"SELECT *, {number} FROM ({profiles})", "profiles", _PROFILES, count)  # noqa: S608 - ours
        owned = reading.divide(f"SELECT *, {number} FROM ({sets})", "sets", _SETS, count)  # noqa: S608 - ours
        happened = reading.divide(
            f"SELECT e.*, slice FROM ({events}) AS e JOIN (SELECT set_id, {number} FROM ({sets})) USING (set_id)",  # noqa: S608 - ours
            "events",
            _EVENTS,
            count,
        )
        with ThreadPoolExecutor(THREADS) as pool:
            waiting: list[Future[Values]] = []
            for slice in range(count):
                waiting.append(pool.submit(self._slice, slice, people, owned, happened))
                # No further ahead than there are threads: what is done and not taken yet is in memory too.
                if len(waiting) > THREADS:
                    yield waiting.pop(0).result()
                    self._progress(Done(slice - THREADS + 1, count, rows))
            for number_left, future in enumerate(waiting):
                yield future.result()
                self._progress(Done(count - len(waiting) + number_left + 1, count, rows))

    def _slice(self, slice: int, people: Divided, owned: Divided, happened: Divided) -> Values:
        profiles = pa.concat_tables([_PROFILES.empty_table(), *people.slice(slice, PART_ROWS)])
        sets = pa.concat_tables([_SETS.empty_table(), *owned.slice(slice, PART_ROWS)])
        return self._answered(profiles, sets, self._folded(happened.slice(slice, PART_ROWS)))

    def _folded(self, parts: Iterator[pa.Table]) -> Partials:
        return reduce(merge, (fold(part, self._steps, at=self._at) for part in parts), Partials())

    def _answered(self, profiles: pa.Table, sets: pa.Table, partials: Partials) -> Values:
        ids = profiles.column("profile_id")
        numbers = {step.step.digest: step.number for step in self._steps}
        found = answers(self._plan, numbers, partials, subjects(profiles, sets, self._plan), self._at)
        values = {}
        for key, answer in found.items():
            rows = pa.table({"profile_id": ids, "value": answer.values}, schema=VALUES)
            values[key] = rows.filter(answer.values.is_valid())
        return values


def numbered(plan: Plan) -> list[Numbered]:
    """Return the steps of definitions, each once, with numbers for one computation."""
    steps = {step.digest: step for planned in plan for step in planned.steps.values()}
    return [Numbered(number, step) for number, step in enumerate(steps.values(), 1)]
