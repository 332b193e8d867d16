"""What suppression costs a collecting process: CPU per 20-event gzip batch, by the length of the list.

python benchmarks/collect_suppression.py
"""

import gzip
import json
import os
import tempfile
import time
from pathlib import Path

from _machine import machine
from profilelake.collect import bodies
from profilelake.collect.limits import CollectLimits
from profilelake.collect.suppress import Suppression
from profilelake.eventlog import Entry, Kind
from profilelake.semantics.rules import segment_defaults
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.suppressions import (
    IDENTIFIERS_PER_CALL_MAX,
    Hashed,
    SuppressionRing,
    hash_identifier,
)

EVENTS = 20
ROUNDS = 2_000
RULES = segment_defaults()
KEY = bytes(range(16))


def batch(hits: int) -> bytes:
    """Return a batch as a server SDK sends it, `hits` of its events about somebody suppressed."""
    events = []
    for number in range(EVENTS):
        user = "suppressed-0" if number < hits else f"user-{number}"
        events.append(
            {
                "type": "identify" if number % 5 == 0 else "track",
                "event": "Order Completed",
                "userId": user,
                "anonymousId": f"5e9f1b2c-{number:04d}-4a7d-9c1e-0123456789ab",
                "messageId": f"m-{number}-0123456789abcdef",
                "timestamp": "2026-03-01T10:00:00.000Z",
                "context": {
                    "library": {"name": "analytics-python", "version": "2.4.0"},
                    "traits": {"email": f"user{number}@example.org", "plan": "team"},
                },
                "properties": {
                    "order_id": f"o-{number}",
                    "revenue": 42.5,
                    "currency": "EUR",
                    "items": [1, 2, 3],
                },
            }
        )
    return gzip.compress(json.dumps({"batch": events, "sentAt": "2026-03-01T10:00:05.000Z"}).encode(), 6)


def fake(number: int) -> Hashed:
    """Return an entry of nobody: how long the list is matters, not who is on it."""
    ident = number.to_bytes(16, "big")
    return Hashed("users", "user_id", ident, ident[::-1])


def microseconds(suppression: Suppression, body: bytes) -> float:
    """Return the CPU time of one batch."""
    limits = CollectLimits()
    checked = bodies.check(Kind.BATCH, body, b"gzip", limits)
    entry = Entry("default", "s", Kind.BATCH, checked.flags, checked.events, 1, "", "", body)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(ROUNDS // 5):
            suppression.withhold(entry)
        best = min(best, (time.process_time() - start) / (ROUNDS // 5))
    return best * 1e6


def main() -> None:
    print(machine())
    limits = CollectLimits()
    plain, one_hit, all_hits = batch(0), batch(1), batch(EVENTS)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(ROUNDS // 5):
            bodies.check(Kind.BATCH, plain, b"gzip", limits)
        best = min(best, (time.process_time() - start) / (ROUNDS // 5))
    print(f"{EVENTS} events, {len(plain)} bytes packed; the check that every batch gets: {best * 1e6:.1f} µs")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / CONTROL_FILE
        with Control.open(path, os.urandom) as control:
            control.ensure_default(now=1)
            listed = control.suppressions()
            for length in (0, 1, 100_000):
                if length:
                    listed.suppress(
                        "default", [hash_identifier(KEY, RULES, "users", "user_id", "suppressed-0")], now=1
                    )
                for at in range(0, length - 1, IDENTIFIERS_PER_CALL_MAX):
                    stop = min(length - 1, at + IDENTIFIERS_PER_CALL_MAX)
                    listed.suppress("default", [fake(number) for number in range(at, stop)], now=1)
                ring = SuppressionRing(path)
                start = time.process_time()
                ring.refresh()
                loaded = (time.process_time() - start) * 1e3
                suppression = Suppression(ring, lambda _: RULES, lambda _: KEY, limits)
                costs = [microseconds(suppression, body) for body in (plain, one_hit, all_hits)]
                ring.close()
                print(
                    f"{length:>7} suppressed: {costs[0]:6.1f} µs without a hit, {costs[1]:6.1f} with one,"
                    f" {costs[2]:6.1f} with {EVENTS}; list loaded in {loaded:.1f} ms"
                )


if __name__ == "__main__":
    main()
