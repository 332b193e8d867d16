"""SQL over HTTP on a running server: formats, errors, jobs, scopes, clients that go away."""

import http.client
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from served import ADMIN_TOKEN, READ_TOKEN, Answer, Served

ENDLESS = "SELECT count(*) FROM range(1000000000000) a, range(1000000) b"
WAIT_SECONDS = 60
ARROW = "application/vnd.apache.arrow.stream"


def ask(served: Served, query: str, *, token: str = ADMIN_TOKEN, accept: str = "", **more: Any) -> Answer:
    headers = {"Content-Type": "application/json"} | ({"Accept": accept} if accept else {})
    return served.request(
        "POST", "/api/sql", {"query": query, **more}, authorization=f"Bearer {token}", headers=headers
    )


def until(served: Served, job: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        shown: dict[str, Any] = served.get(f"/api/sql/jobs/{job}").json
        if shown["status"] in states:
            return shown
        time.sleep(0.05)
    raise AssertionError(f"not {states} after {WAIT_SECONDS} s")


@pytest.fixture(scope="module")
def people(served: Served) -> Served:
    traits = {"email": "sql@example.org", "plan": "pro"}
    served.post("/v1/identify", {"userId": "sql-1", "traits": traits, "messageId": "sql-1"})
    served.committed()
    return served


def scoped(served: Served, scope: str) -> str:
    made = served.request(
        "POST",
        "/api/tokens",
        {"kind": "read", "scope": scope},
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Content-Type": "application/json"},
    )
    secret: str = made.json["data"]["token"]["secret"]
    return secret


def test_a_result_in_every_format(people: Served) -> None:
    query = "SELECT 1::BIGINT AS n, TIMESTAMPTZ '2026-01-02 03:04:05.6+00' AS t, 'a,\"b' AS s"
    plain = {"n": 1, "t": "2026-01-02T03:04:05.600000Z", "s": 'a,"b'}
    assert ask(people, query).json == [plain]
    answer = ask(people, query, accept="text/html, application/x-ndjson;q=0.9")
    assert (answer.headers["content-type"], json.loads(answer.body)) == ("application/x-ndjson", plain)
    assert ask(people, query, format="csv").body == (
        b'"n","t","s"\n1,"2026-01-02T03:04:05.600000Z","a,""b"\n'
    )
    table = pa.ipc.open_stream(ask(people, query, accept=ARROW).body).read_all()
    assert table.column("n").to_pylist() == [1]
    assert str(table.schema.field("t").type) == "timestamp[us, tz=UTC]"
    assert ask(people, query, format="parquet").body[:4] == b"PAR1"
    assert ask(people, query, accept="image/png").status == 400
    assert not [name for name in answer.headers if name.startswith("x-profilelake")]


def test_a_large_result_comes_whole(people: Served) -> None:
    answer = ask(
        people, "SELECT range AS n, md5(range::VARCHAR) AS h FROM range(300000) ORDER BY n", accept=ARROW
    )
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.column("n").to_pylist() == list(range(300_000))


def test_what_is_asked_is_what_is_committed(people: Served) -> None:
    query = "SELECT user_id, traits->>'plan' AS plan FROM events WHERE message_id = $id"
    assert ask(people, query, parameters={"id": "sql-1"}).json == [{"user_id": "sql-1", "plan": "pro"}]


def test_a_wrong_query_is_told_with_its_place(people: Served) -> None:
    answer = ask(people, "SELECT user_id,\n nix FROM events")
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert {key: answer.json[key] for key in ("code", "line", "column")} == {
        "code": "column_not_found",
        "line": 2,
        "column": 2,
    }
    assert ask(people, "FROM nowhere").status == 404
    view = ask(people, "FROM ws_default_sync.user_traits")
    assert (view.status, view.json["code"]) == (404, "table_not_found")
    assert "no table ws_default_sync.user_traits" in view.json["detail"]
    assert "profilelake sql" in view.json["detail"]
    assert ask(people, "COPY events TO '/tmp/out'").json["code"] == "not_a_query"
    assert ask(people, "SELECT 1", nix=1).json["code"] == "invalid_request"
    assert ask(people, "SELECT 1", timeout_seconds=0).json["code"] == "invalid_request"
    for mode in ("sync", "async"):
        large = ask(people, "SELECT ?", parameters=[1 << 70], mode=mode)
        assert (large.status, large.json["code"]) == (400, "invalid_parameters")
    late = ask(people, ENDLESS, timeout_seconds=1)
    assert (late.status, late.json["code"]) == (504, "timeout")


def test_a_token_sees_what_its_scope_says(people: Served) -> None:
    query = "SELECT traits, event_count FROM profiles WHERE event_count > 0 LIMIT 1"
    assert ask(people, query, token=READ_TOKEN).json[0]["traits"]
    assert ask(people, query, token=scoped(people, "sql:personal")).json[0]["traits"]
    masked = ask(people, query, token=scoped(people, "sql")).json[0]
    assert masked["traits"] is None
    assert masked["event_count"] > 0
    assert ask(people, query, token=scoped(people, "collection:users")).status == 403
    assert ask(people, query, token="unknown").status == 401


def test_what_a_client_claims_is_not_believed(people: Served) -> None:
    token = scoped(people, "sql")
    answer = people.request(
        "POST",
        "/api/sql",
        {"query": "SELECT DISTINCT traits FROM profiles"},
        authorization=f"Bearer {token}",
        headers={
            "Content-Type": "application/json",
            "X-Profilelake-Sql": "whole",
            "x-profilelake-token": "x",
        },
    )
    assert answer.json == [{"traits": None}]


def test_a_job_and_its_result(people: Served) -> None:
    made = ask(people, "SELECT 42 AS n", mode="async", format="ndjson")
    assert made.status == 202
    id = made.json["id"]
    assert made.headers["location"] == f"/api/sql/jobs/{id}"
    assert until(people, id, "done", "failed")["rows"] == 1
    result = people.get(f"/api/sql/jobs/{id}/result")
    assert (result.body, result.headers["content-type"]) == (b'{"n":42}\n', "application/x-ndjson")
    assert people.get(f"/api/sql/jobs/{id}", READ_TOKEN).status == 404
    delete = people.request("DELETE", f"/api/sql/jobs/{id}", authorization=f"Bearer {ADMIN_TOKEN}")
    assert delete.status == 200
    assert people.get(f"/api/sql/jobs/{id}").status == 404


def test_a_job_that_is_ended(people: Served) -> None:
    id = ask(people, ENDLESS, mode="async").json["id"]
    until(people, id, "running")
    assert people.get(f"/api/sql/jobs/{id}/result").status == 409
    people.request("DELETE", f"/api/sql/jobs/{id}", authorization=f"Bearer {ADMIN_TOKEN}")
    assert until(people, id, "cancelled")["error"]["code"] == "cancelled"
    assert people.get(f"/api/sql/jobs/{id}/result").json["code"] == "cancelled"


def test_a_result_that_breaks_off_is_not_taken_for_whole(people: Served) -> None:
    # The first rows are good; a later one cannot be converted.
    query = "SELECT CASE WHEN range = 900000 THEN 'x' ELSE '1' END::INT AS n FROM range(1000000)"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(people, query, format="ndjson")
    id = ask(people, query, mode="async").json["id"]
    assert until(people, id, "failed")["error"]["code"] == "invalid_value"


def test_a_client_that_goes_away_gives_its_place_back(people: Served) -> None:
    place = urlsplit(people.url)
    body = json.dumps({"query": ENDLESS}).encode()
    head = (
        f"POST /api/sql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(4):
        # One more than a token may run at the same time, twice.
        with socket.create_connection((str(place.hostname), place.port)) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.3)
    deadline = time.monotonic() + WAIT_SECONDS
    while (answer := ask(people, "SELECT 1 AS a")).status == 429:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.json == [{"a": 1}]


def test_too_many_queries_are_told_to_come_back(people: Served) -> None:
    jobs = [ask(people, ENDLESS, mode="async").json["id"] for _ in range(2)]
    for id in jobs:
        until(people, id, "running")
    refused = ask(people, "SELECT 1")
    assert (refused.status, refused.json["code"]) == (429, "too_many_queries")
    assert int(refused.headers["retry-after"]) >= 1
    for id in jobs:
        people.request("DELETE", f"/api/sql/jobs/{id}", authorization=f"Bearer {ADMIN_TOKEN}")


def test_the_rate_of_a_token_holds_for_sql_too(people: Served) -> None:
    token = scoped(people, "sql rate:1")
    answers = [people.get("/api/sql/jobs/none", token) for _ in range(40)]
    assert {answer.status for answer in answers} == {404, 429}
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.json["code"] for answer in refused} == {"rate_limit_error"}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
