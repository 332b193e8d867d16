"""Connected components of the same edges: our plan on one machine and on Spark, and Spark's own DataFrames.

    python benchmarks/components.py write --edges 10000000 --directory /tmp/graph
    python benchmarks/components.py run   --directory /tmp/graph [--engines embedded,spark,stars] [--heap 3g] [--memory 4]
    python benchmarks/components.py rounds --directory /tmp/graph

`write` puts the graph of `identity_graph.py` into files: sets of two ids of 128 bits, as a rebuild has them, and the
same edges as pairs of 64-bit numbers, which is the best that DataFrames can be given.
`run` starts each engine in a process and a control group of its own (which needs root) and prints processor seconds of
all its processes (JVM, Python workers and all) and those until it could begin, wall seconds, peak memory, and for each
step rows and bytes that were shuffled. `--memory` is what they may hold together. All must find as many components. `rounds` cuts the sets into units of 8,192 and lets no task finish anything, so that all is done in rounds, and
prints how many rows each of them moves. Engines:

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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from _control_group import ControlGroup
from _machine import machine
from _process_tree import Memory, cpu_seconds
from _watched import Step, engine_named, shuffled_by, spark_session, stepping
from identity_graph import TYPES, Graph, columns
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
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
class Result:
    """What one engine says."""

    engine: str
    components: int
    rounds: int
    seconds: float
    start_cpu_seconds: float
    """Until the engine could be asked: modules imported, and with Spark a JVM and its session."""
    steps: list[Step] = field(default_factory=list)


def run_plan(name: str, directory: Path, heap: str, scratch: Path) -> Result:
    """Find components with our plan."""
    told = msgspec.json.decode((directory / "graph.json").read_bytes())
    files = msgspec.convert(told["files"], list[KeptFile])
    storage = LocalStorage(str(scratch / "lake"))
    watched = engine_named(name, heap, scratch)
    started = cpu_seconds(os.getpid())
    began = time.monotonic()
    found = find_components(
        watched, Job(storage, "bench", told["edges"]), files, links, ["ids"], limits=LIMITS
    )
    result = Result(name, found.components, found.rounds, time.monotonic() - began, started, watched.steps)
    watched.close()
    return result


def run_stars(directory: Path, heap: str, scratch: Path) -> Result:
    """Find components with Spark's DataFrames."""
    from pyspark.sql import functions as sql  # noqa: PLC0415 - only this engine needs it

    session = spark_session(heap, scratch)
    session.conf.set("spark.sql.adaptive.enabled", "true")
    session.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    session.sparkContext.setCheckpointDir(str(scratch / "checkpoints"))
    shuffled = shuffled_by(session)
    result = Result("stars", 0, 0, 0.0, cpu_seconds(os.getpid()))
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
    from pyspark.sql import Window  # noqa: PLC0415 - only where somebody asks for it
    from pyspark.sql import functions as sql  # noqa: PLC0415 - only where somebody asks for it

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


def run_rounds(directory: Path) -> None:
    """Find components with no task that finishes, and print what each round moves."""
    told = msgspec.json.decode((directory / "graph.json").read_bytes())
    limits = Limits(unit_sets=1 << 13, part_rows=1 << 14, finish_bytes=0)
    with tempfile.TemporaryDirectory(dir=directory, prefix="rounds-") as scratch:
        storage = LocalStorage(scratch)
        files = [
            kept
            for file in msgspec.convert(told["files"], list[KeptFile])
            for rows in read_kept(storage, file, rows=limits.unit_sets)
            for kept in keep(storage, f"{scratch}/sets", rows)
        ]
        watched = engine_named("embedded", "", Path(scratch))
        found = find_components(
            watched, Job(storage, "bench", told["edges"]), files, links, ["ids"], limits=limits
        )
    print(
        f"{told['edges']:,} edges in {len(files)} units: {found.components:,} components, {found.rounds} rounds"
    )
    for step in watched.steps:
        print(step.line())


# ---- all of them -------------------------------------------------------------------------------


def run(directory: Path, engines: Sequence[str], heap: str, memory: int | None) -> None:
    """Run each engine by itself, and print what it took."""
    told = json.loads((directory / "graph.json").read_text())
    print(machine().line())
    print(
        f"{told['edges']:,} edges, seed {told['seed']}, {len(told['files'])} files; Spark with a heap of {heap}, "
        f"all processes together with {'no limit' if memory is None else f'{memory / 1e9:.1f} GB'}"
    )
    results: dict[str, tuple[Result, float]] = {}
    for name in engines:
        with (
            tempfile.TemporaryDirectory(dir=directory, prefix=f"{name}-") as scratch,
            ControlGroup(memory) as group,
        ):
            command = [sys.executable, __file__, "one", "--engine", name, "--directory", str(directory)]
            process = subprocess.Popen(
                [*command, "--heap", heap, "--scratch", scratch],
                preexec_fn=group.join,  # noqa: PLW1509 - no other thread runs here, and a group is joined from inside
            )
            with Memory(process.pid) as watched:
                failed = process.wait()
            if failed:
                raise SystemExit(
                    f"{name} failed with {failed}, {group.memory_refused()} processes out of memory"
                )
            cpu = group.cpu_seconds()
            found = msgspec.json.decode(Path(scratch, "result.json").read_bytes(), type=Result)
        results[name] = (found, cpu)
        print(
            f"\n{name}: {found.components:,} components, {cpu:.1f} CPU s with its start of {found.start_cpu_seconds:.1f}, "
            f"{found.seconds:.1f} s, peak {watched.peak_bytes / 1e9:.2f} GB (greatest Python process "
            f"{watched.peak_python_bytes / 1e9:.2f} GB), {found.rounds} rounds"
        )
        for step in found.steps:
            print(step.line())
    counts = {found.components for found, _ in results.values()}
    if len(counts) > 1:
        raise SystemExit(f"they differ: {counts}")
    for name in set(results) & {"embedded", "spark"}:
        if "stars" in results:
            ratio = results["stars"][1] / results[name][1]
            begun = _after_start(*results["stars"]) / _after_start(*results[name])
            print(
                f"{name}: {ratio:.1f} times less CPU than stars, {begun:.1f} times without the starts of both"
            )


def _after_start(found: Result, cpu: float) -> float:
    return cpu - found.start_cpu_seconds


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["write", "run", "rounds", "one"])
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--engine")
    parser.add_argument("--heap", default="3g")
    parser.add_argument("--memory", type=float, help="GB that the processes of an engine may hold together")
    parser.add_argument("--scratch", type=Path)
    asked = parser.parse_args()
    if asked.what == "write":
        write(Graph(asked.edges, asked.seed), asked.directory.resolve())
    elif asked.what == "run":
        run(
            asked.directory.resolve(),
            asked.engines.split(","),
            asked.heap,
            int(asked.memory * 1e9) if asked.memory else None,
        )
    elif asked.what == "rounds":
        run_rounds(asked.directory.resolve())
    else:
        steps = run_stars if asked.engine == "stars" else lambda *given: run_plan(asked.engine, *given)
        found = steps(asked.directory, asked.heap, asked.scratch)
        (asked.scratch / "result.json").write_bytes(msgspec.json.encode(asdict(found)))


if __name__ == "__main__":
    main()
