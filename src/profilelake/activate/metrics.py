"""What activation counts. Labels name destinations and outcomes, never people."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class ActivateMetrics:
    """Counters of the process that tells destinations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them."""
        self.records = Counter(
            "profilelake_activate_records",
            "Records that reached a destination, or were given up (`dead`).",
            ("destination", "outcome"),
            registry=registry,
        )
        self.requests = Counter(
            "profilelake_activate_requests",
            "Requests to destinations by what became of them: delivered, refused, later, gone.",
            ("destination", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "profilelake_activate_request_seconds",
            "How long destinations took to answer.",
            ("destination",),
            registry=registry,
        )
        self.faults = Counter(
            "profilelake_activate_faults",
            "Faults of ours while telling a destination; the log says which.",
            ("destination",),
            registry=registry,
        )
