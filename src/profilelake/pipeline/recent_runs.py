"""The recent runs as publications need them: their rows, stretches of them, and their upkeep."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.lake.progress import Progress
from profilelake.ops.failpoints import reach
from profilelake.pipeline.observing import held_by
from profilelake.pipeline.progress import load_applied, load_published
from profilelake.state import activity, recent
from profilelake.state.recent import Run
from profilelake.state.store import State

PART_ROWS: Final = 1_000_000
"""About as many events are in memory while they are published, however many have piled up."""


def run_rows(events: pa.Table) -> pa.Table:
    """Return accepted events as the rows of a recent run: sorted, group events under both their sets."""
    nobody = pa.scalar(bytes(16), pa.binary(16))
    users, accounts = events.column("set_id"), events.column("account_set_id")
    key = pc.coalesce(users, accounts, nobody)
    both = pc.and_(pc.is_valid(users), pc.is_valid(accounts))
    own = _keyed(events, key, copy=False)
    second = events.filter(both)
    if second.num_rows:
        own = pa.concat_tables([own, _keyed(second, second.column("account_set_id"), copy=True)])
    return own.sort_by([("key", "ascending"), ("position", "ascending")])


def _keyed(events: pa.Table, key: pa.ChunkedArray, *, copy: bool) -> pa.Table:
    mark = pa.array(np.full(events.num_rows, copy))
    return events.add_column(0, "key", key).add_column(1, "copy", mark)


def between(runs: Iterable[Run], after: int, through: int) -> list[Run]:
    """Return the runs of the micro-batches behind one up to another."""
    return [run for run in runs if run.sequence_min > after and run.sequence_max <= through]


def in_parts(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Divide runs, in their order, into parts of up to `PART_ROWS`; a larger run is a part of its own."""
    part: list[Run] = []
    for run in runs:
        if part and sum(r.rows for r in part) + run.rows > PART_ROWS:
            yield part
            part = []
        part.append(run)
    if part:
        yield part


def tend(state: State, workspace: str, directory: Path, shapes: Progress | None, now_us: int) -> None:
    """Merge small runs that the lake has, drop those beyond the look-back, sweep files.

    `shapes` is how far the table of shapes has come. Only one thread of one process may call it.
    """
    oldest = now_us - recent.LOOK_BACK_SECONDS * 1_000_000
    with state.read(workspace) as tx:
        published = load_published(tx, workspace)
        runs = recent.load(tx, workspace)
        counted = activity.load(tx, workspace)
        applied = load_applied(tx, workspace, "").as_progress()
    shown = held_by(shapes, applied)
    settled = [run for run in runs if run.sequence_max <= min(published.sequence, counted.through)]
    # A run must be counted as a whole or not at all; its shapes too.
    later = [run for run in runs if counted.through < run.sequence_max <= published.sequence]
    due: list[Run] = []
    for part in (settled, [] if counted.done else later):
        due = due or recent.merge_due([run for run in part if run.sequence_max <= shown])
        due = due or recent.merge_due([run for run in part if run.sequence_max > shown])
    if due:
        merged = recent.merge(directory, due)
        reach("runs.merged")
        names = {run.name for run in due}
        with state.write() as tx:
            now = recent.load(tx, workspace)
            kept = [run for run in now if run.name not in names]
            place = next(number for number, run in enumerate(now) if run.name in names)
            recent.store(tx, workspace, [*kept[:place], merged, *kept[place:]])
        reach("runs.listed")
    # A run that counts or shapes still need stays, however old.
    counted_in = min(shown, published.activity_through)
    expired = {run.name for run in settled if run.received_max < oldest and run.sequence_max <= counted_in}
    if expired:
        with state.write() as tx:
            now = recent.load(tx, workspace)
            recent.store(tx, workspace, [run for run in now if run.name not in expired])
    if due or expired:
        with state.read(workspace) as tx:
            recent.sweep(directory, recent.load(tx, workspace))
        reach("runs.swept")
