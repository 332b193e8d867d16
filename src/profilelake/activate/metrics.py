"""What activation counts. Labels name destinations and outcomes, never people."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from profilelake.activate.letters import FATES, Letters


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
        self.letters = Gauge(
            "profilelake_activate_dead_letters",
            "Dead letters that a destination has.",
            ("destination",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.letters_limit = Gauge(
            "profilelake_activate_dead_letters_limit",
            "Dead letters that a destination may have: activate.dead_letters_max.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.full = Gauge(
            "profilelake_activate_dead_letters_full",
            "1 while a destination is told nothing because there is no room for one more dead letter, else 0.",
            ("destination",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.limits = Counter(
            "profilelake_activate_limits",
            "How often a destination had to wait because of a limit, by the name of the limit.",
            ("destination", "limit"),
            registry=registry,
        )
        self.fates = Counter(
            "profilelake_activate_dead_letter_fates",
            "Dead letters that were taken since the server started, and what became of such.",
            ("destination", "outcome"),
            registry=registry,
        )
        self._shown: dict[tuple[str, str], int] = {}

    def letters_are(self, destination: str, letters: Letters, most: int, *, first: bool = False) -> None:
        """Show what became of the letters of a destination, whichever process did it; at `first` only what is."""
        self.letters.labels(destination).set(letters.held)
        self.letters_limit.set(most)
        self.full.labels(destination).set(1 if letters.full_since else 0)
        for outcome in ("taken", *FATES):
            count: int = getattr(letters, outcome)
            before = count if first else self._shown.get((destination, outcome), 0)
            self.fates.labels(destination, outcome).inc(max(0, count - before))
            self._shown[destination, outcome] = count

    def forget_letters(self, destination: str) -> None:
        """Show nothing of the letters of a destination that is no more."""
        self.letters.labels(destination).set(0)
        self.full.labels(destination).set(0)
        for outcome in ("taken", *FATES):
            self._shown.pop((destination, outcome), None)
