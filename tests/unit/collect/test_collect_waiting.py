"""Waiting for a log that is late, on the real event loop with short limits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from profilelake.collect.limits import CollectLimits
from profilelake.collect.tracking import Tracking
from profilelake.collect.waiting import Overdue, Waits
from profilelake.errors import Unavailable
from profilelake.eventlog import Entry
from profilelake.ops.http import Message, run
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.keyring import KeyRing

SOON = 0.05
LONG = 60.0


class Uncancellable(asyncio.Future[int]):
    """As the log gives it: many wait for one, and none of them may end it for the rest."""

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002
        return False


def running(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def runs() -> None:
        async def main() -> None:
            await test()

        run(main())

    runs.__name__ = test.__name__
    return runs


@running
async def test_what_is_durable_in_time_is_that() -> None:
    durable = Uncancellable()
    waits = Waits(LONG)
    waiting = [asyncio.ensure_future(_outcome(waits, durable)) for _ in range(3)]
    await asyncio.sleep(0)
    durable.set_result(1)
    assert await asyncio.gather(*waiting) == [None, None, None]
    assert await _outcome(waits, durable) is None


@running
async def test_a_refusal_of_the_log_is_told_to_all() -> None:
    durable = Uncancellable()
    waits = Waits(LONG)
    waiting = [asyncio.ensure_future(_outcome(waits, durable)) for _ in range(3)]
    await asyncio.sleep(0)
    durable.set_exception(Unavailable("no"))
    assert await asyncio.gather(*waiting) == [Unavailable] * 3


@running
async def test_at_the_limit_everybody_is_let_go_and_what_comes_later_harms_nobody() -> None:
    durable = Uncancellable()
    waits = Waits(SOON)
    assert await asyncio.gather(*[_outcome(waits, durable) for _ in range(3)]) == [Overdue] * 3
    durable.set_exception(Unavailable("late"))
    await asyncio.sleep(0)
    assert await _outcome(Waits(SOON), durable) is Unavailable


@running
async def test_who_joins_later_has_its_own_limit() -> None:
    durable = Uncancellable()
    waits = Waits(SOON)
    assert await _outcome(waits, durable) is Overdue
    late = asyncio.ensure_future(_outcome(waits, durable))
    await asyncio.sleep(SOON / 10)
    durable.set_result(1)
    assert await late is None


@running
async def test_requests_of_one_moment_share_a_timer() -> None:
    durable = Uncancellable()
    waits = Waits(LONG)
    first = waits.within_limit(durable)
    assert all(waits.within_limit(durable) is first for _ in range(100))
    durable.set_result(1)
    await first


@running
async def test_who_hangs_up_does_not_end_it_for_the_others() -> None:
    durable = Uncancellable()
    waits = Waits(SOON * 4)
    one, other = (asyncio.ensure_future(_outcome(waits, durable)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    durable.set_result(1)
    assert await other is None
    with pytest.raises(asyncio.CancelledError):
        await one


@running
async def test_a_log_that_lets_go_is_no_success() -> None:
    durable: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waits = Waits(LONG)
    waiting = asyncio.ensure_future(_outcome(waits, durable))
    await asyncio.sleep(0)
    durable.cancel()
    assert await waiting is Unavailable


class SlowLog:
    """Takes everything and answers when told."""

    trouble: str | None = None

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.durable = Uncancellable()

    def append(self, entry: Entry) -> asyncio.Future[Any]:
        self.entries.append(entry)
        return self.durable


def test_a_slow_log_gets_503_and_its_lateness_is_no_fault(tmp_path: Any) -> None:
    with Control.open(tmp_path / CONTROL_FILE, bytes) as control:
        control.ensure_default(now=1, write_key="wk", read_token="r", admin_token="a")

    async def main() -> None:
        log = SlowLog()
        registry = CollectorRegistry()
        keys = KeyRing(tmp_path / CONTROL_FILE)
        app = Tracking(log, keys, CollectLimits(answer_seconds_max=SOON), registry)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b'{"writeKey":"wk","messageId":"m"}'}

        scope = {"type": "http", "path": "/v1/track", "method": "POST", "headers": [], "client": None}
        await asyncio.gather(*[app(dict(scope), receive, send) for _ in range(5)])
        starts = [message for message in sent if message["type"] == "http.response.start"]
        assert [start["status"] for start in starts] == [503] * 5
        assert all(int(dict(start["headers"])[b"retry-after"]) >= 1 for start in starts)
        assert len(log.entries) == 5
        log.durable.set_result(1)
        await asyncio.sleep(0)
        reason = {"reason": "not_durable_in_time"}
        assert registry.get_sample_value("profilelake_collect_refused_total", reason) == 5
        keys.close()

    run(main())


async def _outcome(waits: Waits, durable: asyncio.Future[Any]) -> type[BaseException] | None:
    try:
        await waits.within_limit(durable)
    except (Overdue, Unavailable) as error:
        return type(error)
    return None
