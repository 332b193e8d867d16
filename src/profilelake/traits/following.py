"""Reductions of runs of events, one run for each event that asks: sums, extremes and ends without going over them.

Events are sorted by subject and time, so what follows an event within a time is a run of them. An event does not
follow itself, but lies in the run where it is of the same kind: it is taken out again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.tree import Reduce
from profilelake.semantics.conditions.values import SUM_MAX, SUMMED_MAX
from profilelake.traits.columns import Bools, Coded, Int64s, Numbers, never
from profilelake.traits.found import Column
from profilelake.traits.giving import Given, numbers_given, values_given
from profilelake.traits.reduced import divided, text_order
from profilelake.traits.steps import Family, items_of, reduced_as


class Runs(NamedTuple):
    """Runs of events from `low` up to `high`, and where in it the asking event itself is: -1 where it is not."""

    low: Int64s
    high: Int64s
    own: Int64s

    @property
    def sizes(self) -> Int64s:
        """How many events there are in each run, without the asking one."""
        return self.high - self.low - (self.own >= 0)


def reduced_runs(
    reduce: Reduce, column: Column, events: Int64s, times: Int64s, runs: Runs
) -> Numbers | Coded:
    """Return a reduction of what some events say in a column, for runs of these events.

    `times` number the moments of all subjects in the order of the events. Modes and unique values are not known here.
    """
    if reduced_as(reduce) is Family.NUMBER:
        given = numbers_given(column, events)
        if reduce.how in ("min", "max"):
            return _extreme_number(given, runs, len(events), greatest=reduce.how == "max")
        return _sum(given, runs, len(events), average=reduce.how == "avg")
    values = values_given(column, events, items_of(reduce))
    texts = pa.array([value.text for value in values.distinct], pa.string())
    if reduce.how in ("min", "max"):
        order = text_order(texts).to_numpy()
        chosen = _extreme_rank(
            _ranks(order)[values.values], values.events, runs, len(events), greatest=reduce.how == "max"
        )
    else:
        order = pc.sort_indices(texts).to_numpy()
        chosen = _at_end(
            _ranks(order)[values.values], values.events, times, runs, first=reduce.how == "first"
        )
    codes = np.full(len(chosen), -1, dtype=np.int32)
    codes[chosen >= 0] = order[chosen[chosen >= 0]]
    return Coded(codes, texts, never(len(chosen)))


def _ranks(order: Int64s) -> Int64s:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _sum(given: Given, runs: Runs, count: int, *, average: bool) -> Numbers:
    summed = np.abs(given.numbers) <= SUMMED_MAX
    events, numbers = given.events[summed], given.numbers[summed]
    floors = np.floor(numbers)
    in_runs = _adder(events, runs, count)
    wholes = in_runs(floors.astype(np.int64))
    nanos = in_runs(np.rint((numbers - floors) * 1e9).astype(np.int64))
    many = in_runs(np.ones(len(numbers), dtype=np.int64))
    # A sum that left the range of integers is off by 2^64: rounded ones tell.
    near = in_runs(floors)
    valid = (many > 0) & (wholes <= SUM_MAX) & (wholes >= -SUM_MAX) & (np.abs(near) < 2 * float(SUM_MAX))
    shares = np.where(valid, many, 1) if average else np.ones(len(many), dtype=np.int64)
    values = divided(np.where(valid, wholes, 0), np.where(valid, nanos, 0), shares)
    return Numbers(values, valid, never(len(values)))


def _adder(events: Int64s, runs: Runs, count: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Return what adds up parts of events in runs."""

    def added(parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        of_event = np.zeros(count + 1, dtype=parts.dtype)
        np.add.at(of_event, events, parts)
        reached = np.zeros(count + 1, dtype=parts.dtype)
        np.cumsum(of_event[:-1], out=reached[1:])
        # The place behind the last event, which is also that of none, has nothing.
        return reached[runs.high] - reached[runs.low] - of_event[runs.own]

    return added


def _extreme_number(given: Given, runs: Runs, count: int, *, greatest: bool) -> Numbers:
    keep, none = (np.maximum, -np.inf) if greatest else (np.minimum, np.inf)
    of_event = np.full(count, none)
    keep.at(of_event, given.events, given.numbers)
    best = _extreme(of_event, none, runs, keep)
    valid = np.isfinite(best)
    return Numbers(np.where(valid, best, 0.0), valid, never(len(best)))


def _extreme_rank(ranks: Int64s, events: Int64s, runs: Runs, count: int, *, greatest: bool) -> Int64s:
    """Return the least or greatest rank in each run, -1 for none."""
    last = np.iinfo(np.int64).max
    keep, none = (np.maximum, -1) if greatest else (np.minimum, last)
    of_event = np.full(count, none, dtype=np.int64)
    keep.at(of_event, events, ranks)
    best = _extreme(of_event, none, runs, keep)
    return np.where(best == last, -1, best)


def _extreme(of_event: npt.NDArray[Any], none: float, runs: Runs, keep: np.ufunc) -> npt.NDArray[Any]:
    """Return the extreme of each run: that of what lies before the asking event, and of what lies behind it."""
    middle = np.where(runs.own >= 0, runs.own, runs.high)
    before = _extreme_between(of_event, none, runs.low, middle, keep)
    behind = _extreme_between(of_event, none, np.minimum(middle + 1, runs.high), runs.high, keep)
    best: npt.NDArray[Any] = keep(before, behind)
    return best


def _extreme_between(
    of_event: npt.NDArray[Any], none: float, low: Int64s, high: Int64s, keep: np.ufunc
) -> npt.NDArray[Any]:
    """Return extremes of stretches: each is covered by two of a length that is a power of two."""
    best = np.full(len(low), none, dtype=of_event.dtype)
    lengths = high - low
    level = np.frexp(np.maximum(lengths, 1).astype(np.float64))[1] - 1
    powers, size = of_event, 1
    for power in range(int(level.max(initial=0)) + 1):
        mine = np.flatnonzero((level == power) & (lengths > 0))
        best[mine] = keep(powers[low[mine]], powers[high[mine] - size])
        if len(powers) <= size:
            break
        powers = keep(powers[:-size], powers[size:])
        size *= 2
    return best


def _at_end(ranks: Int64s, events: Int64s, times: Int64s, runs: Runs, *, first: bool) -> Int64s:
    """Return the rank of the first (last) value in each run, -1 for none; at one time the least (greatest) one."""
    order = np.lexsort((ranks, times[events]))
    ranks, having = ranks[order], events[order]
    # Events with a value keep the stretches of the order: only those at one time change places, and a run
    # begins and ends between times.
    reached = np.zeros(len(times) + 1, dtype=np.int64)
    reached[having + 1] = 1
    reached = np.cumsum(reached)
    low, high = reached[runs.low], reached[runs.high]
    place = np.full(len(times) + 1, -1, dtype=np.int64)
    place[having] = np.arange(len(having))
    own = place[runs.own]
    at = low + ((own >= 0) & (own == low)) if first else high - 1 - ((own >= 0) & (own == high - 1))
    found: Bools = (at >= low) & (at < high)
    chosen = np.full(len(at), -1, dtype=np.int64)
    chosen[found] = ranks[at[found]]
    return chosen
