"""Stamps: the one place where the wall clock becomes `received_at`."""

import time
from collections.abc import Callable
from typing import Final

STEP_MAX: Final = 1_000_000
"""A wall clock that leaps by more microseconds than this, either way, is not believed."""

SETTLE: Final = 10_000_000
CORRECTION_MAX: Final = 3600 * 1_000_000
"""A leap ahead of up to an hour that has held for ten seconds was a correction and is accepted."""


def steady_clock() -> int:
    """Return microseconds that run through suspends and never leap."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1000


class Stamps:
    """Gives strictly rising stamps, never below `newest`, and says when the wall clock is at fault.

    Behind the newest stamp by more than a second: no stamps until it has caught up. Ahead of what
    the steady clock expects by more than a second: no stamps until it is back or, for leaps of up
    to an hour, until it has held for ten seconds; a longer leap needs a restart, which believes
    the clock. Between, stamps follow the wall clock and wait for it where it steps back.
    """

    def __init__(
        self, newest: int, clock: Callable[[], int], steady: Callable[[], int] | None = None
    ) -> None:
        self._clock = clock
        self._steady = steady or steady_clock
        self.last = newest
        self._wall_seen = clock()
        self._steady_seen = self._steady()
        self._leap_seen: tuple[int, int] | None = None
        self._wall = self._wall_seen

    def trouble(self) -> str | None:
        """Read the clocks; return why no stamp may be given, or None."""
        wall, steady = self._clock(), self._steady()
        ahead = wall - self._wall_seen - (steady - self._steady_seen)
        if ahead > STEP_MAX and not self._settled(wall, steady, ahead):
            return (
                f"wall clock has leapt {ahead / 1e6:.1f} s ahead: set it right, or restart to accept its time"
            )
        behind = self.last - wall
        if behind > STEP_MAX:
            return f"wall clock is {behind / 1e6:.1f} s behind the newest stamp: set it right"
        self._leap_seen = None
        self._wall_seen, self._steady_seen, self._wall = wall, steady, wall
        return None

    def take(self, count: int) -> int:
        """Return the first of `count` successive stamps. Call after `trouble` found none."""
        first = max(self._wall, self.last + 1)
        self.last = first + count - 1
        return first

    def advance(self) -> None:
        """Let time pass without a stamp: later ones will be greater than `last` is now."""
        if self.trouble() is None:
            self.last = max(self.last, self._wall)

    def _settled(self, wall: int, steady: int, ahead: int) -> bool:
        if (
            self._leap_seen is None
            or abs(wall - self._leap_seen[0] - (steady - self._leap_seen[1])) > STEP_MAX
        ):
            self._leap_seen = (wall, steady)
        return ahead <= CORRECTION_MAX and steady - self._leap_seen[1] >= SETTLE
