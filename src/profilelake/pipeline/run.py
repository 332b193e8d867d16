"""The loops of the pipeline: one applies the log to the state, the other publishes the state to the lake.

Each is a process of its own: both are Python, and in one process they would take turns.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from profilelake.errors import Unavailable
from profilelake.eventlog import LogEnd
from profilelake.eventlog.embedded import Limits, LogReader, prune
from profilelake.lake.catalog import Lake
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.observing import Observing
from profilelake.pipeline.progress import load_published
from profilelake.pipeline.publish import Publisher
from profilelake.settings import PipelineSettings
from profilelake.state.store import State

MICRO_BATCH_BYTES_MAX: Final = 32 << 20
"""Log bytes one micro-batch takes at most."""
TICK_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0
REPLAY_WAIT_SECONDS: Final = 0.005
"""Waited for an answer worked out in the background, so that its thread gets its turn."""
TEND_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Applying:
    """The loop between log and state."""

    log_directory: Path
    state: State
    workspaces: list[WorkspaceSetup]
    region: str
    settings: PipelineSettings
    clock: Clock
    registry: CollectorRegistry
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Have `run` apply what the log holds and return."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`; raise what made work impossible."""
        stages = Stages(self.registry)
        timer = Timer(stages)
        batcher = Batcher(self.state, self.workspaces, self.region, self.clock(), timer)
        self._apply(batcher, timer, stages)

    def _apply(self, batcher: Batcher, timer: Timer, stages: Stages) -> None:
        reader = LogReader(self.log_directory, clock=self.clock)
        vector = batcher.vector()
        while True:
            started_at = time.monotonic()
            timer.start()
            batcher.look()
            stopping = self._stop.is_set()
            slice = reader.read(
                vector,
                bytes_max=MICRO_BATCH_BYTES_MAX,
                events_max=self.settings.micro_batch_events_max,
                wait_max_seconds=self.settings.watermark_wait_seconds,
            )
            timer.lap("read")
            reach("log.read")
            if slice.behind:
                _log.warning("logs %s do not move; what they bring later is late", ", ".join(slice.behind))
            if slice.records or slice.damage:
                try:
                    batcher.apply(slice)
                except (Unavailable, OSError) as error:
                    _log.error("micro-batch not applied, trying again: %s", error)
                    # Where a bad record had to be looked for, a part of it may be applied.
                    vector = batcher.vector()
                    self._stop.wait(RETRY_SECONDS)
                    continue
                vector = {**vector, **slice.ends}
                self._replays(batcher, stages)
            elif stopping and not slice.behind:
                return  # what waits to be resolved again is noted in the state, for the next start
            elif not stopping:
                self._replays(batcher, stages)
            left = self.settings.micro_batch_seconds - (time.monotonic() - started_at)
            busy = sum(record.events for record in slice.records) > self.settings.micro_batch_events_max // 2
            if left > 0 and not stopping and not busy:
                self._stop.wait(left)

    def _replays(self, batcher: Batcher, stages: Stages) -> bool:
        """Go on with what waits to be resolved again; tell whether more waits."""
        try:
            waits = batcher.tend_replays(wait_seconds=REPLAY_WAIT_SECONDS)
        except (Unavailable, OSError) as error:
            _log.error("replay of identities not finished, beginning again: %s", error)
            self._stop.wait(RETRY_SECONDS)
            return True
        stages.identity(list(batcher.waiting()), self.clock(), batcher.quarantined())
        return waits


@dataclass(slots=True)
class Publishing:
    """The loop between state and lake, and the maintenance of both. Meets `Applying` in the state only."""

    log_directory: Path
    flush_request: Path
    state: State
    lake: Lake
    workspaces: list[WorkspaceSetup]
    settings: PipelineSettings
    clock: Clock
    registry: CollectorRegistry
    log_limits: Limits = field(default_factory=Limits)
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Have `run` publish what the state holds and return."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`; raise what made work impossible."""
        publishers = [
            Publisher(
                workspace=setup.name,
                state=self.state,
                lake=self.lake,
                recent_directory=setup.recent_directory,
                rules=setup.rules,
                clock=self.clock,
                publish_age_seconds=self.settings.publish_age_seconds,
                observing=Observing.of(setup.identifier_key),
            )
            for setup in self.workspaces
        ]
        stages = Stages(self.registry)
        self._publish(publishers, Timer(stages), stages)

    def _publish(self, publishers: list[Publisher], timer: Timer, stages: Stages) -> None:
        published_at = tended_at = time.monotonic()
        flushed = self._flush_mark()
        while True:
            last = self._stop.is_set()
            mark = self._flush_mark()
            now = time.monotonic()
            asked = mark != flushed or last
            if asked or now - published_at >= self.settings.lake_age_seconds:
                timer.start()
                try:
                    for publisher in publishers:
                        publisher.publish(whole=asked)
                    timer.lap("publish")
                    observed = [publisher.observing for publisher in publishers]
                    stages.schema(
                        sum(one.listed for one in observed), sum(one.unlisted() for one in observed)
                    )
                    flushed, published_at = mark, now
                except (Unavailable, OSError) as error:
                    _log.error("publication not finished, trying again: %s", error)
                    if last:
                        return
                    self._stop.wait(RETRY_SECONDS)
            if last:
                return
            if now - tended_at >= TEND_SECONDS:
                tended_at = now
                timer.start()
                self._tend(publishers)
                timer.lap("tend")
            self._stop.wait(TICK_SECONDS)

    def _tend(self, publishers: list[Publisher]) -> None:
        """Do what keeps reads fast and disks bounded; a failure here is retried and loses nothing."""
        try:
            # First, since it makes room on the disk that the others need.
            self._prune()
            for publisher in publishers:
                publisher.tend_runs()
                with self.state.read(publisher.workspace) as tx:
                    published = load_published(tx, publisher.workspace)
                age = self.clock() - published.merged_at
                if age >= self.settings.publish_age_seconds * 1_000_000:
                    publisher.merge()
        except (Unavailable, OSError) as error:
            _log.error("maintenance not finished, trying again: %s", error)

    def _prune(self) -> None:
        """Let go of log segments that are in the lake of every workspace and old enough."""
        consumed: dict[str, LogEnd] = {}
        for number, setup in enumerate(self.workspaces):
            with self.state.read(setup.name) as tx:
                vector = load_published(tx, setup.name).vector
            for log, (offset, events) in vector.items():
                before = consumed.get(log)
                if number == 0 or (before is not None and offset < before.offset):
                    consumed[log] = LogEnd(offset, events)
        prune(
            self.log_directory,
            consumed,
            keep_seconds=self.settings.log_retention_hours * 3600,
            now=self.clock(),
            limits=self.log_limits,
        )

    def _flush_mark(self) -> int:
        try:
            return os.stat(self.flush_request).st_mtime_ns  # noqa: PTH116 - called fifty times a second
        except FileNotFoundError:
            return 0
