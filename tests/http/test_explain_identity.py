"""Explanations of identity over HTTP and on the command line, on the server users run."""

from typing import Any
from urllib.parse import quote

import pytest

from command_line import run, told
from served import ADMIN_TOKEN, READ_TOKEN, Answer, Served

pytestmark = pytest.mark.timeout(240)

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def town(served: Served) -> Served:
    """Two people who share a tablet, one of them with an e-mail address."""
    for event in (
        {"messageId": "why-1", "anonymousId": "why-laptop"},
        {"messageId": "why-2", "userId": "why-ana", "anonymousId": "why-laptop"},
        {"messageId": "why-3", "userId": "why-ana", "traits": {"email": "Why@Example.org"}},
        {"messageId": "why-4", "userId": "why-ana", "anonymousId": "why-tablet"},
        {"messageId": "why-5", "userId": "why-bo", "anonymousId": "why-tablet"},
    ):
        assert served.post("/v1/identify", event).status == 200
    served.committed()
    return served


def get(served: Served, path: str, **query: str) -> Answer:
    return served.get(path + "?" + "&".join(f"{name}={quote(value)}" for name, value in query.items()))


def post(served: Served, path: str, body: object) -> Answer:
    return served.request("POST", path, body, authorization=f"Bearer {ADMIN_TOKEN}", headers=JSON)


def data(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    assert answer.headers["cache-control"] == "no-store"
    return answer.json["data"]


def names(nodes: list[dict[str, str]]) -> list[str]:
    return [f"{node['type']}:{node['value']}" for node in nodes]


# ---- over HTTP -----------------------------------------------------------------------------------


def test_why_gives_what_a_picture_needs(town: Served) -> None:
    asked = {"from": "anonymous_id:why-laptop", "to": "email:why@example.org"}
    chain = data(get(town, "/api/identity/why", **asked))["chain"]
    assert names(chain["nodes"]) == ["anonymous_id:why-laptop", "user_id:why-ana", "email:why@example.org"]
    ids = [node["id"] for node in chain["nodes"]]
    assert [(edge["from"], edge["to"]) for edge in chain["edges"]] == [(ids[0], ids[1]), (ids[1], ids[2])]
    assert [edge["evidence"]["message_id"] for edge in chain["edges"]] == ["why-2", "why-3"]
    assert all(edge["evidence"]["at"].endswith("Z") for edge in chain["edges"])
    assert data(post(town, "/api/identity/why", asked))["chain"] == chain


def test_why_not(town: Served) -> None:
    asked = {"from": "user_id:why-ana", "to": "user_id:why-bo", "collection": "users"}
    chain = data(post(town, "/api/identity/why", asked))["chain"]
    assert (chain["profile_id"], chain["edges"]) == (None, [])
    (refused,) = chain["apart"]["refusals"]
    assert names([refused["identifier"]]) == ["anonymous_id:why-tablet"]
    assert (refused["cause"], refused["limit_type"], refused["limit"]) == ("limit", "user_id", 1)


def test_refusals_of_an_identifier_and_of_an_event(town: Served) -> None:
    by_identifier = data(get(town, "/api/identity/refusals", identifier="anonymous_id:why-tablet"))
    assert by_identifier["sets"] == []
    by_event = data(get(town, "/api/identity/refusals", message_id="why-5"))
    assert by_event["refusals"] == by_identifier["refusals"]
    assert {names([one["identifier"]])[0]: one["outcome"] for one in by_event["sets"][0]["members"]} == {
        "user_id:why-bo": "linked",
        "anonymous_id:why-tablet": "refused",
    }
    assert data(post(town, "/api/identity/refusals", {"message_id": "why-5"})) == by_event
    assert data(get(town, "/api/identity/refusals", message_id="why-1"))["refusals"] == []


def test_an_event_that_is_nowhere_is_not_found(town: Served) -> None:
    answer = get(town, "/api/identity/refusals", message_id="why-99")
    assert answer.status == 404
    assert "no accepted event has this messageId" in answer.json["detail"]


def test_history_in_pages(town: Served) -> None:
    chain = data(get(town, "/api/identity/why", **{"from": "user_id:why-ana", "to": "user_id:why-ana"}))[
        "chain"
    ]
    path = f"/api/identity/profiles/{chain['profile_id']}/history"
    whole = data(get(town, path))
    assert [step["what"] for step in whole["history"]["steps"]] == ["created", "joined", "joined", "joined"]
    assert "next" not in whole["pagination"]
    first = data(get(town, path, limit="3"))
    second = data(get(town, path, limit="3", cursor=first["pagination"]["next"]))
    assert first["history"]["steps"] + second["history"]["steps"] == whole["history"]["steps"]
    at = whole["history"]["steps"][2]["at"]
    assert len(data(get(town, path, as_of=at))["history"]["steps"]) == 2
    asked = {"profile": "email:why@example.org", "as_of": at}
    assert len(data(post(town, "/api/identity/history", asked))["history"]["steps"]) == 2


def test_quarantine_is_a_list(town: Served) -> None:
    found = data(get(town, "/api/identity/quarantine"))
    assert isinstance(found["quarantined"], list)
    assert "current" in found["pagination"]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/api/identity/why?from=user_id:why-ana", 400, "give two identifiers"),
        ("/api/identity/why?from=user_id:why-ana&to=user_id:why-nobody", 404, "no event that was applied"),
        ("/api/identity/why?from=user_id:why-ana&to=nonsense", 400, "TYPE:VALUE"),
        ("/api/identity/why?from=a:b&to=a:b&collection=cats", 400, "users, accounts"),
        ("/api/identity/refusals", 400, "give either an identifier"),
        ("/api/identity/refusals?identifier=user_id:why-ana&message_id=x", 400, "give either an identifier"),
        ("/api/identity/refusals?identifier=user_id:why-ana&cursor=bm90aGV4", 400, "cursor"),
        ("/api/identity/profiles/use_000000000000000000000000000/history", 404, "it has none today"),
        ("/api/identity/profiles/user_id:why-ana/history?as_of=yesterday", 400, "write a time as"),
        ("/api/identity/quarantine?limit=0", 400, "limit"),
    ],
)
def test_what_cannot_be_answered(town: Served, path: str, status: int, detail: str) -> None:
    answer = town.get(path)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json["detail"]


def test_only_administrators_may_ask(town: Served) -> None:
    path = "/api/identity/why?from=user_id:why-ana&to=user_id:why-bo"
    assert town.request("GET", path).status == 401
    assert town.get(path, READ_TOKEN).status == 403


# ---- on the command line -------------------------------------------------------------------------


def test_why_on_the_command_line(town: Served) -> None:
    arguments = ("anonymous_id:why-laptop", "email:why@example.org", "--dir", town.directory)
    said = run("identity", "why", *arguments)
    assert said.code == 0
    lines = said.out.decode().splitlines()
    assert lines[0].startswith("anonymous_id:why-laptop and email:why@example.org are one person, use_")
    assert [line.strip() for line in lines[2::2]] == [
        "anonymous_id:why-laptop",
        "user_id:why-ana",
        "email:why@example.org",
    ]
    assert "message why-2" in lines[3]
    chain = run("identity", "why", *arguments, "--json").json
    asked = {"from": "anonymous_id:why-laptop", "to": "email:why@example.org"}
    assert chain == data(get(town, "/api/identity/why", **asked))["chain"]


def test_why_not_on_the_command_line(town: Served) -> None:
    said = run("identity", "why", "user_id:why-ana", "user_id:why-bo", "--dir", town.directory).out.decode()
    assert said.startswith("user_id:why-ana and user_id:why-bo are not one person\n")
    assert "it would have more user_id than the limit of 1" in said
    assert "message why-5" in said


def test_refusals_on_the_command_line(town: Served) -> None:
    by_identifier = run("identity", "refusals", "anonymous_id:why-tablet", "--dir", town.directory)
    assert "anonymous_id:why-tablet did not join use_" in by_identifier.out.decode()
    by_event = run("identity", "refusals", "--event", "why-5", "--dir", town.directory)
    assert "  anonymous_id:why-tablet: refused" in by_event.out.decode()
    assert by_identifier.out in by_event.out
    shown = run("identity", "refusals", "--event", "why-5", "--dir", town.directory, "--json").json
    assert [one["evidence"]["message_id"] for one in shown["refusals"]] == ["why-5"]
    none = run("identity", "refusals", "user_id:why-ana", "--dir", town.directory)
    assert (none.code, none.out, none.err) == (0, b"", "there are none\n")


def test_history_on_the_command_line(town: Served) -> None:
    said = run("identity", "history", "user_id:why-ana", "--dir", town.directory).out.decode()
    assert said.splitlines()[0].startswith("user_id:why-ana is part of use_")
    assert "began with anonymous_id:why-laptop" in said
    assert "was joined by email:why@example.org" in said
    assert said.splitlines()[-1].endswith("with 4 identifiers")
    page = run("identity", "history", "user_id:why-ana", "--dir", town.directory, "--limit", "1", "--json")
    assert len(page.json["steps"]) == 1
    cursor = page.err.split()[-1]
    rest = run(
        "identity", "history", "user_id:why-ana", "--dir", town.directory, "--cursor", cursor, "--json"
    )
    assert len(rest.json["steps"]) == 3


def test_quarantine_on_the_command_line(town: Served) -> None:
    ran = run("identity", "quarantine", "--dir", town.directory, "--json")
    assert isinstance(ran.json, list)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("why", "user_id:why-ana", "user_id:why-nobody"), 3, "no event that was applied has it"),
        (("why", "user_id:why-ana", "nonsense"), 2, "write an identifier as TYPE:VALUE"),
        (("refusals",), 2, "give either an identifier (TYPE:VALUE) or --event MESSAGE_ID"),
        (("refusals", "--event", "why-99"), 3, "no accepted event has this messageId"),
        (("refusals", "user_id:why-ana", "--collection", "cats"), 2, "it is one of users, accounts"),
        (("history", "user_id:why-ana", "--as-of", "yesterday"), 2, "write a time as"),
        (("history", "use_000000000000000000000000000"), 3, "it has none today"),
    ],
)
def test_wrong_questions_on_the_command_line(
    town: Served, arguments: tuple[str, ...], code: int, message: str
) -> None:
    told(run("identity", *arguments, "--dir", town.directory), code, message)


def test_a_value_cannot_steer_the_terminal(town: Served) -> None:
    event = {"messageId": "why-6", "userId": "why-\x1b[31mred", "anonymousId": "why-bell\a"}
    assert town.post("/v1/identify", event).status == 200
    town.committed()
    said = run(
        "identity", "why", "user_id:why-\x1b[31mred", "anonymous_id:why-bell\a", "--dir", town.directory
    )
    assert said.code == 0
    assert said.out.decode().replace("\n", "").isprintable()
