"""Sources, keys and tokens over HTTP, on the server users run: what changes is in force within a second."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from command_line import run
from profilelake.manage.limits_hit import LOOK_SECONDS
from profilelake.workspaces.keyring import REFRESH_SECONDS
from served import ADMIN_TOKEN, READ_TOKEN, WRITE_KEY, Answer, Served, basic

pytestmark = pytest.mark.timeout(240)

JSON = {"Content-Type": "application/json"}
EVENT = {"userId": "management-user", "event": "Sent"}


def ask(served: Served, method: str, path: str, body: object = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.request(method, path, body, authorization=f"Bearer {ADMIN_TOKEN}", headers=JSON | named)


def name() -> str:
    return f"source-{uuid.uuid4().hex[:8]}"


def added(served: Served, **fields: object) -> dict[str, Any]:
    answer = ask(served, "POST", "/api/sources", {"slug": name(), **fields})
    assert answer.status == 201, answer.body
    source: dict[str, Any] = answer.json["data"]["source"]
    return source


def sent(served: Served, key: str) -> int:
    return served.request("POST", "/v1/track", EVENT, authorization=basic(key)).status


def within_a_second(holds: Callable[[], bool]) -> bool:
    """Wait as long as every HTTP process may take to look; several processes answer, so ask some times."""
    time.sleep(REFRESH_SECONDS)
    return all(holds() for _ in range(8))


def test_a_new_source_may_send_at_once(served: Served) -> None:
    source = added(served, name="Web shop", trusted=False, eventsPerSecond=1000)
    assert source["enabled"] is True
    assert (source["name"], source["trusted"], source["eventsPerSecond"]) == ("Web shop", False, 1000)
    (key,) = source["writeKeys"]
    assert {sent(served, key) for _ in range(4)} == {200}
    shown = ask(served, "GET", f"/api/sources/{source['id']}")
    assert shown.json == {"data": {"source": source}}
    assert shown.headers["cache-control"] == "no-store"


def test_a_disabled_source_is_refused_and_an_enabled_one_taken(served: Served) -> None:
    source = added(served)
    path, key = f"/api/sources/{source['id']}", source["writeKeys"][0]
    assert ask(served, "PATCH", path, {"enabled": False}).json["data"]["source"]["enabled"] is False
    assert within_a_second(lambda: sent(served, key) == 401)
    assert ask(served, "PATCH", path, {"enabled": True}).status == 200
    assert within_a_second(lambda: sent(served, key) == 200)


def test_a_key_is_rotated(served: Served) -> None:
    source = added(served, writeKey="odd/key with space " + name())
    path, old = f"/api/sources/{source['id']}", source["writeKeys"][0]
    new = ask(served, "POST", f"{path}/keys", {}).json["data"]["key"]["key"]
    assert {sent(served, key) for key in (old, new)} == {200}
    quoted = old.replace(" ", "%20").replace("/", "%2F")
    assert ask(served, "DELETE", f"{path}/keys/{quoted}").json["data"]["source"]["writeKeys"] == [new]
    keys = ask(served, "GET", f"{path}/keys").json["data"]["keys"]
    assert [(key["key"], key["revokedAt"] is None) for key in keys] == [(old, False), (new, True)]
    assert within_a_second(lambda: sent(served, old) == 401 and sent(served, new) == 200)
    # The keys of other sources are not reached through this one.
    assert ask(served, "DELETE", f"{path}/keys/{WRITE_KEY}").status == 404
    assert sent(served, WRITE_KEY) == 200


def test_a_token_is_issued_and_revoked(served: Served) -> None:
    issued = ask(served, "POST", "/api/tokens", {"kind": "admin", "expiresAt": "2100-01-01T00:00:00Z"})
    assert issued.status == 201
    token = issued.json["data"]["token"]
    secret = token.pop("secret")
    assert served.get("/api/sources", secret).status == 200
    listed = ask(served, "GET", "/api/tokens?limit=1000").json["data"]["tokens"]
    assert token in listed
    assert secret not in str(listed)
    assert ask(served, "DELETE", f"/api/tokens/{token['id']}").json["data"]["token"]["revoked"] is True
    assert within_a_second(lambda: served.get("/api/sources", secret).status == 401)
    read = ask(served, "POST", "/api/tokens", {"kind": "read", "scope": "trait:plan"}).json["data"]["token"]
    assert read["scope"] == "trait:plan"
    assert served.get("/api/sources", read["secret"]).status == 403


def test_a_scoped_token_reads_what_it_was_issued_for_until_it_is_revoked(served: Served) -> None:
    user = name()
    body = {"userId": user, "traits": {"plan": "club", "email": f"{user}@example.org"}}
    assert served.post("/v1/identify", body).status == 200
    served.committed()
    scope = {"kind": "read", "scope": "collection:users trait:plan", "expiresAt": "2100-01-01T00:00:00Z"}
    token = ask(served, "POST", "/api/tokens", scope).json["data"]["token"]
    profile = f"/v1/spaces/default/collections/users/profiles/user_id:{user}"
    secret = token["secret"]
    assert served.get(f"{profile}/traits", secret).json["traits"] == {"plan": "club"}
    assert served.get(f"{profile}/events", secret).json["error"]["code"] == "forbidden"
    assert ask(served, "DELETE", f"/api/tokens/{token['id']}").status == 200
    assert within_a_second(lambda: served.get(f"{profile}/traits", secret).status == 401)


def test_a_repeated_request_is_carried_out_once(served: Served) -> None:
    slug, key = name(), name()
    first = ask(served, "POST", "/api/sources", {"slug": slug}, Idempotency_Key=key)
    again = ask(served, "POST", "/api/sources", {"slug": slug}, Idempotency_Key=key)
    assert (first.status, again.status) == (201, 201)
    assert first.json == again.json
    assert ask(served, "POST", "/api/sources", {"slug": slug}).status == 409
    other = ask(served, "POST", "/api/sources", {"slug": name()}, Idempotency_Key=key)
    assert (other.status, other.json["code"]) == (400, "invalid_request")
    # A secret is not kept, so it cannot be shown again; but no second token is made either.
    made = ask(served, "POST", "/api/tokens", {"kind": "read"}, Idempotency_Key=name()[::-1] + "-t")
    assert made.status == 201
    key = name()
    token = ask(served, "POST", "/api/tokens", {"kind": "read"}, Idempotency_Key=key).json["data"]["token"]
    repeated = ask(served, "POST", "/api/tokens", {"kind": "read"}, Idempotency_Key=key)
    assert repeated.status == 409
    assert token["id"] in repeated.json["detail"]
    assert token["secret"] not in repeated.json["detail"]
    assert ask(served, "POST", "/api/tokens", {"kind": "read"}, Idempotency_Key="x" * 256).status == 400


def test_pages_hold_every_source_once(served: Served) -> None:
    made = {added(served)["id"] for _ in range(5)}
    found: list[str] = []
    path = "/api/sources?limit=2"
    while True:
        data = ask(served, "GET", path).json["data"]
        assert len(data["sources"]) <= 2
        found += [source["id"] for source in data["sources"]]
        if "next" not in data["pagination"]:
            break
        path = f"/api/sources?pagination[count]=2&pagination[cursor]={data['pagination']['next']}"
    assert found == sorted(set(found))
    assert made <= set(found)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/sources/nothing", b"", 404, "not_found"),
        ("GET", "/api/sources/nothing/keys", b"", 404, "not_found"),
        ("PATCH", "/api/sources/nothing", {}, 404, "not_found"),
        ("POST", "/api/sources/nothing/keys", {}, 404, "not_found"),
        ("DELETE", "/api/tokens/nothing", b"", 404, "not_found"),
        ("DELETE", "/api/sources/default", b"", 405, "method_not_allowed"),
        ("POST", "/api/sources", {"slug": "default"}, 409, "conflict"),
        ("POST", "/api/sources", {"slug": "a/b"}, 400, "invalid_request"),
        ("POST", "/api/sources", {"slug": "a", "nmae": "A"}, 400, "invalid_request"),
        ("POST", "/api/sources", {"slug": "a", "eventsPerSecond": -1}, 400, "invalid_request"),
        ("POST", "/api/sources", {"slug": "a", "eventsPerSecond": 10**30}, 400, "invalid_request"),
        ("POST", "/api/sources", {"slug": "a", "writeKey": WRITE_KEY}, 409, "conflict"),
        ("POST", "/api/sources", {"slug": "a", "writeKey": "x\u0000y"}, 400, "invalid_request"),
        ("POST", "/api/sources", b"[1", 400, "invalid_request"),
        ("POST", "/api/sources", b'{"slug": "\xff"}', 400, "invalid_request"),
        ("POST", "/api/sources", b"[" * 500_000, 400, "invalid_request"),
        ("POST", "/api/sources", b"x" * (1 << 20) + b"x", 413, "too_large"),
        ("POST", "/api/tokens", {"kind": "root"}, 400, "invalid_request"),
        ("POST", "/api/tokens", {"kind": "read", "expiresAt": "soon"}, 400, "invalid_request"),
        ("POST", "/api/tokens", {"kind": "read", "expiresAt": "2001-01-01"}, 400, "invalid_request"),
        ("POST", "/api/tokens", {"kind": "read", "scope": "resource:secrets"}, 400, "invalid_request"),
        ("POST", "/api/tokens", {"kind": "read", "scope": "rate:0"}, 400, "invalid_request"),
        ("POST", "/api/tokens", {"kind": "admin", "scope": "trait:plan"}, 400, "invalid_request"),
        ("GET", "/api/sources?limit=0", b"", 400, "invalid_request"),
        ("GET", "/api/sources?cursor=%ff", b"", 400, "invalid_request"),
        ("GET", "/api/tokens?limit=9999999999", b"", 400, "invalid_request"),
        ("GET", "/api/nothing", b"", 404, "not_found"),
    ],
)
def test_what_cannot_be_is_a_problem(
    served: Served, method: str, path: str, body: bytes | object, status: int, code: str
) -> None:
    answer = ask(served, method, path, body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status


def test_a_method_that_is_not_answered_is_told_which_are(served: Served) -> None:
    assert set(ask(served, "DELETE", "/api/sources").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert ask(served, "HEAD", "/api/sources").status == 200


def test_bodies_are_json_or_nothing(served: Served) -> None:
    form = ask(served, "POST", "/api/sources", b"slug=x", Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sources"),
        ("POST", "/api/sources"),
        ("PATCH", "/api/sources/default"),
        ("DELETE", "/api/sources/default/keys/x"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
        ("DELETE", "/api/tokens/x"),
    ],
)
def test_nothing_is_told_or_changed_without_an_admin_token(served: Served, method: str, path: str) -> None:
    assert served.request(method, path).status == 401
    assert served.request(method, path, authorization=f"Bearer {READ_TOKEN}").status == 403
    assert served.request(method, path, authorization=basic(WRITE_KEY)).status == 401


def test_a_limit_that_was_hit_is_told_in_the_status(served: Served) -> None:
    event = {"userId": "large", "event": "Sent", "properties": {"text": "x" * (5 << 20)}}
    assert served.post("/v1/track", event).status == 400
    give_up_at = time.monotonic() + 10 * LOOK_SECONDS
    hit: dict[str, dict[str, Any]] = {}
    while "body_too_large" not in hit and time.monotonic() < give_up_at:
        time.sleep(LOOK_SECONDS / 10)
        hit = {limit["name"]: limit for limit in served.get("/api/status").json["limits_hit"]}
    assert hit["body_too_large"]["count"] >= 1
    assert "4 MiB" in hit["body_too_large"]["change"]
    in_words = run("status", "--dir", served.directory)
    assert "limit body_too_large was hit" in in_words.out.decode()
