"""What the event log counts about the disk it writes to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from profilelake.eventlog.embedded import Flushed, log_bytes

SYNC_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class LogMetrics:
    """Counters of one writing process; `flushed` is what its `LogWriter` calls for every group."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the counters."""
        self._seconds = Histogram(
            "profilelake_log_sync_seconds",
            "How long the disk took to make one group of requests durable.",
            buckets=SYNC_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "profilelake_log_written_bytes", "Bytes made durable in the event log.", registry=registry
        )

    def flushed(self, group: Flushed) -> None:
        """Count one group."""
        self._seconds.observe(group.sync_seconds)
        self._bytes.inc(group.bytes)


class LogSize(Collector):
    """How much the whole log holds of what it may, read off the disk when it is asked for."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        """Measure the log under `root`."""
        self._root = root
        self._bytes_max = bytes_max

    def collect(self) -> Iterator[Metric]:
        """Return the gauges."""
        yield GaugeMetricFamily(
            "profilelake_log_bytes",
            "Bytes of the event log: what waits, and what is retained.",
            value=log_bytes(self._root),
        )
        yield GaugeMetricFamily(
            "profilelake_log_bytes_max",
            "Bytes at which the event log refuses more (setting log.bytes_max).",
            value=self._bytes_max,
        )
