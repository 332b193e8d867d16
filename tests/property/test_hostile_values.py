"""Whatever a sender writes: collect takes or refuses it in words, and what is taken is stored as it was meant."""

import gzip
import json
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from log_records import by_landing, by_reference, record
from profilelake.collect import bodies
from profilelake.collect.answers import Refused
from profilelake.collect.limits import CollectLimits
from profilelake.eventlog import Flags, Kind
from profilelake.semantics.events import EVENT_BYTES_MAX, EVENT_DEPTH_MAX
from profilelake.semantics.rules import segment_defaults

RULES = segment_defaults()
KINDS = [kind for kind in Kind if kind is not Kind.FACT]
"""What collect writes; decisions are written by us, and never parsed as events."""
LIMITS: Final = CollectLimits()
KEYS: Final = (
    "__proto__", "constructor", "toString", "", " ", '"', "'", "\\", "`", "a.b", "a[0]", "$where", "${x}", "{{x}}",
    "'; DROP TABLE events; --", "<script>", "\x00", "\x00a", "\r\nlevel: error", "\x1b[31m", "\u202e", "\u2028",
    "💥", "e\u0301", "é", "\ufeff", "\uffff", "null", "NaN", "-1", "type", "userId", "traits",
)  # fmt: skip
WHOLE: Final = (2**53 + 1, 2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**40 + 1, 10**307 + 1, -(10**300) - 7)
CHARACTERS: Final = st.characters(exclude_categories=["Cs"])
LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.sampled_from(WHOLE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARACTERS, max_size=20)
    | st.sampled_from(KEYS)
)
NAMES: Final = st.sampled_from(KEYS) | st.text(CHARACTERS, max_size=12)
OBJECTS: Final = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=25,
    ),
    max_size=8,
)


def stored(
    kind: Kind, body: bytes, encoding: bytes = b""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return events and failures of a body that collect takes, as landing and the reference both read it."""
    checked = bodies.check(kind, body, encoding, LIMITS)
    taken = record(body, kind=kind, flags=checked.flags, events=checked.events)
    events, failed, _ = by_landing([taken], RULES)
    assert len(events) + len(failed) == checked.events
    plain = bodies.inflate(body, LIMITS) if checked.flags & Flags.GZIP else body
    told, _ = by_reference([taken._replace(body=plain)], RULES)
    assert events == told
    return events, failed


@settings(max_examples=60)
@given(OBJECTS, st.booleans())
@example({"n": 2**64 + 1, "m": -(10**300) - 7}, True)
@example({"__proto__": {"__proto__": {"admin": True}}}, True)
@example({'a"b\\': "\x00", "💥": ["\u2028"]}, False)
def test_what_is_taken_is_stored_as_it_was_meant(properties: dict[str, Any], ascii: bool) -> None:
    message = {"userId": "u", "event": "e", "messageId": "m", "properties": properties}
    body = json.dumps(message, ensure_ascii=ascii).encode()
    events, failed = stored(Kind.TRACK, body)
    if len(body) > EVENT_BYTES_MAX:
        assert [row["reason"] for row in failed] == ["event_too_large"]
        return
    assert failed == []
    (event,) = events
    read = json.loads(event["properties"])
    assert read == properties
    assert repr(read) == repr(json.loads(json.dumps(properties)))  # 1 is not 1.0, and the order stays


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.binary(max_size=80), st.sampled_from((b"", b"gzip", b"br")), st.booleans())
def test_nonsense_is_refused_in_words(kind: Kind, body: bytes, encoding: bytes, packed: bool) -> None:
    refused_or_whole(kind, gzip.compress(body, 1) if packed else body, encoding)


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    OBJECTS,
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 6)), max_size=4),
)
def test_damaged_json_is_refused_in_words(
    kind: Kind, value: dict[str, Any], damages: list[tuple[int, bytes, int]]
) -> None:
    body = json.dumps({"userId": "u", "event": "e", "batch": [value, value], "traits": value}).encode()
    for at, put, gone in damages:
        body = body[:at] + put + body[at + gone :]
    refused_or_whole(kind, body, b"")


def refused_or_whole(kind: Kind, body: bytes, encoding: bytes) -> None:
    refusal = refusal_of(kind, body, encoding)
    if refusal is not None:
        assert refusal.status in (400, 415)
        assert refusal.reason.replace("_", "").isalnum()
        # What was sent is not repeated: it may be personal, or written to look like something of ours.
        assert str(refusal).isprintable()


def refusal_of(kind: Kind, body: bytes, encoding: bytes = b"") -> Refused | None:
    """Return why collect refuses a body; None where it takes it, and landing reads it whole."""
    try:
        stored(kind, body, encoding)
    except Refused as refusal:
        return refusal
    return None


@pytest.mark.parametrize("opening", ['{"a":', "["])
@pytest.mark.parametrize("levels", [EVENT_DEPTH_MAX + 1, 1_000, 20_000])
def test_depth_harms_nobody_else(opening: str, levels: int) -> None:
    closing = "}" if opening.startswith("{") else "]"
    deep = opening * levels + "1" + closing * levels
    good = '{"type":"track","userId":"u","event":"e"}'
    bad = f'{{"type":"track","userId":"u","event":"e","properties":{{"x":{deep}}}}}'
    body = f'{{"batch":[{good},{bad},{good}]}}'.encode()
    refusal = refusal_of(Kind.BATCH, body)
    if refusal is not None:
        assert refusal.reason == "nested_too_deeply"
        return
    events, failed = stored(Kind.BATCH, body)
    assert len(events) == 2
    assert [row["reason"] for row in failed] == (
        ["event_too_large"] if len(bad) > EVENT_BYTES_MAX else ["nested_too_deeply"]
    )


def test_ten_thousand_keys_harm_nobody_else() -> None:
    good = {"type": "track", "userId": "u", "event": "e"}
    many = good | {"properties": {f"{number}": 1 for number in range(10_000)}}
    fits = good | {"properties": {f"{number}": 1 for number in range(3_000)}}
    events, failed = stored(
        Kind.BATCH, json.dumps({"batch": [good, many, fits, good]}, separators=(",", ":")).encode()
    )
    assert [row["reason"] for row in failed] == ["event_too_large"]
    assert len(events) == 3
    assert json.loads(events[1]["properties"]) == fits["properties"]
