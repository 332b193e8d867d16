"""The process that tells destinations is killed in the middle: nothing is lost, what comes twice has the same keys."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from activate_world import WORKSPACE, World
from command_line import COMMAND, clean_environment
from profilelake.activate import secret_files
from profilelake.activate.journal import Journal
from profilelake.activate.letters import Letters
from profilelake.ops.clock import wall
from profilelake.semantics.destinations import Destination
from profilelake.settings import Layout
from profilelake.workspaces.control import Control
from receivers import Receiver, receiving, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
MEMBERS = 60


def told(directory: Path, receiver: Receiver) -> World:
    """Return a data directory with an audience and a destination, as the server leaves it."""
    layout = Layout(directory)
    layout.create()
    (layout.run / "metrics").mkdir()
    world = World(layout.state)
    world.define("vip")
    for number in range(1, MEMBERS + 1):
        world.profile(number, [f"user_id:u{number}"])
    world.change("vip", dict.fromkeys(range(1, MEMBERS + 1), "true"))
    secret_files.store(layout.destination_secrets, "hook", "secret")
    with Control.open(layout.control, random.Random(1).randbytes) as control:
        control.ensure_default(now=wall())
        control.destinations(WORKSPACE).put(
            Destination("hook", "webhook", receiver.url, secret="hook", batch=5, parallel=2), now=wall()
        )
    return world


def started(directory: Path, failpoint: str = "") -> "subprocess.Popen[bytes]":
    environment = clean_environment() | {
        "PROFILELAKE_ACTIVATE_ALLOW_PRIVATE": "127.0.0.0/8",
        "PROFILELAKE_FAILPOINT": failpoint,
        "PROMETHEUS_MULTIPROC_DIR": str(directory / "run" / "metrics"),
    }
    arguments = [
        "process",
        "activate",
        "--dir",
        str(directory),
        "--parent",
        str(os.getpid()),
        "--ready",
        "-1",
    ]
    return subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "failpoint", ["activate.noted:2", "activate.sent:1", "activate.sent:5", "activate.sent:6"]
)
def test_a_kill_loses_nothing_and_repeats_under_the_same_keys(tmp_path: Path, failpoint: str) -> None:
    directory = tmp_path / "data"
    with receiving() as receiver:
        world = told(directory, receiver)
        process = started(directory, failpoint)
        assert process.wait(60) == -9
        before = len(receiver.requests)
        process = started(directory)
        try:
            wait_until(lambda: len({one["profile_id"] for one in receiver.records}) == MEMBERS)
            world.change("vip", {1: None})
            wait_until(lambda: [one for one in receiver.records if one["value"] is False])
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
        keys: dict[str, set[str]] = {}
        for one in receiver.records:
            if one["value"]:
                keys.setdefault(one["profile_id"], set()).add(one["idempotency_key"])
        assert all(len(found) == 1 for found in keys.values())
        bodies: dict[str, set[bytes]] = {}
        for request in receiver.requests:
            bodies.setdefault(request.headers["webhook-id"], set()).add(request.body)
        assert all(len(found) == 1 for found in bodies.values())
        # At most the batches under way at the kill came twice, one of each lane.
        assert len(receiver.requests) - len(bodies) <= 2
        assert before <= len(receiver.requests)
        world.close()
    with Journal.open(Layout(directory).activations) as journal:
        assert journal.waiting("hook") == []


@pytest.mark.parametrize(
    "failpoint", ["activate.again:1", "activate.again:2", "activate.sent:1", "activate.sent:6"]
)
def test_a_kill_while_dead_letters_are_sent_again_loses_none(tmp_path: Path, failpoint: str) -> None:
    """They were asked for once; each arrives, under the key it had, and is counted once."""
    directory = tmp_path / "data"
    with receiving(lambda _request: (422, {})) as receiver:
        world = told(directory, receiver)

        def letters() -> Letters:
            with Journal.open(Layout(directory).activations) as journal:
                return journal.letters.of("hook")

        process = started(directory)
        try:
            wait_until(lambda: letters().held == MEMBERS)
        finally:
            process.terminate()
            assert process.wait(30) == 0
        with Journal.open(Layout(directory).activations) as journal:
            keys = {one.idempotency_key for one in journal.letters.listed("hook")}
            assert journal.letters.ask_replay("hook", None) == MEMBERS
        receiver.answer = lambda _request: (200, {})
        process = started(directory, failpoint)
        assert process.wait(60) == -9
        process = started(directory)
        try:
            wait_until(lambda: {one["idempotency_key"] for one in receiver.records} == keys)
            wait_until(lambda: letters().replayed == MEMBERS)
        finally:
            process.terminate()
            assert process.wait(30) == 0
        # At most the batches under way at the kill came twice, one of each lane.
        assert len(receiver.records) <= MEMBERS + 2 * 5
        assert (letters().taken, letters().held) == (MEMBERS, 0)
        world.close()
