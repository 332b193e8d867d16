"""What funnels cost of one profile that has very many events: all that anybody with a write key can make.

One person adds products to the cart and buys, so many times, of so many products. Each funnel is answered from kept
events as a micro-batch that touched the person does it, and held to the plain reference, which is asked in the same
run where it is expected to take no longer than `--patience` seconds; beyond that only what the answer takes is told.
Its time is that without the limit of pairs, which is what an answer took before there was any other way.

    python benchmarks/condition_funnels.py --events 1000 10000 50000
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.pairing import PAIRED_EVENTS_MAX
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.times import next_moment
from profilelake.semantics.definitions import Definition, Held, Json
from profilelake.traits.answers import answers
from profilelake.traits.columns import Subjects
from profilelake.traits.partials import CutEvent, Partials, numbered
from profilelake.traits.steps import planned

DAY: Final = 86_400_000_000
NOW: Final = 1_772_359_210_000_000
SET: Final = bytes(range(16))
WITHIN: Final = ".within(parent: 1 day)"
LOOK: Final = 4e-6
"""Seconds that the reference needs about to look at one event for another."""
FUNNELS: Final = {
    "count": f"event('Order').where(property('total') > 50){WITHIN}.count() >= 1",
    "same value": f"event('Order').where(property('skus') = property(parent: 'sku')){WITHIN}.count() >= 1",
    "same, an array asks": f"event('Order').where(property('sku') = property(parent: 'skus')){WITHIN}.count() >= 2",
    "sum": f"event('Order'){WITHIN}.sum(property('total')) > 500",
    "greatest": f"event('Order'){WITHIN}.max(property('total')) > property('total')",
    "first": f"event('Order'){WITHIN}.first(property('sku')) = property('sku')",
    "pairs: greater": f"event('Order').where(property('total') > property(parent: 'total')){WITHIN}.count() >= 1",
    "pairs: text": f"event('Order').where(property('sku').contains(property(parent: 'sku'))){WITHIN}.count() >= 1",
    "pairs: unique": f"event('Order'){WITHIN}.unique(property('sku')).count() >= 3",
    "pairs: arrays": (
        "event('Order').where(property('skus') = property(parent: 'skus') AND property('total') > property(parent: 'total'))"
        f"{WITHIN}.count() >= 1"
    ),
    "pairs: arrays differ": f"event('Order').where(property('skus') != property(parent: 'skus')){WITHIN}.count() >= 1",
    "pairs: arrays in order": f"event('Order').where(property('totals') < property(parent: 'totals')){WITHIN}.count() >= 1",
    "pairs: arrays of texts": (
        f"event('Order').where(property('skus').contains(property(parent: 'skus'))){WITHIN}.count() >= 1"
    ),
    "pairs: elements": (
        "event('Order').where(property('skus').any(property('$') = property(parent: 'skus') AND property('$') != 's1'))"
        f"{WITHIN}.count() >= 1"
    ),
    "pairs: element": (
        "event('Order').where(property('skus').any(property('$') = property(parent: 'sku') AND property('$') != 's1'))"
        f"{WITHIN}.count() >= 1"
    ),
}


def events(rng: np.random.Generator, count: int, skus: int, days: int, elements: int) -> list[CutEvent]:
    """Return what a person did, half of it orders, with arrays of so many elements."""
    times = np.sort(NOW - rng.integers(0, days * DAY, count)).tolist()
    made = []
    for at, name in zip(times, rng.choice(["Cart", "Order"], count).tolist(), strict=True):
        told = {
            "sku": f"s{rng.integers(skus)}",
            "skus": [f"s{one}" for one in rng.integers(0, skus, elements)],
            "totals": (1 + rng.integers(0, 20_000, elements)).tolist(),
            "total": int(rng.integers(1, 20_000)) / 100,
        }
        made.append(CutEvent(at, name, "shop", json.dumps(told, separators=(",", ":")), "{}"))
    return made


def asked(query: str, happened: list[CutEvent]) -> tuple[float, Json]:
    """Return the processor seconds of an answer, the least of three, and the answer."""
    definition = Definition("k", "trait", query, external_ids=())
    plan = planned({"k": Held(definition, 1, b"", b"")})
    steps = numbered(plan)
    partials = Partials(events={(SET, steps[0].number): happened})
    person = Subjects(
        count=1,
        set_keys=np.frombuffer(SET, np.uint64).reshape(-1, 2),
        set_owner=np.zeros(1, np.int64),
    )
    spent, found = [], None
    for _ in range(3):
        began = time.process_time()
        numbers = {step.digest: number for number, step in steps}
        found = answers(plan, numbers, partials, person, NOW)["k"].values[0].as_py()
        spent.append(time.process_time() - began)
    return min(spent), 0 if found is None else json.loads(found)


def reference(query: str, happened: list[CutEvent], most: int = PAIRED_EVENTS_MAX) -> tuple[float, Json]:
    """Return what the reference takes for an answer and when it changes, and the answer.

    `most` is how many events it looks at where it looks at pairs; there was no limit once.
    """
    root: Any = parse(query)
    began = time.process_time()
    subject = evaluate.Subject(
        [evaluate.Occurred(one.name, one.at, properties=json.loads(one.properties)) for one in happened]
    )
    with mock.patch.object(evaluate, "PAIRED_EVENTS_MAX", most):
        found = evaluate.value(root, subject, NOW)
        next_moment(root, subject, NOW)
    return time.process_time() - began, found


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--skus", type=int, default=1_000_000, help="different products; 1: all are the same")
    parser.add_argument("--elements", type=int, default=3, help="of arrays, which anybody may send longer")
    parser.add_argument("--only", default="", help="funnels whose name begins so")
    parser.add_argument("--days", type=int, default=1, help="in which everything happens")
    parser.add_argument("--patience", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(machine().line())
    print(
        f"seed {arguments.seed}, {arguments.skus} products, arrays of {arguments.elements}, all within {arguments.days} days"
    )
    for name, inner in FUNNELS.items():
        if not name.startswith(arguments.only):
            continue
        query = f"event('Cart').where({inner}).within(30 days).count()"
        for count in arguments.events:
            rng = np.random.default_rng(arguments.seed)
            happened = events(rng, count, arguments.skus, arguments.days, arguments.elements)
            seconds, found = asked(query, happened)
            line = f"{name}: {count:,} events: {seconds * 1e3:,.1f} ms CPU"
            if count**2 * LOOK <= arguments.patience:
                slow, _ = reference(query, happened, sys.maxsize)
                _, right = reference(query, happened)
                if found != right:
                    raise SystemExit(f"{line}; {found}, the reference says {right}")
                line += f", {slow / seconds:,.0f} times less than the reference ({slow:,.2f} s)"
            print(line, flush=True)


if __name__ == "__main__":
    main()
