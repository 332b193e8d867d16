"""What the Profile API counts. Labels are a small fixed set, whatever clients send."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_LATENCIES: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class ApiMetrics:
    """Counts and times answers; children are bound once, which is half of what counting costs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "profilelake_profile_api_requests",
            "Requests answered by the Profile API",
            ("resource", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "profilelake_profile_api_seconds",
            "Seconds from the request's head to its answer",
            ("resource",),
            buckets=_LATENCIES,
            registry=registry,
        )
        self._bound: dict[tuple[str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def answered(self, resource: str, status: int, seconds: float) -> None:
        """Count one answer."""
        bound = self._bound.get((resource, status))
        if bound is None:
            bound = self._bound[resource, status] = (
                self._requests.labels(resource, str(status)).inc,
                self._seconds.labels(resource).observe,
            )
        count, time = bound
        count()
        time(seconds)
