"""A whole rebuild of one lake in memory, as a plan on this machine, and on any other engine: equal, and at what cost.

    python benchmarks/rebuild_engines.py [--events 1000000] [--profiles 100000] [--engine local[2]] [--data DIR]

Loads events through a real server (or takes the stopped data directory DIR), then rebuilds it in a process of its
own each time, without an engine first: the baseline. Prints seconds; processor seconds (of its control group: run it as root)
and the peak of memory of the driver and all that it started, a JVM and its workers too; seconds by step; and whether each left the same
digest of every current table. With --digests FILE what the first run found is kept, and later runs, with another
environment, are held against it instead of being preceded by the baseline.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from _control_group import ControlGroup, alone
from _machine import machine
from _process_tree import Memory
from load import Corpus, Mix, run_load
from pipeline import WRITE_KEY, start
from profilelake.app import rebuilding
from profilelake.app.offline import rebuild_directory
from profilelake.lake.catalog import Lake
from profilelake.pipeline.publish import CURRENT
from profilelake.settings import Layout

IN_MEMORY: Final = ""
EMBEDDED: Final = "embedded"


def rebuilt(group: ControlGroup, directory: Path, engine: str) -> dict[str, Any]:
    """Rebuild and return what it took, and the digests of current tables; `""` is in memory, whatever the size."""
    rebuilding.IN_MEMORY_BYTES_MAX = 1 << 60  # type: ignore[misc]  # the baseline must be in memory, whatever the size
    layout = Layout(directory)
    wall, cpu = time.perf_counter(), group.cpu_seconds()
    with Memory(os.getpid()) as memory:
        result = rebuild_directory(layout, engine)
    wall, cpu = time.perf_counter() - wall, group.cpu_seconds() - cpu
    lake = Lake.of(layout)
    digests = rebuilding.digests_of(layout, lake, EMBEDDED, [table.name for table in CURRENT])
    size = sum(file.bytes for name in lake.names("default") for file in lake.load("default", name).files)
    lake.close()
    return {
        **result,
        "wall": wall,
        "cpu": cpu,
        "peak": memory.peak_bytes,
        "lake_bytes": size,
        "digests": {one.table: f"{one.digest.rows} {one.digest}" for one in digests},
    }


def load(options: argparse.Namespace, directory: Path) -> None:
    """Send events through a real server into a new data directory."""
    server = start(directory)
    try:
        mix = Mix(events=options.events, profiles=options.profiles, seed=options.seed)
        run_load(server.url, WRITE_KEY, Corpus.load(mix, options.scratch))
        server.committed()
    finally:
        server.stop()


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--profiles", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", action="append", default=[], help="another engine; may be repeated")
    parser.add_argument("--data", type=Path, help="a stopped data directory, instead of new events")
    parser.add_argument("--digests", type=Path, help="keep what was found there, or hold this run against it")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print({name: str(value) for name, value in vars(options).items()})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        directory = options.data or Path(folder) / "data"
        if options.data is None:
            load(options, directory)
        known = options.digests is not None and options.digests.exists()
        base: dict[str, Any] = json.loads(options.digests.read_text()) if known else {}
        for engine in options.engine if known else (IN_MEMORY, EMBEDDED, *options.engine):
            one = alone(rebuilt, directory, engine)
            if not base:
                base = one
                if options.digests is not None:
                    options.digests.write_text(json.dumps(one))
            same = one["digests"] == base["digests"]
            print(
                f"\n{engine or 'in memory'}: {one['wall']:.1f} s, {one['cpu']:.1f} processor s "
                f"({one['cpu'] / base['cpu']:.2f} of the baseline), peak {one['peak'] / 2**20:,.0f} MiB, "
                f"digests {'equal' if same else 'DIFFER'}"
            )
            print(
                f"  {one['events']:,} events, {one['sets']:,} sets, {one['profiles']:,} profiles, "
                f"lake {one['lake_bytes'] / 2**20:,.0f} MiB"
            )
            print(f"  seconds by step {json.dumps(one['seconds'])}")
            if not same:
                print(f"  {one['digests']}\n  {base['digests']}")
                return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
