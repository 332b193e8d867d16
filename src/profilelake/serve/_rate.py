"""How many requests a space may send in a second."""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from profilelake.errors import Invalid
from profilelake.serve._answer import Refused

SPACES_MAX: Final = 4_096
"""Spaces whose requests are remembered; idle ones are forgotten beyond that."""


class RateLimit:
    """Lets `per_second` requests of a space pass in any stretch of one second, refused ones not counted.

    None means no limit. Each process counts for itself: `app` gives every one its share.
    """

    def __init__(self, per_second: int | None, monotonic: Callable[[], float]) -> None:
        if per_second is not None and per_second < 1:
            raise Invalid(
                f"limiting requests: {per_second} per second; give at least 1, or none for no limit"
            )
        self._per_second = per_second
        self._monotonic = monotonic
        self._passed: dict[str, deque[float]] = {}

    def check(self, space: str) -> None:
        """Count a request, or refuse it and say when the next one may pass."""
        limit = self._per_second
        if limit is None:
            return
        now = self._monotonic()
        passed = self._passed.get(space)
        if passed is None:
            if len(self._passed) >= SPACES_MAX:
                self._passed = {name: times for name, times in self._passed.items() if times[-1] > now - 1}
            passed = self._passed[space] = deque(maxlen=limit)
        if len(passed) == limit:
            wait = passed[0] + 1 - now
            if wait > 0:
                raise Refused(
                    429,
                    "rate_limit_error",
                    f"More than {limit} requests in one second; wait before the next one.",
                    retry_after_seconds=math.ceil(wait),
                )
        passed.append(now)
