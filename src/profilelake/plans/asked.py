"""What is asked of a whole lake: definitions, as of when, and what they are worth once everything lies together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from profilelake.audiences.people import subjects
from profilelake.audiences.queried import NOTHING, Queried, members
from profilelake.audiences.reading import PART_ROWS, Wanted, in_parts
from profilelake.plans.definition_inputs import CUT_ROWS
from profilelake.semantics.definitions import Definition, Target, is_audience
from profilelake.traits.answers import answers
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.merging import merged
from profilelake.traits.partials import Partials, numbered
from profilelake.traits.steps import Plan

COLUMN: Final = "value of "
"""Before the key of a definition in the columns of kept files."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Definitions, and as of when (microseconds).

    With `received_until` only events received by then count; who belongs together is as it is now, so this is
    not what was known then (`as_of` of a profile is).
    """

    plan: Plan
    at: int
    received_until: int | None = None
    queried: Queried = NOTHING
    """What besides is in SQL: entities whose rows are asked for, and definitions that are asked for or read."""

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
        columns = {COLUMN + key: answer.values for key, answer in found.items()}
        for one in self._in_sql("users" if of.users is None else "accounts"):
            told = of.traits[one.key]
            columns[COLUMN + one.key] = members(told) if is_audience(one.kind) else told
        return pa.table({"profile_id": ids, **columns})

    def people(self, tables: Mapping[str, pa.Table]) -> Subjects:
        """Return people as the tables tell of them."""
        profiles = tables["profiles"]
        given = self.queried.given(profiles.column("profile_id"), tables["given"], "users", self.plan)
        return subjects(profiles, tables["sets"], self.plan, given)

    def keys(self, of: Target) -> tuple[str, ...]:
        """Return the keys of the definitions about people, or about accounts."""
        planned = (one.held.definition for one in self.plan)
        return tuple(one.key for one in (*planned, *self._in_sql(of)) if one.target == of)

    def _in_sql(self, of: Target) -> Iterator[Definition]:
        """Yield the definitions in SQL that give values."""
        return (one for one in self.queried.definitions if one.target == of and one.kind != "entity")
