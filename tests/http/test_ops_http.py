"""The server for any ASGI application: answers of all shapes, whole and streamed."""

import asyncio
from collections.abc import Iterator

import pytest

from profilelake.errors import Internal
from profilelake.ops.http import AnswerForm, Receive, Scope, Send, answer
from tracking_server import TRACK, TrackingServer

GOOD = answer(200, [(b"x-name", b"value")], b'{"a":1}', b"application/json")
FORM = AnswerForm(200, [(b"x-name", b"value")], b"application/json")
BARE = AnswerForm(304, [(b"x-name", b"value")], None)
FORMED = {
    "/formed": FORM.answer([(b"x-own", b"1")], b'{"a":1}'),
    "/empty": FORM.answer([]),
    "/bare": BARE.answer([(b"x-own", b"1")]),
}
LAST = answer(200, [(b"connection", b"close")], b"bye", b"text/plain")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if path in ("/whole", "/last"):
        ready = GOOD if path == "/whole" else LAST
        await send(ready.start)
        await send(ready.body)
    elif path in FORMED:
        await send(FORMED[path].start)
        await send(FORMED[path].body)
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    elif path == "/fault":
        raise RuntimeError("secret detail")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("http"), otherwise=app) as running:
        yield running


def everything(server: TrackingServer, request: bytes) -> bytes:
    with server.connect() as connection:
        connection.sendall(request)
        data = b""
        while piece := connection.recv(65536):
            data += piece
    return data


def test_paths_of_others_go_to_them_and_tracking_stays(server: TrackingServer) -> None:
    whole = server.send("/whole", b"", method="GET")
    assert (whole.status, whole.body, whole.headers["x-name"]) == (200, b'{"a":1}', "value")
    assert {"date", "content-length", "content-type"} <= whole.headers.keys()
    assert server.send("/v1/track", TRACK).status == 200


@pytest.mark.parametrize(
    ("request_line", "headers"),
    [
        (b"GET /whole HTTP/1.1", b"Connection: close\r\n"),
        (b"GET /whole HTTP/1.0", b""),
        (b"GET /last HTTP/1.1", b""),
    ],
)
def test_the_connection_ends_where_one_side_wants_it(
    server: TrackingServer, request_line: bytes, headers: bytes
) -> None:
    data = everything(server, request_line + b"\r\nHost: x\r\n" + headers + b"\r\n")
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in data
    assert data.endswith((b'\r\n\r\n{"a":1}', b"\r\n\r\nbye"))


def test_head_sends_no_body(server: TrackingServer) -> None:
    data = everything(server, b"HEAD /whole HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"content-length: 7\r\n" in data
    assert data.endswith(b"\r\n\r\n")


def test_answers_of_a_form_are_whole_whoever_writes_them(server: TrackingServer) -> None:
    asked = b"".join(
        b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (method, path, b"Connection: close\r\n" if last else b"")
        for method, path, last in (
            (b"GET", b"/formed", False),
            (b"GET", b"/bare", False),
            (b"HEAD", b"/bare", False),
            (b"GET", b"/empty", False),
            (b"GET", b"/formed", True),
        )
    )
    heads = everything(server, asked).split(b"HTTP/1.1 ")[1:]
    assert [head[:3] for head in heads] == [b"200", b"304", b"304", b"200", b"200"]
    assert [b"content-length: " in head for head in heads] == [True, False, False, True, True]
    assert all(b"x-name: value\r\n" in head for head in heads)
    assert heads[0].endswith(b'x-own: 1\r\ncontent-length: 7\r\n\r\n{"a":1}')
    assert heads[3].endswith(b"content-length: 0\r\n\r\n")
    assert heads[4].endswith(b'\r\n\r\n{"a":1}')


def test_a_stream_is_chunked(server: TrackingServer) -> None:
    data = everything(server, b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert data.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize("path", ["/fault", "/silence"])
def test_an_application_that_fails_is_answered_for(server: TrackingServer, path: str) -> None:
    answered = server.send(path, b"", method="GET")
    assert (answered.status, answered.body) == (500, b"Internal Server Error")
    assert server.send("/whole", b"", method="GET").status == 200


@pytest.mark.parametrize("header", [(b"x", b"a\r\nb: c"), (b"x\n", b"a"), (b"x", b"\x00")])
def test_a_header_cannot_break_out_of_its_line(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(Internal, match="control characters"):
        answer(200, [header], b"", b"text/plain")
