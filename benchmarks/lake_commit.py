"""What a commit to the lake costs: small ones over time, a large one against plain Parquet.

    python benchmarks/lake_commit.py [--commits 200] [--rows 200000]

Figures are per commit, wall and CPU of this process. The ratio at the end is what to watch: the
share of a large append that is not writing Parquet.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.lake import maintenance
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.tables import Column, TableDef

SEED: Final = 7
START_US: Final = 1_700_000_000_000_000

EVENTS: Final = TableDef(
    name="events",
    columns=(
        Column("message_id", pa.string(), "id", required=True),
        Column("type", pa.string(), "type", required=True),
        Column("event", pa.string(), "name"),
        Column("user_id", pa.string(), "who", personal=True),
        Column("anonymous_id", pa.string(), "who", personal=True),
        Column("set_id", pa.binary(16), "set", required=True),
        Column("slot", pa.int32(), "slot", required=True),
        Column("context", pa.string(), "JSON", personal=True),
        Column("properties", pa.string(), "JSON", personal=True),
        Column("position", pa.binary(32), "position", required=True),
        Column("received_at", pa.timestamp("us", "UTC"), "when", required=True),
        Column("timestamp", pa.timestamp("us", "UTC"), "when", required=True),
    ),
    doc="Events of the benchmark.",
    day="received_at",
)


def events(count: int, seed: int) -> pa.Table:
    """Make events of about the size and spread of a shop's."""
    rng = np.random.default_rng(seed)
    users = rng.zipf(1.4, count) % 100_000
    at = START_US + np.arange(count, dtype=np.int64) * 100
    context = (
        '{{"ip":"203.0.113.{}","page":{{"path":"/p/{}"}},"userAgent":"Mozilla/5.0 (X11; Linux x86_64)"}}'
    )
    return pa.table(
        {
            "message_id": [f"{n:032x}" for n in rng.integers(0, 1 << 62, count).tolist()],
            "type": rng.choice(["track", "page", "identify"], count),
            "event": rng.choice(["Product Viewed", "Product Added", "Order Completed"], count),
            "user_id": [f"user-{u}" for u in users],
            "anonymous_id": [f"{u * 7919:032x}" for u in users],
            "set_id": pa.array([int(u).to_bytes(16, "big") for u in users], pa.binary(16)),
            "slot": pa.array(users % 65_536, pa.int32()),
            "context": [context.format(u % 256, u % 997) for u in users],
            "properties": [f'{{"price":{u % 300}.5,"sku":"s-{u % 5000}"}}' for u in users],
            "position": pa.array([int(a).to_bytes(32, "big") for a in at], pa.binary(32)),
            "received_at": pa.array(at, pa.timestamp("us", "UTC")),
            "timestamp": pa.array(at - 1_000_000, pa.timestamp("us", "UTC")),
        },
        schema=EVENTS.schema(),
    )


def small_commits(folder: Path, commits: int, *, expiry: bool) -> None:
    """Append 1,000 rows at a time and print the median of the first and last 50 commits."""
    # A clock at ten minutes a commit lets every commit expire; one that stands lets none.
    seconds = iter(range(4_000_000_000, 5_000_000_000, 600 if expiry else 1))
    lake = Lake.open(
        f"sqlite:///{folder}/c.db",
        folder / "w",
        clock=lambda: (next(seconds) if expiry else 4_000_000_000) * 10**9,
    )
    maintenance.SNAPSHOTS_MAX = 1_000_000 if not expiry else 100  # type: ignore[misc]
    table, rows = lake.table("bench", EVENTS), events(1_000, SEED)
    walls, cpus = [], []
    for sequence in range(1, commits + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        table.append(
            rows, Progress("e1", sequence, {"00000000000000aa": (sequence * 1000, sequence)}, {"failed": 0})
        )
        walls.append((time.perf_counter() - wall) * 1_000)
        cpus.append((time.process_time() - cpu) * 1_000)
    first, last = slice(0, 50), slice(-50, None)
    print(
        f"{commits} commits of 1,000 rows, expiry {'on ' if expiry else 'off'}: "
        f"wall p50 {statistics.median(walls[first]):.1f} -> {statistics.median(walls[last]):.1f} ms, "
        f"CPU p50 {statistics.median(cpus[first]):.1f} -> {statistics.median(cpus[last]):.1f} ms, "
        f"CPU mean {statistics.mean(cpus):.1f} ms, {len(table.snapshots())} snapshots at the end"
    )
    fresh = Lake.open(f"sqlite:///{folder}/c.db", folder / "w")
    for look in ("first", "second"):
        wall = time.perf_counter()
        connection = duckdb.connect()
        attach(connection, fresh, "bench")
        found = connection.sql("SELECT count(*) AS n FROM events").to_arrow_table().to_pylist()[0]["n"]
        print(f"  {look} attach and count of {found:,} rows: {(time.perf_counter() - wall) * 1_000:.0f} ms")


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def large_append(folder: Path, count: int) -> None:
    """Append `count` rows at once and compare with writing them to one Parquet file, best of three."""
    rows = events(count, SEED)
    table = Lake.open(f"sqlite:///{folder}/c.db", folder / "w").table("large", EVENTS)
    plain, ours = [], []
    for number in range(1, 4):
        path = folder / f"{number}.parquet"
        plain.append(timed(partial(pq.write_table, rows, path, compression="zstd")))
        ours.append(timed(partial(table.append, rows, Progress("e1", number))))
    wall, cpu = (min(t[i] for t in ours) / min(t[i] for t in plain) for i in (0, 1))
    print(
        f"{count:,} rows ({rows.nbytes >> 20} MiB Arrow, {table.files()[0].bytes >> 20} MiB Parquet): "
        f"append {min(ours)[0]:.2f} s, plain Parquet {min(plain)[0]:.2f} s, "
        f"ratio wall {wall:.2f}, CPU {cpu:.2f}; {count / min(ours)[0]:,.0f} rows/s"
    )


def main() -> None:
    """Run all parts in a temporary folder."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--commits", type=int, default=200)
    arguments.add_argument("--rows", type=int, default=200_000)
    chosen = arguments.parse_args()
    parts: tuple[Callable[[Path], None], ...] = (
        partial(small_commits, commits=chosen.commits, expiry=True),
        partial(small_commits, commits=chosen.commits, expiry=False),
        partial(large_append, count=chosen.rows),
    )
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))


if __name__ == "__main__":
    main()
