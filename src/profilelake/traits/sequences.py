"""Which kept events count, for all subjects at once: funnels, sessions and comparisons with traits.

What of a reduction cannot be said event by event is worked out here on columns of events. The usual forms are: an
event followed by others within a time, a session, a value of an event beside a trait. The rest (`in_columns` says
no) is asked of the reference, subject by subject.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.evaluate import Here, Occurred, Subject, meets
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Compare,
    Condition,
    Constant,
    Events,
    Not,
    Or,
    Property,
    Reduce,
    Session,
    Trait,
    Within,
)
from profilelake.state.computed import ENTRIES
from profilelake.traits.columns import NEVER, Bools, Coded, Int64s, Numbers, never
from profilelake.traits.compared import combined, compared
from profilelake.traits.found import Texts
from profilelake.traits.giving import digest_words, numbers_given, values_given
from profilelake.traits.joined import EVENT, NUMBER, VALUE, Counting, Layout, Owned, Span
from profilelake.traits.matching import Matching
from profilelake.traits.partials import LAYOUTS, CutEvent
from profilelake.traits.steps import Family, Step, items_of, nodes, reduced_as, static


def in_columns(reduce: Reduce) -> bool:
    """Tell whether `counting` knows a reduction of whole events."""
    return (
        isinstance(reduce.of, Events)
        and (reduce.value is None or reduce.value.scope == "event")
        and not (isinstance(reduce.of.window, Within) and reduce.of.window.parent)
        and (reduce.of.where is None or _knows(reduce.of.where))
    )


def _knows(condition: Condition) -> bool:
    match condition:
        case And(parts=parts) | Or(parts=parts):
            return all(_knows(part) for part in parts)
        case Not(of=of):
            return _knows(of)
        case Compare(value=Reduce() as reduce, operands=operands):
            return _knows_what_follows(reduce) and all(isinstance(operand, Constant) for operand in operands)
        case _:
            return _of_one_event(condition)


def _knows_what_follows(reduce: Reduce) -> bool:
    of = reduce.of
    return (
        reduce.how == "count"
        and isinstance(of, Events)
        and (of.window is None or (isinstance(of.window, Within) and of.window.parent))
        and (of.where is None or static(of.where))
    )


def _of_one_event(condition: Condition) -> bool:
    """Tell whether a condition looks at nothing but one event and traits, at any time alike."""
    return not any(
        isinstance(node, Reduce)
        or (isinstance(node, Property) and node.scope == "parent")
        or (isinstance(node, Compare) and node.how in RELATIVE)
        for node in nodes(condition)
    )


def counting(
    step: Step, events: Sequence[CutEvent], owners: Int64s, traits: Mapping[str, Coded], at: int, count: int
) -> tuple[Counting, Mapping[bytes, str]]:
    """Return what counts of a step at a time, as single events, and the texts of the values they give.

    `events` are those of all subjects in any order, `owners` whose they are. `traits` are those that are asked for,
    by first key.
    """
    happened = _Happened(step, events, owners, traits, at)
    leaves, arrives = never(count), never(count)
    for column in traits.values():
        arrives = np.minimum(arrives, column.changes)
    ahead = happened.times > at
    np.minimum.at(arrives, happened.owners[ahead], happened.times[ahead])
    chosen = np.flatnonzero(happened.wanted(step.of) & ~ahead)
    window = step.of.window
    span = Span.of(window, at)
    if isinstance(window, Session):
        chosen = happened.session(chosen, window.micros)
        # All go together: later ones of a subject overwrite earlier ones, and they are in the order of time.
        leaves[happened.owners[chosen]] = happened.times[chosen] + window.micros + 1
    elif span is not None:
        times = happened.times[chosen]
        coming = times > span.last
        np.minimum.at(arrives, happened.owners[chosen[coming]], times[coming] + span.near)
        chosen = chosen[(times >= span.first) & ~coming]
        np.minimum.at(leaves, happened.owners[chosen], happened.times[chosen] + span.far + 1)
    entries, texts = happened.given(step.reduce, chosen)
    none = Owned(np.zeros(0, dtype=LAYOUTS[reduced_as(step.reduce)]), np.zeros(0, dtype=np.int64))
    return Counting(none, entries, leaves, arrives), texts


class _Happened:
    """Kept events of many subjects as columns, sorted by subject and time."""

    def __init__(
        self, step: Step, events: Sequence[CutEvent], owners: Int64s, traits: Mapping[str, Coded], at: int
    ) -> None:
        times = np.fromiter(map(attrgetter("at"), events), np.int64, count=len(events))
        order = np.lexsort((times, owners))
        self.owners: Int64s = owners[order]
        self.times: Int64s = times[order]
        self._names, self._sources, self._properties, self._context = (
            pa.array(list(map(attrgetter(field), events)), pa.string()).take(pa.array(order))
            for field in ("name", "source_id", "properties", "context")
        )
        every = np.arange(len(events))
        self._matching = Matching(
            len(events),
            Texts(self._properties).columns(every, step.paths),
            Texts(self._context).columns(every, step.context_paths),
        )
        self._traits = traits
        self._at = at

    def wanted(self, of: Events) -> Bools:
        """Return which events are of a name, from sources that count, and meet what is asked of them."""
        mask = pc.equal(self._names, of.name)
        if of.excluded:
            mask = pc.and_not(mask, pc.is_in(self._sources, value_set=pa.array(of.excluded, pa.string())))
        meant: Bools = mask.to_numpy(zero_copy_only=False)
        return meant if of.where is None else meant & self._meet(of.where)

    def session(self, chosen: Int64s, gap: int) -> Int64s:
        """Return the events among some that belong to the present session of their subject."""
        owners, times = self.owners[chosen], self.times[chosen]
        following = np.full(len(chosen), self._at, dtype=np.int64)
        same = owners[1:] == owners[:-1]
        following[:-1][same] = times[1:][same]
        ended = np.flatnonzero(times + gap < following)
        # Nothing up to the last gap that is too long.
        starts = np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
        starts[owners[ended]] = ended + 1
        return chosen[np.arange(len(chosen)) >= starts[owners]]

    def given(self, reduce: Reduce, chosen: Int64s) -> tuple[Owned, Mapping[bytes, str]]:
        """Return what is reduced of some events, as entries, and the texts of values among it."""
        family = reduced_as(reduce)
        if family is Family.COUNT or reduce.value is None:
            return self._entries(chosen, EVENT), {}
        column = self._matching.column(reduce.value)
        if family is Family.NUMBER:
            numbers = numbers_given(column, chosen)
            entries = self._entries(chosen[numbers.events], NUMBER)
            entries.rows["number"] = numbers.numbers
            return entries, {}
        values = values_given(column, chosen, items_of(reduce))
        entries = self._entries(chosen[values.events], VALUE)
        if len(entries.rows):
            entries.rows["high"], entries.rows["low"] = digest_words(values.distinct)[values.values].T
        return entries, {value.digest: value.text for value in values.distinct}

    def _entries(self, chosen: Int64s, kind: int) -> Owned:
        rows: Layout = np.zeros(len(chosen), dtype=ENTRIES)
        rows["at"] = self.times[chosen]
        rows["kind"] = kind
        return Owned(rows, self.owners[chosen])

    def _meet(self, condition: Condition) -> Bools:
        if static(condition):
            return self._matching.holds(condition)
        match condition:
            case And(parts=parts):
                both: Bools = np.logical_and.reduce([self._meet(part) for part in parts])
                return both
            case Or(parts=parts):
                either: Bools = np.logical_or.reduce([self._meet(part) for part in parts])
                return either
            case Not(of=of):
                return ~self._meet(of)
            case Compare(value=Reduce(of=Events() as of), how=how, operands=operands):
                follow = Numbers(
                    self._following(of).astype(np.float64),
                    np.ones(len(self.times), dtype=np.bool_),
                    never(len(self.times)),
                )
                asked = [operand for operand in operands if isinstance(operand, Constant)]
                return compared(how, follow, asked, self._at, len(self.times)).holds
            case _:
                return self._asked(condition)

    def _following(self, of: Events) -> Int64s:
        """Return how many events of some kind follow each event: itself does not, at its own time others do."""
        kind = self.wanted(of) & (self.times <= self._at)
        owners, times = self.owners[kind], self.times[kind]
        if not isinstance(of.window, Within):
            return np.bincount(owners, minlength=int(self.owners.max(initial=-1)) + 1)[self.owners]
        limits = self.times + of.window.micros
        until = _number_before(owners, times, self.owners, limits, side="right")
        before = _number_before(owners, times, self.owners, self.times, side="left")
        return until - before - kind

    def _asked(self, condition: Condition) -> Bools:
        """Ask the reference about each distinct event beside each distinct value of the traits."""
        keys = sorted({node.path[0] for node in nodes(condition) if isinstance(node, Trait)})
        traits = [self._traits[key] for key in keys]
        columns = [Coded.of(self._properties), Coded.of(self._context)]
        columns += [Coded(one.codes[self.owners], one.texts, one.changes) for one in traits]
        combinations, places = combined(columns, len(self.times))
        found = []
        for properties, context, *values in combinations:
            subject = Subject(traits=dict(zip(keys, values, strict=True)))
            event = Occurred("", self._at, properties=properties, context=context)
            found.append(meets(condition, Here(subject, self._at, event=event)))
        mask: Bools = np.array(found, dtype=np.bool_)[places]
        return mask


def _number_before(
    owners: Int64s, times: Int64s, of: Int64s, limits: Int64s, *, side: Literal["left", "right"]
) -> Int64s:
    """Return how many events come before a time of an owner, those of owners before it too.

    Events are sorted by owner and time; on the right side those at the time itself count.
    """
    first = min(int(times.min(initial=NEVER)), int(limits.min(initial=NEVER)))
    width = max(int(times.max(initial=first)), int(limits.max(initial=first))) - first + 1
    if width * (int(of.max(initial=0)) + 1) > NEVER:
        # Years of many subjects do not fit into one number: take the places of the times among all.
        moments = np.unique(np.concatenate([times, limits]))
        times, limits = np.searchsorted(moments, times), np.searchsorted(moments, limits)
        first, width = 0, len(moments)
    return np.searchsorted(owners * width + (times - first), of * width + (limits - first), side=side)
