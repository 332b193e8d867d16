"""CPU time per event of reading log records: the compiled scan, the reference, and plain `json.loads`.

    python benchmarks/landing_parse.py [--events 40000] [--seed 1] [--repeats 5]

Events are like those of a browser SDK, about 600 bytes each, in gzip batches of 20; one in five is an
identify call. All three ways unpack the same records. `json.loads` only looks up the fields and the
e-mail: no checks, no times, no canonical text, no columns.
"""

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from _machine import machine
from profilelake.eventlog import Flags, Kind, Record
from profilelake.landing import parse as landing
from profilelake.landing._bodies import unpack
from profilelake.landing._documents import envelope_of
from profilelake.landing._vocabulary import Vocabulary
from profilelake.landing.parse import _chunks, _Scanned
from profilelake.semantics.events import parse_record
from profilelake.semantics.rules import EXTRACTION_VERSION, segment_defaults

RULES = segment_defaults()
BATCH_EVENTS: Final = 20
REFERENCE_EVENTS_MAX: Final = 4_000
"""The reference is slow, so it reads only the first of the events."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    records = generate(arguments.events, arguments.seed)
    few = records[: REFERENCE_EVENTS_MAX // BATCH_EVENTS]
    started = time.perf_counter()
    landing.warm()
    warmed = time.perf_counter() - started

    size = sum(len(unpack(record)) for record in records) / arguments.events
    print(f"machine: {machine().line()}")
    print(
        f"events {arguments.events}, {size:.0f} bytes each, batches of {BATCH_EVENTS}, seed {arguments.seed},"
        f" best of {arguments.repeats}; compiling or loading took {warmed:.1f} s"
    )
    exact = landing.parse(records, RULES).exact
    if exact:
        raise SystemExit(f"{exact} of {len(records)} records were left to the reference: nothing to measure")

    def microseconds(read: Callable[[Sequence[Record]], object], given: Sequence[Record] = records) -> float:
        return best(lambda: read(given), arguments.repeats) / (len(given) * BATCH_EVENTS) * 1e6

    scan = microseconds(lambda given: landing.parse(given, RULES))
    plain = microseconds(read_plainly)
    reference = microseconds(read_by_reference, few)
    print(f"{'way':<24}{'us CPU/event':>14}{'events/CPU s':>14}{'ratio':>8}")
    for name, spent in (("parse (scan)", scan), ("json.loads and look-ups", plain), ("reference", reference)):
        print(f"{name:<24}{spent:>14.2f}{1e6 / spent:>14,.0f}{spent / scan:>8.1f}")

    vocabulary = Vocabulary.of(RULES)
    chunks = list(_chunks(records))
    scanned = [_Scanned(chunk, vocabulary) for chunk in chunks]
    steps = {
        "unpack": lambda: list(_chunks(records)),
        "scan": lambda: [_Scanned(chunk, vocabulary) for chunk in chunks],
        "events": lambda: [part.events() for part in scanned],
        "identifiers": lambda: [part.identifiers() for part in scanned],
    }
    for name, step in steps.items():
        print(f"  of which {name:<13}{best(step, arguments.repeats) / arguments.events * 1e6:>16.2f}")


def generate(events: int, seed: int) -> list[Record]:
    """Return log records of batches as a browser SDK sends them."""
    rng = random.Random(seed)
    records = []
    for number in range(events // BATCH_EVENTS):
        batch = [_event(rng, number * BATCH_EVENTS + place) for place in range(BATCH_EVENTS)]
        root = {"batch": batch, "sentAt": "2026-03-01T10:00:05.000Z", "writeKey": "wk_demo"}
        body = gzip.compress(json.dumps(root, separators=(",", ":")).encode(), 6)
        records.append(
            Record(
                received_at=1_772_359_206_000_000 + number,
                region="eu",
                log_id="00" * 8,
                offset=number,
                next_offset=number + 1,
                events_before=number * BATCH_EVENTS,
                workspace="w",
                source_id="shop",
                kind=Kind.BATCH,
                flags=Flags.GZIP,
                events=BATCH_EVENTS,
                extraction_version=EXTRACTION_VERSION,
                ip="203.0.113.9",
                sent_at="",
                body=body,
            )
        )
    return records


def _event(rng: random.Random, number: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "track",
        "event": rng.choice(("Order Completed", "Product Viewed", "Signed In")),
        "userId": f"u-{rng.randrange(100_000)}" if rng.random() < 0.5 else None,
        "anonymousId": f"{rng.getrandbits(128):032x}",
        "messageId": f"ajs-next-{number}-{rng.getrandbits(112):028x}",
        "timestamp": f"2026-03-01T10:00:00.{number % 1000:03d}Z",
        "context": {
            "library": {"name": "analytics.js", "version": "next-1.84.3"},
            "page": {
                "path": "/pricing",
                "referrer": "",
                "title": "Pricing",
                "url": "https://shop.example.org/pricing",
            },
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            "locale": "de-DE",
            "timezone": "Europe/Berlin",
        },
        "properties": {"order_id": f"o-{number}", "revenue": rng.randrange(10_000) / 100, "currency": "EUR"},
        "integrations": {},
    }
    if rng.random() < 0.2:
        del event["event"], event["properties"]
        event["type"] = "identify"
        event["traits"] = {
            "email": f"user{rng.randrange(100_000)}@example.org",
            "plan": "team",
            "name": "Ana",
        }
    return event


def read_by_reference(records: Sequence[Record]) -> int:
    """Read everything by the reference; return how many outcomes there were."""
    return sum(len(parse_record(unpack(record), envelope_of(record), RULES)) for record in records)


def read_plainly(records: Sequence[Record]) -> int:
    """Decode and look up what a careless program would; return how many e-mails there were."""
    emails = 0
    for record in records:
        for event in json.loads(unpack(record))["batch"]:
            for field in ("type", "messageId", "userId", "anonymousId", "event", "timestamp", "properties"):
                event.get(field)
            emails += "email" in event.get("traits", {})
    return emails


def best(run: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of several runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


if __name__ == "__main__":
    main()
