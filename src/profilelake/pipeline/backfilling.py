"""Computes from the lake what new definitions need of old events, beside everything else.

A thread of the lake process. It waits until the table `events` has every event from before a definition,
divides them by identifier set, and hands over what they come to, part by part (`audiences.handover`). A crash
loses an attempt and nothing else: the next one begins anew, under numbers of its own.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Final

import duckdb

from profilelake.audiences import handover
from profilelake.audiences.handover import Incomplete
from profilelake.audiences.reading import (
    PART_ROWS,
    SLICES_MAX,
    Reading,
    Wanted,
    event_schema,
    scratch,
    slice_of_set,
)
from profilelake.errors import Corrupt, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.ops.failpoints import reach
from profilelake.pipeline.progress import load_applied, load_published
from profilelake.state.store import State
from profilelake.traits.fold import fold
from profilelake.traits.merging import merge
from profilelake.traits.partials import Numbered, Partials

LOOK_SECONDS: Final = 0.25
"""How often it is looked whether a definition waits."""
LOOK_SECONDS_EACH: Final = 0.001
"""The same per workspace, where there are very many."""
SHARE: Final = 0.5
"""Part of its time that it works at most: publishing has the rest of the process, and micro-batches of the state."""
SLICE_ROWS: Final = 1 << 17
"""Events, on average, of one part: few enough that what they come to is put in a fraction of a second."""
RETRY_SECONDS: Final = 1.0
DAMAGED_SECONDS: Final = 60.0
"""Before a table that cannot be read is tried again, or what failed in a way nobody foresaw."""
FLUSH_SECONDS: Final = 5.0
"""How often somebody is asked to publish the events that are waited for."""

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The process ends; the attempt is given up."""


@dataclass(slots=True)
class Backfilling:
    """The loop over all workspaces of one process.

    `ask_to_publish` has events committed to the lake soon. `directory` takes events divided by set meanwhile.
    """

    state: State
    lake: Lake
    workspaces: Sequence[str]
    directory: Path
    ask_to_publish: Callable[[], None]
    stop: threading.Event
    monotonic: Callable[[], float] = time.monotonic
    share: float = SHARE
    _wait_until: dict[str, float] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Work until told to stop."""
        # What a process that was killed has left.
        shutil.rmtree(self.directory, ignore_errors=True)
        look_seconds = max(LOOK_SECONDS, len(self.workspaces) * LOOK_SECONDS_EACH)
        while not self.stop.wait(look_seconds):
            for workspace in self.workspaces:
                if self.stop.is_set():
                    return
                if self.monotonic() >= self._wait_until.get(workspace, 0.0):
                    self._tried(workspace)

    def _tried(self, workspace: str) -> None:
        try:
            self.look(workspace)
            return
        except Stopped:
            return
        except Corrupt as error:
            self._wait_until[workspace] = self.monotonic() + DAMAGED_SECONDS
            _log.error("definitions wait for older events, which cannot be read: %s", error)
        except (Unavailable, OSError) as error:
            self._wait_until[workspace] = self.monotonic() + RETRY_SECONDS
            _log.error("backfill not finished, beginning again: %s", error)
        except Exception:  # noqa: BLE001 - publishing, in the same process, must not end for any of them
            self._wait_until[workspace] = self.monotonic() + DAMAGED_SECONDS
            _log.exception("backfill failed, beginning again later: this is a fault of the program: tell us")
        try:
            handover.bound_waiting(self.state, workspace)
        except (Unavailable, OSError) as error:
            _log.error("what waits for older events cannot be bounded now, trying again: %s", error)

    def look(self, workspace: str) -> bool:
        """Do the backfill that is due in a workspace; tell whether there was one.

        Raises:
            Unavailable: disk or memory is full; look again later.
            Corrupt: a file of `events` is missing or damaged.
            Stopped: the process ends.
        """
        with self.state.read(workspace) as tx:
            steps = handover.incomplete(tx, workspace)
            if not steps:
                return False
            applied = load_applied(tx, workspace, "")
            in_lake = load_published(tx, workspace).facts_sequence
        after = max(step.live_after for step in steps.values())
        with scratch(self.directory) as folder:
            # Read after `in_lake`, so that it has at least as much. More it says itself.
            reading = Reading(self.lake, workspace, folder)
            try:
                progress = reading.events.progress
                if progress is not None and progress.epoch == applied.epoch:
                    in_lake = max(in_lake, progress.sequence)
                if in_lake < after:
                    self._ask(workspace)
                    return False
                with _interrupted_by(self.stop, reading.connection):
                    self._filled(workspace, reading, steps, in_lake, applied.watermark)
            finally:
                reading.close()
        return True

    def _ask(self, workspace: str) -> None:
        now = self.monotonic()
        if now - self._asked_at.get(workspace, -FLUSH_SECONDS) >= FLUSH_SECONDS:
            self._asked_at[workspace] = now
            self.ask_to_publish()

    def _filled(
        self, workspace: str, reading: Reading, steps: Mapping[bytes, Incomplete], sequence: int, now: int
    ) -> None:
        numbers = handover.begin_attempt(self.state, workspace, steps)
        numbered = [Numbered(number, steps[digest].step) for digest, number in numbers.items()]
        if not numbered:
            return
        wanted = Wanted.of((step.step for step in numbered), now)
        events = reading.select_events(wanted)
        began = self.monotonic()
        rows = reading.count(events)
        handover.note_progress(self.state, workspace, list(numbers), 0, rows)
        done = 0
        for part_rows, partials in self._parts(reading, events, rows, numbered):
            handover.put_part(self.state, workspace, partials)
            reach("backfill.part")
            done += part_rows
            handover.note_progress(self.state, workspace, list(numbers), done, rows)
            self._rest(began)
            began = self.monotonic()
        handover.finish(self.state, workspace, sequence)
        reach("backfill.done")

    def _parts(
        self, reading: Reading, events: str, rows: int, steps: Sequence[Numbered]
    ) -> Iterator[tuple[int, Partials]]:
        """Yield what the events come to, each identifier set in one part only, with the number of events."""
        if not rows:
            return
        count = min(SLICES_MAX, -(-rows // SLICE_ROWS))
        divided = reading.divide(
            f"SELECT *, {slice_of_set(count)} AS slice FROM ({events})",  # noqa: S608 - our own
            "events",
            event_schema(),
            count,
        )
        reach("backfill.divided")
        for number in range(count):
            if self.stop.is_set():
                raise Stopped
            parts = list(divided.slice(number, PART_ROWS))
            folded = reduce(merge, (fold(part, steps) for part in parts), Partials())
            yield sum(part.num_rows for part in parts), folded

    def _rest(self, began: float) -> None:
        self.stop.wait((self.monotonic() - began) * (1 / self.share - 1))


@contextmanager
def _interrupted_by(stop: threading.Event, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End what a connection does when the process is to end: reading a large lake takes minutes."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            if stop.is_set():
                connection.interrupt()

    watching = threading.Thread(target=watch, name="backfill-stop", daemon=True)
    watching.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise Stopped from error
    finally:
        over.set()
        watching.join()
