"""Which kept events count, for all subjects at once: funnels, sessions and comparisons with traits.

What of a reduction cannot be said event by event is worked out here on columns of events, the conditions inside of
`where` too. What follows an event is a run of events in the order of time, so nearly all is told without going
over them for each event (`following`, `same_values`). What cannot be told so is worked out pair by pair, of the newest
events only (`semantics.conditions.pairing`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from profilelake.errors import Internal
from profilelake.semantics.conditions.evaluate import ITSELF, Here, Subject, elements, meets
from profilelake.semantics.conditions.pairing import (
    PAIRED_EVENTS_MAX,
    PAIRED_VALUES_MAX,
    Same,
    asks_parent,
    counted_up_to,
    paired_in,
    same_value,
    searched,
    static,
)
from profilelake.semantics.conditions.times import next_moment_of_event
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Compare,
    Condition,
    Constant,
    Context,
    Duration,
    Events,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Property,
    Reduce,
    Session,
    Trait,
    Window,
    Within,
)
from profilelake.semantics.conditions.values import amount, canonical
from profilelake.traits.columns import NEVER, Bools, Coded, Column, Int64s, Numbers, as_coded, never, nothing
from profilelake.traits.compared import Side, combined, compared
from profilelake.traits.following import Runs, reduced_runs
from profilelake.traits.joined import Counting, Owned, Span
from profilelake.traits.kept import KeptEvents, in_session, newest, not_too_much, number_before
from profilelake.traits.matching import of_parts, saying
from profilelake.traits.ownership import ragged
from profilelake.traits.partials import LAYOUTS, CutEvent
from profilelake.traits.reduced import counted, of_numbers, of_values
from profilelake.traits.same_values import same_counts
from profilelake.traits.steps import Family, Step, nodes, reduced_as

PAIRS_AT_ONCE: Final = 1 << 20
"""Pairs of events that are held to each other at once."""


def counting(
    step: Step, events: Sequence[CutEvent], owners: Int64s, traits: Mapping[str, Coded], at: int, count: int
) -> tuple[Counting, Mapping[bytes, str]]:
    """Return what counts of a step at a time, as single events, and the texts of the values they give.

    `events` are those of all subjects in any order, `owners` whose they are. `traits` are those that are asked for,
    by first key.
    """
    sequences = _Sequences(KeptEvents(step, events, owners), traits, at, count)
    chosen, leaves = sequences.within(step.of.window, sequences.chosen(step.of))
    kept = sequences.kept
    entries, texts = kept.given(step.reduce, chosen, kept.owners[chosen])
    return Counting(_no_buckets(step.reduce), entries, leaves, sequences.turns), texts


def _no_buckets(reduce: Reduce) -> Owned:
    return Owned(np.zeros(0, dtype=LAYOUTS[reduced_as(reduce)]), np.zeros(0, dtype=np.int64))


class _Sequences:
    """Conditions on the kept events of many subjects, at a time.

    `turns` is a time per subject before which everything that was asked has the same answer.
    """

    def __init__(self, kept: KeptEvents, traits: Mapping[str, Coded], at: int, count: int) -> None:
        self.kept = kept
        self.turns = never(count)
        self._traits = traits
        self._at = at
        for column in traits.values():
            self.turns = np.minimum(self.turns, column.changes)
        ahead = kept.times > at
        np.minimum.at(self.turns, kept.owners[ahead], kept.times[ahead])
        self._happened = ~ahead
        self._chosen: dict[tuple[Events, Events | None], Int64s] = {}

    # ---- which events ----------------------------------------------------------------------------

    def chosen(self, of: Events, *, paired: Events | None = None) -> Int64s:
        """Return the events that are meant, their window aside, as `evaluate.looked_at` and `wanted` say.

        Of `paired`, which is them with what else is asked pair by pair, only the newest are.
        """
        key = of, paired
        known = self._chosen.get(key)
        if known is None:
            known = self._chosen[key] = self._found(of, paired)
        return known

    def _found(self, of: Events, pairs: Events | None) -> Int64s:
        kept = self.kept
        may = kept.named(of) & self._happened & kept.matching.may_hold(of.where)
        events: Int64s = np.flatnonzero(may)
        paired = paired_in(of.where)
        if pairs is not None or paired:
            events = events[newest(kept.owners[events], kept.times[events], PAIRED_EVENTS_MAX)]
            events = self._not_too_much(events, searched(pairs or of, newest_only=pairs is not None))
        if of.where is None or static(of.where):
            return events
        return events[self._meet(of.where, events, paired)]

    def _not_too_much(self, events: Int64s, values: Sequence[Property | Context]) -> Int64s:
        """Return the newest of some events that hold no more than is looked through."""
        amounts = np.zeros(len(events), dtype=np.int64)
        for value in values:
            said = self.kept.coded(value, events)
            amounts += said.spread(np.fromiter(map(amount, said.values), np.int64, count=len(said.texts)), 0)
        if amounts.sum() <= PAIRED_VALUES_MAX:
            return events
        kept = self.kept
        return events[not_too_much(kept.owners[events], kept.times[events], amounts, PAIRED_VALUES_MAX)]

    def within(self, window: Window | None, events: Int64s) -> tuple[Int64s, Int64s]:
        """Return which of some events lie in a window, and when per subject the first of them leaves it."""
        owners, times = self.kept.owners[events], self.kept.times[events]
        leaves = never(len(self.turns))
        if isinstance(window, Session):
            inside = in_session(owners, times, window.micros, self._at)
            # All go together: later ones of a subject overwrite earlier ones, and they are in the order of time.
            leaves[owners[inside]] = times[inside] + window.micros + 1
            return events[inside], leaves
        if _follows(window):
            # Outside of a parent nothing follows.
            return events[:0], leaves
        span = Span.of(window, self._at)
        if span is None:
            return events, leaves
        coming = times > span.last
        np.minimum.at(self.turns, owners[coming], times[coming] + span.near)
        inside = (times >= span.first) & ~coming
        np.minimum.at(leaves, owners[inside], times[inside] + span.far + 1)
        return events[inside], leaves

    # ---- conditions on events --------------------------------------------------------------------

    def _meet(self, condition: Condition, events: Int64s, paired: frozenset[Reduce]) -> Bools:
        """Return which of some events meet a condition; `paired` are the reductions in it that go pair by pair."""
        if static(condition):
            return self.kept.matching.holds(condition)[events]
        match condition:
            case And() | Or() | Not():
                return of_parts(condition, lambda part: self._meet(part, events, paired))
            case Compare(value=value, how=how, operands=operands):
                up_to = counted_up_to(condition)
                left = self._side(value, events, paired, up_to)
                right = [self._side(operand, events, paired, None) for operand in operands]
                truth = compared(how, left, right, self._at, len(events))
                self._turn(events, truth.changes)
                return truth.holds
            case _:
                return self._asked(condition, events, None)

    def _turn(self, events: Int64s, changes: Int64s) -> None:
        np.minimum.at(self.turns, self.kept.owners[events], changes)

    def _side(self, node: Operand, events: Int64s, paired: frozenset[Reduce], up_to: int | None) -> Side:
        match node:
            case Constant() | Instant() | Duration():
                return node
            case Property(scope="parent"):
                # The outermost events have none; inside of others `_pair_side` is asked.
                return nothing(len(events))
            case Property() | Context():
                return self.kept.coded(node, events)
            case Trait(path=path):
                return _taken(self._traits[path[0]].at(path[1:]), self.kept.owners[events])
            case Reduce():
                return self._reduced(node, events, paired=node in paired, up_to=up_to)

    def _asked(self, condition: Condition, events: Int64s, parents: Int64s | None) -> Bools:
        """Ask the reference about each distinct event beside each distinct value of the traits, and parent."""
        kept = self.kept
        read = dict.fromkeys(nodes(condition))
        dated = any(isinstance(node, Compare) and node.how in RELATIVE for node in read)
        keys = sorted({node.path[0] for node in read if isinstance(node, Trait)})
        own: list[Property | Context] = []
        of_parent: list[Property] = []
        for node in read:
            if isinstance(node, Context) or (isinstance(node, Property) and node.scope == "event"):
                own.append(node)
            elif isinstance(node, Property) and node.scope == "parent" and parents is not None:
                of_parent.append(Property(node.path))
        columns = [kept.coded(value, events) for value in own]
        columns += [kept.coded(value, events if parents is None else parents) for value in of_parent]
        columns += [as_coded(_taken(self._traits[key], kept.owners[events])) for key in keys]
        combinations, places = combined(columns, len(events))
        found = np.zeros(len(combinations), dtype=np.bool_)
        turns = never(len(combinations))
        for row, told in enumerate(combinations):
            values = iter(told)
            event = saying((node, next(values)) for node in own)
            parent = saying((node, next(values)) for node in of_parent)
            subject = Subject(traits=dict(zip(keys, values, strict=True)))
            here = Here(subject, self._at, event, None if parents is None else parent)
            found[row] = meets(condition, here)
            if dated:
                moment = next_moment_of_event(condition, here)
                turns[row] = NEVER if moment is None else moment
        self._turn(events, turns[places])
        mask: Bools = found[places]
        return mask

    # ---- what follows ----------------------------------------------------------------------------

    def _reduced(self, reduce: Reduce, events: Int64s, *, paired: bool, up_to: int | None) -> Column:
        """Return what a reduction inside of the condition on some events is worth for each of them."""
        of = reduce.of
        if not isinstance(of, Events):
            raise Internal("working out a sequence: rows of entities do not follow events")
        if paired:
            return self._by_pairs(reduce, of, events)
        if of.where is not None and asks_parent(of.where):
            return self._same(of, same_value(of.where), events, up_to)
        chosen = self.chosen(of)
        if _follows(of.window):
            runs = self._runs(of.window, chosen, events)
            if reduce.how == "count" or reduce.value is None:
                return _counts(runs.sizes)
            owners, times = self.kept.owners[chosen], self.kept.times[chosen]
            moments = np.cumsum(
                np.diff(owners, prepend=-1).astype(bool) | np.diff(times, prepend=0).astype(bool)
            )
            return reduced_runs(reduce, self.kept.matching.column(reduce.value), chosen, moments, runs)
        # Whatever the event, these are the same.
        chosen, leaves = self.within(of.window, chosen)
        self.turns = np.minimum(self.turns, leaves)
        column = self._worth(reduce, chosen, self.kept.owners[chosen], len(self.turns))
        return _taken(column, self.kept.owners[events])

    def _same(self, of: Events, same: Same | None, events: Int64s, up_to: int | None) -> Column:
        """Return how many events with a value of the asking event there are."""
        if same is None or up_to is None:
            raise Internal("working out a sequence: it should have been worked out pair by pair")
        chosen = self.chosen(_without_parent(of))
        values, asking = (
            self.kept.coded(same.value, chosen),
            self.kept.coded(Property(same.parent.path), events),
        )
        return _counts(same_counts(values, asking, self._runs(of.window, chosen, events), up_to))

    def _runs(self, window: Window | None, chosen: Int64s, events: Int64s) -> Runs:
        """Return which of the chosen events follow each event, or all of its subject where none has to."""
        owners, times = self.kept.owners[chosen], self.kept.times[chosen]
        of, begin = self.kept.owners[events], self.kept.times[events]
        if not (isinstance(window, Within) and window.parent):
            low = np.searchsorted(owners, of, side="left")
            high = np.searchsorted(owners, of, side="right")
            return Runs(low, high, np.full(len(events), -1, dtype=np.int64))
        low = number_before(owners, times, of, begin, side="left")
        high = number_before(owners, times, of, begin + window.micros, side="right")
        own = np.searchsorted(chosen, events)
        mine = (
            chosen[np.minimum(own, len(chosen) - 1)] == events
            if len(chosen)
            else np.zeros(len(events), np.bool_)
        )
        return Runs(low, high, np.where(mine, own, -1))

    def _worth(self, reduce: Reduce, events: Int64s, owners: Int64s, count: int) -> Column:
        """Return what a reduction of events is worth for each of so many owners."""
        entries, texts = self.kept.given(reduce, events, owners)
        counting = Counting(_no_buckets(reduce), entries, never(count), never(count))
        match reduced_as(reduce):
            case Family.COUNT:
                return counted(counting, count)
            case Family.NUMBER:
                return of_numbers(reduce, counting, count)
            case _:
                return of_values(reduce, counting, texts, count)

    # ---- pair by pair ----------------------------------------------------------------------------

    def _by_pairs(self, reduce: Reduce, of: Events, events: Int64s) -> Column:
        """Return what a reduction is worth for each event, by holding to it each of the newest that may count."""
        chosen = self.chosen(_without_parent(of), paired=of)
        window = None if isinstance(of.window, Session) else of.window
        if not _follows(window):
            chosen, leaves = self.within(window, chosen)
            self.turns = np.minimum(self.turns, leaves)
        runs = self._runs(window, chosen, events)
        parts = []
        for part in _parts(runs.high - runs.low):
            low, high = runs.low[part], runs.high[part]
            asking = np.repeat(np.arange(len(low)), high - low)
            places = ragged(low, high - low)
            other = places != runs.own[part][asking]
            asking, following = asking[other], chosen[places[other]]
            for condition in _parent_parts(of.where):
                held = self._pairs_meet(condition, events[part][asking], following, paired_in(of.where))
                asking, following = asking[held], following[held]
            if isinstance(of.window, Session):
                times = self.kept.times[following]
                inside = in_session(asking, times, of.window.micros, self._at)
                asking, following = asking[inside], following[inside]
                # The newest event of each session says when it is over.
                over = self.kept.times[following] + of.window.micros + 1
                self._turn(following[over > self._at], over[over > self._at])
            parts.append(self._worth(reduce, following, asking, len(low)))
        return _joined(parts)

    def _pairs_meet(
        self, condition: Condition, parents: Int64s, events: Int64s, paired: frozenset[Reduce]
    ) -> Bools:
        """Return which pairs of a parent and an event meet a condition on the event."""
        if not asks_parent(condition):
            distinct, places = np.unique(events, return_inverse=True)
            return self._meet(condition, distinct, paired)[places]
        match condition:
            case And() | Or() | Not():
                return of_parts(condition, lambda part: self._pairs_meet(part, parents, events, paired))
            case Compare(value=value, how=how, operands=operands):
                left = self._pair_side(value, parents, events, paired)
                right = [self._pair_side(operand, parents, events, paired) for operand in operands]
                truth = compared(how, left, right, self._at, len(events))
                self._turn(events, truth.changes)
                return truth.holds
            case Items(of=of) if not any(isinstance(node, Items) for node in nodes(of)):
                return self._elements_meet(condition, parents, events)
            case _:
                return self._asked(condition, events, parents)

    def _elements_meet(self, condition: Items, parents: Int64s, events: Int64s) -> Bools:
        """Return for which pairs an element of an array, or every one and there is one, meets a condition."""
        arrays = self._pair_side(condition.value, parents, events, frozenset())
        if not isinstance(arrays, Coded):
            raise Internal("working out a sequence: elements are those of a value")
        told = [elements(value) for value in arrays.values]
        counts = np.array([*map(len, told), 0], dtype=np.int64)
        starts = np.cumsum(counts) - counts
        flat = pa.array(
            [None if item is None else canonical(item) for array in told for item in array], pa.string()
        )
        every = Coded.of(flat)
        sizes = counts[arrays.codes]
        met = np.zeros(len(events), dtype=np.int64)
        for part in _parts(sizes):
            pairs = np.arange(len(events))[part]
            of = np.repeat(pairs, sizes[pairs])
            items = _taken(every, ragged(starts[arrays.codes[pairs]], sizes[pairs]))
            held = self._element_meets(condition.of, as_coded(items), parents[of], events[of])
            met += np.bincount(of[held], minlength=len(events))
        return (sizes > 0) & (met == sizes) if condition.every else met > 0

    def _element_meets(self, condition: Condition, items: Coded, parents: Int64s, events: Int64s) -> Bools:
        """Return which elements meet a condition, each with the pair of events it is looked at for."""
        match condition:
            case And() | Or() | Not():
                return of_parts(condition, lambda part: self._element_meets(part, items, parents, events))
            case Compare(value=value, how=how, operands=operands):
                left, *right = (
                    items.at(() if node.path == ITSELF else node.path)
                    if isinstance(node, Property) and node.scope == "item"
                    else self._pair_side(node, parents, events, frozenset())
                    for node in (value, *operands)
                )
                truth = compared(how, left, right, self._at, len(events))
                self._turn(events, truth.changes)
                return truth.holds
            case _:
                raise Internal("working out a sequence: nothing else is asked of an element")

    def _pair_side(self, node: Operand, parents: Int64s, events: Int64s, paired: frozenset[Reduce]) -> Side:
        if isinstance(node, Property) and node.scope == "parent":
            return self.kept.coded(Property(node.path), parents)
        if isinstance(node, Reduce):
            distinct, places = np.unique(events, return_inverse=True)
            return _taken(self._reduced(node, distinct, paired=node in paired, up_to=None), places)
        return self._side(node, events, paired, None)


def _follows(window: Window | None) -> bool:
    return isinstance(window, Within) and window.parent


def _parent_parts(where: Condition | None) -> list[Condition]:
    """Return the parts of a condition that ask for the parent."""
    parts = where.parts if isinstance(where, And) else () if where is None else (where,)
    return [part for part in parts if asks_parent(part)]


def _without_parent(of: Events) -> Events:
    """Return events without the parts of their condition that ask for the parent."""
    if of.where is None or not asks_parent(of.where):
        return of
    parts = of.where.parts if isinstance(of.where, And) else ()
    left = tuple(part for part in parts if not asks_parent(part))
    return replace(of, where=And(left) if left else None)


def _parts(sizes: Int64s) -> Iterator[slice]:
    """Yield stretches of runs, at least one, that have so many events together as are looked at at once."""
    reached = np.cumsum(sizes)
    start, done = 0, 0
    while True:
        stop = max(int(np.searchsorted(reached, done + PAIRS_AT_ONCE, side="right")), start + 1)
        yield slice(start, stop)
        if stop >= len(sizes):
            return
        start, done = stop, int(reached[stop - 1])


def _counts(sizes: Int64s) -> Numbers:
    return Numbers(sizes.astype(np.float64), np.ones(len(sizes), dtype=np.bool_), never(len(sizes)))


def _taken(column: Column, places: Int64s) -> Column:
    """Return the values at some places of a column."""
    changes = column.changes[places]
    if isinstance(column, Numbers):
        return Numbers(column.values[places], column.valid[places], changes)
    return Coded(column.codes[places], column.texts, changes)


def _joined(parts: Sequence[Column]) -> Column:
    """Return columns of one kind one after the other."""
    if len(parts) == 1:
        return parts[0]
    changes = np.concatenate([part.changes for part in parts])
    numbers = [part for part in parts if isinstance(part, Numbers)]
    if len(numbers) == len(parts):
        return Numbers(
            np.concatenate([part.values for part in numbers]),
            np.concatenate([part.valid for part in numbers]),
            changes,
        )
    coded = [as_coded(part) for part in parts]
    before = np.cumsum([0, *(len(part.texts) for part in coded)])
    codes = [
        np.where(part.codes >= 0, part.codes + first, -1).astype(np.int32)
        for part, first in zip(coded, before[:-1].tolist(), strict=True)
    ]
    return Coded(np.concatenate(codes), pa.concat_arrays([part.texts for part in coded]), changes)
