"""Backups of a server at work: nothing acknowledged before is missing, and every event comes once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from command_line import run_process, told
from profilelake.backup.locking import alone
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.settings import Layout
from server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BATCH = 20
TOGETHER = 20
"""Batches that are sent again in one request."""


def batch(number: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "identify",
            "messageId": f"m-{number}-{index}",
            "userId": f"u-{(number * 7 + index) % 50}",
            "anonymousId": f"a-{number}-{index}",
            "traits": {"email": f"u{(number * 7 + index) % 50}@example.org", "n": number},
        }
        for index in range(BATCH)
    ]


class Sender:
    """Sends batches one after the other until it is stopped; `sent` are acknowledged."""

    def __init__(self, server: ServerProcess) -> None:
        self.sent = 0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._server.send(batch(self.sent))
            self.sent += 1
            time.sleep(0.2)

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> None:
        give_up_at = time.monotonic() + 120
        while self.sent < count:
            assert time.monotonic() < give_up_at, self.sent
            time.sleep(0.01)


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[int], int]:
    """Return a directory, the place of three backups taken while events came in, how many batches were
    acknowledged before each began, and how many were sent in all."""
    folder = tmp_path_factory.mktemp("backup")
    directory, place = folder / "data", folder / "backups"
    before: list[int] = []
    with ServerProcess(directory) as server:
        server.wait_ready()
        with Sender(server) as sender:
            for number in range(3):
                sender.wait_for(10 + 15 * number)
                before.append(sender.sent)
                ran = run_process("backup", place, "--dir", directory, "--json")
                assert ran.code == 0, ran.err
                assert ran.json["events"] >= before[-1] * BATCH
            sender.wait_for(before[-1] + 10)
        server.committed()
        server.stop()
    return directory, place, before, sender.sent


def ids_in(directory: Path) -> list[str]:
    ran = run_process("sql", "SELECT message_id FROM events ORDER BY 1", "--dir", directory, "--json")
    return [row["message_id"] for row in ran.json]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_restored_server_has_everything_from_before_and_goes_on(
    backed_up: tuple[Path, Path, list[int], int], tmp_path: Path, number: int
) -> None:
    _, place, before, sent = backed_up
    id = sorted(path.stem for path in (place / "backups").iterdir())[number]
    restored = tmp_path / "restored"
    ran = run_process("restore", place, "--backup", id, "--dir", restored, "--json")
    assert ran.code == 0, ran.err
    ran = run_process("verify", "--dir", restored, "--json")
    assert (ran.code, ran.json) == (0, [])
    with ServerProcess(restored) as server:
        server.wait_ready()
        status = server.committed()
        assert status["balanced"]
        assert status["accepted"] == status["in_lake"] >= before[number] * BATCH
        there = set(ids_in(restored))
        assert {m["messageId"] for n in range(before[number]) for m in batch(n)} <= there
        # Clients that heard nothing send all of it again, and what came after the backup too.
        for n in range(0, sent, TOGETHER):
            server.send([m for number in range(n, min(n + TOGETHER, sent)) for m in batch(number)])
        status = server.committed()
        assert status["in_lake"] == sent * BATCH
        assert status["accepted"] == status["in_lake"] + status["duplicates"]
        server.stop()
    wanted = sorted(m["messageId"] for n in range(sent) for m in batch(n))
    assert ids_in(restored) == wanted
    ran = run_process("verify", "--dir", restored, "--json")
    assert (ran.code, ran.json) == (0, [])


def test_later_backups_copy_only_what_is_new(backed_up: tuple[Path, Path, list[int], int]) -> None:
    directory, place, _, _ = backed_up
    first = run_process("backup", place, "--dir", directory, "--json").json
    again = run_process("backup", place, "--dir", directory, "--json").json
    assert first["bytes"] > 0
    assert (again["new_files"], again["new_bytes"]) == (0, 0)
    assert again["events"] == first["events"]


def test_restored_tables_are_read_by_others_where_they_lie_now(
    backed_up: tuple[Path, Path, list[int], int], tmp_path: Path
) -> None:
    directory, place, _, sent = backed_up
    run_process("backup", place, "--dir", directory)
    restored = tmp_path / "restored"
    assert run_process("restore", place, "--dir", restored).code == 0
    moved = tmp_path / "gone"
    directory.rename(moved)
    try:
        ours = SqlCatalog("profilelake", uri=f"sqlite:///{restored}/catalog.sqlite")
        lake = Lake.open(Layout(restored).catalog_uri, Layout(restored).warehouse)
        with duckdb.connect() as connection:
            names = attach(connection, lake, "default")
            assert connection.sql("SELECT count(*) FROM events").fetchall() == [(sent * BATCH,)]
            for name in names:
                connection.table(name).count("*").fetchall()
        tables = [table for namespace in ours.list_namespaces() for table in ours.list_tables(namespace)]
        assert len(tables) > 15
        for identifier in tables:
            table = ours.load_table(identifier)
            assert table.location().startswith(f"file://{restored}/")
            rows = table.scan().to_arrow().num_rows
            with duckdb.connect() as connection:
                files = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
                if files:
                    counted = connection.execute("SELECT count(*) FROM read_parquet(?)", [files]).fetchall()
                    assert counted == [(rows,)]
    finally:
        moved.rename(directory)


@pytest.mark.parametrize(
    "failpoint",
    [
        "backup.log_pinned",
        "backup.files_pinned",
        "backup.log_pinned_again",
        "backup.stored",
        "backup.added",
        "backup.thinned",
    ],
)
def test_a_killed_backup_leaves_the_earlier_ones_whole(
    backed_up: tuple[Path, Path, list[int], int], failpoint: str
) -> None:
    directory, place, _, _ = backed_up
    keep = ("--keep", "2") if failpoint == "backup.thinned" else ()
    command = [sys.executable, "-m", "profilelake", "backup", str(place), "--dir", str(directory), *keep]
    environment = {**os.environ, "PROFILELAKE_FAILPOINT": failpoint}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    for id in [row["id"] for row in run_process("backup", place, "--list", "--json").json]:
        ran = run_process("restore", place, "--check", "--backup", id)
        assert ran.code == 0, ran.err
    assert run_process("backup", place, "--dir", directory).code == 0
    assert not (directory / "run" / "backup").exists()
    assert not (place / "making").exists()


@pytest.mark.parametrize("failpoint", ["restore.copied", "restore.moved"])
def test_a_killed_restore_is_no_data_directory(
    backed_up: tuple[Path, Path, list[int], int], tmp_path: Path, failpoint: str
) -> None:
    _, place, _, _ = backed_up
    restored = tmp_path / "restored"
    command = [sys.executable, "-m", "profilelake", "restore", str(place), "--dir", str(restored)]
    environment = {**os.environ, "PROFILELAKE_FAILPOINT": failpoint}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    told(run_process("status", "--dir", restored), 2, "not a profilelake data directory")
    told(run_process("serve", "--dir", restored, "--port", "0"), 4, "it holds other things")
    told(run_process("restore", place, "--dir", restored), 4, "it is not empty")


def test_one_backup_at_a_time(backed_up: tuple[Path, Path, list[int], int]) -> None:

    directory, place, _, _ = backed_up
    with alone(directory / "run" / "backup.lock", "test"):
        told(run_process("backup", place, "--dir", directory), 4, "another backup is being made")


def test_a_damaged_file_is_found_before_anything_is_written(
    backed_up: tuple[Path, Path, list[int], int], tmp_path: Path
) -> None:
    directory, _, _, _ = backed_up
    place = tmp_path / "backups"
    assert run_process("backup", place, "--dir", directory).code == 0
    largest = max((place / "files").glob("*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    told_ran = run_process("restore", place, "--dir", tmp_path / "restored")
    assert told_ran.code == 6
    assert "1 of" in told_ran.err
    assert "damaged or missing" in told_ran.err
    assert not (tmp_path / "restored").exists()
    (manifest,) = (place / "backups").iterdir()
    document = json.loads(manifest.read_text())
    document["accepted"] = {}
    manifest.write_text(json.dumps(document))
    told(run_process("restore", place, "--check"), 6, "its checksum differs")
