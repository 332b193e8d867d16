"""The supervisor with real processes of ours as its children."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import clean_environment
from profilelake.ops import supervisor
from profilelake.settings import Layout
from profilelake.workspaces.control import Control
from served import children_of, wait_until_dead

SECONDS_MAX = 30
SUPERVISE = """
import json, os, sys
from profilelake.errors import ProfilelakeError
from profilelake.ops.supervisor import Child, Supervisor
def told(line):
    return [word.replace("{parent}", str(os.getpid())) for word in line]
children = [Child(name=name, arguments=told(line)) for name, line in json.loads(sys.argv[1]).items()]
try:
    sys.exit(Supervisor(children, lambda: print("ready", flush=True)).run())
except ProfilelakeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@contextmanager
def supervised(children: dict[str, list[str]]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, json.dumps(children)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def collecting(tmp_path: Path) -> list[str]:
    """Return the command of a collecting process, which needs nothing but a directory and keys."""
    layout = Layout(tmp_path / "data")
    layout.create()
    with Control.open(layout.control, os.urandom) as control:
        control.ensure_default(now=0)
        control.bind_identifier_key(layout.secrets)
    where = ["--dir", str(layout.directory), "--host", "127.0.0.1", "--port", "0"]
    return ["process", "http", *where, "--parent", "{parent}", "--ready", "{ready}"]


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_what_starting_again_cannot_mend_ends_the_server(collecting: list[str], tmp_path: Path) -> None:
    wrong = ["lake", "tables", "--dir", str(tmp_path)]
    with supervised({"right": collecting, "wrong": wrong}) as process:
        _, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 2
    assert said.count("not a profilelake data directory") == 1
    assert "process wrong ended with 2; starting it again would not help" in said


def test_a_child_that_ends_again_and_again_before_ready_ends_the_server(collecting: list[str]) -> None:
    with supervised({"right": collecting, "short": ["version"]}) as process:
        out, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 5
    assert "starting: process short does not start" in said
    assert said.count("process short ended with 0") == supervisor.START_FAILURES_MAX
    assert "ready" not in out


def test_a_killed_child_is_started_again_and_all_end_with_the_parent(collecting: list[str]) -> None:
    with supervised({"one": collecting, "other": collecting}) as process:
        ready(process)
        before = children_of(process.pid)
        killed, kept = before
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + SECONDS_MAX
        while len(after := children_of(process.pid)) < 2 or killed in after:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert kept in after
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0
    assert "process one ended with -9" in said
    assert wait_until_dead([*before, *after]) == []


def test_no_child_survives_a_killed_parent(collecting: list[str]) -> None:
    with supervised({"one": collecting, "other": collecting}) as process:
        ready(process)
        children = children_of(process.pid)
        assert len(children) == 2
        process.kill()
        process.wait()
    assert wait_until_dead(list(children)) == []


def test_a_child_whose_parent_is_another_does_not_run() -> None:
    script = (
        "import os; from profilelake.ops.supervisor import die_with_parent;"
        "die_with_parent(os.getpid()); print('runs')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=SECONDS_MAX, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
