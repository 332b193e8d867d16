"""A whole server whose tables lie on an object store, behind a proxy that makes trouble."""

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from command_line import run_process
from s3_faults import Fault, FaultyProxy, faulty, never
from server_process import ADMIN_TOKEN, ServerProcess

TROUBLES: Final[tuple[Fault, ...]] = ("slow_down", "hang", "expired")
TIRED: Final[tuple[Fault, ...]] = ("", "", "lost", "", "", "reset", "", "", "slow_down", "")

PATIENT: Final = {"PROFILELAKE_STORAGE_RETRIES_MAX": "8", "PROFILELAKE_STORAGE_RETRY_SECONDS": "60"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        yield running


@pytest.fixture
def directory(proxy: FaultyProxy, s3: Any, tmp_path: Path) -> Path:
    """A data directory whose settings put the tables into the bucket."""
    place = tmp_path / "data"
    place.mkdir()
    (place / "profilelake.toml").write_text(
        f"""
        [lake]
        warehouse = "s3://{s3.bucket}/{uuid.uuid4().hex}"
        [storage]
        endpoint = "{proxy.endpoint}"
        plain_http = "allowed"
        request_seconds = 2.0
        retry_seconds = 2.0
        retries_max = 2
        """
    )
    return place


def events(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "track",
            "event": "Bought",
            "userId": f"u{n % 7}",
            "messageId": f"m{n}",
            "properties": {"n": n},
        }
        for n in range(first, first + count)
    ]


def ask(server: ServerProcess, query: str) -> Any:
    """Ask SQL over HTTP."""
    url = json.loads((server.directory / "run" / "server.json").read_text())["url"]
    said = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    answer = httpx.post(f"{url}/api/sql", json={"query": query}, headers=said, timeout=90)
    assert answer.status_code == 200, answer.text
    return answer.json()


def counted(directory: Path) -> tuple[int, int]:
    ran = run_process(
        "sql",
        "--dir",
        directory,
        "--json",
        "SELECT count(*) AS n, count(DISTINCT message_id) AS m FROM events",
    )
    assert ran.code == 0, ran.err
    return ran.json[0]["n"], ran.json[0]["m"]


def whole(directory: Path) -> None:
    """See that facts, state and tables of a stopped server agree, and that every file is whole."""
    for command in (("verify",), ("lake", "verify")):
        ran = run_process(*command, "--dir", directory, "--json")
        assert (ran.code, ran.json) == (0, []), ran


def test_a_server_lives_with_a_store_that_fails(proxy: FaultyProxy, directory: Path) -> None:
    with ServerProcess(directory) as server:
        server.wait_ready()
        server.send(events(0, 50))
        assert server.committed()["in_lake"] == 50
        assert counted(directory) == (50, 50)
        assert ask(server, "SELECT count(*) AS n, max(event) AS e FROM events") == [{"n": 50, "e": "Bought"}]

        sent = 50
        for fault in TROUBLES:
            proxy.rule = lambda _, fault=fault: fault
            for _ in range(3):
                # The log takes events, whatever becomes of the tables.
                server.send(events(sent, 20), seconds=30)
                sent += 20
                time.sleep(0.7)
            proxy.rule = never
            assert server.committed()["in_lake"] == sent
        assert counted(directory) == (sent, sent)
        server.stop()
    whole(directory)

    with ServerProcess(directory) as server:
        server.wait_ready()
        # Answers get lost and connections break now and then.
        proxy.rule = lambda asked: TIRED[asked.number % len(TIRED)]
        for _ in range(5):
            server.send(events(sent, 20), seconds=30)
            sent += 20
            time.sleep(0.3)
        proxy.rule = never
        assert server.committed()["in_lake"] == sent
        server.stop()
    assert counted(directory) == (sent, sent)
    whole(directory)


def test_kills_in_a_publication_lose_nothing(directory: Path) -> None:
    sent = 0
    for place in ("lake.written", "lake.staged", "lake.swapped"):
        with ServerProcess(directory, failpoint=f"{place}:5") as server:
            server.wait_ready()
            # How many commits some events become depends on the machine: send on until the place is reached.
            for _ in range(30):
                server.send(events(sent, 10))
                sent += 10
                assert server.committed()["in_lake"] == sent
                if "ended with -9" in server.messages.read_text():
                    break
            assert server.messages.read_text().count("ended with -9") == 1
            server.stop()
        assert counted(directory) == (sent, sent)
    whole(directory)


def test_a_backup_beside_a_server_at_work(proxy: FaultyProxy, directory: Path, tmp_path: Path) -> None:
    place, restored = tmp_path / "backups", tmp_path / "restored"
    sent, acknowledged = 0, 0
    with ServerProcess(directory) as server:
        server.wait_ready()
        stop = threading.Event()

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                server.send(events(sent, 20), seconds=30)
                sent += 20
                time.sleep(0.1)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        try:
            for number in range(3):
                while sent < 200 * (number + 1):
                    assert sending.is_alive()
                    time.sleep(0.1)
                acknowledged = sent
                # Now and then the store is busy, or breaks a connection, for the server as for the backup.
                proxy.rule = lambda asked: "" if asked.number % 3 else TIRED[asked.number % len(TIRED)]
                ran = run_process("backup", place, "--dir", directory, "--json", environment=PATIENT)
                proxy.rule = never
                assert ran.code == 0, ran.err
                assert ran.json["events"] >= acknowledged
        finally:
            stop.set()
            sending.join(60)
        assert server.committed()["in_lake"] == sent
        server.stop()
    there = {"PROFILELAKE_LAKE_WAREHOUSE": "lake"}
    ran = run_process("restore", place, "--dir", restored, environment=there)
    assert ran.code == 0, ran.err
    toml = restored / "profilelake.toml"
    toml.write_text(re.sub(r"warehouse = .*", 'warehouse = "lake"', toml.read_text()))
    with ServerProcess(restored) as server:
        server.wait_ready()
        # Whoever heard nothing sends all of it again.
        for first in range(0, sent, 100):
            server.send(events(first, min(100, sent - first)))
        assert server.committed()["in_lake"] == sent
        server.stop()
    assert counted(restored) == (sent, sent)
    whole(restored)
