"""What senders get: each endpoint, each way to say who one is, and answers browsers can read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.eventlog import Flags, Kind
from profilelake.ops.http import Receive, Scope, Send
from profilelake.workspaces.keyring import REFRESH_SECONDS
from tracking_server import TRACK, WRITE_KEY, TrackingServer, basic, head

ORIGIN = "https://shop.example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("tracking")) as running:
        yield running


KINDS = {
    "identify": Kind.IDENTIFY,
    "track": Kind.TRACK,
    "page": Kind.PAGE,
    "screen": Kind.SCREEN,
    "group": Kind.GROUP,
    "alias": Kind.ALIAS,
    "i": Kind.IDENTIFY,
    "t": Kind.TRACK,
    "p": Kind.PAGE,
    "s": Kind.SCREEN,
    "g": Kind.GROUP,
    "a": Kind.ALIAS,
    "batch": Kind.BATCH,
    "b": Kind.BATCH,
    "import": Kind.BATCH,
}


def test_every_endpoint_stores_the_body_as_it_came(tmp_path: Path) -> None:
    bodies = []
    with TrackingServer(tmp_path) as server:
        for number, (name, kind) in enumerate(KINDS.items()):
            message = {**TRACK, "number": number}
            body = json.dumps({"batch": [message, message]} if kind is Kind.BATCH else message).encode()
            bodies.append(body)
            answer = server.send(f"/v1/{name}" + "/" * (number % 2), body)
            assert (answer.status, answer.body) == (200, b'{"success": true}')
            assert answer.headers["content-type"] == "application/json"
            assert "server" not in answer.headers
        assert server.count("profilelake_collect_events_total", source_id="default") == 18
        assert server.count("profilelake_collect_requests_total", endpoint="import", status="200") == 1
        records = server.records()
    assert [record.body for record in records] == bodies
    assert [record.kind for record in records] == list(KINDS.values())
    assert [record.events for record in records] == [
        2 if kind is Kind.BATCH else 1 for kind in KINDS.values()
    ]
    assert {(record.workspace, record.source_id, record.ip, record.flags) for record in records} == {
        ("default", "default", "127.0.0.1", Flags.NONE)
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/v1/trackk",
        "/v1/track/x",
        "/v1/track//",
        "/V1/track",
        "/v1/%74rack/x",
        "/beacon",
        "/healthy",
        "/v1/pixel",
        "/v1/pixel/batch",
        "/pixel/v1/identify",
    ],
)
def test_other_paths_are_not_found(server: TrackingServer, path: str) -> None:
    answer = server.send(path, TRACK)
    assert (answer.status, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(server: TrackingServer, method: str) -> None:
    answer = server.send("/v1/track", b"", method=method)
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, OPTIONS"


def test_head_has_an_answer_without_a_body(server: TrackingServer) -> None:
    assert head(server, "/v1/track").startswith(b"HTTP/1.1 405 ")


def test_metrics_of_analytics_js_are_taken_without_a_key(server: TrackingServer) -> None:
    for path in ("/v1/m", "/v1/m/"):
        answer = server.send(path, b'{"series":[]}', {"Content-Type": "text/plain"}, key=None)
        assert (answer.status, answer.json) == (200, {"success": True})
    assert server.send("/v1/m", b"", key=None, method="GET").status == 405
    assert server.count("profilelake_collect_requests_total", endpoint="client_metrics", status="200") == 2


class TestLoadBalancers:
    @pytest.mark.parametrize("path", ["/", "/health", "/health/"])
    def test_they_see_that_it_is_up(self, server: TrackingServer, path: str) -> None:
        answer = server.send(path, b"", key=None, method="GET")
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert answer.headers["cache-control"] == "no-store"
        assert head(server, path).startswith(b"HTTP/1.1 200 ")

    def test_nothing_is_taken_there(self, server: TrackingServer) -> None:
        answer = server.send("/health", TRACK)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")

    def test_paths_of_others_are_handed_on(self, tmp_path: Path) -> None:
        seen = []

        async def otherwise(scope: Scope, _receive: Receive, send: Send) -> None:
            seen.append(scope["path"])
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        with TrackingServer(tmp_path, otherwise=otherwise) as server:
            for path in ("/livez", "/v1/spaces/x", "/v1/project", "/v1/track"):
                server.send(path, TRACK)
        assert seen == ["/livez", "/v1/spaces/x", "/v1/project"]


class TestBeacon:
    """RudderStack's browser SDK sends it while a page closes: text/plain, no header of its own."""

    BODY = json.dumps({"batch": [TRACK, TRACK], "sentAt": "2026-03-01T10:00:05.000Z"}).encode()

    @pytest.mark.parametrize("path", ["/beacon/v1/batch", "/beacon/v1/batch/"])
    def test_the_key_is_in_the_query(self, tmp_path: Path, path: str) -> None:
        with TrackingServer(tmp_path) as server:
            answer = server.send(
                f"{path}?writeKey={WRITE_KEY}",
                self.BODY,
                {"Content-Type": "text/plain;charset=UTF-8", "Origin": ORIGIN},
                key=None,
            )
            assert answer.status == 200
            assert server.count("profilelake_collect_requests_total", endpoint="beacon", status="200") == 1
        [record] = server.records()
        assert (record.kind, record.events, record.flags) == (Kind.BATCH, 2, Flags.BROWSER)
        assert record.body == self.BODY

    def test_an_unknown_or_missing_key_is_refused(self, server: TrackingServer) -> None:
        for query, reason in (("?writeKey=nobody", "unknown_write_key"), ("?writeKey=", "missing_write_key")):
            answer = server.send(f"/beacon/v1/batch{query}", self.BODY, key=None)
            assert (answer.status, answer.json["reason"]) == (401, reason)

    def test_other_endpoints_do_not_look_there(self, server: TrackingServer) -> None:
        answer = server.send(f"/v1/batch?writeKey={WRITE_KEY}", self.BODY, key=None)
        assert answer.json["reason"] == "missing_write_key"


class TestWhoSends:
    def test_basic_with_and_without_colon_padding_and_password(self, server: TrackingServer) -> None:
        for header in (
            basic(WRITE_KEY),
            basic(WRITE_KEY, colon=False),
            basic(WRITE_KEY).rstrip("="),
            basic(f"{WRITE_KEY}:password"),
            basic(WRITE_KEY).replace("Basic", "basic"),
        ):
            assert server.send("/v1/track", TRACK, {"Authorization": header}).status == 200, header

    def test_the_key_may_be_in_the_body_or_in_its_first_item(self, server: TrackingServer) -> None:
        keyed = {**TRACK, "writeKey": WRITE_KEY}
        assert server.send("/v1/t", keyed, key=None).status == 200
        assert server.send("/v1/b", {"batch": [TRACK], "writeKey": WRITE_KEY}, key=None).status == 200
        assert server.send("/v1/b", {"batch": [keyed, TRACK]}, key=None).status == 200
        assert (
            server.send(
                "/v1/b", b'{"batch":[{"writeKey":"%s","n":NaN}]}' % WRITE_KEY.encode(), key=None
            ).status
            == 200
        )

    @pytest.mark.parametrize(
        "header", ["Bearer abc", "Basic", "Basic ", "Basic !!!", "Basic Og==", "Basic /w==", "x"]
    )
    def test_a_header_without_a_key_leaves_it_to_the_body(self, server: TrackingServer, header: str) -> None:
        assert server.send("/v1/t", {**TRACK, "writeKey": WRITE_KEY}, {"Authorization": header}).status == 200
        answer = server.send("/v1/t", TRACK, {"Authorization": header})
        assert (answer.status, answer.json["reason"]) == (401, "missing_write_key")

    def test_the_header_wins(self, server: TrackingServer) -> None:
        assert server.send("/v1/t", {**TRACK, "writeKey": "unknown"}).status == 200
        answer = server.send("/v1/t", {**TRACK, "writeKey": WRITE_KEY}, key="unknown")
        assert (answer.status, answer.json["reason"]) == (401, "unknown_write_key")

    @pytest.mark.parametrize(
        "body", [TRACK, {**TRACK, "writeKey": ""}, {**TRACK, "writeKey": None}, {**TRACK, "writeKey": 7}, {}]
    )
    def test_nobody_is_refused(self, server: TrackingServer, body: dict[str, object]) -> None:
        answer = server.send("/v1/t", body, key=None)
        assert answer.status == 401
        assert answer.json == {
            "success": False,
            "code": "invalid_write_key",
            "reason": "missing_write_key",
            "message": "no write key: send it as the Basic user name or as `writeKey` in the body",
        }

    def test_a_batch_of_strange_items_names_no_key(self, server: TrackingServer) -> None:
        for items in ([], [1], [None], [[]], [{"writeKey": {}}]):
            assert server.send("/v1/b", {"batch": items}, key=None).json["reason"] == "missing_write_key"


def test_keys_come_and_go_while_it_runs(tmp_path: Path) -> None:
    seconds = 0.0
    with TrackingServer(tmp_path, monotonic=lambda: seconds) as server:
        assert server.send("/v1/track", TRACK, key="new").status == 401
        server.control.add_write_key("default", now=1, write_key="new")
        assert server.send("/v1/track", TRACK, key="new").status == 200
        server.control.revoke_write_key("new", now=1)
        assert server.send("/v1/track", TRACK, key="new").status == 200
        seconds += REFRESH_SECONDS
        assert server.send("/v1/track", TRACK, key="new").status == 401
        server.control.change_source("default", disabled=True)
        seconds += REFRESH_SECONDS
        answer = server.send("/v1/track", TRACK)
        assert (answer.status, answer.json["reason"]) == (401, "source_disabled")


def test_a_key_that_cannot_be_judged_is_not_refused_for_good(tmp_path: Path) -> None:
    with TrackingServer(tmp_path) as server:
        assert server.send("/v1/track", TRACK).status == 200
        server.control.close()
        for file in tmp_path.glob("control.sqlite*"):
            file.write_bytes(b"broken" * 1000)
        server.keys.close()
        answer = server.send("/v1/track", TRACK, key="perhaps-new")
        assert (answer.status, answer.json["reason"]) == (503, "keys_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert server.send("/v1/track", TRACK).status == 200


class TestBrowsers:
    def test_a_preflight_is_answered_without_a_key(self, server: TrackingServer) -> None:
        asked = "authorization,x-retry-count,anonymousid,sentat"
        for path in (
            "/v1/t",
            "/v1/batch/",
            "/v1/import",
            "/v1/m",
            "/beacon/v1/batch?writeKey=x",
            "/v1/pixel/track",
            "/pixel/v1/page",
            "/v1/projects/nobody/settings",
            "/sourceConfig/?writeKey=nobody",
            "/analytics.js/v1/nobody/analytics.min.js",
            "/analytics-next/bundles/a.js",
            "/rudder/rsa.js",
            "/health",
        ):
            answer = server.raw(
                f"OPTIONS {path} HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n"
                f"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: {asked}\r\n\r\n".encode()
            )
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["access-control-allow-headers"] == asked
            assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
            assert answer.headers["access-control-max-age"] == "900"

    @pytest.mark.parametrize(
        ("path", "key", "status"),
        [
            ("/v1/t", WRITE_KEY, 200),
            ("/v1/t", "unknown", 401),
            ("/v1/b", WRITE_KEY, 400),
            ("/v1/x", WRITE_KEY, 404),
        ],
    )
    def test_every_answer_can_be_read(self, server: TrackingServer, path: str, key: str, status: int) -> None:
        answer = server.send(path, TRACK, {"Origin": ORIGIN}, key=key)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-expose-headers"] == "Retry-After, X-RateLimit-Reset"
        assert server.send(path, TRACK, key=key).headers["access-control-allow-origin"] == "*"

    def test_an_origin_that_is_none_is_not_echoed(self, server: TrackingServer) -> None:
        answer = server.send("/v1/t", TRACK, {"Origin": "https://x\ty"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")

    def test_what_only_the_request_knew_is_stored(self, tmp_path: Path) -> None:
        with TrackingServer(tmp_path) as server:
            server.send(
                "/v1/t",
                TRACK,
                {"Origin": ORIGIN, "SentAt": "2026-03-01T10:00:05.000Z", "X-Forwarded-For": "9.9.9.9"},
            )
            server.send("/v1/t", TRACK, {"SentAt": "x" * 65, "X-Retry-Count": "2"})
            server.send("/v1/t", {}, {"Rsa-Retry-Attempt": "1", "Rsa-Retry-Reason": "server-503"})
            first, second, _ = server.records()
            assert server.count("profilelake_collect_retried_requests_total") == 2
        assert (first.flags, first.sent_at, first.ip) == (
            Flags.BROWSER,
            "2026-03-01T10:00:05.000Z",
            "127.0.0.1",
        )
        assert (second.flags, second.sent_at) == (Flags.NONE, "")
