"""CPU time of folding events into partials: all steps of many definitions, and DuckDB doing the same by SQL.

    python benchmarks/condition_fold.py [--events 30000] [--definitions 50] [--seed 1] [--repeats 5]

Shop events of ten names, about 250 bytes of properties each, of as many identifier sets as a third of the events;
the definitions are spread over the names: counts, sums, extremes, most frequent, first, last and unique values,
most with a condition, half with a window, some over the products of an order. DuckDB answers one
`json_extract` + `GROUP BY` per step, on the same table in memory, with one thread; windows are folded by day in both.
Single events of windows, which the state keeps for the days at their edges, are folded by profilelake alone.
`add` and `read` are what the online state takes beside: what came of further events, for sets that have records.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb
import pyarrow as pa

from _machine import machine
from profilelake.kernels import json_paths
from profilelake.landing.tables import EVENTS
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce
from profilelake.state.store import State
from profilelake.traits import stored
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered
from profilelake.traits.steps import nodes, step_of

NAMES: Final = (
    "Order Completed", "Product Viewed", "Product Added", "Product Removed", "Checkout Started",
    "Coupon Applied", "Product Searched", "Promotion Clicked", "Wishlist Saved", "Email Opened",
)  # fmt: skip
CATEGORIES: Final = ("shoes", "shirts", "garden", "books", "toys", "food")
WORKSPACE: Final = "default"
START: Final = 1_772_323_200_000_000
SPAN_MICROS: Final = 3_600_000_000

_TEMPLATES: Final = (
    ("event('{n}').count() >= 2", "count(*)", ""),
    ("event('{n}').where( property('total') > {t} ).count() >= 1", "count(*)", "{total} > {t}"),
    (
        "event('{n}').where( property('category') = '{c}' ).within(7 days).count() >= 1",
        "count(*)",
        "{category} = '{c}'",
    ),
    ("event('{n}').sum( property('total') ) > 100", "sum({total})", ""),
    (
        "event('{n}').where( property('category').contains('o') ).within(30 days).sum( property('total') ) > 10",
        "sum({total})",
        "{category} LIKE '%o%'",
    ),
    ("event('{n}').max( property('total') ) > 1", "max({total})", "{total} IS NOT NULL"),
    ("event('{n}').last( property('category') ) = 'food'", "max_by({category}, timestamp)", ""),
    ("event('{n}').unique( property('category') ).count() > 2", "list(DISTINCT {category})", ""),
    ("event('{n}').where( property('coupon').exists() ).count() = 0", "count(*)", "{coupon} IS NOT NULL"),
    (
        "event('{n}').where( property('quantity') >= 2 AND NOT property('category') = 'toys' ).within(14 days).count() > 1",
        "count(*)",
        "{quantity} >= 2 AND {category} <> 'toys'",
    ),
)
_PATHS: Final = {
    "total": "CAST(json_extract_string(properties, '$.total') AS DOUBLE)",
    "quantity": "CAST(json_extract_string(properties, '$.quantity') AS DOUBLE)",
    "category": "json_extract_string(properties, '$.category')",
    "coupon": "json_extract_string(properties, '$.coupon')",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--definitions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    json_paths.warm()
    events = generate(arguments.events, arguments.seed)
    few = events.slice(0, 500)
    steps, queries = definitions(arguments.definitions)
    fold(few, steps)
    properties = sum(map(len, events.column("properties").to_pylist())) / events.num_rows
    print(f"machine: {machine().line()}")
    print(
        f"{events.num_rows} events of {properties:.0f} bytes of properties, {len(steps)} steps of"
        f" {arguments.definitions} definitions, seed {arguments.seed}, best of {arguments.repeats}"
    )
    folded = best(arguments.repeats, lambda: fold(events, steps))
    small = best(arguments.repeats * 4, lambda: fold(few, steps))
    by_sql = best(arguments.repeats, lambda: answer(events, queries))
    micros = 1e6 / events.num_rows
    print(f"fold   {folded * micros:8.2f} us CPU per event")
    print(f"duckdb {by_sql * micros:8.2f} us CPU per event; ratio {by_sql / folded:.1f}")
    print(f"fold of {few.num_rows} events: {small * 1000:.1f} ms CPU")
    added, read, sets = in_state(events, steps)
    print(f"add    {added * micros:8.2f} us CPU per event, read {read * micros:.2f}; {sets} identifier sets")


def generate(count: int, seed: int) -> pa.Table:
    """Return shop events as landing stores them."""
    draw = random.Random(seed)
    sets = [draw.randbytes(16) for _ in range(max(1, count // 3))]
    rows: list[dict[str, Any]] = []
    schema = EVENTS.schema()
    for number in range(count):
        name = NAMES[min(int(draw.expovariate(0.35)), len(NAMES) - 1)]
        at = datetime.fromtimestamp((START + draw.randrange(SPAN_MICROS)) / 1e6, UTC)
        rows.append(
            dict.fromkeys(schema.names)
            | {
                "position": number.to_bytes(32, "big"),
                "received_at": at,
                "timestamp": at,
                "type": "track",
                "event": name,
                "source_id": "shop",
                "region": "local",
                "set_id": draw.choice(sets),
                "properties": json.dumps(_properties(draw, name), separators=(",", ":")),
                "context": '{"ip":"203.0.113.9","library":{"name":"analytics.js","version":"2.1"}}',
            }
        )
    return pa.Table.from_pylist(rows, schema=schema)


def _properties(draw: random.Random, name: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "product_id": f"p-{draw.randrange(10_000)}",
        "category": draw.choice(CATEGORIES),
        "url": f"https://shop.example/{draw.choice(CATEGORIES)}/{draw.randrange(100_000)}",
        "quantity": draw.randrange(1, 5),
        "total": round(draw.uniform(1, 300), 2),
        "currency": "EUR",
    }
    if draw.random() < 0.2:
        said["coupon"] = draw.choice(("SPRING", "WELCOME"))
    if name == "Order Completed":
        said["products"] = [
            {"sku": f"s-{draw.randrange(1000)}", "price": round(draw.uniform(1, 99), 2), "quantity": 1}
            for _ in range(draw.randrange(1, 4))
        ]
    return said


def definitions(count: int) -> tuple[list[Numbered], list[str]]:
    """Return the steps of some definitions, and a query for each."""
    steps: list[Numbered] = []
    queries: list[str] = []
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        # Half of the ways for each name, so that no two definitions have the same step.
        text, value, where = _TEMPLATES[(number // len(NAMES) * 2 + number % 2) % len(_TEMPLATES)]
        said = {"n": name, "t": 50 + number, "c": CATEGORIES[number % len(CATEGORIES)], **_PATHS}
        root = parse(text.format(**said))
        reduces = [node for node in nodes(root) if isinstance(node, Reduce)]
        steps += [Numbered(len(steps) + 1, step_of(reduce, b"")) for reduce in reduces]
        condition = f" AND {where.format(**said)}" if where else ""
        day = ", epoch_us(timestamp) // 86400000000" if "within" in text else ""
        # All parts are written above.
        queries.append(
            f"SELECT set_id{day}, {value.format(**said)} FROM events"  # noqa: S608 - our own words
            f" WHERE event = '{name}'{condition} GROUP BY set_id{day}"
        )
    return list({numbered.step: numbered for numbered in steps}.values()), queries


def answer(events: pa.Table, queries: Sequence[str]) -> None:
    """Let DuckDB answer the queries."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("events", events)
        for query in queries:
            connection.sql(query).arrow().read_all()


def in_state(events: pa.Table, steps: Sequence[Numbered]) -> tuple[float, float, int]:
    """Return the CPU seconds of adding partials of events to the state and of reading them, and their sets."""
    with TemporaryDirectory() as folder:
        state = State.open(Path(folder), writable=True)
        state.ensure([WORKSPACE])
        partials = fold(events, steps)
        keys = sorted({one.tobytes() for one in partials.counts.sets})
        times = []
        for _ in range(3):
            with state.write() as tx:
                began = time.process_time()
                stored.add(tx, WORKSPACE, partials, steps)
                between = time.process_time()
                stored.read(tx, WORKSPACE, keys, START + SPAN_MICROS, steps)
                times.append((between - began, time.process_time() - between))
        state.close()
    return min(added for added, _ in times[1:]), min(read for _, read in times), len(keys)


def best(repeats: int, run: Callable[[], object]) -> float:
    """Return the least CPU seconds a run takes."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    main()
