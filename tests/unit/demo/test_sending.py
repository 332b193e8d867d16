"""The real client, paced and counted, against a recording server."""

import base64
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from profilelake.demo import sending
from profilelake.demo.sending import Sent, send
from profilelake.demo.shop import shop_calls
from profilelake.demo.truth import Truth
from profilelake.errors import Unavailable
from unit.demo.recording import Recorder

ENDS_AT = datetime(2026, 3, 1, tzinfo=UTC)


def nothing(answered: int = 0) -> None:
    pass


def send_shop(recorder: Recorder, events: int, *, progress: Callable[[int], None] = nothing) -> Sent:
    calls = shop_calls(1, events, ENDS_AT, Truth())
    return send(calls, host=recorder.url, write_key="wk_test", progress=progress, check_server=nothing)


def test_every_call_arrives_once_and_in_order(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    # A queue far smaller than the data: without pacing, the client would drop most of it.
    monkeypatch.setattr(sending, "QUEUE_CALLS_LIMIT", 150)
    monkeypatch.setattr(sending, "QUEUE_CALLS_MAX", 120)
    answered: list[int] = []
    sent = send_shop(recorder, 700, progress=answered.append)
    ids = [event["messageId"] for event in recorder.events]
    assert ids == [f"shop-1-700-{number:07d}" for number in range(700)]
    assert (sent.calls, sent.failed, sent.delivered) == (700, 0, 700)
    assert answered[-1] == 700
    assert answered == sorted(answered)
    assert recorder.authorizations == {"Basic " + base64.b64encode(b"wk_test:").decode()}


def test_a_server_that_asks_for_patience_loses_nothing(recorder: Recorder) -> None:
    recorder.answers = [(429, {"Retry-After": "1"})]
    sent = send_shop(recorder, 250)
    assert (sent.delivered, sent.failed) == (250, 0)
    assert len({event["messageId"] for event in recorder.events}) == 250


def test_a_refused_batch_is_counted_and_its_reason_kept(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.answers = [(400, {})]
    with caplog.at_level(logging.CRITICAL, logger="segment"):
        sent = send_shop(recorder, 250)
    assert sent.failed == len(recorder.batches[0])
    assert sent.delivered == 250 - sent.failed == len(recorder.events)
    assert sent.errors == ["[Segment] refused: by the test (400)"]


def test_stops_when_the_server_is_gone(recorder: Recorder) -> None:
    def gone() -> None:
        raise Unavailable("the server ended")

    with pytest.raises(Unavailable, match="the server ended"):
        send(
            shop_calls(1, 300, ENDS_AT, Truth()),
            host=recorder.url,
            write_key="wk_test",
            progress=nothing,
            check_server=gone,
        )
