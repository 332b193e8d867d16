"""Partials in the online state: added to what a set has, and read for the sets of profiles.

A set has one record of rows, and per day a few of single events, so that one that has had many today does not write
them all again with each. Records of many sets are read, joined and written back as columns. What nobody asks for any more goes when its record is written anyway: rows of steps that are not
live, and days that lie behind every window.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from profilelake.kernels.json_paths import Longs
from profilelake.kernels.siphash import HASH_BYTES, Words
from profilelake.semantics.conditions.tree import Between
from profilelake.state.computed import COUNTS, ENTRIES, NUMBERS, VALUES
from profilelake.state.store import Db, Tx
from profilelake.traits.found import Bools
from profilelake.traits.merging import joined, ranked, sizes_of, starts_of
from profilelake.traits.partials import Numbered, Partials, Rows
from profilelake.traits.steps import DAY_MICROS, FOREVER, Family
from profilelake.traits.stored_events import add_events, read_events
from profilelake.traits.stored_rows import Placed, packed, unpacked

PARTS: Final = ("counts", "numbers", "values")
"""What of `Partials` lies in the one record of a set."""
_LAYOUTS: Final = {Db.STEP_ROWS: (COUNTS, NUMBERS, VALUES), Db.STEP_ENTRY: (ENTRIES,)}
_FIRST_DAY: Final = -(1 << 31)
LEVELS: Final = (4 << 10, 64 << 10, 1 << 20)
"""Bytes of the records of a day's single events, all but the last, which holds the rest: what outgrows one goes on to
the next. So an event is written some eight times in each, however many its day has."""


def add(tx: Tx, workspace: str, partials: Partials, steps: Sequence[Numbered]) -> None:
    """Add partials to those that sets have; `steps` are all that are live, others are dropped.

    A day goes when it is behind every window at the time of the newest event that is added: no pipeline time
    lies before that.
    """
    live = _Live(steps)
    oldest = live.oldest(partials)
    stale = _add_rows(tx, workspace, partials, live, oldest)
    if stale or len(partials.entries.rows):
        _add_entries(tx, workspace, partials, stale, live, oldest)
    add_events(tx, workspace, partials.events, steps)


def read(
    tx: Tx,
    workspace: str,
    sets: Iterable[bytes],
    at: int,
    steps: Sequence[Numbered],
    *,
    newest: bool = False,
) -> Partials:
    """Return what sets have of steps, as far as it counts at a time, or later with no new event.

    Of steps with a window these are the days from the one on in which it begins, and single events of the days in
    which it begins and ends. `newest` promises that nothing happened after that time: then a window that ends
    now asks for no single events of the present day, which are most that are kept of who is busy.
    """
    live = _Live(steps)
    keys = sorted(sets)
    rows, texts = _read(tx, workspace, Db.STEP_ROWS, keys)
    parts = dict(zip(PARTS, (live.counting(part, at) for part in rows), strict=True))
    edges = {key for part in parts.values() for key in live.edge_days(part, at, newest=newest)}
    entries, more = _read_days(tx, workspace, sorted(edges))
    return Partials(
        **parts,
        entries=live.only(entries),
        events=read_events(tx, workspace, keys, at, steps),
        texts={key: text.decode() for key, text in (*texts.items(), *more.items())},
        until=at if newest else None,
    )


class _Live:
    """Steps by number, and how far back their windows look."""

    def __init__(self, steps: Sequence[Numbered]) -> None:
        self._numbers = np.array(sorted(number for number, _ in steps), dtype=np.int64)
        self._windows = {
            number: (step.horizon, step.of.window.near if isinstance(step.of.window, Between) else 0)
            for number, step in steps
            if step.horizon is not None and step.family is not Family.EVENTS
        }
        self._end_now = np.array(
            [self._windows.get(number, (0, 1))[1] == 0 for number in self._numbers.tolist()], dtype=np.bool_
        )

    def has(self, rows: Rows) -> Bools:
        """Return which rows are of these steps."""
        return np.isin(rows.rows["step"], self._numbers)

    def only(self, rows: Rows) -> Rows:
        """Return the rows of these steps."""
        return rows.chosen(self.has(rows))

    def oldest(self, partials: Partials) -> int:
        """Return the first day that any window may still ask for when these events have happened."""
        buckets = [getattr(partials, name).rows["bucket"] for name in PARTS]
        newest = max(int(days.max(initial=_FIRST_DAY)) for days in buckets)
        far = max((far for far, _ in self._windows.values()), default=0)
        return (newest * DAY_MICROS - far) // DAY_MICROS

    def counting(self, rows: Rows, at: int) -> Rows:
        """Return the rows of these steps from the days on in which their windows begin."""
        rows = self.only(rows)
        first, _ = self._edges(at)
        return rows.chosen(rows.rows["bucket"] >= first[self._places(rows)])

    def edge_days(self, rows: Rows, at: int, *, newest: bool) -> list[bytes]:
        """Return the keys of the days, among those of rows, in which a window of theirs begins or ends.

        Where nothing is newer, a window that ends now does not cut the present day.
        """
        first, last = self._edges(at)
        if newest:
            last = np.where(self._end_now, _FIRST_DAY, last)
        places, days = self._places(rows), rows.rows["bucket"]
        edge = (days == first[places]) | (days == last[places])
        return _keys(rows.sets[edge], days[edge])

    def _places(self, rows: Rows) -> Longs:
        return np.searchsorted(self._numbers, rows.rows["step"])

    def _edges(self, at: int) -> tuple[Longs, Longs]:
        """Return the days in which the window of each step begins and ends; days that never were of one without."""
        windows = [self._windows.get(number) for number in self._numbers.tolist()]
        first = [_FIRST_DAY if window is None else (at - window[0]) // DAY_MICROS for window in windows]
        last = [_FIRST_DAY if window is None else (at - window[1]) // DAY_MICROS for window in windows]
        return np.array(first, dtype=np.int64), np.array(last, dtype=np.int64)


def _add_rows(tx: Tx, workspace: str, partials: Partials, live: _Live, oldest: int) -> set[bytes]:
    """Add rows of all layouts; return the keys of days of which rows were dropped."""
    added = [getattr(partials, name) for name in PARTS]
    touched, _ = ranked(np.concatenate([part.sets for part in added]))
    keys = _keys(touched)
    before, texts = _read(tx, workspace, Db.STEP_ROWS, keys)
    stale: set[bytes] = set()
    parts: list[Rows] = []
    for old, new in zip(before, added, strict=True):
        rows = joined([old, new])
        days = rows.rows["bucket"]
        kept = live.has(rows) & ((days == FOREVER) | (days >= oldest))
        parts.append(rows.chosen(kept))
        # A row that goes may be the last that tells of the single events of its day.
        gone = ~kept & (days != FOREVER)
        stale.update(_keys(rows.sets[gone], days[gone]))
    sets, places = ranked(np.concatenate([part.sets for part in parts]))
    bounds = np.cumsum([len(part.rows) for part in parts])[:-1]
    placed = [Placed(p, part.rows) for p, part in zip(np.split(places, bounds), parts, strict=True)]
    _write(tx, workspace, keys, _keys(sets), placed, texts, partials.texts)
    return stale


def _add_entries(
    tx: Tx, workspace: str, partials: Partials, stale: set[bytes], live: _Live, oldest: int
) -> None:
    """Add single events to those of their days, and drop from `stale` days what nobody asks for."""
    left, texts = _read_days(tx, workspace, sorted(stale))
    for day in stale:
        for key in _of_levels(day):
            tx.delete(workspace, Db.STEP_ENTRY, key)
    rows = live.only(joined([left, partials.entries]))
    rows = rows.chosen(rows.rows["at"] >= oldest * DAY_MICROS)
    known = dict(texts)

    def spelt(digest: bytes) -> bytes:
        text = known.get(digest)
        return partials.texts[digest].encode() if text is None else text

    for level, most in enumerate((*LEVELS, None)):
        if not len(rows.rows):
            return
        days = rows.rows["at"] // DAY_MICROS
        starts = starts_of(*rows.sets.T, days)
        keys = [_of_level(key, level) for key in _keys(rows.sets[starts], days[starts])]
        (before,), texts = _read(tx, workspace, Db.STEP_ENTRY, keys)
        known.update(texts)
        rows = joined([live.only(before), rows])
        days = rows.rows["at"] // DAY_MICROS
        starts = starts_of(*rows.sets.T, days)
        places = np.repeat(np.arange(len(starts)), sizes_of(starts, len(days)))
        records = packed(len(keys), [Placed(places, rows.rows)], spelt)
        grown = np.array([most is not None and len(record) > most for record in records], dtype=np.bool_)
        written = zip(keys, records, strict=True)
        tx.put_many(
            workspace, Db.STEP_ENTRY, [one for one, on in zip(written, grown.tolist(), strict=True) if not on]
        )
        for place in np.flatnonzero(grown).tolist():
            tx.delete(workspace, Db.STEP_ENTRY, keys[place])
        rows = Rows(rows.sets[grown[places]], rows.rows[grown[places]])


def _read_days(tx: Tx, workspace: str, days: Sequence[bytes]) -> tuple[Rows, Mapping[bytes, bytes]]:
    """Return the single events of days of sets, and the texts of their values."""
    parts = [Rows.none(ENTRIES)]
    texts: dict[bytes, bytes] = {}
    if days:
        for level in range(len(LEVELS) + 1):
            (rows,), more = _read(tx, workspace, Db.STEP_ENTRY, [_of_level(key, level) for key in days])
            parts.append(rows)
            texts.update(more)
    return joined(parts), texts


def _of_levels(day: bytes) -> list[bytes]:
    return [_of_level(day, level) for level in range(len(LEVELS) + 1)]


def _of_level(day: bytes, level: int) -> bytes:
    """Return the key of a record of a set's day; the last one has that of the day itself."""
    return day if level == len(LEVELS) else day + bytes([level])


def _read(tx: Tx, workspace: str, db: Db, keys: Sequence[bytes]) -> tuple[list[Rows], Mapping[bytes, bytes]]:
    """Return the rows, by layout, and the texts of the records that sorted keys have."""
    found = tx.get_many(workspace, db, keys)
    parts, texts = unpacked(_LAYOUTS[db], list(found.values()))
    heads = b"".join([key[:HASH_BYTES] for key in found])
    sets = np.frombuffer(heads, dtype=np.uint64).reshape(-1, 2)
    return [Rows(sets[part.places], part.rows) for part in parts], texts


def _write(
    tx: Tx,
    workspace: str,
    before: Sequence[bytes],
    keys: Sequence[bytes],
    parts: Sequence[Placed],
    kept: Mapping[bytes, bytes],
    new: Mapping[bytes, str],
) -> None:
    """Write the rows of sets; of those that were there before and have no rows any more the record goes."""

    def spelt(digest: bytes) -> bytes:
        known = kept.get(digest)
        return new[digest].encode() if known is None else known

    tx.put_many(workspace, Db.STEP_ROWS, zip(keys, packed(len(keys), parts, spelt), strict=True))
    if len(keys) < len(before):
        for key in set(before).difference(keys):
            tx.delete(workspace, Db.STEP_ROWS, key)


def _keys(sets: Words, days: npt.NDArray[np.generic] | None = None) -> list[bytes]:
    """Return the keys of sets, or of days of sets: days sort as bytes, those before 1970 too."""
    size = HASH_BYTES + 4 * (days is not None)
    parts = np.zeros((len(sets), size), dtype=np.uint8)
    parts[:, :HASH_BYTES] = np.ascontiguousarray(sets).view(np.uint8).reshape(-1, HASH_BYTES)
    if days is not None:
        places = (days.astype(np.int64) - _FIRST_DAY).astype(">u4")
        parts[:, HASH_BYTES:] = places.view(np.uint8).reshape(-1, 4)
    data = parts.tobytes()
    return [data[start : start + size] for start in range(0, len(data), size)]
