"""What compaction costs: processor time per event, and memory, whatever the size of a step.

    python benchmarks/lake_compaction.py [--files 40] [--rows 50000] [--spark]

Files of events are committed to two tables, one of which is then gathered by steps of compaction, one after
the other, the other by the plan that does all groups at once (`plans.compaction`). The baseline of the same run
is the commit of the same events: what a day's compaction adds to bringing its events in. The plan must not take
more processor time per byte than the steps. With `--spark` a third table is gathered on Spark, `local[2]`.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from lake_commit import EVENTS, SEED, events
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.lake.catalog import Lake
from profilelake.lake.compaction import Policy
from profilelake.lake.progress import Progress
from profilelake.lake.table import LakeTable
from profilelake.plans import compaction

SORTED: Final = replace(EVENTS, sort=("set_id", "position"))


def main() -> None:
    """Run in a temporary folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--files", type=int, default=40)
    arguments.add_argument("--rows", type=int, default=50_000)
    arguments.add_argument("--spark", action="store_true")
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen), f"seed {SEED}")
    total = chosen.files * chosen.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake.open(f"sqlite:///{folder}/c.db", folder / "w")
        names = ("steps", "plan", *(("spark",) if chosen.spark else ()))
        tables = [lake.table("bench", replace(SORTED, name=name)) for name in names]
        written = 0.0
        for number in range(chosen.files):
            rows = events(chosen.rows, SEED + number)
            cpu = time.process_time()
            tables[0].append(rows, Progress("e1", number + 1))
            written += time.process_time() - cpu
            for table in tables[1:]:
                table.append(rows, Progress("e1", number + 1))
        del rows
        size = sum(f.bytes for f in tables[0].files())
        policy = Policy(file_bytes=size // 3, step_bytes=size // 2)
        print(
            f"{total:,} events, {size >> 20} MiB in {chosen.files} files; committed at {written / total * 1e6:.2f} µs an event"
        )
        steps = timed("steps, one after the other", tables[0], lambda: in_steps(tables[0], policy), total)
        engine = EmbeddedEngine(folder / "engine")
        plan = timed("plan, embedded", tables[1], lambda: on(engine, lake, tables[1], policy), total)
        if chosen.spark:
            spark_engine = spark()
            timed(
                "plan, Spark local[2] (wall only: its workers are processes of their own)",
                tables[2],
                lambda: on(spark_engine, lake, tables[2], policy),
                total,
            )
            spark_engine.close()
        lake.close()
    print(
        f"ratio to committing them: {steps / written:.2f}; of the plan to the steps, CPU: {plan / steps:.2f}"
    )


def in_steps(table: LakeTable, policy: Policy) -> None:
    """Compact a table as the lake process does."""
    while table.compact(None, policy) is not None:
        pass


def on(engine: Engine, lake: Lake, table: LakeTable, policy: Policy) -> None:
    """Compact a table by the plan."""
    compaction.compact(engine, lake.storage, [table], policy=policy)


def timed(what: str, table: LakeTable, work: Callable[[], None], events: int) -> float:
    """Do some work, print what it took, and return its processor time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{what}: {wall:.1f} s, {cpu:.1f} CPU s, {cpu / events * 1e6:.2f} µs an event, {len(table.files())} files; "
        f"peak memory {before >> 10} -> {peak >> 10} MiB"
    )
    return cpu


def spark() -> Engine:
    """Return an engine on two cores of this machine."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where somebody asks for it

    from profilelake.engines.distributed import SparkEngine  # noqa: PLC0415 - only where somebody asks for it

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "1g")
        .getOrCreate()
    )
    return SparkEngine(session, "local[2]", end=session.stop)


if __name__ == "__main__":
    main()
