"""Reductions as columns: each step of events is cut to what counts once, however many definitions ask for it."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final, TypeAlias

import numpy as np

from profilelake.errors import Internal, Invalid
from profilelake.semantics.conditions.tree import Entities, Node, Reduce, Window
from profilelake.traits import asked, sequences
from profilelake.traits.columns import Coded, Column, Int64s, Subjects, never
from profilelake.traits.joined import Counting, Joined, Span, falls_below
from profilelake.traits.linked import LinkedRows, foldable
from profilelake.traits.ownership import Kept
from profilelake.traits.reduced import counted, of_numbers, of_values
from profilelake.traits.steps import Family, Planned, Step, reduced_as

Traits: TypeAlias = Callable[[Node], Mapping[str, Coded]]
"""Gives the traits that a part of a definition asks for, by first key."""

_KEPT: Final[dict[Family, Kept]] = {
    Family.COUNT: "counts",
    Family.NUMBER: "numbers",
    Family.VALUE: "values",
}


class Reductions:
    """What reductions are worth for some subjects at a time."""

    def __init__(
        self,
        numbers: Mapping[bytes, int],
        joined: Joined,
        texts: Mapping[bytes, str],
        subjects: Subjects,
        traits: Traits,
        at: int,
    ) -> None:
        """`numbers` are those of steps in the partials by digest, `texts` spells out values."""
        self._numbers = numbers
        self._joined = joined
        self._texts = texts
        self._subjects = subjects
        self._traits = traits
        self._at = at
        self._known: dict[tuple[bytes, Reduce], Column] = {}
        self._linked: dict[str, LinkedRows] = {}
        self._of_linked: dict[Reduce, Column] = {}
        self._countings: dict[tuple[bytes, Window | None], tuple[Counting, Mapping[bytes, str]]] = {}

    def worth(self, planned: Planned, reduce: Reduce) -> Column:
        """Return what a reduction of a definition is worth."""
        if isinstance(reduce.of, Entities):
            return self._of_rows(reduce, reduce.of)
        step = planned.steps[reduce]
        known = self._known.get((step.digest, reduce))
        if known is None:
            known = self._known[step.digest, reduce] = self._worth(step, reduce)
        return known

    def falls_below(self, planned: Planned, reduce: Reduce, least: int) -> Int64s | None:
        """Return when fewer than so many events count, or None where more than time decides about that.

        Within a time up to now nothing comes in by time alone, so a count only falls, and it falls below a
        threshold when of the events that reach it the oldest leaves.
        """
        step = planned.steps.get(reduce)
        if step is None or reduce.how != "count":
            return None
        span = Span.of(step.of.window, self._at)
        if span is None or span.near:
            return None
        if least <= 0:
            return never(self._subjects.count)
        return falls_below(self._counting(step)[0], least, span, self._at)

    def _worth(self, step: Step, reduce: Reduce) -> Column:
        count = self._subjects.count
        counting, texts = self._counting(step)
        match reduced_as(reduce):
            case Family.COUNT:
                return counted(counting, count)
            case Family.NUMBER:
                return of_numbers(reduce, counting, count)
            case _:
                return of_values(reduce, counting, texts, count)

    def _counting(self, step: Step) -> tuple[Counting, Mapping[bytes, str]]:
        """Return what counts of a step, and the texts of its values."""
        key = (step.digest, step.of.window)
        known = self._countings.get(key)
        if known is None:
            known = self._countings[key] = self._cut(step)
        return known

    def _cut(self, step: Step) -> tuple[Counting, Mapping[bytes, str]]:
        number = self._number(step)
        if step.family is not Family.EVENTS:
            kept = _KEPT[step.family]
            return self._joined.counting(kept, number, step.of.window, self._at), self._texts
        lists, of_lists = self._joined.events_of(number)
        events = list(chain.from_iterable(lists))
        owners = np.repeat(of_lists, np.fromiter(map(len, lists), np.int64, count=len(lists)))
        traits = self._traits(step.reduce)
        return sequences.counting(step, events, owners, traits, self._at, self._subjects.count)

    def _number(self, step: Step) -> int:
        number = self._numbers.get(step.digest)
        if number is None:
            raise Internal(
                f"answering definitions: the step {step.digest.hex()} has no number in the partials"
            )
        return number

    def _of_rows(self, reduce: Reduce, of: Entities) -> Column:
        rows = self._subjects.entities.get(of.slug)
        if rows is None:
            raise Invalid(f"answering definitions: there is no entity {of.slug!r}; define it first")
        if foldable(reduce, of):
            linked_rows = self._linked.get(of.slug)
            if linked_rows is None:
                linked_rows = self._linked[of.slug] = LinkedRows.of(rows)
            known = self._of_linked.get(reduce)
            if known is None:
                known = self._of_linked[reduce] = linked_rows.worth(reduce, of, self._at)
            return known
        linked, traits = Coded.of(rows), self._traits(reduce)
        return asked.of_rows(reduce, of.slug, linked, traits, self._at, self._subjects.count)
