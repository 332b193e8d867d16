"""The past of profiles on a running server, over HTTP and on the command line: the same answers."""

import json
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from command_line import run, told
from served import READ_TOKEN, WRITE_KEY, Answer, Served, basic

ROOT = "/v1/spaces/default/collections/users/profiles"


class Past:
    """A person who was two until a moment between two commits."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.send("h1", "identify", userId="past-user", traits={"plan": "free", "past": 1})
        self.send("h2", "track", anonymousId="past-device", event="Bought", properties={"n": 5})
        served.committed()
        # Positions have the server's clock, so between two answers there is a moment between two events.
        self.before = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        time.sleep(0.01)
        self.send("h3", "identify", userId="past-user", anonymousId="past-device", traits={"plan": "pro"})
        served.committed()

    def send(self, id: str, type: str, **event: object) -> None:
        answer = self.served.request(
            "POST", f"/v1/{type}", {"messageId": id, **event}, authorization=basic(WRITE_KEY)
        )
        assert answer.status == 200

    def get(self, path: str, token: str = READ_TOKEN) -> Answer:
        return self.served.get(ROOT + path, token)

    def ran(self, *arguments: str) -> object:
        ran = run(*arguments, "--dir", self.served.directory)
        assert (ran.code, ran.err) == (0, ""), ran
        return ran.json


@pytest.fixture(scope="module")
def past(served: Served) -> Past:
    return Past(served)


def test_all_events(past: Past) -> None:
    answer = past.get("/user_id:past-user/events?history=full&sort=asc")
    assert answer.status == 200
    assert answer.headers["request-id"]
    assert [event["message_id"] for event in answer.json["data"]] == ["h1", "h2", "h3"]
    listed = past.ran("profile", "history", "user_id:past-user", "--sort", "asc", "--json")
    assert listed == answer.json["data"]
    filtered = past.ran("profile", "history", "user_id:past-user", "--where", "n[gte]=5", "--json")
    assert filtered == past.get("/user_id:past-user/events?history=full&property.n%5Bgte%5D=5").json["data"]
    assert len(answer.json["data"]) == 3


def test_before_the_merge(past: Past) -> None:
    then = past.get(f"/anonymous_id:past-device?as_of={past.before}&expand=traits,external_ids").json
    assert then["traits"]["traits"] == {}
    assert [one["id"] for one in then["external_ids"]["data"]] == ["past-device"]
    traits = past.get(f"/user_id:past-user/traits?as_of={past.before}").json["traits"]
    assert traits == {"past": 1, "plan": "free"}
    shown = past.ran("profile", "get", "user_id:past-user", "--as-of", past.before)
    assert isinstance(shown, dict)
    assert (shown["traits"], shown["event_count"]) == (traits, 1)
    assert shown["identifiers"] == {"user_id": ["past-user"]}


def test_the_history_of_a_trait(past: Past) -> None:
    answer = past.get("/user_id:past-user/traits/plan/history").json
    assert [write["value"] for write in answer["data"]] == ["pro", "free"]
    assert answer["data"][1]["in_force_until"] == answer["data"][0]["received_at"]
    listed = past.ran("profile", "history", "user_id:past-user", "--trait", "plan", "--json")
    assert listed == answer["data"]


def test_an_export(past: Past) -> None:
    answer = past.served.request(
        "GET",
        f"{ROOT}/export",
        authorization=f"Bearer {READ_TOKEN}",
        headers={"Accept": "application/vnd.apache.arrow.stream"},
    )
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    rows = pa.ipc.open_stream(answer.body).read_all().to_pylist()
    (mine,) = [row for row in rows if "past-user" in row["identifiers"]]
    assert json.loads(mine["traits"]) == {"past": 1, "plan": "pro"}
    lines = run("export", "profiles", "--collection", "users", "--dir", past.served.directory).out
    assert sorted(json.loads(line)["profile_id"] for line in lines.splitlines()) == sorted(
        row["profile_id"] for row in rows
    )


@pytest.mark.parametrize(
    "path",
    [
        "/user_id:past-user/events?history=full",
        "/user_id:past-user/traits/plan/history",
        "/user_id:past-user?as_of=2026-01-01",
        "/export",
    ],
)
def test_nobody_reads_the_past_without_a_token(past: Past, path: str) -> None:
    refused = past.served.request(
        "GET", ROOT + path, headers={"x-profilelake-space": "default", "x-profilelake-token-scope": ""}
    )
    assert (refused.status, refused.json["error"]["code"]) == (401, "authentication_error")
    assert past.served.request("POST", ROOT + path, authorization=f"Bearer {READ_TOKEN}").status == 405
    assert past.served.request("HEAD", ROOT + path, authorization=f"Bearer {READ_TOKEN}").body == b""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("profile", "get", "user_id:past-user", "--as-of", "yesterday"), 2, "must be an ISO 8601 time"),
        (("profile", "get", "user_id:past-user", "--as-of", "2020-01-01"), 3, "Profile was not found"),
        (("profile", "get", "user_id:past-user", "--as-of", "2999-01-01"), 2, "must not lie in the future"),
        (("profile", "history", "user_id:nobody-there"), 3, "Profile was not found"),
        (("profile", "history", "user_id:past-user", "--trait", "none"), 3, "no such trait"),
        (("profile", "history", "user_id:past-user", "--where", "n"), 2, "write NAME=VALUE"),
        (("profile", "history", "user_id:past-user", "--where", "n[gt]=x"), 2, "compares with a number"),
        (("profile", "history", "user_id:past-user", "--collection", "cats"), 2, "one of users, accounts"),
        (("export", "cats"), 2, "it is one of profiles, events"),
        (("export", "profiles", "--format", "xml"), 2, "it is one of arrow, parquet, ndjson, csv"),
        (("export", "profiles", "--since", "never"), 2, "it is no ISO 8601 time"),
        (("export", "events", "--collection", "users"), 2, "leave it out"),
    ],
)
def test_wrong_usage(past: Past, arguments: tuple[str, ...], code: int, message: str) -> None:
    told(run(*arguments, "--dir", past.served.directory), code, message)
