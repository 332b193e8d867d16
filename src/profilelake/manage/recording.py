"""Recording what management decides: one at a time, with everything in force that was decided before.

A decision is one or a few records of the event log; the pipeline applies them like events.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from profilelake.errors import NotFound, Unavailable
from profilelake.eventlog import Entry
from profilelake.manage.status import accepted_ends
from profilelake.manage.waiting import POLL_SECONDS, WAIT_SECONDS_MAX, flushed
from profilelake.pipeline.progress import load_published
from profilelake.semantics.positions import Position
from profilelake.state.store import State

RECORD_SECONDS_MAX: Final = 3.0
"""How long a decision may take to become durable.

With an Idempotency-Key the control database is held meanwhile: others give up waiting for it later than that.
"""

Place: TypeAlias = Callable[[Entry], Coroutine[Any, Any, Position]]


@dataclass(frozen=True, slots=True)
class Recording:
    """Records decisions about a workspace. `place` makes an entry of the event log durable and tells its position."""

    workspace: str
    state: Callable[[], State]
    place: Place
    log_directory: Path
    flush_request: Path
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request that decides: the next one must see what it has decided."""

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """Be the only request that decides, with everything in force that was decided before.

        Raises:
            Unavailable: what was decided before is not in force in time.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + WAIT_SECONDS_MAX
        try:
            async with asyncio.timeout_at(give_up_at):
                await self.turn.acquire()
        except TimeoutError as error:
            raise _decisions_wait() from error
        try:
            # The HTTP processes of a server take turns too; the lock goes with the process that holds it.
            with self.flush_request.with_name("deciding.lock").open("ab") as file:
                while not _locked(file):
                    if loop.time() >= give_up_at:
                        raise _decisions_wait()
                    await asyncio.sleep(POLL_SECONDS)
                await self.settled(give_up_at - loop.time())
                yield
        finally:
            self.turn.release()

    async def settled(self, seconds_max: float | None = None) -> None:
        """Return once everything accepted before is in state and lake. Raises Unavailable in time."""
        if not await self.committed(WAIT_SECONDS_MAX if seconds_max is None else seconds_max):
            raise _decisions_wait()

    async def committed(self, seconds_max: float) -> bool:
        """Wait until everything accepted before is in state and lake; tell whether it is."""
        target = accepted_ends(self.log_directory)

        def done(reached: dict[str, tuple[int, int]]) -> bool:
            return all(reached.get(log, (0, 0))[0] >= offset for log, offset in target.items())

        return done(await flushed(self.flush_request.touch, self._published, done, seconds_max))

    def _published(self) -> dict[str, tuple[int, int]]:
        def read() -> dict[str, tuple[int, int]]:
            with self.state().read(self.workspace) as tx:
                return load_published(tx, self.workspace).vector

        found: dict[str, tuple[int, int]] = or_nothing(read, {})
        return found

    def record(self, entries: Sequence[Entry], loop: asyncio.AbstractEventLoop, look: str) -> list[Position]:
        """Make facts durable in their order, from a thread; return where they stand.

        `look` is where a client sees what was recorded.

        Raises:
            Unavailable: that is not known in time.
        """

        async def placed() -> list[Position]:
            return await asyncio.gather(*(self.place(entry) for entry in entries))

        try:
            # Left to itself when time is up: what waits for the disk is shared with requests that go on.
            return asyncio.run_coroutine_threadsafe(placed(), loop).result(RECORD_SECONDS_MAX)
        except TimeoutError as error:
            raise Unavailable(
                f"recording a decision: the event log does not answer within {RECORD_SECONDS_MAX:.0f} seconds;"
                f" it may have been recorded; look at {look}"
            ) from error


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decisions_wait() -> Unavailable:
    return Unavailable(
        "deciding: decisions wait until everything accepted before is applied and committed, and that takes"
        " longer than may be waited for; nothing was decided, try again later",
        retry_after_seconds=60,
    )


def or_nothing(read: Callable[[], Any], nothing: Any) -> Any:
    """Return what is read, or `nothing` where nothing was applied yet."""
    try:
        return read()
    except NotFound:
        return nothing
