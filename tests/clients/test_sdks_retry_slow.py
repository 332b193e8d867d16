"""Acceptance: whatever happens on the way, every SDK's events are stored exactly once."""

from pathlib import Path

import pytest

from fault_proxy import Fault, fault_proxy
from profilelake.ops import failpoints
from sdks import SDKS, SEND_SECONDS_MAX, Call, Sdk
from served import KEYS, Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

every_sdk = pytest.mark.parametrize("sdk", SDKS, indirect=True)
RETRY_AFTER_SECONDS = 2
COUNT = 3


def _calls(user: str) -> list[Call]:
    return [
        {
            "type": "track",
            "userId": user,
            "anonymousId": user,
            "event": "Counted",
            "properties": {"n": number},
        }
        for number in range(COUNT)
    ]


def _assert_stored_once(served: Served, user: str, ids: set[str]) -> None:
    served.committed()
    rows = served.sql(f"FROM events SELECT message_id, properties->>'n' AS n WHERE anonymous_id = '{user}'")
    assert sorted(row["n"] for row in rows) == [str(number) for number in range(COUNT)]
    assert {row["message_id"] for row in rows} == ids


@every_sdk
def test_after_two_failures(served: Served, sdk: Sdk) -> None:
    user = f"{sdk.name}-500"
    with fault_proxy(served.url, [Fault(500), Fault(500)]) as proxy, sdk.sending(proxy.url) as send:
        send(_calls(user))
        proxy.wait_delivered(COUNT, SEND_SECONDS_MAX)
    for seen in proxy.attempts().values():
        assert [request.status for request in seen] == [500, 500, 200]
    _assert_stored_once(served, user, proxy.delivered)


@every_sdk
def test_when_it_is_told_to_wait(served: Served, sdk: Sdk) -> None:
    user = f"{sdk.name}-429"
    fault = Fault(429, RETRY_AFTER_SECONDS)
    with fault_proxy(served.url, [fault]) as proxy, sdk.sending(proxy.url) as send:
        send(_calls(user))
        proxy.wait_delivered(COUNT, SEND_SECONDS_MAX)
    for refused, stored in proxy.attempts().values():
        assert (refused.status, stored.status) == (429, 200)
        if sdk.waits:
            assert stored.at - refused.at >= RETRY_AFTER_SECONDS
    _assert_stored_once(served, user, proxy.delivered)


@every_sdk
def test_when_the_server_is_killed_before_it_answers(tmp_path: Path, sdk: Sdk) -> None:
    environment = KEYS | {failpoints.VARIABLE: "log.synced"}
    with serving(tmp_path / "data", environment) as served:
        with fault_proxy(served.url) as proxy, sdk.sending(proxy.url, **sdk.patience) as send:
            send(_calls(sdk.name))
            proxy.wait_delivered(COUNT, SEND_SECONDS_MAX)
        killed = [request for request in proxy.seen if request.status is None]
        assert killed
        _assert_stored_once(served, sdk.name, proxy.delivered)
        # What was durable already came again, and was known.
        assert served.committed()["duplicates"] >= 1
