"""Every event case on the reference and on the way through `parse`, packed and not."""

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from event_cases import CASES as EVERY
from event_cases import record_of
from log_records import RECEIVED_AT, Row, by_landing, by_reference
from profilelake.definitions.identity import parse
from profilelake.eventlog import Flags
from profilelake.semantics.events import REASONS
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults

CASES = [pytest.param(case, id=name) for name, case in EVERY.items()]
KEYS = {
    "about", "path", "body", "hex", "repeat", "events", "request", "rules", "definitions", "scanned", "expected",
}  # fmt: skip
TIMES = ("received_at", "timestamp", "original_timestamp", "sent_at")
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any]) -> None:
    assert case.keys() <= KEYS
    rules = parse(case["definitions"]) if "definitions" in case else _rules(case.get("rules", {}))
    given = record_of(case)
    events, failed = by_reference([given], rules)
    _check(case["expected"], events, failed)
    landed_events, landed_failed, parsed = by_landing([given], rules)
    assert (landed_events, landed_failed) == (events, failed)
    assert (parsed.exact == 0) == case.get("scanned", True)
    if not any(row["reason"] == "undecodable_record" for row in failed):
        packed = given._replace(body=gzip.compress(given.body, 1), flags=given.flags | Flags.GZIP)
        assert by_landing([packed], rules)[:2] == (events, failed)


def test_every_reason_has_a_case() -> None:
    seen = {row["reason"] for case in CASES for row in case.values[0]["expected"] if "reason" in row}
    assert seen == REASONS.keys()


def _rules(given: dict[str, Any]) -> IdentityRules:
    rules = segment_defaults(custom=tuple(given.get("custom", ())))
    accounts = [
        TypeRule(type, priority, collection="accounts", custom=True)
        for priority, type in enumerate(given.get("custom_accounts", ()), start=2)
    ]
    return replace(rules, types=(*rules.types, *accounts))


def _check(expected: list[dict[str, Any]], events: list[Row], failed: list[Row]) -> None:
    """Compare the fields a case names; every outcome is named, in order."""
    outcomes = sorted([*events, *failed], key=lambda row: row["position"])
    assert len(outcomes) == len(expected)
    for index, (row, fields) in enumerate(zip(outcomes, expected, strict=True)):
        assert row["position"][-4:] == index.to_bytes(4, "big")
        assert row["received_at"] == RECEIVED_AT
        seen = {name: row.get(name) for name in fields}
        for name in TIMES:
            if seen.get(name) is not None:
                seen[name] = _1970 + timedelta(microseconds=seen[name])
        for name in ("users", "accounts"):
            if name in seen:
                seen[name] = [f"{type}:{value}" for type, value in seen[name]]
        if isinstance(seen.get("raw"), bytes):
            seen["raw"] = seen["raw"].decode()
        wanted = {
            name: datetime.fromisoformat(value) if name in TIMES and value is not None else value
            for name, value in fields.items()
        }
        assert seen == wanted
