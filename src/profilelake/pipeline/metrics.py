"""Where the pipeline's processor time goes, by stage, how much it has done, and what became of it."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from profilelake.audiences.life import STATUSES
from profilelake.semantics.reasons import REASONS

STAGES: Final = (
    "read",
    "land",
    "identity",
    "profiles",
    "computed",
    "flush",
    "recent",
    "commit",
    "publish",
    "current",
    "tend",
)


class Stages:
    """Counters of the pipeline process; each thread takes a `Timer` of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Counter(
            "profilelake_stage_cpu_seconds",
            "Processor seconds by pipeline stage",
            ("stage",),
            registry=registry,
        )
        self.seconds = {stage: seconds.labels(stage) for stage in STAGES}
        self.events = Counter("profilelake_pipeline_events", "Events applied to the state", registry=registry)
        self.batches = Counter("profilelake_micro_batches", "Micro-batches applied", registry=registry)
        self.failed = Counter(
            "profilelake_failed_events", "Events that failed, by reason", ("reason",), registry=registry
        )
        for reason in REASONS:
            self.failed.labels(reason)  # so that the first one shows as an increase
        self.duplicates = Counter(
            "profilelake_duplicate_events", "Events that were accepted before", registry=registry
        )
        self.suppressed = Counter(
            "profilelake_suppressed_events", "Events of suppressed people", registry=registry
        )
        self._shapes = gauge("profilelake_schema_shapes", "Rows of the table of shapes", registry)
        self._unlisted = Counter(
            "profilelake_schema_unlisted_events",
            "Events with a path or name that is not listed, by what there was too much of",
            ("limit",),
            registry=registry,
        ).labels("shapes")
        self._waiting = gauge(
            "profilelake_identity_replays_waiting",
            "Components to be resolved again in the background",
            registry,
        )
        self._oldest = gauge(
            "profilelake_identity_replays_oldest_seconds", "Age of the oldest of those", registry
        )
        self._quarantined = gauge(
            "profilelake_identity_quarantined", "Identifiers that link nobody", registry
        )

        self._evaluated = Counter(
            "profilelake_computed_evaluated", "Profiles evaluated for definitions", registry=registry
        )
        self._changes = Counter(
            "profilelake_computed_changes",
            "Changes of computed traits and memberships that were announced",
            registry=registry,
        )
        self._definitions = gauge(
            "profilelake_definitions", "Definitions of computed traits and audiences", registry, ("status",)
        )
        self._late = gauge(
            "profilelake_computed_timers_late_seconds",
            "How far the first timer lies behind the pipeline's time",
            registry,
        )
        self._partials = gauge(
            "profilelake_computed_partials_bytes",
            "Bytes of the online state that hold what events come to for definitions",
            registry,
        )

    def computed(self, evaluated: int, changes: int) -> None:
        """Count what was done for definitions."""
        self._evaluated.inc(evaluated)
        self._changes.inc(changes)

    def definitions(self, statuses: Mapping[str, int], late_seconds: float, partial_bytes: int) -> None:
        """Tell where definitions stand, how late timers are, and what partials take."""
        for status in STATUSES:
            self._definitions.labels(status).set(statuses.get(status, 0))
        self._late.set(late_seconds)
        self._partials.set(partial_bytes)

    def schema(self, listed: int, unlisted: int) -> None:
        """Tell how many shapes are listed, and in how many events more there was one that is not."""
        self._shapes.set(listed)
        self._unlisted.inc(unlisted)

    def identity(self, waiting: Sequence[int], now: int, quarantined: int) -> None:
        """Tell since when components wait to be resolved again (microseconds), and how much is quarantined."""
        self._waiting.set(len(waiting))
        self._oldest.set(max(0, now - min(waiting, default=now)) / 1_000_000)
        self._quarantined.set(quarantined)


def gauge(name: str, about: str, registry: CollectorRegistry, labels: Sequence[str] = ()) -> Gauge:
    """Return a gauge of which the value set last holds, by whichever process."""
    return Gauge(name, about, labels, registry=registry, multiprocess_mode="mostrecent")


class Timer:
    """Counts thread processor seconds per stage; `lap` ends the stage that began with the last one."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._at = 0.0

    def start(self) -> None:
        """Begin a stage now."""
        self._at = time.thread_time()

    def lap(self, stage: str) -> None:
        """Count what passed since `start` or the last `lap` for `stage`."""
        now = time.thread_time()
        self._stages.seconds[stage].inc(now - self._at)
        self._at = now

    def applied(self, events: int) -> None:
        """Count a micro-batch."""
        self._stages.events.inc(events)
        self._stages.batches.inc()

    def became(self, failed: Mapping[str, int], duplicates: int, suppressed: int) -> None:
        """Count what became of the events of a micro-batch that is committed: `failed` by reason."""
        for reason, count in failed.items():
            self._stages.failed.labels(reason).inc(count)
        self._stages.duplicates.inc(duplicates)
        self._stages.suppressed.inc(suppressed)
