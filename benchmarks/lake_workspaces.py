"""A thousand workspaces with a trickle of events each: what does it cost, and how fresh are their tables?

    python benchmarks/lake_workspaces.py [--workspaces 1000] [--every 60] [--seconds 240] [--seed 1]

In one process, without HTTP: events are applied to the state ten times a second, each workspace gets one
about every `--every` seconds, and the loops of the lake process publish, merge and tend. Tables are made when
a workspace first commits. Freshness is read off the tables afterwards: commit of a snapshot less receipt
of its oldest event. The baseline of the same run is one workspace with all the events.
"""

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

from prometheus_client import CollectorRegistry

from _machine import machine
from profilelake.eventlog import Flags, Kind, LogEnd, Record, Slice
from profilelake.lake.catalog import Lake
from profilelake.landing.tables import EVENTS
from profilelake.ops.clock import wall
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.metrics import STAGES, Stages, Timer
from profilelake.pipeline.run import Publishing
from profilelake.semantics.rules import segment_defaults
from profilelake.settings import PipelineSettings
from profilelake.state.store import State

LOG: Final = "00000000000000aa"
PEOPLE: Final = 20
BATCH_SECONDS: Final = 0.1


class Trickle:
    """Applies events of many workspaces as they come."""

    def __init__(self, state: State, setups: list[WorkspaceSetup], seed: int) -> None:
        self.batcher = Batcher(state, setups, "local", wall(), Timer(Stages(CollectorRegistry())))
        self.sent = 0
        self.cpu = 0.0
        self._names = [setup.name for setup in setups]
        self._end = LogEnd(0, 0)
        self._rng = random.Random(seed)

    def apply(self, count: int) -> None:
        """Apply one micro-batch of so many events."""
        began = time.thread_time()
        records = [self._record() for _ in range(count)]
        if records:
            ends = {**self.batcher.vector(), LOG: self._end}
            self.batcher.apply(Slice(records, ends, records[-1].received_at, (), ()))
        self.cpu += time.thread_time() - began

    def _record(self) -> Record:
        self.sent += 1
        person = self._rng.randrange(PEOPLE)
        event = {"messageId": f"m{self.sent}", "userId": f"u{person}", "type": "track", "event": "Viewed"}
        body = json.dumps({"batch": [event]}).encode()
        before = self._end
        self._end = LogEnd(before.offset + len(body) + 40, before.events + 1)
        return Record(
            received_at=wall(),
            region="local",
            log_id=LOG,
            offset=before.offset,
            next_offset=self._end.offset,
            events_before=before.events,
            workspace=self._rng.choice(self._names),
            source_id="shop",
            kind=Kind.BATCH,
            flags=Flags.NONE,
            events=1,
            extraction_version=1,
            ip="",
            sent_at="",
            body=body,
        )


def setups(directory: Path, count: int) -> list[WorkspaceSetup]:
    """Return so many workspaces below a directory."""
    return [
        WorkspaceSetup(
            name=f"w{number}",
            rules=segment_defaults(),
            identifier_key=bytes(range(16)),
            recent_directory=directory / "recent" / f"w{number}",
            dedup_directory=directory / "dedup" / f"w{number}",
        )
        for number in range(count)
    ]


def run(directory: Path, count: int, rate: float, seconds: float, seed: int) -> None:
    """Run the loops under the trickle and print what came of it."""
    began = time.perf_counter()
    state = State.open(directory / "state", writable=True)
    lake = Lake.open(f"sqlite:///{directory / 'catalog.sqlite'}", directory / "lake")
    made = setups(directory, count)
    trickle = Trickle(state, made, seed)
    opened = time.perf_counter() - began
    (directory / "log").mkdir()
    registry = CollectorRegistry()
    publishing = Publishing(
        log_directory=directory / "log",
        flush_request=directory / "flush",
        state=state,
        lake=lake,
        workspaces=made,
        settings=PipelineSettings(),
        clock=wall,
        registry=registry,
    )
    thread = threading.Thread(target=publishing.run)
    thread.start()
    cpu, began, owed = time.process_time(), time.perf_counter(), 0.0
    while time.perf_counter() - began < seconds:
        owed += rate * BATCH_SECONDS
        trickle.apply(int(owed))
        owed -= int(owed)
        time.sleep(BATCH_SECONDS)
    took = time.perf_counter() - began
    cpu = time.process_time() - cpu - trickle.cpu
    stages = {
        stage: registry.get_sample_value("profilelake_stage_cpu_seconds_total", {"stage": stage}) or 0.0
        for stage in STAGES
    }
    ages, commits = freshness(lake, made)
    late = wall() - int(took * 1e6)
    publishing.stop()
    thread.join()
    state.close()
    lake.close()
    print(f"{count:,} workspaces, {trickle.sent:,} events in {took:.0f} s; opened in {opened:.1f} s:")
    print(
        f"  lake loops {cpu / took * 100:.0f} % of a core (facts {stages['publish'] / took * 100:.0f} %, derived "
        f"{stages['current'] / took * 100:.0f} %), applying {trickle.cpu / took * 100:.0f} %; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )
    shown = sorted(ages)
    if len(shown) < 2:
        raise RuntimeError(f"nothing was committed since {late}")
    hundredths = statistics.quantiles(shown, n=100)
    print(
        f"  {commits:,} commits of events, {commits / took:.1f} a second; age of their oldest event: "
        f"p50 {hundredths[49]:.1f} s, p99 {hundredths[98]:.1f} s, max {shown[-1]:.1f} s"
    )


def freshness(lake: Lake, made: list[WorkspaceSetup]) -> tuple[list[float], int]:
    """Return for each commit of events how old its oldest event was, and how many commits there were."""
    ages = []
    for setup in made:
        if EVENTS.name not in lake.names(setup.name):
            continue
        published = lake.load(setup.name, EVENTS.name)
        at = {s.snapshot_id: s.timestamp_ms / 1_000 for s in published.table.metadata.snapshots}
        column = published.table.schema().find_field("received_at").field_id
        for file in published.files:
            committed = at.get(file.entry.snapshot_id or 0)
            bounds = file.entry.data_file.lower_bounds or {}
            if committed is not None and column in bounds:
                ages.append(committed - int.from_bytes(bounds[column], "little") / 1e6)
    return ages, len(ages)


def main() -> None:
    """Run one workspace, then many."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--workspaces", type=int, default=1_000)
    arguments.add_argument("--every", type=float, default=60.0, help="seconds between events of a workspace")
    arguments.add_argument("--seconds", type=float, default=240.0)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen))
    rate = chosen.workspaces / chosen.every
    for count, seconds in ((1, min(60.0, chosen.seconds)), (chosen.workspaces, chosen.seconds)):
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), count, rate, seconds, chosen.seed)


if __name__ == "__main__":
    main()
