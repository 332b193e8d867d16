"""The reading side: all logs under a root as one sequence in position order."""

import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Final

from profilelake.eventlog import Damage, LogEnd, Record, Slice, Vector
from profilelake.eventlog._files import Files
from profilelake.eventlog._recovery import recover, take_lock
from profilelake.eventlog._segments import Segments, log_directories
from profilelake.eventlog._watermark import Mark, Watermark
from profilelake.semantics.positions import region_code

logger = logging.getLogger(__name__)

STALL_SECONDS: Final = 0.2
"""A living writer whose watermark stands still for longer no longer holds the others back."""

SILENT_SECONDS: Final = 0.1
"""A writer that publishes nothing for longer may be dead: its lock is tried."""

RECOVER_AGAIN_SECONDS: Final = 1.0
"""How long to wait before a failed recovery is tried again."""

POLL_SECONDS: Final = 0.01
CHUNK_BYTES: Final = 256 * 1024

_ENDLESS: Final = 1 << 62
"""The watermark of a log that has ended."""

_received_at = attrgetter("received_at")


class LogReader:
    """Reads all logs under `root`, and recovers those whose writers are dead. One per root at a time.

    The caller keeps the vector: `read` starts where it says, and nothing is remembered that matters.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], int],
        steady_seconds: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        files: Files | None = None,
    ) -> None:
        self._root = root
        self._clock = clock
        self._steady = steady_seconds
        self._sleep = sleep
        self._files = files or Files()
        self._logs: dict[str, _Log] = {}
        self._target = 0

    def read(
        self, start: Vector, *, bytes_max: int, events_max: int, wait_max_seconds: float = STALL_SECONDS
    ) -> Slice:
        """Return what follows `start`, in position order, up to the time all living writers have passed.

        A slice is always a prefix of what can be read: cut by `bytes_max` or `events_max` (but one
        record at least), never with a later record in place of an earlier one. With nothing to
        give it waits for up to `wait_max_seconds` and then returns an empty slice, whose watermark
        still says how far time has come. Damage is reported in the slice that passes over it, its
        events counted in `ends`; damage to a header or footer, and the cut tail of a killed
        writer, which cost no event, once per reader.

        Raises:
            Corrupt: a log does not say whose it is, or was written by a newer version.
        """
        give_up_at = self._steady() + wait_max_seconds
        while True:
            now = self._steady()
            target, behind = self._look(now)
            self._seek(start)
            found = self._collect(start, target, bytes_max, events_max, behind)
            if found.records or found.damage or now >= give_up_at:
                return found
            self._sleep(min(POLL_SECONDS, max(0.0, give_up_at - now)))

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def _look(self, now: float) -> tuple[int, tuple[str, ...]]:
        """Return up to what time records may be given, and who is behind."""
        wall = self._clock()
        # First the watermarks, then the directory: a log that is not listed yet stamps later than
        # every watermark read before.
        for log in self._logs.values():
            log.look(now)
        self._list(now)
        living = [log for log in self._logs.values() if log.final is None]
        fresh = [log.watermark for log in living if log.end and now - log.moved_at <= STALL_SECONDS]
        if fresh:
            target = min(fresh)
        else:
            # Nobody says how far time has come. What is known is given, but time stands still
            # while a writer lives: what it is writing now would only come late.
            target = max((log.newest for log in self._logs.values()), default=0)
            if not living:
                target = max(target, wall - 1)
        self._target = target = max(target, self._target)
        return target, tuple(sorted(log.log_id for log in living if log.watermark < target))

    def _list(self, now: float) -> None:
        directories = log_directories(self._root)
        gone = self._logs.keys() - {directory.name for directory in directories}
        for log_id in gone:
            self._logs.pop(log_id).close()
        for directory in directories:
            if directory.name not in self._logs:
                try:
                    log = _Log(directory, now, self._clock, self._files)
                except FileNotFoundError:
                    # Pruned since it was listed.
                    continue
                self._logs[directory.name] = log

    def _seek(self, start: Vector) -> None:
        for log_id, log in self._logs.items():
            log.seek(start.get(log_id, LogEnd(0, 0)))

    def _collect(
        self, start: Vector, target: int, bytes_max: int, events_max: int, behind: tuple[str, ...]
    ) -> Slice:
        logs = sorted(self._logs.values(), key=lambda log: log.rank)
        records: list[Record] = []
        watermark = target
        bytes_left, events_left = bytes_max, events_max
        while True:
            for log in logs:
                log.fill(min(CHUNK_BYTES, bytes_max))
            # Whoever has more to load than it has loaded says only up to its last record what comes.
            reach = min([target, *(log.reach for log in logs)])
            batch: list[Record] = []
            for log in logs:
                batch += log.ready(reach)
            if not batch:
                break
            # A stable sort of runs laid down in the order of (region, log): position order.
            batch.sort(key=_received_at)
            kept, bytes_left, events_left = _fitting(batch, bytes_left, events_left, first=not records)
            if kept < len(batch):
                cut = batch[kept]
                # Everything before the first record that did not fit is given, and no more.
                watermark = cut.received_at - 1
                rank = (region_code(cut.region), cut.log_id)
                for log in logs:
                    log.accept(cut.received_at if log.rank < rank else cut.received_at - 1)
                records += batch[:kept]
                break
            for log in logs:
                log.accept(reach)
            records += batch
        ends = dict(start)
        damage: list[Damage] = []
        for log in logs:
            damage += log.take_damage()
            if log.place.offset:
                ends[log.log_id] = log.place
        return Slice(records, ends, watermark, behind, tuple(damage))


def _fitting(batch: list[Record], bytes_left: int, events_left: int, *, first: bool) -> tuple[int, int, int]:
    """Return how many records of `batch` fit, and what is left then; a slice's very first always fits."""
    for index, record in enumerate(batch):
        bytes_left -= record.next_offset - record.offset
        events_left -= record.events
        if (bytes_left < 0 or events_left < 0) and not (first and index == 0):
            return index, bytes_left, events_left
    return len(batch), bytes_left, events_left


class _Log:
    """One log as the reader sees it: how far it is published, and records loaded but not given yet."""

    def __init__(self, directory: Path, now: float, clock: Callable[[], int], files: Files) -> None:
        self.log_id: Final = directory.name
        self.final: LogEnd | None = None
        self.end: LogEnd | None = None
        self.watermark = 0
        self.newest = 0
        self.moved_at = now
        self.place = LogEnd(0, 0)
        self._directory = directory
        self._clock = clock
        self._files = files
        self._segments = Segments(directory)
        self.rank: Final = (region_code(self._segments.identity.region), self.log_id)
        self._watermark_file: Watermark | None = None
        self._sequence = 0
        self._segments_made = 0
        self._published_at = now
        self._recover_at = 0.0
        self._loaded = self.place
        self._records: list[Record] = []
        self._damage: list[Damage] = []
        self._torn: list[Damage] = []
        self.look(now)
        if self.final is None:
            # A log left by an earlier run should not hold anybody back, so it is tried at once.
            self._recover_if_dead(now)

    def look(self, now: float) -> None:
        """Read what the writer has published; recover the log if the writer is dead."""
        if self.final is not None:
            return
        mark = self._read_mark()
        if mark is not None and mark.sequence != self._sequence:
            self._published_at = now
            self._take(mark, now)
        elif now - self._published_at > SILENT_SECONDS and now >= self._recover_at:
            self._recover_if_dead(now)

    def seek(self, place: LogEnd) -> None:
        """Go to `place`, unless we are there."""
        if place != self.place:
            self.place = self._loaded = place
            self._records, self._damage = [], []

    def fill(self, bytes_max: int) -> None:
        """Load some records if none are left."""
        if self.end is None:
            return
        while not self._records and self._loaded.offset < self.end.offset:
            loaded = self._segments.load(self._loaded, self.end, bytes_max)
            self._records = loaded.records
            self._damage += loaded.damage
            self._loaded = loaded.end
            if not loaded.records:
                self.place = loaded.end

    @property
    def reach(self) -> int:
        """Up to what time all records of this log are loaded."""
        if self.end is None or self._loaded.offset >= self.end.offset or not self._records:
            return _ENDLESS
        return self._records[-1].received_at

    def ready(self, until: int) -> list[Record]:
        """Return the loaded records with a stamp of at most `until`."""
        return self._records[: bisect_right(self._records, until, key=_received_at)]

    def accept(self, until: int) -> None:
        """Take note that the records with a stamp of at most `until` were given."""
        count = bisect_right(self._records, until, key=_received_at)
        self._records = self._records[count:]
        if self._records:
            self.place = LogEnd(self._records[0].offset, self._records[0].events_before)
        else:
            self.place = self._loaded

    def take_damage(self) -> list[Damage]:
        """Return the damage that has been passed over, each once."""
        passed = [damage for damage in self._damage if damage.next_offset <= self.place.offset]
        self._damage = [damage for damage in self._damage if damage.next_offset > self.place.offset]
        passed += self._torn
        self._torn = []
        return passed

    def close(self) -> None:
        self._segments.close()
        if self._watermark_file is not None:
            self._watermark_file.close()
            self._watermark_file = None

    def _read_mark(self) -> Mark | None:
        if self._watermark_file is None:
            try:
                self._watermark_file = Watermark.open(self._directory, self._files)
            except OSError:
                return None
        return self._watermark_file.read()

    def _take(self, mark: Mark, now: float) -> None:
        self._sequence = mark.sequence
        if mark.segments != self._segments_made:
            # Before the end is believed: where segments overlap, only the new list is right.
            self._segments.refresh()
            self._segments_made = mark.segments
        if mark.watermark > self.watermark:
            self.watermark = mark.watermark
            self.moved_at = now
        self.end = mark.end
        self.newest = mark.watermark
        if mark.closed:
            self.final = mark.end
            self._segments.closed = True

    def _recover_if_dead(self, now: float) -> None:
        try:
            lock = take_lock(self._directory)
            if lock is None:
                self._recover_at = now + SILENT_SECONDS
                return
            try:
                mark, self._torn = recover(self._directory, self._clock(), self._files)
            finally:
                os.close(lock)
        except OSError as error:
            # Nothing of the log is given before its end is settled on disk.
            self._recover_at = now + RECOVER_AGAIN_SECONDS
            logger.error("cannot recover event log %s: %s; trying again", self._directory, error)
            return
        logger.warning("recovered event log %s of a dead writer, up to %s", self._directory, mark.end)
        self._segments_made = -1
        self._take(mark, now)
