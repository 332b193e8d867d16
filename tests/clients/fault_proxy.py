"""Stands between a sender and the server: passes everything on, except where a test wants a fault."""

import gzip
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

UPSTREAM_SECONDS_MAX = 30
CLIENT_METRICS = "/v1/m"
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


@dataclass(frozen=True)
class Fault:
    """A refusal the server did not make. Its other headers are those of a refusal it did make."""

    status: int
    retry_after: int | None = None


@dataclass
class Seen:
    """One request for events, and what became of it; `status` is None where nobody answered."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in it."""
        packed = self.headers.get("content-encoding") == "gzip"
        message = json.loads(gzip.decompress(self.body) if packed else self.body)
        events: list[dict[str, Any]] = message.get("batch", [message])
        return events


@dataclass
class FaultProxy:
    """A running proxy, what it has seen, and the faults it still has to make."""

    url: str
    upstream: tuple[str, int]
    faults: Sequence[Fault]
    """What each event meets on its way, one an attempt, before it gets through."""
    seen: list[Seen] = field(default_factory=list)
    _met: Counter[str] = field(default_factory=Counter)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def delivered(self) -> set[str]:
        """The message ids of events whose sender was told that they are stored."""
        return {event["messageId"] for seen in list(self.seen) if seen.status == 200 for event in seen.events}

    def wait_delivered(self, count: int, seconds_max: float) -> None:
        """Wait until so many different events are delivered."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.delivered) >= count, seconds_max), [
                (seen.path, seen.status, seen.body) for seen in self.seen
            ]

    def attempts(self) -> dict[str, list[Seen]]:
        """The requests each event was in, by message id."""
        found: dict[str, list[Seen]] = {}
        for seen in self.seen:
            for event in seen.events:
                found.setdefault(event["messageId"], []).append(seen)
        return found

    def begin(self, request: Seen) -> Fault | None:
        """Note a request for events; return the fault it meets, if it meets one."""
        with self._changed:
            self.seen.append(request)
            ids = [event["messageId"] for event in request.events] if self.faults else []
            met = min((self._met[id] for id in ids), default=len(self.faults))
            self._met.update(ids)
            return self.faults[met] if met < len(self.faults) else None

    def end(self, request: Seen, status: int) -> None:
        """Note how a request was answered."""
        with self._changed:
            request.status = status
            self._changed.notify_all()


@contextmanager
def fault_proxy(server_url: str, faults: Sequence[Fault] = ()) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server; see `FaultProxy.faults`."""
    upstream = urlsplit(server_url)
    assert upstream.hostname is not None
    assert upstream.port is not None
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}", (upstream.hostname, upstream.port), faults)
    server.proxy = proxy  # type: ignore[attr-defined]
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy")
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Passes one request on. HTTP/1.0, so each has a connection of its own, and none is left open."""

    timeout = UPSTREAM_SECONDS_MAX

    def _pass(self) -> None:
        proxy: FaultProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.command != "POST" or urlsplit(self.path).path == CLIENT_METRICS:
            self._answer(*self._upstream(proxy, headers, body))
            return
        request = Seen(time.monotonic(), self.path, headers, body)
        fault = proxy.begin(request)
        try:
            status, said, answer = self._upstream(proxy, headers, b"" if fault else body)
        except (OSError, http.client.HTTPException):
            return  # the server ended; so does this connection, without an answer
        if fault is not None:
            assert 400 <= status < 500, f"an empty body was answered with {status}"
            status = fault.status
            if fault.retry_after is not None:
                said["retry-after"] = str(fault.retry_after)
        self._answer(status, said, answer)
        proxy.end(request, status)

    def _upstream(
        self, proxy: FaultProxy, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*proxy.upstream, timeout=UPSTREAM_SECONDS_MAX)
        try:
            passed = {name: value for name, value in headers.items() if name not in _OF_THE_CONNECTION}
            if body or self.command == "POST":
                passed["content-length"] = str(len(body))
            connection.request(self.command, self.path, body or None, passed)
            answer = connection.getresponse()
            said = {
                name.lower(): value
                for name, value in answer.getheaders()
                if name.lower() not in _OF_THE_CONNECTION
            }
            return answer.status, said, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_OPTIONS = do_HEAD = _pass  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass
