"""Delivery to real receivers: good ones, dead ones, slow ones, and those that break off in the middle."""

import asyncio
import base64
import hashlib
import hmac
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activate_desk import SECRET, Desk
from activate_world import WORKSPACE
from profilelake.activate import run as run_module
from profilelake.activate import secret_files, worker
from profilelake.activate.journal import Health, Journal
from profilelake.activate.run import Activating
from profilelake.errors import Unavailable
from receivers import Request, receiving, wait_until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BACK_OFF_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(run_module, "LOOK_AT_DESTINATIONS_SECONDS", 0.05)
    monkeypatch.setattr(worker, "FAULT_SECONDS", 0.05)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.world.close()


def users(records: list[dict[str, Any]]) -> list[str]:
    return [record["external_ids"][0]["id"] for record in records]


def verified(request: Request, secret: str) -> bool:
    """Check a signature as `docs/destinations.md` tells receivers to."""
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    signed = (
        f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    )
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = [part.partition(",")[2] for part in request.headers["webhook-signature"].split(" ")]
    return any(hmac.compare_digest(expected, one) for one in given)


def test_records_arrive_signed_and_once(desk: Desk) -> None:
    desk.members(7)
    with receiving() as receiver:
        desk.put(
            "hook",
            receiver.url,
            batch=3,
            parallel=2,
            previous_secret="$OTHER",
            headers=(("X-Team", "growth"),),
        )
        with desk.activating():
            receiver.wait(7)
            desk.world.change("vip", {3: None})
            receiver.wait(8)
        assert sorted(users(receiver.records[:7])) == [f"u{number}" for number in range(1, 8)]
        assert receiver.records[7]["value"] is False
        for request in receiver.requests:
            assert verified(request, SECRET)
            assert verified(request, "plain")
            assert not verified(request, "another")
            assert request.headers["idempotency-key"] == request.headers["webhook-id"]
            assert request.headers["x-team"] == "growth"
            assert len(request.records) <= 3
    assert desk.health("hook").delivered == 8
    assert (
        desk.registry.get_sample_value(
            "profilelake_activate_records_total", {"destination": "hook", "outcome": "delivered"}
        )
        == 8
    )


def test_a_restart_goes_on_where_it_was(desk: Desk) -> None:
    desk.members(3)
    with receiving() as receiver:
        desk.put("hook", receiver.url)
        with desk.activating():
            receiver.wait(3)
        desk.world.change("vip", {1: None})
        with desk.activating():
            receiver.wait(4)
        assert users(receiver.records[3:]) == ["u1"]


def test_a_dead_receiver_and_a_slow_one_hurt_no_other(desk: Desk) -> None:
    desk.members(5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as closed,
        receiving() as good,
        receiving(drip=True) as slow,
    ):
        # Taken and not listened at: a port that was given back may be another receiver's by now.
        closed.bind(("127.0.0.1", 0))
        desk.put("dead", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        desk.put("silent", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        desk.put("slow", slow.url)
        desk.put("good", good.url)
        with desk.activating(answer_seconds=0.3):
            good.wait(5)
            desk.world.change("vip", {1: None})
            good.wait(6)
            wait_until(lambda: all(desk.health(name).attempts for name in ("dead", "silent", "slow")))
    for name in ("dead", "silent", "slow"):
        assert desk.health(name).waiting == 5
        assert desk.health(name).delivered == 0
        assert desk.health(name).trouble
    assert desk.health("good").delivered == 6


def test_retry_after_is_honoured_and_the_bytes_are_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    desk.members(2)
    answers = iter([(429, {"Retry-After": "1"}), (503, {})])
    with receiving(lambda _request: next(answers, (204, {}))) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        original = run_module._wait

        async def wait(stop: asyncio.Event, seconds: float) -> None:
            if seconds not in (0.05, run_module.LOOK_SECONDS):
                waited.append(seconds)
                seconds = min(seconds, 0.01)
            await original(stop, seconds)

        monkeypatch.setattr(run_module, "_wait", wait)
        with desk.activating():
            receiver.wait(2)
        assert waited[0] >= 1.0
        assert len(receiver.requests) == 3
        assert len({request.body for request in receiver.requests}) == 1
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def test_a_connection_that_breaks_after_the_body_is_tried_again_under_the_same_key(desk: Desk) -> None:
    desk.members(4)
    with receiving(reset=2) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating():
            receiver.wait(4)
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert desk.health("hook").failing_since == 0


def test_one_bad_record_is_given_up_and_the_others_arrive(desk: Desk) -> None:
    desk.members(9)

    def picky(request: Request) -> tuple[int, dict[str, str]]:
        return (422 if "u4" in users(request.records) else 200), {}

    with receiving(picky) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating():
            receiver.wait(8)
            wait_until(lambda: desk.health("hook").dead == 1)
            with Journal.open(desk.directory / "activations.sqlite") as journal:
                (dead,) = journal.letters.listed("hook")
                assert (dead.status, dead.definition) == (422, "vip")
                receiver.answer = lambda _request: (200, {})
                assert journal.letters.ask_replay("hook", [dead.id]) == 1
            receiver.wait(9)
            assert receiver.records[8]["idempotency_key"] == dead.idempotency_key
    assert desk.health("hook").dead == 0


def test_what_is_too_old_becomes_dead_letters(desk: Desk) -> None:
    desk.members(2)
    with receiving(lambda _request: (500, {})) as receiver:
        desk.put("hook", receiver.url, retry_hours=0.01, parallel=1)
        with desk.activating():
            wait_until(lambda: desk.health("hook").attempts >= 2)
            with Journal.open(desk.directory / "activations.sqlite") as journal:
                # As if it had been tried for an hour.
                journal._connection.execute("UPDATE batches SET first_at = first_at - 3600000000")
                assert desk.health("hook").waiting == 2
        with desk.activating():
            wait_until(lambda: desk.health("hook").dead == 2)


def test_a_receiver_that_is_gone_is_paused_and_can_be_resumed(desk: Desk) -> None:
    desk.members(2)
    with receiving(lambda _request: (410, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating():
            wait_until(lambda: desk.held("hook").paused is not None)
            seen = len(receiver.requests)
            desk.world.change("vip", {1: None})
            receiver.answer = lambda _request: (200, {})
            assert desk.health("hook").waiting == 2
            assert len(receiver.requests) == seen == 1
            desk.resume("hook")
            receiver.wait(3)


def test_a_redirect_is_not_followed(desk: Desk) -> None:
    desk.members(1)
    with receiving() as other, receiving(lambda _request: (307, {"Location": other.url})) as receiver:
        desk.put("hook", receiver.url)
        with desk.activating():
            wait_until(lambda: desk.health("hook").attempts >= 2)
        assert other.requests == []
    assert "redirect" in desk.health("hook").trouble


def test_a_private_address_is_refused_unless_it_is_allowed(desk: Desk) -> None:
    desk.members(1)
    with receiving() as receiver:
        desk.put("hook", receiver.url)
        desk.put("named", receiver.url.replace("127.0.0.1", "localhost"))
        with desk.activating(allow_private="10.0.0.0/8"):
            wait_until(lambda: desk.health("hook").attempts and desk.health("named").attempts)
        assert receiver.requests == []
    assert "allow_private" in desk.health("hook").trouble


def test_a_secret_that_is_missing_is_waited_for(desk: Desk) -> None:
    desk.members(1)
    with receiving() as receiver:
        desk.put("hook", receiver.url, secret="later")
        with desk.activating():
            wait_until(lambda: "later" in desk.health("hook").trouble)
            secret_files.store(desk.directory / "secrets", "later", "x")
            receiver.wait(1)


def test_changes_of_one_profile_arrive_in_order(desk: Desk) -> None:
    """A receiver that fails every third request, several requests at a time, and values that count up."""
    desk.world.define("score", "trait")
    for number in range(1, 9):
        desk.world.profile(number, [f"user_id:u{number}"])
    calls = [0]

    def moody(_request: Request) -> tuple[int, dict[str, str]]:
        calls[0] += 1
        return (503 if calls[0] % 3 == 0 else 200), {}

    with receiving(moody) as receiver:
        desk.put("hook", receiver.url, batch=2, parallel=4)
        with desk.activating():
            wait_until(lambda: desk.health("hook").seen_through)
            for value in range(20):
                desk.world.change("score", {number: str(value) for number in range(1, 9)})
            receiver.wait(160)
        for number in range(1, 9):
            mine = [record for record in receiver.records if users([record]) == [f"u{number}"]]
            assert [record["value"] for record in mine] == list(range(20))


def test_a_destination_that_is_removed_is_forgotten(desk: Desk) -> None:
    desk.members(1)
    with receiving() as receiver:
        desk.put("hook", receiver.url)
        with desk.activating():
            receiver.wait(1)
            with desk._control() as control:
                control.destinations(WORKSPACE).remove("hook")
            wait_until(lambda: desk.health("hook") == Health())
            desk.put("hook", receiver.url)
            receiver.wait(2)


def test_a_destination_that_nobody_can_reach_hurts_no_other(desk: Desk) -> None:
    desk.members(2)
    with receiving() as receiver:
        desk.put("hook", receiver.url)
        desk.put("bad", receiver.url)
        with sqlite3.connect(desk.control_path) as connection:  # as a program wrote it that saw less
            connection.execute(
                "UPDATE destinations SET document = json_set(document, '$.url', 'https://1.2.3.999/') WHERE name = 'bad'"
            )
        connection.close()
        with desk.activating():
            receiver.wait(2)
            desk.put("bad", receiver.url)
            receiver.wait(4)


def test_a_receiver_that_is_gone_is_paused_though_that_fails_at_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.members(1)
    pause, failed = Activating._pause, []

    async def flaky(self: Activating, name: str, reason: str) -> None:
        if not failed:
            failed.append(name)
            raise Unavailable("changing the control database: it is busy")
        await pause(self, name, reason)

    monkeypatch.setattr(Activating, "_pause", flaky)
    with receiving(lambda _request: (410, {})) as receiver:
        desk.put("hook", receiver.url)
        with desk.activating():
            wait_until(lambda: desk.held("hook").paused)
    assert failed == ["hook"]
