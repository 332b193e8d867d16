"""Who is who over a whole lake by the batch plan, step by step, against the same in one process.

    python benchmarks/engine_rebuild.py [--edges 10000000] [--events 0] [--wrong-links 1000] [--seed 1]

Makes the tables of facts of so many edges (identifiers of sets) or events straight into a lake, then runs the
plan of identity on the engine of one machine and, in a process of its own, the fold of everything at once. Prints
seconds and processor seconds of each step and the peak of memory beside those of the fold. Both count the same
profiles.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _facts import EDGES_PER_PERSON, EVENTS_PER_PERSON, WORKSPACE, make_facts
from _machine import machine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.identity.facts import Standing
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.pipeline.rebuild import fold
from profilelake.plans.facts import FactFiles
from profilelake.plans.identity import resolve
from profilelake.semantics.rules import segment_defaults


class Memory:
    """The peak of this process's memory since it was last asked, looked at ten times a second."""

    def __init__(self) -> None:
        """Begin to look."""
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._now())
            time.sleep(0.1)

    @staticmethod
    def _now() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def peak(self) -> int:
        """Return the peak in bytes."""
        peak, self._peak = max(self._peak, self._now()), 0
        return peak


def by_plan(directory: Path) -> dict[str, Any]:
    """Run the plan; print what each step takes."""
    lake = _lake(directory)
    memory, cpu, wall = Memory(), time.process_time(), time.perf_counter()
    began = (cpu, wall)

    def report(step: str) -> None:
        nonlocal cpu
        now = time.process_time()
        print(f"  {step:24} {now - cpu:8.1f} processor s, {memory.peak() / 2**20:7,.0f} MiB")
        cpu = now

    job = Job(lake.storage, "bench", [time.time_ns()], report)
    engine = EmbeddedEngine(directory / "scratch")
    found = resolve(engine, job, FactFiles.of(lake, WORKSPACE), Standing(segment_defaults()))
    kept = sum(file.bytes for file in lake.storage.list(f"{lake.storage.root}/_jobs"))
    job.finish()
    return {
        "profiles": sum(file.rows for file in found.founded),
        "cpu": time.process_time() - began[0],
        "wall": time.perf_counter() - began[1],
        "kept": kept,
    }


def by_fold(directory: Path) -> dict[str, Any]:
    """Run the fold of everything at once."""
    lake = _lake(directory)
    memory, cpu, wall = Memory(), time.process_time(), time.perf_counter()
    with duckdb.connect() as connection:
        attach(connection, lake, WORKSPACE)
        folds = fold(connection, Standing(segment_defaults()))
    return {
        "profiles": sum(
            int((one.resolution.survivor == np.arange(len(one.resolution.survivor))).sum()) for one in folds
        ),
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak": memory.peak(),
    }


def _lake(directory: Path) -> Lake:
    return Lake.open(f"sqlite:///{directory / 'catalog.sqlite'}", directory / "lake")


def _alone(work: Callable[[Path], dict[str, Any]], directory: Path) -> dict[str, Any]:
    """Run in a process of its own, so that memory is what this takes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (directory,))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--events", type=int, default=0, help="instead of edges")
    parser.add_argument("--wrong-links", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print(vars(options))
    wanted = options.events / EVENTS_PER_PERSON if options.events else options.edges / EDGES_PER_PERSON
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        directory = Path(folder)
        print(make_facts(_lake(directory), int(wanted), options.seed, options.wrong_links))
        planned = _alone(by_plan, directory)
        print(
            f"plan: {planned['profiles']:,} profiles, {planned['wall']:.1f} s, {planned['cpu']:.1f} processor s, "
            f"{planned['kept'] / 2**20:,.0f} MiB of kept files"
        )
        folded = _alone(by_fold, directory)
        print(
            f"fold in one process: {folded['profiles']:,} profiles, {folded['wall']:.1f} s, "
            f"{folded['cpu']:.1f} processor s, peak {folded['peak'] / 2**20:,.0f} MiB"
        )
        print(f"ratio of processor time, plan to fold: {planned['cpu'] / folded['cpu']:.2f}")
    return 0 if planned["profiles"] == folded["profiles"] else 1


if __name__ == "__main__":
    sys.exit(main())
