"""Partials joined to the subjects on whose sets they hang, cut to what counts at a time.

Buckets count where their whole day lies in the window; of a day that an edge of the window (or the present)
cuts, the single events count. So answers are exact to the microsecond, and most events are never looked at.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.errors import Invalid
from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.tree import Between, Window, Within
from profilelake.traits.columns import Int64s, Subjects, never
from profilelake.traits.partials import Partials, Rows
from profilelake.traits.steps import DAY_MICROS, FOREVER

Layout: TypeAlias = npt.NDArray[np.void]
Kept: TypeAlias = Literal["counts", "numbers", "values", "entries"]
"""Which rows of partials."""

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


@dataclass(frozen=True, slots=True)
class Counting:
    """What counts of one step: rows of buckets and single events, with their subjects.

    Per subject, nothing of it ceases to count before `leaves`, and nothing more counts before `arrives`.
    """

    rows: Layout
    owners: Int64s
    entries: Layout
    entry_owners: Int64s
    leaves: Int64s
    arrives: Int64s

    @property
    def changes(self) -> Int64s:
        """A time per subject before which the same counts."""
        return np.minimum(self.leaves, self.arrives)

    def of_kind(self, kind: int) -> tuple[Layout, Int64s]:
        """Return the entries of a kind with their subjects."""
        mask = self.entries["kind"] == kind
        return self.entries[mask], self.entry_owners[mask]


class Joined:
    """Partials by step, each row with the subject it belongs to. A row of two subjects stands twice."""

    def __init__(self, partials: Partials, subjects: Subjects, numbers: npt.NDArray[np.int64]) -> None:
        self.partials = partials
        self._count = subjects.count
        self._numbers = np.unique(numbers)
        if len(self._numbers) > STEPS_MAX:
            raise Invalid(
                f"answering definitions: {len(self._numbers)} steps pass {STEPS_MAX}; answer fewer at a time"
            )
        self._owners = _Owners(subjects)
        self._parts: dict[Kept, _ByStep] = {}
        self._events: dict[int, dict[int, list[tuple[bytes, int]]]] | None = None

    def counting(self, kept: Kept, number: int, window: Window | None, at: int) -> Counting:
        """Return what counts of a step at a time; `kept` are the rows of its family."""
        mine, owners = self._by_step(kept).of(number)
        span = Span.of(window, at)
        if span is None:
            none = np.zeros(0, dtype=np.int64)
            never_ = never(self._count)
            return Counting(mine, owners, self.partials.entries.rows[:0], none, never_, never_)
        entries, entry_owners = self._by_step("entries").of(number)
        return _cut(mine, owners, entries, entry_owners, span, at, self._count)

    def events_of(self, number: int) -> dict[int, list[tuple[bytes, int]]]:
        """Return where the events of a step are kept, by subject."""
        if self._events is None:
            self._events = self._located()
        return self._events.get(number, {})

    def _by_step(self, kept: Kept) -> "_ByStep":
        part = self._parts.get(kept)
        if part is None:
            rows: Rows = getattr(self.partials, kept)
            part = self._parts[kept] = _ByStep(rows, self._owners, self._numbers)
        return part

    def _located(self) -> dict[int, dict[int, list[tuple[bytes, int]]]]:
        keys = list(self.partials.events)
        words = np.frombuffer(b"".join(key for key, _ in keys), dtype=np.uint64).reshape(-1, 2)
        runs, owners = self._owners.of(words)
        located: dict[int, dict[int, list[tuple[bytes, int]]]] = {}
        for run, owner in zip(runs.tolist(), owners.tolist(), strict=True):
            located.setdefault(keys[run][1], {}).setdefault(owner, []).append(keys[run])
        return located


class _Owners:
    """Which subjects a set belongs to. Of accounts, sets of linked users too: such a set may have several."""

    def __init__(self, subjects: Subjects) -> None:
        words, owners = subjects.set_keys, subjects.set_owner
        if subjects.users is not None:
            words, owners = _with_users(subjects, subjects.users)
        order = np.argsort(words[:, 0], kind="stable")
        self._first, self._second = words[order, 0], words[order, 1]
        self._owners = owners[order]

    def of(self, words: Words) -> tuple[Int64s, Int64s]:
        """Return pairs: the place of a set in `words`, and a subject it belongs to."""
        # The first half of a keyed hash is as good as unique; where it is not, the second one tells.
        low = np.searchsorted(self._first, words[:, 0], side="left")
        high = np.searchsorted(self._first, words[:, 0], side="right")
        places = np.repeat(np.arange(len(words)), high - low)
        known = ragged(low, high - low)
        same = self._second[known] == words[places, 1]
        return places[same], self._owners[known[same]]


class _ByStep:
    """Rows of one layout, ordered by step."""

    def __init__(self, rows: Rows, owners: _Owners, numbers: Int64s) -> None:
        changed = np.ones(len(rows.sets), dtype=np.bool_)
        changed[1:] = (rows.sets[1:] != rows.sets[:-1]).any(axis=1)
        starts = np.flatnonzero(changed)
        lengths = np.diff(starts, append=len(rows.sets))
        runs, run_owners = owners.of(rows.sets[starts])
        places = ragged(starts[runs], lengths[runs])
        of_rows = np.repeat(run_owners, lengths[runs])
        steps = _dense(rows.rows["step"][places], numbers)
        order = np.argsort(steps, kind="stable")
        self._rows = rows.rows
        self._places, self._owners = places[order], of_rows[order]
        self._bounds = np.searchsorted(steps[order], np.arange(len(numbers) + 1))
        self._numbers = numbers

    def of(self, number: int) -> tuple[Layout, Int64s]:
        """Return the rows of one step and their subjects."""
        step = int(np.searchsorted(self._numbers, number))
        part = slice(int(self._bounds[step]), int(self._bounds[step + 1]))
        return self._rows[self._places[part]], self._owners[part]


def ragged(starts: Int64s, lengths: Int64s) -> Int64s:
    """Return the numbers from each start on, as many as its length says, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Int64s = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def _dense(steps: npt.NDArray[Any], numbers: Int64s) -> npt.NDArray[np.uint16]:
    """Return the place of each number among those asked for."""
    places = np.searchsorted(numbers, steps)
    known = places < len(numbers)
    known[known] = numbers[places[known]] == steps[known]
    return np.where(known, places, STEPS_MAX).astype(np.uint16)


def _with_users(subjects: Subjects, users: Subjects) -> tuple[Words, Int64s]:
    """Return the sets of accounts and of their users, each pair of set and account once."""
    pairs = subjects.user_accounts[np.argsort(subjects.user_accounts[:, 1], kind="stable")]
    low = np.searchsorted(pairs[:, 1], users.set_owner, side="left")
    high = np.searchsorted(pairs[:, 1], users.set_owner, side="right")
    theirs = np.repeat(users.set_keys, high - low, axis=0)
    accounts = pairs[ragged(low, high - low), 0]
    words = np.concatenate([subjects.set_keys, theirs])
    owners = np.concatenate([subjects.set_owner, accounts])
    both = np.column_stack([words, owners.astype(np.uint64)])
    _, first = np.unique(both, axis=0, return_index=True)
    return words[first], owners[first]


def _cut(
    rows: Layout, owners: Int64s, entries: Layout, entry_owners: Int64s, span: Span, at: int, count: int
) -> Counting:
    """Return what of a step with a window counts at a time.

    A bucket of all time holds what was found to be in the window already: nothing is known of when it leaves.
    """
    days = rows["bucket"].astype(np.int64)
    starts = days * DAY_MICROS
    forever = days == FOREVER
    inside = forever | ((starts >= span.first) & (starts + DAY_MICROS - 1 <= span.last))
    times = entries["at"]
    entry_starts = times // DAY_MICROS * DAY_MICROS
    cut = (entry_starts < span.first) | (entry_starts + DAY_MICROS - 1 > span.last)
    within = cut & (times >= span.first) & (times <= span.last)
    leaves, arrives = never(count), never(count)
    np.minimum.at(leaves, owners[inside], np.where(forever[inside], at, starts[inside] + span.far) + 1)
    np.minimum.at(leaves, entry_owners[within], times[within] + span.far + 1)
    later, later_entries = starts > span.last, times > span.last
    np.minimum.at(arrives, owners[later], starts[later] + span.near)
    np.minimum.at(arrives, entry_owners[later_entries], times[later_entries] + span.near)
    return Counting(
        rows[inside],
        owners[inside],
        entries[within],
        entry_owners[within],
        np.maximum(leaves, at + 1),
        np.maximum(arrives, at + 1),
    )


def falls_below(counting: Counting, least: int, span: Span, at: int) -> Int64s:
    """Return when fewer than `least` events are left, or `NEVER` for subjects that have fewer now.

    Only for windows that end now, where nothing comes in by time alone (but what is dated ahead): then the
    newest events decide.
    """
    entries, entry_owners = counting.of_kind(EVENT)
    buckets = counting.rows["bucket"].astype(np.int64)
    leaving = np.where(buckets == FOREVER, at, buckets * DAY_MICROS + span.far) + 1
    owners = np.concatenate([counting.owners, entry_owners])
    times = np.concatenate([leaving, entries["at"] + span.far + 1])
    counts = np.concatenate([counting.rows["count"], np.ones(len(entries), dtype=np.int64)])
    order = np.lexsort((-times, owners))
    owners, times, counts = owners[order], times[order], counts[order]
    reached = np.cumsum(counts)
    before = reached - counts
    starts = np.searchsorted(owners, owners, side="left")
    left = before[starts] if len(before) else before
    deciding = (reached - left >= least) & (before - left < least)
    result = counting.arrives.copy()
    result[owners[deciding]] = np.minimum(result[owners[deciding]], np.maximum(times[deciding], at + 1))
    return result
