"""Hand a request on to another process of this server, over a Unix socket, and its answer back.

What is asked of the lake runs in a process of its own, so that collecting never waits for it. The
process in front has checked who asks, and says so in headers that clients cannot send: the socket is
private to the server's user, so what comes over it is believed.
"""

import asyncio
import os
import socket
import stat
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httptools

from profilelake.errors import Conflict, Internal, Unavailable
from profilelake.ops.http import Receive, Scope, Send
from profilelake.ops.pipes import pieces

TRUSTED: Final = b"x-profilelake-"
"""How the names of headers begin that say what was checked; those of clients are dropped."""
BUFFER_BYTES_MAX: Final = 1 << 20
"""Bytes of an answer that wait for the client before the other process waits too."""
PIPE: Final = b"x-profilelake-pipe"
"""Header of an answer whose body comes through a pipe of the other process, which `pipe_of` names.

It saves large results one way through a process. The body of the answer itself is one byte then, sent
once the pipe is known to hold all there is, and the other process keeps the pipe until we hang up.
"""
PIECE_BYTES: Final = 1 << 20
"""Bytes that are taken from such a pipe at once."""
HEAD_BYTES_MAX: Final = 65_536
"""Bytes of an answer's status line and headers."""

_DROPPED: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"cookie",
        b"date",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""What belongs to one connection, and what only the process in front may know."""

_GONE: Final = "asking the lake: its answer is gone; try again"


class Forward:
    """Sends requests to the process that listens on a Unix socket, each on a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Forward to the socket at `path`; nothing is opened yet."""
        self._path = path

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, trusted: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer one request with what the other process says, piece by piece as it comes.

        `trusted` are headers beginning with `x-profilelake-`. A client that goes away ends the
        connection to the other process, which stops its work.

        Raises:
            Unavailable: the other process is down, or ended before it answered.
            Internal: it ended within its answer; the client's connection has to be cut.
        """
        head = _head(scope, trusted)
        upstream = await self._connect(bodiless=scope["method"] == "HEAD")
        # Who goes away is noticed by asking for more of his request, also while the answer is sent.
        sending = asyncio.create_task(_send_request(upstream, head, receive))
        answering = asyncio.create_task(_send_answer(upstream, send))
        try:
            await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not answering.done() and sending.exception() is None:
                return  # the client is gone
            await answering
        finally:
            sending.cancel()
            answering.cancel()
            upstream.close()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def _connect(self, *, bodiless: bool) -> "_Upstream":
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            with _reachable(self._path) as address:
                sock.connect(address)  # never waits: it succeeds, or the other process has too much to do
            _, upstream = await loop.create_unix_connection(lambda: _Upstream(bodiless=bodiless), sock=sock)
        except OSError as error:
            sock.close()
            raise Unavailable("asking the lake: the process that reads it is not there; try again") from error
        return upstream


def listen(path: Path) -> socket.socket:
    """Return a socket bound at `path` that only this user can connect to, in place of one left over.

    Raises:
        Conflict: there is something else at `path`.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Conflict(f"listening on {path}: there is a file of that name; move it away")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the new file the mode of the descriptor: there is no moment when others may connect.
        os.fchmod(sock.fileno(), 0o600)
        with _reachable(path) as address:
            sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class _reachable:  # noqa: N801 - used as a function
    """Give a name for `path` that fits into a socket address, of 107 bytes, however deep the directory is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)


def _head(scope: Scope, trusted: Iterable[tuple[bytes, bytes]]) -> bytes:
    target: bytes = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1\r\nhost: internal\r\nconnection: close"]
    for name, value in scope["headers"]:
        if name not in _DROPPED and not name.startswith(TRUSTED):
            lines.append(name + b": " + value)
    for name, value in trusted:
        if not name.startswith(TRUSTED) or b"\r" in value or b"\n" in value:
            raise Internal(f"forwarding: header {name!r} cannot be trusted")
        lines.append(name + b": " + value)
    if _has_body(scope):
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in scope["headers"]
    )


async def _send_request(upstream: "_Upstream", head: bytes, receive: Receive) -> None:
    """Send the request, then return when the client has gone away."""
    chunked = head.endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n")
    await upstream.write(head)
    more = True
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if chunked and more:
            body: bytes = message.get("body", b"")
            more = bool(message.get("more_body", False))
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            await upstream.write(piece if more else piece + b"0\r\n\r\n")


def pipe_of(descriptor: int) -> str:
    """Return the value of the header `PIPE` for a pipe that this process has open: its place and inode."""
    return f"/proc/{os.getpid()}/fd/{descriptor} {os.fstat(descriptor).st_ino}"


async def _send_answer(upstream: "_Upstream", send: Send) -> None:
    status, headers = await upstream.head()
    place = next((value for name, value in headers if name == PIPE), None)
    shown = [(name, value) for name, value in headers if not name.startswith(TRUSTED)]
    # Opened before anything is said: what cannot be opened can still be told of.
    pipe = None if place is None else _opened(place)
    try:
        await send({"type": "http.response.start", "status": status, "headers": shown})
        if pipe is not None:
            async for piece in pieces(pipe, PIECE_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await upstream.body()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
    finally:
        if pipe is not None:
            os.close(pipe)
    while body := await upstream.body():
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _opened(named: bytes) -> int:
    place, _, inode = named.partition(b" ")
    try:
        opened = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(_GONE) from error
    # A query that breaks off gives its descriptor back at once, and another one's pipe, or a file of a
    # table, may have the number by now.
    found = os.fstat(opened)
    if not stat.S_ISFIFO(found.st_mode) or str(found.st_ino).encode() != inode:
        os.close(opened)
        raise Unavailable(_GONE)
    return opened


class _Upstream(asyncio.Protocol):
    """One connection to the other process: what it has answered so far, and who waits for more."""

    def __init__(self, *, bodiless: bool) -> None:
        """`bodiless`: the answer says the length of a body that does not follow, as to HEAD."""
        self._bodiless = bodiless
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._head_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._status = 0
        self._complete = False
        self._lost = False
        self._paused = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lost = True
            self._transport.abort()
        if not self._status and self._head_bytes > HEAD_BYTES_MAX:
            self._lost = True
            self._transport.abort()
        if self._waiting_bytes > BUFFER_BYTES_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._lost = True
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        # The process in front frames the body itself, so what is known of its length may stay.
        if name == b"content-length" or name not in _DROPPED:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._complete = self._bodiless

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        self._complete = True

    # What is asked of it.

    async def write(self, data: bytes) -> None:
        """Send bytes; wait while the other process does not take them."""
        await self._writable.wait()
        if not self._lost:
            self._transport.write(data)

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return status and headers of the answer. Raises Unavailable if there is none."""
        while not self._status and not self._lost:
            await self._change()
        if not self._status:
            raise Unavailable("asking the lake: the process that reads it ended; try again")
        return self._status, self._headers

    async def body(self) -> bytes:
        """Return the next piece of the body, b"" at its end. Raises Internal if it was cut off."""
        while not self._pieces and not self._complete and not self._lost:
            await self._change()
        if self._pieces:
            piece = self._pieces.popleft()
            self._waiting_bytes -= len(piece)
            if self._paused and self._waiting_bytes <= BUFFER_BYTES_MAX // 2:
                self._paused = False
                self._transport.resume_reading()
            return piece
        if not self._complete:
            raise Internal("forwarding: the process that reads the lake ended within an answer")
        return b""

    def close(self) -> None:
        """Hang up, whatever is still under way."""
        self._transport.abort()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
