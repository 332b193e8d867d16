"""Kept events of many subjects as columns, sorted by subject and time: what sequences are worked out on."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.tree import Context, Events, Property, Reduce
from profilelake.state.computed import ENTRIES
from profilelake.traits.columns import NEVER, Bools, Coded, Int64s, never
from profilelake.traits.found import Texts
from profilelake.traits.giving import digest_words, numbers_given, values_given
from profilelake.traits.joined import EVENT, NUMBER, VALUE, Layout, Owned
from profilelake.traits.matching import Matching
from profilelake.traits.partials import CutEvent
from profilelake.traits.steps import Family, Step, items_of, reduced_as


class KeptEvents:
    """Events of many subjects, numbered in the order of subjects and times."""

    def __init__(self, step: Step, events: Sequence[CutEvent], owners: Int64s) -> None:
        times = np.fromiter(map(attrgetter("at"), events), np.int64, count=len(events))
        order = np.lexsort((times, owners))
        self.owners: Int64s = owners[order]
        self.times: Int64s = times[order]
        self._names, self._sources, self.properties, self.context = (
            pa.array(list(map(attrgetter(field), events)), pa.string()).take(pa.array(order))
            for field in ("name", "source_id", "properties", "context")
        )
        every = np.arange(len(events))
        self.matching = Matching(
            len(events),
            Texts(self.properties).columns(every, step.paths),
            Texts(self.context).columns(every, step.context_paths),
        )
        self._coded: dict[Property | Context, tuple[Int64s, pa.Array]] = {}

    def named(self, of: Events) -> Bools:
        """Return which events are of a name, and from sources that count."""
        mask = pc.equal(self._names, of.name)
        if of.excluded:
            mask = pc.and_not(mask, pc.is_in(self._sources, value_set=pa.array(of.excluded, pa.string())))
        named: Bools = mask.to_numpy(zero_copy_only=False)
        return named

    def coded(self, value: Property | Context, events: Int64s) -> Coded:
        """Return what some events say at a path, themselves, whoever asks for it."""
        known = self._coded.get(value)
        if known is None:
            said = self.matching.column(value).all
            known = self._coded[value] = said.codes.astype(np.int64), pa.array(said.texts, pa.string())
        codes, texts = known
        codes = codes[events]
        if len(events) < len(texts):
            # Each distinct value is read once: those that are not there need not be.
            there = np.unique(codes[codes >= 0])
            codes = np.where(codes >= 0, np.searchsorted(there, codes), -1)
            texts = texts.take(pa.array(there))
        return Coded(codes.astype(np.int32), texts, never(len(events)))

    def given(self, reduce: Reduce, events: Int64s, owners: Int64s) -> tuple[Owned, Mapping[bytes, str]]:
        """Return what is reduced of some events, as entries of `owners`, and the texts of values among it."""
        family = reduced_as(reduce)
        if family is Family.COUNT or reduce.value is None:
            return self._entries(events, owners, EVENT), {}
        column = self.matching.column(reduce.value)
        if family is Family.NUMBER:
            numbers = numbers_given(column, events)
            entries = self._entries(events[numbers.events], owners[numbers.events], NUMBER)
            entries.rows["number"] = numbers.numbers
            return entries, {}
        values = values_given(column, events, items_of(reduce))
        entries = self._entries(events[values.events], owners[values.events], VALUE)
        if len(entries.rows):
            entries.rows["high"], entries.rows["low"] = digest_words(values.distinct)[values.values].T
        return entries, {value.digest: value.text for value in values.distinct}

    def _entries(self, events: Int64s, owners: Int64s, kind: int) -> Owned:
        rows: Layout = np.zeros(len(events), dtype=ENTRIES)
        rows["at"] = self.times[events]
        rows["kind"] = kind
        return Owned(rows, owners)


def in_session(owners: Int64s, times: Int64s, gap: int, at: int) -> Bools:
    """Return which events, sorted by owner and time, belong to the present session of their owner."""
    following = np.full(len(times), at, dtype=np.int64)
    same = owners[1:] == owners[:-1]
    following[:-1][same] = times[1:][same]
    ended = np.flatnonzero(times + gap < following)
    # Nothing up to the last gap that is too long.
    starts = np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
    starts[owners[ended]] = ended + 1
    inside: Bools = np.arange(len(times)) >= starts[owners]
    return inside


def newest(owners: Int64s, times: Int64s, most: int) -> Bools:
    """Return which events, sorted by owner and time, are among the newest of their owner.

    These are so many at most: of events at one time all are among them or none.
    """
    ends = np.searchsorted(owners, owners, side="right")
    starts = np.searchsorted(owners, owners, side="left")
    beyond = ends - 1 - most
    kept: Bools = beyond < starts
    cut = np.flatnonzero(~kept)
    kept[cut] = times[cut] > times[beyond[cut]]
    return kept


def not_too_much(owners: Int64s, times: Int64s, amounts: Int64s, most: int) -> Bools:
    """Return which events, sorted by owner and time, are the newest that have no more together than a limit.

    Of events at one time all are among them or none.
    """
    up_to = np.concatenate([[0], np.cumsum(amounts)])
    ends = np.searchsorted(owners, owners, side="right")
    first = np.diff(owners, prepend=-1).astype(bool) | np.diff(times, prepend=0).astype(bool)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(times)), 0))
    kept: Bools = up_to[ends] - up_to[starts] <= most
    return kept


def number_before(
    owners: Int64s, times: Int64s, of: Int64s, limits: Int64s, *, side: Literal["left", "right"]
) -> Int64s:
    """Return how many events come before a time of an owner, those of owners before it too.

    Events are sorted by owner and time; on the right side those at the time itself count.
    """
    first = min(int(times.min(initial=NEVER)), int(limits.min(initial=NEVER)))
    width = max(int(times.max(initial=first)), int(limits.max(initial=first))) - first + 1
    if width * (max(int(owners.max(initial=0)), int(of.max(initial=0))) + 1) > NEVER:
        # Years of many subjects do not fit into one number: take the places of the times among all.
        moments = np.unique(np.concatenate([times, limits]))
        times, limits = np.searchsorted(moments, times), np.searchsorted(moments, limits)
        first, width = 0, len(moments)
    return np.searchsorted(owners * width + (times - first), of * width + (limits - first), side=side)
