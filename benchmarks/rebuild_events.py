"""What a whole rebuild takes of processor for each million events, step by step, as the command runs it.

    python benchmarks/rebuild_events.py [--events 400000] [--profiles 20000] [--seed 1] [--data DIR]

Loads events through a real server, stops it, and rebuilds its directory (or the stopped directory DIR) with the
embedded engine. Every step is
there, with those that read all events (`checked`, `shapes`, `events`), which `rebuild_steps.py` leaves out; that one has
more profiles, and tells what goes from task to task.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from load import Corpus, Mix, run_load
from pipeline import WRITE_KEY, start
from profilelake.app import rebuilding
from profilelake.lake.catalog import Lake
from profilelake.settings import Layout


def load(directory: Path, mix: Mix, scratch: Path) -> None:
    """Send events through a real server into a new data directory."""
    server = start(directory)
    try:
        run_load(server.url, WRITE_KEY, Corpus.load(mix, scratch))
        server.committed()
    finally:
        server.stop()


def rebuild(layout: Layout) -> None:
    """Rebuild, and print the processor seconds of each step."""
    before = time.process_time()

    def report(step: str) -> None:
        nonlocal before
        now = time.process_time()
        print(f"  {now - before:8.2f} CPU s  {step}", flush=True)
        before = now

    result = rebuilding.rebuild_with(layout, "embedded", report)
    report("end")
    print({name: value for name, value in result.items() if name != "seconds"})


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(asked.scratch).line())
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        layout = Layout(asked.data or Path(folder) / "data")
        if asked.data is None:
            load(layout.directory, Mix(asked.events, asked.profiles, seed=asked.seed), asked.scratch)
        lake = Lake.of(layout)
        for name in lake.names("default"):
            files = lake.load("default", name).files
            print(
                f"  table {name:<22} {sum(f.rows for f in files):>12,} rows {sum(f.bytes for f in files) / 1e6:>10,.1f} MB"
            )
        lake.close()
        rebuild(layout)


if __name__ == "__main__":
    main()
