"""A watcher sees every event once, wherever the pipeline is killed, and replays outlive a stopped server."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from command_line import COMMAND, clean_environment, run, run_process, told
from served import KEYS, Served, serving
from watching import SECONDS_MAX, lines, tailing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PLACES = ("tail.written", "state.before_commit", "state.committed", "tail.shown")
EVENTS = 60


def send(served: Served, numbers: range) -> None:
    for number in numbers:
        event = {"event": "E", "userId": "u", "messageId": f"kill-{number}"}
        assert served.post("/v1/track", event).status == 200


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_each_event_is_shown_once(place: str, count: int, tmp_path: Path) -> None:
    environment = KEYS | {"PROFILELAKE_FAILPOINT": f"{place}:{count}"}
    with serving(tmp_path / "data", environment) as served:
        before = served.child("pipeline")
        with tailing(served.directory, "--seconds", "60", "--limit", str(EVENTS)) as process:
            for start in range(0, EVENTS, 10):
                send(served, range(start, start + 10))
                served.committed()
            found = [row.get("message_id", row) for row in lines(process)]
        assert not Path(f"/proc/{before}").exists()
    assert found == [f"kill-{number}" for number in range(EVENTS)]


def test_killed_from_outside_each_event_is_shown_once(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data") as served,
        tailing(served.directory, "--seconds", "60", "--limit", "60") as process,
    ):
        send(served, range(30))
        os.kill(served.child("pipeline"), signal.SIGKILL)
        send(served, range(30, 60))
        assert [row.get("message_id", row) for row in lines(process)] == [f"kill-{n}" for n in range(60)]


def test_replay_with_the_server_down_lands_at_its_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as running:
        running.post("/v1/track", {"userId": "u"})
        running.committed()
    told(run("tail", "--dir", directory), 5, "no server runs")
    sent = run_process("failed", "replay", "--dir", directory, "--all", "--set", 'event="Late"', "--json")
    assert (sent.code, sent.json["sent"]) == (0, 1), sent
    assert run("failed", "list", "--dir", directory, "--json").json[0]["replays"][0]["outcome"] == "waiting"
    with serving(directory) as running:
        running.committed()
        assert [row["event"] for row in running.sql("FROM events")] == ["Late"]


def test_space_pauses_and_loses_nothing(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    with serving(tmp_path / "data") as served:
        command = [*COMMAND, "tail", "--dir", str(served.directory), "--json", "--limit", "20"]
        process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            text=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads yet
        )
        try:
            assert process.stderr is not None
            assert "showing events" in process.stderr.readline()
            os.write(controller, b" ")
            assert process.stderr.readline() == "paused; space goes on\n"
            send(served, range(20))
            served.committed()
            os.write(controller, b" ")
            out, err = process.communicate(timeout=SECONDS_MAX)
        finally:
            process.kill()
            os.close(controller)
            os.close(terminal)
    assert (process.returncode, err) == (0, "going on\n")
    assert [json.loads(line)["message_id"] for line in out.splitlines()] == [f"kill-{n}" for n in range(20)]
