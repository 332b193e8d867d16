"""Receivers of webhooks on loopback, real servers that behave well or badly."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_SECONDS_MAX = 60


@dataclass
class Request:
    """One request as it came: its headers by lower-case name, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def records(self) -> list[dict[str, Any]]:
        document = json.loads(self.body)
        found: list[dict[str, Any]] = document.get("records", document.get("batch"))
        return found


@dataclass
class Receiver:
    """A receiver: what came, and what it does with the next one. `answer` gives status and headers."""

    url: str
    answer: Callable[[Request], tuple[int, dict[str, str]]] = field(default=lambda _request: (200, {}))
    requests: list[Request] = field(default_factory=list)
    accepted: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of all requests that were answered with 2xx, in order."""
        with self.lock:
            return [record for request in self.accepted for record in request.records]

    def wait(self, count: int) -> list[dict[str, Any]]:
        """Return the accepted records once there are so many."""
        wait_until(lambda: len(self.records) >= count)
        return self.records


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


@contextmanager
def receiving(
    answer: Callable[[Request], tuple[int, dict[str, str]]] | None = None,
    *,
    drip: bool = False,
    reset: int = 0,
) -> Iterator[Receiver]:
    """Receive on loopback. `drip` answers a byte a second for ever, `reset` breaks so many connections off."""
    resets = [reset]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            body = self.rfile.read(size)
            if len(body) < size:
                return  # the sender was killed in the middle
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            with receiver.lock:
                receiver.requests.append(request)
                broken = resets[0] > 0
                resets[0] -= 1
            if broken:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            if drip:
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                while not stopping.wait(0.05):
                    try:
                        self.wfile.write(b".")
                        self.wfile.flush()
                    except OSError:
                        return
                return
            status, headers = receiver.answer(request)
            if 200 <= status < 300:
                with receiver.lock:
                    receiver.accepted.append(request)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass

    stopping = threading.Event()
    server = Quiet(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook")
    if answer is not None:
        receiver.answer = answer
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
