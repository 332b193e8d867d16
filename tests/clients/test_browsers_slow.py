"""Acceptance: what browser SDKs do between our answers and the network, in a real Chromium."""

import base64
import json
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chromium import Page
from fault_proxy import fault_proxy
from profilelake.workspaces.control import CONTROL_FILE, Control
from sdks import SEND_SECONDS_MAX, Call, Fixture, analytics_js, batching, beacon, opened, rudder_js
from served import KEYS, WRITE_KEY, Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SDKS = {"analytics-js": analytics_js, "rudder-js": rudder_js}
both = pytest.mark.parametrize("sdk", SDKS)
WAITING = {"analytics-js": batching(milliseconds=600_000), "rudder-js": beacon(milliseconds=600_000)}
"""Options with which they keep events for longer than a test runs."""
LATER_SECONDS = 600
"""By then every timer of an SDK has run that reports to somebody."""
QUOTA_EVENTS = 6


@pytest.fixture
def fixture(request: pytest.FixtureRequest) -> Fixture:
    found: Fixture = request.getfixturevalue
    return found


def _tracks(prefix: str, count: int = 3) -> list[Call]:
    user = {"anonymousId": prefix}
    return [user | {"type": "track", "event": "Counted", "properties": {"n": n}} for n in range(count)]


def _stored(served: Served, prefix: str) -> list[str]:
    served.committed()
    rows = served.sql(
        f"FROM events SELECT properties->>'n' AS n WHERE anonymous_id = '{prefix}' ORDER BY ALL"
    )
    return [row["n"] for row in rows]


def _origins(page: Page) -> set[str]:
    """Return whom the page has spoken to, or tried to."""
    urls = [urlsplit(request["url"]) for request in page.requests]
    return {f"{url.scheme}://{url.netloc}" for url in urls if url.scheme not in ("data", "blob")}


class TestNobodyElseIsAsked:
    @both
    def test_by_the_sdk_of_a_page(self, served: Served, pages: str, fixture: Fixture, sdk: str) -> None:
        with fault_proxy(served.url) as proxy, SDKS[sdk](fixture, proxy.url) as page:
            calls = _tracks(f"alone-{sdk}")
            page.run("send", calls)
            proxy.wait_delivered(len(calls), SEND_SECONDS_MAX)
            page.forward(LATER_SECONDS)
            assert _origins(page) == {pages, proxy.url}
            assert [
                request for request in page.ended() if request["failure"] or request["status"] >= 400
            ] == []
            assert page.messages == []

    def test_by_the_sdks_we_serve(self, tmp_path: Path, modules: Path, pages: str, fixture: Fixture) -> None:
        bundles = tmp_path / "bundles"
        (bundles / "rudder").mkdir(parents=True)
        rudder = modules / "@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js"
        (bundles / "rudder/rudder-analytics.js").symlink_to(rudder)
        (bundles / "analytics-next").symlink_to(modules / "@segment/analytics-next/dist/umd")
        environment = KEYS | {"PROFILELAKE_HTTP_BROWSER_BUNDLES": str(bundles)}
        with serving(tmp_path / "data", environment) as served:
            for sdk in ("segment", "rudder"):
                with fault_proxy(served.url) as proxy, opened(fixture, "snippet.html") as page:
                    page.run(sdk, {"key": WRITE_KEY, "url": proxy.url, "calls": _tracks(sdk)})
                    proxy.wait_delivered(3, SEND_SECONDS_MAX)
                    page.forward(LATER_SECONDS)
                    assert _origins(page) == {pages, proxy.url}
                    assert page.messages == []
            served.committed()
            counted = served.sql("FROM events SELECT library, count(*) AS count GROUP BY ALL ORDER BY ALL")
            assert [tuple(row.values()) for row in counted] == [
                ("RudderLabs JavaScript SDK", 3),
                ("analytics.js", 3),
            ]

    def test_and_if_it_were_this_would_be_seen(self, fixture: Fixture) -> None:
        with opened(fixture, "analytics_js.html") as page:
            with pytest.raises(AssertionError, match="Failed to fetch"):
                page.run("start", {"key": WRITE_KEY, "settings": {}, "options": {}})
            assert "https://cdn.segment.com" in _origins(page)


@both
def test_what_is_called_offline_is_sent_later(served: Served, fixture: Fixture, sdk: str) -> None:
    user = f"offline-{sdk}"
    with fault_proxy(served.url) as proxy, SDKS[sdk](fixture, proxy.url) as page:
        page.offline(True)
        page.run("send", _tracks(user))
        page.forward(5)
        assert proxy.seen == []
        page.offline(False)
        proxy.wait_delivered(3, SEND_SECONDS_MAX)
    assert _stored(served, user) == ["0", "1", "2"]


@both
def test_what_waits_is_sent_when_the_visitor_leaves(served: Served, fixture: Fixture, sdk: str) -> None:
    user = f"leaving-{sdk}"
    with fault_proxy(served.url) as proxy, SDKS[sdk](fixture, proxy.url, **WAITING[sdk]) as page:
        page.run("send", _tracks(user))
        page.run("queued")
        assert proxy.seen == []
        page.leave()
        proxy.wait_delivered(3, SEND_SECONDS_MAX)
    assert _stored(served, user) == ["0", "1", "2"]


@both
def test_a_quota_delays_and_loses_nothing(served: Served, fixture: Fixture, sdk: str) -> None:
    user = key = f"wk-quota-{sdk}"
    control = Control.open(served.directory / CONTROL_FILE, os.urandom)
    try:
        now = time.time_ns() // 1000
        control.add_source(
            "default", user, name=user, trusted=False, now=now, write_key=key, events_per_second=2
        )
    finally:
        control.close()
    with fault_proxy(served.url) as proxy, SDKS[sdk](fixture, proxy.url, key) as page:
        page.run("send", _tracks(user, QUOTA_EVENTS))
        proxy.wait_delivered(QUOTA_EVENTS, SEND_SECONDS_MAX)
    assert {request.status for request in proxy.seen} == {200, 429}
    assert _stored(served, user) == [str(number) for number in range(QUOTA_EVENTS)]


def test_a_pixel_is_an_image(served: Served, fixture: Fixture) -> None:
    message = {"messageId": "pixel-1", "userId": "pixel", "event": "Opened", "writeKey": WRITE_KEY}
    data = base64.b64encode(json.dumps(message).encode()).decode()
    with opened(fixture, "mail.html") as page:
        assert page.run("show", f"{served.url}/v1/pixel/track?data={data}") == [1, 1]
        assert page.run("show", f"{served.url}/v1/pixel/track?data=%%%") == [1, 1]
    served.committed()
    assert [row["event"] for row in served.sql("FROM events WHERE user_id = 'pixel'")] == ["Opened"]
