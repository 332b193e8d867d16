"""Acceptance: every SDK, unmodified, delivers all it is called with, down to the tables and the profile."""

import json
from typing import Any

import pytest

from fault_proxy import fault_proxy
from sdks import SEND_SECONDS_MAX, TYPES, WAYS, Call, Sdk
from served import READ_TOKEN, WRITE_KEY, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROFILES = "/v1/spaces/default/collections/users/profiles"
PATHS = {
    "analytics-js": {f"/v1/{type[0]}" for type in TYPES},
    "analytics-js-batching": {"/v1/b"},
    "rudder-js": {f"/v1/{type}" for type in TYPES if type != "screen"},
    "rudder-js-beacon": {f"/beacon/v1/batch?writeKey={WRITE_KEY}"},
}
"""Where the SDKs send to that do not send all to `/v1/batch`."""
GZIP = {"segment-python-gzip", "rudder-python", "rudder-node"}


def _calls(id: str) -> list[Call]:
    """Return one call of each type, with the values that are easily lost on the way."""
    who = {"userId": f"{id}-user", "anonymousId": f"{id}-anonymous"}
    return [
        {
            **who,
            "type": "identify",
            "traits": {
                "email": f"{id}-Ana@Example.org",
                "age": 36,
                "vip": False,
                "address": {"city": "Z\u00fcrich", "country": "CH"},
            },
        },
        {
            **who,
            "type": "track",
            "event": "Order Completed",
            "properties": {
                "revenue": 42.5,
                "count": 9_007_199_254_740_991,
                "gift": True,
                "note": "caf\u00e9 \U0001f600 \u2028 \"'\\",
                "half": "cut \ud83d",
                "products": [{"sku": "a", "price": 0.1}, {"sku": "b", "price": 1e-7}],
            },
            "timestamp": "2020-01-02T03:04:05.678Z",
        },
        {
            **who,
            "type": "page",
            "category": "Docs",
            "name": "Pricing",
            "properties": {"url": "https://shop.example.org/pricing?a=b", "title": "Pricing"},
        },
        {**who, "type": "screen", "category": "App", "name": "Basket", "properties": {"items": 3}},
        {**who, "type": "group", "groupId": f"{id}-org", "traits": {"name": "Acme", "employees": 120}},
        {"type": "alias", "userId": f"{id}-user", "previousId": f"{id}-before"},
    ]


@pytest.mark.parametrize("sdk", WAYS, indirect=True)
def test_all_calls_become_rows(served: Served, sdk: Sdk) -> None:
    calls = [call for call in _calls(sdk.name) if call["type"] in sdk.types]
    with fault_proxy(served.url) as proxy, sdk.sending(proxy.url) as send:
        send(calls)
        proxy.wait_delivered(len(calls), SEND_SECONDS_MAX)
    assert {request.path for request in proxy.seen} == PATHS.get(sdk.name, {"/v1/batch"})
    gzip = {request.headers.get("content-encoding") == "gzip" for request in proxy.seen}
    assert gzip == {sdk.name in GZIP}
    served.committed()
    rows = served.sql(f"FROM events WHERE user_id = '{sdk.name}-user'")
    assert sorted(row["type"] for row in rows) == sorted(sdk.types)
    assert {row["message_id"] for row in rows} == proxy.delivered
    assert {row["library"] for row in rows} == {sdk.library}
    by_type = {row["type"]: row for row in rows}
    for call in calls:
        row = by_type[call["type"]]
        columns = ("user_id", "event", "name", "group_id", "previous_id")
        called = ("userId", "event", "name", "groupId", "previousId")
        assert [row[name] for name in columns] == [call.get(name) for name in called]
        if "anonymousId" in call:
            assert row["anonymous_id"] == call["anonymousId"]
        for name in ("traits", "properties"):
            _assert_holds(row[name], call.get(name))
    assert by_type["track"]["original_timestamp"] == "2020-01-02T03:04:05.678000Z"
    assert json.loads(by_type["page"]["properties"])["category"] == "Docs"

    profile = served.get(f"{PROFILES}/anonymous_id:{sdk.name}-anonymous/traits", READ_TOKEN)
    assert profile.json["traits"] == calls[0]["traits"]


def _assert_holds(stored: str | None, called: dict[str, Any] | None) -> None:
    """Check that the stored JSON has every value of the call; SDKs for browsers add some of their own."""
    if called is not None:
        assert stored is not None
        read = json.loads(stored)
        whole = json.loads(json.dumps(called).replace('\\ud83d"', '\\ufffd"'))
        assert {name: read.get(name) for name in whole} == whole
