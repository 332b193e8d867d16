"""A server of our own for the demo: a child process, and what it answers over HTTP."""

import base64
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from profilelake.errors import Conflict, Corrupt, Internal, Invalid, NotFound, ProfilelakeError, Unavailable

READY_SECONDS_MAX: Final = 120.0
"""The first start of all compiles the identity kernel, which takes a while."""
STOP_SECONDS_MAX: Final = 30.0
STATUS_WAIT_SECONDS: Final = 60
COMMIT_SECONDS_MAX: Final = 600.0
LOG_LINES_SHOWN: Final = 15
REQUEST_SECONDS_MAX: Final = 20.0
SPACE: Final = "default"

_POLL_SECONDS: Final = 0.05
_DEATH_SIGNAL_OPTION: Final = 1  # PR_SET_PDEATHSIG of Linux
_FAILURES: Final[dict[int, type[ProfilelakeError]]] = {
    failure.exit_code: failure for failure in (Invalid, NotFound, Conflict, Unavailable, Corrupt)
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys a fresh data directory was given."""

    write_key: str
    read_token: str
    admin_token: str


class ServerProcess:
    """`profilelake serve` on a directory, started on entry and ended on exit.

    The server's own words go to `run/demo-server.log` in the directory. It dies with this process,
    even if this process is killed.
    """

    def __init__(self, directory: Path, host: str, port: int) -> None:
        self.directory = directory
        self.url = ""
        self._log = directory / "run" / "demo-server.log"
        self._command = [sys.executable, "-m", "profilelake", "serve", "--dir", str(directory)]
        self._command += ["--host", host, "--port", str(port)]

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C at the terminal reaches the demo alone, which then ends the server in order.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread is running yet
            )
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.url = self._wait_until_ready()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Return the process id of the server's supervisor."""
        return self._process.pid

    def credentials(self) -> Credentials:
        """Return the keys from `credentials.json`, which environment variables may overrule."""
        path = self.directory / "credentials.json"
        written = json.loads(path.read_text()) if path.exists() else {}
        found = {
            name: os.environ.get(f"PROFILELAKE_{name.upper()}") or written.get(name)
            for name in ("write_key", "read_token", "admin_token")
        }
        missing = [name for name, value in found.items() if not value]
        if missing:
            raise Invalid(
                f"reading the keys of the demo: {path} has no {', '.join(missing)}; "
                "give another --dir, or set PROFILELAKE_WRITE_KEY, PROFILELAKE_READ_TOKEN and PROFILELAKE_ADMIN_TOKEN"
            )
        return Credentials(**{name: str(value) for name, value in found.items()})

    def check(self) -> None:
        """Raise what the server died of, with its last words; return if it is alive."""
        code = self._process.poll()
        if code is None:
            return
        failure = _FAILURES.get(code, Internal)
        raise failure(
            f"the demo's server ended with code {code}; its last words, from {self._log}:\n{self.last_words()}"
        )

    def last_words(self) -> str:
        """Return the last lines of the server's log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])

    def wait(self) -> None:
        """Wait until the server ends by itself, and raise what it died of."""
        self._process.wait()
        self.check()

    def stop(self) -> None:
        """End the server: ask first, and insist when it does not listen."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_ready(self) -> str:
        """Return the address the server says it is ready on."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            self.check()
            for line in self._log.read_text(errors="replace").splitlines():
                _, ready, address = line.partition("profilelake is ready on ")
                if ready:
                    return address.split()[0].rstrip("/.,")
            time.sleep(_POLL_SECONDS)
        raise Unavailable(
            f"starting the demo's server: not ready after {READY_SECONDS_MAX:.0f} s; its last words:\n{self.last_words()}"
        )


class Api:
    """The few requests the demo makes besides those of the SDK, over one kept-alive connection."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port, timeout=STATUS_WAIT_SECONDS + REQUEST_SECONDS_MAX
        )
        self._credentials = credentials

    def status(self) -> dict[str, Any]:
        """Return the server's account of all events."""
        status, body = self._request("GET", "/api/status", self._credentials.admin_token)
        return _expect(status, body, "asking for the status", 200)

    def wait_until_committed(self, check_server: Callable[[], None]) -> dict[str, Any]:
        """Return the status once everything accepted so far is in state and lake."""
        path = f"/api/status?wait_for=committed&timeout={STATUS_WAIT_SECONDS}"
        deadline = time.monotonic() + COMMIT_SECONDS_MAX
        while True:
            check_server()
            status, body = self._request("GET", path, self._credentials.admin_token)
            if status != 504 or time.monotonic() > deadline:
                return _expect(status, body, "waiting until everything is committed", 200)

    def identify(self, user_id: str, traits: dict[str, object], message_id: str) -> None:
        """Send one identify call and return when it was accepted."""
        event = {"userId": user_id, "traits": traits, "messageId": message_id}
        status, body = self._request("POST", "/v1/identify", self._credentials.write_key, event)
        _expect(status, body, "sending an identify call", 200)

    def profile(self, identifier: str, resource: str) -> dict[str, Any] | None:
        """Return a resource of a profile, such as `traits?limit=200`; None where there is no such profile."""
        path = f"/v1/spaces/{SPACE}/collections/users/profiles/{quote(identifier, safe=':')}/{resource}"
        status, body = self._request("GET", path, self._credentials.read_token)
        return None if status == 404 else _expect(status, body, f"reading the profile of {identifier}", 200)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _request(self, method: str, path: str, key: str, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            self._connection.request(method, path, content, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unavailable(f"asking the demo's server for {path}: {error!r}") from error
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")


def _expect(status: int, body: Any, doing: str, wanted: int) -> dict[str, Any]:
    if status != wanted or not isinstance(body, dict):
        raise Unavailable(f"{doing}: the server answered {status}: {str(body)[:500]}")
    return body


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL_OPTION, signal.SIGTERM)
