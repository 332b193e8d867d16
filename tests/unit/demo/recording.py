"""A loopback server that records what a client sends and answers as a test tells it to."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Recorder:
    """The requests seen so far; `answers` are given first, (status, headers), then 200 for ever."""

    def __init__(self) -> None:
        self.url = ""
        self.batches: list[list[dict[str, Any]]] = []
        self.authorizations: set[str | None] = set()
        self.statuses: list[int] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events of all requests answered with 200."""
        return [
            event
            for batch, status in zip(self.batches, self.statuses, strict=True)
            if status == 200
            for event in batch
        ]


@contextmanager
def recording() -> Iterator[Recorder]:
    """Run a recorder on a free port of the loopback interface."""
    found = Recorder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with found.lock:
                status, headers = found.answers.pop(0) if found.answers else (200, {})
                found.batches.append(json.loads(body)["batch"])
                found.statuses.append(status)
                found.authorizations.add(self.headers.get("Authorization"))
            answer = b'{"success":true}' if status == 200 else b'{"code":"refused","message":"by the test"}'
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
