"""CPU time per event of recognising shapes: the compiled walk, and json.loads with a walk in Python.

    python benchmarks/schema_drift.py [--events 100000] [--seed 1] [--repeats 5]

Steady: events like those of a browser SDK, about 600 bytes each, whose shapes are all known. Drift: the same
events, where one in `--every` brings a property that nobody has sent before. Wide: events of 1,000 known
keys. Both ways count events per event name, part, path and type; the walk in Python notes neither times nor
examples. Showing is what a publication adds: the rows that changed, as Arrow.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pyarrow as pa

from _machine import machine
from landing_parse import generate
from profilelake.landing import parse
from profilelake.semantics.rules import segment_defaults
from profilelake.semantics.shapes import PARTS
from profilelake.shapes import observed
from profilelake.shapes.observed import COLUMNS, Shapes

PLAIN_EVENTS_MAX: Final = 20_000
"""The walk in Python is slow, so it reads only the first of the events."""
WIDE_KEYS: Final = 1_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument(
        "--every", type=int, default=20, help="of the drifting events one brings a new property"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    began = time.perf_counter()
    observed.warm()
    warmed = time.perf_counter() - began
    events = parse.parse(generate(arguments.events, arguments.seed), segment_defaults()).events
    steady = events.select(COLUMNS).combine_chunks()
    cases = {
        "steady": (steady, False),
        "drift": (_drifting(steady, arguments.every), True),
        "wide": (_wide(steady, max(1, arguments.events // 100)), False),
    }
    print(f"machine: {machine().line()}")
    print(
        f"events {arguments.events}, seed {arguments.seed}, best of {arguments.repeats};"
        f" compiling or loading took {warmed:.1f} s"
    )
    print(
        f"{'traffic':<10}{'events':>9}{'bytes':>8}{'shapes':>8}{'walk us/event':>15}{'python us/event':>17}"
        f"{'ratio':>8}{'show us/event':>15}"
    )
    for name, (rows, new) in cases.items():
        _measure(name, rows, new=new, repeats=arguments.repeats)


def _measure(name: str, rows: pa.Table, *, new: bool, repeats: int) -> None:
    best, showing, shapes = float("inf"), float("inf"), Shapes(1)
    for _ in range(repeats):
        if new:
            shapes = Shapes(1)
        else:
            shapes.observe(rows.slice(0, 1_000))
        best = min(best, _cpu(partial(shapes.observe, rows)))
        showing = min(showing, _cpu(partial(shapes.changes, 1)))
    few = rows.slice(0, PLAIN_EVENTS_MAX)
    plain = min(_cpu(lambda: walk_plainly(few)) for _ in range(2)) / few.num_rows
    size = sum(rows.column(part).nbytes for part in PARTS) / rows.num_rows
    walk = best / rows.num_rows
    print(
        f"{name:<10}{rows.num_rows:>9,}{size:>8.0f}{shapes.count:>8,}{walk * 1e6:>15.2f}{plain * 1e6:>17.2f}"
        f"{plain / walk:>8.1f}{showing / rows.num_rows * 1e6:>15.3f}"
    )


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _drifting(rows: pa.Table, every: int) -> pa.Table:
    """Return the events, some of them with a property of their own."""
    texts = rows.column("properties").to_pylist()
    for place in range(0, len(texts), every):
        new = f'"new property {place}":{place}'
        text = texts[place]
        texts[place] = f"{{{new}}}" if text in (None, "{}") else f"{text[:-1]},{new}}}"
    return rows.set_column(
        rows.schema.get_field_index("properties"), "properties", pa.array(texts, pa.string())
    )


def _wide(rows: pa.Table, events: int) -> pa.Table:
    """Return events with very many keys."""
    text = json.dumps({f"key {number}": number for number in range(WIDE_KEYS)}, separators=(",", ":"))
    few = rows.slice(0, events)
    return few.set_column(
        few.schema.get_field_index("properties"), "properties", pa.array([text] * few.num_rows, pa.string())
    )


def walk_plainly(rows: pa.Table) -> dict[tuple[Any, ...], int]:
    """Count the same with what Python brings along."""
    known: dict[tuple[Any, ...], int] = {}

    def walk(members: dict[str, Any], path: tuple[str, ...], place: tuple[Any, ...]) -> None:
        for key, value in members.items():
            if value is None:
                continue
            below = (*path, key)
            shape = (place, below, type(value))
            known[shape] = known.get(shape, 0) + 1
            if isinstance(value, dict):
                walk(value, below, place)

    columns = (rows.column(name).to_pylist() for name in ("type", "event", *PARTS))
    for kind, event, *texts in zip(*columns, strict=True):
        for part, text in zip(PARTS, texts, strict=True):
            if text:
                walk(json.loads(text), (), (kind, event, part))
    return known


if __name__ == "__main__":
    main()
