"""From a sender's call to the rows of the lake and the profile, through the server users run."""

import datetime
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from segment.analytics import request
from segment.analytics.client import Client

from profilelake.semantics.events import EVENT_BYTES_MAX
from served import ADMIN_TOKEN, READ_TOKEN, WRITE_KEY, Served, basic, stopped

pytestmark = pytest.mark.timeout(240)

WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
PROFILES = "/v1/spaces/default/collections/users/profiles"


@pytest.fixture(autouse=True)
def _connections_end() -> Iterator[None]:
    yield
    request._session.close()


def events(served: Served, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the stored events whose message ids begin with `prefix`, by id, JSON columns read."""
    served.committed()
    rows = served.sql(f"FROM events WHERE starts_with(message_id, '{prefix}') ORDER BY position")
    by_id = {row["message_id"]: {name: _read(name, value) for name, value in row.items()} for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def _read(name: str, value: Any) -> Any:
    in_json = name in ("context", "properties", "traits", "integrations", "consent")
    return json.loads(value) if in_json and value is not None else value


def failed(served: Served, marker: str) -> list[dict[str, Any]]:
    """Return the dead letters whose bytes contain `marker`, in order."""
    served.committed()
    return served.sql(
        f"FROM failed_events SELECT reason, decode(raw) AS raw WHERE contains(decode(raw), '{marker}') "
        "ORDER BY position"
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_all_six_calls_of_the_python_sdk_become_rows(served: Served, compressed: bool) -> None:
    id = f"sdk-{compressed}-"
    user = f"{id}user"
    errors: list[Exception] = []
    sender = Client(
        WRITE_KEY, host=served.url, gzip=compressed, on_error=lambda error, _: errors.append(error)
    )
    sender.identify(user, {"email": f"{id}Ana@Example.org", "age": 36}, message_id=f"{id}identify")
    sender.track(
        user,
        "Order Completed",
        {"revenue": 42.5, "bad": float("nan")},
        timestamp=WHEN,
        message_id=f"{id}track",
    )
    sender.page(user, "Docs", "Pricing", {"url": "https://shop.example.org"}, message_id=f"{id}page")
    sender.screen(user, "App", "Basket", {"items": 3}, message_id=f"{id}screen")
    sender.group(user, f"{id}org", {"name": "Acme"}, message_id=f"{id}group")
    sender.alias(f"{id}anonymous", user, message_id=f"{id}alias")
    sender.flush()
    sender.join()
    assert errors == []

    stored = events(served, id)
    called = ("identify", "track", "page", "screen", "group", "alias")
    assert {event["message_id"]: event["type"] for event in stored.values()} == {
        f"{id}{type}": type for type in called
    }
    assert {event["library"] for event in stored.values()} == {"analytics-python"}
    assert {event["source_id"] for event in stored.values()} == {"default"}
    assert all(event["user_id"] == user for event in stored.values())
    assert stored[f"{id}identify"]["traits"] == {"email": f"{id}Ana@Example.org", "age": 36}
    track = stored[f"{id}track"]
    assert track["event"] == "Order Completed"
    assert track["properties"] == {"revenue": 42.5, "bad": None}
    assert track["original_timestamp"] == "2020-01-02T03:04:05.000000Z"
    # What the sender's clock is off by is only the way to us.
    assert track["timestamp"].startswith("2020-01-02T03:0")
    page = stored[f"{id}page"]
    assert page["name"] == "Pricing"
    assert page["properties"] == {"category": "Docs", "url": "https://shop.example.org"}
    assert stored[f"{id}screen"]["name"] == "Basket"
    assert stored[f"{id}screen"]["properties"]["items"] == 3
    group = stored[f"{id}group"]
    assert (group["group_id"], group["traits"]) == (f"{id}org", {"name": "Acme"})
    assert group["account_set_id"] is not None
    assert stored[f"{id}alias"]["previous_id"] == f"{id}anonymous"

    traits = served.get(f"{PROFILES}/user_id:{user}/traits", READ_TOKEN)
    assert traits.status == 200
    assert traits.json["traits"] == {"email": f"{id}Ana@Example.org", "age": 36}
    # The profile of an e-mail is found however it is spelt.
    by_email = served.get(f"{PROFILES}/email:{id.upper()}ANA@example.org/external_ids", READ_TOKEN)
    found = {(item["type"], item["id"]) for item in by_email.json["data"]}
    assert found == {("user_id", user), ("email", f"{id}ana@example.org".lower())}
    newest = served.get(f"{PROFILES}/user_id:{user}/events", READ_TOKEN)
    assert {item["message_id"] for item in newest.json["data"]} >= {f"{id}track", f"{id}page"}


CONTENT: dict[str, dict[str, Any]] = {
    "identify": {"traits": {"plan": "pro"}},
    "track": {"event": "Signed In", "properties": {"method": "sso"}},
    "page": {"name": "Home", "properties": {"path": "/"}},
    "screen": {"name": "Basket", "properties": {"items": 3}},
    "group": {"groupId": "raw-org", "traits": {"name": "Acme"}},
    "alias": {"previousId": "raw-before"},
}
COLUMNS = {
    "userId": "user_id",
    "groupId": "group_id",
    "previousId": "previous_id",
    "event": "event",
    "name": "name",
    "context": "context",
    "traits": "traits",
    "properties": "properties",
}


def test_each_path_stores_what_it_is_sent(served: Served) -> None:
    sent = {
        path: {"messageId": f"raw-{path}", "userId": "raw-user", "context": {"locale": "de-AT"}, **content}
        for path, content in CONTENT.items()
    }
    for path, message in sent.items():
        assert served.post(f"/v1/{path}", message).json == {"success": True}
    batch = [{**message, "messageId": f"raw-{type}-b", "type": type} for type, message in sent.items()]
    assert served.post("/v1/batch", {"batch": batch}).json == {"success": True}
    stored = events(served, "raw-")
    assert len(stored) == 2 * len(sent)
    for path, message in sent.items():
        for event in (stored[f"raw-{path}"], stored[f"raw-{path}-b"]):
            assert event["type"] == path
            assert {name: event[column] for name, column in COLUMNS.items()} == {
                name: message.get(name) for name in COLUMNS
            }
            assert event["received_at"].endswith("Z")


def test_a_message_sent_again_is_one_row_and_counted(served: Served) -> None:
    before = served.committed()
    message = {"messageId": "again-1", "userId": "again-user", "event": "Counted"}
    for _ in range(3):
        assert served.post("/v1/track", message).status == 200
    served.committed()
    assert served.post("/v1/batch", {"batch": [{**message, "type": "track"}] * 2}).status == 200
    after = served.committed()
    assert len(events(served, "again-")) == 1
    assert after["duplicates"] - before["duplicates"] == 4
    assert after["in_lake"] - before["in_lake"] == 1
    assert after["accepted"] - before["accepted"] == 5


REFUSED = [
    (b"{", {}, 400, "invalid_request"),
    (b"[]", {}, 400, "invalid_request"),
    (b"", {}, 400, "invalid_request"),
    (b'{"userId":"\xff"}', {}, 400, "invalid_request"),
    (gzip.compress(b" " * 20_000_000), {"Content-Encoding": "gzip"}, 400, "invalid_request"),
    (b"not gzip", {"Content-Encoding": "gzip"}, 400, "invalid_request"),
    (b"x", {"Content-Encoding": "br"}, 415, "invalid_request"),
    (b" " * (5 * 1024 * 1024), {}, 400, "invalid_request"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), REFUSED)
def test_what_cannot_be_read_is_refused_whole_and_nothing_is_stored(
    served: Served, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    before = served.get("/api/status").json["accepted"]
    answer = served.request("POST", "/v1/track", body, authorization=basic(WRITE_KEY), headers=headers)
    assert (answer.status, answer.json["success"], answer.json["code"]) == (status, False, code)
    assert answer.json["message"]
    assert served.get("/api/status").json["accepted"] == before


@pytest.mark.parametrize(
    "authorization", [None, basic("wk_wrong"), basic(READ_TOKEN), basic(ADMIN_TOKEN), "Basic !", "Bearer x"]
)
def test_events_need_a_write_key(served: Served, authorization: str | None) -> None:
    before = served.get("/api/status").json["accepted"]
    answer = served.request("POST", "/v1/track", {"userId": "u", "event": "e"}, authorization=authorization)
    assert (answer.status, answer.json["code"]) == (401, "invalid_write_key")
    assert served.get("/api/status").json["accepted"] == before


def test_bad_events_become_dead_letters_and_their_neighbours_rows(served: Served) -> None:
    good = {"type": "track", "userId": "bad-user", "event": "Good"}
    large = {**good, "messageId": "bad-large", "properties": {"mark": "x" * EVENT_BYTES_MAX}}
    batch = [
        {**good, "messageId": "bad-first"},
        {"type": "track", "event": "bad-nobody", "messageId": "bad-1"},
        {"type": "track", "userId": "u", "messageId": "bad-nameless"},
        {"type": "group", "userId": "u", "messageId": "bad-groupless"},
        {"type": "bad-type", "userId": "u"},
        "bad-text",
        {**good, "properties": "bad-properties"},
        large,
        {**good, "messageId": "bad-last"},
    ]
    before = served.committed()
    assert served.post("/v1/batch", {"batch": batch}).json == {"success": True}
    assert sorted(events(served, "bad-")) == ["bad-first", "bad-last"]
    reasons = [(row["reason"], json.loads(row["raw"])) for row in failed(served, "bad-")]
    assert reasons == [
        ("no_identifier", batch[1]),
        ("missing_event_name", batch[2]),
        ("missing_group_id", batch[3]),
        ("unknown_type", batch[4]),
        ("not_an_object", batch[5]),
        ("invalid_field", batch[6]),
        ("event_too_large", batch[7]),
    ]
    after = served.committed()
    assert (after["failed"] - before["failed"], after["in_lake"] - before["in_lake"]) == (7, 2)


ODD: dict[str, tuple[bytes, dict[str, Any] | None]] = {
    "nan": (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
    "half": (b'{"a":"x\\ud83dy"}', {"a": "x\ufffdy"}),
    "twice": (b'{"a":1,"a":2}', {"a": 2}),
    "nul": (b'{"a":"x\\u0000y"}', {"a": "x\0y"}),
    "array": (b"[]", None),
    "number": (b'{"n":12345678901234567890123}', {"n": 12345678901234567890123}),
    "text": ('{"t":"Zoë 😀"}'.encode(), {"t": "Zoë 😀"}),
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def test_what_sdks_really_send_is_stored(served: Served) -> None:
    for name, (properties, _) in ODD.items():
        for mark in (b"", BYTE_ORDER_MARK):
            id = f"odd-{name}-{len(mark)}".encode()
            body = b'{"messageId":"%b","userId":"odd","event":"E","properties":%b}' % (id, properties)
            assert served.post("/v1/track", mark + body).status == 200
    stored = events(served, "odd-")
    assert {id: event["properties"] or None for id, event in stored.items()} == {
        f"odd-{name}-{mark}": properties for name, (_, properties) in ODD.items() for mark in (0, 3)
    }


def test_the_content_type_does_not_matter(served: Served) -> None:
    types = ["application/json", "text/plain", "application/x-www-form-urlencoded", "image/png"]
    for number, content_type in enumerate(types):
        body = json.dumps({"messageId": f"kind-{number}", "userId": "kind", "event": "E"}).encode()
        headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
        answer = served.request(
            "POST", "/v1/track", gzip.compress(body), authorization=basic(WRITE_KEY), headers=headers
        )
        assert answer.status == 200
    assert sorted(events(served, "kind-")) == [f"kind-{number}" for number in range(len(types))]


def test_ids_of_odd_kinds(served: Served) -> None:
    batch = [
        {"type": "track", "event": "E", "messageId": "ids-number", "userId": 42},
        {"type": "track", "event": "E", "messageId": "ids-null", "userId": None, "anonymousId": "ids-a"},
        {"type": "track", "event": "E", "messageId": "ids-empty", "userId": "", "anonymousId": "ids-a"},
        {
            "type": "identify",
            "messageId": "ids-rudder",
            "userId": "ids-r",
            "context": {"traits": {"plan": "pro"}},
        },
    ]
    assert served.post("/v1/batch", {"batch": batch}).status == 200
    stored = events(served, "ids-")
    assert stored["ids-number"]["user_id"] == "42"
    assert stored["ids-null"]["user_id"] is None
    assert stored["ids-empty"]["user_id"] is None
    assert stored["ids-rudder"]["traits"] == {"plan": "pro"}


def test_waiting_for_what_was_accepted(served: Served) -> None:
    with stopped(served.child("pipeline")):
        assert served.post("/v1/track", {"messageId": "wait-1", "userId": "u", "event": "E"}).status == 200
        late = served.get("/api/status?wait_for=committed&timeout=0")
        assert late.status == 504
        assert late.json["in_flight"] == 1
        assert late.json["balanced"]
        assert late.json.keys() == served.get("/api/status").json.keys()
    done = served.get("/api/status?wait_for=committed&timeout=60")
    assert (done.status, done.json["in_flight"]) == (200, 0)
    position = done.json["position"]
    assert position["committed"].items() >= {k: v for k, v in position["accepted"].items() if v}.items()
    assert {stage["name"]: stage["lag_events"] for stage in done.json["stages"]} == {
        "apply": 0,
        "publish": 0,
        "profiles": 0,
    }
    assert len(events(served, "wait-")) == 1


@pytest.mark.parametrize(
    "query",
    [
        "wait_for=", "wait_for=nonsense", "wait_for=committed&timeout=soon", "wait_for=committed&timeout=-1",
        "wait_for=committed&timeout=nan", "wait_for=committed&timeout=301", "wait_for=committed&timeout=",
    ],
)  # fmt: skip
def test_nonsense_cannot_be_waited_for(served: Served, query: str) -> None:
    answer = served.get(f"/api/status?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer ", 401),
        ("Bearer adm_wrong", 401),
        ("Basic \xe9\xe9", 401),
        ("Basic /w==", 401),
        ("Digest x", 401),
        (f"Bearer {WRITE_KEY}", 401),
        (basic(WRITE_KEY), 401),
        (f"Bearer {READ_TOKEN}", 403),
        (basic(READ_TOKEN), 403),
        (f"Bearer {ADMIN_TOKEN}", 200),
        (f"bearer {ADMIN_TOKEN}", 200),
        (basic(ADMIN_TOKEN), 200),
    ],
)
def test_who_may_see_the_status(served: Served, authorization: str | None, status: int) -> None:
    answer = served.request("GET", "/api/status", authorization=authorization)
    assert answer.status == status
    assert (status == 401) == ("www-authenticate" in answer.headers)
    if status != 200:
        assert answer.json["status"] == status


def test_both_processes_are_alive_and_ready(served: Served) -> None:
    for _ in range(8):  # connections are spread over the processes
        assert served.request("GET", "/livez").status == 200
        assert served.request("GET", "/readyz").status == 200
        assert served.request("HEAD", "/livez").body == b""


def test_metrics_count_over_all_processes_and_name_nobody(served: Served) -> None:
    def value(text: str, name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    taken = 'profilelake_collect_events_total{source_id="default"}'
    before = served.request("GET", "/metrics").body.decode()
    for number in range(20):
        event = {"messageId": f"metric-{number}", "userId": "metric-person", "event": "metric-secret"}
        assert served.post("/v1/track", event).status == 200
    status = served.committed()
    for _ in range(4):
        text = served.request("GET", "/metrics").body.decode()
        assert value(text, taken) - value(before, taken) == 20, text
    for name in ("accepted", "in_lake", "duplicates", "failed", "in_flight"):
        assert value(text, f'profilelake_events{{state="{name}"}}') == status[name]
    assert value(text, "profilelake_events_balanced") == 1
    for word in ("metric-person", "metric-secret", WRITE_KEY, READ_TOKEN, ADMIN_TOKEN, str(served.directory)):
        assert word not in text


def test_metrics_are_not_open_to_whom_a_proxy_lets_in(served: Served) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert served.request("GET", "/metrics", headers=forwarded).status == 401
    allowed = served.request("GET", "/metrics", headers=forwarded, authorization=basic(ADMIN_TOKEN))
    assert allowed.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/status/", 404),
        ("GET", "/api/%00%ff", 404),
        ("POST", "/v1/unknown", 404),
        ("POST", "/v1/tracks", 404),
        ("DELETE", "/api/status", 405),
        ("POST", "/livez", 405),
        ("GET", "/v1/track", 405),
        ("GET", "/v1/spaces/default/collections/users/profiles/user_id:nobody/traits", 404),
        ("GET", "/v1/spaces/other/collections/users/profiles/user_id:1/traits", 401),
    ],
)
def test_other_paths_and_methods(served: Served, method: str, path: str, status: int) -> None:
    answer = served.request(method, path, authorization=basic(READ_TOKEN))
    assert answer.status == status
    assert "json" in answer.headers["content-type"]
    assert answer.json
    assert (status == 405) == ("allow" in answer.headers)
