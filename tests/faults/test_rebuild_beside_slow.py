"""A rebuild beside the running server: events are taken in and questions answered; killed, it is finished."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import COMMAND, Ran, clean_environment, run_process
from profilelake.pipeline.rebuilding import load
from profilelake.settings import Layout
from server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REBUILD_SECONDS = 240


def batch(number: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "identify",
            "messageId": f"m-{number}-{index}",
            "userId": f"u-{(number * 7 + index) % 50}",
            "anonymousId": f"a-{number}-{index}",
            "traits": {"n": number},
        }
        for index in range(20)
    ]


class Rebuild:
    """`profilelake rebuild` in a thread, with what happens meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.ran: Ran | None = None
        self._directory = directory
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ended = subprocess.run(
            [*COMMAND, "rebuild", "--json", "--dir", str(self._directory)],
            capture_output=True,
            env=clean_environment(),
            timeout=REBUILD_SECONDS,
            check=False,
        )
        self.ran = Ran(ended.returncode, ended.stdout, ended.stderr.decode())

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Ran:
        self._thread.join(REBUILD_SECONDS)
        assert self.ran is not None
        return self.ran


def send_and_ask(server: ServerProcess, while_: Rebuild, first: int) -> int:
    """Send and ask until the rebuild has ended; return the number of the next batch. Nothing may fail."""
    number = first
    give_up_at = time.monotonic() + REBUILD_SECONDS
    while while_.runs:
        assert time.monotonic() < give_up_at
        assert server.request("POST", "/v1/batch", {"batch": batch(number)})[0] == 200
        number += 1
        status, _ = server.request("GET", "/api/status")
        assert status == 200
        time.sleep(0.05)
    return number


def check(directory: Path, batches: int) -> None:
    ran = run_process("verify", "--dir", directory, "--json")
    assert (ran.code, ran.json) == (0, []), ran.err
    ids = run_process("sql", "SELECT message_id FROM events", "--dir", directory, "--json").json
    wanted = sorted(m["messageId"] for number in range(batches) for m in batch(number))
    assert sorted(row["message_id"] for row in ids) == wanted


def test_collecting_and_asking_go_on(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with ServerProcess(directory) as server:
        server.wait_ready()
        for number in range(30):
            server.send(batch(number))
        before = server.committed()
        http = server.child("http")
        rebuild = Rebuild(directory)
        sent = send_and_ask(server, rebuild, 30)
        ran = rebuild.end()
        assert ran.code == 0, ran.err
        assert ran.json["events"] >= before["in_lake"]
        assert "events done" in ran.err
        assert server.child("http") == http
        server.send(batch(sent))
        status = server.committed()
        assert status["in_lake"] == (sent + 1) * 20
        server.stop()
    check(directory, sent + 1)


@pytest.mark.parametrize(
    "failpoint", ["rebuild.replaced:2", "rebuild.appended:3", "rebuild.loaded", "rebuild.moved"]
)
def test_a_killed_rebuild_is_begun_again_by_the_server(tmp_path: Path, failpoint: str) -> None:
    directory = tmp_path / "data"
    with ServerProcess(directory, failpoint=failpoint) as server:
        server.wait_ready()
        for number in range(5):
            server.send(batch(number))
        server.committed()
        rebuild = Rebuild(directory)
        sent = send_and_ask(server, rebuild, 5)
        ran = rebuild.end()
        assert ran.code == 0, ran.err
        known = load(Layout(directory).rebuild_request)
        assert known is not None
        assert (known.stage, known.tries) == ("done", 1)
        server.send(batch(sent))
        server.committed()
        server.stop()
    check(directory, sent + 1)


def test_the_next_start_finishes_what_a_killed_server_was_at(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    layout = Layout(directory)
    # Killed at this place in each attempt of this server; the failpoint holds for the first only.
    with ServerProcess(directory, failpoint="rebuild.appended") as server:
        server.wait_ready()
        for number in range(5):
            server.send(batch(number))
        server.committed()
        layout.rebuild_request.write_text(json.dumps({"id": "x", "stage": "asked"}))
        give_up_at = time.monotonic() + 60
        while (known := load(layout.rebuild_request)) is None or known.tries < 1:
            assert time.monotonic() < give_up_at, known
            time.sleep(0.01)
        server.kill()
    known = load(layout.rebuild_request)
    assert known is not None
    assert known.open
    with ServerProcess(directory) as server:
        server.wait_ready()
        known = load(layout.rebuild_request)
        assert known is not None
        assert known.stage == "done"
        server.send(batch(5))
        server.committed()
        server.stop()
    check(directory, 6)
