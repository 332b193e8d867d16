"""What it costs to say of each message id whether it was seen before, however long ago.

    python benchmarks/dedup.py [--sizes 1000000 10000000] [--batch 100000] [--seed 1]
                               [--rivals 1000000] [--directory DIR]

One history grows to the largest size, in micro-batches with 1 % repeats drawn from everything before
(the worst case for caches); each batch is judged, remembered and committed in a transaction of its own,
and merges run as they do in the pipeline. Every verdict is counted and must be right. At each size the
index is closed and opened again, once with its files out of the page cache.

RocksDB (where `rocksdict` can be imported; it is no dependency of the project) and a DuckDB anti-join do
the same work on the same ids, up to the sizes given by --rivals. RocksDB syncs each batch, as we do.
"""

import argparse
import contextlib
import ctypes
import importlib
import math
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

import _machine
from profilelake.landing import dedup
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict
from profilelake.state.store import State

W: Final = "default"
REPEATS: Final = 0.01
EVENTS_PER_RECORD: Final = 20
LOGS: Final = 4
START: Final = 1_772_359_210_000_000
MICROS_PER_EVENT: Final = 31_536
"""A billion events a year."""
SIZE_TOLD: Final = 1_000_000_000

Ids = npt.NDArray[np.uint64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--rivals", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    print(f"machine: {_machine.machine(arguments.directory).line()}")
    print(
        f"seed {arguments.seed}, batches of {arguments.batch:,}, {REPEATS:.0%} repeats; "
        f"memory tier {dedup.MEMORY_ROWS_MAX:,} rows, fan-in {dedup.FAN_IN}"
    )
    dedup.warm()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as home:
        ours(Path(home), sorted(arguments.sizes), arguments.batch, arguments.seed)
    for size in arguments.rivals:
        for rival in (rocksdb, anti_join):
            with tempfile.TemporaryDirectory(dir=arguments.directory) as home:
                rival(Path(home), size, arguments.batch, arguments.seed)


def hashes(numbers: Ids) -> tuple[Ids, Ids]:
    """Return two words that are as good as a keyed hash of message `number`."""
    first = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    first = (first ^ (first >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    first = (first ^ (first >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    first ^= first >> np.uint64(31)
    second = (first ^ np.uint64(0xD6E8FEB86659FD93)) * np.uint64(0xFF51AFD7ED558CCD)
    second = (second ^ (second >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return first, second ^ (second >> np.uint64(33))


def batches(size: int, batch: int, seed: int, start: int = 0) -> Iterator[tuple[Ids, int]]:
    """Yield message numbers of arrivals until `size` distinct ones were seen, and how many were new."""
    rng = np.random.default_rng(seed)
    seen = start
    while seen < size:
        new = min(batch - int(batch * REPEATS), size - seen)
        repeats = rng.integers(0, max(1, seen), int(batch * REPEATS) if seen else 0)
        numbers = np.concatenate((np.arange(seen, seen + new), repeats))
        rng.shuffle(numbers)
        yield numbers.astype(np.uint64), new
        seen += new


def entries_of(numbers: Ids, arrived: int) -> Entries:
    """Return the entries of messages that arrive after `arrived` others."""
    place = arrived + np.arange(numbers.size)
    record = place // EVENTS_PER_RECORD
    made = np.zeros(numbers.size, dtype=ENTRY)
    made["first"], made["second"] = hashes(numbers)
    made["received_at"] = START + record * (EVENTS_PER_RECORD * MICROS_PER_EVENT)
    made["log"] = (record % LOGS).astype(np.uint64) * np.uint64(0x1234567890ABCDEF)
    made["region"] = 0xC0FFEE
    made["index"] = place % EVENTS_PER_RECORD
    made["digest"] = (numbers * np.uint64(2654435761)).astype(np.uint32)
    return made


@dataclass(slots=True)
class Costs:
    """CPU and wall seconds of each batch; `parts` splits the CPU."""

    new: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what the block takes."""
        before = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - before

    @contextlib.contextmanager
    def batch(self, new: int) -> Iterator[None]:
        """Count a batch."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        self.new.append(new)

    def line(self) -> str:
        """Return the costs per id, the split, and the pauses."""
        last = -max(1, len(self.cpu) // 10)
        recent = 1e6 * sum(self.cpu[last:]) / sum(self.new[last:])
        wall = np.array(self.wall) * 1000
        split = ", ".join(f"{name} {1e6 * spent / sum(self.new):.3f}" for name, spent in self.parts.items())
        return (
            f"{self.micros():6.3f} us CPU/id ({split}{'; ' if split else ''}last tenth "
            f"{recent:.3f}), wall of a batch p50 {np.median(wall):.0f} "
            f"p99 {np.percentile(wall, 99):.0f} worst {wall.max():.0f} ms"
        )

    def micros(self) -> float:
        """Return CPU microseconds per new id."""
        return 1e6 * sum(self.cpu) / sum(self.new)


def ours(home: Path, sizes: list[int], batch: int, seed: int) -> None:
    """Grow one history through all sizes."""
    state = State.open(home / "state", writable=True)
    state.ensure([W])
    directory = home / "dedup"
    index = open_index(state, directory)
    sequence = arrived = seen = 0
    figures: list[tuple[int, float, float]] = []
    for size in sizes:
        costs, runs_most, written = Costs(), 0, _written_bytes()
        for numbers, new in batches(size, batch, seed, seen):
            entries = entries_of(numbers, arrived)
            arrived += numbers.size
            sequence += 1
            with costs.batch(new):
                with state.write() as tx:
                    with costs.part("judge"):
                        judged = index.judge(entries)
                    with costs.part("remember"):
                        index.add(tx, sequence, judged)
                with costs.part("merge"):
                    index.sweep()
            found = np.bincount(judged.verdicts, minlength=len(Verdict)).tolist()
            if found != [new, numbers.size - new, 0, 0]:
                raise SystemExit(f"wrong: {new} of {numbers.size} were new, the verdicts are {found}")
            runs_most = max(runs_most, index.runs())
        seen = size
        disk = sum(path.stat().st_size for path in directory.iterdir())
        listed = sum(run.rows for run in listed_runs(index))
        on_disk = sum((directory / run.name).stat().st_size for run in listed_runs(index))
        print(f"\nindex      {size:>13,} ids  {costs.line()}")
        anonymous, mapped = _resident_mb()
        amplification = (_written_bytes() - written) / sum(costs.new)
        print(
            f"           {on_disk / max(1, listed):.2f} bytes an id in runs, {disk / size:.2f} with files in the making; "
            f"{index.runs()} runs (most {runs_most}); {amplification:.0f} bytes written an id; "
            f"index memory {index.memory_bytes() / 2**20:.0f} MiB; RSS {anonymous:.0f} MB own + {mapped:.0f} MB mapped"
        )
        del index
        started = time.perf_counter()
        open_index(state, directory)
        warm = time.perf_counter() - started
        cooled = cool(directory)
        started = time.perf_counter()
        index = open_index(state, directory)
        cold = time.perf_counter() - started
        numbers, new = next(batches(size + batch, batch, seed + 1, size))
        entries = entries_of(numbers, arrived)
        started = time.perf_counter()
        index.judge(entries)
        first = time.perf_counter() - started
        started = time.perf_counter()
        index.judge(entries)
        again = time.perf_counter() - started
        print(
            f"           opened in {warm * 1000:.0f} ms; {cooled}: {cold * 1000:.0f} ms, its first batch judged in "
            f"{first * 1000:.0f} ms, the same again in {again * 1000:.0f} ms"
        )
        for count in (1, 50):
            print(f"           {small(index, count, arrived)}")
        figures.append((size, costs.micros(), on_disk / max(1, listed)))
    state.close()
    if len(figures) > 1:
        tell(figures)


def small(index: DedupIndex, count: int, arrived: int) -> str:
    """Return what the judging of a small micro-batch takes; nothing is remembered."""
    rng = np.random.default_rng(0)
    times = []
    for _ in range(200):
        entries = entries_of(rng.integers(1 << 60, 1 << 61, count).astype(np.uint64), arrived)
        started = time.perf_counter()
        index.judge(entries)
        times.append(time.perf_counter() - started)
    return f"a micro-batch of {count}: judged in {1e6 * float(np.median(times)):.0f} us"


def tell(figures: list[tuple[int, float, float]]) -> None:
    """Print where the line through the last two sizes leads: arithmetic, not a measurement."""
    (size, cost, _), (larger, cost_larger, disk) = figures[-2:]
    slope = (cost_larger - cost) / math.log10(larger / size)
    told = cost_larger + slope * math.log10(SIZE_TOLD / larger)
    print(
        f"\nby arithmetic: {slope:+.3f} us per factor of ten from {size:,} to {larger:,} gives {told:.2f} us CPU/id "
        f"and {SIZE_TOLD * disk / 1e9:.0f} GB at {SIZE_TOLD:,} ids, with {SIZE_TOLD * 12 / 8e9:.1f} GB of filters to "
        "be kept in the page cache"
    )


def open_index(state: State, directory: Path) -> DedupIndex:
    """Open the index as the pipeline does at its start."""
    with state.read(W) as tx:
        return DedupIndex.load(tx, W, directory)


def listed_runs(index: DedupIndex) -> list[Any]:
    """Return the run files the index searches."""
    return [run.file for run in index._runs]  # noqa: SLF001 - a benchmark looks inside


def cool(directory: Path) -> str:
    """Have the files leave the page cache; they must not be mapped."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "not in the page cache"


# ---- rivals ------------------------------------------------------------------------------------


def rocksdb(home: Path, size: int, batch: int, seed: int) -> None:
    """One key a message id, looked up in one call a batch, written in one synced batch."""
    try:
        rocks: Any = importlib.import_module("rocksdict")
    except ImportError:
        print(f"\nRocksDB    {size:>13,} ids  left out: rocksdict cannot be imported")
        return
    options = rocks.Options(raw_mode=True)
    options.create_if_missing(True)
    tables = rocks.BlockBasedOptions()
    tables.set_bloom_filter(10.0, False)
    tables.set_block_cache(rocks.Cache(512 << 20))
    options.set_block_based_table_factory(tables)
    db = rocks.Rdict(str(home / "db"), options)
    synced = rocks.WriteOptions()
    synced.sync = True
    arrived = 0

    def step(entries: Entries) -> int:
        keys = _raw(entries, 0, 16)
        values = _raw(entries, 16, ENTRY.itemsize)
        fresh = {
            key: value for key, value, known in zip(keys, values, db.get(keys), strict=True) if known is None
        }
        write = rocks.WriteBatch(raw_mode=True)
        for key, value in fresh.items():
            write.put(key, value)
        db.write(write, synced)
        return len(fresh)

    costs = Costs()
    for numbers, new in batches(size, batch, seed):
        entries = entries_of(numbers, arrived)
        arrived += numbers.size
        with costs.batch(new):
            found = step(entries)
        _check(found, new)
    db.flush()
    db.close()
    _tell_rival("RocksDB", home, size, costs)


def anti_join(home: Path, size: int, batch: int, seed: int) -> None:
    """One table of all ids; each batch is joined against it and what is new is appended."""
    connection = duckdb.connect(str(home / "seen.duckdb"), config={"threads": 1})
    connection.execute(
        "CREATE TABLE seen (first UBIGINT, second UBIGINT, received_at BIGINT, log UINTEGER, index UINTEGER, "
        "digest UINTEGER)"
    )
    costs, arrived = Costs(), 0
    for numbers, new in batches(size, batch, seed):
        entries = entries_of(numbers, arrived)
        arrived += numbers.size
        arrivals = pa.table(
            {
                name: np.ascontiguousarray(entries[name]).astype(
                    "u4" if name == "log" else entries[name].dtype
                )
                for name in ("first", "second", "received_at", "log", "index", "digest")
            }
        )
        with costs.batch(new):
            connection.register("arrivals", arrivals)
            connection.execute("BEGIN")
            found = connection.execute(
                "INSERT INTO seen SELECT DISTINCT ON (first, second) arrivals.* FROM arrivals "
                "ANTI JOIN seen USING (first, second)"
            ).fetchall()[0][0]
            connection.execute("COMMIT")
            connection.unregister("arrivals")
        _check(found, new)
    connection.close()
    _tell_rival("DuckDB", home, size, costs)


def _raw(entries: Entries, start: int, stop: int) -> list[bytes]:
    whole = entries.tobytes()
    return [whole[at + start : at + stop] for at in range(0, len(whole), ENTRY.itemsize)]


def _check(found: int, new: int) -> None:
    if found != new:
        raise SystemExit(f"wrong: {new} were new, {found} were found to be")


def _tell_rival(name: str, home: Path, size: int, costs: Costs) -> None:
    disk = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    print(f"\n{name:10} {size:>13,} ids  {costs.line()}")
    print(f"           {disk / size:.2f} bytes an id on disk")


# ---- the process -------------------------------------------------------------------------------


def _resident_mb() -> tuple[float, float]:
    """Return resident memory of our own and of mapped files."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    own, mapped = (int(lines[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile"))
    return own, mapped


def _written_bytes() -> int:
    return 512 * resource.getrusage(resource.RUSAGE_SELF).ru_oublock


if __name__ == "__main__":
    main()
