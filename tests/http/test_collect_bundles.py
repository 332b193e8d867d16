"""Browser SDKs, served as they lie in a directory; nothing else of that disk."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.collect.limits import CollectLimits
from tracking_server import WRITE_KEY, Response, TrackingServer, head

STANDALONE = b'try{window.analyticsWriteKey="__WRITE_KEY__"}catch(t){}/* ' + b"code " * 1_000 + b"*/"
CHUNK = "407.bundle.61efa1acb302134c434b.js"
LARGE = bytes(range(256)) * 4_000
KEYED = f"/analytics.js/v1/{WRITE_KEY}/analytics.min.js"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "sdk"
    (directory / "analytics-next").mkdir(parents=True)
    (directory / "rudder" / "v3" / "modern").mkdir(parents=True)
    (directory / "analytics-next" / "standalone.js").write_bytes(STANDALONE)
    (directory / "analytics-next" / CHUNK).write_bytes(b"chunk")
    (directory / "analytics-next" / f"{CHUNK}.gz").write_bytes(gzip.compress(b"chunk"))
    (directory / "analytics-next" / "index.js.map").write_bytes(b"{}")
    (directory / "analytics-next" / "secrets.env").write_bytes(b"secret")
    (directory / "analytics-next" / ".hidden.js").write_bytes(b"secret")
    (directory / "analytics-next" / "folder.js").mkdir()
    os.mkfifo(directory / "analytics-next" / "pipe.js")
    (directory / "rudder" / "v3" / "modern" / "rsa.min.js").write_bytes(LARGE)
    (directory.parent / "outside.js").write_bytes(b"secret")
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[TrackingServer]:
    limits = CollectLimits(browser_bundles=bundles)
    with TrackingServer(tmp_path_factory.mktemp("server"), limits=limits) as running:
        yield running


def get(server: TrackingServer, path: str, **headers: str) -> Response:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.send(path, b"", lines, key=None, method="GET")


def test_the_write_key_is_put_into_the_standalone_build(server: TrackingServer) -> None:
    answer = get(server, KEYED)
    assert answer.status == 200
    assert answer.body == STANDALONE.replace(b"__WRITE_KEY__", WRITE_KEY.encode())
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "*"
    zipped = get(server, KEYED, Accept_Encoding="br, gzip;q=0.5")
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(zipped.body) == answer.body
    assert zipped.headers["etag"] != answer.headers["etag"]
    for variant in (answer, zipped):
        encoding = variant.headers.get("content-encoding", "")
        again = get(server, KEYED, Accept_Encoding=encoding, If_None_Match=variant.headers["etag"])
        assert (again.status, again.body) == (304, b"")


def test_a_key_cannot_break_out_of_its_quotes(server: TrackingServer) -> None:
    server.control.add_write_key("default", now=1, write_key="\"'\\</script>ü")
    answer = get(server, "/analytics.js/v1/%22%27%5C%3C%2Fscript%3E%C3%BC/analytics.min.js")
    assert answer.status == 200
    assert b'analyticsWriteKey="\\"\\u0027\\\\\\u003c/script>\\u00fc"}' in answer.body


def test_only_keys_that_exist_have_a_bundle(server: TrackingServer) -> None:
    answer = get(server, "/analytics.js/v1/nobody/analytics.min.js")
    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
    assert answer.headers["content-type"].startswith("text/plain")
    assert get(server, "/analytics.js/v1/analytics.min.js").status == 404
    assert get(server, f"/analytics.js/v1/{WRITE_KEY}/other.js").status == 404


def test_chunks_are_kept_for_ever_since_their_name_changes_with_them(server: TrackingServer) -> None:
    path = f"/analytics-next/bundles/{CHUNK}"
    plain = get(server, path)
    assert (plain.status, plain.body) == (200, b"chunk")
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    zipped = get(server, path, Accept_Encoding="gzip")
    assert (zipped.headers["content-encoding"], gzip.decompress(zipped.body)) == ("gzip", b"chunk")
    assert get(server, path, Accept_Encoding="gzip;q=0").body == b"chunk"
    assert get(server, path, If_None_Match=plain.headers["etag"]).status == 304
    source_map = get(server, "/analytics-next/bundles/index.js.map")
    assert (source_map.headers["content-type"], source_map.body) == ("application/json", b"{}")


def test_a_large_file_comes_whole(server: TrackingServer) -> None:
    path = "/rudder/v3/modern/rsa.min.js"
    assert get(server, path, Accept_Encoding="gzip").body == LARGE
    assert f"content-length: {len(LARGE)}\r\n".encode() in head(server, path)


def test_a_changed_file_has_another_tag(server: TrackingServer, bundles: Path) -> None:
    file = bundles / "rudder" / "changing.js"
    file.write_bytes(b"one")
    first = get(server, "/rudder/changing.js")
    file.write_bytes(b"three")
    second = get(server, "/rudder/changing.js", If_None_Match=first.headers["etag"])
    assert (second.status, second.body) == (200, b"three")


@pytest.mark.parametrize(
    "path",
    [
        "/analytics-next/bundles/",
        "/analytics-next/bundles/none.js",
        "/analytics-next/bundles/secrets.env",
        "/analytics-next/bundles/.hidden.js",
        "/analytics-next/bundles/folder.js",
        "/analytics-next/bundles/pipe.js",
        "/analytics-next/bundles/../../outside.js",
        "/analytics-next/bundles/..%2f..%2foutside.js",
        "/analytics-next/bundles/%2e%2e/%2e%2e/outside.js",
        "/analytics-next/bundles/..%5c..%5coutside.js",
        "/analytics-next/bundles//etc/passwd.js",
        "/analytics-next/bundles/standalone.js%00.js",
        "/analytics-next/bundles/standalone.js/",
        "/analytics-next/bundles/standalone.js/x.js",
        "/rudder/./v3/modern/rsa.min.js",
        "/rudder/" + "a/" * 1_000 + "x.js",
        "/rudder/" + "a" * 10_000 + ".js",
        "/rudder/%F0%9F%98%80.js",
    ],
)
def test_nothing_else_is_served(server: TrackingServer, path: str) -> None:
    answer = get(server, path)
    assert answer.status == 404
    assert b"secret" not in answer.body
    assert b"docs/tracking-api.md" in answer.body
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_server_without_a_directory_says_what_to_do(tmp_path: Path) -> None:
    with TrackingServer(tmp_path) as server:
        for path in (KEYED, f"/analytics-next/bundles/{CHUNK}", "/rudder/rsa.js"):
            answer = get(server, path)
            assert answer.status == 404
            assert b"http.browser_bundles" in answer.body


def test_a_directory_without_the_build_says_which_file_is_missing(tmp_path: Path) -> None:
    limits = CollectLimits(browser_bundles=tmp_path / "nowhere")
    with TrackingServer(tmp_path, limits=limits) as server:
        answer = get(server, KEYED)
        assert answer.status == 404
        assert b"no file analytics-next/standalone.js" in answer.body
        assert str(tmp_path).encode() not in answer.body
