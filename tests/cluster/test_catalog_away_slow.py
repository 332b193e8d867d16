"""A catalog that is killed, and comes back minutes later, under a running server: nothing is refused, lost or doubled."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cluster_servers import postgresql, seaweed
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.settings import Layout
from server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AWAY_SECONDS = 12
GONE_SECONDS = 20


@dataclass
class Killable:
    """A server of ours that can be killed and started again as it was."""

    command: list[str]
    environment: dict[str, str]
    user: int
    pid: int
    how: signal.Signals
    folder: Path = Path("/")
    again: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @classmethod
    def running(cls, word: str, how: signal.Signals) -> "Killable":
        """Find the process that this one started, by a word of its command."""
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in map(int, children):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
            if command and word in command[0]:
                pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                return cls(command, environment, Path(f"/proc/{pid}").stat().st_uid, pid, how)
        raise AssertionError(f"no {word} runs")

    def kill(self) -> None:
        os.kill(self.pid, self.how)
        give_up_at = time.monotonic() + GONE_SECONDS
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < give_up_at, "it lives"
            time.sleep(0.05)

    def start(self) -> None:
        # Any session of pytest that begins meanwhile closes the folder of all to other accounts.
        for parent in self.folder.parents:
            if parent != Path("/") and parent.stat().st_uid == os.getuid():
                parent.chmod(parent.stat().st_mode | 0o011)
        self.again.append(subprocess.Popen(self.command, env=self.environment, user=self.user))

    def end(self) -> None:
        # Asked kindly, PostgreSQL waits for whoever is still connected.
        for process in self.again:
            process.send_signal(self.how)
            process.wait(GONE_SECONDS)


@pytest.fixture(params=["postgresql", "rest"])
def catalog(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Killable]:
    """Start a catalog of its own, and have the environment name it."""
    with ExitStack() as stack:
        if request.param == "postgresql":
            url = stack.enter_context(postgresql(tmp_path / "catalog"))
            monkeypatch.setenv("PROFILELAKE_LAKE_CATALOG", url)
            found = Killable.running("postgres", signal.SIGQUIT)  # leaves at once, as in a crash
        else:
            server = stack.enter_context(seaweed(tmp_path / "catalog"))
            for name, value in {
                "PROFILELAKE_LAKE_CATALOG": server.catalog,
                "PROFILELAKE_LAKE_CATALOG_OPTIONS": f"warehouse={server.warehouse.rstrip('/')}",
                "PROFILELAKE_LAKE_TABLE_LOCATIONS": "catalog",
                "PROFILELAKE_LAKE_WAREHOUSE": f"s3://{server.bucket}/lake",
                "PROFILELAKE_CATALOG_SECRET": f"{server.access_key}:{server.secret_key}",
                "PROFILELAKE_STORAGE_ENDPOINT": server.endpoint,
                "PROFILELAKE_STORAGE_PLAIN_HTTP": "allowed",
                "PROFILELAKE_STORAGE_RETRY_SECONDS": "2",
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            }.items():
                monkeypatch.setenv(name, value)
            found = Killable.running("weed", signal.SIGKILL)
        found.folder = tmp_path / "catalog"
        stack.callback(found.end)
        yield found


def message(number: int) -> dict[str, Any]:
    return {"type": "track", "event": "Seen", "userId": f"u{number % 7}", "messageId": f"m{number}"}


def in_lake(directory: Path) -> list[tuple[int, int]]:
    with duckdb.connect() as connection, closing(Lake.of(Layout(directory))) as lake:
        attach(connection, lake, "default")
        counted = connection.execute("SELECT count(*), count(DISTINCT message_id) FROM events").fetchall()
    return [(int(rows), int(ids)) for rows, ids in counted]


def test_ingestion_goes_on_and_commits_resume(catalog: Killable, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    sent = 0
    with ServerProcess(directory) as server:
        server.wait_ready()
        server.send([message(number) for number in range(50)])
        sent = 50
        server.committed()
        catalog.kill()
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            status, _ = server.request("POST", "/v1/batch", {"batch": [message(sent)]})
            assert status == 200
            sent += 1
            time.sleep(0.05)
        catalog.start()
        server.committed()
        assert in_lake(directory) == [(sent, sent)]

        # And a server that is started while the catalog is away.
        catalog.pid = catalog.again[-1].pid
        catalog.kill()
        server.kill()
    with ServerProcess(directory) as server:
        server.wait_ready()
        server.send([message(sent)])
        catalog.start()
        server.committed()
        assert in_lake(directory) == [(sent + 1, sent + 1)]
        server.stop()
