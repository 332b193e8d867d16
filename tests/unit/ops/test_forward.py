"""Forwarding between two servers on real sockets: whole, in pieces, both ways, and when one side goes away."""

import asyncio
import http.client
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from profilelake.errors import Conflict, Internal, Unavailable
from profilelake.ops.forward import PIPE, Forward, listen, pipe_of
from profilelake.ops.http import HttpLimits, Receive, Scope, Send, bind, run, serve_app

PIECE = b"x" * 65_536
PIECES = 640
ANSWER_SECONDS = 10

_Result = TypeVar("_Result")


class Behind:
    """The application in the other process: shows what it was asked, streams, ends in bad ways."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/shown":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            lines = [scope["method"].encode(), scope["raw_path"], scope["query_string"], b"%d" % len(body)]
            lines += sorted(name + b"=" + value for name, value in scope["headers"])
            await _send_whole(send, 201, b"\n".join(lines))
        elif path == "/cut":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        elif path == "/long":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            watching = asyncio.create_task(_until_gone(receive, self.gone))
            for _ in range(PIECES):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                self.sent += len(PIECE)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            watching.cancel()
        elif path.startswith("/pipe/"):
            await _through_pipe(receive, send, path.removeprefix("/pipe/"))
        elif path == "/silent":
            await _until_gone(receive, self.gone)


async def _send_whole(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"x-told", b"yes")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _through_pipe(receive: Receive, send: Send, found: str) -> None:
    """Answer through a pipe in whose place the other side finds it, or what has its number by now."""
    (ours, write), (other, other_write) = os.pipe(), os.pipe()
    file = os.open(__file__, os.O_RDONLY)
    try:
        for end in (write, other_write):
            os.write(end, b"of another query" if end == other_write else b"rows")
            os.close(end)
        named = pipe_of(ours).encode()
        if found != "itself":
            os.dup2({"another pipe": other, "a file": file}[found], ours)
        await send({"type": "http.response.start", "status": 200, "headers": [(PIPE, named)]})
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await _until_gone(receive, asyncio.Event())
    finally:
        for descriptor in (ours, other, file):
            os.close(descriptor)


async def _until_gone(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def between(path: Path, use: Callable[[int, Behind], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run `use` against the port of a server that forwards to another one."""

    async def main() -> _Result:
        behind, stop = Behind(), asyncio.Event()
        forward = Forward(path)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await forward(scope, receive, send, [(b"x-profilelake-space", b"default")])
            except Unavailable as error:
                await _send_whole(send, 503, str(error).encode())

        sock = bind("127.0.0.1", 0)
        limits = HttpLimits(drain_seconds=1)
        async with asyncio.TaskGroup() as group:
            ready = [asyncio.Event(), asyncio.Event()]
            for app, listening, told in ((behind, listen(path), ready[0]), (front, sock, ready[1])):
                group.create_task(serve_app(app, listening, limits, stop=stop, on_ready=told.set))
            for told in ready:
                await told.wait()
            # Both servers stop in good order, whatever came of it.
            using = asyncio.create_task(asyncio.wait_for(use(sock.getsockname()[1], behind), ANSWER_SECONDS))
            await asyncio.wait([using])
            stop.set()
        return using.result()

    return run(main())


def ask(
    port: int, method: str, target: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, target, body, headers, encode_chunked=False)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def asking(*arguments: Any, **headers: str) -> Callable[[int, Behind], Coroutine[Any, Any, Any]]:
    return lambda port, _behind: asyncio.to_thread(ask, port, *arguments, **headers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Deeper than an address of a socket can say."""
    deep = tmp_path / ("d" * 100) / "run"
    deep.mkdir(parents=True)
    return deep / "query.sock"


def test_a_request_arrives_with_what_was_checked_and_without_what_only_claims_so(path: Path) -> None:
    status, headers, body = between(
        path,
        asking(
            "GET",
            "/shown?a=%20b",
            Authorization="Bearer secret",
            **{"X-Profilelake-Space": "other", "X-Profilelake-Token-Scope": "", "Accept": "text/csv"},
        ),
    )
    assert (status, headers["x-told"]) == (201, "yes")
    method, target, query, length, *said = body.decode().splitlines()
    assert (method, target, query, length) == ("GET", "/shown", "a=%20b", "0")
    assert [line for line in said if line.startswith("x-profilelake")] == ["x-profilelake-space=default"]
    assert "accept=text/csv" in said
    assert not [line for line in said if "secret" in line]


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_bodies_of_any_length_arrive(path: Path, size: int) -> None:
    status, _, body = between(path, asking("POST", "/shown", b"b" * size))
    assert (status, body.splitlines()[3]) == (201, b"%d" % size)


def test_an_answer_comes_through_the_pipe_that_was_named_and_no_other(path: Path) -> None:
    status, headers, body = between(path, asking("GET", "/pipe/itself"))
    assert (status, body, PIPE.decode() in headers) == (200, b"rows", False)
    for found in ("another%20pipe", "a%20file"):
        status, headers, body = between(path, asking("GET", f"/pipe/{found}"))
        assert (status, PIPE.decode() in headers) == (503, False)
        assert b"its answer is gone" in body


def test_a_body_in_chunks_arrives(path: Path) -> None:
    pieces = iter([b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"])
    status, _, body = between(path, asking("POST", "/shown", pieces, **{"Transfer-Encoding": "chunked"}))
    assert (status, body.splitlines()[3]) == (201, b"5")


def test_head_has_the_length_and_no_body(path: Path) -> None:
    status, headers, body = between(path, asking("HEAD", "/shown"))
    assert (status, body) == (201, b"")
    assert int(headers["content-length"]) > 0


def test_a_long_answer_comes_whole(path: Path) -> None:
    status, _, body = between(path, asking("GET", "/long"))
    assert (status, len(body)) == (200, PIECES * len(PIECE))


def test_a_client_that_does_not_read_holds_the_other_process_back(path: Path) -> None:
    async def use(port: int, behind: Behind) -> int:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
            before = -1
            while behind.sent != before:
                before = behind.sent
                await asyncio.sleep(0.3)
            held = behind.sent
        await behind.gone.wait()
        return held

    # Its own buffers, ours, and those of the kernel between three processes.
    assert 0 < between(path, use) < PIECES * len(PIECE)


def test_a_client_that_goes_away_ends_the_work(path: Path) -> None:
    async def use(port: int, behind: Behind) -> bool:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.1)
        await behind.gone.wait()
        return True

    assert between(path, use)


def test_an_answer_that_is_cut_off_is_not_taken_for_a_whole_one(path: Path) -> None:
    with pytest.raises(http.client.IncompleteRead):
        between(path, asking("GET", "/cut"))


def test_a_process_that_is_down_is_told_as_such(path: Path) -> None:
    async def use(port: int, _behind: Behind) -> Any:
        path.unlink()  # noqa: ASYNC240
        return await asyncio.to_thread(ask, port, "GET", "/shown")

    status, _, body = between(path, use)
    assert status == 503
    assert body.startswith(b"asking the lake")


def test_only_the_user_may_connect_and_a_file_is_not_taken_away(path: Path) -> None:
    listen(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    listen(path).close()  # one left over by a process that was killed
    path.unlink()
    path.write_text("mine")
    with pytest.raises(Conflict):
        listen(path)
    assert path.read_text() == "mine"


def test_what_is_trusted_must_look_so(path: Path) -> None:
    async def main() -> None:
        scope = {"method": "GET", "raw_path": b"/", "query_string": b"", "headers": []}
        with pytest.raises(Internal):
            await Forward(path)(scope, _never, _never_sent, [(b"x-other", b"1")])
        with pytest.raises(Internal):
            await Forward(path)(scope, _never, _never_sent, [(b"x-profilelake-a", b"1\r\nb: 2")])

    run(main())


async def _never() -> Any:
    raise AssertionError("nothing is read")


async def _never_sent(_message: Any) -> None:
    raise AssertionError("nothing is sent")
