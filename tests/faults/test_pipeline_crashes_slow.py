"""The whole way of an event under kill -9: nothing acknowledged is lost or doubled, nothing is left wrong.

First every failpoint, densely, with the pipeline in forked processes (`pipeline_child`); then real
servers with real requests: failpoints in each process, and kills from outside at seeded moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eventlog_puppet import entry, write_log
from pipeline_driver import Desk
from pipeline_history import batches, history
from profilelake.app.directory import identity_rules
from profilelake.app.offline import verify_directory
from profilelake.eventlog import Kind
from profilelake.eventlog.embedded import LogReader
from profilelake.query.run import run_query
from profilelake.settings import Layout
from profilelake.views.attach import attach
from server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APPLYING = (
    "log.read",
    "landing.parsed",
    "landing.landed",
    "dedup.spilled",
    "dedup.merged",
    "dedup.listed",
    "dedup.swept",
    "state.profiles",
    "state.outbox",
    "recent.written",
    "state.before_commit",
    "state.committed",
)
PUBLISHING = (
    "activity.folded",
    "activity.settled",
    "lake.written",
    "lake.staged",
    "lake.swapped",
    "publish.events",
    "publish.appended",
    "publish.facts_let_go",
    "publish.schema",
    "publish.current",
    "publish.let_go",
    "publish.done",
)
TENDING = ("publish.merged", "runs.merged", "runs.listed", "runs.swept")
REBUILDING = ("rebuild.replaced", "rebuild.appended", "rebuild.loaded", "rebuild.moved")
REBUILT_AFTER = tuple(f"{place}+rebuild" for place in ("state.committed", "publish.events", "lake.swapped"))


@pytest.mark.parametrize(
    "places",
    [APPLYING, PUBLISHING, TENDING, REBUILDING, REBUILT_AFTER],
    ids=["applying", "publishing", "tending", "rebuilding", "rebuilt after"],
)
def test_killed_at_any_failpoint_the_tables_end_up_as_if_nothing_had_happened(
    places: tuple[str, ...], tmp_path: Path
) -> None:
    story = [message for _, message in history(7, 48)]
    for part in (story[:24], story[24:]):
        write_log(
            tmp_path / "log",
            [
                entry(json.dumps({"batch": batch}).encode(), events=len(batch))._replace(kind=Kind.BATCH)
                for batch in batches(1, part)
            ],
        )
    child = Path(__file__).with_name("pipeline_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path), *places],
        env={**os.environ, "PYTHONPATH": str(child.parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    undisturbed, *runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert undisturbed["differences"] == []
    assert undisturbed["events"] == sorted(set(undisturbed["events"]))
    killed = Counter(run["place"] for run in runs if run["killed"])
    assert set(killed) == set(places), "a place that is never reached tests nothing"
    assert [run for run in runs if run.get("wrong") or run.get("error")] == []


SERVED = (
    ("http", "log.written:9"),
    ("http", "log.synced:9"),
    ("pipeline", "log.read:3"),
    ("pipeline", "landing.landed:3"),
    ("pipeline", "recent.written:2"),
    ("pipeline", "state.before_commit:4"),
    ("pipeline", "state.committed:2"),
    ("lake", "lake.staged:12"),
    ("lake", "lake.swapped:7"),
    ("lake", "publish.appended:2"),
    ("lake", "publish.let_go:2"),
    ("lake", "publish.done:1"),
)


class Ledger:
    """What was sent and acknowledged, and what of it must be in the lake."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.failed = 0
        self.sent = 0

    def send(self, server: ServerProcess, seed: int, events: int) -> None:
        story = history(seed, events)
        for batch in batches(seed, [message for _, message in story]):
            server.send(batch)
        self.note(story)

    def note(self, story: list[tuple[str, Any]]) -> None:
        self.accepted |= {message["messageId"] for fate, message in story if fate == "accepted"}
        self.failed += sum(fate == "failed" for fate, _ in story)
        self.sent += len(story)


def check(directory: Path, ledger: Ledger, status: dict[str, Any], *, exact: bool) -> None:
    """Hold the tables of a stopped server against the ledger and against the facts.

    `exact`: no request was cut off, so everything was received just once.
    """
    assert status["balanced"]
    assert status["in_flight"] == 0
    assert status["in_lake"] + status["duplicates"] + status["failed"] == status["accepted"]
    ids = Counter(run_query(Layout(directory), "SELECT message_id FROM events", attach).column(0).to_pylist())
    assert set(ids) == ledger.accepted
    assert max(ids.values()) == 1
    assert status["in_lake"] == len(ids)
    if exact:
        assert (status["accepted"], status["failed"]) == (ledger.sent, ledger.failed)
    else:
        assert status["accepted"] >= ledger.sent
        assert status["failed"] >= ledger.failed
    assert verify_directory(Layout(directory)) == []


def _sent(server: ServerProcess, batch: list[dict[str, Any]]) -> bool:
    try:
        server.send(batch, seconds=0.2)
    except AssertionError:
        return False
    return True


def check_against_undisturbed(directory: Path, scratch: Path) -> None:
    """Apply the server's log at once, in a pipeline of its own: the profiles must be the same."""
    scratch.mkdir()
    desk = Desk(scratch, rules=identity_rules())
    reader = LogReader(Layout(directory).log, clock=lambda: time.time_ns() // 1000)
    try:
        vector = desk.batcher.vector()
        while (
            slice := reader.read(vector, bytes_max=1 << 30, events_max=1 << 30, wait_max_seconds=0)
        ).records:
            desk.batcher.apply(slice)
            vector = {**vector, **slice.ends}
        undisturbed = Counter([(row[2], row[3]) for row in desk.state_tables()["profiles"]])
    finally:
        reader.close()
        desk.close()
    found = run_query(Layout(directory), "SELECT identifiers, traits FROM profiles", attach).to_pylist()
    assert Counter([(row["identifiers"], row["traits"]) for row in found]) == undisturbed


def test_a_server_killed_at_failpoints_loses_and_doubles_nothing(tmp_path: Path) -> None:
    directory, ledger = tmp_path / "data", Ledger()
    for seed, (dies, failpoint) in enumerate(SERVED):
        with ServerProcess(directory, failpoint=failpoint) as server:
            server.wait_ready()
            ledger.send(server, seed, 60)
            # How many commits a load becomes depends on the machine: send on until the place is reached.
            for more in range(30):
                server.committed()
                if "ended with -9" in server.messages.read_text():
                    break
                ledger.send(server, 1000 * seed + 100 + more, 12)
            ledger.send(server, 1000 * seed + 99, 12)
            status = server.committed()
            said = server.messages.read_text()
            assert f"process {dies}" in said, (failpoint, said)
            assert said.count("ended with -9") == 1, (failpoint, said)
            server.stop()
        # A request to a killed HTTP process is sent again, whether it was stored or not.
        check(directory, ledger, status, exact=False)
    check_against_undisturbed(directory, tmp_path / "undisturbed")


def test_servers_killed_from_outside_lose_and_double_nothing(tmp_path: Path) -> None:
    directory, ledger = tmp_path / "data", Ledger()
    chosen = random.Random(11)
    story = history(500, 6000)
    requests = list(batches(500, [message for _, message in story], most=8))
    held: list[ServerProcess] = []
    finished = threading.Event()

    sent: list[list[dict[str, Any]]] = []

    def load() -> None:
        # As long as anything is killed; a request that is cut off is sent again to whoever serves then.
        for batch in requests:
            if finished.is_set():
                return
            while not _sent(held[-1], batch):
                pass
            sent.append(batch)

    sender = threading.Thread(target=load)
    try:
        for round in range(6):
            server = ServerProcess(directory)
            held.append(server)
            server.wait_ready()
            if round == 0:
                sender.start()
            time.sleep(chosen.uniform(0.1, 2.0))
            if round == 5:
                break
            if round % 2:
                os.kill(server.child("http" if round == 1 else "pipeline"), signal.SIGKILL)
                time.sleep(chosen.uniform(0.1, 2.0))
            server.kill()
        finished.set()
        sender.join()
        status = held[-1].committed()
        held[-1].stop()
    finally:
        finished.set()
        for server in held:
            server.__exit__()
    ledger.note(story[: sum(map(len, sent))])
    check(directory, ledger, status, exact=False)
    check_against_undisturbed(directory, tmp_path / "undisturbed")
