"""Decisions where the event log or the pipeline does not answer: told as that, and never as something else."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from identity_deciding import LOG, Decisions
from profilelake.errors import Unavailable
from profilelake.eventlog import Entry
from profilelake.manage import decisions, recording
from profilelake.manage.changes import Changes
from profilelake.manage.guard import Guard
from profilelake.semantics.positions import Position
from profilelake.workspaces import TokenKind
from profilelake.workspaces.control import BUSY_SECONDS, CONTROL_FILE, DEFAULT_WORKSPACE, Control
from profilelake.workspaces.keyring import KeyRing


async def never(_entry: Entry) -> Position:
    """Be the event log of a disk that does not answer."""
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Decisions]:
    made = Decisions(tmp_path / "desk")
    made.send({"type": "identify", "userId": "u1", "anonymousId": "a1", "messageId": "m1"})
    yield made
    made.desk.close()


def decide(desk: Decisions, directory: Path, body: object) -> None:
    """Ask for a decision as a client does, while nothing becomes durable."""
    path = directory / CONTROL_FILE
    with Control.open(path, os.urandom) as control:
        control.ensure_default(now=1)
        _, secret = control.issue_token(TokenKind.ADMIN, DEFAULT_WORKSPACE, now=1)
    guard = Guard(KeyRing(path), DEFAULT_WORKSPACE, lambda: 1)
    changes = Changes(path, DEFAULT_WORKSPACE, lambda: 1)
    recorded = recording.Recording(
        DEFAULT_WORKSPACE, desk.deciding.state, never, directory / "log", directory / "flush"
    )
    routes = decisions.decision_routes(guard, changes, desk.deciding, recorded, directory)
    route = next(route for route in routes if route.path == "/api/identity/decisions")

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    said = {"content-type": "application/json", "authorization": f"Bearer {secret}", "idempotency-key": "7"}
    headers = [(name.encode(), value.encode()) for name, value in said.items()]
    scope = {"type": "http", "method": "POST", "path": route.path, "query_string": b"", "headers": headers}
    asyncio.run(route.endpoint(Request(scope, receive)))


def test_a_decision_that_does_not_become_durable_in_time_may_have_been_recorded(
    desk: Decisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RECORD_SECONDS_MAX", 0.05)
    with pytest.raises(Unavailable, match="may have been recorded; look at GET /api/identity/decisions"):
        decide(desk, tmp_path, {"decision": "quarantine", "identifier": "anonymous_id:a1"})


def test_others_can_wait_longer_for_the_control_database_than_a_decision_holds_it() -> None:
    assert recording.RECORD_SECONDS_MAX < BUSY_SECONDS


@pytest.mark.parametrize(
    "body",
    [
        {"decision": "quarantine", "identifier": "anonymous_id:never seen"},
        {"decision": "retract", "message_id": "never seen"},
    ],
)
def test_nothing_is_decided_before_what_was_accepted_is_applied(
    desk: Decisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: object
) -> None:
    monkeypatch.setattr(recording, "WAIT_SECONDS_MAX", 0.05)
    monkeypatch.setattr(recording, "accepted_ends", lambda _log: {LOG: 1 << 40})
    with pytest.raises(Unavailable, match="nothing was decided, try again"):
        decide(desk, tmp_path, body)
