"""Which named limits were hit lately: what `limits_hit` of the status document tells.

One thread beside the supervisor reads what all processes have counted, and keeps a small report in a
file, so that whoever is asked for the status tells the same. The report names limits, never people.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from profilelake.ops.clock import Clock
from profilelake.semantics.times import MICROSECONDS, format_time

REPORT: Final = "limits_hit.json"
WINDOW_SECONDS: Final = 600
"""How long a limit that was hit is told of."""
LOOK_SECONDS: Final = 2.0
REPORT_SECONDS_MAX: Final = 30
"""A report that is older is of a server that is no more."""

_REFUSED: Final = "profilelake_collect_refused_total"
_FAILED: Final = "profilelake_failed_events_total"
_SCHEMA: Final = "profilelake_schema_unlisted_events_total"
_ACTIVATE: Final = "profilelake_activate_limits_total"
_PROFILES: Final = "profilelake_profile_api_requests_total"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit by its name, where it is counted, and what to do about it."""

    name: str
    metric: str
    label: tuple[str, str]
    change: str


LIMITS: Final = (
    Limit(
        "log_queue_full",
        _REFUSED,
        ("reason", "log_queue_full"),
        "more comes than the disk takes, or the event log has its full size: give it a faster disk, see in"
        " `stages` what is behind, or raise [log] bytes_max",
    ),
    Limit(
        "not_durable_in_time",
        _REFUSED,
        ("reason", "not_durable_in_time"),
        "the disk of the event log is too slow: see profilelake_log_sync_seconds",
    ),
    Limit(
        "quota_exceeded",
        _REFUSED,
        ("reason", "quota_exceeded"),
        "a source sends more than it may: profilelake source set SOURCE --quota N",
    ),
    Limit(
        "too_many_bodies",
        _REFUSED,
        ("reason", "too_many_bodies"),
        "more large bodies arrive at the same time than a process holds (256 MiB): raise [http] processes",
    ),
    Limit(
        "body_too_large",
        _REFUSED,
        ("reason", "body_too_large"),
        "a request has more than 4 MiB, which is fixed: have the sender split its batches",
    ),
    Limit(
        "too_many_events",
        _REFUSED,
        ("reason", "too_many_events"),
        "a batch has more than 10,000 events, which is fixed: have the sender split its batches",
    ),
    Limit(
        "nested_too_deeply",
        _REFUSED,
        ("reason", "nested_too_deeply"),
        "a request has more levels of brackets than any parser reads: have the sender write the deep part as text",
    ),
    Limit(
        "event_too_large",
        _FAILED,
        ("reason", "event_too_large"),
        "an event has more than 32 KiB, which is fixed; it can be replayed without what nobody needs:"
        " profilelake failed list",
    ),
    Limit(
        "event_nested_too_deeply",
        _FAILED,
        ("reason", "nested_too_deeply"),
        "an event has more than 100 levels of brackets, which is fixed; it can be replayed:"
        " profilelake failed list",
    ),
    Limit(
        "schema_unlisted",
        _SCHEMA,
        ("limit", "shapes"),
        "events have more paths or names than are listed, or longer or deeper ones, which is fixed; they are stored"
        " whole: have senders put what varies into values, not into keys or names; profilelake schema --path …",
    ),
    Limit(
        "profile_requests_per_second",
        _PROFILES,
        ("status", "429"),
        "a space asks the Profile API for more than it may: raise [http] profile_requests_per_second; or a"
        " token for more than its rate: issue one with a higher rate",
    ),
    Limit(
        "dead_letters_max",
        _ACTIVATE,
        ("limit", "dead_letters_max"),
        "a destination has as many dead letters as it may and is told nothing more: see which with profilelake"
        " destination list, then replay or discard some, or raise [activate] dead_letters_max",
    ),
)


class LimitWatch:
    """Keeps the report of one server, from its start on."""

    def __init__(
        self,
        metrics_directory: Path,
        report: Path,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the counters below `metrics_directory`, which start from nothing; write `report`."""
        self._metrics_directory = metrics_directory
        self._report = report
        self._clock = clock
        self._monotonic = monotonic
        self._seen: deque[tuple[float, dict[str, int]]] = deque([(monotonic(), {})])
        self._last_at: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)
        report.unlink(missing_ok=True)

    def start(self) -> None:
        """Look every `LOOK_SECONDS`, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take the report away."""
        self._stop.set()
        self._thread.join()
        self._report.unlink(missing_ok=True)

    def look(self) -> None:
        """Count now, and bring the report up to date."""
        counts = _counts(self._metrics_directory)
        now, at = self._clock(), self._monotonic()
        for name, count in counts.items():
            if count > self._seen[-1][1].get(name, 0):
                self._last_at[name] = now
        self._seen.append((at, counts))
        while len(self._seen) > 1 and self._seen[1][0] <= at - WINDOW_SECONDS:
            self._seen.popleft()
        before = self._seen[0][1]
        hit = [
            {
                "name": limit.name,
                "count": counts[limit.name] - before.get(limit.name, 0),
                "last_at": format_time(self._last_at[limit.name]),
                "change": limit.change,
            }
            for limit in LIMITS
            if counts.get(limit.name, 0) > before.get(limit.name, 0)
        ]
        if hit:
            self._write({"at": now, "limits_hit": hit})
        else:
            self._report.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - whatever it is, it must not end the watch
                # Whoever asks for the status misses a part of it; the server goes on.
                _log.exception("looking at which limits were hit failed")

    def _write(self, document: Mapping[str, Any]) -> None:
        unfinished = self._report.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.encode(document))
        unfinished.replace(self._report)


def read_limits_hit(report: Path, now: int) -> list[dict[str, Any]]:
    """Return the limits that were hit in the last `WINDOW_SECONDS`; none where no server runs."""
    try:
        document = msgspec.json.decode(report.read_bytes())
        if abs(now - document["at"]) <= REPORT_SECONDS_MAX * MICROSECONDS:
            return list(document["limits_hit"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        pass
    return []


def _counts(metrics_directory: Path) -> dict[str, int]:
    """Return how often each limit was hit since the server started."""
    counts: dict[str, int] = {}
    collector = MultiProcessCollector(CollectorRegistry(), path=str(metrics_directory))  # type: ignore[no-untyped-call]
    for family in collector.collect():  # type: ignore[no-untyped-call]
        for sample in family.samples:
            for limit in _OF_METRIC.get(sample.name, ()):
                if sample.labels.get(limit.label[0]) == limit.label[1]:
                    counts[limit.name] = counts.get(limit.name, 0) + int(sample.value)
    return counts


_OF_METRIC: Final[dict[str, list[Limit]]] = {
    metric: [limit for limit in LIMITS if limit.metric == metric]
    for metric in {limit.metric for limit in LIMITS}
}
