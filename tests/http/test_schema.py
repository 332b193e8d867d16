"""Which shapes events have, over HTTP and on the command line, on the server users run."""

from typing import Any
from urllib.parse import quote

import pytest

from command_line import run, told
from profilelake.semantics.shapes import UNLISTED
from profilelake.shapes.observed import ShapeLimits
from served import READ_TOKEN, Served, basic

pytestmark = pytest.mark.timeout(240)

NEW = 500
WIDE = 1_500
KEYS = ShapeLimits().shapes_per_part_max + WIDE


@pytest.fixture(scope="module")
def drifted(served: Served) -> Served:
    """An hour in the life of senders that nobody has told what to send."""
    prices = [{"price": price} for price in (5, "five", {})]
    cases = [{"userName": "ana"}, {"username": "ana"}, {"user_name": "ana"}]
    wide = [{f"key {first + n}": n for n in range(WIDE)} for first in range(0, KEYS, WIDE)]
    batches = [
        [_track("schema drift", {f"property {number}": number}) for number in range(NEW)],
        [_track("schema clash", each) for each in (*prices, *cases)],
        *([_track("schema wide", each)] for each in wide),
    ]
    for batch in batches:
        assert served.post("/v1/batch", {"batch": batch}).status == 200
    assert served.committed()["balanced"]
    return served


def _track(event: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "track", "event": event, "userId": "schema-user", "properties": properties}


def asked(served: Served, **query: object) -> dict[str, Any]:
    answer = served.get(
        "/api/schema?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    )
    assert answer.status == 200, answer.body
    data: dict[str, Any] = answer.json["data"]
    return data


def test_what_is_new_is_listed_page_by_page(drifted: Served) -> None:
    found, cursor = [], ""
    while True:
        page = asked(drifted, event="schema drift", new_since="1h", limit=300, cursor=cursor)
        found += page["schema"]
        if "next" not in page["pagination"]:
            break
        cursor = page["pagination"]["next"]
    assert {shape["path"] for shape in found} == {f"property {number}" for number in range(NEW)}
    assert len(found) == NEW
    assert {(shape["json_type"], shape["events"]) for shape in found} == {("integer", 1)}


def test_what_is_at_odds_is_told(drifted: Served) -> None:
    shapes = asked(drifted, event="schema clash", at_odds="any", part="properties")["schema"]
    assert {(shape["path"], shape["json_type"]): shape["at_odds"] for shape in shapes} == {
        ("price", "integer"): ["types"],
        ("price", "object"): ["types"],
        ("price", "string"): ["types"],
        ("userName", "string"): ["case", "column"],
        ("username", "string"): ["case"],
        ("user_name", "string"): ["column"],
    }
    assert {shape["example"] for shape in shapes} == {"9", "{…}", "aaaa", "aaa"}


def test_more_keys_than_are_listed_are_stored_and_told(drifted: Served) -> None:
    (rest,) = asked(drifted, event="schema wide", path=UNLISTED)["schema"]
    assert (rest["json_type"], rest["events"], rest["column_name"]) == ("integer", 1, None)
    keys = drifted.sql(
        "SELECT sum(length(json_keys(properties)))::BIGINT AS keys FROM events WHERE event = 'schema wide'"
    )
    assert keys == [{"keys": KEYS}]
    assert b'profilelake_schema_unlisted_events_total{limit="shapes"} 1.0' in drifted.get("/metrics").body


def test_the_command_line_lists_the_same(drifted: Served) -> None:
    place = ("--dir", drifted.directory)
    listed = run("schema", *place, "--event", "schema clash", "--conflicts", "--json").json
    assert {shape["path"] for shape in listed} == {"price", "userName", "username", "user_name"}
    shown = run("schema", *place, "--event", "schema clash", "--limit", "2")
    assert b"user_name" not in shown.out
    assert "there are more than 2" in shown.err
    assert run("schema", *place, "--event", "no such event").err == "there are none\n"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--part", "body", "it is one of context, properties, traits"),
        ("--new-since", "yesterday", "write a while as 90m, 24h or 7d"),
    ],
)
def test_the_command_line_says_what_it_does_not_understand(
    served: Served, option: str, value: str, message: str
) -> None:
    told(run("schema", "--dir", served.directory, option, value), 2, message)


@pytest.mark.parametrize(
    "query", ["part=body", "new_since=soon", "at_odds=all", "cursor=x", "cursor=WzFd", "limit=0"]
)
def test_what_is_not_understood_is_refused(served: Served, query: str) -> None:
    answer = served.get(f"/api/schema?{query}")
    assert answer.status == 400, answer.body
    assert answer.json["detail"]


def test_only_administrators_may_look(served: Served) -> None:
    assert served.request("GET", "/api/schema").status == 401
    assert served.request("GET", "/api/schema", authorization=basic(READ_TOKEN)).status == 403
