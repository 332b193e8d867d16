"""Do commits slow down after thousands of them? Small appends with maintenance running beside.

    python benchmarks/lake_commits.py [--commits 5000] [--rows 200] [--baseline 300]

One table of events, appended to as the lake process does, while a thread compacts and sweeps it step by
step with the rests that the lake process takes. A clock of the benchmark's own moves five seconds a
commit, so that snapshots grow old as they would; the day ends somewhere in the run. The baseline of the
same run is a table that nobody tends and whose snapshots are all kept.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow as pa

from _machine import machine
from lake_commit import EVENTS, SEED, START_US, events
from profilelake.lake import maintenance
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.table import LakeTable

COMMIT_SECONDS: Final = 5
DAY_SECONDS: Final = 86_400
SHARE: Final = 0.2
PART: Final = 500


class Ticking:
    """The benchmark's clock: nanoseconds that move with the commits. Begins after any real time."""

    def __init__(self) -> None:
        self.now = 4_000_000_000

    def __call__(self) -> int:
        return self.now * 1_000_000_000


class Tender(threading.Thread):
    """Compacts and sweeps beside the commits, resting as the lake process does."""

    def __init__(self, table: LakeTable, clock: Ticking) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.steps = self.swept = self.failed = 0
        self.busy = 0.0
        self._table, self._clock = table, clock

    def run(self) -> None:
        """Tend until told to stop."""
        looked = 0
        while not self.stop.is_set():
            began, cpu = time.monotonic(), time.thread_time()
            done = self._table.compact(day(self._clock), stopping=self.stop.is_set)
            self.steps += done is not None
            if self._clock.now - looked > 600:
                looked = self._clock.now
                # Their age by the disk is real time: the benchmark does not last an hour.
                gone = [f for f in self._table.unreachable() if f.modified_at < time.time() - 20]
                for file in gone:
                    Path(file.location).unlink(missing_ok=True)
                self.swept += len(gone)
            self.busy += time.thread_time() - cpu
            self.stop.wait((time.monotonic() - began) * (1 / SHARE - 1) + 0.05)


def day(clock: Ticking) -> int:
    """Return the first day that is not over: the rows' day moves with the clock."""
    return (START_US // 1_000_000 + clock.now - 4_000_000_000) // DAY_SECONDS


def run(folder: Path, commits: int, rows: int, *, tended: bool) -> tuple[list[float], list[float]]:
    """Commit and return milliseconds of each: wall, and processor time of this thread."""
    clock = Ticking()
    maintenance.SNAPSHOTS_MAX = 100 if tended else 1_000_000  # type: ignore[misc]
    lake = Lake.open(f"sqlite:///{folder}/c.db", folder / "w", clock=clock)
    table, batch = lake.table("bench", EVENTS), events(rows, SEED)
    place = batch.schema.get_field_index("received_at")
    tender = Tender(table, clock)
    if tended:
        tender.start()
    walls, cpus = [], []
    for sequence in range(1, commits + 1):
        moved = batch.column("received_at").cast("int64").to_numpy() + sequence * COMMIT_SECONDS * 1_000_000
        field = batch.schema.field(place)
        made = batch.set_column(place, field, pa.array(moved).cast(field.type))
        progress = Progress("e1", sequence, {"00000000000000aa": (sequence * 1000, sequence)}, {"failed": 0})
        wall, cpu = time.perf_counter(), time.thread_time()
        table.append(made, progress)
        walls.append((time.perf_counter() - wall) * 1_000)
        cpus.append((time.thread_time() - cpu) * 1_000)
        if tended:
            clock.now += COMMIT_SECONDS
    if tended:
        tender.stop.set()
        tender.join()
        files = table.files()
        found = sum(f.rows for f in files)
        print(
            f"  {tender.steps} compactions, {tender.swept} files swept, {tender.busy:.1f} CPU s of maintenance "
            f"({tender.busy / sum(cpus) * 1e5:.0f} % of the commits' {sum(cpus) / 1_000:.0f} s); "
            f"{len(files)} files, {len(table.snapshots())} snapshots left; {found:,} rows"
        )
        if found != commits * rows:
            raise RuntimeError(f"{found} rows, committed were {commits * rows}")
    lake.close()
    return walls, cpus


def line(name: str, walls: list[float], cpus: list[float]) -> str:
    """Return one line of figures."""
    hundredths = statistics.quantiles(walls, n=100)
    return (
        f"  {name:<12} wall p50 {hundredths[49]:6.1f} ms  p99 {hundredths[98]:7.1f} ms   "
        f"CPU p50 {statistics.median(cpus):6.1f} ms  p99 {statistics.quantiles(cpus, n=100)[98]:6.1f} ms"
    )


def main() -> None:
    """Run both parts in a temporary folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--commits", type=int, default=5_000)
    arguments.add_argument("--rows", type=int, default=200)
    arguments.add_argument("--baseline", type=int, default=300)
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen), f"seed {SEED}")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{chosen.commits:,} commits of {chosen.rows} rows, maintenance on:")
        walls, cpus = run(Path(folder), chosen.commits, chosen.rows, tended=True)
    middle = len(walls) // 2 - PART // 2
    parts = {
        "first": slice(0, PART),
        "middle": slice(middle, middle + PART),
        "last": slice(-PART, None),
    }
    for name, part in parts.items():
        print(line(f"{name} {PART}", walls[part], cpus[part]))
    tended = statistics.median(cpus[parts["last"]]) / statistics.median(cpus[parts["first"]])
    with tempfile.TemporaryDirectory() as folder:
        print(f"{chosen.baseline} commits without expiry and maintenance:")
        walls, cpus = run(Path(folder), chosen.baseline, chosen.rows, tended=False)
    print(line("first 50", walls[:50], cpus[:50]))
    print(line("last 50", walls[-50:], cpus[-50:]))
    bare = statistics.median(cpus[-50:]) / statistics.median(cpus[:50])
    print(f"CPU of the last commits to that of the first: {tended:.2f}; without maintenance {bare:.2f}")


if __name__ == "__main__":
    main()
