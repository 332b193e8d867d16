"""Keep the table of shapes: look at every event once, when it is published, and show what was found.

What the table says and how far it has come are one commit, and on a start the counting goes on from there:
so every event counts once, whatever was cut short. New shapes are shown with the publication that brings
them, counts of the known ones when `publish_age` has passed.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

import duckdb
import pyarrow as pa

from profilelake.errors import Unavailable
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.landing.tables import EVENTS
from profilelake.ops.failpoints import reach
from profilelake.shapes.observed import COLUMNS, ShapeLimits, Shapes
from profilelake.shapes.tables import SCHEMA

READ_ROWS: Final = 100_000
"""Events of the lake that are in memory together."""
SORT_MEMORY: Final = "256MB"
"""Memory that bringing all events of a lake into their order may take; what is beyond is sorted on disk."""
SHARE: Final = 0.05
"""Part of the time that may go into showing new shapes: where that takes long, the next ones wait."""


class Observing:
    """What is known of the shapes of one workspace's events. One thread of one process uses it."""

    def __init__(self, seed: int = 0, limits: ShapeLimits | None = None) -> None:
        """Know nothing yet; `seed` is a secret, so that nobody can make two paths look like one."""
        self._seed = seed
        self._limits = limits
        self._shapes: Shapes | None = None
        self._through = -1
        self._at = 0
        self._seconds = 0.0
        self._told = 0

    @classmethod
    def of(cls, key: bytes) -> Self:
        """Know nothing yet, with a seed made from a secret key."""
        return cls(seed_of(key))

    @property
    def listed(self) -> int:
        """How many shapes are listed."""
        return 0 if self._shapes is None else self._shapes.count

    def unlisted(self) -> int:
        """Return in how many more events than at the last call something was beyond a limit."""
        events = self._told if self._shapes is None else self._shapes.unlisted_events
        more, self._told = events - self._told, events
        return max(0, more)

    def waits(self, progress: Progress) -> bool:
        """Tell whether there is something to look at, or to show."""
        return self._shapes is None or self._through < progress.sequence or any(self._shapes.changed())

    def look(
        self,
        lake: Lake,
        workspace: str,
        progress: Progress,
        read: Callable[[int, int], Iterable[pa.Table]],
    ) -> None:
        """Count the shapes of all events up to `progress`.

        `read` yields the events of the micro-batches behind one up to another, part by part.
        """
        try:
            shapes = self._shapes
            if shapes is None:
                try:
                    shapes = self._shapes = self._start(lake, workspace, progress)
                except duckdb.Error as error:
                    if fault := sql.storage_fault(error):
                        raise Unavailable(
                            f"reading {SCHEMA.name} of workspace {workspace}: {fault}"
                        ) from error
                    raise Unavailable(
                        f"reading {SCHEMA.name} of workspace {workspace}: {error}; run: profilelake rebuild"
                    ) from error
            if self._through < progress.sequence:
                for part in read(self._through, progress.sequence):
                    shapes.observe(part)
                self._through = progress.sequence
        except BaseException:
            self._shapes = None  # begin again from the table: a part may be counted already
            raise

    def show(
        self,
        lake: Lake,
        workspace: str,
        progress: Progress,
        now: int,
        age_seconds: float,
        *,
        whole: bool,
    ) -> None:
        """Bring the table up to what was counted, where that is due."""
        shapes, table = self._shapes, lake.current_table(workspace, SCHEMA)
        if shapes is None or self._through != progress.sequence:
            return
        if held_by(table.progress(), progress) >= progress.sequence:
            return
        new, changed = shapes.changed()
        wait = min(self._seconds / SHARE, age_seconds) if new else age_seconds
        if not (new or changed) if whole else now - self._at < wait * 1_000_000:
            return
        began = time.monotonic()
        try:
            table.append_changes(shapes.changes(progress.sequence), progress, always=True)
        except BaseException:
            self._shapes = None  # whether the table has it is seen when it is read again
            raise
        shapes.mark_shown()
        self._at, self._seconds = now, time.monotonic() - began
        reach("publish.schema")

    def _start(self, lake: Lake, workspace: str, progress: Progress) -> Shapes:
        table = lake.current_table(workspace, SCHEMA)
        held = held_by(table.progress(), progress)
        shapes = Shapes(self._seed, self._limits)
        self._through = held
        if held >= 0:
            shapes.load(table.scan())
            shapes.mark_shown()
            self._told = shapes.unlisted_events
        else:
            # Where the lake is older than this table, all of its events are new here. It may be behind
            # the state or, where micro-batches came meanwhile, before this progress: it says where it is.
            events = lake.load(workspace, EVENTS.name)
            self._through = held_by(events.progress, progress)
            with (
                tempfile.TemporaryDirectory(prefix="profilelake-shapes-") as spill,
                sql.connect(SORT_MEMORY, spill, lake.storage) as connection,
            ):
                rows = sql.select_files(events.table.schema(), events.files)
                connection.execute(f"CREATE VIEW {sql.identifier(EVENTS.name)} AS {rows}")
                count_all(shapes, connection)
        return shapes


def held_by(table: Progress | None, wanted: Progress) -> int:
    """Return the sequence a table has reached in the wanted epoch, -1 where it is in none or another one."""
    return table.sequence if table is not None and table.epoch == wanted.epoch else -1


def seed_of(key: bytes) -> int:
    """Return the seed that goes with a workspace's secret key."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"shapes").digest())


def count_all(shapes: Shapes, connection: duckdb.DuckDBPyConnection) -> None:
    """Count the shapes of every event of the attached tables, in the order of positions.

    Examples are those of the first event, and so are names where there are too many; files have no order that
    every engine leaves them in.
    """
    columns = ", ".join(COLUMNS)
    ordered = connection.table(EVENTS.name).order("position").select(columns)
    for part in ordered.to_arrow_reader(READ_ROWS):
        shapes.observe(pa.Table.from_batches([part]))


def whole_schema(
    connection: duckdb.DuckDBPyConnection, key: bytes, limits: ShapeLimits | None = None
) -> pa.Table:
    """Return the table of shapes that the events in the attached tables say, by their order in it."""
    shapes = Shapes(seed_of(key), limits)
    count_all(shapes, connection)
    return shapes.rows().sort_by("schema_id")
