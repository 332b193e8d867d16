"""Imports files: chunk after chunk into a log of its own, never too far ahead of the pipeline."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

from profilelake.errors import Internal, Invalid, Unavailable
from profilelake.eventlog import Entry, Flags, Kind, LogEnd
from profilelake.eventlog.embedded import LogWriter
from profilelake.imports.chunks import Chunk, cut
from profilelake.imports.files import ImportFile, opened
from profilelake.imports.progress import Progress, Target
from profilelake.imports.tables import Reading, read_lines
from profilelake.ops.failpoints import reach
from profilelake.semantics.events import EVENT_TYPES, Lines
from profilelake.semantics.rules import EXTRACTION_VERSION

AHEAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Log bytes that an import may be ahead of a running pipeline: the log stays small, senders are not refused."""
IN_FLIGHT_MAX: Final = 8
"""Chunks that wait for the disk."""
LOOK_SECONDS: Final = 0.2
"""How often the pipeline's progress is looked at."""
STALL_SECONDS_MAX: Final = 60.0
"""An import that the log takes nothing of for so long gives up; it goes on where it was when run again."""
PIPELINE_STALL_SECONDS_MAX: Final = 600.0
"""How long a pipeline may stand still, as seen from outside: a commit of much is one step that takes minutes."""
ZSTD_LEVEL: Final = 1
_CODEC: Final = pa.Codec("zstd", compression_level=ZSTD_LEVEL)


class Pipeline(Protocol):
    """What an import must know of the rest of the directory."""

    def runs(self) -> bool:
        """Tell whether a server works on what is in the log."""
        ...

    def accepted(self) -> Mapping[str, int]:
        """Return up to what offset each log is durable."""
        ...

    def applied(self) -> Mapping[str, int]:
        """Return up to what offset each log is in the state."""
        ...

    def committed(self) -> Mapping[str, int]:
        """Return up to what offset each log is in the lake."""
        ...

    def flush(self) -> None:
        """Ask for a commit."""
        ...


class Watcher(Protocol):
    """Is told how an import goes on."""

    def began(self, file: ImportFile) -> None: ...
    def went_on(self, file_bytes: int, events: int) -> None: ...
    def waits(self, reason: str) -> None: ...


@dataclass(slots=True)
class Imported:
    """What became of one file. `skipped` events are of chunks that were imported before."""

    file: str
    bytes: int = 0
    events: int = 0
    skipped: int = 0
    cut_lines: int = 0
    problem: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of an import. `place` of its events: committed (in the lake), accepted (by a server that runs)
    or waiting (in the log, for one to run)."""

    files: list[Imported] = field(default_factory=list)
    seconds: float = 0.0
    place: str = "accepted"

    @property
    def events(self) -> int:
        return sum(file.events for file in self.files)


@dataclass(slots=True)
class _Sent:
    """A chunk on its way to the disk."""

    future: asyncio.Future[LogEnd]
    chunk: Chunk
    entry: Entry


class Importer:
    """Imports files, one after the other. A second call with the same files brings nothing new."""

    def __init__(
        self,
        open_writer: Callable[[], LogWriter],
        progress: Progress,
        target: Target,
        reading: Reading,
        pipeline: Pipeline,
        watcher: Watcher,
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_writer = open_writer
        self._progress = progress
        self._target = target
        self._reading = reading
        self._pipeline = pipeline
        self._watcher = watcher
        self._steady = steady
        self._type = next((kind for kind in EVENT_TYPES if kind == target.type), None)
        self._writer: LogWriter | None = None
        self._sent: deque[_Sent] = deque()
        self._looked_at = -LOOK_SECONDS

    async def run(self, files: Sequence[ImportFile], *, wait: bool, again: bool = False) -> Outcome:
        """Import the files; a file that cannot be read does not stop those after it.

        With `again`, what was imported before is sent once more, and its message ids decide.

        Raises:
            Unavailable: the log takes nothing, or the pipeline stands still; what is in the log stays.
        """
        outcome = Outcome()
        started_at = self._steady()
        try:
            for file in files:
                outcome.files.append(await self._import_file(file, again=again))
        finally:
            await self._close()
        if not self._pipeline.runs():
            outcome.place = "waiting"
        elif wait and await self._is_committed():
            outcome.place = "committed"
        outcome.seconds = self._steady() - started_at
        return outcome

    async def _import_file(self, file: ImportFile, *, again: bool) -> Imported:
        done = Imported(file.name)
        self._watcher.began(file)
        try:
            with opened(file) as source:
                lines = read_lines(source, self._reading)
                chunks = cut(
                    lines.blocks,
                    lambda previous: () if again else self._progress.after(self._target, previous),
                )
                while (pair := await asyncio.to_thread(_next_packed, chunks)) is not None:
                    chunk, packed = pair
                    if chunk.known:
                        done.skipped += chunk.events
                    elif chunk.events:
                        reach("import.packed")
                        await self._send(chunk, packed)
                        reach("import.sent")
                        done.events += chunk.events
                    done.cut_lines += chunk.cut_lines
                    done.bytes = lines.consumed()
                    self._watcher.went_on(done.bytes, done.events + done.skipped)
        except (Invalid, IsADirectoryError, FileNotFoundError, PermissionError) as error:
            done.problem = str(error)
        await self._settle(0)
        return done

    # ---- the log ---------------------------------------------------------------------------------

    async def _send(self, chunk: Chunk, packed: bytes) -> None:
        await self._settle(IN_FLIGHT_MAX - 1)
        await self._keep_near()
        entry = Entry(
            workspace=self._target.workspace,
            source_id=self._target.source_id,
            kind=Kind.LINES,
            flags=Flags.ZSTD,
            events=chunk.events,
            extraction_version=EXTRACTION_VERSION,
            ip=Lines(chunk.name, self._type).encode(),
            sent_at="",
            body=packed,
        )
        self._sent.append(_Sent(await self._append(entry), chunk, entry))

    async def _append(self, entry: Entry) -> asyncio.Future[LogEnd]:
        give_up_at = self._steady() + STALL_SECONDS_MAX
        while True:
            try:
                # Opened with the first chunk that is new, so that a repeated import leaves no empty log.
                if self._writer is None:
                    self._writer = await asyncio.to_thread(self._open_writer)
                return self._writer.append(entry)
            except Unavailable as error:
                if self._steady() >= give_up_at or self._is_full_for_good():
                    raise self._given_up(str(error)) from error
                self._watcher.waits(str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _settle(self, left_max: int) -> None:
        """Wait until no more chunks than that are on their way, and remember those that arrived."""
        give_up_at = self._steady() + STALL_SECONDS_MAX
        while len(self._sent) > left_max:
            sent = self._sent.popleft()
            try:
                await sent.future
            except Unavailable as error:
                if self._steady() >= give_up_at:
                    raise self._given_up(str(error)) from error
                self._watcher.waits(str(error))
                await asyncio.sleep(LOOK_SECONDS)
                self._sent.append(_Sent(await self._append(sent.entry), sent.chunk, sent.entry))
                continue
            reach("import.durable")
            await asyncio.to_thread(self._progress.add, self._target, sent.chunk)
            reach("import.remembered")

    async def _close(self) -> None:
        """Seal the log of this import."""
        if self._writer is None:
            return
        # What is on its way arrives, so it is remembered too, even when the import was interrupted.
        await asyncio.to_thread(self._writer.close)
        for sent in self._sent:
            with suppress(Unavailable):
                await sent.future
                self._progress.add(self._target, sent.chunk)
        self._sent.clear()

    def _is_full_for_good(self) -> bool:
        """Tell whether the log has no room and nobody who would make some."""
        return self._writer is not None and self._writer.full and not self._pipeline.runs()

    # ---- the pipeline ----------------------------------------------------------------------------

    async def _keep_near(self) -> None:
        """Wait while the pipeline is too far behind."""
        if self._writer is None or self._steady() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._steady()
        last, moved_at = -1, self._looked_at
        while self._pipeline.runs():
            applied = self._pipeline.applied().get(self._writer.log_id, 0)
            if self._writer.end.offset - applied <= AHEAD_BYTES_MAX:
                return
            moved_at = self._moved_at(applied, last, moved_at)
            last = applied
            self._watcher.waits("the pipeline applies what is in the log")
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_committed(self) -> bool:
        """Wait until all that is in the log is in the lake; False if the server ends before."""
        ends = self._pipeline.accepted()
        last, moved_at = -1, self._steady()
        flushed = False
        while missing := _missing(ends, self._pipeline.committed()):
            if not self._pipeline.runs():
                return False
            unapplied = _missing(ends, self._pipeline.applied())
            if not unapplied and not flushed:
                flushed = True
                self._pipeline.flush()
            moved_at = self._moved_at(missing + unapplied, last, moved_at)
            last = missing + unapplied
            self._watcher.waits("the pipeline commits what is in the log")
            await asyncio.sleep(LOOK_SECONDS)
        return True

    def _moved_at(self, reached: int, last: int, moved_at: float) -> float:
        now = self._steady()
        if reached != last:
            return now
        if now - moved_at > PIPELINE_STALL_SECONDS_MAX:
            raise self._given_up("the pipeline of the running server stands still; see its messages")
        return moved_at

    def _given_up(self, reason: str) -> Unavailable:
        return Unavailable(
            f"importing: {reason}. What is in the log stays there; run the same command again to go on"
        )


def _missing(ends: Mapping[str, int], reached: Mapping[str, int]) -> int:
    return sum(max(0, end - reached.get(log_id, 0)) for log_id, end in ends.items())


def _next_packed(chunks: Iterator[Chunk]) -> tuple[Chunk, bytes] | None:
    chunk = next(chunks, None)
    if chunk is None:
        return None
    packed = b"" if chunk.known or not chunk.events else _CODEC.compress(chunk.body, asbytes=True)
    if not isinstance(packed, bytes):
        raise Internal("zstd gave no bytes")
    return chunk, packed
