"""How long do events wait for the tables while very many profiles are being published?

    python benchmarks/lake_freshness.py [--profiles 200000] [--seed 1]

Every person of the state changes, so that the publication of `profiles` is as long as it gets. The baseline of
the same run publishes facts and what follows from them one after the other, as one thread would: an
event that comes right after it began waits for all of it. Then the same again with two threads, as the lake
process has them: while one publishes what everybody's change means, the other commits a few new events
every half second, and each of these commits is timed. A third part compacts the table of events meanwhile.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from identity_table import EVENTS_PER_BATCH, START, WORKSPACE, Bench, history, user
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.publish import Publisher

FEW: Final = 100
PAUSE_SECONDS: Final = 0.5
ALONE: Final = 8


class Freshness:
    """One data directory full of people, and what is timed on it."""

    def __init__(self, directory: Path, profiles: int, seed: int) -> None:
        self.bench = Bench(directory)
        self.profiles = profiles
        self._seed = seed
        self._number = 0
        self.publisher = Publisher(
            workspace=WORKSPACE,
            state=self.bench.state,
            lake=self.bench.lake,
            recent_directory=self.bench.setup.recent_directory,
            rules=self.bench.setup.rules,
            clock=lambda: START,
            publish_age_seconds=0.0,
        )
        self._apply(list(history(profiles, profiles, seed)))
        self.publisher.publish(whole=True)

    def _apply(self, messages: list[dict[str, Any]]) -> None:
        for start in range(0, len(messages), EVENTS_PER_BATCH):
            self.bench.apply(self.bench.records(messages[start : start + EVENTS_PER_BATCH]))

    def change(self, people: range) -> None:
        """Apply one new trait for each of these people."""
        self._number += 1
        self._apply(
            [
                {
                    "messageId": f"c{self._seed}-{self._number}-{person}",
                    "type": "identify",
                    "userId": user(person),
                    "traits": {"visits": self._number},
                }
                for person in people
            ]
        )

    def commits(self, until: Callable[[int], bool]) -> list[tuple[float, float]]:
        """Commit a few new events again and again; return wall and processor seconds of each commit."""
        times: list[tuple[float, float]] = []
        while not until(len(times)):
            self.change(range(FEW))
            wall, cpu = time.perf_counter(), time.thread_time()
            self.publisher.publish_facts()
            times.append((time.perf_counter() - wall, time.thread_time() - cpu))
            time.sleep(PAUSE_SECONDS)
        return times

    def beside(self, work: Callable[[], object]) -> tuple[float, list[tuple[float, float]]]:
        """Return how long some work took, and the commits of facts that were made meanwhile."""
        seconds: list[float] = []

        def timed() -> None:
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)

        thread = threading.Thread(target=timed)
        thread.start()
        times = self.commits(lambda _made: not thread.is_alive())
        thread.join()
        return seconds[0], times


def told(name: str, times: list[tuple[float, float]]) -> None:
    """Print what commits took."""
    walls, cpus = [wall for wall, _ in times], [cpu for _, cpu in times]
    print(
        f"  {name:<34} {len(times):>3} commits of facts: wall p50 {statistics.median(walls):.2f} s, "
        f"max {max(walls):.2f} s; CPU p50 {statistics.median(cpus) * 1e3:.0f} ms"
    )


def main() -> None:
    """Run all parts in a temporary folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--profiles", type=int, default=200_000)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen))
    with tempfile.TemporaryDirectory() as folder:
        fresh = Freshness(Path(folder), chosen.profiles, chosen.seed)
        everybody = range(chosen.profiles)
        told("alone", fresh.commits(lambda made: made >= ALONE))
        fresh.publisher.publish(whole=True)

        fresh.change(everybody)
        began = time.perf_counter()
        fresh.publisher.publish(whole=True)
        as_one = time.perf_counter() - began
        print(f"  one after the other                an event waits up to {as_one:.1f} s (baseline)")

        fresh.change(everybody)
        fresh.publisher.publish_facts()
        seconds, times = fresh.beside(lambda: fresh.publisher.publish_current(whole=True))
        told(f"beside {seconds:.1f} s of publishing profiles", times)
        print(f"  ratio of the longest wait to the baseline: {max(wall for wall, _ in times) / as_one:.2f}")

        seconds, times = fresh.beside(fresh.publisher.merge)
        told(f"beside {seconds:.1f} s of merging bases", times)
        table = fresh.bench.lake.table(WORKSPACE, EVENTS)
        seconds, times = fresh.beside(lambda: table.compact(None))
        told(f"beside {seconds:.1f} s of compacting events", times)
        fresh.bench.close()


if __name__ == "__main__":
    main()
