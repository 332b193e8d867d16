"""The wall clock, as an argument."""

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Gives microseconds since 1970 UTC."""


def wall() -> int:
    """Return the time of this machine."""
    return time.time_ns() // 1_000
