"""What compaction costs: processor time per event, and memory, whatever the size of a step.

    python benchmarks/lake_compaction.py [--files 40] [--rows 50000]

Files of events are committed, then gathered by one step of compaction in this process. The baseline of the
same run is the commit of the same events: what a day's compaction adds to bringing its events in.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from lake_commit import EVENTS, SEED, events
from profilelake.lake.catalog import Lake
from profilelake.lake.compaction import Policy
from profilelake.lake.progress import Progress

SORTED: Final = replace(EVENTS, sort=("set_id", "position"))


def main() -> None:
    """Run in a temporary folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--files", type=int, default=40)
    arguments.add_argument("--rows", type=int, default=50_000)
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen), f"seed {SEED}")
    total = chosen.files * chosen.rows
    with tempfile.TemporaryDirectory() as folder:
        table = Lake.open(f"sqlite:///{folder}/c.db", Path(folder) / "w").table("bench", SORTED)
        written = 0.0
        for number in range(chosen.files):
            rows = events(chosen.rows, SEED + number)
            cpu = time.process_time()
            table.append(rows, Progress("e1", number + 1))
            written += time.process_time() - cpu
        del rows
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = sum(f.bytes for f in table.files())
        cpu, wall = time.process_time(), time.perf_counter()
        done = table.compact(None, Policy(file_bytes=size // 3, step_bytes=2 * size))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if done is None:
        raise RuntimeError("nothing was compacted")
    print(
        f"{total:,} events, {size >> 20} MiB in {done.files_before} files became {done.bytes_after >> 20} MiB in "
        f"{done.files_after}: {wall:.1f} s, {cpu:.1f} CPU s, {cpu / total * 1e6:.2f} µs an event; "
        f"peak memory {before >> 10} -> {peak >> 10} MiB"
    )
    print(f"ratio to committing them ({written / total * 1e6:.2f} µs an event): {cpu / written:.2f}")


if __name__ == "__main__":
    main()
