"""Single keys from a terminal, which is left as it was found, also while we are stopped."""

import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType
from typing import Any, Self


class Keyboard:
    """Reads keys while it is entered. Without a terminal in the foreground there are none."""

    def __init__(self) -> None:
        self._terminal: int | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        try:
            terminal = sys.stdin.fileno()
            if os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp():
                self._before = termios.tcgetattr(terminal)
                self._terminal = terminal
        except (OSError, ValueError, termios.error):
            pass  # no terminal, or one that went away
        if self._terminal is not None:
            tty.setcbreak(self._terminal)
            signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal is not None:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    def pressed(self, seconds_max: float) -> bytes:
        """Wait for a key, at most so long; b"" when none came."""
        if self._terminal is None:
            time.sleep(seconds_max)
            return b""
        ready, _, _ = select.select([self._terminal], [], [], seconds_max)
        return os.read(self._terminal, 1) if ready else b""

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Give the terminal back for as long as we are stopped."""
        if self._terminal is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
            os.kill(os.getpid(), signal.SIGSTOP)
            tty.setcbreak(self._terminal)
