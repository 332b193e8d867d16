"""The feed over HTTP: pages, waiting, event streams, and who may read it."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from activate_world import WORKSPACE, World
from profilelake.activate import retention
from profilelake.manage import feed as feed_module
from profilelake.manage.app import HANDLERS
from profilelake.manage.feed import FeedDoor
from profilelake.ops import http
from profilelake.ops.clock import wall
from profilelake.workspaces import TokenKind
from profilelake.workspaces.control import Control
from profilelake.workspaces.keyring import KeyRing

pytestmark = pytest.mark.timeout(60)
WAIT = 20
ADMIN = "adm_test"


class Desk:
    """A world and a server of its feed."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "state")
        for key, kind, target in (
            ("vip", "audience", "users"),
            ("score", "trait", "users"),
            ("big", "audience", "accounts"),
        ):
            self.world.define(key, kind, target)  # type: ignore[arg-type]
        for number in (1, 2, 3):
            self.world.profile(number, [f"user_id:u{number}", f"email:e{number}"])
        self.world.profile(9, ["group_id:g9"])
        self.control = Control.open(directory / "control.sqlite", random.Random(1).randbytes)
        self.control.ensure_default(now=wall(), admin_token="adm_test")
        self.stopping = False
        self._stop: list[Any] = []
        door = FeedDoor(
            KeyRing(directory / "control.sqlite"),
            WORKSPACE,
            wall,
            lambda: self.world.state,
            lambda _token, _rate: 7,
            lambda: self.stopping,
        )
        app = Starlette(routes=door.routes(), exception_handlers=HANDLERS)
        listening = http.bind("127.0.0.1", 0)
        ready = threading.Event()

        async def main() -> None:
            stop = asyncio.Event()
            self._stop.extend((asyncio.get_running_loop(), stop))
            await http.serve_app(
                app, listening, http.HttpLimits(drain_seconds=2), stop=stop, on_ready=ready.set
            )

        self._thread = threading.Thread(target=lambda: asyncio.run(main()))
        self._thread.start()
        assert ready.wait(WAIT)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=WAIT)

    def token(self, scope: str) -> str:
        return self.control.issue_token(TokenKind.READ, WORKSPACE, now=wall(), scope=scope)[1]

    def get(self, query: str, token: str = ADMIN, **headers: str) -> httpx.Response:
        return self.client.get(f"/api/feed?{query}", headers={"Authorization": f"Bearer {token}", **headers})

    def close(self) -> None:
        self.stopping = True
        self.client.close()
        self._stop[0].call_soon_threadsafe(self._stop[1].set)
        self._thread.join()
        self.control.close()
        self.world.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def events(lines: Iterator[str], count: int) -> list[dict[str, str]]:
    """Return the next events of a stream."""
    found: list[dict[str, str]] = []
    one: dict[str, str] = {}
    for line in lines:
        if not line:
            if one.get("data") or "id" in one:
                found.append(one)
            one = {}
            if len(found) == count:
                return found
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            one[name] = value
    raise AssertionError(f"the stream ended after {found}")


def test_a_page_and_the_one_behind_it(desk: Desk) -> None:
    desk.world.change("vip", {1: "true", 2: "true"})
    desk.world.change("score", {1: "7.5"})
    first = desk.get("after=start&limit=2&expand=external_ids").json()
    assert [one["external_ids"][1]["id"] for one in first["changes"]] == ["u1", "u2"]
    assert first["more"] is True
    assert first["cursor"] == first["changes"][-1]["cursor"]
    second = desk.get(f"after={first['cursor']}").json()
    assert [(one["definition"], one["value"], one["previous"]) for one in second["changes"]] == [
        ("score", 7.5, None)
    ]
    assert "external_ids" not in second["changes"][0]
    assert second["more"] is False
    assert desk.get(f"after={second['cursor']}").json()["changes"] == []


def test_filters(desk: Desk) -> None:
    desk.world.change("vip", {1: "true"})
    desk.world.change("big", {9: "true"})
    desk.world.change("score", {1: "1"})
    told = desk.get("after=start&definition=vip&definition=score").json()["changes"]
    assert [one["definition"] for one in told] == ["vip", "score"]
    told = desk.get("after=start&collection=accounts").json()["changes"]
    assert [(one["definition"], one["profile_id"][:4]) for one in told] == [("big", "acc_")] or told[0][
        "collection"
    ] == "accounts"


def test_waiting_ends_with_the_first_change(desk: Desk) -> None:
    after = desk.get("after=now").json()["cursor"]
    timer = threading.Timer(0.3, lambda: desk.world.change("vip", {1: "true"}))
    timer.start()
    began = time.monotonic()
    told = desk.get(f"after={after}&wait=30").json()
    timer.join()
    assert len(told["changes"]) == 1
    assert time.monotonic() - began < WAIT
    assert desk.get(f"after={told['cursor']}&wait=0.2").json()["changes"] == []


def test_what_is_passed_over_is_not_waited_for_in_one_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "SCAN_MAX", 2)
    desk.world.change("vip", {1: "true", 2: "true", 3: "true"})
    desk.world.change("vip", {1: None, 2: None, 3: None})
    desk.world.change("score", {1: "1"})
    assert len(desk.get("after=start&definition=score&wait=5").json()["changes"]) == 1


def test_a_stream_has_cursors_and_goes_on_behind_the_last(desk: Desk) -> None:
    desk.world.change("vip", {1: "true", 2: "true"})
    headers = {"Authorization": "Bearer adm_test", "Accept": "text/event-stream"}
    with desk.client.stream("GET", "/api/feed?after=start", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        seen = events(lines, 2)
        desk.world.change("vip", {1: None})
        seen += events(lines, 1)
    assert [json.loads(one["data"])["value"] for one in seen] == [True, True, False]
    assert all(one["id"] == json.loads(one["data"])["cursor"] for one in seen)
    again = headers | {"Last-Event-ID": seen[0]["id"]}
    with desk.client.stream("GET", "/api/feed?after=now", headers=again) as answer:
        assert [one["id"] for one in events(answer.iter_lines(), 2)] == [one["id"] for one in seen[1:]]


def test_heartbeats_carry_the_place_and_see_a_revoked_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    issued, secret = desk.control.issue_token(TokenKind.READ, WORKSPACE, now=wall(), scope="feed")
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    with desk.client.stream("GET", "/api/feed?after=start&definition=score", headers=headers) as answer:
        lines = answer.iter_lines()
        desk.world.change("vip", {1: "true"})
        assert events(lines, 1)[0]["id"]
        desk.control.revoke_token(issued.id, now=wall())
        assert list(lines) is not None  # it ends


def test_streams_are_bounded_and_given_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "STREAMS_MAX", 1)
    headers = {"Authorization": "Bearer adm_test", "Accept": "text/event-stream"}
    with desk.client.stream("GET", "/api/feed?after=now", headers=headers):
        refused = desk.get("after=now", Accept="text/event-stream")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with desk.client.stream("GET", "/api/feed?after=now", headers=headers) as answer:
            if answer.status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the place of a stream that ended is not given back")


def test_what_is_gone_is_said(desk: Desk) -> None:
    after = desk.get("after=start").json()["cursor"]
    desk.world.change("vip", {1: "true"})
    desk.world.change("vip", {2: "true"})
    retention.trim(desk.world.state, WORKSPACE, desk.world.at, bool)
    for accept in ("application/json", "text/event-stream"):
        answer = desk.get(f"after={after}", Accept=accept)
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
        assert "after=now" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    ["", "after=x", "after=now&limit=0", "after=now&limit=1001", "after=now&wait=61", "after=now&wait=-1",
     "after=now&wait=nan", "after=now&collection=people", "after=now&expand=traits",
     "after=now" + "".join(f"&definition=d{number}" for number in range(101))],
)  # fmt: skip
def test_nonsense_is_refused(desk: Desk, query: str) -> None:
    assert desk.get(query).status_code == 400


@pytest.mark.parametrize(
    ("scope", "query", "status"),
    [
        ("", "after=now&expand=external_ids", 200),
        ("feed", "after=now", 200),
        ("feed", "after=now&expand=external_ids", 403),
        ("feed resource:external_ids", "after=now&expand=external_ids", 200),
        ("feed trait:vip", "after=now&expand=external_ids", 403),
        ("sql", "after=now", 403),
        ("trait:vip", "after=now", 403),
        ("feed rate:5", "after=now", 429),
    ],
)
def test_scopes(desk: Desk, scope: str, query: str, status: int) -> None:
    assert desk.get(query, token=desk.token(scope)).status_code == status


def test_a_scope_narrows_what_is_told(desk: Desk) -> None:
    desk.world.change("vip", {1: "true"})
    desk.world.change("score", {1: "1"})
    desk.world.change("big", {9: "true"})

    def told(scope: str, query: str = "") -> list[str]:
        answer = desk.get(f"after=start{query}", token=desk.token(scope))
        return [one["definition"] for one in answer.json()["changes"]]

    assert told("feed") == ["vip", "score", "big"]
    assert told("feed trait:vip trait:score") == ["vip", "score"]
    assert told("feed collection:accounts") == ["big"]
    assert told("feed trait:vip", "&definition=score") == []
    assert told("feed trait:vip", "&definition=score&definition=vip") == ["vip"]


def test_nobody_reads_it_without_a_token(desk: Desk) -> None:
    assert desk.client.get("/api/feed?after=now").status_code == 401
    assert desk.get("after=now", token="adm_no").status_code == 401


def test_a_stream_ends_when_the_server_stops(desk: Desk) -> None:
    headers = {"Authorization": "Bearer adm_test", "Accept": "text/event-stream"}
    with desk.client.stream("GET", "/api/feed?after=now", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1000"
        desk.stopping = True
        assert [line for line in lines if line] == []


def test_a_busy_stream_ends_once_its_token_is_revoked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.2)
    token, secret = desk.control.issue_token(TokenKind.READ, WORKSPACE, now=wall(), scope="feed")
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    told = 0
    with desk.client.stream("GET", "/api/feed?after=now", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1000"
        desk.world.change("score", {1: "0"})
        for line in lines:
            if line.startswith("data: "):
                told += 1
                assert told < 100, "what was revoked still reads"
                if told == 1:
                    desk.control.revoke_token(token.id, now=wall())
                desk.world.change("score", {1: str(told)})
