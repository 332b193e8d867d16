"""Which subjects partials belong to: the rows and lists of each set, in the order of their subjects.

Worked out once for all subjects, so that slices of these take what is theirs without looking at the rest.
"""

from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from profilelake.kernels.siphash import Words
from profilelake.traits.columns import Int64s, Subjects
from profilelake.traits.partials import CutEvent, Partials, Rows

Kept: TypeAlias = Literal["counts", "numbers", "values", "entries"]
"""Which rows of partials."""


class Runs(NamedTuple):
    """Rows of sets, one run of rows each, with a subject the set belongs to; sorted by subject or by place."""

    starts: Int64s
    lengths: Int64s
    owners: Int64s

    def between(self, start: int, stop: int) -> "Runs":
        """Return those, sorted by subject, of the subjects from `start` up to `stop`, which are numbered anew."""
        low, high = np.searchsorted(self.owners, [start, stop]).tolist()
        part = slice(low, high)
        return Runs(self.starts[part], self.lengths[part], self.owners[part] - start)

    def rows(self) -> Int64s:
        """Return the place of each row."""
        return ragged(self.starts, self.lengths)


class Lists(NamedTuple):
    """Lists of whole events with the number of their step and a subject they belong to; sorted by subject."""

    events: list[list[CutEvent]]
    places: Int64s
    numbers: Int64s
    owners: Int64s

    def of(self, number: int, start: int, stop: int) -> tuple[list[list[CutEvent]], Int64s]:
        """Return the lists of a step of the subjects from `start` up to `stop`, and their subjects, numbered anew."""
        low, high = np.searchsorted(self.owners, [start, stop]).tolist()
        mine = low + np.flatnonzero(self.numbers[low:high] == number)
        return [self.events[place] for place in self.places[mine].tolist()], self.owners[mine] - start


class Ownership:
    """Partials of sets as those of subjects. Rows of a set that belongs to several stand for each of them."""

    def __init__(self, partials: Partials, subjects: Subjects) -> None:
        self.partials = partials
        self._count = subjects.count
        words, owners = subjects.set_keys, subjects.set_owner
        if subjects.users is not None:
            words, owners = _with_users(subjects, subjects.users)
        order = np.argsort(words[:, 0], kind="stable")
        self._first, self._second = words[order, 0], words[order, 1]
        self._owners = owners[order]
        self._runs: dict[Kept, Runs] = {}

    def runs(self, kept: Kept, start: int, stop: int) -> Runs:
        """Return where the rows of the subjects from `start` up to `stop` are, which are numbered anew."""
        known = self._runs.get(kept)
        every = start == 0 and stop == self._count
        if known is None:
            known = self._runs[kept] = self._found(getattr(self.partials, kept), by_subject=not every)
        return known if every else known.between(start, stop)

    @cached_property
    def lists(self) -> Lists:
        """The whole events of subjects."""
        keys = list(self.partials.events)
        words = np.frombuffer(b"".join([key for key, _ in keys]), dtype=np.uint64).reshape(-1, 2)
        places, owners = self._of(words)
        order = np.argsort(owners, kind="stable")
        places, owners = places[order], owners[order]
        numbers = np.array([number for _, number in keys], dtype=np.int64)
        return Lists(list(self.partials.events.values()), places, numbers[places], owners)

    def _found(self, rows: Rows, *, by_subject: bool) -> Runs:
        first, second = rows.sets[:, 0], rows.sets[:, 1]
        changed = np.ones(len(rows.sets), dtype=np.bool_)
        changed[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        starts = np.flatnonzero(changed)
        lengths = np.diff(starts, append=len(rows.sets))
        places, owners = self._of(rows.sets[starts])
        if by_subject:
            order = np.argsort(owners, kind="stable")
            places, owners = places[order], owners[order]
        return Runs(starts[places], lengths[places], owners)

    def _of(self, words: Words) -> tuple[Int64s, Int64s]:
        """Return pairs, sorted by place: the place of a set in `words`, and a subject it belongs to."""
        # The first half of a keyed hash is as good as unique; where it is not, the second one tells.
        low = np.searchsorted(self._first, words[:, 0], side="left")
        high = np.searchsorted(self._first, words[:, 0], side="right")
        places = np.repeat(np.arange(len(words)), high - low)
        known = ragged(low, high - low)
        same = self._second[known] == words[places, 1]
        return places[same], self._owners[known[same]]


def ragged(starts: Int64s, lengths: Int64s) -> Int64s:
    """Return the numbers from each start on, as many as its length says, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Int64s = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


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
