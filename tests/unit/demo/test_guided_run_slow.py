"""The guided run as a user has it: real server, real client, everything accounted for, nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from profilelake.demo.run import Options, run_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in:\n{text}"
    return float(found.group(1).replace(",", ""))


def processes_on(directory: Path) -> list[str]:
    """Return the command lines of processes that name the directory."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if str(directory) in command and process.name != str(os.getpid()):
            found.append(command)
    return found


def test_a_first_run_and_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(directory=tmp_path / "shop", events=3_000, seed=3, once=True)
    code = run_demo(options)
    first = capsys.readouterr()
    assert code == 0, first.err
    assert number(r"sent ([\d,]+) calls", first.out) == 3_000
    assert number(r"Accepted ([\d,]+);", first.out) == 3_000
    assert number(r"in the lake ([\d,]+),", first.out) == 3_000
    assert number(r"precision of pairs\s+([\d.]+)", first.out) > 0.9
    assert number(r"recall of pairs that events link\s+([\d.]+)", first.out) > 0.95
    assert re.search(r"id      use_[0-9A-Za-z]{27}\n", first.out)
    assert "What links them" in first.out
    assert number(r"([\d.]+) ms later \(medians", first.out) > 0
    assert processes_on(tmp_path) == []

    code = run_demo(options)
    again = capsys.readouterr()
    assert code == 0, again.err
    assert number(r"duplicates ([\d,]+),", again.out) == 3_000
    for figure in (r"profiles found for them\s+([\d,]+)", r"precision of pairs\s+([\d.]+)"):
        assert number(figure, again.out) == number(figure, first.out)

    # What the run tells the user to type must work as it is.
    (lines,) = re.findall(r"With DuckDB:\n((?: {4}.*\n)+)With Polars", first.out)
    program = "\n".join(line.strip() for line in lines.splitlines())
    duckdb = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Product Viewed" in duckdb.stdout


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_the_server_ends_with_the_demo_however_that_ends(tmp_path: Path, number: int, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "profilelake",
        "demo",
        "--dir",
        str(tmp_path / "shop"),
        "--events",
        "200",
    ]
    with (tmp_path / "said").open("wb") as said:
        # A shell that starts tests in the background has SIGINT ignored, and children would inherit that.
        demo = subprocess.Popen(["env", "--default-signal=INT", *command], stdout=said, stderr=said)
    wait_until(lambda: "Ctrl-C ends it" in (tmp_path / "said").read_text() or demo.poll() is not None, 120)
    assert demo.poll() is None, (tmp_path / "said").read_text()
    assert processes_on(tmp_path / "shop")
    demo.send_signal(number)
    assert demo.wait(60) == code
    wait_until(lambda: processes_on(tmp_path / "shop") == [], 30)


def wait_until(met: Callable[[], bool], seconds_max: float) -> None:
    deadline = time.monotonic() + seconds_max
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = run_demo(Options(directory=tmp_path / "shop", events=100, port=port, once=True))
    assert code != 0
    assert str(port) in capsys.readouterr().err
    assert processes_on(tmp_path) == []
