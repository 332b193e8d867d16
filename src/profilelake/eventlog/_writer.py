"""The writing side: one process appends to one log, many requests to one sync."""

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profilelake.errors import Unavailable
from profilelake.eventlog import Entry, LogEnd
from profilelake.eventlog._clock import ANCHOR_EVERY, Anchor, Stamps, steady_clock
from profilelake.eventlog._files import Buffer, Files, write_all
from profilelake.eventlog._format import (
    HEADER_BYTES,
    Footer,
    Header,
    Identity,
    encode_entry,
    encode_record,
    record_bytes,
)
from profilelake.eventlog._recovery import LOCK_NAME, newest_stamp
from profilelake.eventlog._room import Room
from profilelake.eventlog._segments import segment_path
from profilelake.eventlog._watermark import UNFINISHED_SUFFIX, Mark, Watermark
from profilelake.ops.failpoints import reach
from profilelake.semantics.positions import Position

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 0.04
"""How often an idle writer moves its watermark; readers count on less than 50 ms."""

REPAIR_SECONDS: Final = 0.5
"""How long a writer waits between two attempts to open a new segment after a fault."""

SEGMENT_SHARE: Final = 16
"""No segment is longer than this part of the whole log's limit: only sealed ones can be deleted."""

ROOM_RETRY_SECONDS: Final = 5
"""When to come back to a log without room: segments are deleted every few seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one writer, and of the whole log it is a part of."""

    log_bytes_max: int = 64 * 1024 * 1024 * 1024
    """What all logs under the root may hold, read or not. Beyond it `append` refuses at once."""

    segment_bytes_max: int = 64 * 1024 * 1024
    """A segment longer than this is sealed before the next group."""

    segment_age_max_seconds: float = 3600.0
    """A segment with records is sealed at this age, so that retention can delete it."""

    queue_bytes_max: int = 64 * 1024 * 1024
    """What may wait for the disk. Beyond it `append` refuses at once."""

    group_bytes_max: int = 8 * 1024 * 1024
    """One sync covers no more than this, so no request waits for a huge one."""

    reserve_bytes: int = 1024 * 1024 * 1024
    """Free space that is left for everything else on the disk, or a twentieth of a small disk."""

    window_seconds: float = 0.0
    """How long a group waits for more entries. A group forms while the one before is synced, so
    waiting brings nothing unless a sync is very cheap."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """One group that became durable, for metrics."""

    records: int
    events: int
    bytes: int
    sync_seconds: float


class _Answer(asyncio.Future[LogEnd]):
    """One answer for a whole group. Who waits may be cancelled; the answer cannot.

    A plain future would be cancelled with the first request that hangs up, and with it all others.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        return False


class _Group:
    """Entries that become durable together, the first at `offset` with the stamp `received_at`."""

    __slots__ = ("answer", "bytes", "entries", "events", "loop", "offset", "received_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.answer = _Answer(loop=loop)
        self.entries: list[tuple[bytes, bytes, int]] = []
        self.bytes = 0
        self.events = 0
        self.offset = 0
        self.received_at = 0


class LogWriter:
    """One incarnation of one writer: appends entries durably, in order, until it is closed.

    A constructor call makes a new log with an id that was never used before. `append` is called
    from one event loop; a thread of its own writes and syncs. The wall clock is `clock`
    (microseconds UTC); `steady` counts microseconds through suspends and never leaps.

    Raises:
        Unavailable: the log's files cannot be made; the text says why.
    """

    def __init__(
        self,
        root: Path,
        *,
        region: str,
        clock: Callable[[], int],
        steady: Callable[[], int] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        limits: Limits | None = None,
        on_durable: Callable[[Flushed], None] | None = None,
        files: Files | None = None,
    ) -> None:
        self.log_id: Final = random_bytes(8).hex()
        self._root = root
        self._directory = root / self.log_id
        self._identity = Identity(self.log_id, random_bytes(8), region)
        self._limits = limits or Limits()
        self._segment_bytes_max = min(
            self._limits.segment_bytes_max, self._limits.log_bytes_max // SEGMENT_SHARE
        )
        self._files = files or Files()
        self._room = Room(
            root,
            self._files,
            bytes_max=self._limits.log_bytes_max,
            reserve_bytes=self._limits.reserve_bytes,
        )
        self._on_durable = on_durable
        self._anchor = Anchor(root, self._files)
        self._anchored_at = 0
        offset = self._anchor.read((steady or steady_clock)())
        self._stamps = Stamps(newest_stamp(root), clock, steady, offset)
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._groups: deque[_Group] = deque()
        self._storing: _Group | None = None
        self._queued_bytes = 0
        self._closing = False
        self._trouble: str | None = None
        self._end = LogEnd(0, 0)
        self._segment: _Open | None = None
        self._segments_made = 0
        self._tail_dirty = False
        self._repair_at = 0.0
        self._cramped = False
        self._publish_trouble: str | None = None
        try:
            self._create()
        except OSError as error:
            raise Unavailable(f"cannot start an event log in {root}: {error}") from error
        self._look_at_room()
        self._thread = threading.Thread(target=self._run, name=f"eventlog-{self.log_id}", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why nothing is accepted at the moment, or None while the log is writable."""
        return self._trouble

    @property
    def healthy(self) -> bool:
        return self._trouble is None

    @property
    def full(self) -> bool:
        """Whether the whole log has reached its limit; it goes on when segments are deleted."""
        return self._room.full

    @property
    def end(self) -> LogEnd:
        """How far this log is durable."""
        return self._end

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the disk."""
        return self._queued_bytes

    def append(self, entry: Entry) -> asyncio.Future[LogEnd]:
        """Add `entry` to the forming group; the future ends when it is durable.

        All entries of a group share the future, which cannot be cancelled. Its value is the end
        of the log after the group. It fails with `Unavailable` when the group was not stored; then
        the entry may be sent again.

        Raises:
            Invalid: the entry does not fit the format.
            Unavailable: the queue or the whole log is full, or the log is closed; or, told by `trouble`,
                the disk is nearly full, or disk or clock are at fault.
        """
        return self._queue(entry)[0].answer

    async def place(self, entry: Entry) -> Position:
        """Make `entry` durable and return its position, for the few entries whose place must be known.

        Raises: as `append`, and its future.
        """
        group, number, bytes_before = self._queue(entry)
        await group.answer
        received_at, offset = group.received_at + number, group.offset + bytes_before
        return Position(received_at, self._identity.region, self.log_id, offset, 0)

    def _queue(self, entry: Entry) -> tuple[_Group, int, int]:
        """Add `entry` to the forming group; return the group, and what of it stands before the entry."""
        if self._trouble is not None:
            raise Unavailable(self._trouble)
        head = encode_entry(entry)
        size = record_bytes(head, entry.body)
        with self._lock:
            if self._closing:
                raise Unavailable(f"event log {self.log_id} is closed: send again to the next one")
            if self._queued_bytes + size > self._limits.queue_bytes_max and self._queued_bytes:
                raise Unavailable(
                    f"event log {self.log_id} has {self._queued_bytes} bytes waiting for the disk: send again later"
                )
            room = self._room
            if size > room.left:
                self._cramped = True
                raise Unavailable(room.refusal, retry_after_seconds=ROOM_RETRY_SECONDS)
            room.left -= size
            group = self._groups[-1] if self._groups else None
            if group is None or group.bytes + size > self._limits.group_bytes_max:
                group = _Group(asyncio.get_running_loop())
                self._groups.append(group)
                self._wake.notify()
            place = (group, len(group.entries), group.bytes)
            group.entries.append((head, entry.body, entry.events))
            group.bytes += size
            self._queued_bytes += size
        return place

    def close(self) -> None:
        """Store what waits, seal the log, and let go of it. A second call does nothing."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # What follows runs in the writer's own thread.

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._groups and not self._closing:
                        self._wake.wait(HEARTBEAT_SECONDS)
                    waiting = bool(self._groups)
                    closing = self._closing
                if waiting:
                    if self._limits.window_seconds and not closing:
                        time.sleep(self._limits.window_seconds)
                    with self._lock:
                        group = self._storing = self._groups.popleft()
                    self._store(group)
                elif closing:
                    break
                else:
                    self._ready()
                    self._publish()
        except Exception as error:
            logger.exception("event log %s stops on a fault of its own", self.log_id)
            self._die(error)
        finally:
            self._finish()

    def _store(self, group: _Group) -> None:
        if not self._ready() or self._segment is None:
            self._answer(group, Unavailable(self._trouble or "event log is not writable"))
            return
        try:
            end, sync_seconds = self._write(group, self._segment)
        except OSError as error:
            cause = f"cannot write event log segment {self._segment.path}: {error}"
            logger.error("%s; %d records refused", cause, len(group.entries))
            self._give_up_segment(cause)
            self._ready()
            self._answer(group, Unavailable(f"{cause}: send again later"))
            return
        except Exception as error:
            self._answer(group, Unavailable(f"event log {self.log_id} failed: {error!r}"))
            raise
        self._end = end
        self._segment.last_received_at = self._stamps.last
        self._publish()
        self._answer(group, None)
        if self._on_durable:
            try:
                self._on_durable(Flushed(len(group.entries), group.events, group.bytes, sync_seconds))
            except Exception:
                # Whatever is wrong with it, counting must not end the log.
                logger.exception("counting a group of event log %s failed", self.log_id)

    def _write(self, group: _Group, segment: "_Open") -> tuple[LogEnd, float]:
        """Make a group durable and return the log's end after it, and how long the disk took."""
        buffers, end = self._encode(group)
        started_at = time.perf_counter()
        write_all(self._files, segment.descriptor, buffers)
        reach("log.written")
        self._files.fdatasync(segment.descriptor)
        reach("log.synced")
        return end, time.perf_counter() - started_at

    def _encode(self, group: _Group) -> tuple[list[Buffer], LogEnd]:
        received_at = group.received_at = self._stamps.take(len(group.entries))
        group.offset = self._end.offset
        marker = self._identity.marker
        before = self._end.events
        buffers: list[Buffer] = []
        for head, body, events in group.entries:
            buffers.append(encode_record(head, body, marker, received_at, before))
            buffers.append(body)
            before += events
            received_at += 1
        group.events = before - self._end.events
        return buffers, LogEnd(self._end.offset + group.bytes, before)

    def _answer(self, group: _Group, error: Unavailable | None) -> None:
        if group is self._storing:
            self._storing = None
        with self._lock:
            self._queued_bytes -= group.bytes
        try:
            group.loop.call_soon_threadsafe(_settle, group.answer, self._end, error)
        except RuntimeError:
            # The loop is closed, so nobody waits any more.
            pass

    def _publish(self) -> None:
        """Show the end, and time as far as it is safe: unless refused bytes may come back."""
        if not self._tail_dirty:
            self._stamps.advance()
            self._publish_trouble = self._show(closed=False)

    def _show(self, *, closed: bool) -> str | None:
        """Write the watermark file; return what hinders. Readers come no further until it succeeds."""
        try:
            self._watermark.publish(Mark(self._end, self._stamps.last, self._segments_made, closed))
        except OSError as error:
            return f"cannot publish the watermark of {self._directory}: {error}"
        return None

    def _ready(self) -> bool:
        """See to clock, space and segment; return whether a group can be written now."""
        trouble = (
            self._stamps.trouble() or self._look_at_room() or self._see_to_segment() or self._publish_trouble
        )
        if trouble != self._trouble:
            if trouble:
                logger.error("event log %s refuses entries: %s", self.log_id, trouble)
            else:
                logger.warning("event log %s accepts entries again", self.log_id)
            self._trouble = trouble
        self._note_time()
        return trouble is None

    def _note_time(self) -> None:
        """Keep what this writer believes of the time where writers that start find it."""
        stamps = self._stamps
        if stamps.offset is not None and stamps.steady_seen - self._anchored_at >= ANCHOR_EVERY:
            self._anchored_at = stamps.steady_seen
            self._anchor.write(stamps.offset, stamps.steady_seen)

    def _look_at_room(self) -> str | None:
        room = self._room
        if room.due():
            was_full = room.full
            left = room.look()
            if left is not None:
                with self._lock:
                    room.grant(left - self._queued_bytes)
            if room.full and not was_full:
                logger.warning("event log %s refuses entries: %s", self.log_id, room.refusal)
            elif was_full and not room.full:
                logger.warning("event log %s has room again", self.log_id)
        return room.trouble

    def _see_to_segment(self) -> str | None:
        """Roll a full or old segment, or open a new one after a fault; return what hinders."""
        segment = self._segment
        if segment is not None:
            if not self._is_done(segment):
                return None
            self._seal(segment, closed=False)
        elif time.monotonic() < self._repair_at:
            return self._trouble or "event log has no segment to write to"
        try:
            self._open_segment()
        except OSError as error:
            self._repair_at = time.monotonic() + REPAIR_SECONDS
            return f"cannot open a new event log segment in {self._directory}: {error}"
        return None

    def _is_done(self, segment: "_Open") -> bool:
        written = self._end.offset - segment.base
        if written == 0:
            return False
        if self._cramped or self._room.full:
            # Whoever consumes this segment can then delete it.
            return True
        age = time.monotonic() - segment.opened_at
        return written >= self._segment_bytes_max or age >= self._limits.segment_age_max_seconds

    def _open_segment(self) -> None:
        """Make the next segment, whole and durable before it has its name."""
        path = segment_path(self._directory, self._end.offset)
        header = Header(self._identity, self._end.offset, self._end.events, self._stamps.last)
        unfinished = path.with_suffix(UNFINISHED_SUFFIX)
        descriptor = self._files.create(unfinished)
        try:
            write_all(self._files, descriptor, [header.encode()])
            self._files.fdatasync(descriptor)
            # A segment given up before its first record has the same name. It is replaced.
            self._files.rename(unfinished, path)
            self._files.fsync_dir(self._directory)
        except OSError:
            self._close_quietly(descriptor)
            raise
        self._segment = _Open(path, descriptor, self._end.offset, time.monotonic(), self._stamps.last)
        self._segments_made += 1
        self._cramped = False
        # A newer segment now stands over whatever a refused group left behind.
        self._tail_dirty = False

    def _give_up_segment(self, cause: str) -> None:
        """Leave a segment whose last write failed: nobody knows what of it reached the disk.

        Its bytes after the last good offset are cut. If even that fails, the next segment starts
        at the same offset and readers take that one.
        """
        segment, self._segment = self._segment, None
        if segment is None:
            return
        self._tail_dirty = True
        self._close_quietly(segment.descriptor)
        try:
            self._files.truncate(segment.path, HEADER_BYTES + self._end.offset - segment.base)
        except OSError as error:
            logger.warning("cannot cut %s after %s: %s", segment.path, cause, error)

    def _seal(self, segment: "_Open", *, closed: bool) -> bool:
        """End a segment with its footer. Without one it reads the same, only recovery has more to do."""
        self._segment = None
        footer = Footer(segment.base, self._end, segment.last_received_at, self._stamps.last, closed)
        try:
            write_all(self._files, segment.descriptor, [footer.encode(self._identity)])
            self._files.fdatasync(segment.descriptor)
        except OSError as error:
            logger.warning("cannot seal event log segment %s: %s", segment.path, error)
            return False
        finally:
            self._close_quietly(segment.descriptor)
        return True

    def _finish(self) -> None:
        sealed = self._segment is not None and self._seal(self._segment, closed=True)
        if sealed:
            self._show(closed=True)
        # Left unsealed, the log is recovered by the reader like that of a killed writer.
        self._watermark.close()
        os.close(self._lock_file)

    def _die(self, error: Exception) -> None:
        self._trouble = f"event log {self.log_id} has stopped: {error!r}; restart this process"
        with self._lock:
            self._closing = True
            # Whoever waits for the group at hand must hear of it too.
            groups = [*([] if self._storing is None else [self._storing]), *self._groups]
            self._groups.clear()
        for group in groups:
            self._answer(group, Unavailable(self._trouble))

    def _close_quietly(self, descriptor: int) -> None:
        try:
            self._files.close(descriptor)
        except OSError as error:
            logger.warning("cannot close a file of event log %s: %s", self.log_id, error)

    def _create(self) -> None:
        """Make the log under a hidden name, locked, and show it whole: readers never see a part."""
        shown = self._directory
        hidden = self._root / f".{self.log_id}{UNFINISHED_SUFFIX}"
        self._directory = hidden
        self._stamps.advance()
        if not self._root.exists():
            self._files.mkdir(self._root)
            self._files.fsync_dir(self._root.parent)
        self._files.mkdir(hidden)
        self._lock_file = os.open(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._watermark = Watermark.create(hidden, self._identity, self._stamps.last, self._files)
            self._open_segment()
            self._watermark.publish(Mark(self._end, self._stamps.last, self._segments_made, closed=False))
            self._files.rename(hidden, shown)
            self._files.fsync_dir(self._root)
        except BaseException:
            os.close(self._lock_file)
            raise
        self._directory = shown
        if self._segment is not None:
            self._segment.path = shown / self._segment.path.name


@dataclass(slots=True)
class _Open:
    """The segment being written."""

    path: Path
    descriptor: int
    base: int
    opened_at: float
    last_received_at: int


def _settle(answer: _Answer, end: LogEnd, error: Unavailable | None) -> None:
    if error is None:
        answer.set_result(end)
        return
    answer.set_exception(error)
    # Read once, so that a group whose requests have all hung up is not reported as forgotten.
    answer.exception()
