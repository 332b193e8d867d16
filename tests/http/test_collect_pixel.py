"""Pixels: the image always comes, and the event is stored where there is one."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from profilelake.collect.limits import CollectLimits
from profilelake.eventlog import Flags, Kind, Record
from tracking_server import WRITE_KEY, FailingDisk, TrackingServer, head

PATHS = {f"/v1/pixel/{kind.name.lower()}": kind for kind in Kind if Kind.BATCH < kind < Kind.LINES}
PATHS |= {"/pixel/v1/track": Kind.TRACK, "/pixel/v1/page": Kind.PAGE}
OPENED = {"userId": "u-1", "event": "Email Opened", "properties": {"subject": "Grüße >>> ???"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("pixel")) as running:
        yield running


def show(server: TrackingServer, path: str, query: str) -> None:
    """Look at a pixel, which must come whatever the query is."""
    answer = server.send(f"{path}?{query}", b"", key=None, method="GET")
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/gif"
    assert answer.headers["cache-control"] == "no-store"
    width, height = struct.unpack_from("<HH", answer.body, 6)
    assert (answer.body[:6], width, height, answer.body[-1:]) == (b"GIF89a", 1, 1, b";")
    control = answer.body.index(b"\x21\xf9\x04")
    assert answer.body[control + 3] & 1, "it is not transparent"
    # Codes of three bits: start, the first colour, end.
    assert answer.body[-6:-1] == b"\x02\x02" + (0b101_000_100).to_bytes(2, "little") + b"\0"


def stored(server: TrackingServer, path: str, query: str) -> Record:
    """Look at a pixel, and return what it left in the log."""
    before = len(server.records())
    show(server, path, query)
    records = server.records()
    assert len(records) == before + 1
    return records[-1]


def refused(server: TrackingServer, query: str, reason: str) -> None:
    before = server.count("profilelake_collect_refused_total", reason=reason), len(server.records())
    show(server, "/v1/pixel/track", query)
    after = server.count("profilelake_collect_refused_total", reason=reason), len(server.records())
    assert after == (before[0] + 1, before[1])
    assert server.count("profilelake_collect_lost_pixels_total") == 0


def data(message: object) -> str:
    return base64.b64encode(json.dumps(message, ensure_ascii=False).encode()).decode()


@pytest.mark.parametrize("path", [*PATHS, "/v1/pixel/track/"])
def test_every_pixel_stores_its_kind(server: TrackingServer, path: str) -> None:
    record = stored(server, path, f"data={quote(data(OPENED))}&writeKey={WRITE_KEY}")
    assert (record.kind, record.events) == (PATHS[path.rstrip("/")], 1)
    assert (record.workspace, record.source_id) == ("default", "default")
    assert json.loads(record.body) == OPENED


def test_the_address_is_taken_as_that_of_a_page(server: TrackingServer) -> None:
    record = stored(server, "/v1/pixel/track", f"userId=u&event=e&writeKey={WRITE_KEY}")
    assert (record.flags, record.ip) == (Flags.BROWSER, "127.0.0.1")


def test_a_trusted_proxy_says_the_address(tmp_path: Path) -> None:
    with TrackingServer(tmp_path, limits=CollectLimits(trusted_proxies=("127.0.0.0/8",))) as server:
        server.send(
            f"/v1/pixel/track?userId=u&event=e&writeKey={WRITE_KEY}",
            b"",
            {"X-Forwarded-For": "203.0.113.9"},
            key=None,
            method="GET",
        )
        [record] = server.records()
    assert (record.flags, record.ip) == (Flags.BROWSER, "203.0.113.9")


class TestData:
    def test_either_alphabet_with_or_without_padding_escaped_or_not(self, server: TrackingServer) -> None:
        text = data(OPENED | {"writeKey": WRITE_KEY})
        assert "+" in text or "/" in text
        url_safe = text.replace("+", "-").replace("/", "_")
        for spelling in (
            quote(text, safe=""),
            text,  # a plus in a query is a space
            text.rstrip("="),
            url_safe,
            url_safe.rstrip("="),
            quote(base64.encodebytes(base64.b64decode(text)).decode(), safe=""),
        ):
            record = stored(server, "/v1/pixel/track", f"data={spelling}")
            assert json.loads(record.body) == OPENED | {"writeKey": WRITE_KEY}

    def test_the_key_of_the_query_wins(self, server: TrackingServer) -> None:
        inside = data(OPENED | {"writeKey": "nobody"})
        stored(server, "/v1/pixel/track", f"data={quote(inside)}&writeKey={WRITE_KEY}")

    def test_json_that_only_the_tolerant_parser_takes(self, server: TrackingServer) -> None:
        body = b'{"userId":"u","event":"e","properties":{"n":NaN,"s":"\\ud83d"}}'
        text = base64.b64encode(body).decode()
        record = stored(server, "/v1/pixel/track", f"data={quote(text)}&writeKey={WRITE_KEY}")
        assert (record.body, record.flags) == (body, Flags.BROWSER | Flags.TOLERANT)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("!!!!", "invalid_base64"),
            ("abcde", "invalid_base64"),
            ("%F0%9F%98%80", "invalid_base64"),
            ("====", "empty_body"),
            (data([1]), "wrong_shape"),
            (data("x"), "wrong_shape"),
            (base64.b64encode(b"{").decode(), "malformed_json"),
            (base64.b64encode(b'{"a":"\xff"}').decode(), "invalid_utf8"),
        ],
    )
    def test_what_is_broken_is_counted(self, server: TrackingServer, text: str, reason: str) -> None:
        refused(server, f"data={text}&writeKey={WRITE_KEY}", reason)


class TestFields:
    def body(self, server: TrackingServer, query: str) -> Any:
        return json.loads(stored(server, "/v1/pixel/track", f"{query}&writeKey={WRITE_KEY}").body)

    def test_dots_nest_and_values_are_text(self, server: TrackingServer) -> None:
        fields = {
            "userId": "u-1",
            "event": "Email Opened",
            "properties.subject": "50% off & more + “Grüße”",
            "properties.revenue": "42.50",
            "properties.deep.er": "",
            "context.campaign.name": "spring",
            "messageId": "m-1",
        }
        assert self.body(server, urlencode(fields)) == {
            "userId": "u-1",
            "event": "Email Opened",
            "properties": {
                "subject": "50% off & more + “Grüße”",
                "revenue": "42.50",
                "deep": {"er": ""},
            },
            "context": {"campaign": {"name": "spring"}},
            "messageId": "m-1",
        }

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("a=1&a=2", {"a": "2"}),
            ("a=1&a.b=2", {"a": {"b": "2"}}),
            ("a.b=2&a=1", {"a": "1"}),
            ("a.b=1&a.c=2&a.b.d=3", {"a": {"b": {"d": "3"}, "c": "2"}}),
            ("a..b=1&.c=2&d.=3&.=4", {"a..b": "1", ".c": "2", "d.": "3", ".": "4"}),
            ("__proto__.x=1&%00=2&a%22%7D=3", {"__proto__": {"x": "1"}, "\0": "2", 'a"}': "3"}),
            ("a=%ff%c3%28&b=%F0%9F%98%80", {"a": "\ufffd\ufffd(", "b": "😀"}),
            ("a=%ed%a0%80", {"a": "\ufffd\ufffd\ufffd"}),
            ("data=&a=1", {"a": "1"}),
            ("a", {"a": ""}),
            ("", {}),
        ],
    )
    def test_odd_fields(self, server: TrackingServer, query: str, message: object) -> None:
        assert self.body(server, query) == message

    def test_no_name_nests_too_deeply_and_no_query_has_too_many(self, server: TrackingServer) -> None:
        key = f"&writeKey={WRITE_KEY}"
        assert self.body(server, ".".join("a" * 20) + "=1")
        refused(server, ".".join("a" * 21) + "=1" + key, "nested_too_deeply")
        refused(server, ".".join("a" * 10_000) + "=1" + key, "nested_too_deeply")
        refused(server, "&".join("a" * 1_000) + key, "too_many_fields")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("userId=u", "missing_write_key"),
        ("writeKey=", "missing_write_key"),
        ("writeKey=x", "unknown_write_key"),
    ],
)
def test_nobodys_pixel_is_counted(server: TrackingServer, query: str, reason: str) -> None:
    refused(server, query, reason)


def test_a_look_by_head_is_no_event(server: TrackingServer) -> None:
    before = len(server.records())
    answer = head(server, f"/v1/pixel/track?userId=u&event=e&writeKey={WRITE_KEY}")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(server.records()) == before
    assert server.send("/v1/pixel/track", b"{}").headers["allow"] == "GET, HEAD, OPTIONS"


def test_what_our_own_fault_loses_is_counted_and_logged_without_a_flood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FailingDisk()
    seconds = 0.0
    query = f"userId=u&event=e&writeKey={WRITE_KEY}"
    caplog.set_level("ERROR", "profilelake.collect")
    with TrackingServer(tmp_path, files=disk, monotonic=lambda: seconds) as server:
        disk.broken = True
        for _ in range(5):
            show(server, "/v1/pixel/track", query)
        assert server.count("profilelake_collect_lost_pixels_total") == 5
        assert server.count("profilelake_collect_refused_total", reason="log_not_writable") == 5

        def fault(_: str) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(server.keys, "source", fault)
        seconds = 11.0
        show(server, "/v1/pixel/track", query)
        assert server.count("profilelake_collect_lost_pixels_total") == 6
        assert server.count("profilelake_collect_refused_total", reason="internal") == 1
    told = [record for record in caplog.records if record.name == "profilelake.collect.pixel"]
    assert [record.args for record in told] == [(1, "log_not_writable"), (5, "a fault in this program")]
    assert told[1].exc_info is not None


def test_a_source_above_its_limit_loses_its_pixels_and_that_is_not_our_fault(tmp_path: Path) -> None:
    query = f"userId=u&event=e&writeKey={WRITE_KEY}"
    with TrackingServer(tmp_path, monotonic=lambda: 0.0) as server:
        server.control.change_source("default", events_per_second=2)
        for _ in range(5):
            show(server, "/v1/pixel/track", query)
        assert len(server.records()) == 2
        assert server.count("profilelake_collect_over_quota_events_total", source_id="default") == 3
        assert server.count("profilelake_collect_lost_pixels_total") == 0


def test_pixels_of_unknown_keys_may_be_dropped(tmp_path: Path) -> None:
    with TrackingServer(tmp_path, limits=CollectLimits(unknown_key="accept_and_drop")) as server:
        show(server, "/v1/pixel/track", "userId=u&writeKey=nobody")
        assert server.count("profilelake_collect_dropped_events_total") == 1
        assert server.records() == []
