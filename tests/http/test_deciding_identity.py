"""Deciding about identity on the server users run: recorded, applied, listed, planned."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from command_line import run_process
from identity_served import person, together
from served import ADMIN_TOKEN, READ_TOKEN, Answer, Served, basic, serving

pytestmark = pytest.mark.timeout(400)

JSON = {"Content-Type": "application/json"}
DECISIONS = "/api/identity/decisions"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of these tests alone: rules hold for everybody, and stand in everybody's history."""
    directory = tmp_path_factory.mktemp("deciding") / "data"
    with serving(directory) as running:
        yield running
        assert running.committed()["balanced"]
    verified = run_process("verify", "--dir", directory, "--json")
    assert (verified.code, verified.json) == (0, []), verified


def ask(served: Served, path: str, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.request("POST", path, body, authorization=f"Bearer {ADMIN_TOKEN}", headers=JSON | named)


def decided(served: Served, body: object) -> dict[str, Any]:
    answer = ask(served, f"{DECISIONS}?wait_for=committed", body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json["data"]
    return found


def test_a_decision_is_recorded_applied_and_taken_back(served: Served) -> None:
    user, device, _ = person(served)
    assert together(served, user, device)
    body = {"decision": "unlink", "identifiers": [f"user_id:{user}", f"anonymous_id:{device}"], "note": "#7"}
    answer = ask(served, DECISIONS, body)
    assert answer.status == 202, answer.body
    (made,) = answer.json["data"]["decisions"]
    assert (made["decision"], made["identifiers"], made["note"]) == ("unlink", body["identifiers"], "#7")
    assert made["by"].startswith("token ")
    served.committed()
    assert not together(served, user, device)
    assert ask(served, DECISIONS, body).json == {"data": {"changed": False, "decisions": []}}
    listed = served.get(f"{DECISIONS}?limit=1").json["data"]
    assert listed["decisions"] == [made | {"in_force": True}]
    assert decided(served, body | {"decision": "relink"})["changed"]
    assert together(served, user, device)
    after = served.get(f"{DECISIONS}?limit=1").json["data"]
    following = served.get(f"{DECISIONS}?limit=1&cursor={after['pagination']['next']}").json["data"]
    assert following["decisions"] == [made | {"in_force": False}]


def delete(served: Served, path: str, *named: dict[str, str], token: str = ADMIN_TOKEN) -> Answer:
    return served.request(
        "POST",
        f"/v1/spaces/default/collections/{path}/external_ids/delete",
        {"delete_external_ids": list(named)},
        authorization=basic(token),
        headers=JSON,
    )


def test_an_external_id_is_deleted_as_clients_of_segment_do_and_stays_so(served: Served) -> None:
    user, device, _ = person(served)
    path, named = f"users/profiles/user_id:{user}", {"id": device, "type": "anonymous_id"}
    answer = delete(served, path, named)
    assert (answer.status, answer.json["code"]) == (200, "success")
    served.committed()
    assert not together(served, user, device)
    assert delete(served, path, named).json["error"]["code"] == "eid_not_found"
    # The same event once more, as a replay would send it.
    again = {"userId": user, "anonymousId": device, "messageId": uuid.uuid4().hex}
    assert served.post("/v1/identify", again).status == 200
    served.committed()
    assert not together(served, user, device)
    shown = served.get(f"/v1/spaces/default/collections/{path}/external_ids", READ_TOKEN).json["data"]
    assert [one["type"] for one in shown] == ["user_id"]
    (newest,) = served.get(f"{DECISIONS}?limit=1").json["data"]["decisions"]
    assert (newest["decision"], newest["note"]) == ("unlink", "deleted over the Profile API")


def test_what_cannot_be_deleted_is_told_in_codes_of_segment(served: Served) -> None:
    user, device, _ = person(served)
    other, _, _ = person(served)
    path, named = f"users/profiles/user_id:{user}", {"id": device, "type": "anonymous_id"}
    for refused, status, code in (
        (delete(served, path, named, token="nobody"), 401, "unauthorized"),
        (delete(served, path, named, token=READ_TOKEN), 403, "forbidden"),
        (delete(served, f"accounts/profiles/user_id:{user}", named), 400, "bad_request"),
        (delete(served, f"users/profiles/anonymous_id:{device}", named), 400, "bad_request"),
        (delete(served, path), 400, "bad_request"),
        (delete(served, path, named, named), 400, "bad_request"),
        (delete(served, path, {"id": user, "type": "user_id"}), 400, "bad_request"),
        (delete(served, path, {"id": "g", "type": "group_id"}), 400, "unsupported_eid_type"),
        (delete(served, "users/profiles/user_id:nobody", named), 404, "not_found"),
        (delete(served, path, {"id": "nothing", "type": "email"}), 404, "eid_not_found"),
        (delete(served, path, {"id": other, "type": "user_id"}), 404, "eid_not_found"),
    ):
        assert (refused.status, refused.json["error"]["code"]) == (status, code), refused.body
    assert together(served, user, device)


def test_an_event_is_retracted_and_restored(served: Served) -> None:
    user, device, message = person(served)
    assert decided(served, {"decision": "retract", "message_id": message})["changed"]
    assert not together(served, user, device)
    assert not decided(served, {"decision": "retract", "message_id": message})["changed"]
    assert decided(served, {"decision": "restore", "message_id": message})["changed"]
    assert together(served, user, device)


def test_a_plan_changes_nothing(served: Served) -> None:
    user, device, message = person(served)
    for body in (
        {"decision": "quarantine", "identifier": f"anonymous_id:{device}"},
        {"decision": "retract", "message_id": message},
        {"decision": "rules", "rules": f"blocked: {{values: [{device}]}}\n"},
    ):
        answer = ask(served, "/api/identity/plan", body)
        assert answer.status == 200, answer.body
        assert answer.json["data"]["effects"]["changed"], answer.json
    assert together(served, user, device)


def test_a_decision_sees_the_one_before_it_that_is_not_applied_yet(served: Served) -> None:
    user, device, _ = person(served)
    pair = {"identifiers": [f"user_id:{user}", f"anonymous_id:{device}"]}
    assert ask(served, DECISIONS, {"decision": "unlink"} | pair).status == 202
    assert decided(served, {"decision": "relink"} | pair)["changed"]
    assert together(served, user, device)
    before = served.get("/api/identity/rules").json["data"]
    narrow = f"types:\n  anonymous_id:\n    blocked: {{values: [{device}]}}\n"
    versions = []
    for rules in (narrow, before["yaml"]):
        answer = ask(served, DECISIONS, {"decision": "rules", "rules": rules})
        assert answer.status == 202, answer.body
        (made,) = answer.json["data"]["decisions"]
        versions.append(made["rules_version"])
    assert versions == [before["version"] + 1, before["version"] + 2]
    served.committed()
    after = served.get("/api/identity/rules").json["data"]
    assert (after["version"], device in after["yaml"]) == (versions[1], False)
    assert together(served, user, device)


def test_decisions_made_at_the_same_time_have_versions_of_their_own(served: Served) -> None:
    before = served.get("/api/identity/rules").json["data"]
    texts = [f"types:\n  anonymous_id:\n    blocked: {{values: [nobody-{n}]}}\n" for n in range(4)]
    with ThreadPoolExecutor(len(texts)) as threads:
        made = [
            decision["rules_version"]
            for answer in threads.map(
                lambda text: ask(served, DECISIONS, {"decision": "rules", "rules": text}), texts
            )
            for decision in answer.json["data"]["decisions"]
        ]
    assert sorted(made) == [before["version"] + n for n in range(1, 5)]
    assert decided(served, {"decision": "rules", "rules": before["yaml"]})["changed"]


def test_a_repeated_request_is_one_decision(served: Served) -> None:
    user, device, _ = person(served)
    body = {"decision": "unlink", "identifiers": [f"user_id:{user}", f"anonymous_id:{device}"]}
    key = uuid.uuid4().hex
    first = ask(served, DECISIONS, body, Idempotency_Key=key)
    assert (first.status, ask(served, DECISIONS, body, Idempotency_Key=key).json) == (202, first.json)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"decision": "unlink", "identifiers": ["user_id:a"]}, 400, "invalid_request"),
        ({"decision": "unlink", "identifiers": ["user_id:nobody", "user_id:none"]}, 404, "not_found"),
        ({"decision": "unlink", "identifiers": ["user_id:a", "shoe:1"], "x": 1}, 400, "invalid_request"),
        ({"decision": "marry", "identifiers": []}, 400, "invalid_request"),
        ({"decision": "retract", "message_id": "none"}, 404, "not_found"),
        ({"decision": "rules", "rules": "types: 7"}, 400, "invalid_request"),
    ],
)
def test_a_bad_request_is_told_and_changes_nothing(
    served: Served, body: object, status: int, code: str
) -> None:
    served.committed()
    before = served.get(DECISIONS).json
    for path in (DECISIONS, "/api/identity/plan"):
        answer = ask(served, path, body)
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert served.get(DECISIONS).json == before


def test_only_admin_tokens_decide(served: Served) -> None:
    for method, path in (
        ("GET", DECISIONS),
        ("POST", DECISIONS),
        ("POST", "/api/identity/plan"),
        ("GET", "/api/identity/rules"),
    ):
        assert served.request(method, path, authorization=f"Bearer {READ_TOKEN}").status == 403
        assert served.request(method, path).status == 401
