"""What account links and consent cost a micro-batch, beside what folding its traits costs.

Folds micro-batches of events (the same columns as landing gives) into a state of its own and reports
processor microseconds per event for three kinds of traffic: track calls with neither, where it should be
nothing; consent on every event; and group calls only. The baseline is `fold_traits` on the same number
of identify calls with two traits.

    python benchmarks/profile_folds.py --events 10000 --batches 20 --people 20000
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.landing.tables import EVENTS
from profilelake.profiles.fold import fold_traits
from profilelake.profiles.fold_consent import fold_consent
from profilelake.profiles.fold_links import fold_links
from profilelake.state.store import State
from profilelake.state.working import Working

W: Final = "default"
CONSENT: Final = json.dumps(
    {"categoryPreferences": {"Advertising": True, "Analytics": True, "Functional": False}}
)
START: Final = 1_772_359_210_000_000


def events(rng: np.random.Generator, rows: int, batch: int, people: int, kind: str) -> pa.Table:
    """Return one micro-batch of one kind of traffic."""
    who = rng.permutation(people)[:rows] if rows <= people else rng.integers(0, people, rows)
    # Ids of sets are keyed hashes: tables are addressed by their first bytes as they are.
    sets = [blake2b(int(one).to_bytes(8), digest_size=16).digest() for one in who]
    at = START + batch * 1_000_000 + np.arange(rows)
    columns = {
        "position": [int(one).to_bytes(8, "big") + bytes(24) for one in at],
        "received_at": at,
        "timestamp": at,
        "message_id": [f"m{batch}-{number}" for number in range(rows)],
        "type": [{"identify": "identify", "group": "group"}.get(kind, "track")] * rows,
        "source_id": ["shop"] * rows,
        "region": ["local"] * rows,
        "set_id": sets,
        "consent": [CONSENT] * rows if kind == "consent" else None,
        "traits": ['{"plan":"pro","seats":3}'] * rows if kind == "identify" else None,
        "account_set_id": [bytes(15) + bytes([int(one) % 250]) for one in who] if kind == "group" else None,
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if columns.get(field.name) is not None
        else pa.nulls(rows, field.type)
        for field in EVENTS.schema()
    ]
    return pa.table(arrays, schema=EVENTS.schema())


def behind(_position: bytes) -> pa.Table:
    """No copies come, so nobody asks."""
    raise AssertionError


def measure(fold: Callable[[Working, pa.Table], object], kind: str, arguments: argparse.Namespace) -> float:
    """Return processor microseconds per event."""
    rng = np.random.default_rng(arguments.seed)
    spent = 0.0
    with tempfile.TemporaryDirectory() as folder:
        state = State.open(Path(folder) / "state", writable=True)
        state.ensure([W])
        for batch in range(arguments.batches):
            table = events(rng, arguments.events, batch, arguments.people, kind)
            with state.write() as tx:
                work = Working(tx, W, batch)
                began = time.process_time()
                fold(work, table)
                work.flush()
                spent += time.process_time() - began
        state.close()
    per_event: float = spent * 1e6 / arguments.events / arguments.batches
    return per_event


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000, help="events of a micro-batch")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    def both(work: Working, table: pa.Table) -> None:
        fold_links(work, table, EVENTS.schema().empty_table(), (), behind)
        fold_consent(work, table)

    print(machine().line())
    print(
        f"{arguments.batches} micro-batches of {arguments.events:,} events, {arguments.people:,} people,"
        f" seed {arguments.seed}"
    )
    baseline = measure(fold_traits, "identify", arguments)
    print(f"{'traits of identify calls':<28} {baseline:8.3f} µs/event (baseline)")
    for name, kind in (
        ("neither", "track"),
        ("consent on every event", "consent"),
        ("group calls only", "group"),
    ):
        cost = measure(both, kind, arguments)
        print(f"{name:<28} {cost:8.3f} µs/event, {cost / baseline:.3f} of the baseline")


if __name__ == "__main__":
    main()
