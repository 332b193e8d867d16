"""The newest message ids in memory, and what arriving events are, given all that is known of their ids.

Rows are those of `kernels.sorted_runs`. The table's slot follows from the top bits of the first hash
word, so that sorted keys walk through it from one end to the other.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled, read_only
from profilelake.kernels.sorted_runs import ROW_WORDS, Bytes, Longs, Words

Slots: TypeAlias = npt.NDArray[np.int32]
Verdicts: TypeAlias = npt.NDArray[np.int8]

ROWS_AT_START: Final = 1 << 10
ROWS_MAX: Final = 1 << 30

# The verdicts of `judge`; `landing.dedup.Verdict` names them.
_ACCEPTED: Final = 0
_DUPLICATE: Final = 1
_EARLIER_COPY: Final = 2
_CONFLICT: Final = 3


class SeenTable:
    """Rows found by their hash. Several rows may have one hash."""

    __slots__ = ("_bits", "_rows", "_slots", "size")

    def __init__(self) -> None:
        self.size = 0
        self._rows = np.empty((0, ROW_WORDS), dtype=np.uint64)
        self._bits = 1
        self._slots = np.full(2, -1, dtype=np.int32)

    def rows(self) -> Words:
        """Return the rows in the order they came in; valid until the next one does."""
        return self._rows[: self.size]

    def bytes(self) -> int:
        """Return how much memory the table takes."""
        return self._rows.nbytes + self._slots.nbytes

    def add(self, rows: Words) -> None:
        """Take rows in."""
        after = self.size + len(rows)
        if after > len(self._rows):
            room = ROWS_AT_START
            while room < after:
                room *= 2
            grown = np.empty((room, ROW_WORDS), dtype=np.uint64)
            grown[: self.size] = self.rows()
            self._rows, self._bits = grown, (2 * room - 1).bit_length()
            self._slots = np.full(1 << self._bits, -1, dtype=np.int32)
            _enter(grown, 0, self.size, self._slots, self._bits)
        self._rows[self.size : after] = rows
        _enter(self._rows, self.size, after, self._slots, self._bits)
        self.size = after

    def find(self, keys: Words, heads: Longs, found: Words, links: Longs, newest: Longs, held: int) -> int:
        """Do what `sorted_runs.find` does, with the rows of this table."""
        return _find(self._rows, self._slots, self._bits, keys, heads, found, links, newest, held)


@compiled
def _enter(rows: Words, start: int, stop: int, slots: Slots, bits: int) -> None:
    shift, mask = np.uint64(64 - bits), slots.size - 1
    for row in range(start, stop):
        slot = np.int64(rows[row, 0] >> shift)
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = row


@compiled
def _find(
    rows: Words,
    slots: Slots,
    bits: int,
    keys: Words,
    heads: Longs,
    found: Words,
    links: Longs,
    newest: Longs,
    held: int,
) -> int:
    shift, mask = np.uint64(64 - bits), slots.size - 1
    for number in range(heads.size):
        key = heads[number]
        first, second = keys[key, 0], keys[key, 1]
        slot = np.int64(first >> shift)
        while slots[slot] >= 0:
            row = slots[slot]
            if rows[row, 0] == first and rows[row, 1] == second:
                if held < links.size:
                    found[held, 0], found[held, 1], found[held, 2] = rows[row, 2], rows[row, 3], rows[row, 4]
                    links[held] = newest[key]
                    newest[key] = held
                held += 1
            slot = (slot + 1) & mask
    return held


@compiled
def heads_of(keys: Words, heads: Longs) -> int:
    """Write to `heads` where each distinct hash of sorted keys begins; return how many there are."""
    count = 0
    for row in range(len(keys)):
        if row == 0 or keys[row, 0] != keys[row - 1, 0] or keys[row, 1] != keys[row - 1, 1]:
            heads[count] = row
            count += 1
    return count


@compiled
def judge(
    keys: Words,
    order: Longs,
    heads: Longs,
    found: Words,
    links: Longs,
    newest: Longs,
    met: Bytes,
    ranks: Words,
    verdicts: Verdicts,
    fresh: Words,
) -> int:
    """Say what each arrival is; write the rows to be remembered to `fresh`, return how many.

    `keys` are the arrivals sorted by hash, `order[row]` the place of each in order of arrival, and
    the rows known of a hash are listed as `sorted_runs.find` leaves them. Positions compare by time,
    then `ranks[log number]`, then index. Arrivals are taken one after the other, each as if those
    before it were known already, so that it does not matter how they come in batches.

    Among the known rows of one hash the greatest position is the one that landed, as only smaller
    ones are remembered after it. An arrival that is known at its own position gets the answer it got
    then; `met` (zeros) sees to it that it gets that answer once.
    """
    low = np.uint64(0xFFFFFFFF)
    count = 0
    for number in range(heads.size):
        start = heads[number]
        stop = heads[number + 1] if number + 1 < heads.size else len(keys)
        known = False
        digest = np.uint64(0)
        least_time = least_tie = most_time = most_tie = np.uint64(0)
        at = newest[start]
        while at >= 0:
            time = found[at, 0]
            tie = (ranks[np.int64(found[at, 1] >> np.uint64(32))] << np.uint64(32)) | (found[at, 1] & low)
            if not known:
                known, digest = True, found[at, 2]
                least_time, least_tie, most_time, most_tie = time, tie, time, tie
            if time < least_time or (time == least_time and tie < least_tie):
                least_time, least_tie = time, tie
            if time > most_time or (time == most_time and tie > most_tie):
                most_time, most_tie = time, tie
            at = links[at]
        for row in range(start, stop):
            time, place = keys[row, 2], keys[row, 3]
            tie = (ranks[np.int64(place >> np.uint64(32))] << np.uint64(32)) | (place & low)
            own = newest[start]
            while own >= 0 and (found[own, 0] != time or found[own, 1] != place or met[own] != 0):
                own = links[own]
            if own >= 0:
                met[own] = 1
                landed = time == most_time and tie == most_tie
                verdicts[order[row]] = _ACCEPTED if landed else _EARLIER_COPY
                continue
            if known and keys[row, 4] != digest:
                verdicts[order[row]] = _CONFLICT
                continue
            if known and (time > least_time or (time == least_time and tie >= least_tie)):
                verdicts[order[row]] = _DUPLICATE
                continue
            verdicts[order[row]] = _EARLIER_COPY if known else _ACCEPTED
            known, digest, least_time, least_tie = True, keys[row, 4], time, tie
            for word in range(ROW_WORDS):
                fresh[count, word] = keys[row, word]
            count += 1
    return count


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no micro-batch waits for it."""
    rows, one = np.zeros((1, ROW_WORDS), dtype=np.uint64), np.zeros(1, dtype=np.int64)
    table = SeenTable()
    table.add(rows)
    found, newest = np.zeros((1, 3), dtype=np.uint64), np.full(1, -1, dtype=np.int64)
    heads = one[: heads_of(rows, one)]
    table.find(rows, heads, found, one.copy(), newest, 0)
    judge(
        rows,
        one,
        heads,
        found,
        np.full(1, -1, dtype=np.int64),
        newest,
        np.zeros(1, dtype=np.uint8),
        read_only(np.zeros(1), np.uint64),
        np.zeros(1, dtype=np.int8),
        rows.copy(),
    )
