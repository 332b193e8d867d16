"""Real writers for the crash tests, each in a process of its own that may be killed at any operation.

`sweep ROOT FIRST STEP LAST MODE` forks one writer per file operation n = FIRST, FIRST+STEP … (LAST 0:
until one lives to its end) and kills it there; what happens at the operation is MODE: `before` it,
`after` it, or `torn` in the middle of a write. `load ROOT` appends until it is killed from outside.
`synced` in the log's root says how many bytes of each file (by inode) were synced.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from profilelake.eventlog import Entry, Flags, Kind
from profilelake.eventlog.embedded import Files, Limits, LogWriter, Space

T = TypeVar("T")


class KillingFiles(Files):
    """Kills its own process at the n-th operation."""

    def __init__(self, kill_at: int, mode: str, synced: Path) -> None:
        self.count = 0
        self._kill_at = kill_at
        self._mode = mode
        self._synced = os.open(synced, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _step(self, operation: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        self.count += 1
        if self.count == self._kill_at:
            if self._mode == "after":
                operation()
            elif self._mode == "torn" and half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        return operation()

    def mkdir(self, path: Path) -> None:
        self._step(lambda: super(KillingFiles, self).mkdir(path))

    def create(self, path: Path) -> int:
        return self._step(lambda: super(KillingFiles, self).create(path))

    def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
        data = b"".join(buffers)
        return self._step(
            lambda: super(KillingFiles, self).write(descriptor, buffers),
            lambda: os.write(descriptor, data[: len(data) // 2]),
        )

    def fdatasync(self, descriptor: int) -> None:
        self._step(lambda: super(KillingFiles, self).fdatasync(descriptor))
        status = os.fstat(descriptor)
        os.write(self._synced, f"{json.dumps([status.st_ino, status.st_size])}\n".encode())

    def fsync_dir(self, path: Path) -> None:
        self._step(lambda: super(KillingFiles, self).fsync_dir(path))

    def truncate(self, path: Path, size: int) -> None:
        self._step(lambda: super(KillingFiles, self).truncate(path, size))

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: super(KillingFiles, self).rename(source, target))

    def close(self, descriptor: int) -> None:
        self._step(lambda: super(KillingFiles, self).close(descriptor))

    def space(self, path: Path) -> Space:
        # Looked at by time, so it would make the count of operations a matter of luck.
        return super().space(path)


def entry(body: bytes) -> Entry:
    return Entry("default", "src_web", Kind.TRACK, Flags.NONE, 1, 1, "203.0.113.7", "", body)


async def append_some(root: Path, files: Files | None, tasks: int, each: int, limits: Limits) -> None:
    """Append from several tasks at once; note each body in the ledger once it is acknowledged."""
    ledger = os.open(root / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    writer = LogWriter(
        root / "log", region="eu", clock=lambda: time.time_ns() // 1000, files=files, limits=limits
    )

    async def one(task: int) -> None:
        for number in range(each):
            body = f"{os.getpid()}-{task}-{number}".encode()
            await writer.append(entry(body + b"." * (number % 7 * 20)))
            os.write(ledger, body + b"\n")

    await asyncio.gather(*(one(task) for task in range(tasks)))
    writer.close()


def sweep(root: Path, first: int, step: int, last: int, mode: str) -> None:
    kill_at = first
    while not last or kill_at <= last:
        home = root / f"{mode}-{kill_at:04}"
        home.mkdir()
        child = os.fork()
        if child == 0:
            files = KillingFiles(kill_at, mode, home / "synced")
            asyncio.run(append_some(home, files, 2, 6, Limits(segment_bytes_max=500)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kill_at += step


if __name__ == "__main__":
    if sys.argv[1] == "sweep":
        sweep(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        asyncio.run(append_some(Path(sys.argv[2]), None, 32, 1 << 40, Limits(segment_bytes_max=200_000)))
