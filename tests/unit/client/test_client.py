"""The two clients against a real HTTP server that answers as it is told, faults included."""

import asyncio
import http.server
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

import profilelake
from profilelake.client import (
    AsyncClient,
    Client,
    InvalidRequest,
    NotAllowed,
    ProfileNotFound,
    RequestFailed,
    ServerUnavailable,
)
from profilelake.client._calls import LOOKUP_IDS_MAX
from profilelake.client._exchange import ATTEMPTS_MAX, WAIT_SECONDS_MAX
from profilelake.errors import Invalid, NotFound, Unavailable

AT = "2026-01-02T03:04:05.000006Z"
USE = "use_" + "0" * 27


@dataclass
class Script:
    """What the server answers, one entry a request, and what it was asked."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def say(self, body: object, status: int = 200, **headers: str) -> "Script":
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append((status, {n.replace("_", "-"): v for n, v in headers.items()}, raw))
        return self


@contextmanager
def server(script: Script) -> Iterator[str]:
    class Told(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            script.asked.append(
                (self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            status, headers, raw = script.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = answer  # noqa: N815 - the names the library calls

        def log_message(self, *words: object) -> None: ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


class Both:
    """Runs the same reads with the client that waits and with the one that awaits."""

    def __init__(self, awaiting: bool) -> None:
        self.awaiting = awaiting
        self.waits: list[float] = []

    def read(self, script: Script, act: Callable[[Any], Any]) -> Any:
        with server(script) as url:
            return self.at(url, act)

    def at(self, url: str, act: Callable[[Any], Any]) -> Any:
        rng = random.Random(1)
        if not self.awaiting:
            with Client(url, "rk_1", sleep=self.waits.append, rng=rng) as client:
                found = act(client)
                return list(found) if isinstance(found, Iterator) else found

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        async def run() -> Any:
            async with AsyncClient(url, "rk_1", sleep=sleep, rng=rng) as client:
                found = act(client)
                return [row async for row in found] if hasattr(found, "__aiter__") else await found

        return asyncio.run(run())


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def cursor(url: str = "") -> dict[str, Any]:
    return {"url": url, "has_more": bool(url), "next": "x" if url else "", "limit": 10}


def identifier(type: str, id: str) -> dict[str, Any]:
    return {
        "source_id": "src",
        "collection": "users",
        "id": id,
        "type": type,
        "created_at": AT,
        "encoding": "none",
        "first_message_id": "m1",
    }


def entry(traits: dict[str, Any], ids: list[dict[str, Any]], more: str = "") -> dict[str, Any]:
    return {
        "id": "asked",
        "segment_id": USE,
        "collection": "users",
        "traits": {"traits": traits, "cursor": cursor(more)},
        "external_ids": {"data": ids, "cursor": cursor()},
    }


NOBODY = {"id": "asked", "error": {"code": "not_found", "message": "Profile was not found."}}


def test_a_profile_has_all_its_pages(both: Both) -> None:
    script = Script().say({"data": [entry({"a": 1}, [identifier("email", "x@y")], "/v1/spaces/more?next=b")]})
    script.say({"traits": {"b": {"deep": [1]}}, "cursor": cursor()})
    profile = both.read(script, lambda client: client.profile("user_id:u1"))
    assert profile.traits == {"a": 1, "b": {"deep": [1]}}
    assert profile.identifiers("email") == ["x@y"]
    assert profile.external_ids[0].created_at == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert script.asked[1][1] == "/v1/spaces/more?next=b"


def test_no_identifier_stands_in_a_url(both: Both) -> None:
    """URLs end in logs, and an HTTP library logs them as well."""
    page = {"data": [], "cursor": cursor()}
    script = Script().say({"data": [entry({}, [])]}).say({"data": [entry({}, [])]}).say(page)
    both.read(script, lambda client: client.profile("email:ann@example.com"))
    both.read(script, lambda client: client.events("email:ann@example.com"))
    assert not [path for _, path, _, _ in script.asked if "ann" in path]
    assert script.asked[2][1].startswith(f"/v1/spaces/default/collections/users/profiles/{USE}/events?")


def test_profiles_come_in_the_order_asked(both: Both) -> None:
    many = LOOKUP_IDS_MAX + 1
    first = [NOBODY, *[entry({"n": number}, []) for number in range(1, LOOKUP_IDS_MAX)]]
    script = Script().say({"data": first}).say({"data": [entry({"n": many}, [])]})
    found = both.read(script, lambda client: client.profiles([f"user_id:{n}" for n in range(many)]))
    assert found[0] is None
    assert [profile.traits["n"] for profile in found[1:]] == [*range(1, LOOKUP_IDS_MAX), many]
    assert len(json.loads(script.asked[0][3])["ids"]) == LOOKUP_IDS_MAX


def test_nobody_is_none_or_an_error_as_asked(both: Both) -> None:
    script = Script().say({"data": [NOBODY]}).say({"data": [NOBODY]})
    assert both.read(script, lambda client: client.find("user_id:nobody")) is None
    with pytest.raises(ProfileNotFound) as raised:
        both.read(script, lambda client: client.profile("user_id:nobody"))
    assert raised.value.code == "not_found"
    assert isinstance(raised.value, NotFound)
    assert "nobody" not in str(raised.value).replace("nobody has", "")


def test_events_and_lists_follow_their_cursors(both: Both) -> None:
    event = {
        "external_ids": [],
        "context": {},
        "type": "track",
        "message_id": "m",
        "source_id": "s",
        "timestamp": AT,
        "properties": {"price": 5},
        "event": "Bought",
        "related": {},
    }
    script = Script().say({"data": [entry({}, [])]})
    script.say({"data": [event], "cursor": cursor("/v1/spaces/e?next=2")}).say(
        {"data": [event], "cursor": cursor()}
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found = both.read(script, lambda client: client.events("user_id:1", start=start, include=["Bought"]))
    assert [each.properties for each in found] == [{"price": 5}] * 2
    assert "include=Bought" in script.asked[1][1]
    assert "start=2026-01-01" in script.asked[1][1]
    script.say({"data": [entry({"n": 1}, [])], "cursor": cursor("/v1/spaces/l?next=2")})
    script.say({"data": [entry({"n": 2}, [])], "cursor": cursor()})
    listed = both.read(script, lambda client: client.all_profiles())
    assert [profile.traits["n"] for profile in listed] == [1, 2]


def test_traits_have_source_and_time(both: Both) -> None:
    written = {"value": "pro", "source_id": "src", "updated_at": AT}
    script = Script().say({"data": [entry({}, [])]}).say({"traits": {"plan": written}, "cursor": cursor()})
    found = both.read(script, lambda client: client.traits("user_id:1", include=["plan", "none"]))
    assert found["plan"].value == "pro"
    assert found["plan"].updated_at.tzinfo is not None


def test_rows_of_a_query_come_as_arrow(both: Both) -> None:
    table = pa.table({"n": [1, 2], "name": ["a", None]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    script = Script().say(sink.getvalue().to_pybytes())
    result = both.read(script, lambda client: client.sql("SELECT ?", [1], timeout_seconds=5))
    assert result.to_arrow() == table
    assert result.to_polars().to_dicts() == result.rows() == table.to_pylist()
    assert pa.table(result) == table
    assert json.loads(script.asked[0][3]) == {"query": "SELECT ?", "parameters": [1], "timeout_seconds": 5}
    assert script.asked[0][2]["accept"] == "application/vnd.apache.arrow.stream"


def test_batches_arrive_one_by_one_and_a_cut_is_seen() -> None:
    table = pa.table({"n": list(range(10_000))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1_000)
    whole = sink.getvalue().to_pybytes()
    script = Script().say(whole).say(whole[: len(whole) // 2])
    with server(script) as url, Client(url, "rk_1") as client:
        assert pa.Table.from_batches(client.sql_batches("SELECT 1")) == table
        with pytest.raises(RequestFailed, match="cut short"):
            list(client.sql_batches("SELECT 1"))


@pytest.mark.parametrize(
    ("status", "kind", "base"),
    [
        (400, InvalidRequest, Invalid),
        (401, NotAllowed, RequestFailed),
        (403, NotAllowed, RequestFailed),
        (404, ProfileNotFound, NotFound),
        (413, InvalidRequest, Invalid),
        (500, RequestFailed, RequestFailed),
    ],
)
def test_errors_carry_code_and_status_and_are_not_retried(
    both: Both, status: int, kind: type[RequestFailed], base: type[Exception]
) -> None:
    script = Script().say(
        {"code": "syntax_error", "detail": "wrong", "line": 1, "column": 8}, status, request_id="r7"
    )
    with pytest.raises(kind) as raised:
        both.read(script, lambda client: client.sql("SELEC 1"))
    assert isinstance(raised.value, base)
    assert (raised.value.code, raised.value.status, raised.value.request_id) == ("syntax_error", status, "r7")
    assert "line 1, column 8" in str(raised.value)
    assert both.waits == []


def test_a_query_that_took_too_long_is_not_asked_again(both: Both) -> None:
    script = Script().say({"code": "timeout", "detail": "it took longer than 5 seconds"}, 504)
    with pytest.raises(RequestFailed) as raised:
        both.read(script, lambda client: client.sql("SELECT 1", timeout_seconds=5))
    assert (raised.value.code, raised.value.status, both.waits) == ("timeout", 504, [])
    assert not isinstance(raised.value, Unavailable)
    proxied = Script().say(b"<html>", 504).say({"data": [entry({"a": 1}, [])]})
    assert both.read(proxied, lambda client: client.profile("user_id:1")).traits == {"a": 1}


def test_an_overloaded_server_is_asked_again(both: Both) -> None:
    script = Script().say(b"", 429, retry_after="2").say(b"<html>", 502).say({"data": [entry({"a": 1}, [])]})
    profile = both.read(script, lambda client: client.profile("user_id:1"))
    assert profile.traits == {"a": 1}
    assert both.waits[0] == 2
    assert 0 < both.waits[1] <= 1


def test_asking_again_ends(both: Both) -> None:
    script = Script()
    for _ in range(ATTEMPTS_MAX):
        script.say({"error": {"code": "service_unavailable", "message": "later"}}, 503)
    with pytest.raises(ServerUnavailable) as raised:
        both.read(script, lambda client: client.profile("user_id:1"))
    assert isinstance(raised.value, Unavailable)
    assert len(both.waits) == ATTEMPTS_MAX - 1
    assert script.answers == []


def test_a_server_that_asks_for_long_is_not_waited_for(both: Both) -> None:
    script = Script().say(b"", 503, retry_after=str(int(WAIT_SECONDS_MAX) + 1))
    with pytest.raises(ServerUnavailable) as raised:
        both.read(script, lambda client: client.profile("user_id:1"))
    assert raised.value.retry_after_seconds == WAIT_SECONDS_MAX + 1
    assert both.waits == []


def test_nobody_listening_is_said(both: Both) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnavailable, match="see that the server runs there"):
            both.at(url, lambda client: client.profile("user_id:1"))
    assert len(both.waits) == ATTEMPTS_MAX - 1


@pytest.mark.parametrize("token", ["", "a\nb", "ü"])
def test_a_token_that_cannot_be_one_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        Client("http://127.0.0.1", token)


def test_wrong_arguments_are_refused_before_anything_is_sent(both: Both) -> None:
    script = Script()
    with pytest.raises(InvalidRequest, match="empty"):
        both.read(script, lambda client: client.profile(""))
    script.say({"data": [entry({}, [])]})
    with pytest.raises(InvalidRequest, match="zone"):
        both.read(script, lambda client: client.events("user_id:1", start=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_a_cursor_that_leads_elsewhere_is_not_followed(both: Both) -> None:
    script = Script().say({"data": [entry({}, [], "http://elsewhere.example/steal")]})
    with pytest.raises(RequestFailed, match="cursor"):
        both.read(script, lambda client: client.profile("user_id:1"))


def test_the_package_gives_both_clients() -> None:
    assert profilelake.Client is Client
    assert profilelake.AsyncClient is AsyncClient
    with pytest.raises(AttributeError):
        profilelake.Nothing  # noqa: B018
