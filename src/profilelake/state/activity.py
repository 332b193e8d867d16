"""How often each identifier set was seen, and when last.

A repeat is the commonest of events, so it must not cost a write of its own. The recent runs hold every
sighting already; `settle` folds them into one record per set now and then, and whoever reads adds the
runs that are not folded in yet.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.ops.failpoints import reach
from profilelake.state import recent
from profilelake.state._run_file import column_words
from profilelake.state.recent import Run, RunReader, Sighted
from profilelake.state.records import ActivityRecord, encode
from profilelake.state.store import Db, State, Tx

PART_ROWS: Final = 250_000
"""About as many sightings are in memory while activity is settled."""
CHUNK: Final = 5_000
"""Sets of one transaction: the micro-batches wait that long."""
_META: Final = "activity"
_COLUMNS: Final = ("key", "position", "message_id", "source_id")
_NO_SET: Final = bytes(16)
"""Key of events that belong to no set; it comes before all others."""


class Settled(msgspec.Struct, frozen=True):
    """How far the activity is settled: through a micro-batch, and beyond it for some of the keys.

    Sets up to `done` are settled through `next_through` already; `done` is empty between two settlings.
    """

    through: int = 0
    next_through: int = 0
    done: bytes = b""

    def of(self, key: bytes) -> int:
        """Return through which micro-batch this set's record counts."""
        return self.next_through if key <= self.done else self.through


def load(tx: Tx, workspace: str) -> Settled:
    """Return how far the activity is settled."""
    value = tx.meta(workspace, _META)
    return Settled() if value is None else msgspec.msgpack.decode(value, type=Settled)


def store(tx: Tx, workspace: str, settled: Settled) -> None:
    """Say how far the activity is settled; for a state that is made anew."""
    tx.put_meta(workspace, _META, settled)


def read(tx: Tx, workspace: str, reader: RunReader, keys: Sequence[bytes]) -> dict[bytes, ActivityRecord]:
    """Return the activity of these sets as of the transaction.

    Raises:
        FileNotFoundError: a run was merged away since the transaction began; begin another one.
    """
    settled = load(tx, workspace)
    found = tx.activity(workspace, keys)
    later = [run for run in recent.load(tx, workspace) if run.sequence_max > settled.through]
    for run, key, seen in reader.sightings(later, keys):
        if run.sequence_max > settled.of(key):
            found[key] = _later(found.get(key), seen)
    return found


def pending(settled: Settled, runs: Iterable[Run]) -> int:
    """Return how many rows of these runs are not settled."""
    return sum(run.rows for run in runs if run.sequence_max > settled.through)


def settle(state: State, workspace: str, directory: Path) -> int:
    """Fold the runs that are listed now into the records; return the micro-batch that covers.

    Only the process that merges runs may call it. A crash leaves a part of the keys done, and the next
    call goes on from there.
    """
    with state.read(workspace) as tx:
        settled = load(tx, workspace)
        runs = [run for run in recent.load(tx, workspace) if run.sequence_max > settled.through]
    if settled.done:
        runs = [run for run in runs if run.sequence_max <= settled.next_through]
    if not runs:
        return settled.through
    # The last in the list need not reach furthest: runs that were counted are merged apart from others.
    through = max(run.sequence_max for run in runs)
    for part in recent.parts(directory, runs, _COLUMNS, PART_ROWS):
        keys, counts, last = _by_key(part)
        for start in range(bisect_right(keys, settled.done or _NO_SET), len(keys), CHUNK):
            chunk = slice(start, start + CHUNK)
            settled = Settled(settled.through, through, keys[chunk][-1])
            _fold(state, workspace, keys[chunk], counts[chunk], part.take(last[chunk]), settled)
            reach("activity.folded")
    with state.write() as tx:
        store(tx, workspace, Settled(through))
    reach("activity.settled")
    return through


def _fold(
    state: State, workspace: str, keys: list[bytes], counts: list[int], last: pa.Table, settled: Settled
) -> None:
    seen = zip(
        keys,
        counts,
        *(last.column(name).to_pylist() for name in ("position", "message_id", "source_id")),
        strict=True,
    )
    with state.write() as tx:
        known = tx.activity(workspace, keys)
        tx.put_many(
            workspace,
            Db.ACTIVITY,
            [(key, encode(_later(known.get(key), Sighted(*sighted)))) for key, *sighted in seen],
        )
        store(tx, workspace, settled)


def _later(known: ActivityRecord | None, seen: Sighted) -> ActivityRecord:
    """Return a set's activity after more sightings, the last of which is given."""
    if known is None:
        return ActivityRecord(*seen)
    if seen.position > known.position:
        return ActivityRecord(known.count + seen.times, seen.position, seen.message_id, seen.source_id)
    return ActivityRecord(known.count + seen.times, known.position, known.message_id, known.source_id)


def _by_key(rows: pa.Table) -> tuple[list[bytes], list[int], list[int]]:
    """Return the distinct keys of rows sorted by `(key, position)`, how many rows each has, and the last."""
    words = column_words(rows.column("key"))
    heads = np.flatnonzero(np.append(True, (words[1:] != words[:-1]).any(axis=1)))
    tails = np.append(heads[1:], len(words))
    keys: list[bytes] = rows.column("key").take(pa.array(heads)).to_pylist()
    return keys, (tails - heads).tolist(), (tails - 1).tolist()
