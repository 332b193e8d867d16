"""How much may still be appended: the limit of the whole log, and the free space of its disk.

All writers under one root share both, in whatever process they are, so both are read off the disk.
"""

import os
import time
from pathlib import Path
from typing import Final

from profilelake.eventlog._files import Files, Space
from profilelake.eventlog._segments import SUFFIX, log_directories

LOOK_SECONDS: Final = 0.1
"""How old the last look at the disk may be when a limit is near."""

LOOK_FAR_SECONDS: Final = 1.0
"""The same when no limit is near: a look costs about 2 us for every segment file."""

NEAR_BYTES: Final = 2 * 1024 * 1024 * 1024
"""A limit is near when less than this is left. No disk takes it in much less than a second."""

LOOK_BYTES: Final = 64 * 1024 * 1024
"""How much may be accepted without a look when a limit is near."""

FULL_SHARE: Final = 128
"""The log counts as full when less than this part of its limit is left (a 128th)."""

RESERVE_SHARE: Final = 20
"""On a small disk the reserve is this part of it (a twentieth), if that is less."""


def log_bytes(root: Path) -> int:
    """Return the bytes of all segment files under `root`: what waits and what is retained."""
    total = 0
    for directory in log_directories(root):
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX):
                        total += entry.stat().st_size
        except FileNotFoundError:
            # Pruned while it was read.
            continue
    return total


def reserve_of(space: Space, reserve_bytes: int) -> int:
    """Return how much of a disk the log leaves free for everything else."""
    return min(reserve_bytes, space.total // RESERVE_SHARE)


class Room:
    """What one writer knows of its limits. Its thread calls `look`; whoever accepts takes from `left`.

    Between two looks other writers may accept as much again, so together they pass the limit by
    at most what they write in `LOOK_SECONDS`.
    """

    def __init__(self, root: Path, files: Files, *, bytes_max: int, reserve_bytes: int) -> None:
        self.left = bytes_max
        """How many bytes may be accepted until the next look."""
        self.full = False
        """Whether nothing is accepted until somebody prunes."""
        self.trouble: str | None = None
        """Why the disk takes nothing, or None."""
        self.refusal: Final = (
            f"event log {root} has no room left of {bytes_max} bytes (setting log.bytes_max): events wait "
            "for the lake; send again later"
        )
        self._root = root
        self._files = files
        self._bytes_max = bytes_max
        self._reserve_bytes = reserve_bytes
        self._looked_at = -LOOK_FAR_SECONDS
        self._left_then = bytes_max
        self._disk_near = True

    def due(self) -> bool:
        """Tell whether it is time to look again."""
        age = time.monotonic() - self._looked_at
        if age >= LOOK_FAR_SECONDS:
            return True
        near = self._disk_near or self.left < NEAR_BYTES
        return near and (age >= LOOK_SECONDS or self._left_then - self.left >= LOOK_BYTES)

    def look(self) -> int | None:
        """Look at the disk; return how much the log may grow, or None when that cannot be seen now."""
        self._looked_at = time.monotonic()
        self._look_at_disk()
        try:
            left = self._bytes_max - log_bytes(self._root)
        except OSError:
            # No descriptor is free, for instance. What was left is still known, and only shrinks.
            return None
        self.full = left < self._bytes_max // FULL_SHARE
        return 0 if self.full else left

    def grant(self, left: int) -> None:
        """Let this many bytes be accepted until the next look."""
        self.left = self._left_then = left

    def _look_at_disk(self) -> None:
        try:
            space = self._files.space(self._root)
        except OSError as error:
            self.trouble = f"cannot see the free space of {self._root}: {error}"
            return
        reserve = reserve_of(space, self._reserve_bytes)
        self._disk_near = space.free - reserve < NEAR_BYTES
        self.trouble = None
        if space.free < reserve:
            self.trouble = (
                f"disk of {self._root} has {space.free} bytes free and {reserve} are kept in reserve: "
                "free some space"
            )
