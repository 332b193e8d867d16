"""When the tables are tended: merges on time, the rest step by step within a share of the time.

A thread of the lake process of its own, so that no commit waits for it. After a step of compaction or
sweeping it rests, longer the longer the step was.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from profilelake.engines.jobs import sweep_jobs
from profilelake.errors import Corrupt, Unavailable
from profilelake.lake.compaction import Stopped
from profilelake.lake.table import LakeTable
from profilelake.ops.clock import Clock
from profilelake.pipeline import lake_requests
from profilelake.pipeline.forgetting import Forgetting
from profilelake.pipeline.lake_metrics import LakeMetrics, TableSize
from profilelake.pipeline.lake_requests import Request
from profilelake.pipeline.progress import load_published
from profilelake.pipeline.publish import Publisher
from profilelake.pipeline.upkeep import Upkeep, size_of
from profilelake.settings import EngineSettings, LakeSettings

TICK_SECONDS: Final = 0.25
MERGE_LOOK_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 30.0
"""How often a table that has new commits is looked through for small files."""
SWEEP_SECONDS: Final = 600.0
"""How often its folder is looked through for files that nothing reaches."""
SEEN_SECONDS: Final = 300.0
"""A file goes at the second look that finds nothing reaching it, so its last readers have at least this long."""
DAMAGED_SECONDS: Final = 3600.0
"""How long a table is left alone that cannot be compacted because files of it are damaged."""
JOBS_SECONDS: Final = 3600.0
"""How often the jobs of plans are looked through for those that nobody went on with."""
FORGET_SECONDS: Final = 3600.0
"""How often it is seen whether the time of failed events is over."""
REST_SECONDS_MAX: Final = 600.0
RETRY_SECONDS: Final = 5.0

DAY_SECONDS: Final = 86_400

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """What is known of one table between looks; times are those of `time.monotonic`."""

    table: LakeTable
    upkeep: Upkeep
    look_at: float = 0.0
    sweep_at: float = 0.0
    metadata: str = ""


@dataclass(slots=True)
class Tending:
    """Tends the tables of all workspaces, one bounded step at a time."""

    publishers: Sequence[Publisher]
    upkeeps: Sequence[Upkeep]
    settings: LakeSettings
    publish_age_seconds: float
    requests: Path
    clock: Clock
    metrics: LakeMetrics
    stop: threading.Event
    monotonic: Callable[[], float] = time.monotonic
    job_days: float = EngineSettings().job_days
    """How long what an unfinished job has done is kept."""
    forgetting: Forgetting | None = None
    _watched: list[_Watched] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)
    _merge_at: float = 0.0
    _jobs_at: float = 0.0
    _forget_at: float = 0.0
    _rest_until: float = 0.0
    _sizes: dict[str, dict[str, TableSize]] = field(default_factory=dict)

    def run(self) -> None:
        """Work until `stop`; what fails is tried again and loses nothing."""
        lake_requests.forget(self.requests)
        while not self.stop.wait(TICK_SECONDS):
            try:
                self.step()
            except Stopped:
                return
            except (Unavailable, OSError) as error:
                self._failed(error)
                self.stop.wait(RETRY_SECONDS)

    def step(self) -> bool:
        """Do what is due now: merges, and one look at one table at most; tell whether anything was done."""
        asked = lake_requests.carry_out(self.requests, self.carry_out)
        now = self.monotonic()
        if now >= self._merge_at:
            self._merge_at = now + MERGE_LOOK_SECONDS
            self._merge()
        if now >= self._jobs_at:
            self._jobs_at = now + JOBS_SECONDS
            self._forget_jobs()
        if self.forgetting is not None and now >= self._forget_at:
            self._forget_at = now + (RETRY_SECONDS if self._forget(self.forgetting) else FORGET_SECONDS)
        if now < self._rest_until:
            return asked > 0
        self._watch(now)
        for watched in sorted(self._watched, key=lambda w: min(w.look_at, w.sweep_at)):
            began = self.monotonic()
            worked = self._look(watched, began)
            took = self.monotonic() - began
            if worked:
                share = self.settings.maintenance_share
                self._rest_until = began + took + min(REST_SECONDS_MAX, took * (1 / share - 1))
                return True
        return asked > 0

    def carry_out(self, request: Request) -> list[dict[str, Any]]:
        """Do what a command asks for in the first workspace; return a row for each table.

        Raises:
            Errors of the step that failed; what was done before stays done.
        """
        return self.upkeeps[0].carry_out(request, self.monotonic)

    def _merge(self) -> None:
        for publisher in self.publishers:
            with publisher.state.read(publisher.workspace) as tx:
                merged_at = load_published(tx, publisher.workspace).merged_at
            due = self.clock() - merged_at >= self.publish_age_seconds * 1_000_000
            if due and publisher.merge():
                self.metrics.done("merge", self.clock())

    def _forget(self, forgetting: Forgetting) -> bool:
        """Do a step of forgetting; tell whether there may be more, as where it failed."""
        try:
            return forgetting.step()
        except (Corrupt, Unavailable, OSError) as error:
            # It comes before the look at any table, so what fails here for long must not end that.
            self._failed(error)
            return True

    def _forget_jobs(self) -> None:
        """Remove the files of jobs that nobody went on with; all workspaces have theirs in one place."""
        for upkeep in self.upkeeps[:1]:
            now = self.clock() / 1_000_000
            for job in sweep_jobs(upkeep.lake.storage, self.job_days * DAY_SECONDS, now):
                upkeep.record.write("forget job", job)

    def _watch(self, now: float) -> None:
        """Take in tables that were opened since; of many workspaces only those that commit are."""
        for upkeep in self.upkeeps:
            opened = upkeep.lake.opened(upkeep.workspace)
            known = self._known.get(upkeep.workspace, 0)
            for number, table in enumerate(opened[known:]):
                later = number / len(opened)  # Not all at once after a start.
                self._watched.append(
                    _Watched(table, upkeep, now + later * LOOK_SECONDS, now + later * SWEEP_SECONDS)
                )
            self._known[upkeep.workspace] = len(opened)

    def _look(self, watched: _Watched, now: float) -> bool:
        """Do the step that is due for one table; tell whether it was work worth a rest."""
        if now >= watched.look_at:
            watched.look_at = now + LOOK_SECONDS
            metadata = watched.table.metadata_location()
            if metadata != watched.metadata:
                if self._compact(watched):
                    watched.look_at = now  # there may be more
                else:
                    watched.metadata = metadata
                    self._measure(watched)
                return True
        if now >= watched.sweep_at:
            watched.sweep_at = now + SWEEP_SECONDS
            return self._sweep(watched)
        return False

    def _compact(self, watched: _Watched) -> bool:
        try:
            done = watched.upkeep.compact(watched.table)
        except Corrupt as error:
            # For somebody to look at. Publishing goes on, and so does the upkeep of other tables.
            watched.look_at = self.monotonic() + DAMAGED_SECONDS
            self._failed(error)
            return False
        if done is None:
            return False
        self.metrics.compacted(done.bytes_before)
        self.metrics.done("compact", self.clock())
        return True

    def _sweep(self, watched: _Watched) -> bool:
        expired = watched.upkeep.expire(watched.table, self.settings.snapshot_hours * 3600)
        if expired:
            self.metrics.done("expire", self.clock())
        swept = watched.upkeep.sweep(watched.table, self.settings.orphan_minutes * 60, SEEN_SECONDS)
        if swept:
            self.metrics.swept(len(swept), sum(f.bytes for f in swept))
            self.metrics.done("sweep", self.clock())
        return True

    def _measure(self, watched: _Watched) -> None:
        name = watched.table.definition.name
        self._sizes.setdefault(name, {})[watched.upkeep.workspace] = size_of(watched.table)
        total = TableSize()
        for size in self._sizes[name].values():
            total = total.plus(size)
        self.metrics.sizes({name: total})

    def _failed(self, error: Exception) -> None:
        self.metrics.failed()
        _log.error("maintenance not finished, trying again: %s", error)
