"""What browsers load before they send. Where it is wrong, they send nothing, or to somebody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from profilelake.collect.limits import CollectLimits
from tracking_server import TRACK, WRITE_KEY, Response, TrackingServer, basic, head

ORIGIN = "https://shop.example.org"
SETTINGS = f"/v1/projects/{WRITE_KEY}/settings"
CONFIG = "/sourceConfig/?p=npm&v=3.34.1&build=modern&lockIntegrationsVersion=false"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("boot")) as running:
        yield running


def get(server: TrackingServer, path: str, *, key: str | None = None, **headers: str) -> Response:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.send(path, b"", lines, key=key, method="GET")


def integration(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    [[name, settings]] = answer.json["integrations"].items()
    assert name == "Segment.io"
    return settings


class TestSettings:
    def test_events_go_where_the_document_came_from(self, server: TrackingServer) -> None:
        for path in (SETTINGS, SETTINGS + "/"):
            answer = get(server, path, Host="events.example.org:8443")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json == {
                "integrations": {
                    "Segment.io": {
                        "apiKey": WRITE_KEY,
                        "apiHost": "events.example.org:8443/v1",
                        "protocol": "http",
                    }
                },
                "metrics": {"sampleRate": 0},
            }

    @pytest.mark.parametrize(
        ("url", "host", "protocol"),
        [
            ("https://events.example.org", "events.example.org/v1", "https"),
            ("https://events.example.org/", "events.example.org/v1", "https"),
            ("http://[::1]:8080/collect/", "[::1]:8080/collect/v1", "http"),
        ],
    )
    def test_the_public_url_wins_over_what_the_request_says(
        self, tmp_path: Path, url: str, host: str, protocol: str
    ) -> None:
        limits = CollectLimits(public_url=url, trusted_proxies=("127.0.0.1",))
        with TrackingServer(tmp_path, limits=limits) as server:
            answer = get(server, SETTINGS, Host='evil"', X_Forwarded_Proto="https")
            assert integration(answer) == {"apiKey": WRITE_KEY, "apiHost": host, "protocol": protocol}

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "my_service",
            "a-b.example.org.",
            "xn--bcher-kva.example",
        ],
    )
    def test_a_host_is_a_host(self, server: TrackingServer, host: str) -> None:
        assert integration(get(server, SETTINGS, Host=host))["apiHost"] == f"{host}/v1"

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "a b",
            "evil.example/path",
            "user@evil.example",
            'x"y',
            "x<script>",
            "a..b",
            ".a",
            "-a",
            "a:b",
            "a:123456",
            "a:80:80",
            "[::1",
            "[x]",
            "a?b",
            "a#b",
            "a\\b",
            "a%2eb",
            "bücher.example",
            "a," + "b",
            "x" * 64,
            "a." * 150 + "b",
        ],
    )
    def test_nothing_else_gets_into_a_document_that_browsers_trust(
        self, server: TrackingServer, host: str
    ) -> None:
        answer = get(server, SETTINGS, Host=host)
        assert (answer.status, answer.json["reason"]) == (400, "invalid_host")
        assert "http.public_url" in answer.json["message"]
        assert answer.headers["cache-control"] == "no-store"

    def test_no_host_and_two_hosts_are_none(self, server: TrackingServer) -> None:
        for hosts in (b"", b"Host: a.example\r\nHost: b.example\r\n"):
            answer = server.raw(b"GET %s HTTP/1.1\r\n%s\r\n" % (SETTINGS.encode(), hosts))
            assert answer.status == 400

    def test_only_a_trusted_proxy_says_that_it_is_https(self, tmp_path: Path, server: TrackingServer) -> None:
        assert integration(get(server, SETTINGS, X_Forwarded_Proto="https"))["protocol"] == "http"
        with TrackingServer(tmp_path, limits=CollectLimits(trusted_proxies=("127.0.0.1",))) as behind:
            for said, protocol in (
                ("https", "https"),
                ("HTTPS", "https"),
                ("http, https", "https"),
                ("https, http", "http"),
                ("javascript", "http"),
            ):
                answer = get(behind, SETTINGS, X_Forwarded_Proto=said)
                assert integration(answer)["protocol"] == protocol

    @pytest.mark.parametrize(
        "path", ["/v1/projects/", "/v1/projects/settings", "/v1/projects//settings", "/v1/projects/a/b"]
    )
    def test_no_key_is_no_path(self, server: TrackingServer, path: str) -> None:
        assert get(server, path).status == 404

    def test_a_key_may_have_any_characters(self, server: TrackingServer) -> None:
        server.control.add_write_key("default", now=1, write_key='a/b "ü"')
        answer = get(server, "/v1/projects/a%2Fb%20%22%C3%BC%22/settings")
        assert integration(answer)["apiKey"] == 'a/b "ü"'


class TestSourceConfig:
    def test_the_key_is_the_basic_user_or_in_the_query(self, server: TrackingServer) -> None:
        for path, key in (
            (CONFIG, WRITE_KEY),
            (f"{CONFIG}&writeKey={WRITE_KEY}", None),
            (f"/sourceConfig?writeKey={WRITE_KEY}", None),
            (f"{CONFIG}&writeKey=nobody", WRITE_KEY),
        ):
            answer = get(server, path, key=key)
            assert answer.status == 200
            source = answer.json["source"]
            assert source == {
                "id": "default",
                "name": "default",
                "writeKey": WRITE_KEY,
                "enabled": True,
                "workspaceId": "default",
                "connections": [],
                "destinations": [],
                "config": {"statsCollection": {"errors": {"enabled": False}, "metrics": {"enabled": False}}},
                "dataplanes": {},
            }
            assert answer.json["updatedAt"]

    def test_who_names_no_key_is_told_how(self, server: TrackingServer) -> None:
        answer = get(server, CONFIG)
        assert (answer.status, answer.json["reason"]) == (401, "missing_write_key")

    def test_the_name_an_operator_gave_is_not_shown_to_everybody(self, server: TrackingServer) -> None:
        server.control.change_source("default", name="Project Nightfall")
        answer = get(server, CONFIG, key="not-known-so-the-keys-are-loaded-again")
        assert answer.status == 404
        assert b"Nightfall" not in get(server, CONFIG, key=WRITE_KEY).body


@pytest.mark.parametrize("path", [SETTINGS, f"/sourceConfig/?writeKey={WRITE_KEY}"])
class TestBoth:
    def test_it_is_kept_for_a_while_and_asked_for_again_cheaply(
        self, server: TrackingServer, path: str
    ) -> None:
        answer = get(server, path)
        assert "max-age=120" in answer.headers["cache-control"]
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = get(server, path, If_None_Match=known)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
            assert again.headers["cache-control"] == answer.headers["cache-control"]
        assert get(server, path, If_None_Match='"other"').status == 200

    def test_head_has_the_same_headers_and_no_body(self, server: TrackingServer, path: str) -> None:
        answer = head(server, path)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"etag: " in answer

    def test_pages_of_every_origin_may_read_it(self, server: TrackingServer, path: str) -> None:
        answer = get(server, path, Origin=ORIGIN)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "Origin" in answer.headers["vary"]
        assert get(server, path).headers["access-control-allow-origin"] == "*"

    def test_it_cannot_be_posted(self, server: TrackingServer, path: str) -> None:
        answer = server.send(path, TRACK)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")

    def test_a_key_that_does_not_exist_has_none_yet(self, server: TrackingServer, path: str) -> None:
        key = f"new-{'settings' in path}"
        strange = path.replace(WRITE_KEY, key)
        answer = get(server, strange)
        assert (answer.status, answer.json["reason"]) == (404, "unknown_write_key")
        assert answer.headers["cache-control"] == "no-store"
        server.control.add_write_key("default", now=1, write_key=key)
        assert get(server, strange).status == 200

    def test_a_key_that_cannot_be_judged_is_not_called_unknown(self, tmp_path: Path, path: str) -> None:
        with TrackingServer(tmp_path) as server:
            assert get(server, path).status == 200
            server.control.close()
            for file in tmp_path.glob("control.sqlite*"):
                file.write_bytes(b"broken" * 1000)
            server.keys.close()
            answer = get(server, path.replace(WRITE_KEY, "perhaps-new"), Origin=ORIGIN)
            assert (answer.status, answer.json["reason"]) == (503, "keys_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert get(server, path).status == 200


def test_a_disabled_source_is_told_to_the_sdk_that_understands_it(tmp_path: Path) -> None:
    with TrackingServer(tmp_path) as server:
        server.control.change_source("default", disabled=True)
        config = get(server, CONFIG, key=WRITE_KEY)
        assert (config.status, config.json["source"]["enabled"]) == (200, False)
        # Without settings analytics.js would not finish loading, and pages would wait for it.
        assert integration(get(server, SETTINGS))["apiKey"] == WRITE_KEY
        assert server.send("/v1/t", TRACK, key=WRITE_KEY).json["reason"] == "source_disabled"


def test_a_fault_of_ours_is_answered_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(_: str) -> None:
        raise RuntimeError("secret detail")

    with TrackingServer(tmp_path) as server:
        monkeypatch.setattr(server.keys, "source", fault)
        answer = get(server, SETTINGS)
        assert (answer.status, answer.json["code"]) == (500, "internal")
        assert b"secret" not in answer.body
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "answering settings failed"
    ]


def test_basic_is_read_as_for_events(server: TrackingServer) -> None:
    for header in (basic(WRITE_KEY, colon=False), basic(WRITE_KEY).rstrip("=")):
        assert get(server, CONFIG, Authorization=header).status == 200
