"""What the answers of many definitions cost: for the profiles a micro-batch has touched, and for all of them.

Seeded shop events are folded into partials (not measured here), as days and single events for the touched profiles
and as of a time for all. Reports processor seconds of `traits.answers`, and the ratio to the plain reference, which
is asked about a sample of the same profiles in the same run and gives the same answers.

    python benchmarks/condition_answers.py --touched 3000 --definitions 50
    python benchmarks/condition_answers.py --touched 0 --all 1000000 --definitions 100
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.landing.tables import EVENTS
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Between, Reduce
from profilelake.semantics.definitions import Definition, Held, Json, Kind
from profilelake.traits.answers import answers, sliced
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.merging import merge
from profilelake.traits.partials import Numbered, Partials, Rows
from profilelake.traits.steps import Plan, planned

DAY: Final = 86_400_000_000
NOW: Final = 1_772_359_210_000_000
SAMPLE: Final = 50
FOLDED: Final = 100_000
"""Profiles whose events are made and folded at a time."""
NAMES: Final = ("Order Completed", "Product Viewed", "Cart Viewed", "Product Added")
PLANS: Final = ("free", "pro", "team", "enterprise")

QUERIES: Final = (
    "event('Order Completed').count() >= {n}",
    "event('Order Completed').within({d} days).count() >= 1",
    "event('Product Viewed').within({d} days).count() > {n}",
    "event('Order Completed').sum(property('total')) > {n}00",
    "event('Order Completed').within({d} days).avg(property('total'))",
    "event('Product Viewed').where(property('category') = 'c{n}').count()",
    "event('Product Viewed').within({d} days).mode(property('category'))",
    "event('Order Completed').last(property('sku'))",
    "event('Product Added').unique(property('category')).count() >= {n}",
    "trait('plan') = 'pro' AND event('Cart Viewed').within({d} days).count() >= 1",
    "trait('age') >= 2{n} AND NOT event('Order Completed').within({d} days).count() >= 1",
    "trait('signed_up').within_last({d} days) OR trait('plan') = 'enterprise'",
    "event('Order Completed').max(property('total')) >= {n}0",
    "event('Cart Viewed').between(1 day, {d} days).count() >= 1",
    "event('Order Completed').where(property('total') > {n}0).within({d} days).sum(property('total'))",
    "trait('k0') = true AND trait('age') < 6{n}",
)
FUNNEL: Final = (
    "event('Cart Viewed').where(event('Order Completed').within(parent: {d} days).count() >= 1)"
    ".within(30 days).count() >= 1"
)


def definitions(count: int, *, funnels: int) -> Plan:
    """Return how so many definitions are computed, the first of them funnels."""
    texts = [FUNNEL.format(d=1 + place) for place in range(funnels)]
    texts += [
        QUERIES[place % len(QUERIES)].format(n=1 + place // len(QUERIES), d=(1, 7, 14, 30, 60)[place % 5])
        for place in range(count - funnels)
    ]
    held = {}
    for place, text in enumerate(texts):
        kind: Kind = "trait" if isinstance(parse(text), Reduce) else "audience"
        definition = Definition(f"k{place}", kind, text, external_ids=())
        held[definition.key] = Held(definition, 1, b"", b"")
    return planned(held)


def subjects(rng: np.random.Generator, count: int, sets: np.ndarray[Any, Any]) -> Subjects:
    """Return profiles of one set each, with three written traits."""
    plans = pa.array([f'"{plan}"' for plan in PLANS]).take(pa.array(rng.integers(0, len(PLANS), count)))
    ages = pc.cast(pa.array(rng.integers(18, 90, count)), pa.string())
    days = pa.array([json.dumps(f"2026-0{1 + day // 28}-{1 + day % 28:02}") for day in range(56)])
    return Subjects(
        count=count,
        set_keys=sets,
        set_owner=np.arange(count, dtype=np.int64),
        traits={"plan": plans, "age": ages, "signed_up": days.take(pa.array(rng.integers(0, 56, count)))},
    )


def keys(start: int, count: int) -> list[bytes]:
    """Return ids of sets: hashes, as the first halves address tables as they are."""
    return [blake2b(number.to_bytes(8), digest_size=16).digest() for number in range(start, start + count)]


def events(rng: np.random.Generator, sets: Sequence[bytes], per_profile: int) -> pa.Table:
    """Return shop events of profiles in the last 90 days."""
    rows = len(sets) * per_profile
    who = rng.integers(0, len(sets), rows)
    at = NOW - rng.integers(0, 90 * DAY, rows)
    cents, sku, category = (
        rng.integers(100, 20_000, rows),
        rng.integers(0, 500, rows),
        rng.integers(0, 12, rows),
    )
    properties = [
        f'{{"total":{cent / 100},"sku":"s{one}","category":"c{group}"}}'
        for cent, one, group in zip(cents.tolist(), sku.tolist(), category.tolist(), strict=True)
    ]
    names = pa.array(NAMES).take(pa.array(rng.integers(0, len(NAMES), rows)))
    columns: dict[str, Any] = {
        "position": [int(one).to_bytes(8, "big") + bytes(24) for one in at],
        "received_at": at,
        "timestamp": at,
        "message_id": [f"m{number}" for number in range(rows)],
        "type": ["track"] * rows,
        "event": names,
        "source_id": ["shop"] * rows,
        "region": ["local"] * rows,
        "set_id": pa.array(sets, pa.binary(16)).take(pa.array(who)),
        "properties": properties,
    }
    schema = EVENTS.schema()
    arrays = [
        pa.nulls(rows, field.type)
        if field.name not in columns
        else pa.array(columns[field.name], field.type)
        if not isinstance(columns[field.name], pa.Array)
        else columns[field.name].cast(field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def world(
    seed: int, count: int, per_profile: int, steps: Sequence[Numbered], at: int | None
) -> tuple[Partials, Subjects, list[pa.Table]]:
    """Return the partials of so many profiles, the profiles, and the events of the first of them."""
    rng = np.random.default_rng(seed)
    parts, first, every = [], [], []
    for start in range(0, count, FOLDED):
        sets = keys(start, min(FOLDED, count - start))
        table = events(rng, sets, per_profile)
        parts.append(fold(table, steps, at=at))
        every += sets
        if not start:
            first.append(table)
    words = np.frombuffer(b"".join(every), dtype=np.uint64).reshape(-1, 2)
    return merged(parts), subjects(rng, count, words), first


def as_read(partials: Partials, steps: Sequence[Numbered]) -> Partials:
    """Return what of partials is read for an evaluation: single events only of days that windows cut."""
    rows = partials.entries
    days = rows.rows["at"] // DAY
    kept = np.zeros(len(days), dtype=np.bool_)
    for number, step in steps:
        if step.horizon is not None:
            near = step.of.window.near if isinstance(step.of.window, Between) else 0
            edges = [(NOW - step.horizon) // DAY, (NOW - near) // DAY]
            kept |= (rows.rows["step"] == number) & np.isin(days, edges)
    return replace(partials, entries=Rows(rows.sets[kept], rows.rows[kept]))


def merged(parts: list[Partials]) -> Partials:
    """Return partials as one, halves first, so that each row is moved a few times only."""
    while len(parts) > 1:
        parts = [
            merge(parts[place], parts[place + 1]) if place + 1 < len(parts) else parts[place]
            for place in range(0, len(parts), 2)
        ]
    return parts[0]


def reference(
    plan: Plan, table: pa.Table, asked: Subjects, sample: int
) -> tuple[float, list[dict[str, Json]]]:
    """Return what the reference answers of the first profiles, and its processor seconds for each of them."""
    keys_of = asked.set_keys[:sample].tobytes()
    place = {keys_of[at : at + 16]: at // 16 for at in range(0, len(keys_of), 16)}
    happened: list[list[evaluate.Occurred]] = [[] for _ in range(sample)]
    mine = table.filter(pc.is_in(table["set_id"], value_set=pa.array(list(place), pa.binary(16))))
    for row in mine.select(["set_id", "event", "timestamp", "properties"]).to_pylist():
        at = int(row["timestamp"].timestamp() * 1_000_000)
        told = json.loads(row["properties"])
        happened[place[row["set_id"]]].append(evaluate.Occurred(row["event"], at, properties=told))
    triples = [(one.held.definition, one.root, b"") for one in plan]
    people = [
        evaluate.Subject(
            mine_of, {key: json.loads(column[who].as_py()) for key, column in asked.traits.items()}
        )
        for who, mine_of in enumerate(happened)
    ]
    began = time.process_time()
    found = [evaluate.answers(triples, person, NOW) for person in people]
    return (time.process_time() - began) / sample, found


def check(found: dict[str, list[Json]], right: list[dict[str, Json]]) -> None:
    """Stop where an answer is not that of the reference."""
    for key, values in found.items():
        for who, expected in enumerate(right):
            wanted, value = expected[key] or None, values[who]
            if value != wanted:
                raise SystemExit(f"{key}: profile {who} is {value}, the reference says {wanted}")


def report(name: str, seconds: float, profiles: int, definitions_: int, each: float) -> None:
    """Print one figure."""
    print(
        f"{name}: {profiles:,} profiles x {definitions_} definitions: {seconds * 1e3:,.1f} ms CPU, "
        f"{seconds / profiles / definitions_ * 1e9:,.0f} ns per answer; the reference takes "
        f"{each * profiles / seconds:,.0f} times as long ({each * 1e3:.2f} ms per profile)"
    )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--touched", type=int, default=3_000)
    parser.add_argument("--all", type=int, default=0)
    parser.add_argument("--definitions", type=int, default=50)
    parser.add_argument("--funnels", type=int, default=0)
    parser.add_argument("--events", type=int, default=20, help="per profile, in 90 days")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(machine().line())
    print(f"seed {arguments.seed}, {arguments.events} events per profile in 90 days")
    plan = definitions(arguments.definitions, funnels=arguments.funnels)
    steps = {step.digest: step for one in plan for step in one.steps.values()}
    numbered = [Numbered(number, step) for number, step in enumerate(steps.values(), start=1)]
    numbers = {step.digest: number for number, step in numbered}
    for name, count, at in (("touched", arguments.touched, None), ("all", arguments.all, NOW)):
        if not count:
            continue
        partials, asked, first = world(arguments.seed, count, arguments.events, numbered, at)
        if at is None:
            partials = as_read(partials, numbered)
        each, right = reference(plan, first[0], asked, min(SAMPLE, count))
        spent, checked = [], False
        for _ in range(arguments.repeats if name == "touched" else 1):
            began = time.process_time()
            if name == "touched":
                found = answers(plan, numbers, partials, asked, NOW)
                spent.append(time.process_time() - began)
            else:
                for start, found in sliced(plan, numbers, partials, asked, NOW):
                    if not start:
                        head = found
                found = head
                spent.append(time.process_time() - began)
            if not checked:
                values = {
                    key: [
                        None if text is None else json.loads(text) for text in one.values[:SAMPLE].to_pylist()
                    ]
                    for key, one in found.items()
                }
                check(values, right)
                checked = True
        rows = sum(
            len(one.rows) for one in (partials.counts, partials.numbers, partials.values, partials.entries)
        )
        print(f"{len(numbered)} steps, {rows:,} rows of partials; memory so far {peak():,} MiB")
        report(name, sorted(spent)[len(spent) // 2], count, len(plan), each)


def peak() -> int:
    """Return the most memory that was in use, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
