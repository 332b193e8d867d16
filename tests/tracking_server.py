"""The tracking API as it runs in production, in a thread: real sockets, real control database, real log."""

import asyncio
import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry

from profilelake.collect.limits import CollectLimits
from profilelake.collect.tracking import Tracking
from profilelake.eventlog import Record
from profilelake.eventlog.embedded import Files, Limits, LogReader, LogWriter
from profilelake.ops.http import Application, HttpLimits, bind, run, serve_app
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.keyring import KeyRing

WRITE_KEY = "wk_test"
START_SECONDS = 10
TRACK = {"type": "track", "userId": "u-1", "event": "Signed In", "messageId": "m-1"}


def now() -> int:
    return time.time_ns() // 1000


def basic(key: str, *, colon: bool = True) -> str:
    return "Basic " + base64.b64encode((key + (":" if colon else "")).encode()).decode()


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FailingDisk(Files):
    """Refuses to sync while `broken`; holds syncs back while `open` is not set."""

    def __init__(self) -> None:
        self.broken = False
        self.open = threading.Event()
        self.open.set()

    def fdatasync(self, descriptor: int) -> None:
        self.open.wait(30)
        if self.broken:
            raise OSError(5, "Input/output error")
        os.fdatasync(descriptor)


class TrackingServer:
    """Started on entry, drained on exit. `records` are what is durable by then."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: CollectLimits | None = None,
        http: HttpLimits | None = None,
        log_limits: Limits | None = None,
        files: Files | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        otherwise: Application | None = None,
    ) -> None:
        self.log = directory / "log"
        self.control = Control.open(directory / CONTROL_FILE, os.urandom)
        self.control.ensure_default(now=now(), write_key=WRITE_KEY)
        self.keys = KeyRing(directory / CONTROL_FILE, monotonic=monotonic)
        self.registry = CollectorRegistry()
        self.writer: LogWriter
        self._limits = limits or CollectLimits()
        self._http = http or HttpLimits()
        self._log_limits = log_limits
        self._files = files
        self._otherwise = otherwise
        self._monotonic = monotonic
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: run(self._main()), name="tracking-server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS + self._http.drain_seconds)
        assert not self._thread.is_alive()
        self.control.close()
        self.keys.close()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.writer = LogWriter(
            self.log, region="here", clock=now, limits=self._log_limits, files=self._files
        )
        app = Tracking(
            self.writer,
            self.keys,
            self._limits,
            self.registry,
            self._otherwise,
            monotonic=self._monotonic,
        )
        sock = bind("127.0.0.1", 0)
        self.port = sock.getsockname()[1]
        try:
            await serve_app(app, sock, self._http, stop=self._stop, on_ready=self._ready.set)
        finally:
            self.writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def records(self) -> list[Record]:
        """Return what is in the log, once no request is under way."""
        reader = LogReader(self.log, clock=now)
        try:
            return reader.read({}, bytes_max=1 << 30, events_max=1 << 30, wait_max_seconds=0.3).records
        finally:
            reader.close()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS)

    def raw(self, request: bytes) -> Response:
        """Send bytes, and read one response."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_response(connection)

    def send(
        self,
        path: str,
        body: bytes | dict[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = WRITE_KEY,
        method: str = "POST",
    ) -> Response:
        """Send one request on a connection of its own."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Host": "x", "Content-Length": str(len(payload)), **(headers or {})}
        if key is not None:
            lines.setdefault("Authorization", basic(key))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + payload)


def head(server: TrackingServer, path: str) -> bytes:
    """Ask by HEAD, and return what came, which ends with the headers."""
    with server.connect() as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := connection.recv(65536):
            data += piece
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"\r\n\r\n") == 1
    return data


def read_response(connection: socket.socket) -> Response:
    """Read one response; the connection may stay open."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {data!r}")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1])
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed inside a body")
        body += piece
    assert len(body) == length, f"bytes after the response: {body[length:]!r}"
    return Response(status, headers, body)
