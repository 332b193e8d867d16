"""Defining computed traits and audiences on the server users run: over HTTP, and from files."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import Ran, run, run_process, told
from served import ADMIN_TOKEN, Answer, Served, serving

pytestmark = pytest.mark.timeout(400)

BASE = "/api/spaces/default"
LIVE_SECONDS_MAX = 90
POLL_SECONDS = 0.1
JSON = {"Content-Type": "application/json"}
ORDERS = "event('Order Completed').count()"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of these tests alone: what is defined concerns everybody."""
    with serving(tmp_path_factory.mktemp("defining") / "data") as running:
        order(running, "ana", 3)
        order(running, "ben", 1)
        yield running


def order(served: Served, user: str, orders: int) -> None:
    """Have somebody order, and wait until that is committed."""
    batch: list[dict[str, Any]] = [{"type": "identify", "userId": user, "traits": {"plan": "pro"}}]
    batch += [
        {
            "type": "track",
            "userId": user,
            "event": "Order Completed",
            "properties": {"revenue": 10 * number, "category": "books"},
        }
        for number in range(1, orders + 1)
    ]
    assert served.post("/v1/batch", {"batch": batch}).status == 200
    served.committed()


def ask(served: Served, method: str, path: str, body: object = b"", **headers: str) -> Answer:
    said = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    return served.request(
        method, f"{BASE}{path}", body, authorization=f"Bearer {ADMIN_TOKEN}", headers=said if body else None
    )


def made(served: Served, path: str, body: object) -> dict[str, Any]:
    answer = ask(served, "POST", f"{path}?wait_for=committed", body)
    assert answer.status == 201, answer.body
    (found,) = answer.json["data"].values()
    return dict(found)


def live(served: Served, path: str, **more: object) -> dict[str, Any]:
    """Wait until what a path shows is computed, and has some values besides."""
    give_up_at = time.monotonic() + LIVE_SECONDS_MAX
    while True:
        answer = ask(served, "GET", path)
        assert answer.status == 200, answer.body
        (found,) = answer.json["data"].values()
        if all(found[name] == value for name, value in ({"status": "Live"} | more).items()):
            return dict(found)
        assert time.monotonic() < give_up_at, found
        time.sleep(POLL_SECONDS)


def command(served: Served, *arguments: str) -> Ran:
    return run(*arguments, "--dir", served.directory)


def test_an_audience_from_its_definition_to_its_end(served: Served) -> None:
    new_only = {"includeHistoricalData": False}
    body = {"name": "Loyal people", "definition": {"query": f"{ORDERS} >= 2"}, "options": new_only}
    audience = made(served, "/audiences", body)
    assert (audience["key"], audience["version"], audience["audienceType"]) == ("loyal_people", 1, "USERS")
    assert audience["id"].startswith("aud_")
    assert audience["computeCadence"] == {"type": "REALTIME"}
    path = f"/audiences/{audience['id']}"
    live(served, path)
    order(served, "cleo", 2)
    order(served, "dora", 1)
    one = {"count": 1, "type": "USERS"}
    shown = live(served, path, size=one)
    assert shown == audience | {"status": "Live", "size": one}
    assert ask(served, "GET", "/audiences/loyal_people").json["data"]["audience"] == shown
    assert shown in ask(served, "GET", "/audiences").json["data"]["audiences"]

    changed = ask(served, "PATCH", f"{path}?wait_for=committed", {"definition": {"query": f"{ORDERS} >= 1"}})
    assert changed.status == 200, changed.body
    assert changed.json["data"]["audience"]["version"] == 2
    live(served, path, size={"count": 2, "type": "USERS"})
    same = ask(served, "PATCH", path, {"definition": {"query": f"{ORDERS}  >=  1"}})
    assert same.json == {"data": {"status": "SUCCESS", "changed": False}}
    stale = ask(served, "PATCH", f"{path}?expected_version=1", {"enabled": False})
    assert (stale.status, stale.json["code"]) == (409, "conflict")

    assert ask(served, "DELETE", f"{path}?wait_for=committed").json == {"data": {"status": "SUCCESS"}}
    assert ask(served, "GET", path).status == 404
    again = ask(served, "POST", "/computed-traits", {"name": "Loyal people", "definition": {"query": ORDERS}})
    assert (again.status, "never changes its kind" in again.json["detail"]) == (409, True)


def test_a_repeated_request_defines_once(served: Served) -> None:
    body = {"name": "Once", "definition": {"query": ORDERS}}
    first = ask(served, "POST", "/computed-traits", body, Idempotency_Key="define-once")
    second = ask(served, "POST", "/computed-traits", body, Idempotency_Key="define-once")
    assert (first.status, second.status, second.body) == (201, 201, first.body)
    third = ask(served, "POST", "/computed-traits", body)
    assert (third.status, "there is a definition with this key" in third.json["detail"]) == (409, True)


def test_what_reads_what(served: Served) -> None:
    made(served, "/computed-traits", {"name": "spend", "definition": {"query": ORDERS}})
    reader = made(served, "/audiences", {"name": "spenders", "definition": {"query": "trait('spend') >= 2"}})
    answer = ask(served, "GET", "/computed-traits/spend/computedtrait-references").json["data"]["references"]
    assert [(one["id"], one["type"]) for one in answer] == [(reader["id"], "AUDIENCE")]
    refused = ask(served, "DELETE", "/computed-traits/spend")
    assert (refused.status, "spenders reads it" in refused.json["detail"]) == (409, True)
    assert ask(served, "GET", "/audiences/spenders/schedules").json == {"data": {"audienceSchedules": []}}
    assert ask(served, "POST", "/audiences/spenders/runs").status == 409
    assert ask(served, "POST", "/audiences/spenders/resyncs", {"destination": "crm"}).status == 202


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"name": "x"}, "missing required field `definition`"),
        ({"name": "x", "definition": {"query": "nonsense"}}, "line 1, column 1"),
        ({"name": "x", "definition": {"query": ORDERS}}, "condition"),
        ({"name": "!!", "definition": {"query": f"{ORDERS} > 1"}}, "no key can be made from it"),
        ({"name": "x", "key": "a b", "definition": {"query": f"{ORDERS} > 1"}}, "a key has Latin letters"),
        ({"name": "x", "key": "..", "definition": {"query": f"{ORDERS} > 1"}}, "a key is part of paths"),
        ({"name": "x", "definition": {"query": f"{ORDERS} > 1"}, "audienceType": "LINKED"}, "LINKED"),
        ({"name": "x", "definition": {"query": f"{ORDERS} > 1"}, "options": {"days": 7}}, "days"),
        ({"name": "x" * 201, "definition": {"query": f"{ORDERS} > 1"}}, "the most is 200"),
    ],
)
def test_what_cannot_be_defined_is_told(served: Served, body: object, told: str) -> None:
    answer = ask(served, "POST", "/audiences", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert told in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/audiences/none", 404),
        ("PATCH", "/audiences/none", 404),
        ("DELETE", "/computed-traits/none", 404),
        ("GET", "/audiences?limit=0", 422),
        ("GET", "/audiences/previews/none", 404),
        ("DELETE", "/audiences/none?override=maybe", 422),
        ("DELETE", "/audiences/none?expected_version=x", 422),
    ],
)
def test_what_is_not_there(served: Served, method: str, path: str, status: int) -> None:
    assert ask(served, method, path, {"enabled": True} if method == "PATCH" else b"").status == status


def test_another_space_and_no_token(served: Served) -> None:
    other = served.request("GET", "/api/spaces/other/audiences", authorization=f"Bearer {ADMIN_TOKEN}")
    assert other.status == 404
    assert served.request("GET", f"{BASE}/audiences").status == 401
    assert served.request("GET", f"{BASE}/events").status == 401


def test_names_to_define_something_with(served: Served) -> None:
    events = ask(served, "GET", "/events").json["data"]["events"]
    assert [one["name"] for one in events] == ["Order Completed"]
    found = ask(served, "GET", "/events/Order%20Completed/properties").json["data"]["properties"]
    assert [(one["name"], one["types"]) for one in found] == [
        ("category", ["string"]),
        ("revenue", ["integer"]),
    ]
    assert [one["name"] for one in ask(served, "GET", "/traits?search=PL").json["data"]["traits"]] == ["plan"]
    assert ask(served, "GET", "/traits?collection=accounts").json["data"]["traits"] == []
    samples = ask(served, "GET", "/events/Order%20Completed/properties/category/sample-values")
    (sample,) = samples.json["data"]["sampleValues"]
    assert (sample["value"], sample["count"] >= 4) == ("books", True)


def test_a_preview_counts_and_shows_and_keeps_nothing(served: Served) -> None:
    body = {"definition": {"query": "trait('plan') = 'pro'"}}
    started = ask(served, "POST", "/audiences/previews", body)
    assert started.status == 202, started.body
    preview = started.json["data"]["audiencePreview"]
    assert (preview["status"], preview["audienceType"]) == ("RUNNING", "USERS")
    give_up_at = time.monotonic() + LIVE_SECONDS_MAX
    while preview["status"] == "RUNNING":
        assert time.monotonic() < give_up_at
        time.sleep(POLL_SECONDS)
        answer = ask(served, "GET", f"/audiences/previews/{preview['id']}")
        preview = answer.json["data"]["audiencePreview"]
    assert preview["status"] == "COMPLETED", preview
    assert preview["size"]["count"] == len(preview["results"]) >= 2
    assert all(one["value"] is True for one in preview["results"])
    assert ask(served, "GET", "/audiences/preview").status == 404
    refused = ask(served, "POST", "/audiences/previews", {"definition": {"query": "nonsense"}})
    assert refused.status == 422


def test_files_are_planned_compared_and_applied(served: Served) -> None:
    folder = served.directory / "definitions"
    folder.mkdir(exist_ok=True)
    file = folder / "audiences.yaml"
    file.write_text(f'audiences:\n  buyers: {{historical: false, query: "{ORDERS} >= 1"}}\n')
    planned = command(served, "plan", "--json").json
    assert [(one["what"], one["key"], one["before"]) for one in planned["definitions"]] == [
        ("new", "buyers", None)
    ]
    told(command(served, "apply"), 4, "give --yes")
    assert b"new buyers" in command(served, "diff").out
    assert command(served, "diff", "--exit-code").code == 1
    applied = run_process("apply", "--yes", "--dir", served.directory, "--json")
    assert applied.code == 0, applied.err
    assert [one["what"] for one in applied.json["definitions"]] == ["new"]
    assert command(served, "diff").out == b"what the files say is in force\n"
    assert run_process("apply", "--yes", "--dir", served.directory).out.startswith(b"unchanged")

    live(served, "/audiences/buyers")
    order(served, "emil", 1)
    live(served, "/audiences/buyers", size={"count": 1, "type": "USERS"})
    served.committed()
    refused = ask(served, "PATCH", "/audiences/buyers", {"enabled": False})
    assert (refused.status, "definitions/audiences.yaml says what holds" in refused.json["detail"]) == (
        409,
        True,
    )
    shown = command(served, "audience", "show", "buyers", "--json").json
    assert (shown["managed_by"], shown["status"]) == ("definitions/audiences.yaml", "live")
    members = command(served, "audience", "members", "buyers", "--json").json
    assert [one["value"] for one in members] == [True]
    assert b"buyers" in command(served, "audience", "list").out
    assert [one["version"] for one in command(served, "audience", "history", "buyers", "--json").json] == [1]
    told(command(served, "trait", "show", "buyers"), 2, "it is no trait; ask `profilelake audience`")
    told(command(served, "audience", "show", "none"), 3, "there is no such audience")

    told(run_process("audience", "drop", "buyers", "--dir", served.directory), 4, "says what holds")
    file.unlink()
    dropped = run_process("apply", "--yes", "--dir", served.directory, "--json")
    assert [one["what"] for one in dropped.json["definitions"]] == ["dropped"], dropped.err
    told(command(served, "audience", "show", "buyers"), 3, "it was dropped")


def test_bad_files_change_nothing(served: Served, tmp_path: Path) -> None:
    file = served.directory / "definitions" / "traits.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text("traits:\n  k: {query: nonsense}\n")
    try:
        for name in ("plan", "diff", "test"):
            told(command(served, name), 2, "reading definitions/traits.yaml: 1 error; nothing was changed")
        told(run_process("apply", "--yes", "--dir", served.directory), 2, "line 2: traits.k.query")
    finally:
        file.unlink()
