"""Partials of steps by subject, cut to what counts at a time.

Buckets count where their whole day lies in the window; of a day that an edge of the window (or the present, unless
nothing is newer) cuts, the single events count. So answers are exact to the microsecond, and most events are never looked at.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.errors import Invalid
from profilelake.semantics.conditions.tree import Between, Window, Within
from profilelake.traits.columns import NEVER, Bools, Int64s, never
from profilelake.traits.ownership import Kept, Ownership, Runs
from profilelake.traits.partials import CutEvent, Rows
from profilelake.traits.steps import DAY_MICROS, FOREVER

Layout: TypeAlias = npt.NDArray[np.void]

EVENT, NUMBER, VALUE = 0, 1, 2
"""Kinds of entries."""
STEPS_MAX: Final = 2**16 - 1
"""Steps that are told apart in one evaluation: so many that their places can be sorted in linear time."""


@dataclass(frozen=True, slots=True)
class Span:
    """The times that count at `at`, both included: what lies in the window (None: all) and not in the future.

    An event is in the window from `near` after it until `far` after it.
    """

    first: int
    last: int
    near: int
    far: int

    @classmethod
    def of(cls, window: Window | None, at: int) -> "Span | None":
        """Return the times a window covers, None where events of any time count."""
        match window:
            case Within(micros=micros):
                return cls(at - micros, at, 0, micros)
            case Between(near=near, far=far):
                return cls(at - far, at - near, near, far)
            case _:
                return None


class Owned(NamedTuple):
    """Rows of one layout, each with the subject it belongs to."""

    rows: Layout
    owners: Int64s

    def where(self, mask: Bools) -> "Owned":
        """Return some of them."""
        # Indexing rows of several fields is ten times slower than this.
        return Owned(self.rows.compress(mask), self.owners[mask])


@dataclass(frozen=True, slots=True)
class Counting:
    """What counts of one step: rows of buckets, and single events of days that only count in part.

    Per subject, nothing of it ceases to count before `leaves`, and nothing more counts before `arrives`.
    """

    buckets: Owned
    entries: Owned
    leaves: Int64s
    arrives: Int64s

    @property
    def changes(self) -> Int64s:
        """A time per subject before which the same counts."""
        return np.minimum(self.leaves, self.arrives)

    def of_kind(self, kind: int) -> Owned:
        """Return the entries of a kind."""
        return self.entries.where(self.entries.rows["kind"] == kind)


class Joined:
    """Partials of some subjects, from `start` up to `stop`, which are numbered anew; by step."""

    def __init__(self, ownership: Ownership, numbers: Int64s, start: int, stop: int) -> None:
        self._ownership = ownership
        self._start, self._stop = start, stop
        self._count = stop - start
        self._numbers = np.unique(numbers)
        if len(self._numbers) > STEPS_MAX:
            raise Invalid(
                f"answering definitions: {len(self._numbers)} steps pass {STEPS_MAX}; answer fewer at a time"
            )
        self._parts: dict[Kept, _ByStep] = {}

    def counting(self, kept: Kept, number: int, window: Window | None, at: int) -> Counting:
        """Return what counts of a step at a time; `kept` are the rows of its family."""
        rows = self._by_step(kept).of(number)
        span = Span.of(window, at)
        if span is None:
            none = Owned(self._ownership.partials.entries.rows[:0], np.zeros(0, dtype=np.int64))
            return Counting(rows, none, never(self._count), never(self._count))
        until = self._ownership.partials.until
        ends = NEVER if until is not None and until <= span.last else span.last
        return _cut(rows, self._by_step("entries").of(number), span, ends, at, self._count)

    def events_of(self, number: int) -> tuple[list[list[CutEvent]], Int64s]:
        """Return the events of a step, those of a set together, and the subject of each such list."""
        return self._ownership.lists.of(number, self._start, self._stop)

    def _by_step(self, kept: Kept) -> "_ByStep":
        part = self._parts.get(kept)
        if part is None:
            runs = self._ownership.runs(kept, self._start, self._stop)
            rows: Rows = getattr(self._ownership.partials, kept)
            part = self._parts[kept] = _ByStep(rows.rows, runs, self._numbers)
        return part


class _ByStep:
    """Rows of one layout, ordered by step."""

    def __init__(self, rows: Layout, runs: Runs, numbers: Int64s) -> None:
        places = runs.rows()
        steps = _dense(rows["step"][places], numbers)
        order = np.argsort(steps, kind="stable")
        self._rows = rows.take(places[order])
        self._owners = np.repeat(runs.owners, runs.lengths)[order]
        self._bounds = np.searchsorted(steps[order], np.arange(len(numbers) + 1))
        self._numbers = numbers

    def of(self, number: int) -> Owned:
        """Return the rows of one step."""
        step = int(np.searchsorted(self._numbers, number))
        part = slice(int(self._bounds[step]), int(self._bounds[step + 1]))
        return Owned(self._rows[part], self._owners[part])


def _dense(steps: npt.NDArray[np.uint32], numbers: Int64s) -> npt.NDArray[np.uint16]:
    """Return the place of each number among those asked for. They are counted up, so a table of them is short."""
    past = int(numbers.max(initial=0)) + 1
    table = np.full(past + 1, STEPS_MAX, dtype=np.uint16)
    table[numbers] = np.arange(len(numbers))
    return table.take(np.minimum(steps, past))


def _cut(rows: Owned, entries: Owned, span: Span, ends: int, at: int, count: int) -> Counting:
    """Return what of a step with a window counts at a time; `ends` is when the window does, as far as it matters.

    A bucket of all time holds what was found to be in the window already: nothing is known of when it leaves.
    """
    days = rows.rows["bucket"].astype(np.int64)
    starts = days * DAY_MICROS
    forever = days == FOREVER
    inside = forever | ((starts >= span.first) & (starts + DAY_MICROS - 1 <= ends))
    times = entries.rows["at"]
    entry_starts = times // DAY_MICROS * DAY_MICROS
    cut = (entry_starts < span.first) | (entry_starts + DAY_MICROS - 1 > ends)
    within = cut & (times >= span.first) & (times <= ends)
    buckets, singles = rows.where(inside), entries.where(within)
    leaves, arrives = never(count), never(count)
    np.minimum.at(leaves, buckets.owners, _leaving(buckets, span, at))
    np.minimum.at(leaves, singles.owners, singles.rows["at"] + span.far + 1)
    later, later_entries = starts > ends, times > ends
    np.minimum.at(arrives, rows.owners[later], starts[later] + span.near)
    np.minimum.at(arrives, entries.owners[later_entries], times[later_entries] + span.near)
    return Counting(buckets, singles, np.maximum(leaves, at + 1), np.maximum(arrives, at + 1))


def _leaving(buckets: Owned, span: Span, at: int) -> Int64s:
    """Return when the first event of each bucket may leave the window."""
    days = buckets.rows["bucket"].astype(np.int64)
    leaving: Int64s = np.where(days == FOREVER, at, days * DAY_MICROS + span.far) + 1
    return leaving


def falls_below(counting: Counting, least: int, span: Span, at: int) -> Int64s:
    """Return when fewer than `least` events are left, or `NEVER` for subjects that have fewer now.

    Only for windows that end now, where nothing comes in by time alone (but what is dated ahead): then the
    newest events decide.
    """
    result = counting.arrives.copy()
    entries = counting.of_kind(EVENT)
    owners = np.concatenate([counting.buckets.owners, entries.owners])
    times = np.concatenate([_leaving(counting.buckets, span, at), entries.rows["at"] + span.far + 1])
    if least == 1:
        last = np.zeros(len(result), dtype=np.int64)
        np.maximum.at(last, owners, times)
        return np.where(last, np.minimum(result, np.maximum(last, at + 1)), result)
    counts = np.concatenate([counting.buckets.rows["count"], np.ones(len(entries.rows), dtype=np.int64)])
    enough = np.bincount(owners, weights=counts, minlength=len(result))[owners] >= least
    owners, times, counts = owners[enough], times[enough], counts[enough]
    order = np.lexsort((-times, owners))
    owners, times, counts = owners[order], times[order], counts[order]
    reached = np.cumsum(counts)
    starts = np.searchsorted(owners, np.arange(len(result) + 1))
    before = np.concatenate([[0], reached])[starts[owners]]
    deciding = (reached - before >= least) & (reached - counts - before < least)
    result[owners[deciding]] = np.minimum(result[owners[deciding]], np.maximum(times[deciding], at + 1))
    return result
