"""What a repair of the facts costs: processor time per million events, and where it goes.

    python benchmarks/lake_repair.py [--events 1000000] [--tasks 2]

Events land and are appended with no other table of facts beside them; the repair has everything to read again.
Then it is run once more on what it made, where it has everything to compare and nothing to do, and once with a
tenth of the events there twice. The baseline of the same run is landing those events: parsing, hashing, remembering.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

from _machine import machine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.eventlog import Flags, Kind, Record
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.landing.dedup import DedupIndex
from profilelake.landing.land import Landing
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.publish import ensure_tables
from profilelake.plans.repair import repair
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import State

SEED: Final = 7
KEY: Final = b"0123456789abcdef"
START: Final = 1_772_359_210_000_000
LOG: Final = "00000000000000aa"
BATCH: Final = 500
"""Events of one request."""
COMMIT_EVENTS: Final = 50_000


def records(first: int, count: int, rng: np.random.Generator) -> list[Record]:
    """Make the requests of a shop: a third of the events identify or group."""
    found = []
    for start in range(first, first + count, BATCH):
        users = rng.zipf(1.4, BATCH) % 100_000
        kinds = rng.integers(0, 9, BATCH)
        messages = []
        for number, (user, kind) in enumerate(zip(users.tolist(), kinds.tolist(), strict=True)):
            message: dict[str, object] = {
                "type": "identify" if kind < 2 else "group" if kind == 2 else "track",
                "messageId": f"m-{start + number}",
                "userId": f"u{user}",
                "anonymousId": f"a{user}-{number % 2}",
                "event": "Order Completed",
                "context": {"ip": "203.0.113.7", "page": {"path": f"/p/{user % 50}"}},
            }
            if kind < 2:
                message["traits"] = {"email": f"u{user}@example.org", "plan": "pro", "visits": number}
            elif kind == 2:
                message |= {"groupId": f"g{user % 1_000}", "traits": {"name": "Acme", "seats": number}}
            else:
                message["properties"] = {"sku": f"s{number}", "price": 9.99, "note": "x" * 100}
            messages.append(message)
        body = json.dumps({"batch": messages}).encode()
        at = START + start * 40_000
        found.append(
            Record(
                at,
                "local",
                LOG,
                start,
                start + BATCH,
                start,
                "bench",
                "shop",
                Kind.BATCH,
                Flags.NONE,
                BATCH,
                1,
                "",
                "",
                body,
            )
        )
    return found


def main() -> None:
    """Run in a temporary folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--tasks", type=int, default=2)
    chosen = arguments.parse_args()
    print(machine().line())
    print(vars(chosen), f"seed {SEED}")
    millions = chosen.events / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake.open(f"sqlite:///{folder}/c.db", folder / "w")
        ensure_tables(lake, "bench")
        state = State.open(folder / "state", writable=True)
        state.ensure(["bench"])
        (folder / "dedup").mkdir()
        landing = Landing(key=KEY, rules=segment_defaults(), index=DedupIndex(folder / "dedup", "bench"))
        rng = np.random.default_rng(SEED)
        events, landed = lake.table("bench", EVENTS), 0.0
        for number, start in enumerate(range(0, chosen.events, COMMIT_EVENTS), 1):
            made = records(start, COMMIT_EVENTS, rng)
            cpu = time.process_time()
            with state.write() as tx:
                rows = landing.land(tx, made, number).events
            landed += time.process_time() - cpu
            sorted_rows = rows.sort_by([(column, "ascending") for column in EVENTS.sort])
            count = start + COMMIT_EVENTS
            totals = {"in_lake": count}
            events.append(sorted_rows, Progress("0", number, {LOG: (count, count)}, totals))
        print(f"landing them: {landed / millions:.1f} CPU s a million")
        run(lake, folder, chosen.tasks, "everything to read again", millions, landed)
        run(lake, folder, chosen.tasks, "nothing to do", millions, landed)
        again = events.scan().slice(0, chosen.events // 10)
        events.add_files(events.files_elsewhere().write(again), "again")
        run(lake, folder, chosen.tasks, "a tenth twice", millions, landed)
        state.close()
        lake.close()


def run(lake: Lake, folder: Path, tasks: int, what: str, millions: float, landed: float) -> None:
    """Repair once and print what it took, by step."""
    engine = EmbeddedEngine(folder / "engine", tasks)
    steps: list[str] = []
    cpu, wall = time.process_time(), time.perf_counter()
    last = cpu

    def done(step: str) -> None:
        nonlocal last
        now = time.process_time()
        steps.append(f"{step.partition(':')[0]} {(now - last) / millions:.1f}")
        last = now

    found = repair(engine, lake.storage, lake, "bench", key=KEY, rules=segment_defaults(), report=done)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{what}: {cpu / millions:.1f} CPU s a million events, {wall:.1f} s; {cpu / landed:.2f} of landing them"
    )
    print(f"  CPU s a million by step: {', '.join(steps)}")
    print(f"  {', '.join(f'{name} {count:,}' for name, count, _ in found.told())}")


if __name__ == "__main__":
    main()
