"""What a token with a scope can and cannot read, and how often."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from profile_examples import (
    BEGIN,
    SCOPED,
    SPACE,
    FixedTokens,
    Profiles,
    Response,
    call,
    profile_api,
)
from profilelake.serve.profile_api import ProfileApi
from profilelake.workspaces import Token, TokenKind

USERS = "/v1/spaces/default/collections/users/profiles"
ACCOUNTS = "/v1/spaces/default/collections/accounts/profiles"
RESOURCES = ("traits", "external_ids", "events", "metadata", "links", "consent")
TRAITS = {"age": 33, "first name": "Bob", "plan": "club", "segment_consent_preference": True}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profiles]:
    made = Profiles(tmp_path_factory.mktemp("scopes"))
    made.add(["user_id:u1"], traits=TRAITS)
    made.add(["group_id:g1"], traits={"name": "ACME"}, collection="accounts")
    yield made
    made.state.close()


@pytest.fixture(scope="module")
def api(profiles: Profiles) -> ProfileApi:
    return profile_api(profiles)


def asked(api: ProfileApi, scope: str, target: str, **options: Any) -> Response:
    return call(api, target, token=SCOPED + scope, **options)


def refused(answer: Response) -> str:
    assert answer.status == 403
    assert answer.json["error"]["code"] == "forbidden"
    return str(answer.json["error"]["message"])


def test_a_collection_that_is_not_named_is_closed(api: ProfileApi) -> None:
    scope = "collection:users"
    assert asked(api, scope, f"{USERS}/user_id:u1/traits").status == 200
    message = refused(asked(api, scope, f"{ACCOUNTS}/group_id:g1/traits"))
    assert "`accounts`" in message
    # The answer does not tell who is there.
    assert refused(asked(api, scope, f"{ACCOUNTS}/group_id:nobody/traits")) == message
    assert refused(asked(api, scope, ACCOUNTS)) == message
    body = [b'{"ids": ["group_id:g1"]}']
    assert refused(asked(api, scope, f"{ACCOUNTS}/lookup", method="POST", body=body)) == message
    # Links of a person show accounts.
    assert refused(asked(api, scope, f"{USERS}/user_id:u1/links")) == message
    assert refused(asked(api, scope, f"{USERS}/user_id:u1?expand=traits,links")) == message
    assert asked(api, f"{scope} collection:accounts", f"{USERS}/user_id:u1/links").status == 200


@pytest.mark.parametrize("open", [*RESOURCES, "profiles"])
def test_a_resource_that_is_not_named_is_closed(api: ProfileApi, open: str) -> None:
    scope = f"resource:{open}"
    for resource in RESOURCES:
        answers = [
            asked(api, scope, f"{USERS}/user_id:u1/{resource}"),
            asked(api, scope, f"{USERS}/user_id:u1?expand={resource}"),
        ]
        if resource != "events":
            body = [json.dumps({"ids": ["user_id:u1"], "expand": [resource]}).encode()]
            answers.append(asked(api, scope, f"{USERS}/lookup", method="POST", body=body))
        for answer in answers:
            if resource == open:
                assert answer.status == 200
            else:
                assert f"`{resource}`" in refused(answer)
    listed = asked(api, scope, USERS)
    assert listed.status == 200 if open == "profiles" else "`profiles`" in refused(listed)
    if open == "profiles":
        assert "`traits`" in refused(asked(api, scope, f"{USERS}?expand=traits"))


def test_a_trait_that_is_not_named_is_as_if_it_were_not_there(api: ProfileApi) -> None:
    scope = "trait:age trait:first%20name trait:nothing trait:segment_consent_preference"
    seen = {"age": 33, "first name": "Bob"}
    path = f"{USERS}/user_id:u1"
    assert asked(api, scope, f"{path}/traits").json["traits"] == seen
    assert asked(api, scope, f"{path}/traits?include=age,plan").json["traits"] == {"age": 33}
    assert asked(api, scope, f"{path}/traits?include=plan").json["traits"] == {}
    assert list(asked(api, scope, f"{path}/traits?verbose=true").json["traits"]) == ["age", "first name"]
    assert asked(api, scope, f"{path}?expand=traits").json["traits"]["traits"] == seen
    body = [b'{"ids": ["user_id:u1"]}']
    (found,) = asked(api, scope, f"{USERS}/lookup", method="POST", body=body).json["data"]
    assert found["traits"]["traits"] == seen
    (first,) = asked(api, f"{scope} resource:profiles resource:traits", f"{USERS}?expand=traits").json["data"]
    assert first["traits"]["traits"] == seen
    # One page after another, a hidden trait leaves no gap and is not named by a cursor.
    page = asked(api, "trait:age trait:plan", f"{path}/traits?limit=1").json
    assert page["cursor"]["next"] == "plan"
    assert asked(api, scope, f"{path}/traits?limit=2").json["cursor"]["has_more"] is False
    refused(asked(api, scope, f"{path}/events"))


def test_sql_alone_opens_no_profile_and_words_of_a_newer_program_open_nothing(api: ProfileApi) -> None:
    for scope in ("sql", "sql:personal", "everything:please", "trait:age shape:round"):
        refused(asked(api, scope, f"{USERS}/user_id:u1/traits"))
        refused(asked(api, scope, USERS))
    assert asked(api, "rate:9", f"{USERS}/user_id:u1/traits").status == 200


def test_an_admin_token_reads_everything(profiles: Profiles) -> None:
    tokens = FixedTokens()
    tokens.tokens["adm"] = Token("tok_9", TokenKind.ADMIN, SPACE, "", None, revoked=False)
    api = profile_api(profiles, tokens=tokens)
    assert call(api, f"{ACCOUNTS}/group_id:g1/traits", token="adm").status == 200


def test_a_rate_belongs_to_its_token_and_is_shared_by_the_processes(profiles: Profiles) -> None:
    clock = [10.0]
    api = profile_api(profiles, monotonic=lambda: clock[0], requests_per_second=2, processes=2)
    path = f"{USERS}/user_id:u1/traits"

    def passed(scope: str, times: int) -> int:
        statuses = [asked(api, scope, path).status for _ in range(times)]
        assert set(statuses) <= {200, 429}
        return statuses.count(200)

    assert passed("rate:7", 10) == 4
    assert passed("rate:1", 3) == 1
    # Tokens without a rate share what their space may send.
    assert (passed("collection:users", 2), passed("trait:age", 2)) == (2, 0)
    clock[0] += 1
    assert passed("rate:7", 10) == 4
    assert (passed("trait:age", 2), passed("collection:users", 2)) == (2, 0)


def test_a_revoked_token_and_one_that_expires_are_forgotten(profiles: Profiles) -> None:
    tokens, now = FixedTokens(), [BEGIN]
    api = profile_api(profiles, tokens=tokens, now=lambda: now[0])
    path = f"{USERS}/user_id:u1/traits"
    first = Token("tok_9", TokenKind.READ, SPACE, "", BEGIN + 5, revoked=False)
    tokens.tokens["rk_short"] = first
    assert call(api, path, token="rk_short").status == 200
    now[0] = BEGIN + 4
    assert call(api, path, token="rk_short").status == 200
    now[0] = BEGIN + 5
    assert call(api, path, token="rk_short").status == 401
    tokens.tokens["rk_long"] = replace(first, expires_at=None)
    assert call(api, path, token="rk_long").status == 200
    tokens.tokens["rk_long"] = replace(first, expires_at=None, scope="resource:events")
    tokens.version += 1
    refused(call(api, path, token="rk_long"))
    del tokens.tokens["rk_long"]
    tokens.version += 1
    assert call(api, path, token="rk_long").status == 401
