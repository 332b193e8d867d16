"""Partials in the online state: added to what a set has, and read for the sets of profiles.

A set has one record per family, packed rows one after the other, and one per day for single events. Records of
many sets are read, joined and written back as columns. What nobody asks for any more goes when its record is
written anyway: rows of steps that are not live, and days that lie behind every window.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from profilelake.kernels.siphash import HASH_BYTES, Words
from profilelake.semantics.conditions.tree import Between
from profilelake.state.computed import ENTRIES
from profilelake.state.store import Db, Tx
from profilelake.traits.merging import joined, starts_of
from profilelake.traits.partials import LAYOUTS, Numbered, Partials, Rows
from profilelake.traits.steps import DAY_MICROS, FOREVER, Family
from profilelake.traits.stored_events import add_events, read_events

_FAMILIES: Final = {
    Family.COUNT: ("counts", Db.STEP_COUNT),
    Family.NUMBER: ("numbers", Db.STEP_NUMBER),
    Family.VALUE: ("values", Db.STEP_VALUE_ROWS),
}
_FIRST_DAY: Final = -(1 << 31)


def add(tx: Tx, workspace: str, partials: Partials, steps: Sequence[Numbered]) -> None:
    """Add partials to those that sets have; `steps` are all that are live, others are dropped.

    A day goes when it is behind every window at the time of the newest event that is added: no pipeline time
    lies before that.
    """
    live = _Live(steps)
    oldest = live.oldest(partials)
    stale: set[bytes] = set()
    for name, db in _FAMILIES.values():
        added: Rows = getattr(partials, name)
        if len(added.rows):
            stale |= _add_rows(tx, workspace, db, added, live, oldest)
    if stale or len(partials.entries.rows):
        _add_entries(tx, workspace, partials.entries, stale, live, oldest)
    digests = _digests(partials.values) | _digests(partials.entries)
    tx.put_new(workspace, Db.STEP_VALUE, [(key, partials.texts[key].encode()) for key in digests])
    add_events(tx, workspace, partials.events, steps)


def read(tx: Tx, workspace: str, sets: Iterable[bytes], at: int, steps: Sequence[Numbered]) -> Partials:
    """Return what sets have of steps, as far as it counts at a time, or later with no new event.

    Of steps with a window these are the days from the one on in which it begins, and single events of the days in
    which it begins and ends.
    """
    live = _Live(steps)
    keys = sorted(sets)
    parts = {name: Rows.none(LAYOUTS[family]) for family, (name, _) in _FAMILIES.items()}
    for family in {step.family for _, step in steps} & _FAMILIES.keys():
        name, db = _FAMILIES[family]
        parts[name] = live.counting(_stored(tx, workspace, db, LAYOUTS[family], keys), at)
    edges = {key for rows in parts.values() for key in live.edge_days(rows, at)}
    entries = live.only(_stored(tx, workspace, Db.STEP_ENTRY, ENTRIES, sorted(edges)))
    digests = _digests(parts["values"]) | _digests(entries)
    texts = tx.get_many(workspace, Db.STEP_VALUE, sorted(digests))
    return Partials(
        **parts,
        entries=entries,
        events=read_events(tx, workspace, keys, at, steps),
        texts={key: text.decode() for key, text in texts.items()},
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

    def only(self, rows: Rows) -> Rows:
        """Return the rows of these steps."""
        return rows.chosen(np.isin(rows.rows["step"], self._numbers))

    def oldest(self, partials: Partials) -> int:
        """Return the first day that any window may still ask for when these events have happened."""
        buckets = [getattr(partials, name).rows["bucket"] for name, _ in _FAMILIES.values()]
        newest = max(int(days.max(initial=_FIRST_DAY)) for days in buckets)
        far = max((far for far, _ in self._windows.values()), default=0)
        return (newest * DAY_MICROS - far) // DAY_MICROS

    def counting(self, rows: Rows, at: int) -> Rows:
        """Return the rows of these steps from the days on in which their windows begin."""
        rows = self.only(rows)
        first = np.full(len(self._numbers), _FIRST_DAY, dtype=np.int64)
        for place, number in enumerate(self._numbers.tolist()):
            if number in self._windows:
                first[place] = (at - self._windows[number][0]) // DAY_MICROS
        places = np.searchsorted(self._numbers, rows.rows["step"])
        return rows.chosen(rows.rows["bucket"] >= first[places])

    def edge_days(self, rows: Rows, at: int) -> Iterator[bytes]:
        """Yield the keys of the days, among those of rows, in which a window of theirs begins or ends."""
        for number, (far, near) in self._windows.items():
            edges = [(at - far) // DAY_MICROS, (at - near) // DAY_MICROS]
            mine = (rows.rows["step"] == number) & np.isin(rows.rows["bucket"], edges)
            yield from _keys(rows.sets[mine], rows.rows["bucket"][mine])


def _add_rows(tx: Tx, workspace: str, db: Db, added: Rows, live: _Live, oldest: int) -> set[bytes]:
    """Add rows of one family; return the keys of days of which rows were dropped."""
    keys = _keys(added.sets[starts_of(added.sets[:, 0], added.sets[:, 1])])
    rows = joined([_stored(tx, workspace, db, added.rows.dtype, keys), added])
    days = rows.rows["bucket"]
    aged = (days != FOREVER) & (days < oldest)
    kept = live.only(rows.chosen(~aged))
    _put(tx, workspace, db, keys, kept.rows, *kept.sets.T)
    if len(kept.rows) == len(rows.rows):
        return set()
    # Rows of steps that are no more may have been the last that told of a day.
    return set(_keys(rows.sets[days != FOREVER], days[days != FOREVER]))


def _add_entries(tx: Tx, workspace: str, added: Rows, stale: set[bytes], live: _Live, oldest: int) -> None:
    """Add single events to those of their days, and drop from `stale` days what nobody asks for."""
    days = added.rows["at"] // DAY_MICROS
    starts = starts_of(*added.sets.T, days)
    keys = sorted(stale.union(_keys(added.sets[starts], days[starts])))
    rows = live.only(joined([_stored(tx, workspace, Db.STEP_ENTRY, ENTRIES, keys), added]))
    days = rows.rows["at"] // DAY_MICROS
    rows, days = rows.chosen(days >= oldest), days[days >= oldest]
    _put(tx, workspace, Db.STEP_ENTRY, keys, rows.rows, *rows.sets.T, days)


def _stored(tx: Tx, workspace: str, db: Db, layout: np.dtype[np.void], keys: Sequence[bytes]) -> Rows:
    """Return the rows under sorted keys, which begin with a set."""
    found = tx.get_many(workspace, db, keys) if keys else {}
    if not found:
        return Rows.none(layout)
    sizes = np.fromiter(map(len, found.values()), dtype=np.int64, count=len(found)) // layout.itemsize
    sets = np.frombuffer(b"".join([key[:HASH_BYTES] for key in found]), dtype=np.uint64).reshape(-1, 2)
    return Rows(np.repeat(sets, sizes, axis=0), np.frombuffer(b"".join(found.values()), dtype=layout))


def _put(
    tx: Tx,
    workspace: str,
    db: Db,
    keys: Sequence[bytes],
    rows: npt.NDArray[np.void],
    *groups: npt.NDArray[np.generic],
) -> None:
    """Write sorted rows under the key of their group; a key of which no row is left goes."""
    starts = starts_of(*groups)
    written = _keys(
        np.column_stack([group[starts] for group in groups[:2]]), *(g[starts] for g in groups[2:])
    )
    data = rows.tobytes()
    bounds = (np.append(starts, len(rows)) * rows.itemsize).tolist()
    tx.put_many(
        workspace,
        db,
        zip(written, (data[a:b] for a, b in pairwise(bounds)), strict=True),
    )
    if len(written) < len(keys):
        for key in set(keys).difference(written):
            tx.delete(workspace, db, key)


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


def _digests(rows: Rows) -> set[bytes]:
    """Return the digests of the values that rows name."""
    words = np.column_stack([rows.rows["high"], rows.rows["low"]])
    words = words[(words != 0).any(axis=1)].astype(">u8")
    data = words.tobytes()
    return {data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)}
