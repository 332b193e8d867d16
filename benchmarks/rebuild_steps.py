"""A whole rebuild by the batch plan, step by step: what each takes for a million profiles.

    python benchmarks/rebuild_steps.py [--people 300000] [--engine embedded|spark] [--heap 3g] [--seed 1]

The facts are those of `_facts.py`: a person has 6.8 sets of identifiers, 5 identifiers, 8.8 sightings (a set and a
day) and 6.3 writes of traits. Prints for each step processor seconds of the whole process tree, rows and bytes between
tasks, and bytes of files between steps; then the files of tables, and the time to commit them and to load the online
state, which one process does. Commit and state are of the same functions that `profilelake rebuild` calls.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _facts import WORKSPACE, make_facts
from _machine import machine
from _process_tree import Memory
from _watched import Watched, engine_named, stepping
from profilelake.engines.jobs import Job
from profilelake.identity.facts import Standing
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.plans.facts import TABLES as FACTS
from profilelake.plans.facts import FactFiles
from profilelake.plans.identity import resolve
from profilelake.plans.profiles import TABLES, Written, write_profiles
from profilelake.plans.putting import load_state
from profilelake.semantics.consent import DEFAULT_POLICY
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import State


def rebuild(lake: Lake, engine: Watched, directory: Path) -> None:
    """Run all steps, and print what they took."""
    job = Job(lake.storage, "bench", [time.time_ns()])
    held = Standing(segment_defaults())
    files = FactFiles.of(lake, WORKSPACE)
    read = sum(
        file.bytes
        for name in FACTS
        for file in lake.storage.list(f"{lake.storage.root}/ws_{WORKSPACE}/{name.name}/data")
    )
    print(f"facts: {read / 1e6:,.1f} MB of tables")
    tables = {table.name: lake.current_table(WORKSPACE, table).base.files_elsewhere() for table in TABLES}
    resolved = resolve(engine, job, files, held)
    written = write_profiles(engine, job, resolved, tables, held, DEFAULT_POLICY)
    with stepping(engine.steps, "commit", None):
        _commit(lake, written)
    with stepping(engine.steps, "load state", None):
        state = State.open(directory / "state", writable=True)
        state.ensure([WORKSPACE])
        load_state(state, WORKSPACE, lake.storage, written.state)
    for step in engine.steps:
        kept = sum(file.bytes for file in lake.storage.list(job.folder(step.name)))
        print(f"{step.line()} {kept / 1e6:>10,.1f} MB kept")
    for name, handed in written.tables.items():
        size, rows = sum(file.size for file in handed), sum(file.rows for file in handed)
        print(f"  table {name:<20} {rows:>12,} rows {size / 1e6:10,.1f} MB {len(handed):6,} files")
    state_bytes = sum(file.stat().st_size for file in (directory / "state").rglob("*") if file.is_file())
    state_disk = sum(
        file.stat().st_blocks * 512 for file in (directory / "state").rglob("*") if file.is_file()
    )
    print(
        f"  state {min(state_bytes, state_disk) / 1e6:,.1f} MB, {sum(file.rows for file in written.state):,} rows"
    )
    print(f"{written.sets:,} sets, {written.identifiers:,} identifiers, {written.profiles:,} profiles")
    job.finish()


def _commit(lake: Lake, written: Written) -> None:
    progress = Progress(f"{2:020d}", 1, {}, {})
    for table in TABLES:
        lake.current_table(WORKSPACE, table).replace_with(written.tables[table.name], progress)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--people", type=int, default=300_000)
    parser.add_argument("--engine", choices=["embedded", "spark"], default="embedded")
    parser.add_argument("--heap", default="3g")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(asked.scratch).line())
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        directory = Path(folder)
        lake = Lake.open(f"sqlite:///{directory / 'catalog.sqlite'}", directory / "lake")
        print(make_facts(lake, asked.people, asked.seed))
        engine = engine_named(asked.engine, asked.heap, directory)
        with Memory(os.getpid()) as memory:
            rebuild(lake, engine, directory)
        print(
            f"peak {memory.peak_bytes / 1e9:.2f} GB of all processes, {memory.peak_python_bytes / 1e9:.2f} GB of a worker"
        )
        engine.close()


if __name__ == "__main__":
    main()
