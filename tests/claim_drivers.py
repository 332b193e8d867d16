"""Drivers of one job in processes of their own: see `claim_child`."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHILD = Path(__file__).with_name("claim_child.py")
SECONDS_MAX = 60


class Driver:
    """One driver; `says` asks it for something and returns its answer."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
        )
        self.pid = self._process.pid
        self.begun = self._line()

    def says(self, asked: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{asked}\n")
        self._process.stdin.flush()
        return self._line()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        with suppress(BrokenPipeError, ValueError):  # it has ended, or was closed before
            self._process.communicate(timeout=SECONDS_MAX)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def driver(*arguments: str, **environment: str) -> Iterator[Driver]:
    """Begin the job, and end the process afterwards, whatever became of it."""
    begun = Driver(*arguments, **environment)
    try:
        yield begun
    finally:
        begun.signal(signal.SIGCONT)
        begun.close()
