"""What a profile's history costs in the lake: the look-up of one person's events, a scan, bytes per event.

Writes synthetic events straight into an `events` table, once in order of arrival (as micro-batches are
published: small commits, each sorted by set) and once as compaction leaves them (sorted by set and
position over the whole day). The baseline of each look-up is a scan of the same column of the same
table in the same run; figures in CPU seconds hold also on a busy machine.

    python benchmarks/history.py --events 10000000
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.landing.tables import EVENTS
from profilelake.serve._past import Past
from profilelake.serve._profile import Found
from profilelake.serve._request import Query
from profilelake.serve.event_history import event_history
from profilelake.state.records import ProfileRecord
from profilelake.state.store import State

WORKSPACE: Final = "bench"
COMMIT_ROWS: Final = 200_000
SORTED_ROWS: Final = 1_000_000
START: Final = 1_780_000_000_000_000 // 86_400_000_000 * 86_400_000_000
DAY: Final = 86_400_000_000
LOOKUPS: Final = 50
PLANS: Final = ("free", "pro", "team", "enterprise")
NAMES: Final = ("Product Viewed", "Product Added", "Order Completed", "Search", "Signed In", "Page Left")
_HEX: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Events by number: half of them of a few busy people, the other half spread over all."""

    events: int
    people: int
    seed: int

    def owners(self) -> Ints:
        """Return whose each event is."""
        rng = np.random.default_rng(self.seed)
        busy = (rng.pareto(1.2, self.events) * 3).astype(np.int64) % self.people
        even = rng.integers(0, self.people, self.events)
        return np.where(rng.random(self.events) < 0.5, busy, even)

    def sets(self) -> Bytes:
        """Return the id of each person's set: 16 bytes that look random, as keyed hashes do."""
        return np.random.default_rng(self.seed + 1).integers(0, 256, (self.people, 16), dtype=np.uint8)


def rows(numbers: Ints, owners: Ints, sets: Bytes, total: int) -> pa.Table:
    """Return those events as rows of `events`."""
    n = len(numbers)
    mine = owners[numbers]
    at = START + numbers * (DAY - 1) // total
    positions = np.zeros((n, 32), dtype=np.uint8)
    positions[:, :8] = at.astype(">i8").view(np.uint8).reshape(n, 8)
    positions[:, 20:28] = (numbers * 531).astype(">i8").view(np.uint8).reshape(n, 8)
    rng = np.random.default_rng(int(numbers[0]))
    price = pa.array(rng.integers(100, 100_000, n)).cast(pa.string())
    product = pa.array(rng.integers(0, 20_000, n)).cast(pa.string())
    properties = _joined(
        '{"product_id":"p',
        product,
        '","plan":"',
        _taken(PLANS, rng, n),
        '","price":',
        price,
        ',"currency":"EUR"}',
    )
    context = _joined(
        '{"ip":"10.',
        pa.array(mine % 256).cast(pa.string()),
        ".",
        pa.array(mine // 256 % 256).cast(pa.string()),
        '.1","library":{"name":"analytics.js","version":"4.1.0"},"locale":"en-US","page":{"path":"/p/',
        product,
        '","referrer":"","title":"Shop"},"userAgent":"Mozilla/5.0 (X11; Linux x86_64) Firefox/1',
        pa.array(mine % 40).cast(pa.string()),
        '.0"}',
    )
    user = _joined("user-", pa.array(mine).cast(pa.string()))
    time_of = pa.array(at, pa.timestamp("us", "UTC"))
    null = pa.nulls(n, pa.string())
    columns: dict[str, Any] = {
        "position": pa.Array.from_buffers(pa.binary(32), n, [None, pa.py_buffer(positions.tobytes())]),
        "received_at": time_of,
        "message_id": _hex(rng.integers(0, 256, (n, 16), dtype=np.uint8)),
        "type": _taken(("track",), rng, n),
        "event": _taken(NAMES, rng, n),
        "user_id": user,
        "anonymous_id": _hex(sets[mine][:, ::-1]),
        "timestamp": time_of,
        "original_timestamp": time_of,
        "sent_at": time_of,
        "source_id": _taken(("shop",), rng, n),
        "library": _taken(("analytics.js",), rng, n),
        "context": context,
        "properties": properties,
        "set_id": pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(sets[mine].tobytes())]),
        "account_set_id": pa.nulls(n, pa.binary(16)),
        "region": _taken(("local",), rng, n),
    }
    schema = EVENTS.schema()
    return pa.table([columns.get(field.name, null).cast(field.type) for field in schema], schema=schema)


def _taken(values: tuple[str, ...], rng: np.random.Generator, n: int) -> pa.Array:
    return pa.array(values).take(pa.array(rng.integers(0, len(values), n)))


def _joined(*parts: str | pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _hex(data: Bytes) -> pa.Array:
    n, width = data.shape
    text = np.empty((n, 2 * width), dtype=np.uint8)
    text[:, ::2], text[:, 1::2] = _HEX[data >> 4], _HEX[data & 15]
    ends = pa.py_buffer((np.arange(n + 1) * 2 * width).astype(np.int32).tobytes())
    return pa.StringArray.from_buffers(n, ends, pa.py_buffer(text.tobytes()))


def in_order_of_arrival(corpus: Corpus, owners: Ints, sets: Bytes) -> Iterator[pa.Table]:
    """Yield commits as the pipeline makes them: each sorted by set."""
    for start in range(0, corpus.events, COMMIT_ROWS):
        numbers = np.arange(start, min(start + COMMIT_ROWS, corpus.events))
        part = rows(numbers, owners, sets, corpus.events)
        yield part.sort_by([(name, "ascending") for name in EVENTS.sort])


def sorted_by_set(corpus: Corpus, owners: Ints, sets: Bytes) -> Iterator[pa.Table]:
    """Yield files as compaction of a whole day leaves them."""
    order = np.lexsort(sets.T[::-1])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    numbers = np.argsort(rank[owners], kind="stable")
    for start in range(0, corpus.events, SORTED_ROWS):
        yield rows(numbers[start : start + SORTED_ROWS], owners, sets, corpus.events)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing took: CPU and wall milliseconds, the median and the slowest."""

    cpu: float
    cpu_max: float
    wall: float


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU and wall milliseconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000


def looked_up(directory: Path, lake: Lake, chosen: list[bytes], query: bytes) -> Cost:
    """Look up pages of the events of these sets, as `/events?history=full` does, less the HTTP."""
    state = State.open(directory / "state", writable=True)
    state.ensure([WORKSPACE])
    past = Past(lambda: lake, lambda _: directory / "recent", directory / "spill")
    costs = []
    for number, key in enumerate([chosen[0], *chosen]):
        with state.read(WORKSPACE) as tx:
            found = Found(tx, WORKSPACE, "users", key, ProfileRecord(0, bytes(32), [], [key]))
            cost = timed(lambda: event_history(found, Query(query), past))  # noqa: B023
        if number:
            costs.append(cost)
    past.close()
    state.close()
    cpu = [cost[0] for cost in costs]
    return Cost(statistics.median(cpu), max(cpu), statistics.median(cost[1] for cost in costs))


def scanned(lake: Lake, columns: str) -> tuple[float, float]:
    """Return the CPU and wall seconds of one aggregation over all events."""
    published = lake.load(WORKSPACE, EVENTS.name)
    with tempfile.TemporaryDirectory() as spill:
        connection = sql.connect("4GB", spill)
        query = f"SELECT {columns} FROM ({sql.select_files(published.table.schema(), published.files)})"  # noqa: S608
        best = min(timed(lambda: connection.sql(query).fetchall()) for _ in range(3))
        connection.close()
    return best[0] / 1000, best[1] / 1000


def report(name: str, directory: Path, lake: Lake, corpus: Corpus, sets: Bytes, owners: Ints) -> None:
    """Print what a table in this layout costs."""
    published = lake.load(WORKSPACE, EVENTS.name)
    size = sum(file.bytes for file in published.files)
    print(f"\n{name}: {len(published.files)} files, {size / corpus.events:.1f} bytes an event")
    counts = np.bincount(owners, minlength=corpus.people)
    rng = np.random.default_rng(corpus.seed + 2)
    usual = rng.choice(np.flatnonzero((counts > 0) & (counts <= 50)), LOOKUPS)
    busy = np.argsort(counts)[-5:]
    print(f"  the busiest five have {', '.join(f'{count:,}' for count in counts[busy])} events")
    scan_cpu, _ = scanned(lake, "count(DISTINCT set_id)")
    for columns in ("histogram(event)", "sum(strlen(properties)), sum(strlen(context))"):
        cpu, wall = scanned(lake, columns)
        print(f"  scan: {columns:<48} {corpus.events / cpu / 1e6:7.1f} M events/s CPU, {wall:.2f} s")
    asked = [
        ("usual person, newest 10", usual, b"limit=10"),
        ("usual person, oldest 10", usual, b"limit=10&sort=asc"),
        ("usual person, a property", usual, b"limit=10&property.plan=pro"),
        ("busiest 5, newest 100", busy, b"limit=100"),
        ("busiest 5, oldest 100", busy, b"limit=100&sort=asc"),
    ]
    for what, people, query in asked:
        cost = looked_up(directory, lake, [sets[one].tobytes() for one in people], query)
        print(
            f"  {what:<26} CPU p50 {cost.cpu:8.1f} ms, max {cost.cpu_max:8.1f} ms, wall p50 {cost.wall:8.1f} ms;"
            f" {scan_cpu * 1000 / cost.cpu:6.1f} times cheaper than a scan of set_id ({scan_cpu:.2f} s CPU)"
        )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the tables are written (default: temporary)")
    parser.add_argument("--only", choices=("arrival", "sorted"), help="one layout only")
    given = parser.parse_args()
    corpus = Corpus(given.events, given.people, given.seed)
    print(machine(given.directory).line())
    print(f"{corpus.events:,} events of {corpus.people:,} people in one day, seed {corpus.seed}")
    owners, sets = corpus.owners(), corpus.sets()
    layouts = {"arrival": in_order_of_arrival, "sorted": sorted_by_set}
    for layout, parts in layouts.items():
        if given.only not in (None, layout):
            continue
        with tempfile.TemporaryDirectory(dir=given.directory) as folder:
            directory = Path(folder)
            lake = Lake.open(f"sqlite:///{directory}/catalog.sqlite", directory / "lake")
            table = lake.table(WORKSPACE, EVENTS)
            cpu = time.process_time()
            for number, part in enumerate(parts(corpus, owners, sets)):
                table.append(part, Progress("0", number))
            print(f"\nwritten in {time.process_time() - cpu:.0f} s CPU, making them included")
            report(f"{layout} order", directory, lake, corpus, sets, owners)
            if layout == "arrival":
                cpu = time.process_time()
                while table.compact(open_from=None) is not None:
                    pass
                print(f"\ncompacted in {time.process_time() - cpu:.0f} s CPU")
                report("compacted", directory, lake, corpus, sets, owners)
            lake.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
