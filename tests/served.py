"""A real server on a directory of its own: the process tree that `profilelake serve` is."""

import base64
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from command_line import COMMAND, clean_environment, run

WRITE_KEY = "wk_served"
READ_TOKEN = "rk_served"
ADMIN_TOKEN = "adm_served"
KEYS = {
    "PROFILELAKE_WRITE_KEY": WRITE_KEY,
    "PROFILELAKE_READ_TOKEN": READ_TOKEN,
    "PROFILELAKE_ADMIN_TOKEN": ADMIN_TOKEN,
}
READY = "profilelake is ready on "
READY_SECONDS_MAX = 180
"""The first start on a machine compiles the kernels."""
STOP_SECONDS_MAX = 30
REQUEST_SECONDS_MAX = 70
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running server: where it is, what opens it, and the few things tests ask of it."""

    directory: Path
    url: str
    process: subprocess.Popen[bytes]
    children: dict[int, str] = field(default_factory=dict)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | object = b"",
        *,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=REQUEST_SECONDS_MAX)
        try:
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            said = dict(headers or {})
            if authorization is not None:
                said["Authorization"] = authorization
            connection.request(method, path, sent or None, said)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes | object, **headers: str) -> Answer:
        """Send events with the write key."""
        return self.request("POST", path, body, authorization=basic(WRITE_KEY), headers=headers)

    def get(self, path: str, token: str = ADMIN_TOKEN) -> Answer:
        """Read with a token."""
        return self.request("GET", path, authorization=f"Bearer {token}")

    def committed(self) -> dict[str, Any]:
        """Wait until everything accepted so far is in state and lake; return the status."""
        answer = self.get("/api/status?wait_for=committed&timeout=60")
        assert answer.status == 200, answer.body
        status: dict[str, Any] = answer.json
        return status

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Ask the lake on the command line."""
        ran = run("sql", "--dir", self.directory, "--json", query)
        assert ran.code == 0, ran.err
        rows: list[dict[str, Any]] = ran.json
        return rows

    def child(self, name: str) -> int:
        """Return the process id of the first child that runs `name`: http or pipeline."""
        return next(pid for pid, what in self.children.items() if what == name)


@contextmanager
def serving(
    directory: Path, environment: Mapping[str, str] | None = None, *arguments: str
) -> Iterator[Served]:
    """Serve a directory; at the end have it drain, and see that it left nobody behind."""
    log = directory.parent / f"{directory.name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--dir", str(directory), "--port", "0", *arguments],
            stdout=sink,
            stderr=sink,
            env=clean_environment() | dict(KEYS if environment is None else environment),
        )
    try:
        served = Served(directory, _wait_until_ready(process, log), process, children_of(process.pid))
        yield served
        served.children |= children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS_MAX) == 0, log.read_text()
        # Workers of a child die with it, by a signal that takes its moment.
        assert not wait_until_dead(list(served.children))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith(READY):
                return line.removeprefix(READY)
        assert process.poll() is None, log.read_text()
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not ready after {READY_SECONDS_MAX} s: {log.read_text()}")


def children_of(pid: int) -> dict[int, str]:
    """Return the children of a supervisor: process id -> http or pipeline."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        found[int(child)] = words[words.index("process") + 1] if "process" in words else ""
    return found


def alive(pid: int) -> bool:
    """Tell whether a process is there and not merely unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_dead(pids: list[int], seconds_max: float = 10) -> list[int]:
    """Return those that are still alive when time is up."""
    deadline = time.monotonic() + seconds_max
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def basic(key: str) -> str:
    """Return a key as a Basic user name."""
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()
