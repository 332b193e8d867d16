"""What a lake on an object store costs against one on the disk of this machine.

    weed mini -dir=/tmp/s3 -ip=127.0.0.1 -ip.bind=127.0.0.1      # or any other S3 server
    AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… \\
        python benchmarks/lake_object_storage.py --endpoint http://127.0.0.1:8333 --bucket lake [--rows 1000000]

Writes, small commits, a scan of all files, and a look-up of one key, on both in the same run; the ratio to the
disk is what to watch. On a server of this machine it says what our way through costs, not what a network does.
"""

import argparse
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from _machine import machine
from lake_commit import EVENTS, SEED, events
from profilelake.lake import object_reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.table import LakeTable
from profilelake.settings import StorageOptions

COMMITS: Final = 20
SMALL_ROWS: Final = 1_000
READS: Final = 5
THREADS: Final = 2


def measured(work: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """Return the median wall and CPU seconds of one time."""
    walls, cpus = [], []
    for _ in range(times):
        before, began = _cpu(), time.perf_counter()
        work()
        walls.append(time.perf_counter() - began)
        cpus.append(_cpu() - before)
    return statistics.median(walls), statistics.median(cpus)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def asked(table: LakeTable, query: str, *, cold: bool) -> Callable[[], None]:
    """Return what runs a query over the files of a table, as `{files}`, on a connection of its own."""

    def run() -> None:
        if cold:
            object_reading.forget()
        with tempfile.TemporaryDirectory() as spill, sql.connect("2GB", spill, table.storage) as connection:
            connection.execute(f"SET threads = {THREADS:d}")
            connection.sql(query.format(files=sql.select_files(table.schema(), table.files()))).fetchall()

    return run


def figures(lake: Lake, rows: int) -> dict[str, tuple[float, float]]:
    """Measure one lake."""
    table = lake.table("bench", EVENTS)
    bulk = events(rows, SEED)
    found = {f"append {rows:,} rows": measured(lambda: table.append(bulk, Progress("e", 1)))}
    numbers = iter(range(2, 2 + COMMITS))
    small = events(SMALL_ROWS, SEED + 1)
    found[f"commit {SMALL_ROWS:,} rows"] = measured(
        lambda: table.append(small, Progress("e", next(numbers))), COMMITS
    )
    while table.compact(None) is not None:
        pass
    one = bulk.column("message_id")[rows // 2].as_py()
    scan = "SELECT count(*), sum(slot), count(DISTINCT event), max(length(properties)) FROM ({files})"
    look = "SELECT * FROM ({files}) WHERE message_id = " + sql.text(one)  # noqa: S608 - quoted
    narrow = "SELECT count(DISTINCT user_id) FROM ({files})"
    for name, query in (("scan four columns", scan), ("scan one column", narrow), ("look one up", look)):
        found[f"{name}, first time"] = measured(asked(table, query, cold=True), READS)
        found[f"{name}, again"] = measured(asked(table, query, cold=False), READS)
    found["list and check all files"] = measured(lambda: lake.load("bench", "events").missing(), READS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked_for = parser.parse_args()
    print(machine().line())
    print(
        f"{asked_for.rows:,} rows, seed {SEED}, {THREADS} threads; median of {COMMITS} commits, {READS} reads"
    )
    options = StorageOptions(endpoint=asked_for.endpoint, plain_http="allowed")
    with tempfile.TemporaryDirectory() as folder:
        place = f"s3://{asked_for.bucket}/bench-{uuid.uuid4().hex}"
        remote = Lake.open(f"sqlite:///{folder}/remote.db", place, storage=options)
        local = Lake.open(f"sqlite:///{folder}/local.db", Path(folder) / "warehouse")
        try:
            here, there = figures(local, asked_for.rows), figures(remote, asked_for.rows)
        finally:
            remote.storage.remove([file.location for file in remote.storage.list(place)])
    print(f"{'':32}{'disk ms':>10}{'(CPU)':>8}{'store ms':>10}{'(CPU)':>8}{'ratio':>7}{'CPU':>6}")
    for name, (wall, cpu) in here.items():
        far, far_cpu = there[name]
        ratio = f"{far / wall:>7.2f}{far_cpu / cpu if cpu else 0:>6.2f}"
        print(f"{name:32}{wall * 1e3:>10.1f}{cpu * 1e3:>8.1f}{far * 1e3:>10.1f}{far_cpu * 1e3:>8.1f}{ratio}")


if __name__ == "__main__":
    main()
