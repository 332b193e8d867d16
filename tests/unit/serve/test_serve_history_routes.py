"""The routes of the process that reads the lake, called as it is called: headers say what was checked."""

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette

from past_examples import World, identify, track, world
from pipeline_driver import KEY, SECOND, START, WORKSPACE
from profilelake.errors import Corrupt
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.serve import history_routes
from profilelake.serve._past import Past
from profilelake.serve._request import Route
from profilelake.serve.forwarded import SCOPE_HEADER, SPACE_HEADER, checked
from profilelake.serve.history_routes import Everything, History

ROOT = "/v1/spaces/default/collections/users/profiles"
SCOPES = {
    "": Everything(),
    "traits": Everything(resources=frozenset({"traits", "history"}), traits=frozenset({"plan"})),
    "events": Everything(resources=frozenset({"events"})),
    "accounts": Everything(collections=frozenset({"accounts"})),
    "export": Everything(resources=frozenset({"export"})),
}


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def cursor(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


class Reader:
    """The routes over a desk."""

    def __init__(self, shop: World) -> None:
        self.shop = shop
        self.application = Starlette(
            routes=list(
                history_routes.history_routes(
                    History(
                        state=lambda: shop.desk.state,
                        past=shop.past,
                        identifier_key=lambda _: KEY,
                        rules=shop.desk.setup.rules,
                        rules_now=lambda _: shop.desk.rules(),
                        untrusted=frozenset,
                        reach=lambda scope: SCOPES[scope],
                        now=lambda: START + 60 * SECOND,
                    )
                )
            )
        )

    def get(
        self, path: str, *, scope: str = "", space: str = WORKSPACE, unsaid: str = "", **headers: str
    ) -> Answered:
        raw, _, query = path.partition("?")
        said = [(name.encode(), value.encode()) for name, value in headers.items()]
        asked = {
            "type": "http",
            "method": "GET",
            "path": raw,
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [
                *(pair for pair in checked(Route(space, "", "", ""), scope) if pair[0] != unsaid.encode()),
                *said,
            ],
        }
        return asyncio.run(_answered(self.application, asked))


async def _answered(application: Starlette, asked: dict[str, Any]) -> Answered:
    sent: list[Any] = []

    said = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in said:
            return message
        await asyncio.Event().wait()
        raise AssertionError("the client never goes away")

    async def send(message: Any) -> None:
        sent.append(message)

    await application(asked, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with world(tmp_path_factory.mktemp("routes")) as made:
        made.feed(0, identify("m1", "u1", None, {"plan": "free", "secret": 1}))
        made.feed(1, track("m2", "a1"))
        made.feed(5, identify("m3", "u1", "a1", {"plan": "pro"}, "02"))
        made.desk.publish()
        yield Reader(made)


def test_all_events(reader: Reader) -> None:
    answer = reader.get(f"{ROOT}/user_id:u1/events?history=full&limit=2")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert [event["message_id"] for event in answer.json["data"]] == ["m3", "m2"]
    rest = reader.get(answer.json["cursor"]["url"])
    assert [event["message_id"] for event in rest.json["data"]] == ["m1"]


def test_a_profile_and_its_resources_as_of_a_time(reader: Reader) -> None:
    path = f"{ROOT}/anonymous_id:a1?as_of=2026-03-01T10:00:14Z&expand=traits,external_ids"
    shown = reader.get(path).json
    assert shown["as_of"] == "2026-03-01T10:00:14.000000Z"
    assert shown["traits"]["traits"] == {}
    assert [one["id"] for one in shown["external_ids"]["data"]] == ["a1"]
    traits = reader.get(f"{ROOT}/anonymous_id:a1/traits?as_of=2026-03-01T10:00:15Z").json["traits"]
    assert traits == {"plan": "pro", "secret": 1}
    ids = reader.get(f"{ROOT}/user_id:u1/external_ids?as_of=2026-03-01T10:00:14Z").json["data"]
    assert [one["id"] for one in ids] == ["u1"]


def test_pages_as_of_a_time_go_on_at_that_time(reader: Reader) -> None:
    first = reader.get(f"{ROOT}/user_id:u1/traits?as_of=2026-03-01T10:00:14Z&limit=1").json
    assert first["traits"] == {"plan": "free"}
    assert reader.get(first["cursor"]["url"]).json["traits"] == {"secret": 1}


def test_the_history_of_a_trait(reader: Reader) -> None:
    answer = reader.get(f"{ROOT}/user_id:u1/traits/plan/history?limit=1")
    assert [write["value"] for write in answer.json["data"]] == ["pro"]
    assert [write["value"] for write in reader.get(answer.json["cursor"]["url"]).json["data"]] == ["free"]


@pytest.mark.parametrize(
    ("accept", "type"),
    [
        ("", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("text/html, text/csv;q=0.5", "text/csv; charset=utf-8"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet"),
    ],
)
def test_an_export_in_the_format_that_is_accepted(reader: Reader, accept: str, type: str) -> None:
    answer = reader.get(f"{ROOT}/export", accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, type)
    assert b"profile_id" in answer.body


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        *(
            (f"/user_id:u1/{path}next={cursor(text)}", 400, "`next`")
            for path, text in (
                ("events?history=full&", b"full:99999999999999999999999:x"),
                ("events?history=full&", b"full:-62135596800000001:x"),
                ("events?history=full&", b"full:" + b"9" * 3000 + b":x"),
                ("traits/plan/history?", b"99999999999999999999999:" + bytes(POSITION_BYTES)),
                ("traits/plan/history?", b"-62135596800000001:" + bytes(POSITION_BYTES)),
            )
        ),
        ("/user_id:u1/traits?as_of=0001-01-01T00:00:00Z", 404, "Profile was not found"),
        ("/user_id:u1?as_of=0001-01-01&rules=current&expand=traits", 404, "Profile was not found"),
        ("/user_id:u1/traits?as_of=1969-12-31T23:59:59.999999Z", 404, "Profile was not found"),
        ("/user_id:nobody/events?history=full", 404, "Profile was not found"),
        ("/user_id:u1/events?history=some", 400, "must be one of: full"),
        ("/user_id:u1/events?history=full&as_of=2026-03-01", 400, "give `end` instead"),
        ("/user_id:u1/metadata?as_of=2026-03-01", 400, "not `metadata`"),
        ("/user_id:u1?as_of=2026-03-01&expand=events", 400, "not `events`"),
        ("/user_id:u1?as_of=2027-01-01", 400, "must not lie in the future"),
        ("/user_id:u1/traits/none/history", 404, "no such trait"),
        ("?as_of=2026-03-01", 400, "one profile at a time"),
        ("/user_id:u1/history", 404, "no resource `history`"),
        ("/user_id:u1/trait_history", 404, "no resource"),
        ("/user_id:u1/traits?as_of=", 400, "ISO 8601"),
        ("/export?format=xml", 400, "must be one of"),
        ("/export?since=never", 400, "ISO 8601"),
    ],
)
def test_what_is_refused(reader: Reader, path: str, status: int, message: str) -> None:
    answer = reader.get(ROOT + path)
    assert answer.status == status
    assert message in answer.json["error"]["message"]


def test_a_format_that_there_is_not(reader: Reader) -> None:
    answer = reader.get(f"{ROOT}/export", accept="text/html")
    assert (answer.status, answer.json["error"]["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("space", ["", "elsewhere"])
def test_another_space_than_was_checked(reader: Reader, space: str) -> None:
    assert reader.get(f"{ROOT}/user_id:u1/events?history=full", space=space).status == 401


@pytest.mark.parametrize("unsaid", [SPACE_HEADER, SCOPE_HEADER])
def test_what_was_not_checked_opens_nothing(reader: Reader, unsaid: str) -> None:
    for path in ("/user_id:u1/events?history=full", "/export"):
        assert reader.get(f"{ROOT}{path}", unsaid=unsaid).status == 401


@pytest.mark.parametrize(
    ("scope", "path", "status"),
    [
        ("traits", "/user_id:u1/traits/plan/history", 200),
        ("traits", "/user_id:u1/traits/secret/history", 404),
        ("traits", "/user_id:u1/traits?as_of=2026-03-01T10:00:20Z", 200),
        ("traits", "/user_id:u1/external_ids?as_of=2026-03-01T10:00:20Z", 403),
        ("traits", "/user_id:u1/events?history=full", 403),
        ("traits", "/export", 403),
        ("events", "/user_id:u1/events?history=full", 403),
        ("events", "/user_id:u1?as_of=2026-03-01T10:00:20Z", 403),
        ("accounts", "/user_id:u1/events?history=full", 403),
        ("accounts", "/export", 403),
        ("export", "/export", 200),
    ],
)
def test_what_a_scope_opens(reader: Reader, scope: str, path: str, status: int) -> None:
    answer = reader.get(ROOT + path, scope=scope)
    assert answer.status == status, answer.body
    assert b"secret" not in answer.body


def test_more_at_a_time_than_is_answered(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_routes, "QUESTIONS_MAX", 0)
    monkeypatch.setattr(history_routes, "EXPORTS_MAX", 0)
    busy = Reader(reader.shop)
    for path in ("/user_id:u1/events?history=full", "/export"):
        answer = busy.get(ROOT + path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_exports_make_room_for_others_when_they_end(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_routes, "EXPORTS_MAX", 1)
    one = Reader(reader.shop)
    assert [one.get(f"{ROOT}/export").status for _ in range(3)] == [200] * 3
    monkeypatch.setattr(Past, "lake", _damaged)
    assert [one.get(f"{ROOT}/export").status for _ in range(2)] == [500] * 2
    monkeypatch.undo()
    assert one.get(f"{ROOT}/export").status == 200


def _damaged(_past: Past) -> None:
    raise Corrupt("reading the tables: a file is gone")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
@pytest.mark.parametrize(
    "path",
    ["/user_id:u1/events?history=full&start=", "/user_id:u1/events?history=full&end=", "/export?since="],
)
def test_the_first_and_the_last_time_there_is_are_times(reader: Reader, path: str, time: str) -> None:
    assert reader.get(f"{ROOT}{path}{time}").status == 200
