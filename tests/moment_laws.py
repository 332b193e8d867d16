"""Tables of one moment, held by lakes of every kind of catalog."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from profilelake.lake.catalog import Lake
from profilelake.lake.moment import moment
from profilelake.lake.progress import Progress
from profilelake.lake.tables import Column, TableDef

FIRST = TableDef(name="firsts", doc="committed to first", columns=(Column("n", pa.int64(), "number"),))
SECOND = TableDef(name="seconds", doc="committed to after that", columns=(Column("n", pa.int64(), "number"),))
BOTH = (FIRST, SECOND)
SECONDS_MAX = 60


def commit(lake: Lake, workspace: str, number: int) -> None:
    """Bring both tables to a sequence, one after the other."""
    for definition in BOTH:
        rows = pa.table({"n": [number]}, schema=definition.schema())
        lake.table(workspace, definition).append(rows, Progress("0", number), always=True)


def stand(lake: Lake, workspace: str) -> tuple[int, int]:
    """Return the sequences of both tables at one moment."""
    now = moment(lake, workspace, BOTH)
    first, second = (now.progress(definition.name) for definition in BOTH)
    assert first is not None
    assert second is not None
    assert set(now.snapshots()) == {"firsts", "seconds"}
    return first.sequence, second.sequence


@contextmanager
def committing(lake: Lake, workspace: str) -> Iterator[None]:
    """Commit all the time."""
    ended = threading.Event()

    def go_on() -> None:
        number = 1
        while not ended.is_set():
            number += 1
            commit(lake, workspace, number)
            ended.wait(0.1)

    commit(lake, workspace, 1)
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS_MAX)


def tables_are_of_one_moment(reading: Lake, writing: Lake, workspace: str, looks: int) -> None:
    """Look while another one commits: the second table is where the first is, or one behind, never before it."""
    with committing(writing, workspace):
        for _ in range(looks):
            first, second = stand(reading, workspace)
            assert first - second in (0, 1)
