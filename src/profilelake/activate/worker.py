"""The worker of one destination: look at the feed, note what is to be sent, send it, note what became of it.

Batches of one lane go one after the other, so what is said of a profile arrives in order; lanes go side by side.
Nothing new is taken from the feed while something waits, so a receiver that is away costs no memory.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from profilelake.activate import telling
from profilelake.activate.feed import Gone, pipeline_time
from profilelake.activate.journal import Batch, Journal
from profilelake.activate.metrics import ActivateMetrics
from profilelake.activate.packing import packed
from profilelake.activate.sending import Outcome, Receiver, Verdict
from profilelake.errors import NotFound, Unavailable
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.state.store import State
from profilelake.workspaces.destinations import Held

BACK_OFF_FIRST_SECONDS: Final = 1.0
BACK_OFF_MAX_SECONDS: Final = 300.0
"""Longest wait between two attempts, unless the receiver asks for a longer one."""
BACK_OFF_DOUBLINGS_MAX: Final = 16
FAULT_SECONDS: Final = 5.0
"""How long a worker rests after a fault of ours, before it goes on."""
SEEN_EVERY_SECONDS: Final = 10
"""How often it is noted how far a destination is while there is nothing to tell."""
TURN_RECORDS_MAX: Final = 5_000
"""Changes of one look, profiles of one part of a sweep, and dead letters that are sent again at once."""
DEAD_LETTERS_MAX: Final = "dead_letters_max"
"""The limit's name in the metric."""
ROOM_SECONDS: Final = 1.0
"""How often it is seen whether there is room for a dead letter again."""

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The worker was told to stop, or its destination has changed."""


@dataclass(slots=True)
class Worker:
    """Tells one destination. Its parts are its own: a receiver that hangs holds up nobody else.

    `sleep` returns after that many seconds, or earlier once `stopping` is set. `paused` is called where the
    receiver says that it is gone.
    """

    workspace: str
    held: Held
    state: Callable[[], State]
    journal: Journal
    receiver: Receiver
    news: asyncio.Event
    stopping: asyncio.Event
    clock: Clock
    rng: random.Random
    metrics: ActivateMetrics
    pause: Callable[[str, str], Awaitable[None]]
    sleep: Callable[[float], Awaitable[None]]
    letters_max: int
    """Dead letters that there may be; with more to give up nothing goes on."""
    _failures: int = 0
    _full: dict[int, int] = field(default_factory=dict)
    """Lanes that wait for room for a dead letter, and how often in a row."""
    _noted: int = 0

    @property
    def name(self) -> str:
        """The name of the destination."""
        return self.held.destination.name

    async def run(self) -> None:
        """Work until `stopping` is set, whatever goes wrong."""
        while not self.stopping.is_set():
            try:
                await asyncio.to_thread(self._begin)
                while True:
                    self._check()
                    await self._once()
            except Stopped:
                return
            except Gone as error:
                _log.warning("destination %s begins anew with what differs: %s", self.name, error)
            except (NotFound, Unavailable) as error:
                _log.info("destination %s waits: %s", self.name, error)
                await self.sleep(FAULT_SECONDS)
            except Exception:  # noqa: BLE001 - whatever it is
                # A fault of ours about one destination must not end the process of all others.
                _log.exception("telling destination %s failed", self.name)
                self.metrics.faults.labels(self.name).inc()
                await self.sleep(FAULT_SECONDS)

    async def _once(self) -> None:
        self.news.clear()
        waiting = await asyncio.to_thread(self.journal.waiting, self.name)
        if waiting:
            await self._deliver(waiting)
            return
        # Both in turn: a million letters that are sent again do not hold up what is new.
        again = await asyncio.to_thread(self._again)
        if not (await asyncio.to_thread(self._look) or again):
            await self.news.wait()

    def _begin(self) -> None:
        self._full.clear()
        self.journal.letters.waits_since(self.name, 0)
        with self.state().read(self.workspace) as tx:
            telling.begin(tx, self.workspace, self.journal, self.held, self.clock())

    def _look(self) -> bool:
        """Note what comes next; tell whether anything did."""
        destination = self.held.destination
        with self.state().read(self.workspace) as tx:
            telling.follow(tx, self.workspace, self.journal, destination, self.clock())
            turn = telling.turn(tx, self.workspace, self.journal, destination, most=self._turn)
            seen = pipeline_time(tx, self.workspace)
        if turn is None:
            if seen - self._noted >= SEEN_EVERY_SECONDS * 1_000_000:
                self._noted = seen
                self.journal.seen(self.name, seen)
            return False
        self.journal.put(self.name, turn, seen=seen)
        reach("activate.noted")
        return True

    @property
    def _turn(self) -> int:
        destination = self.held.destination
        return min(TURN_RECORDS_MAX, destination.batch * destination.parallel * 4)

    def _again(self, full_at: int = 0) -> bool:
        """Note the next dead letters that somebody wants sent again; tell whether there were any."""
        became = self.journal.send_again(
            self.name, self._turn, partial(packed, self.held.destination), full_at=full_at
        )
        if not (became.replayed or became.outdated):
            return False
        reach("activate.again")
        if became.outdated:
            _log.info(
                "destination %s: %d dead letters are not sent again, it was told something newer since",
                self.name,
                became.outdated,
            )
        return True

    # ---- sending ---------------------------------------------------------------------------------

    async def _deliver(self, waiting: Sequence[Batch]) -> None:
        lanes: dict[int, list[Batch]] = {}
        for batch in waiting:
            lanes.setdefault(batch.lane, []).append(batch)
        async with asyncio.TaskGroup() as group:
            for batches in lanes.values():
                group.create_task(self._lane(batches))

    async def _lane(self, batches: Sequence[Batch]) -> None:
        """Send batches one after the other; return early where the worker is to stop."""
        try:
            for batch in batches:
                await self._batch(batch)
        except Stopped:
            return  # the loop sees it too; here it must not end the other lanes in the middle of a request

    async def _batch(self, batch: Batch) -> None:
        """Send a batch until each of its records is delivered or given up."""
        size = len(batch.records)
        while batch.records:
            self._check()
            chunk = batch.records[:size]
            with self.metrics.seconds.labels(self.name).time():
                outcome = await self.receiver.send(chunk)
            reach("activate.sent")
            self.metrics.requests.labels(self.name, outcome.verdict.value).inc()
            match outcome.verdict:
                case Verdict.DELIVERED:
                    self._failures = 0
                    self._goes_on(batch.lane)
                    batch = self.journal.delivered(self.name, batch, len(chunk), now=self.clock())
                    self.metrics.records.labels(self.name, "delivered").inc(len(chunk))
                    size = len(batch.records)
                case Verdict.REFUSED if len(chunk) > 1:
                    size = len(chunk) // 2  # one of them may be what it does not take
                case Verdict.REFUSED:
                    batch = await self._bury(batch, 1, outcome)
                    size = len(batch.records)
                case Verdict.GONE:
                    self._tried(batch, outcome)
                    # First this: where it fails, the worker is to go on, and to be told so again.
                    await self.pause(self.name, outcome.reason)
                    self.stopping.set()
                    raise Stopped
                case Verdict.LATER:
                    batch = await self._later(batch, len(chunk), outcome)
                    size = min(size, len(batch.records)) or len(batch.records)

    async def _later(self, batch: Batch, count: int, outcome: Outcome) -> Batch:
        """Wait for the next attempt, or give the records up that were tried for long enough."""
        batch = self._tried(batch, outcome)
        self._failures += 1
        age = (self.clock() - batch.first_at) / 1_000_000
        if age >= self.held.destination.retry_hours * 3600:
            return await self._bury(batch, count, outcome)
        drawn = back_off(self._failures, self.rng)
        _log.info(
            "destination %s, attempt %d: %s; next in %.1f s",
            self.name,
            batch.attempts,
            outcome.reason,
            max(drawn, outcome.retry_after_seconds),
        )
        await self.sleep(max(drawn, outcome.retry_after_seconds))
        return batch

    def _tried(self, batch: Batch, outcome: Outcome) -> Batch:
        first = batch.first_at or self.clock()
        batch = Batch(batch.id, batch.lane, batch.records, first, batch.attempts + 1)
        self.journal.tried(self.name, batch, outcome.reason)
        return batch

    async def _bury(self, batch: Batch, count: int, outcome: Outcome) -> Batch:
        """Give the first records up; where there is no room for letters, wait for it, then try them once more."""
        tried = Batch(batch.id, batch.lane, batch.records, batch.first_at, batch.attempts or 1)
        left = self.journal.bury(
            self.name,
            tried,
            count,
            outcome.reason,
            outcome.status,
            now=self.clock(),
            most=self.letters_max,
        )
        buried = len(batch.records) - len(left.records)
        if not buried:
            await self._wait_for_room(batch.lane)
            return batch
        self._goes_on(batch.lane)
        self.metrics.records.labels(self.name, "dead").inc(buried)
        _log.warning(
            "destination %s: %d records become dead letters: %s; see them: profilelake destination dead %s",
            self.name,
            buried,
            outcome.reason,
            self.name,
        )
        return left

    async def _wait_for_room(self, lane: int) -> None:
        """Return when there is room for a letter again, or when it is time to see what the receiver says now."""
        if not self.journal.letters.of(self.name).full_since:
            self.journal.letters.waits_since(self.name, self.clock())
        self._full[lane] = self._full.get(lane, 0) + 1
        self.metrics.limits.labels(self.name, DEAD_LETTERS_MAX).inc()
        left = back_off_at_most(self._full[lane])
        while left > 0:
            # Room is made by letters that are sent again, which else would wait for what waits for them.
            if self.journal.letters.of(self.name).held < self.letters_max:
                return
            if self._again(self.letters_max):
                # With a limit that was lowered there are many pages until there is room.
                await asyncio.sleep(0)
                self._check()
                continue
            self._check()
            await self.sleep(min(left, ROOM_SECONDS))
            self._check()
            left -= ROOM_SECONDS

    def _goes_on(self, lane: int) -> None:
        """Note that a lane got further, and that nothing waits for room any more where it was the last one."""
        if self._full.pop(lane, 0) and not self._full:
            self.journal.letters.waits_since(self.name, 0)

    def _check(self) -> None:
        if self.stopping.is_set():
            raise Stopped


def back_off(failures: int, rng: random.Random) -> float:
    """Return how long to wait after so many failures in a row: full jitter over a span that doubles."""
    return rng.uniform(0.0, back_off_at_most(failures))


def back_off_at_most(failures: int) -> float:
    """Return the longest that is waited after so many failures in a row."""
    doublings = min(failures - 1, BACK_OFF_DOUBLINGS_MAX)
    return min(BACK_OFF_MAX_SECONDS, BACK_OFF_FIRST_SECONDS * 2.0**doublings)
