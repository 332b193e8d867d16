"""Serve an ASGI application on a socket, and survive clients that are slow, broken or hostile.

uvicorn with uvloop and httptools, plus the limits it lacks: time-outs for headers, bodies and slow
readers, bytes and number of headers, connections per process. What a request means is the
application's business.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Final, TypeAlias, TypeVar

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from profilelake.errors import Internal

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment]  # slower, for systems uvloop does not run on

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one process grants its clients. Seconds are kept to within `SWEEP_SECONDS`."""

    connections_max: int = 4_096
    """Open connections; one more is told to come back and closed."""
    header_seconds: float = 10.0
    """From the start of a connection, or of the next request on it, to the end of its headers."""
    header_bytes_max: int = 32_768
    """Bytes of request line and headers together."""
    headers_max: int = 100
    """Headers of one request."""
    body_seconds: float = 60.0
    """From the end of the headers to the end of the body."""
    keep_alive_seconds: float = 75.0
    """How long an unused connection stays open: longer than the 60 s of common load balancers, which
    would otherwise send requests into connections that close."""
    write_seconds: float = 30.0
    """How long a client may leave an answer unread once it fills the buffers."""
    drain_seconds: float = 10.0
    """How long requests under way may take once the server is told to stop."""
    backlog: int = 2_048
    """Connections the kernel holds before they are accepted."""


_CONTROL_CHARACTERS: Final = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Answer:
    """The two ASGI messages of a whole answer, good for any number of requests and any ASGI server.

    Our own server sends the two in one write, from bytes that were put together once.
    """

    start: Message
    body: Message


def answer(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, content_type: bytes) -> Answer:
    """Return an answer made ready. The lengths and names of `headers` are the caller's, the rest is added.

    Raises:
        Internal: a header would break out of its line.
    """
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    for name, value in headers:
        if _CONTROL_CHARACTERS.search(name) or _CONTROL_CHARACTERS.search(value):
            raise Internal(f"building an answer with status {status}: header {name!r} has control characters")
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    if not any(name == b"connection" for name, _ in headers):
        # Closing the connection is left to the server's usual way.
        lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
        start[_PREPARED] = lines + b"\r\n" + body
    return Answer(start, {"type": "http.response.body", "body": body, "more_body": False})


class AnswerForm:
    """What many answers have in common, checked and put together once: status, content type, some headers."""

    __slots__ = ("_bare", "_headers", "_lines", "_status")

    def __init__(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], content_type: bytes | None
    ) -> None:
        """Without a content type its answers have no body at all. Raises Internal as `answer` does.

        No header may be `connection`: whether it ends is left to the server.
        """
        made = answer(status, headers, b"", content_type or b"").start["headers"]
        self._status = status
        self._bare = content_type is None
        self._headers = made[2:] if self._bare else [made[0], *made[2:]]
        self._lines = b"".join([name + b": " + value + b"\r\n" for name, value in self._headers])

    def answer(self, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> Answer:
        """Return an answer with a few more headers; the caller made those, so they are not checked."""
        own = headers if self._bare else [*headers, (b"content-length", b"%d" % len(body))]
        lines = b"".join([b"%b: %b\r\n" % header for header in own])
        start: Message = {
            "type": "http.response.start",
            "status": self._status,
            "headers": [*self._headers, *own],
            _PREPARED: b"%b%b\r\n%b" % (self._lines, lines, body),
        }
        return Answer(start, {"type": "http.response.body", "body": body, "more_body": False})


_PREPARED: Final = "profilelake.prepared"
"""Key of a start message for headers and body as they go over the wire."""

SWEEP_SECONDS: Final = 0.5
"""How often deadlines are looked at: one pass over all connections costs less than a timer for each request."""
BUSY_RETRY_SECONDS: Final = 1
"""What a client is told that finds all connections taken."""


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that other processes can share the port with (`SO_REUSEPORT`). Port 0: any."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def run(main: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Run `main` on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def serve_app(
    app: Application,
    sock: socket.socket,
    limits: HttpLimits,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Answer requests on `sock` until `stop` is set, then finish those under way and close it.

    `on_ready` is called once connections are accepted. Signals are the caller's business.
    """
    config = Config(
        app,
        http=partial(_Connection, limits=limits),  # type: ignore[arg-type]
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=ceil(limits.drain_seconds),
        backlog=limits.backlog,
    )
    # Whoever sends nonsense must not be able to fill the disk with what we write about it.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = _Server(config)
    background = [
        asyncio.create_task(_sweep(server.server_state)),
        asyncio.create_task(_stop(server, stop)),
    ]
    try:
        await server.serve_until_told(sock, on_ready)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


class _Server(Server):
    async def serve_until_told(self, sock: socket.socket, on_ready: Callable[[], None] | None) -> None:
        # `Server.serve` would take over the signals of the whole process.
        self._on_ready = on_ready
        await self._serve(sockets=[sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_ready is not None:
            self._on_ready()


async def _stop(server: Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


async def _sweep(state: ServerState) -> None:
    """Close the connections whose time is up."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = loop.time()
        for connection in list(state.connections):
            if isinstance(connection, _Connection) and connection.deadline <= now:
                connection.expire()


_NEVER: Final = float("inf")


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol with a deadline at each stage of a request, and bounded headers."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self.deadline = _NEVER
        self._unused = False
        self._in_head = False
        self._head_bytes = 0
        self._head_headers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline = self.loop.time() + self._limits.header_seconds
        if len(self.connections) > self._limits.connections_max:
            self._refuse(503, "too_many_connections", "all connections are taken; retry later")

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = _NEVER
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._unused:
            self._unused = False
            self.deadline = self.loop.time() + self._limits.header_seconds
        was_in_head = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, _HeadTooLarge):
                self._refuse(431, "headers_too_large", "the request has more headers than are read")
            elif isinstance(cause, _UpgradeAsked):
                self._refuse(400, "invalid_request", "only HTTP/1.1 is spoken: send no Upgrade header")
            else:
                self._refuse(400, "invalid_request", "this is not an HTTP request")
            return
        if was_in_head and self._in_head:
            # Only whole headers are reported by the parser; the bytes of one that does not end count here.
            # The first piece is left out: a body before it may be most of it.
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.header_bytes_max:
                self._refuse(431, "headers_too_large", "the request has more headers than are read")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_headers = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_headers += 1
        if self._head_headers > self._limits.headers_max:
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        self._in_head = False
        limits = self._limits
        if (
            sum([len(name) + len(value) for name, value in self.headers]) + len(self.url)
            > limits.header_bytes_max
        ):
            raise _HeadTooLarge
        if self.parser.should_upgrade():
            # The parser takes what follows for the other protocol, so a body would be lost.
            raise _UpgradeAsked
        self.deadline = self.loop.time() + limits.body_seconds
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_request()
        else:
            # From here on the application has the word, until the answer is written.
            self.deadline = _NEVER

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def in_one_write(scope: Any, receive: Any, _send: Any) -> None:
            await app(scope, receive, _OneWrite(cycle).send)

        super()._start_asgi_task(cycle, in_one_write)

    def on_response_complete(self) -> None:
        # As uvicorn has it, with a deadline in place of a timer for each request.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self.cycle.more_body:
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._unused = not self._in_head
        seconds = self._limits.keep_alive_seconds if self._unused else self._limits.header_seconds
        self.deadline = self.loop.time() + seconds

    def pause_writing(self) -> None:
        super().pause_writing()
        self.deadline = self.loop.time() + self._limits.write_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        cycle: RequestResponseCycle | None = self.cycle
        receiving = cycle is not None and cycle.more_body
        self.deadline = self.loop.time() + self._limits.body_seconds if receiving else _NEVER

    def expire(self) -> None:
        """Close a connection whose time is up; say why where nothing was answered yet."""
        self.deadline = _NEVER
        cycle: RequestResponseCycle | None = self.cycle
        if self.flow.write_paused:
            self.transport.abort()
        elif cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self.transport.abort()
            else:
                self._refuse(408, "request_timeout", "the request did not arrive in time")
        elif self._in_head:
            self._refuse(408, "request_timeout", "the request did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without asking the application, and close."""
        body = json.dumps({"success": False, "message": message, "code": code}).encode()
        self.transport.write(_REFUSAL % (status, _PHRASES[status], len(body), BUSY_RETRY_SECONDS, body))
        self.transport.close()


class _OneWrite:
    """Sends the messages of one request; a prepared answer goes out as one piece.

    uvicorn writes headers and body apart, and on a small answer the second write costs as much as
    all our work on the request.
    """

    __slots__ = ("_complete", "_cycle")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._complete = False

    async def send(self, message: Message) -> None:
        cycle = self._cycle
        if self._complete:
            # The body of an answer that is written already.
            self._complete = False
            return
        prepared = message.get(_PREPARED)
        if (
            prepared is None
            or cycle.response_started
            or not cycle.keep_alive
            or cycle.scope["method"] == "HEAD"
        ):
            await cycle.send(message)  # type: ignore[arg-type]
            return
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        self._complete = True
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        dated = [name + b": " + value + b"\r\n" for name, value in cycle.default_headers]
        cycle.transport.write(b"".join([STATUS_LINE[message["status"]], *dated, prepared]))
        cycle.message_event.set()
        cycle.on_response()


class _UpgradeAsked(httptools.HttpParserError):
    """The client wants to speak another protocol; raised through the parser."""


class _HeadTooLarge(httptools.HttpParserError):
    """The headers of a request pass a limit; raised through the parser."""


_PHRASES: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_REFUSAL: Final = (
    b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nretry-after: %d\r\n"
    b"access-control-allow-origin: *\r\nconnection: close\r\n\r\n%s"
)
