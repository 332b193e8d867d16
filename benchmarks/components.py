"""Connected components of the same edges: our plan on one machine and on Spark, and Spark's own DataFrames.

    python benchmarks/components.py write --edges 10000000 --directory /tmp/graph
    python benchmarks/components.py run   --directory /tmp/graph [--engines embedded,spark,stars] [--heap 3g]

`write` puts the graph of `identity_graph.py` into files: sets of two ids of 128 bits, as a rebuild has them, and the
same edges as pairs of 64-bit numbers, which is the best that DataFrames can be given.
`run` starts each engine in a process of its own and prints processor seconds of the whole process tree (JVM, Python
workers and all), wall seconds, peak memory, and for each step rows and bytes that were shuffled. All must find as
many components. Engines:

- `embedded`: `plans.components` on this machine, without a JVM;
- `spark`: the same plan on Spark, local[2];
- `stars`: large-star and small-star of Kiveris and others in Spark's DataFrame API: 64-bit numbers, adaptive
  execution, no broadcasts, a checkpoint each round, ended when a round changes nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from _process_tree import Memory, adopt_orphans, cpu_seconds, wait_for_all
from identity_graph import TYPES, Graph, columns
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Cut, CutUp, Engine, Gather, Work
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep
from profilelake.kernels import siphash
from profilelake.kernels._hashed_table import Int64s, Words
from profilelake.lake.storage import LocalStorage
from profilelake.plans.components import Limits, find_components
from profilelake.semantics.identifiers import ident_prefix

KEY: Final = bytes(range(16))
FILES: Final = 16
BATCH: Final = 1 << 19
ENGINES: Final = ("embedded", "spark", "stars")
Shuffled: TypeAlias = Callable[[], int]
LIMITS: Final = Limits(unit_sets=1 << 22, part_rows=1 << 22, finish_bytes=1 << 30)
ROUNDS_MAX: Final = 50


def links(rows: pa.Table) -> tuple[Words, Int64s]:
    """Return both ids of each edge."""
    lists = rows.column("ids").combine_chunks()
    return siphash.from_arrow(lists.flatten()), (lists.offsets.to_numpy() - lists.offsets[0].as_py()).astype(
        np.int64
    )


def write(graph: Graph, directory: Path) -> None:
    """Write the graph in both forms, edges in the generator's mixed order."""
    storage = LocalStorage(str(directory))
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "pairs").mkdir(parents=True)
    prefixes = [ident_prefix("users", type) for type in TYPES]
    per_file = -(-graph.edges // FILES)
    kept: list[KeptFile] = []
    held: list[pa.Table] = []
    count = 0

    def flush() -> None:
        edges = pa.concat_tables(held)
        kept.extend(keep(storage, f"{directory}/sets", edges.select(["ids"])))
        pq.write_table(
            edges.select(["src", "dst"]), directory / "pairs" / f"{len(kept):03d}.parquet", compression="lz4"
        )
        held.clear()

    for kinds, numbers in graph.batches(min(BATCH, per_file)):
        codes, values = columns(kinds, numbers)
        ids = siphash.to_arrow(siphash.hash_typed(KEY, prefixes, codes, values))
        lists = pa.ListArray.from_arrays(np.arange(0, len(ids) + 1, 2, dtype=np.int32), ids)
        # A number for each identifier: its kind and its number, which no other has.
        nodes = (kinds.astype(np.int64) << 60) | numbers.astype(np.int64)
        held.append(pa.table({"ids": lists, "src": nodes[:, 0], "dst": nodes[:, 1]}))
        count += len(kinds)
        if sum(table.num_rows for table in held) >= per_file:
            flush()
    if held:
        flush()
    (directory / "graph.json").write_bytes(
        msgspec.json.encode(
            {"edges": count, "seed": graph.seed, "files": [msgspec.to_builtins(file) for file in kept]}
        )
    )
    print(f"{count:,} edges in {len(kept)} files of sets, {sum(file.bytes for file in kept) / 1e6:,.0f} MB")


# ---- one engine in a process of its own ---------------------------------------------------------


@dataclass
class Step:
    """What a step took."""

    name: str
    seconds: float
    cpu_seconds: float
    rows: int = 0
    bytes: int = 0


@dataclass
class Result:
    """What one engine says."""

    engine: str
    components: int
    rounds: int
    seconds: float
    steps: list[Step] = field(default_factory=list)


class Watched:
    """An engine, with the rows and bytes that it spreads and the processor seconds of its steps."""

    def __init__(self, engine: Engine, shuffled: Shuffled | None) -> None:
        self._engine = engine
        self._shuffled = shuffled
        self.name, self.tasks = engine.name, engine.tasks
        self.steps: list[Step] = []

    def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
        """Return what the engine does."""
        with stepping(self.steps, name, self._shuffled):
            return self._engine.each(name, units, work)

    def spread(
        self,
        name: str,
        units: Sequence[Any],
        cut: CutUp[Any],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        """Return what the engine does."""
        with stepping(self.steps, name, self._shuffled) as step:
            step.rows = rows_of(units)
            counted = cut if self._shuffled else _Counted(cut, step)
            return self._engine.spread(name, units, counted, inputs, parts, gather)

    def close(self) -> None:
        """End it."""
        self._engine.close()


@contextmanager
def stepping(steps: list[Step], name: str, shuffled: Shuffled | None) -> Iterator[Step]:
    """Add what happens inside to `steps`."""
    step = Step(name, time.monotonic(), cpu_seconds(os.getpid()))
    before = shuffled() if shuffled else 0
    yield step
    step.seconds = time.monotonic() - step.seconds
    step.cpu_seconds = cpu_seconds(os.getpid()) - step.cpu_seconds
    if shuffled:
        step.bytes = shuffled() - before
    steps.append(step)


def rows_of(units: Sequence[Any]) -> int:
    """Return how many rows units hold; here all of them are spread."""
    files = (getattr(unit, "identifiers", getattr(unit, "file", unit)) for unit in units)
    return sum(file.rows for file in files)


@dataclass
class _Counted:
    cut: CutUp[Any]
    step: Step

    def __call__(self, unit: Any) -> Iterator[Cut]:
        for piece in self.cut(unit):
            self.step.bytes += piece.rows.nbytes
            yield piece


def run_plan(name: str, directory: Path, heap: str, scratch: Path) -> Result:
    """Find components with our plan."""
    told = msgspec.json.decode((directory / "graph.json").read_bytes())
    files = msgspec.convert(told["files"], list[KeptFile])
    storage = LocalStorage(str(scratch / "lake"))
    if name == "embedded":
        watched = Watched(EmbeddedEngine(scratch / "engine"), None)
    else:
        watched = _spark_engine(heap, scratch)
    began = time.monotonic()
    found = find_components(
        watched, Job(storage, "bench", told["edges"]), files, links, ["ids"], limits=LIMITS
    )
    result = Result(name, found.components, found.rounds, time.monotonic() - began, watched.steps)
    watched.close()
    return result


def run_stars(directory: Path, heap: str, scratch: Path) -> Result:
    """Find components with Spark's DataFrames."""
    from pyspark.sql import functions as sql  # noqa: PLC0415 - only this engine needs it

    session = _session(heap, scratch)
    session.conf.set("spark.sql.adaptive.enabled", "true")
    session.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    session.sparkContext.setCheckpointDir(str(scratch / "checkpoints"))
    shuffled = _shuffled_of(session)
    result = Result("stars", 0, 0, 0.0)
    began = time.monotonic()
    edges = (
        session.read.parquet(str(directory / "pairs"))
        .where("src <> dst")
        .select(sql.greatest("src", "dst").alias("src"), sql.least("src", "dst").alias("dst"))
        .distinct()
    )
    before: Any = None
    for number in range(1, ROUNDS_MAX + 1):
        with stepping(result.steps, f"round-{number}", shuffled):
            edges = _round(edges).checkpoint()
            # Of a star each edge leads to its centre; a round that leaves all of them as they were was the last.
            told = edges.agg(
                sql.count("*"),
                sql.sum(sql.col("src").cast("decimal(38,0)")),
                sql.sum(sql.col("dst").cast("decimal(38,0)")),
            )
            now = tuple(told.collect()[0])
        result.rounds = number
        if now == before:
            break
        before = now
    else:
        raise SystemExit(f"not finished after {ROUNDS_MAX} rounds")
    # Every centre is the least node of its star, and has none below it.
    result.components = edges.select("dst").distinct().count()
    result.seconds = time.monotonic() - began
    session.stop()
    return result


def _round(edges: Any) -> Any:
    """Large-star, then small-star; edges lead from the greater node to the lesser."""
    from pyspark.sql import Window  # noqa: PLC0415
    from pyspark.sql import functions as sql  # noqa: PLC0415

    both = edges.union(edges.select(sql.col("dst").alias("src"), sql.col("src").alias("dst")))
    of_node = Window.partitionBy("src")
    large = (
        both.withColumn("least", sql.least("src", sql.min("dst").over(of_node)))
        .where("dst > src")
        .select(sql.col("dst").alias("src"), sql.col("least").alias("dst"))
    )
    # In one pass: each lesser neighbour leads to the least, and so does the node itself.
    return (
        large.withColumn("least", sql.min("dst").over(of_node))
        .selectExpr("inline(array(struct(dst as src, least as dst), struct(src as src, least as dst)))")
        .where("src <> dst")
        .distinct()
    )


def _spark_engine(heap: str, scratch: Path) -> "Watched":
    from profilelake.engines.distributed import SparkEngine  # noqa: PLC0415

    session = _session(heap, scratch)
    return Watched(SparkEngine(session, "local[2]", end=session.stop), _shuffled_of(session))


def _session(heap: str, scratch: Path) -> Any:
    from pyspark.sql import SparkSession  # noqa: PLC0415

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master("local[2]")
        .appName("components")
        .config("spark.driver.memory", heap)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.local.dir", str(scratch))
        .config("spark.sql.shuffle.partitions", "32")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def _shuffled_of(session: Any) -> Shuffled:
    """Return a function that tells how many bytes Spark has written for shuffles so far."""
    context = session.sparkContext
    # Spark's own figures have no way in from Python.
    jvm, store, gateway = context._jvm, context._jsc.sc().statusStore(), context._gateway  # noqa: SLF001

    def shuffled() -> int:
        stages = store.stageList(
            None, False, False, gateway.new_array(jvm.double, 0), jvm.java.util.ArrayList()
        )
        return sum(stages.apply(place).shuffleWriteBytes() for place in range(stages.size()))

    return shuffled


# ---- all of them -------------------------------------------------------------------------------


def run(directory: Path, engines: Sequence[str], heap: str) -> None:
    """Run each engine by itself, and print what it took."""
    told = json.loads((directory / "graph.json").read_text())
    print(machine().line())
    print(
        f"{told['edges']:,} edges, seed {told['seed']}, {len(told['files'])} files; Spark with a heap of {heap}"
    )
    adopt_orphans()
    results: dict[str, tuple[Result, float]] = {}
    spent = 0.0
    for name in engines:
        with tempfile.TemporaryDirectory(dir=directory, prefix=f"{name}-") as scratch:
            command = [sys.executable, __file__, "one", "--engine", name, "--directory", str(directory)]
            process = subprocess.Popen([*command, "--heap", heap, "--scratch", scratch])
            with Memory(process.pid) as memory:
                failed, cpu = wait_for_all(process.pid)
            if failed:
                raise SystemExit(f"{name} failed with {failed}")
            found = msgspec.json.decode(Path(scratch, "result.json").read_bytes(), type=Result)
        results[name] = (found, cpu - spent)
        print(
            f"\n{name}: {found.components:,} components, {cpu - spent:.1f} CPU s with its start, {found.seconds:.1f} s, "
            f"peak {memory.peak_bytes / 1e9:.2f} GB (greatest Python process {memory.peak_python_bytes / 1e9:.2f} GB), "
            f"{found.rounds} rounds"
        )
        spent = cpu
        for step in found.steps:
            print(
                f"  {step.name:<12} {step.cpu_seconds:8.1f} CPU s {step.seconds:8.1f} s {step.rows:>14,} rows "
                f"{step.bytes / 1e6:>10,.1f} MB shuffled"
            )
    counts = {found.components for found, _ in results.values()}
    if len(counts) > 1:
        raise SystemExit(f"they differ: {counts}")
    for name in set(results) & {"embedded", "spark"}:
        if "stars" in results:
            print(f"{name}: {results['stars'][1] / results[name][1]:.1f} times less CPU than stars")


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["write", "run", "one"])
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--engine")
    parser.add_argument("--heap", default="3g")
    parser.add_argument("--scratch", type=Path)
    asked = parser.parse_args()
    if asked.what == "write":
        write(Graph(asked.edges, asked.seed), asked.directory.resolve())
    elif asked.what == "run":
        run(asked.directory.resolve(), asked.engines.split(","), asked.heap)
    else:
        steps = run_stars if asked.engine == "stars" else lambda *given: run_plan(asked.engine, *given)
        found = steps(asked.directory, asked.heap, asked.scratch)
        (asked.scratch / "result.json").write_bytes(msgspec.json.encode(asdict(found)))


if __name__ == "__main__":
    main()
