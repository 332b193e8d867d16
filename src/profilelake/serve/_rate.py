"""How many requests a space, or a token with a rate of its own, may send in a second."""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from profilelake.errors import Invalid
from profilelake.serve._answer import Refused

SENDERS_MAX: Final = 4_096
"""Senders whose requests are remembered; idle ones are forgotten beyond that."""


class RateLimit:
    """Lets so many requests of a sender pass in any stretch of one second, refused ones not counted.

    `per_second` is for those that have no rate of their own, None for no limit. Each process counts for
    itself: of a rate for the whole server it grants its share.
    """

    def __init__(self, per_second: int | None, monotonic: Callable[[], float], *, processes: int = 1) -> None:
        if per_second is not None and per_second < 1:
            raise Invalid(
                f"limiting requests: {per_second} per second; give at least 1, or none for no limit"
            )
        self._per_second = per_second
        self._monotonic = monotonic
        self._processes = processes
        self._passed: dict[str, deque[float]] = {}

    def check(self, space: str, token: str, rate: int | None) -> None:
        """Count a request, or refuse it and say when the next one may pass.

        `rate` is what the whole server takes from that token, None where it counts as its space does.
        """
        wait = 0
        if rate is not None:
            wait = self.wait_of_token(token, rate)
        elif self._per_second is not None:
            wait = self._count(space, self._per_second)
        if wait:
            raise Refused(
                429,
                "rate_limit_error",
                "Too many requests in one second; wait before the next one.",
                retry_after_seconds=wait,
            )

    def wait_of_token(self, token: str, rate: int) -> int:
        """Count a request of a token with a rate of its own; 0, or the seconds to wait where it may not pass."""
        return self._count(token, math.ceil(rate / self._processes))

    def _count(self, sender: str, limit: int) -> int:
        now = self._monotonic()
        passed = self._passed.get(sender)
        if passed is None or passed.maxlen != limit:
            if len(self._passed) >= SENDERS_MAX:
                self._passed = {name: times for name, times in self._passed.items() if times[-1] > now - 1}
            passed = self._passed[sender] = deque(maxlen=limit)
        if len(passed) == limit:
            wait = passed[0] + 1 - now
            if wait > 0:
                return math.ceil(wait)
        passed.append(now)
        return 0
