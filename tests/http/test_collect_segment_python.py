"""The unchanged `segment-analytics-python`: what its callers call arrives, once, whatever happens on the way."""

import datetime
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from segment.analytics import request
from segment.analytics.client import Client

from profilelake.eventlog import Flags, Record
from tracking_server import WRITE_KEY, FailingDisk, TrackingServer

WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def _connections_end() -> Iterator[None]:
    yield
    request._session.close()


def events(records: list[Record]) -> list[dict[str, Any]]:
    bodies = [
        gzip.decompress(record.body) if record.flags & Flags.GZIP else record.body for record in records
    ]
    return [item for body in bodies for item in json.loads(body)["batch"]]


def client(server: TrackingServer, key: str = WRITE_KEY, **options: Any) -> tuple[Client, list[Exception]]:
    errors: list[Exception] = []
    made = Client(
        key, host=server.url, upload_interval=0.05, on_error=lambda error, _: errors.append(error), **options
    )
    return made, errors


@pytest.mark.parametrize("compressed", [False, True])
def test_all_six_calls(tmp_path: Path, compressed: bool) -> None:
    with TrackingServer(tmp_path) as server:
        sender, errors = client(server, gzip=compressed)
        sender.identify(42, {"email": "ana@example.org", "since": WHEN})
        sender.track("u-1", "Order Completed", {"revenue": 42.5, "bad": float("nan")})
        sender.page("u-1", "Docs", "Pricing", {"url": "https://shop.example.org"})
        sender.screen("u-1", "App", "Basket")
        sender.group("u-1", "org-9", {"name": "Acme"})
        sender.alias("a-77", "u-1")
        sender.track(anonymous_id="a-77", event="Signed In", timestamp=WHEN)
        sender.flush()
        sender.join()
        assert errors == []
        records = server.records()
    assert {bool(record.flags & Flags.GZIP) for record in records} == {compressed}
    assert any(record.flags & Flags.TOLERANT for record in records)
    stored = events(records)
    assert [event["type"] for event in stored] == [
        "identify",
        "track",
        "page",
        "screen",
        "group",
        "alias",
        "track",
    ]
    assert stored[0]["userId"] == "42"
    assert stored[0]["traits"]["email"] == "ana@example.org"
    assert stored[4]["groupId"] == "org-9"
    assert stored[5]["previousId"] == "a-77"
    assert stored[6]["timestamp"] == "2020-01-02T03:04:05.000+00:00"
    assert sum(record.events for record in records) == 7


def test_after_a_disk_fault_each_event_is_stored_exactly_once(tmp_path: Path) -> None:
    disk = FailingDisk()
    with TrackingServer(tmp_path, files=disk) as server:
        sender, errors = client(server)
        disk.broken = True
        for number in range(10):
            sender.track("u-1", "Counted", {"number": number})

        def refused() -> float:
            return server.count("profilelake_collect_refused_total", reason="log_not_writable")

        waiting = threading.Event()
        for _ in range(1_000):
            if refused():
                break
            waiting.wait(0.01)
        disk.broken = False
        sender.flush()
        sender.join()
        assert errors == []
        assert refused() >= 1
        stored = events(server.records())
    assert sorted(event["properties"]["number"] for event in stored) == list(range(10))


def test_a_wrong_key_is_told_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "segment")
    with TrackingServer(tmp_path) as server:
        sender, errors = client(server, "wk_wrong")
        sender.track("u-1", "Lost")
        sender.flush()
        sender.join()
        assert len(errors) == 1
        assert "invalid_write_key" in str(errors[0])
        assert "there is no such write key" in str(errors[0])
        assert server.records() == []
