"""Measure the embedded event log against SQLite (WAL, synchronous=FULL) in the same run.

    python benchmarks/eventlog.py [--directory DIR] [--seconds 3] [--waiting 64]

Each of `--waiting` tasks appends one body, waits until it is durable, and appends the next. The
baseline answers the same tasks from a thread that commits whatever has gathered, as ours does. A
third log stores nothing: its cost is that of the tasks and of answering them, which both others pay.
How long the disk takes to make a page durable, nothing else being written, is printed first.
"""

import argparse
import asyncio
import os
import platform
import queue
import random
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from profilelake.eventlog import Entry, Flags, Kind, LogEnd, Vector
from profilelake.eventlog.embedded import Flushed, LogReader, LogWriter

BODY_BYTES = (600, 12_000)
PAGE_BYTES = 4096
SYNCS = 300


def wall_clock() -> int:
    return time.time_ns() // 1000


@dataclass
class Measured:
    """One run: what became durable, at which cost."""

    name: str
    body_bytes: int
    records: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    groups: list[int] = field(default_factory=list)
    syncs: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.records / self.seconds

    def line(self) -> str:
        syncs = sorted(self.syncs)
        p50, p99 = syncs[len(syncs) // 2], syncs[int(len(syncs) * 0.99)]
        return (
            f"{self.name:<22}{self.body_bytes:>7} B {self.rate:>9,.0f} rec/s "
            f"{self.rate * self.body_bytes / 1e6:>7.1f} MB/s {self.cpu_seconds / self.records * 1e6:>6.2f} us CPU/rec "
            f"group {statistics.mean(self.groups):>5.1f}  commit p50 {p50 * 1e3:.2f} ms p99 {p99 * 1e3:.2f} ms"
        )


class GatheringLog:
    """What the baselines share: a thread that hands whatever has gathered to `store`, then answers."""

    def __init__(self, store: Callable[[list[bytes]], None], measured: Measured) -> None:
        self._store = store
        self._measured = measured
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def append(self, body: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((body, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            group = [self._queue.get()]
            while not self._queue.empty():
                group.append(self._queue.get())
            items = [item for item in group if item is not None]
            closing = len(items) < len(group)
            if not items:
                continue
            started_at = time.perf_counter()
            self._store([body for body, _ in items])
            self._measured.syncs.append(time.perf_counter() - started_at)
            self._measured.groups.append(len(items))
            futures = [future for _, future in items]
            futures[0].get_loop().call_soon_threadsafe(_answer, futures)


class Sqlite:
    """One table, one transaction per group."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(
            "CREATE TABLE log(offset INTEGER PRIMARY KEY, received_at, workspace, source_id, body BLOB)"
        )

    def store(self, bodies: list[bytes]) -> None:
        now = wall_clock()
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO log(received_at, workspace, source_id, body) VALUES(?,?,?,?)",
            [(now, "default", "src_web", body) for body in bodies],
        )
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()


def _answer(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


async def drive(
    append: Callable[[], Awaitable[object]], measured: Measured, waiting: int, seconds: float
) -> None:
    """Keep `waiting` appends in flight for `seconds` and note rate and CPU time."""
    stop_at = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < stop_at:
            await append()
            measured.records += 1

    started_at, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(waiting)))
    measured.seconds = time.perf_counter() - started_at
    measured.cpu_seconds = time.process_time() - cpu


async def run_ours(root: Path, body: bytes, waiting: int, seconds: float) -> Measured:
    measured = Measured("embedded event log", len(body))

    def note(flushed: Flushed) -> None:
        measured.groups.append(flushed.records)
        measured.syncs.append(flushed.sync_seconds)

    writer = LogWriter(root, region="local", clock=wall_clock, on_durable=note)
    address, sent_at = "203.0.113.7", "2026-01-01T00:00:00.000Z"

    def append() -> asyncio.Future[LogEnd]:
        return writer.append(
            Entry("default", "src_web", Kind.BATCH, Flags.GZIP, 1, 1, address, sent_at, body)
        )

    await drive(append, measured, waiting, seconds)
    writer.close()
    return measured


async def run_sqlite(root: Path, body: bytes, waiting: int, seconds: float) -> Measured:
    database = Sqlite(root / "baseline.sqlite")
    measured = await run_baseline("SQLite WAL FULL", database.store, body, waiting, seconds)
    database.close()
    return measured


async def run_baseline(
    name: str, store: Callable[[list[bytes]], None], body: bytes, waiting: int, seconds: float
) -> Measured:
    measured = Measured(name, len(body))
    log = GatheringLog(store, measured)
    await drive(lambda: log.append(body), measured, waiting, seconds)
    log.close()
    return measured


def run_reader(root: Path, body_bytes: int) -> str:
    reader = LogReader(root, clock=wall_clock)
    vector: Vector = {}
    records = 0
    started_at, cpu = time.perf_counter(), time.process_time()
    while True:
        part = reader.read(vector, bytes_max=16 * 1024 * 1024, events_max=1 << 40, wait_max_seconds=0)
        if not part.records:
            break
        records += len(part.records)
        vector = part.ends
    seconds, cpu = time.perf_counter() - started_at, time.process_time() - cpu
    reader.close()
    return (
        f"{'reading it back':<22}{body_bytes:>7} B {records / seconds:>9,.0f} rec/s "
        f"{records * body_bytes / seconds / 1e6:>7.1f} MB/s {cpu / records * 1e6:>6.2f} us CPU/rec"
    )


def run_syncs(directory: Path) -> str:
    """Append a page and sync it, again and again, and say how long the disk took."""
    seconds = []
    with (directory / "syncs").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(PAGE_BYTES))
            started_at = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - started_at)
    seconds.sort()
    shares = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    told = "  ".join(f"{name} {seconds[int(SYNCS * share)] * 1e3:.2f} ms" for share, name in shares)
    return f"fdatasync of {PAGE_BYTES} B, {SYNCS} times: {told}  max {seconds[-1] * 1e3:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--waiting", type=int, default=64)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {arguments.waiting} waiting"
    )
    for size in BODY_BYTES:
        body = random.Random(size).randbytes(size)
        directory = Path(tempfile.mkdtemp(prefix="eventlog-", dir=arguments.directory))
        try:
            print(run_syncs(directory))
            nothing = asyncio.run(
                run_baseline("nothing stored", lambda bodies: None, body, arguments.waiting, 1.0)  # noqa: ARG005
            )
            print(nothing.line())
            ours = asyncio.run(run_ours(directory / "log", body, arguments.waiting, arguments.seconds))
            print(ours.line())
            base = asyncio.run(run_sqlite(directory, body, arguments.waiting, arguments.seconds))
            print(base.line())
            cpu_ratio = (base.cpu_seconds / base.records) / (ours.cpu_seconds / ours.records)
            print(
                f"  ratio to SQLite: {ours.rate / base.rate:.2f}x records/s, "
                f"{cpu_ratio:.2f}x records per CPU second"
            )
            print(run_reader(directory / "log", size))
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
