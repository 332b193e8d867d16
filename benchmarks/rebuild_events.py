"""What a whole rebuild takes of processor for each million events, step by step, as the command runs it.

    python benchmarks/rebuild_events.py [--events 400000] [--profiles 20000] [--seed 1] [--data DIR] [--ids 10000000]

Loads events through a real server, stops it, and rebuilds its directory (or the stopped directory DIR) with the
embedded engine. Every step is there, with those that read all events (`checked`, `shapes`, `reach`, `ids`, `recent`),
which `rebuild_steps.py` leaves out; that one has more profiles, and tells what goes from task to task. Then one process
does what `shapes` and `events` were when the driver did all of it: that is the baseline. Of the driver's part what
grows with events is measured at `--ids` message ids, as few events are done in no time.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from load import Corpus, Mix, run_load
from pipeline import WRITE_KEY, start
from profilelake.app import rebuilding
from profilelake.engines.kept import kept_bytes
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.storage import storage_of
from profilelake.landing.dedup_parts import ROWS, Packing, Reach, written
from profilelake.ops.clock import wall
from profilelake.pipeline.batch import WorkspaceSetup
from profilelake.pipeline.observing import whole_schema
from profilelake.pipeline.remaking import fresh_state, load_events
from profilelake.plans.event_files import EventFiles, load_event_files
from profilelake.plans.rebuild import DRIVER_MEMORY
from profilelake.plans.sizes import Sizes
from profilelake.semantics.rules import segment_defaults
from profilelake.settings import Layout
from profilelake.workspaces.identifier_key import identifier_key

WORKSPACE = "default"


def load(directory: Path, mix: Mix, scratch: Path) -> None:
    """Send events through a real server into a new data directory."""
    server = start(directory)
    try:
        run_load(server.url, WRITE_KEY, Corpus.load(mix, scratch))
        server.committed()
    finally:
        server.stop()


def rebuild(layout: Layout) -> dict[str, float]:
    """Rebuild, print the processor seconds of each step, and return them."""
    before, took = time.process_time(), {}

    def report(step: str) -> None:
        nonlocal before
        now = time.process_time()
        print(f"  {now - before:8.2f} CPU s  {step}", flush=True)
        took[step.partition(":")[0]] = now - before
        before = now

    result = rebuilding.rebuild_with(layout, "embedded", report)
    report("end")
    print({name: value for name, value in result.items() if name != "seconds"})
    return took


def lake_events(layout: Layout) -> int:
    """Return how many events there are."""
    lake = Lake.of(layout)
    count = sum(file.rows for file in lake.load(WORKSPACE, "events").files)
    lake.close()
    return count


def one_process(layout: Layout, folder: Path) -> dict[str, float]:
    """Do in this process what tasks did of all events, and return the processor seconds."""
    key, took = identifier_key(layout.secrets, WORKSPACE), {}
    lake = Lake.of(layout)
    with sql.connect(DRIVER_MEMORY, str(folder)) as connection:
        attach(connection, lake, WORKSPACE)
        began = time.process_time()
        whole_schema(connection, key)
        took["shapes"] = time.process_time() - began
        setup = WorkspaceSetup(WORKSPACE, segment_defaults(), key, folder / "recent", folder / "dedup")
        state = fresh_state(folder / "state", WORKSPACE)
        began = time.process_time()
        load_events(state, setup, connection, Progress("1", 1), wall())
        took["events"] = time.process_time() - began
        state.close()
    lake.close()
    return took


def put_ids(rows: int, folder: Path) -> float:
    """Put an index of so many message ids together from its parts; return the driver's processor seconds."""
    storage = storage_of(folder.resolve().as_uri())
    per_part = Sizes().ids_per_part
    count = 1 << max(0, (rows // per_part - 1).bit_length())
    numbers = np.random.default_rng(1)
    log = bytes(12)
    reach = Reach(rows // count * count, 0, rows, 99, [log], bytes(32))
    packing, kept = Packing(b"", (log,), reach.bounds()), []
    for part in range(count):
        words = numbers.integers(0, 1 << 63, (rows // count, 2), dtype=np.uint64) << np.uint64(1)
        words[:, 0] = (words[:, 0] >> np.uint64(count.bit_length() - 1)) | np.uint64(
            part * ((1 << 64) // count)
        )
        times = np.arange(len(words), dtype=np.uint64)
        columns = [words[:, 0], words[:, 1], times, times % np.uint64(100), times.astype(np.uint32)]
        packed = packing.pack(pa.table([pa.array(column) for column in columns], names=ROWS.names), count)
        kept.append(kept_bytes(storage, str(storage.root), written(packed), len(words), part))
    setup = WorkspaceSetup(WORKSPACE, segment_defaults(), b"", folder / "recent", folder / "dedup")
    state = fresh_state(folder / "state", WORKSPACE)
    began = time.process_time()
    load_event_files(state, setup, storage, EventFiles(reach, kept, []), Progress("1", 1), wall())
    took = time.process_time() - began
    state.close()
    return took / (rows // count * count)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ids", type=int, default=10_000_000)
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
        events = lake_events(layout)
        tasks = rebuild(layout)
        with tempfile.TemporaryDirectory(dir=asked.scratch) as spill:
            alone = one_process(layout, Path(spill))
        with tempfile.TemporaryDirectory(dir=asked.scratch) as spill:
            ids = put_ids(asked.ids, Path(spill))
        by_tasks = sum(tasks[name] for name in ("reach", "ids", "recent"))
        print(f"CPU s for a million events, of {events:,}")
        print("  step      one process    tasks   driver beside them   driver, of one process")
        for name, of_tasks, driver in (
            ("shapes", tasks["shapes"], 0.0),
            ("events", by_tasks, tasks["events"]),
        ):
            each = [1e6 * seconds / events for seconds in (alone[name], of_tasks, driver)]
            print(f"  {name:<10}{each[0]:>10.2f}{each[1]:>10.2f}{each[2]:>20.2f}{each[2] / each[0]:>22.3f}")
        print(f"  the driver, of {asked.ids:,} message ids: {1e6 * ids:.3f} CPU s for a million")


if __name__ == "__main__":
    main()
