"""`profilelake rebuild` on Spark, whose driver is killed as kill -9 would, then the same command again."""

import json
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import COMMAND, clean_environment
from pipeline_history import history
from profilelake.ops.failpoints import VARIABLE
from server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMMAND_SECONDS = 600
GONE_SECONDS = 60
"""How long what a driver started may outlive it."""
ENGINE = "local[2]"
PUT_IN_PLACE = {"commit", "state", "events"}
"""What follows the steps of the job, told in the same words."""
MARK = "DRIVER_KILLS"
"""A variable that everything has which a command of ours starts: its JVM, and the Python workers of that."""


def command(
    *arguments: str | Path, failpoint: str = "", mark: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, where it may be killed."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean_environment() | {VARIABLE: failpoint, MARK: mark},
        timeout=COMMAND_SECONDS,
        check=False,
    )


def digests(directory: Path) -> list[dict[str, Any]]:
    """Return the digests of all tables."""
    asked = command("lake", "digest", "--dir", directory, "--json")
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert sum(table["rows"] for table in found) > 300
    return list(found)


def steps(said: str, *, again: bool) -> set[str]:
    """Return the steps of a job that a rebuild has told of: those it did, or those that were done before."""
    told = [line.partition(": ") for line in said.splitlines()]
    found = {step for step, _, took in told if (took == "done before" if again else took.endswith(" s"))}
    return found - PUT_IN_PLACE


def left_of(mark: str) -> list[int]:
    """Return the processes that have the mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = place.read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0"):
            found.append(int(place.parent.name))
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose server has stopped."""
    found = tmp_path_factory.mktemp("driver") / "data"
    messages = [message for _, message in history(7, 400)]
    with ServerProcess(found) as server:
        server.wait_ready()
        for begin in range(0, len(messages), 50):
            server.send(messages[begin : begin + 50])
        server.committed()
        server.stop()
    return found


@pytest.mark.parametrize("place", ["job.resolve.done", "rebuild.replaced", "rebuild.replaced:4"])
def test_a_killed_driver_is_gone_on_with(directory: Path, place: str) -> None:
    rebuilt = command("rebuild", "--dir", directory, "--engine", "embedded")
    assert rebuilt.returncode == 0, rebuilt.stderr
    wanted = digests(directory)

    mark = secrets.token_hex(8)
    killed = command("rebuild", "--dir", directory, "--engine", ENGINE, failpoint=place, mark=mark)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = steps(killed.stderr, again=False)
    assert {"facts", "resolve"} <= finished
    give_up_at = time.monotonic() + GONE_SECONDS
    while left_of(mark):
        assert time.monotonic() < give_up_at, f"of the killed driver there are left: {left_of(mark)}"
        time.sleep(0.2)

    again = command("rebuild", "--dir", directory, "--engine", ENGINE)
    assert again.returncode == 0, again.stderr
    assert not steps(again.stderr, again=False) & finished
    # Where it was committing, only the last step is asked for what it found.
    assert steps(again.stderr, again=True) <= finished
    assert steps(again.stderr, again=True) == (finished if place.startswith("job.") else {"found"})
    assert digests(directory) == wanted
    verified = command("verify", "--dir", directory)
    assert verified.returncode == 0, verified.stderr
    assert json.loads(command("engine", "jobs", "list", "--dir", directory, "--json").stdout) == []
    assert not [path for path in (directory / "lake" / "_jobs").rglob("*") if path.is_file()]
