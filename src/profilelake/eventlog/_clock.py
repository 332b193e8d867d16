"""Stamps: the one place where the wall clock becomes `received_at`."""

import contextlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from profilelake.eventlog._files import Files
from profilelake.eventlog._format import crc32

STEP_MAX: Final = 1_000_000
"""A wall clock that leaps by more microseconds than this, either way, is not believed."""

SETTLE: Final = 10_000_000
CORRECTION_MAX: Final = 3600 * 1_000_000
"""A leap ahead of up to an hour that has held for ten seconds was a correction and is accepted."""

ANCHOR_NAME: Final = "clock"
ANCHOR_EVERY: Final = 20_000_000
ANCHOR_AGE_MAX: Final = 120_000_000
"""Living writers note every 20 s what they believe of the time; older than two minutes it does not count."""

_ANCHOR: Final = struct.Struct("<16sqqI")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def steady_clock() -> int:
    """Return microseconds that run through suspends and never leap."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1000


class Anchor:
    """What the living writers of a root believe of the time, for those that start beside them.

    A writer that starts has nothing but the wall clock. If that has just leapt, it would believe what
    the others refuse, and stamp years ahead. So it takes over their difference between wall clock
    and steady clock. Kept in one small file, which the next boot does not believe.
    """

    def __init__(self, root: Path, files: Files) -> None:
        self._path = root / ANCHOR_NAME
        self._files = files
        self._boot = b""
        with contextlib.suppress(OSError, ValueError):
            self._boot = bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))[:16]

    def read(self, steady: int) -> int | None:
        """Return wall clock minus steady clock as the living believe it, or None when nobody says."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        if len(data) != _ANCHOR.size:
            return None
        boot, offset, noted_at, total = _ANCHOR.unpack(data)
        if crc32(data[:-4]) != total or boot != self._boot or not 0 <= steady - noted_at <= ANCHOR_AGE_MAX:
            return None
        return int(offset)

    def write(self, offset: int, steady: int) -> None:
        """Note what is believed now. It helps others and is not needed: a failure is nobody's."""
        if not self._boot:
            return
        data = _ANCHOR.pack(self._boot, offset, steady, 0)[:-4]
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._files.write_at(descriptor, data + crc32(data).to_bytes(4, "little"), 0)
            finally:
                os.close(descriptor)


def forget_clock(root: Path) -> None:
    """Have the next writer believe the wall clock as it is: what starting a server means."""
    (root / ANCHOR_NAME).unlink(missing_ok=True)


class Stamps:
    """Gives strictly rising stamps, never below `newest`, and says when the wall clock is at fault.

    Behind the newest stamp by more than a second: no stamps until it has caught up. Ahead of what
    the steady clock expects by more than a second: no stamps until it is back or, for leaps of up
    to an hour, until it has held for ten seconds; a longer leap needs a restart of the server, which
    believes the clock. Between, stamps follow the wall clock and wait for it where it steps back.

    `offset` is wall clock minus steady clock as it was last believed, None before it ever was.
    """

    def __init__(
        self,
        newest: int,
        clock: Callable[[], int],
        steady: Callable[[], int] | None = None,
        offset: int | None = None,
    ) -> None:
        self._clock = clock
        self._steady = steady or steady_clock
        self.last = newest
        self.offset = offset
        self.steady_seen = 0
        self._leap_seen: tuple[int, int] | None = None
        self._wall = newest

    def trouble(self) -> str | None:
        """Read the clocks; return why no stamp may be given, or None."""
        wall, steady = self._clock(), self._steady()
        self.steady_seen = steady
        ahead = 0 if self.offset is None else wall - steady - self.offset
        if ahead > STEP_MAX and not self._settled(wall - steady, ahead):
            return (
                f"wall clock has leapt {ahead / 1e6:.1f} s ahead: set it right, "
                "or restart the server to accept its time"
            )
        behind = self.last - wall
        if behind > STEP_MAX:
            return f"wall clock is {behind / 1e6:.1f} s behind the newest stamp: set it right"
        self._leap_seen = None
        self.offset, self._wall = wall - steady, wall
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

    def _settled(self, offset: int, ahead: int) -> bool:
        if self._leap_seen is None or abs(offset - self._leap_seen[0]) > STEP_MAX:
            self._leap_seen = (offset, self.steady_seen)
        return ahead <= CORRECTION_MAX and self.steady_seen - self._leap_seen[1] >= SETTLE
