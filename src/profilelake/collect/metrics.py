"""What the tracking API counts. Labels name sources and reasons, never keys or people."""

from prometheus_client import CollectorRegistry, Counter


class CollectMetrics:
    """Counters with their children bound once: a label look-up costs more than the rest of a count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the counters."""
        self._requests = Counter(
            "profilelake_collect_requests",
            "Requests answered by the tracking API.",
            ("endpoint", "status"),
            registry=registry,
        )
        self._events = Counter(
            "profilelake_collect_events",
            "Events in requests that were made durable and answered 200, duplicates and bad events included.",
            ("source_id",),
            registry=registry,
        )
        self._refused = Counter(
            "profilelake_collect_refused",
            "Requests that were not taken, by reason.",
            ("reason",),
            registry=registry,
        )
        self._bytes = Counter(
            "profilelake_collect_body_bytes",
            "Bytes of bodies that were made durable, as received.",
            registry=registry,
        )
        self._dropped = Counter(
            "profilelake_collect_dropped_events",
            "Events answered 200 and dropped because of an unknown write key (`unknown_key = accept_and_drop`).",
            registry=registry,
        )
        self._retried = Counter(
            "profilelake_collect_retried_requests",
            "Requests that say they are a retry.",
            registry=registry,
        )
        self._over_quota = Counter(
            "profilelake_collect_over_quota_events",
            "Events that were told to come back because their source has sent more than it may.",
            ("source_id",),
            registry=registry,
        )
        self._lost_pixels = Counter(
            "profilelake_collect_lost_pixels",
            "Pixels that were answered and not stored, or perhaps not, because of a fault of ours: nobody"
            " sends them again.",
            registry=registry,
        )
        self._suppressed = Counter(
            "profilelake_collect_suppressed_events",
            "Events of suppressed people that were taken out before they were stored; the sender is answered 200.",
            registry=registry,
        )
        self.add_suppressed = self._suppressed.inc
        self.add_lost_pixel = self._lost_pixels.inc
        self.add_bytes = self._bytes.inc
        self.add_dropped = self._dropped.inc
        self.add_retried = self._retried.inc
        self._request_children: dict[tuple[str, int], Counter] = {}
        self._event_children: dict[str, Counter] = {}

    def add_request(self, endpoint: str, status: int) -> None:
        """Count one answered request."""
        child = self._request_children.get((endpoint, status))
        if child is None:
            child = self._request_children[endpoint, status] = self._requests.labels(endpoint, status)
        child.inc()

    def add_events(self, source_id: str, events: int) -> None:
        """Count the events of one request that was made durable."""
        child = self._event_children.get(source_id)
        if child is None:
            child = self._event_children[source_id] = self._events.labels(source_id)
        child.inc(events)

    def add_refused(self, reason: str) -> None:
        """Count one request that was not taken."""
        self._refused.labels(reason).inc()

    def add_over_quota(self, source_id: str, events: int) -> None:
        """Count the events of one request above the limit of its source."""
        self._over_quota.labels(source_id).inc(events)
