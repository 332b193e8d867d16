"""Nonsense, mistakes and attacks: each gets a clear answer, and nobody else notices."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.collect.limits import CollectLimits
from profilelake.eventlog import Flags
from tracking_server import TRACK, WRITE_KEY, Response, TrackingServer, basic, read_response

AUTHORIZATION = f"Authorization: {basic(WRITE_KEY)}\r\n".encode()
KIB = 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("tracking")) as running:
        yield running


@pytest.fixture(autouse=True)
def _still_answers(server: TrackingServer) -> Iterator[None]:
    """After each case the server takes a good event, and the case has leaked nothing into the log."""
    yield
    assert server.send("/v1/track", TRACK).status == 200


def refused(answer: Response, status: int, reason: str) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert (body["success"], body["reason"]) == (False, reason)
    assert body["code"] == "invalid_request"
    assert body["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b"{", "malformed_json"),
        (b'{"userId":"u"', "malformed_json"),
        (b'{"userId":"u"}}', "malformed_json"),
        (b"{'userId':'u'}", "malformed_json"),
        (b'{"userId":"u",}', "malformed_json"),
        (b'{"a":01}', "malformed_json"),
        (b"userId=u&event=e", "malformed_json"),
        (b"\x00" * 100, "malformed_json"),
        (b"[]", "wrong_shape"),
        (b"null", "wrong_shape"),
        (b"7", "wrong_shape"),
        (b'"text"', "wrong_shape"),
        (b"NaN", "wrong_shape"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\xc0\xaf"}', "invalid_utf8"),
        ('{"a":"b"}'.encode("utf-16"), "invalid_utf8"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested_too_deeply"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested_too_deeply"),
        (b"\xef\xbb\xbf" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested_too_deeply"),
        (b"[" * 200_000, "wrong_shape"),
    ],
)
def test_a_body_that_is_no_message(server: TrackingServer, body: bytes, reason: str) -> None:
    refused(server.send("/v1/track", body), 400, reason)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"batch":null}',
        b'{"batch":{}}',
        b'{"batch":"x"}',
        b'{"batch":7}',
        b"[]",
        b'[{"type":"track"}]',
        b'{"batch":{},"n":NaN}',
    ],
)
def test_a_body_that_is_no_batch(server: TrackingServer, body: bytes) -> None:
    refused(server.send("/v1/batch", body), 400, "wrong_shape")


@pytest.mark.parametrize(
    ("body", "events", "flags"),
    [
        (b"{}", 1, Flags.NONE),
        (b' \n{"event":"no ids"}\r\n ', 1, Flags.NONE),
        (b'{"a":1,"a":2}', 1, Flags.NONE),
        (b'{"n":' + b"9" * 5_000 + b"}", 1, Flags.NONE),
        (b'{"n":1e999,"m":-0,"k":1e-999}', 1, Flags.NONE),
        (b'{"n":' + b"9" * 5_000 + b',"m":NaN}', 1, Flags.TOLERANT),
        (b'{"n":NaN,"m":-Infinity}', 1, Flags.TOLERANT),
        (b'{"a":"\\ud83d"}', 1, Flags.TOLERANT),
        (b'{"writeKey":"\\ud83d"}', 1, Flags.TOLERANT),
        (b"\xef\xbb\xbf{}", 1, Flags.TOLERANT),
        (b'{"a":"\\u0000"}', 1, Flags.NONE),
        (json.dumps({f"key {number}": number for number in range(10_000)}).encode(), 1, Flags.NONE),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", 1, Flags.NONE),
    ],
)
def test_odd_events_are_stored_for_landing_to_decide(
    server: TrackingServer, body: bytes, events: int, flags: Flags
) -> None:
    assert server.send("/v1/track", body).status == 200
    record = server.records()[-1]
    assert (record.body, record.events, record.flags) == (body, events, flags)


def test_a_bad_item_does_not_harm_its_neighbours(server: TrackingServer) -> None:
    big = {**TRACK, "properties": {"text": "x" * 40 * KIB}}
    body = json.dumps({"batch": [TRACK, None, 7, [], {}, {"type": "?"}, big]}).encode()
    assert server.send("/v1/batch", body).status == 200
    record = server.records()[-1]
    assert (record.body, record.events) == (body, 7)


def test_an_empty_batch_is_taken_and_not_stored(server: TrackingServer) -> None:
    before = len(server.records())
    assert server.send("/v1/batch", {"batch": []}).status == 200
    assert len(server.records()) == before


@pytest.mark.parametrize("events", [2_500, 2_501])
def test_a_large_batch_is_taken_whole(server: TrackingServer, events: int) -> None:
    assert server.send("/v1/batch", {"batch": [TRACK] * events}).status == 200
    assert server.records()[-1].events == events


def test_a_batch_of_absurdly_many_is_refused_whole(server: TrackingServer) -> None:
    most = CollectLimits().batch_events_max
    body = b'{"batch":[' + b"0," * most + b"0]}"
    refused(server.send("/v1/batch", body), 400, "too_many_events")
    refused(server.send("/v1/batch", body.replace(b"0]", b"NaN]")), 400, "too_many_events")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "nonsense",
        "",
    ],
)
def test_the_content_type_is_no_matter(server: TrackingServer, content_type: str) -> None:
    body = gzip.compress(json.dumps(TRACK).encode())
    headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
    assert server.send("/v1/track", body, headers).status == 200
    assert server.send("/v1/track", TRACK, {"Content-Type": content_type}).status == 200
    assert server.records()[-2].body == body
    assert server.records()[-2].flags == Flags.GZIP


class TestSize:
    def test_real_batches_pass(self, server: TrackingServer) -> None:
        item = {**TRACK, "properties": {"text": "x" * 31_000}}
        body = json.dumps({"batch": [item] * 20}).encode()
        assert len(body) > 620_000
        assert server.send("/v1/batch", body).status == 200
        assert server.send("/v1/batch", gzip.compress(body), {"Content-Encoding": "gzip"}).status == 200

    @pytest.mark.parametrize("chunked", [False, True])
    def test_up_to_the_limit_and_not_beyond(self, server: TrackingServer, chunked: bool) -> None:
        most = CollectLimits().body_bytes_max

        def sized(size: int) -> Response:
            body = b'{"a":"' + b"x" * (size - 8) + b'"}'
            if not chunked:
                return server.send("/v1/track", body)
            return server.raw(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                + AUTHORIZATION
                + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, body)
            )

        assert sized(most).status == 200
        refused(sized(most + 1), 400, "body_too_large")
        refused(sized(most + 3 * KIB * KIB), 400, "body_too_large")

    def test_what_is_announced_far_too_large_is_not_read(self, server: TrackingServer) -> None:
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n"
                + AUTHORIZATION
                + b"\r\n{"
            )
            answer = read_response(connection)
            refused(answer, 400, "body_too_large")
            assert answer.headers["connection"] == "close"
            assert connection.recv(1) == b""

    def test_an_endless_stream_is_cut(self, server: TrackingServer) -> None:
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                + AUTHORIZATION
                + b"\r\n"
            )
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012 - which of the writes fails is up to the kernel
                while sent < 100 * KIB * KIB:
                    connection.sendall(piece)
                    sent += len(piece)
        assert sent < 40 * KIB * KIB


class TestGzip:
    def send(self, server: TrackingServer, body: bytes, encoding: str = "gzip") -> Response:
        return server.send("/v1/track", body, {"Content-Encoding": encoding})

    def test_bombs(self, server: TrackingServer) -> None:
        for size in (2 * KIB * KIB, 20 * KIB * KIB):
            bomb = gzip.compress(b'{"a":"' + b"x" * size + b'"}')
            refused(self.send(server, bomb), 400, "body_too_large")
        # Not a bomb: small enough whatever its ratio.
        assert self.send(server, gzip.compress(b'{"a":"' + b"x" * 500 * KIB + b'"}')).status == 200

    @pytest.mark.parametrize("cut", [1, 4, 8, 9, 20])
    def test_truncated(self, server: TrackingServer, cut: int) -> None:
        refused(self.send(server, gzip.compress(json.dumps(TRACK).encode())[:-cut]), 400, "invalid_gzip")

    def test_broken(self, server: TrackingServer) -> None:
        good = gzip.compress(json.dumps(TRACK).encode())
        for bad in (
            good[:-5] + b"xxxxx",
            good[:30] + b"\xff" + good[31:],
            json.dumps(TRACK).encode(),
            json.dumps({**TRACK, "long": "x" * 5000}).encode(),
            zlib.compress(json.dumps(TRACK).encode()),
            good + b"more",
            good + good,
            b"\x1f\x8b",
        ):
            refused(self.send(server, bad), 400, "invalid_gzip")
        refused(self.send(server, b""), 400, "invalid_gzip")
        refused(self.send(server, gzip.compress(b"")), 400, "empty_body")

    def test_nested(self, server: TrackingServer) -> None:
        twice = gzip.compress(gzip.compress(json.dumps(TRACK).encode()))
        assert self.send(server, twice).status == 400
        refused(self.send(server, twice, "gzip, gzip"), 415, "unsupported_encoding")

    @pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "compress", "x", "gzip\t;q=1"])
    def test_unknown_encodings(self, server: TrackingServer, encoding: str) -> None:
        answer = self.send(server, b"{}", encoding)
        refused(answer, 415, "unsupported_encoding")
        assert answer.headers["accept-encoding"] == "gzip"

    @pytest.mark.parametrize("encoding", ["GZIP", "x-gzip", " gzip "])
    def test_other_spellings(self, server: TrackingServer, encoding: str) -> None:
        assert self.send(server, gzip.compress(b"{}"), encoding).status == 200
        assert server.records()[-1].flags == Flags.GZIP
        assert self.send(server, b"{}", "identity").status == 200


class TestProtocol:
    @pytest.mark.parametrize(
        "head",
        [
            b"Content-Length: 2\r\nContent-Length: 3\r\n",
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
            b"Transfer-Encoding: xchunked\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 2x\r\n",
            b"Content-Length: 99999999999999999999999\r\n",
            b"Bad Header: x\r\n",
            b"X: a\x00b\r\n",
            b" folded: x\r\n",
        ],
    )
    def test_smuggling(self, server: TrackingServer, head: bytes) -> None:
        with server.connect() as connection:
            connection.sendall(b"POST /v1/track HTTP/1.1\r\nHost: x\r\n" + AUTHORIZATION + head + b"\r\n{}")
            answer = read_response(connection)
            assert (answer.status, answer.json["code"]) == (400, "invalid_request")
            assert connection.recv(1) == b""

    @pytest.mark.parametrize(
        "line",
        [
            b"POST /v1/track\x00 HTTP/1.1",
            b"GARBAGE",
            b"POST /v1/track HTTP/9.9",
            b"POST  HTTP/1.1",
            b"\x16\x03\x01\x02",
        ],
    )
    def test_no_http(self, server: TrackingServer, line: bytes) -> None:
        answer = server.raw(line + b"\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.json["success"]) == (400, False)

    def test_headers_without_end(self, server: TrackingServer) -> None:
        for head in (
            b"X: " + b"a" * 1_000_000,
            b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
        ):
            with server.connect() as connection:
                try:
                    connection.sendall(b"POST /v1/track HTTP/1.1\r\n" + head)
                    answer = read_response(connection)
                except ConnectionError:
                    continue  # It was closed while we were still sending.
                assert (answer.status, answer.json["code"]) == (431, "headers_too_large")

    def test_pipelined_requests_are_answered_in_order(self, server: TrackingServer) -> None:
        good = json.dumps(TRACK).encode()
        one = b"POST /v1/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" + AUTHORIZATION + b"\r\n%s"
        with server.connect() as connection:
            connection.sendall(
                b"".join(
                    one % (path, len(body), body)
                    for path, body in ((b"track", good), (b"x", b"{}"), (b"batch", good)) * 3
                )
            )
            data = b""
            while data.count(b"HTTP/1.1") < 9 or not data.endswith(b"}"):
                data += connection.recv(65536)
        statuses = [int(part[1:4]) for part in data.split(b"HTTP/1.1")[1:]]
        assert statuses == [200, 404, 400] * 3

    def test_an_upgrade_is_refused_since_its_body_could_not_be_read(self, server: TrackingServer) -> None:
        for protocol in ("h2c", "websocket"):
            answer = server.send("/v1/track", TRACK, {"Connection": "Upgrade", "Upgrade": protocol})
            assert (answer.status, answer.json["code"]) == (400, "invalid_request")
            assert "Upgrade" in answer.json["message"]
        assert server.raw(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n").status == 400

    def test_100_continue(self, server: TrackingServer) -> None:
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
                + AUTHORIZATION
                + b"\r\n"
            )
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"{}")
            assert read_response(connection).status == 200

    def test_who_hangs_up_leaves_nothing_behind(self, server: TrackingServer) -> None:
        before = len(server.records())
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(
                    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n"
                    + AUTHORIZATION
                    + b"\r\n{"
                )
        assert server.send("/v1/track", TRACK).status == 200
        assert len(server.records()) == before + 1


def test_many_events_with_ten_thousand_keys_each(tmp_path: Path) -> None:
    item = {f"k{number}": "x" for number in range(10_000)}
    with TrackingServer(tmp_path) as server:
        assert server.send("/v1/batch", {"batch": [{**TRACK, "properties": item}] * 20}).status == 200
        assert [record.events for record in server.records()] == [20]
