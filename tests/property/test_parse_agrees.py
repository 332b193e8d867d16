"""The compiled scan and the reference read every record alike, and nothing a sender writes raises."""

import gzip
import json
import random
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from log_records import RECEIVED_AT, by_landing, by_reference, record
from profilelake.eventlog import Flags, Kind, Record
from profilelake.semantics.events import Lines, event_lines
from profilelake.semantics.rules import segment_defaults

RULES = segment_defaults(custom=("app_id", "email"))
SEEDS: Final = st.integers(0, 2**32 - 1)
NASTY: Final = st.sampled_from((0.0, 0.01, 0.05, 0.3))
"""How likely each value is one that clients should not send."""

TYPES = ("identify", "track", "page", "screen", "group", "alias")
TIMES = (
    "2026-03-01T10:00:00Z", "2026-03-01T11:00:00.5+01:00", "2026-03-01 10:00:00", "2026-03-01T10:00:00.1234567Z",
    "2026-02-28T23:59:59-11:30", "2000-02-29T00:00:00", "1969-12-31T23:59:59.999999Z", "9998-12-31T23:59:59Z",
    "0002-01-01T00:00:00Z", "",
)  # fmt: skip
IDS = ("u", "a", "a", "u-1", "", " x ", 'q"\\\n', "\x00", "é", "😀", "/")
EMAILS = ("ana@example.org", " ANA@Example.org\t", "b@x", "", "  ", "7")
KEYS = ("a", "b", "A", "", "email", "name", "userId", "category", "é", 'k"', "__proto__", "appId", "traits")
NUMBERS = ("0", "-0", "42", "1.50", "1e5", "1E-7", "9" * 30)
ODD_TEXTS = (
    "\ud83d",
    "é@x",
    "JOSÉ@X",
    "x" * 33_000,
    "2026-02-30T00:00:00Z",
    "2026-03-01",
    "2026-03-01T10:00:00 UTC",
)
ODD_TOKENS = (
    "1e999",
    "9" * 330,
    "NaN",
    "-Infinity",
    "true",
    "5",
    "[1]",
    "[]",
    "{}",
    '"x"',
    "null",
    "[" * 120 + "]" * 120,
)
BROKEN_TOKENS = ("007", "1.", "nul", "", '"', "{", "]", '"\\x"', '"\x01"', "'a'")
ODD_LINES = (
    b"{", b"}", b'"userId": "u",', b"not json", b"\xff\xfe", b'{"type":"page","userId":"\xff"}', b"[]", b"7", b'"x"',
    b'\xef\xbb\xbf{"type":"page","userId":"u"}', b"x" * 33_000, b"\xff" * 33_000, b'{"type":"page","userId":"u"}{}',
    b'{"type":"page","userId":"u"},', b"\0", b"\x0b", b"null",
)  # fmt: skip
EVENT_KINDS: Final = tuple(kind for kind in Kind if kind is not Kind.FACT)
_ONE_LINE: Final = str.maketrans("\n\r", "\t ")


class Raw(str):
    """JSON text that is written as it is."""


class Writer:
    """Makes up one request body after another; the spelling is left to chance."""

    def __init__(self, seed: int, nasty: float) -> None:
        self.rng = random.Random(seed)
        self.nasty = nasty

    def record(self) -> tuple[Record, bytes]:
        """Return a record as the log holds it, and its body unpacked."""
        kind = self.rng.choice((Kind.BATCH, Kind.LINES, *EVENT_KINDS))
        if kind is Kind.LINES:
            return self.lines()
        if kind is Kind.BATCH:
            items = [self.event() for _ in range(self.rng.randrange(5))]
            parts = {"batch": lambda: items, "sentAt": self.time, "integrations": self.traits}
            value, count = self.members(parts | {"context": self.plain_context}, sure=("batch",)), len(items)
        else:
            value, count = self.event(), 1
        body = self.render(value).encode()
        packed = self.rng.random() < 0.5
        flags = self.rng.choice((Flags.NONE, Flags.BROWSER)) | (Flags.GZIP if packed else Flags.NONE)
        made = record(
            gzip.compress(body, 1) if packed else body,
            kind=kind,
            events=max(0, count + (self.rng.choice((1, -1)) if self.odd() else 0)),
            flags=flags,
            ip=self.rng.choice(("", "203.0.113.9", 'a"b')),
            sent_at=self.rng.choice(("", "2026-03-01T10:00:01Z", "x")),
        )
        return made, body

    def lines(self) -> tuple[Record, bytes]:
        """Return a record of an import, and its body unpacked."""
        events = [self.line() for _ in range(self.rng.randrange(6))]
        blank = [self.rng.choice((b"", b" \t", b"\r")) for _ in range(self.rng.randrange(3))]
        lines = [*events, *blank]
        self.rng.shuffle(lines)
        body = self.rng.choice((b"\n", b"\r\n")).join(lines)
        body += self.rng.choice((b"", b"\n"))
        packed = self.rng.random() < 0.5
        name = Lines("ab" * 16, self.rng.choice((None, "page", "identify"))).encode()
        made = record(
            pa.compress(body, "zstd", asbytes=True) if packed else body,
            kind=Kind.LINES,
            events=max(0, len(events) + (self.rng.choice((1, -1)) if self.odd() else 0)),
            flags=Flags.ZSTD if packed else Flags.NONE,
            ip=name,
            sent_at=self.rng.choice(("", "2026-03-01T10:00:01Z")),
        )
        return made, body

    def line(self) -> bytes:
        """Return one line that is an event, or something that is none."""
        if self.odd():
            return self.rng.choice(ODD_LINES)
        text = self.render(self.event()).translate(_ONE_LINE).encode()
        return self.rng.choice((b"", b" ", b"\t")) + text

    def event(self) -> Any:
        kind = self.rng.choice(TYPES)
        parts: dict[str, Callable[[], Any]] = {
            "type": lambda: kind, "userId": self.id, "anonymousId": self.id, "groupId": self.id,
            "previousId": self.id, "event": self.id, "name": self.id, "messageId": self.id,
            "timestamp": self.time, "originalTimestamp": self.time, "sentAt": self.time, "category": self.scalar,
            "receivedAt": self.time,
            "traits": self.traits, "properties": self.traits, "integrations": self.traits, "context": self.context,
        }  # fmt: skip
        needed = {"track": "event", "group": "groupId", "alias": "previousId"}.get(kind, "type")
        return self.members(parts, sure=("type", needed, "userId"))

    def context(self) -> Any:
        device = {
            "type": lambda: self.rng.choice(("ios", "android", "tv")), "id": self.id, "token": self.id,
            "advertisingId": self.id, "adTrackingEnabled": lambda: Raw(self.rng.choice(("true", "false"))),
        }  # fmt: skip
        parts = {
            "traits": self.traits,
            "device": lambda: self.members(device),
            "externalIds": lambda: [self.external() for _ in range(self.rng.randrange(4))],
            "library": lambda: self.members({"name": self.id}),
            "consent": self.traits,
            "integrations": lambda: self.members(
                {"Google Analytics": lambda: self.members({"clientId": self.id})}
            ),
            "direct": lambda: Raw(self.rng.choice(("true", "false"))),
            "ip": self.id,
        }
        return self.members(parts)

    def plain_context(self) -> Any:
        return self.members({"library": lambda: self.members({"name": self.id}), "os": self.anything})

    def traits(self) -> Any:
        email: Callable[[], Any] = lambda: self.rng.choice(EMAILS)  # noqa: E731 - reads as data
        return self.members({"email": email, "appId": self.id, "app_id": self.id, "list": self.anything})

    def external(self) -> Any:
        parts = {
            "id": self.id,
            "type": lambda: self.rng.choice(("phone", "email", "crm", "user_id", "")),
            "collection": lambda: self.rng.choice(("users", "accounts")),
            "encoding": lambda: "none",
        }
        return self.members(parts, sure=tuple(parts) if self.rng.random() < 0.8 else ())

    def members(self, parts: dict[str, Callable[[], Any]], *, sure: tuple[str, ...] = ()) -> Any:
        """Return an object with some of its parts and a few other members, as pairs: keys may repeat."""
        found = [(key, part()) for key, part in parts.items() if key in sure or self.rng.random() < 0.4]
        taken = {key for key, _ in found} | parts.keys()
        for _ in range(self.rng.randrange(3)):
            key = self.rng.choice(KEYS)
            if key not in taken or self.odd():
                found.append((key, self.anything()))
                taken.add(key)
        self.rng.shuffle(found)
        return {"members": [(key, self.odd_value() if self.odd() else value) for key, value in found]}

    def anything(self) -> Any:
        choice = self.rng.random()
        if choice < 0.7:
            return self.scalar()
        if choice < 0.85:
            return [self.anything() for _ in range(self.rng.randrange(3))]
        return self.members({})

    def scalar(self) -> Any:
        return self.rng.choice((self.id(), Raw(self.rng.choice((*NUMBERS, "true", "false", "null")))))

    def id(self) -> Any:
        return Raw(self.rng.choice((*NUMBERS, "null"))) if self.rng.random() < 0.2 else self.rng.choice(IDS)

    def time(self) -> Any:
        return self.rng.choice(TIMES)

    def odd(self) -> bool:
        return self.rng.random() < self.nasty

    def odd_value(self) -> Any:
        if self.rng.random() < 0.1:
            return Raw(self.rng.choice(BROKEN_TOKENS))
        return self.rng.choice(
            (self.rng.choice(ODD_TEXTS), Raw(self.rng.choice(ODD_TOKENS)), self.anything())
        )

    def render(self, value: Any) -> str:
        if isinstance(value, Raw):
            return str(value)
        if isinstance(value, str):
            return self.string(value)
        space = self.rng.choice(("", "", "", " ", "\n", "\t \r\n"))
        if isinstance(value, list):
            return "[" + space + f"{space},".join(map(self.render, value)) + space + "]"
        members = (f"{self.string(key)}{space}:{space}{self.render(item)}" for key, item in value["members"])
        return "{" + space + f",{space}".join(members) + space + "}"

    def string(self, text: str) -> str:
        halves = any("\ud800" <= letter <= "\udfff" for letter in text)
        written = json.dumps(text, ensure_ascii=halves or self.rng.random() < 0.5)
        return written.replace("/", "\\/") if self.rng.random() < 0.5 else written


@settings(max_examples=250)
@given(SEEDS, NASTY)
def test_scan_and_reference_agree(seed: int, nasty: float) -> None:
    writer = Writer(seed, nasty)
    made = [writer.record() for _ in range(6)]
    packed = [item._replace(offset=at, received_at=RECEIVED_AT + at) for at, (item, _) in enumerate(made)]
    events, failed = by_reference(
        [item._replace(body=body) for item, (_, body) in zip(packed, made, strict=True)], RULES
    )
    landed_events, landed_failed, _ = by_landing(packed, RULES)
    assert landed_events == events
    # The raw bytes of an undecodable record are those the log holds, packed or not.
    assert [_unpacked(row) for row in landed_failed] == failed
    assert len(events) + len(failed) == sum(item.events for item in packed)
    for row in events:
        for part in ("context", "properties", "traits", "integrations", "consent"):
            if row[part] is not None:
                assert isinstance(json.loads(row[part], parse_constant=_no_constant), dict)


@settings(max_examples=60)
@given(SEEDS)
def test_clean_records_need_no_reference(seed: int) -> None:
    writer = Writer(seed, 0.0)
    _, _, parsed = by_landing([writer.record()[0] for _ in range(5)], RULES)
    # An address that must be put in the place of an empty one is the only unusual thing here.
    assert parsed.exact <= 3


@settings(max_examples=150)
@given(st.binary(max_size=60), SEEDS, st.integers(0, 400), st.sampled_from((Flags.NONE, Flags.GZIP)))
@example(b"", 0, 3, Flags.NONE)
def test_garbage_becomes_rows(garbage: bytes, seed: int, cut: int, flags: Flags) -> None:
    item, body = Writer(seed, 0.0).record()
    spoilt = [
        item._replace(body=garbage, flags=flags),
        item._replace(body=item.body[:cut] + garbage + item.body[cut + 1 :]),
        item._replace(body=body[:cut] + garbage + body[cut + 1 :], flags=Flags.TOLERANT),
        item._replace(kind=Kind.LINES, ip="x"),
        item,
    ]
    events, failed, _ = by_landing(spoilt, RULES)
    assert len(events) + len(failed) == 5 * item.events
    alone_events, alone_failed, _ = by_landing([item], RULES)
    assert events[len(events) - len(alone_events) :] == alone_events
    assert failed[len(failed) - len(alone_failed) :] == alone_failed


def _unpacked(row: dict[str, Any]) -> dict[str, Any]:
    raw = row["raw"]
    if raw.startswith(b"\x28\xb5\x2f\xfd"):
        raw = pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read()
    return row | {"raw": gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw}


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@settings(max_examples=150)
@given(SEEDS, NASTY)
def test_lines_of_an_import_agree(seed: int, nasty: float) -> None:
    writer = Writer(seed, nasty)
    made = [writer.lines() if place % 2 else writer.record() for place in range(5)]
    packed = [item._replace(offset=at, received_at=RECEIVED_AT + at) for at, (item, _) in enumerate(made)]
    plain = [item._replace(body=body) for item, (_, body) in zip(packed, made, strict=True)]
    events, failed = by_reference(plain, RULES)
    landed_events, landed_failed, _ = by_landing(packed, RULES)
    assert landed_events == events
    assert [_unpacked(row) for row in landed_failed] == failed


@settings(max_examples=60)
@given(SEEDS, st.lists(st.sampled_from(ODD_LINES), min_size=1, max_size=3))
def test_a_bad_line_fails_alone(seed: int, bad: list[bytes]) -> None:
    writer = Writer(seed, 0.0)
    good = [writer.line() for _ in range(4)]
    alone_events, alone_failed, alone = by_landing([lines_record(good)], RULES)
    events, failed, parsed = by_landing([lines_record([*good, *bad])], RULES)
    assert events[: len(alone_events)] == alone_events
    assert failed[: len(alone_failed)] == alone_failed
    assert len(events) + len(failed) == len(good) + len(event_lines(b"\n".join(bad)))
    assert parsed.exact <= len(bad) + alone.exact
    raw = {row["raw"] for row in failed}
    assert {line for line in bad if line in (b"not json", b"\xff\xfe", b"{")} <= raw


@settings(max_examples=60)
@given(st.lists(st.sampled_from((b"{}", b" ", b"\t", b"\r", b"\n", b"\r\n", b"7")), max_size=12))
def test_both_count_lines_alike(parts: list[bytes]) -> None:
    body = b"".join(parts)
    item = record(body, kind=Kind.LINES, events=len(event_lines(body)), ip="n:")
    events, failed, _ = by_landing([item], RULES)
    assert not events
    assert len(failed) == item.events
    assert all(row["reason"] != "undecodable_record" for row in failed)


def lines_record(lines: list[bytes]) -> Record:
    body = b"\n".join(lines)
    return record(body, kind=Kind.LINES, events=len(event_lines(body)), ip=Lines("n").encode())
