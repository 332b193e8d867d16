"""The loops of the pipeline: one applies the log to the state, the other publishes the state to the lake.

Each is a process of its own: both are Python, and in one process they would take turns.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from profilelake.activate.retention import trim
from profilelake.errors import Unavailable
from profilelake.eventlog import LogEnd
from profilelake.eventlog.embedded import Limits, LogReader, prune
from profilelake.lake.catalog import Lake
from profilelake.lake.files import local_path
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.pipeline.backfilling import Backfilling
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.cadence import Cadence
from profilelake.pipeline.forgetting import ForgetReplays, Forgetting
from profilelake.pipeline.lake_metrics import LakeMetrics
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.observing import Observing
from profilelake.pipeline.progress import load_published
from profilelake.pipeline.publish import Publisher
from profilelake.pipeline.sql_runs import Ask, SqlRuns
from profilelake.pipeline.tending import Tending
from profilelake.pipeline.upkeep import Record, Upkeep
from profilelake.settings import EngineSettings, LakeSettings, PipelineSettings
from profilelake.state.store import State

MICRO_BATCH_BYTES_MAX: Final = 32 << 20
"""Log bytes one micro-batch takes at most."""
TICK_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0
REPLAY_WAIT_SECONDS: Final = 0.005
"""Waited for an answer worked out in the background, so that its thread gets its turn."""
TEND_SECONDS: Final = 5.0
TRIM_REST_SECONDS: Final = 0.05
PUBLISH_SHARE: Final = 0.5
"""Part of its time that each of the two publishing threads works at most, unless somebody waits."""
LOOK_SECONDS_EACH: Final = 0.001
"""Looking whether a workspace has something to publish is done so rarely, per workspace, that it costs little."""

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
    _stood_at: float = float("-inf")

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
        vector, more = batcher.vector(), False
        while True:
            started_at = time.monotonic()
            timer.start()
            batcher.look()
            stopping = self._stop.is_set()
            slice = reader.read(
                vector,
                bytes_max=MICRO_BATCH_BYTES_MAX,
                events_max=self.settings.micro_batch_events_max,
                wait_max_seconds=0.0 if more else self.settings.watermark_wait_seconds,
            )
            timer.lap("read")
            reach("log.read")
            more = False
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
                more = self._compute(batcher, stages, slice.watermark)
            elif stopping and not slice.behind:
                return  # what waits to be resolved again is noted in the state, for the next start
            elif not stopping:
                self._replays(batcher, stages)
                more = self._compute(batcher, stages, slice.watermark)
            left = self.settings.micro_batch_seconds - (time.monotonic() - started_at)
            busy = sum(record.events for record in slice.records) > self.settings.micro_batch_events_max // 2
            if left > 0 and not stopping and not busy and not more:
                self._stop.wait(left)

    def _compute(self, batcher: Batcher, stages: Stages, watermark: int) -> bool:
        """Go on with timers and new definitions for one micro-batch; tell whether more waits."""
        try:
            more = batcher.tend_computing(watermark)
        except (Unavailable, OSError) as error:
            _log.error("timers and definitions not gone on with, trying again: %s", error)
            self._stop.wait(RETRY_SECONDS)
            return True
        done, now = batcher.computed(), time.monotonic()
        stages.computed(done.evaluated, done.changes)
        if now - self._stood_at >= TEND_SECONDS:
            self._stood_at = now
            standing = list(batcher.standing(watermark))
            if standing:
                stages.definitions(
                    sum((Counter(one.statuses) for one in standing), Counter[str]()),
                    max(one.late for one in standing) / 1_000_000,
                    sum(one.partial_bytes for one in standing),
                )
        return more

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


@dataclass(frozen=True, slots=True)
class Asking:
    """How SQL definitions run: what asks a query, where results lie meanwhile, and where runs are asked for."""

    ask: Ask
    folder: Path
    requests: Path


@dataclass(slots=True)
class Publishing:
    """The loops between state and lake, and the maintenance of both. Meets `Applying` in the state only.

    Three threads: facts are published in the one that calls `run`; the derived tables, which may be much
    work, and maintenance beside it.
    """

    log_directory: Path
    flush_request: Path
    state: State
    lake: Lake
    workspaces: list[WorkspaceSetup]
    settings: PipelineSettings
    clock: Clock
    registry: CollectorRegistry
    log_limits: Limits = field(default_factory=Limits)
    lake_settings: LakeSettings = field(default_factory=LakeSettings)
    job_days: float = EngineSettings().job_days
    forget_replays: ForgetReplays = lambda _before: False
    """How long what an unfinished job of a plan has done is kept."""
    lake_requests: Path | None = None
    maintenance_record: Path | None = None
    asking: Asking | None = None
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
        stages, metrics = Stages(self.registry), LakeMetrics(self.registry)
        beside = [
            _Beside("current", partial(self._publish_current, publishers, stages), self._stop),
            _Beside("tend", self._tending(publishers, metrics).run, self._stop),
            _Beside("backfill", self._backfilling().run, self._stop),
            *(_Beside("sql", runs.run, self._stop) for runs in self._sql_runs()),
        ]
        for thread in beside:
            thread.start()
        try:
            self._publish_facts(publishers, Timer(stages), metrics)
        finally:
            self._stop.set()
            for thread in beside:
                thread.join()
        for thread in beside:
            if thread.failure is not None:
                raise thread.failure
        self._try(lambda: [publisher.publish(whole=True) for publisher in publishers])

    def _backfilling(self) -> Backfilling:
        return Backfilling(
            state=self.state,
            lake=self.lake,
            workspaces=[setup.name for setup in self.workspaces],
            directory=self.flush_request.with_name("backfill"),
            ask_to_publish=self.flush_request.touch,
            stop=self._stop,
        )

    def _sql_runs(self) -> Iterator[SqlRuns]:
        """Yield what runs the SQL definitions of each workspace, where queries can be asked."""
        if self.asking is None:
            return
        for setup in self.workspaces:
            yield SqlRuns(
                state=self.state,
                workspace=setup.name,
                ask=self.asking.ask,
                folder=self.asking.folder,
                requests=self.asking.requests,
                identifier_key=setup.identifier_key,
                rules=setup.rules,
                clock=self.clock,
                stop=self._stop,
            )

    def _tending(self, publishers: list[Publisher], metrics: LakeMetrics) -> Tending:
        record = Record(
            self.maintenance_record or local_path(self.lake.warehouse).parent / "maintenance.jsonl",
            self.clock,
        )
        upkeeps = [
            Upkeep(setup.name, self.lake, self.clock, record, self._stop.is_set) for setup in self.workspaces
        ]
        days = self.settings.failed_retention_days
        return Tending(
            publishers=publishers,
            upkeeps=upkeeps,
            forgetting=Forgetting(publishers, upkeeps, days, self.forget_replays, self.clock, metrics),
            settings=self.lake_settings,
            job_days=self.job_days,
            publish_age_seconds=self.settings.publish_age_seconds,
            requests=self.lake_requests or self.flush_request.with_name("lake"),
            clock=self.clock,
            metrics=metrics,
            stop=self._stop,
        )

    def _publish_facts(self, publishers: list[Publisher], timer: Timer, metrics: LakeMetrics) -> None:
        """Commit facts when they are due or somebody waits, and let go of log segments."""
        pruned_at = time.monotonic()
        last_age = 0.0

        def publish(publisher: Publisher, _asked: bool) -> None:
            nonlocal last_age
            published = publisher.publish_facts()
            if published is not None and published.oldest_at is not None:
                last_age = max(0, self.clock() - published.oldest_at) / 1_000_000

        def between(cadence: Cadence, now: float) -> None:
            nonlocal pruned_at
            metrics.age(max(last_age, cadence.oldest(now)))
            if now - pruned_at >= TEND_SECONDS:
                pruned_at = now
                self._try(self._prune)

        self._publishing(publishers, Publisher.facts_waiting, publish, between, (timer, "publish"))

    def _publish_current(self, publishers: list[Publisher], stages: Stages) -> None:
        """Commit the derived tables when they are due or somebody waits, and tend the recent runs."""
        tended_at = time.monotonic()
        timer = Timer(stages)

        def publish(publisher: Publisher, asked: bool) -> None:
            publisher.publish_current(whole=asked)
            observed = [each.observing for each in publishers]
            stages.schema(sum(one.listed for one in observed), sum(one.unlisted() for one in observed))

        def between(_cadence: Cadence, now: float) -> None:
            nonlocal tended_at
            if now - tended_at < TEND_SECONDS:
                return
            tended_at = now
            timer.start()
            for publisher in publishers:
                self._try(publisher.tend_runs)
            timer.lap("tend")

        self._publishing(publishers, Publisher.current_waiting, publish, between, (timer, "current"))

    def _publishing(
        self,
        publishers: list[Publisher],
        waiting: Callable[[Publisher], int],
        publish: Callable[[Publisher, bool], None],
        between: Callable[[Cadence, float], None],
        timed: tuple[Timer, str],
    ) -> None:
        """Publish whatever waits, when it is due or somebody asks for it, until told to stop."""
        cadence = Cadence(self.settings.lake_age_seconds, PUBLISH_SHARE)
        named = {publisher.workspace: publisher for publisher in publishers}
        look_seconds = max(TICK_SECONDS, len(publishers) * LOOK_SECONDS_EACH)
        timer, stage = timed
        flushed, looked_at = self._flush_mark(), -look_seconds
        asked: set[str] = set()
        while not self._stop.is_set():
            now = time.monotonic()
            mark = self._flush_mark()
            if mark != flushed or now - looked_at >= look_seconds:
                if mark != flushed:
                    asked.update(named)
                flushed, looked_at = mark, now
                for name, publisher in named.items():
                    cadence.saw(name, max(waiting(publisher), int(name in asked)), now)
            chosen = cadence.next(now, asked=bool(asked))
            if chosen is not None:
                timer.start()
                done = self._try(partial(publish, named[chosen], chosen in asked))
                timer.lap(stage)
                asked.discard(chosen)  # who waits for one that failed asks again
                if done:
                    cadence.published(chosen, now, time.monotonic())
                else:
                    cadence.failed(chosen, time.monotonic())
            between(cadence, now)
            if chosen is None:
                self._stop.wait(TICK_SECONDS)

    def _try(self, work: Callable[[], object]) -> bool:
        """Do work that loses nothing when it fails and is tried again; tell whether it was done."""
        try:
            work()
        except (Unavailable, OSError) as error:
            _log.error("not finished, trying again: %s", error)
            self._stop.wait(RETRY_SECONDS)
            return False
        return True

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
        kept = int(self.settings.feed_retention_hours * 3_600_000_000)
        for setup in self.workspaces:
            trim(self.state, setup.name, self.clock() - kept, lambda: self._stop.wait(TRIM_REST_SECONDS))

    def _flush_mark(self) -> int:
        try:
            return os.stat(self.flush_request).st_mtime_ns  # noqa: PTH116 - called fifty times a second
        except FileNotFoundError:
            return 0


class _Beside(threading.Thread):
    """A loop beside the main one; when it cannot go on, all of them end, and `failure` says why."""

    def __init__(self, name: str, work: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(name=name)
        self.failure: BaseException | None = None
        self._work = work
        self._stopping = stop

    def run(self) -> None:
        """Work until told to stop."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that owns the process
            self.failure = error
            self._stopping.set()
