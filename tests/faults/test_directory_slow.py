"""The directory of a stopped server: verified, rebuilt, moved, damaged."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from command_line import COMMAND, run, run_process, told
from profilelake.settings import Layout
from served import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a server that had one event and was stopped."""
    directory = tmp_path_factory.mktemp("lived") / "data"
    with serving(directory) as running:
        assert running.post("/v1/identify", {"userId": "lived", "traits": {"a": 1}}).status == 200
        # Not waited for: what was accepted is processed before the server ends.
    return directory


def test_a_stopped_server_leaves_everything_processed(lived: Path) -> None:
    status = run("status", "--dir", lived, "--json").json
    assert (status["accepted"], status["in_lake"], status["in_flight"]) == (1, 1, 0)
    assert status["server"] is None
    assert "not running" in run("status", "--dir", lived).out.decode()
    assert run("sql", "--dir", lived, "--json", "SELECT count(*) AS n FROM events").json == [{"n": 1}]


def test_what_a_killed_server_left_behind_is_not_taken_for_one(lived: Path) -> None:
    layout = Layout(lived)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    layout.server.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    assert run("status", "--dir", lived, "--json").json["server"] is None
    for text in ("", "{}", "[]", '{"url": 7}', '{"url": "http://[", "pid": 1}'):
        layout.server.write_text(text)
        assert run("status", "--dir", lived, "--json").json["server"] is None
    layout.server.unlink()


def test_verify_and_rebuild(lived: Path) -> None:
    ran = run_process("rebuild", "--dir", lived, "--json")
    assert ran.code == 0, ran
    assert ran.json.keys() >= {"profiles", "identifiers", "sets", "events", "seconds"}
    assert (ran.json["profiles"], ran.json["events"]) == (1, 1)
    ran = run_process("verify", "--dir", lived, "--json")
    assert (ran.code, ran.json) == (0, [])
    assert run("profile", "get", "user_id:lived", "--dir", lived).json["traits"] == {"a": 1}


def test_a_moved_or_copied_directory_is_refused_and_a_link_helps(lived: Path, tmp_path: Path) -> None:
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(lived, copy)
    message = f"its tables lie in {lived}/lake, not in {copy}/lake; Iceberg tables hold absolute paths"
    for command in (("sql", "SELECT 1"), ("lake", "tables"), ("verify",), ("rebuild",)):
        told(run(*command, "--dir", copy), 4, message)
    ran = run_process("serve", "--dir", copy, "--port", "0")
    assert ran.code == 4
    assert message in ran.err
    count = ("sql", "SELECT count(*) AS n FROM events", "--json")
    lived.rename(moved)
    try:
        told(run(*count, "--dir", moved), 4, "move the data directory back, or make")
        lived.symlink_to(moved)
        assert run(*count, "--dir", moved).json == run(*count, "--dir", lived).json == [{"n": 1}]
        lived.unlink()
    finally:
        moved.rename(lived)


def test_a_damaged_catalog_is_told(lived: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lived, copy)
    (copy / "catalog.sqlite").write_bytes(b"this is not a database, whatever it says" * 100)
    for command in (("sql", "SELECT 1"), ("lake", "tables"), ("verify",), ("rebuild",)):
        told(
            run(*command, "--dir", copy), 6, "cannot be read: file is not a database; restore it from backup"
        )
    (copy / "catalog.sqlite").unlink()
    told(run("rebuild", "--dir", copy), 6, "the catalog knows no table, but there are files of tables")


def test_a_damaged_state_is_told_and_ends_the_server_at_once(lived: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lived, copy)
    (copy / "state" / "data.mdb").write_bytes(b"\xff" * 100_000)
    message = "rebuild it: profilelake rebuild"
    told(run("profile", "get", "user_id:lived", "--dir", copy), 6, message)
    told(run("status", "--dir", copy), 6, message)
    shutil.rmtree(copy / "lake")
    (copy / "catalog.sqlite").unlink()
    ran = run_process("serve", "--dir", copy, "--port", "0")
    assert ran.code == 6, ran
    assert message in ran.err


def test_a_lost_or_damaged_file_of_a_table_is_told(lived: Path) -> None:
    file = next((lived / "lake" / "ws_default" / "events" / "data").rglob("*.parquet"))
    kept = file.read_bytes()
    try:
        file.write_bytes(b"PAR1" + b"\0" * 100)
        told(run("sql", "FROM events", "--dir", lived), 6, str(file))
        file.unlink()
        told(run("sql", "FROM events", "--dir", lived), 6, str(file))
        ran = run_process("verify", "--dir", lived)
        told(ran, 6, str(file))
    finally:
        file.write_bytes(kept)


def test_an_interrupted_query_ends_with_130(lived: Path) -> None:
    query = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(1000000) b"
    command = [*COMMAND, "sql", "--dir", str(lived), query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            _wait_until_busy(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")


def _wait_until_busy(pid: int, seconds: float = 3) -> None:
    """Wait until a process has worked longer than it takes to start."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        if (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") > seconds:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} does nothing")
