"""Real writers, readers and pruners, each killed at one call of the C library that changes a file.

    LD_PRELOAD=eventlog_shim.so eventlog_calls.py WORK ROOT FIRST STEP MODE

For n = FIRST, FIRST+STEP … until one lives to its end a process is forked that does WORK in ROOT/<n>
and is killed at its n-th call: `before` it, `after` it, or `torn` in the middle of a write. WORK is
`write` a log of its own, `recover` the log of a writer killed in the middle of a write, or `prune`
what was consumed.
"""

import asyncio
import ctypes
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eventlog_child import append_some, entry

from profilelake.eventlog import LogEnd, Vector
from profilelake.eventlog.embedded import Limits, LogReader, LogWriter, prune

LIMITS = Limits(segment_bytes_max=500)
TORN_AT = 40
"""The call at which the writer dies whose log is then recovered."""


def write(home: Path) -> None:
    asyncio.run(append_some(home, None, 2, 6, LIMITS))


def recover(home: Path) -> None:
    reader = LogReader(home / "log", clock=lambda: time.time_ns() // 1000)
    reader.read({}, bytes_max=1 << 20, events_max=1 << 20, wait_max_seconds=0)
    reader.close()


def consumed(home: Path) -> Vector:
    """Return a place in the middle of one log, and the end of the other."""
    return {name: LogEnd(offset, 0) for name, offset in json.loads((home / "consumed").read_text()).items()}


def prune_consumed(home: Path) -> None:
    later = time.time_ns() // 1000 + 1_000_000
    prune(home / "log", consumed(home), keep_seconds=0, now=later)


def killed(work: Callable[[Path], None], home: Path, call: int, mode: str) -> bool:
    """Do work in a process of its own, and tell whether it was killed at the call."""
    child = os.fork()
    if child == 0:
        root = home / "log"
        root.mkdir(exist_ok=True)
        ctypes.CDLL(None).fault_arm(bytes(root), ctypes.c_longlong(call), mode.encode())
        work(home)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def torn_log(home: Path) -> None:
    home.mkdir()
    if not killed(write, home, TORN_AT, "torn"):
        raise SystemExit("the writer was to be killed in the middle")


def finished_logs(home: Path) -> None:
    """Write two logs with a segment per record, and note what was consumed: half of one, all of the other."""
    home.mkdir()

    async def one() -> None:
        writer = LogWriter(
            home / "log",
            region="eu",
            clock=lambda: time.time_ns() // 1000,
            limits=Limits(segment_bytes_max=1),
        )
        ends = [(await writer.append(entry(b"%d" % number))).offset for number in range(6)]
        writer.close()
        vector[writer.log_id] = ends[5 if vector else 2]

    vector: dict[str, int] = {}
    for _ in range(2):
        asyncio.run(one())
    (home / "consumed").write_text(json.dumps(vector))


WORKS = {
    "write": (write, Path.mkdir),
    "recover": (recover, torn_log),
    "prune": (prune_consumed, finished_logs),
}


def main() -> None:
    name, root, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[5]
    work, prepare = WORKS[name]
    template = root / "template"
    prepare(template)
    call, step = int(sys.argv[3]), int(sys.argv[4])
    while True:
        home = root / f"{call:04}"
        shutil.copytree(template, home)
        if not killed(work, home, call, mode):
            break
        call += step
    shutil.rmtree(template)


if __name__ == "__main__":
    main()
