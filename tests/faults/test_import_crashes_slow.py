"""An import killed anywhere, and run again until it ends: every event is there, under one id."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from command_line import COMMAND, clean_environment, run_process
from log_records import by_landing
from profilelake.eventlog.embedded import LogReader
from profilelake.ops.clock import wall
from profilelake.ops.failpoints import VARIABLE
from profilelake.semantics.rules import segment_defaults
from stopped_directory import stopped_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EVENTS = 12_000
"""About five chunks."""
POINTS = [
    f"{point}:{count}"
    for point in ("import.packed", "import.sent", "import.durable", "import.remembered")
    for count in (1, 3)
] + ["log.written:1", "log.written:3", "log.synced:1", "log.synced:3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("import") / "events.ndjson"
    with path.open("w") as sink:
        for number in range(EVENTS):
            known = {"messageId": f"m{number}"} if number % 2 else {}
            message = {"type": "page", "userId": f"u{number}", "properties": {"n": number, "x": "y" * 300}}
            sink.write(json.dumps(known | message) + "\n")
    return path


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(tmp_path: Path, file: Path, point: str) -> None:
    layout = stopped_directory(tmp_path / "data")
    command = ("import", file, "--dir", layout.directory, "--json")
    killed = run_process(*command, environment={VARIABLE: point})
    assert killed.code == -signal.SIGKILL, killed
    again = run_process(*command)
    assert again.code == 0, again
    done = again.json["files"][0]
    assert done["events"] + done["skipped"] == EVENTS
    assert run_process(*command).json["files"][0]["skipped"] == EVENTS
    seen = logged(layout.log)
    assert len(seen) == EVENTS
    # A chunk that was durable but not yet remembered came twice, and no other.
    assert seen.total() - EVENTS <= EVENTS - done["skipped"]


def test_killed_at_any_moment_while_it_commits(tmp_path: Path, file: Path) -> None:
    layout = stopped_directory(tmp_path / "data")
    command = ["import", str(file), "--dir", str(layout.directory), "--apply"]
    for seconds in (0.8, 1.2, 2.0, 6.0):
        process = subprocess.Popen([*COMMAND, *command], env=clean_environment(), stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    ended = subprocess.run(
        [*COMMAND, *command], env=clean_environment(), capture_output=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended
    assert b"they are in the lake" in ended.stdout
    rows = run_process(
        "sql", "--dir", layout.directory, "--json",
        "SELECT count(*) AS rows, count(DISTINCT properties->>'n') AS events, count(DISTINCT message_id) AS ids FROM events",
    )  # fmt: skip
    assert rows.json == [{"rows": EVENTS, "events": EVENTS, "ids": EVENTS}]
    verified = run_process("verify", "--dir", layout.directory, "--json")
    assert (verified.code, verified.json) == (0, []), verified


def logged(log: Path) -> Counter[str]:
    reader = LogReader(log, clock=wall)
    try:
        records = reader.read({}, bytes_max=1 << 30, events_max=1 << 30).records
    finally:
        reader.close()
    events, failed, _ = by_landing(records, segment_defaults())
    assert not failed
    numbers = {event["message_id"]: json.loads(event["properties"])["n"] for event in events}
    assert len(set(numbers.values())) == len(numbers)
    return Counter(event["message_id"] for event in events)
