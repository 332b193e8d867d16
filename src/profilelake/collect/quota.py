"""How much a source may send: a bucket of events for each source with a limit, in each process."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from profilelake.collect.answers import Refused
from profilelake.workspaces import Source


@dataclass(slots=True)
class _Bucket:
    rate: float
    events: float
    at: float


class Quotas:
    """Buckets that fill at the rate of their source, up to one second's worth.

    A request is taken while the bucket is not empty, and may leave it in debt. So the largest batch
    passes however low the limit is, small requests cannot starve it, and the debt is paid before
    anything else is taken: in any S seconds one process takes at most `rate * (S + 1)` events and
    one request more. What all processes take together is bounded likewise, but a sender whose
    connections all end in one process gets that process's share and no more.
    """

    def __init__(self, *, processes: int, monotonic: Callable[[], float]) -> None:
        """Share each limit among `processes`. `monotonic` counts seconds."""
        self._processes = processes
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}

    def take(self, source: Source, events: int) -> None:
        """Count events of a source against its limit.

        Raises:
            Refused: the limit is used up; it says in how many seconds it will not be.
        """
        rate = source.events_per_second / self._processes
        now = self._monotonic()
        bucket = self._buckets.get(source.id)
        if bucket is None:
            bucket = self._buckets[source.id] = _Bucket(rate, rate, now)
        # A limit that was changed counts from now on; what was taken before is not forgotten.
        bucket.events = min(rate, bucket.events + (now - bucket.at) * bucket.rate)
        bucket.rate = rate
        bucket.at = now
        if bucket.events <= 0:
            raise Refused(
                429,
                "too_many_requests",
                "quota_exceeded",
                f"source {source.id} may send {source.events_per_second} events per second and has sent"
                " more: send it again later",
                retry_after=floor(-bucket.events / rate) + 1,
            )
        bucket.events -= events

    def give_back(self, source: Source, events: int) -> None:
        """Take back what `take` counted: the events were not stored."""
        bucket = self._buckets.get(source.id)
        if bucket is not None:
            bucket.events += events
