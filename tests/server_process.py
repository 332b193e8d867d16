"""A real server on a data directory: its processes, its HTTP, and the ways in which they may die."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tracking_server import basic

WRITE_KEY = "wk_crash"
ADMIN_TOKEN = "adm_crash"
START_SECONDS = 240
"""The first start on a machine compiles kernels."""
STOP_SECONDS = 60
DIE_SECONDS = 10
COMMIT_SECONDS = 120


class ServerProcess:
    """`profilelake serve` with one HTTP process; publishes to the lake three times a second."""

    def __init__(self, directory: Path, *, failpoint: str = "") -> None:
        self.directory = directory
        self.messages = directory.with_name(directory.name + ".err")
        self._address = ("127.0.0.1", 0)
        environment = {
            **os.environ,
            "PROFILELAKE_WRITE_KEY": WRITE_KEY,
            "PROFILELAKE_READ_TOKEN": "rk_crash",
            "PROFILELAKE_ADMIN_TOKEN": ADMIN_TOKEN,
            "PROFILELAKE_HTTP_PROCESSES": "1",
            "PROFILELAKE_PIPELINE_LAKE_AGE_SECONDS": "0.3",
            "PROFILELAKE_PIPELINE_PUBLISH_AGE_SECONDS": "1",
            "PROFILELAKE_PIPELINE_LOG_RETENTION_HOURS": "1",
            "PROFILELAKE_FAILPOINT": failpoint,
        }
        with self.messages.open("w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "profilelake", "serve", "--dir", str(directory), "--port", "0"],
                env=environment,
                stderr=sink,
            )

    def wait_ready(self) -> None:
        """Return once the server says that it is ready."""
        place = self.directory / "run" / "server.json"
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at and self.process.poll() is None:
            if place.exists():
                document = json.loads(place.read_text())
                if document["pid"] == self.process.pid:
                    parts = urlsplit(document["url"])
                    self._address = (str(parts.hostname), parts.port or 0)
                    return
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.messages.read_text()}")

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and document of one request."""
        token = basic(WRITE_KEY) if path.startswith("/v1/") else f"Bearer {ADMIN_TOKEN}"
        connection = http.client.HTTPConnection(*self._address, timeout=COMMIT_SECONDS + 30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Authorization": token})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def send(self, messages: Sequence[dict[str, Any]], *, seconds: float = COMMIT_SECONDS) -> None:
        """Send a batch until it is acknowledged, as SDKs do."""
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            try:
                status, _ = self.request("POST", "/v1/batch", {"batch": list(messages)})
            except (OSError, http.client.HTTPException):
                status = 0
            if status == 200:
                return
            assert status in (0, 503), status
            time.sleep(0.05)
        raise AssertionError(f"not accepted within {seconds} s: {self.messages.read_text()}")

    def committed(self) -> dict[str, Any]:
        """Return the status once everything accepted so far is in state and lake."""
        give_up_at = time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                status, document = self.request("GET", "/api/status?wait_for=committed&timeout=60")
            except (OSError, http.client.HTTPException):
                status, document = 0, {}
            if status == 200:
                return dict(document)
            assert time.monotonic() < give_up_at, (document, self.messages.read_text())
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Return the processes the supervisor runs now."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def child(self, kind: str) -> int:
        """Return the process of one kind, `http` or `pipeline`."""
        for pid in self.children():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if kind.encode() in command:
                return pid
        raise AssertionError(f"no {kind} process")

    def stop(self) -> None:
        """Drain and end as a service manager would."""
        self.process.terminate()
        assert self.process.wait(STOP_SECONDS) == 0, self.messages.read_text()

    def kill(self) -> None:
        """Kill the supervisor alone; nobody it started may survive."""
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DIE_SECONDS)
        give_up_at = time.monotonic() + DIE_SECONDS
        while any(_alive(pid) for pid in children):
            assert time.monotonic() < give_up_at, "a child survived its parent"
            time.sleep(0.01)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
