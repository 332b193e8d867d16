"""Named places where a crash test ends the process, as kill -9 would.

Armed by `PROFILELAKE_FAILPOINT=name` or `name:n` (the n-th time it is reached) in the environment
of one process; otherwise a call costs one comparison.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "PROFILELAKE_FAILPOINT"

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1)


def reach(name: str) -> None:
    """End this process here, if a test armed this place."""
    global _left  # noqa: PLW0603 - the count of one process
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def disarmed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that is started again: it must get past the place."""
    return {name: value for name, value in environment.items() if name != VARIABLE}
