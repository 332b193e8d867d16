"""A proxy in front of an S3 server that does to requests what networks and busy servers do."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

Fault = Literal[
    "",
    "slow_down",
    "broken",
    "expired",
    "denied",
    "no_bucket",
    "elsewhere",
    "other_region",
    "full",
    "quota",
    "reset",
    "cut",
    "lost",
    "hang",
    "slow",
    "no_range",
]
"""What becomes of a request.

Those before `reset`, and `no_range`, are answered here; at `reset` the connection breaks after half of
it; at `cut` too, but the server keeps the half that came, as SeaweedFS does and S3 does not; at `lost` the server does it and the answer is lost; at `hang` nobody answers; `slow` is answered late.
"""

_ANSWERS: Final[dict[str, tuple[str, str]]] = {
    "slow_down": ("503 Slow Down", "SlowDown"),
    "broken": ("500 Internal Server Error", "InternalError"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "denied": ("403 Forbidden", "AccessDenied"),
    "no_bucket": ("404 Not Found", "NoSuchBucket"),
    "elsewhere": ("301 Moved Permanently", "PermanentRedirect"),
    "other_region": ("400 Bad Request", "AuthorizationHeaderMalformed"),
    "full": ("507 Insufficient Storage", "XMinioStorageFull"),
    "quota": ("403 Forbidden", "QuotaExceeded"),
    "no_range": ("416 Range Not Satisfiable", "InvalidRange"),
}
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONNECTION: Final = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)
PIECE: Final = 1 << 16
SLOW_SECONDS: Final = 0.3
HANG_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Asked:
    """A request, and the how-manieth it is."""

    number: int
    method: str
    path: str


def never(_: Asked) -> Fault:
    """Let all pass."""
    return ""


@dataclass
class FaultyProxy:
    """The proxy; `rule` may be set anew at any time. `latency` seconds pass before each request."""

    upstream: str
    rule: Callable[[Asked], Fault] = never
    latency: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    _listener: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=128)
    )
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def first(self, count: int, fault: Fault, method: str = "", part: str = "") -> None:
        """Let the next requests of a kind, so many of them, meet a fault, and all others pass."""
        left = [count]

        def rule(asked: Asked) -> Fault:
            if left[0] and asked.method.startswith(method) and part in asked.path:
                left[0] -= 1
                return fault
            return ""

        self.rule = rule

    def serve(self) -> None:
        """Take connections until closed, each in a thread."""
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            request = _request(client)
            if request is None:
                return
            method, path, *_ = request[0].split(b"\r\n", 1)[0].decode().split(" ")
            with self._lock:
                asked = Asked(len(self.asked), method, path)
                self.asked.append(asked)
                fault = self.rule(asked)
            if self.latency:
                self._stop.wait(self.latency)
            self._answer(client, request, fault)

    def _answer(self, client: socket.socket, request: tuple[bytes, bytes], fault: Fault) -> None:
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            said = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
            client.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n{said}".encode()
            )
            return
        if fault == "hang":
            self._stop.wait(HANG_SECONDS)
            return
        if fault == "slow":
            self._stop.wait(SLOW_SECONDS)
        if fault == "reset":
            _break(client)
            return
        head, body = request
        if fault == "cut":
            body = body[: len(body) // 2]
        parts = urlsplit(self.upstream)
        with socket.create_connection(
            (parts.hostname or "", parts.port or 80), timeout=HANG_SECONDS
        ) as server:
            server.sendall(_CONNECTION.sub(b"", head)[:-4] + b"\r\nConnection: close\r\n\r\n" + body)
            if fault == "cut":
                server.shutdown(socket.SHUT_WR)
            while piece := server.recv(PIECE):
                if fault not in ("lost", "cut"):
                    client.sendall(piece)
        if fault in ("lost", "cut"):
            _break(client)


def _request(client: socket.socket) -> tuple[bytes, bytes] | None:
    """Read a request: its head, with the empty line, and its body."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = client.recv(PIECE)
        if not piece:
            return None
        read += piece
    head, _, body = read.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    length = int(found[1]) if found else 0
    parts = [body]
    have = len(body)
    while have < length:
        piece = client.recv(PIECE)
        if not piece:
            return None
        parts.append(piece)
        have += len(piece)
    return head + b"\r\n\r\n", b"".join(parts)


def _break(client: socket.socket) -> None:
    """Close a connection as a crash does: with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


@contextlib.contextmanager
def faulty(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server."""
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
