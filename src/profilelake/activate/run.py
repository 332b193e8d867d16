"""Telling all destinations: one worker each, begun and ended as destinations come, change and go."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from profilelake.activate import secret_files
from profilelake.activate.addresses import Allowed, Resolve
from profilelake.activate.journal import Journal
from profilelake.activate.metrics import ActivateMetrics
from profilelake.activate.sending import Receiver
from profilelake.activate.worker import Worker
from profilelake.errors import Invalid, ProfilelakeError
from profilelake.ops.clock import Clock
from profilelake.settings import ActivateSettings
from profilelake.state.store import Db, State
from profilelake.workspaces.control import Control
from profilelake.workspaces.destinations import Held

LOOK_SECONDS: Final = 0.05
"""How often it is seen whether the feed has grown."""
LOOK_AT_DESTINATIONS_SECONDS: Final = 1.0
LETTERS_SECONDS: Final = 5.0
"""How often dead letters are counted, and those whose time is over put away."""
EXPIRE_ROWS: Final = 2_000
"""Dead letters that one transaction puts away, and the next only after a look at everything else."""
STOP_SECONDS: Final = 5.0
"""How long requests under way may take once the process is to stop; what is cut off is sent again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    held: Held
    worker: Worker
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class Activating:
    """The workers of one workspace. With no destinations it only looks for some, once a second."""

    workspace: str
    state: Callable[[], State]
    control: Path
    journal: Path
    secrets: Path
    environment: Mapping[str, str]
    settings: ActivateSettings
    clock: Clock
    rng: random.Random
    metrics: ActivateMetrics
    resolve: Resolve
    random_bytes: Callable[[int], bytes]
    _running: dict[str, _Running] = field(default_factory=dict)
    _news: list[asyncio.Event] = field(default_factory=list)
    _tended: int = 0
    _counted: bool = False
    _expiring: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Tell destinations until `stop` is set, then let requests under way end."""
        control = Control.open(self.control, self.random_bytes)
        try:
            watching = asyncio.create_task(self._watch(stop))
            version = -1
            while not stop.is_set():
                version = await self._follow(control, version)
                await asyncio.to_thread(self._tend_letters)
                await _wait(stop, LOOK_AT_DESTINATIONS_SECONDS)
            await watching
        finally:
            await self._end(list(self._running))
            control.close()

    async def _follow(self, control: Control, version: int) -> int:
        """Begin and end workers as the control database says; return its version."""
        try:
            found = control.data_version()
            if found != version:
                destinations = {
                    held.destination.name: held for held in control.destinations(self.workspace).all()
                }
                await self._change(destinations)
            return found
        except (sqlite3.Error, ProfilelakeError) as error:
            _log.error("looking for destinations failed, trying again: %s", error)
            return -1

    async def _change(self, destinations: Mapping[str, Held]) -> None:
        active = {name: held for name, held in destinations.items() if held.active}
        await self._end([name for name, one in self._running.items() if active.get(name) != one.held])
        if self.journal.exists():
            await asyncio.to_thread(self._forget, set(destinations))
        for name, held in active.items():
            if name not in self._running:
                try:
                    self._running[name] = self._begun(held)
                except Invalid as error:  # the others are told all the same
                    self.metrics.faults.labels(name).inc()
                    _log.error("destination %s is not told of anything: %s", name, error)

    def _forget(self, names: set[str]) -> None:
        with Journal.open(self.journal) as journal:
            for name in journal.names() - names:
                held = journal.letters.of(name).held
                if held:
                    _log.warning("destination %s is no more, and %d dead letters with it", name, held)
                journal.forget(name)
                self.metrics.forget_letters(name)

    def _tend_letters(self) -> None:
        """Count the dead letters of all destinations, also of those that are paused, and let old ones go."""
        now = self.clock()
        # A clock that was set back must not put this off until it is there again.
        if not self._expiring and 0 <= now - self._tended < LETTERS_SECONDS * 1_000_000:
            return
        self._tended, self._expiring = now, False
        if not self.journal.exists():
            self._counted = True  # whatever there will be is new
            return
        try:
            with Journal.open(self.journal) as journal:
                names, most = sorted(journal.names()), self.settings.dead_letters_max
                if not self._counted:
                    for name in names:
                        self.metrics.letters_are(name, journal.letters.of(name), most, first=True)
                    self._counted = True
                for name in names:
                    self._expiring |= self._expire(journal, name, now)
                    self.metrics.letters_are(name, journal.letters.of(name), most)
        except (sqlite3.Error, ProfilelakeError) as error:
            _log.error("looking after dead letters failed, trying again: %s", error)

    def _expire(self, journal: Journal, name: str, now: int) -> bool:
        """Let some letters go whose time is over; tell whether there may be more."""
        days = self.settings.dead_letters_days
        before = now - int(days * 86_400_000_000)
        if not days or not journal.letters.any_before(name, before):
            return False
        went = journal.letters.expire(name, before, EXPIRE_ROWS, now=now)
        if went:
            _log.warning(
                "destination %s: %d dead letters are older than %g days (activate.dead_letters_days) and are gone",
                name,
                went,
                days,
            )
        return went > 0

    def _begun(self, held: Held) -> _Running:
        stopping, news = asyncio.Event(), asyncio.Event()
        receiver = Receiver(
            held.destination,
            lambda name: secret_files.read(self.secrets, name, self.environment),
            allowed=Allowed(self.settings.networks()),
            resolve=self.resolve,
            clock=self.clock,
            connect_seconds=self.settings.connect_seconds,
            answer_seconds=self.settings.answer_seconds,
        )
        worker = Worker(
            workspace=self.workspace,
            held=held,
            state=self.state,
            journal=Journal.open(self.journal),
            receiver=receiver,
            news=news,
            stopping=stopping,
            clock=self.clock,
            rng=self.rng,
            metrics=self.metrics,
            pause=self._pause,
            sleep=partial(_wait, stopping),
            letters_max=self.settings.dead_letters_max,
        )
        self._news.append(news)
        return _Running(held, worker, asyncio.create_task(worker.run()))

    async def _end(self, names: list[str]) -> None:
        """End workers: each finishes the request it is at, or is cut off when it takes too long."""
        ending = [self._running.pop(name) for name in names]
        for one in ending:
            one.worker.stopping.set()
            one.worker.news.set()
        if ending:
            _, late = await asyncio.wait([one.task for one in ending], timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for one in ending:
            self._news.remove(one.worker.news)
            await one.worker.receiver.close()
            one.worker.journal.close()

    async def _pause(self, name: str, reason: str) -> None:
        def act() -> None:
            with Control.open(self.control, self.random_bytes) as control:
                control.destinations(self.workspace).pause(name, reason, now=self.clock())

        _log.warning("destination %s is paused: %s", name, reason)
        await asyncio.to_thread(act)

    async def _watch(self, stop: asyncio.Event) -> None:
        """Wake the workers when there is something new, in the feed or in the journal."""
        seen: object = None
        journal: Journal | None = None
        while not stop.is_set():
            if self._running:
                journal = journal or Journal.open(self.journal)
                now = self._newest(journal)
                if now != seen:
                    seen = now
                    for news in self._news:
                        news.set()
            await _wait(stop, LOOK_SECONDS if self._running else LOOK_AT_DESTINATIONS_SECONDS)
        if journal is not None:
            journal.close()

    def _newest(self, journal: Journal) -> object:
        try:
            state = self.state()
            with state.read(self.workspace) as tx:
                keys = (tx.last_key(self.workspace, Db.CHANGE), tx.last_key(self.workspace, Db.TOUCHED))
                facts = tx.last_key(self.workspace, Db.DEFINITION_FACT)
            return id(state), keys, facts, journal.version()
        except ProfilelakeError:
            return None  # no state yet, or a busy disk: the next look is soon


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
