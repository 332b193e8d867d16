"""Folds events into the partials of steps: the one way from what happened to what definitions are computed from.

Events are sorted once by set and time. After that each step works on columns alone: which of its events count is
a mask, and the events of one set and day follow each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from profilelake.errors import Internal
from profilelake.kernels.json_paths import Ints, Longs
from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.tree import Between, Events, Property, Reduce
from profilelake.semantics.conditions.values import SUMMED_MAX
from profilelake.state.computed import COUNTS, ENTRIES, NUMBERS, VALUES
from profilelake.traits.cutting import cut
from profilelake.traits.found import Bools
from profilelake.traits.giving import digest_words, numbers_given, values_given
from profilelake.traits.happened import COLUMNS, Happened
from profilelake.traits.matching import Matching
from profilelake.traits.merging import EARLIEST, LATEST, merged, order_of, sizes_of, stacked, starts_of, taken
from profilelake.traits.partials import CutEvent, Numbered, Partials, Records, Rows
from profilelake.traits.steps import DAY_MICROS, FOREVER, Family, Step, items_of, nodes

EVENTS_MAX: Final = 1 << 18
"""Events that are folded at once; more come in parts."""
PART_BYTES: Final = 1 << 28
"""Bytes of events that are folded at once, about: their texts lie in one buffer, which has its limit at 2 GiB."""
AN_EVENT, A_NUMBER, A_VALUE = range(3)
"""Kinds of `ENTRIES`."""


def fold(events: pa.Table, steps: Sequence[Numbered], *, at: int | None = None) -> Partials:
    """Return what the events come to, by identifier set; events without one do not count.

    Without `at`, steps with a window have partials per day and single events, so that they can be asked at any
    time. With `at` only what has happened by then counts, and windows are applied as of then.
    """
    if not steps or not events.num_rows:
        return Partials()
    chosen = events.select(COLUMNS)
    size = max(1, min(EVENTS_MAX, PART_BYTES * chosen.num_rows // max(1, chosen.nbytes)))
    parts = [
        _folded(chosen.slice(start, size).combine_chunks(), steps, at)
        for start in range(0, chosen.num_rows, size)
    ]
    return merged(parts)


@dataclass(slots=True)
class _Gathered:
    """Rows of one layout of all steps as they come, with sets as places among those that something happened to."""

    layout: np.dtype[np.void]
    places: list[Ints] = field(default_factory=list)
    rows: list[Records] = field(default_factory=list)

    def add(self, places: Ints, step: int, **columns: Any) -> None:
        """Take up rows of a step."""
        rows = np.zeros(len(places), dtype=self.layout)
        rows["step"] = step
        for name, column in columns.items():
            rows[name] = column
        self.places.append(places)
        self.rows.append(rows)

    def sorted(self, sets: Words, *keys: str) -> Rows:
        """Return all rows, sorted by set and then by these columns; equal rows stay in the order they were added."""
        if not self.rows:
            return Rows.none(self.layout)
        places, rows = np.concatenate(self.places), stacked(self.rows)
        order = order_of(*(rows[key] for key in reversed(keys)), places)
        return Rows(sets[places[order]], taken(rows, order))


class _Folding:
    """What has been folded so far, step by step."""

    def __init__(self, happened: Happened) -> None:
        self._happened = happened
        self._counts = _Gathered(COUNTS)
        self._numbers = _Gathered(NUMBERS)
        self._values = _Gathered(VALUES)
        self._entries = _Gathered(ENTRIES)
        self._events: dict[tuple[bytes, int], list[CutEvent]] = {}
        self._texts: dict[bytes, str] = {}

    def partials(self) -> Partials:
        """Return everything that was folded."""
        sets = self._happened.sets
        return Partials(
            counts=self._counts.sorted(sets, "step"),
            numbers=self._numbers.sorted(sets, "step"),
            values=self._values.sorted(sets, "step"),
            entries=self._entries.sorted(sets, "at", "step", "kind"),
            events={key: sorted(events) for key, events in self._events.items()},
            texts=self._texts,
        )

    def keep(self, numbered: Numbered, name: str, matching: Matching, events: Longs, chosen: Longs) -> None:
        """Keep chosen events of a name for a step that asks for the events themselves."""
        happened = self._happened
        kept = cut(happened, matching, name, numbered.step, events, chosen)
        # The events of a set follow each other.
        places = happened.places[events[chosen]]
        starts = starts_of(places)
        ids, number = happened.ids, numbered.number
        begins = starts.tolist()
        for place, start, stop in zip(places[starts].tolist(), begins, [*begins[1:], len(kept)], strict=True):
            self._events.setdefault((ids[place], number), []).extend(kept[start:stop])

    def add(
        self, numbered: Numbered, matching: Matching, events: Longs, chosen: Longs, *, aged: bool
    ) -> None:
        """Add up chosen events for a step; `aged` by day, because a window will let go of them."""
        number, step = numbered
        times = self._happened.times[events[chosen]]
        places = self._happened.places[events[chosen]]
        days = (
            (times // DAY_MICROS).astype(np.int32) if aged else np.full(len(times), FOREVER, dtype=np.int32)
        )
        starts = starts_of(places, days)
        group = _Groups(places, days, starts)
        match step.family:
            case Family.COUNT:
                self._counts.add(places[starts], number, bucket=days[starts], count=group.sizes)
                if aged:
                    self._entries.add(places, number, at=times, kind=AN_EVENT)
            case Family.NUMBER:
                self._add_numbers(numbered, matching, chosen, times, group, aged=aged)
            case _:
                self._add_values(numbered, matching, chosen, times, group, aged=aged)

    def _add_numbers(
        self,
        numbered: Numbered,
        matching: Matching,
        chosen: Longs,
        times: Longs,
        group: "_Groups",
        *,
        aged: bool,
    ) -> None:
        number, step = numbered
        given = numbers_given(matching.column(_value(step)), chosen)
        found = given.numbers
        summed = np.abs(found) <= SUMMED_MAX
        addends = np.where(summed, found, 0.0)
        floors = np.floor(addends)
        columns = {
            "numbers": (np.add, summed.astype(np.int64), 0),
            "whole": (np.add, floors.astype(np.int64), 0),
            "nano": (np.add, np.rint((addends - floors) * 1e9).astype(np.int64), 0),
            "least": (np.minimum, found, np.inf),
            "greatest": (np.maximum, found, -np.inf),
        }
        of = group.numbers[given.events]
        starts = starts_of(of)
        folded = {}
        for name, (how, column, nothing) in columns.items():
            folded[name] = np.full(len(group.starts), nothing, dtype=column.dtype)
            if len(of):
                folded[name][of[starts]] = how.reduceat(column, starts)
        self._numbers.add(group.places, number, bucket=group.days, count=group.sizes, **folded)
        if aged:
            self._entries.add(
                group.place_of(given.events), number, at=times[given.events], kind=A_NUMBER, number=found
            )

    def _add_values(
        self,
        numbered: Numbered,
        matching: Matching,
        chosen: Longs,
        times: Longs,
        group: "_Groups",
        *,
        aged: bool,
    ) -> None:
        number, step = numbered
        what = items_of(step.reduce)
        given = values_given(matching.column(_value(step)), chosen, what)
        if not len(given.events):
            return
        words = digest_words(given.distinct)
        self._texts.update(given.distinct)
        events, values = given.events, given.values
        if aged:
            high, low = words[values].T
            self._entries.add(
                group.place_of(events), number, at=times[events], kind=A_VALUE, high=high, low=low
            )
        if what in ("first", "last"):
            # Of those that can never be asked for only the end of each group is kept.
            of = group.numbers[events]
            starts = starts_of(of)
            end = (np.minimum if what == "first" else np.maximum).reduceat(times[events], starts)
            at_end = times[events] == np.repeat(end, sizes_of(starts, len(of)))
            events, values = events[at_end], values[at_end]
        of = group.numbers[events]
        order = np.argsort(of * np.int64(len(words)) + values, kind="stable")
        of, values, moments = of[order], values[order], times[events[order]]
        starts = starts_of(of, values)
        ends = starts + sizes_of(starts, len(of))
        high, low = words[values[starts]].T
        self._values.add(
            group.places[of[starts]],
            number,
            bucket=group.days[of[starts]],
            high=high,
            low=low,
            count=0 if what in ("first", "last") else ends - starts,
            first=LATEST if what == "last" else moments[starts],
            last=EARLIEST if what == "first" else moments[ends - 1],
        )


class _Groups:
    """Events of one step, which follow each other by set and day, as groups of one set and day."""

    def __init__(self, places: Ints, days: Ints, starts: Longs) -> None:
        self._place = places
        self.starts = starts
        self.sizes: Longs = sizes_of(starts, len(places))
        self.places: Ints = places[starts]
        self.days: Ints = days[starts]
        self.numbers: Longs = np.repeat(np.arange(len(starts)), self.sizes)
        """The group of each event."""

    def place_of(self, events: Longs) -> Ints:
        """Return the sets of events, as places."""
        return self._place[events]


def _folded(table: pa.Table, steps: Sequence[Numbered], at: int | None) -> Partials:
    names = sorted({name for numbered in steps for name in numbered.step.names})
    happened = Happened(table, names, at)
    folding = _Folding(happened)
    for number, name in enumerate(names):
        events = happened.of(number)
        if not len(events):
            continue
        asking = [numbered for numbered in steps if name in numbered.step.names]
        paths = sorted({path for numbered in asking for path in numbered.step.paths})
        context_paths = sorted({path for numbered in asking for path in numbered.step.context_paths})
        matching = happened.matching(name, events, paths, context_paths)
        for numbered in asking:
            step = numbered.step
            chosen = _counting(happened, matching, events, step, name, at).nonzero()[0]
            if not len(chosen):
                continue
            if step.family is Family.EVENTS:
                folding.keep(numbered, name, matching, events, chosen)
            else:
                aged = at is None and step.horizon is not None
                folding.add(numbered, matching, events, chosen, aged=aged)
    return folding.partials()


def _counting(
    happened: Happened, matching: Matching, events: Longs, step: Step, name: str, at: int | None
) -> Bools:
    """Return which events of a name count for a step, or may, where it keeps the events themselves."""
    if step.family is Family.EVENTS:
        parts = [matching.may_hold(role.where) & _sent(happened, events, role) for role in _roles(step, name)]
        mask: Bools = np.logical_or.reduce(parts)
    else:
        mask = matching.holds(step.of.where) & _sent(happened, events, step.of)
    if step.since:
        mask = mask & happened.behind(step.since)[events]
    if at is not None:
        mask = mask & _in_window(step, happened.times[events], at)
    return mask


def _roles(step: Step, name: str) -> Iterator[Events]:
    """Yield what a step asks of events of a name, wherever it asks for them."""
    for node in nodes(step.reduce):
        if isinstance(node, Reduce) and isinstance(node.of, Events) and node.of.name == name:
            yield node.of


def _sent(happened: Happened, events: Longs, of: Events) -> Bools | np.bool_:
    return happened.from_others(of.excluded)[events] if of.excluded else np.True_


def _in_window(step: Step, times: Longs, at: int) -> Bools | np.bool_:
    if step.horizon is None:
        return np.True_
    window = step.of.window
    mask: Bools = times >= at - step.horizon
    if isinstance(window, Between) and step.family is not Family.EVENTS:
        # What follows in a funnel may be younger than what it follows has to be.
        mask &= times <= at - window.near
    return mask


def _value(step: Step) -> Property:
    if step.reduce.value is None:
        raise Internal(f"folding a step: {step.reduce.how} reduces no value")
    return step.reduce.value
