"""Golden requests of a Segment-compatible Profile API, and what ours promises beyond them."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from profile_examples import (
    BEGIN,
    OTHER_TOKEN,
    SECOND,
    TOKEN,
    JsonText,
    Profiles,
    ProfileServer,
    call,
    profile_api,
    row,
)
from profilelake.errors import Corrupt, Unavailable
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import IdentityRules, TypeRule
from profilelake.serve.latest_state import LOOK_SECONDS, LatestState
from profilelake.serve.profile_api import LOOKUP_BYTES_MAX, LOOKUP_IDS_MAX
from profilelake.state import recent
from profilelake.state.records import NOBODY
from profilelake.state.store import State

USERS = "/v1/spaces/default/collections/users/profiles"
ACCOUNTS = "/v1/spaces/default/collections/accounts/profiles"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode()}
TRAITS = {
    "age": 33,
    "city": "Zürich",
    "address": JsonText('{"city": "Zürich", "zip": 8001}'),
    "big": JsonText("123456789012345678901234567890.10"),
    "left": None,
    "segment_consent_preference": {"categories": {"ads": True}},
    **{f"trait {n:02}?": n for n in range(8)},
}
SHOWN = sorted(set(TRAITS) - {"left", "segment_consent_preference"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator["World"]:
    made = World(tmp_path_factory.mktemp("profiles"))
    yield made
    made.profiles.state.close()


class World:
    """One person of two sets, one with a phone, one with many devices, an account, a merged-away set."""

    def __init__(self, directory: Path) -> None:
        self.profiles = Profiles(directory)
        self.id, self.sets = self.profiles.add(
            ["user_id:u1", "email:bob@example.com"], ["user_id:u1", "anonymous_id:a:1"], traits=TRAITS
        )
        self.phone, _ = self.profiles.add(["phone:+5555550123"], traits={"plan": "free"})
        self.devices, _ = self.profiles.add([f"ios.id:device-{n}" for n in range(30)])
        self.account, self.account_sets = self.profiles.add(
            ["group_id:g1"], traits={"name": "ACME"}, collection="accounts"
        )
        self.gone = self.profiles.merge_away("anonymous_id:old", self.sets[0])
        self.nobody = self.profiles.merge_away("anonymous_id:nobody", NOBODY)
        first, second = self.sets
        self.profiles.remember(
            [
                row(first, BEGIN + SECOND, "m1", 1, event="Signed Up", properties='{"price": 1.10}'),
                row(second, BEGIN + 2 * SECOND, "m2", 2, type="page", event=None, context='{"ip":"1.2.3.4"}'),
                row(first, BEGIN + 3 * SECOND, "m3", 3, type="identify", event=None, traits='{"age": 1}'),
            ]
        )
        self.profiles.remember(
            [
                row(second, BEGIN + 2 * 86_400 * SECOND, "m4", 4, type="page", event=None),
                row(first, BEGIN + 3 * 86_400 * SECOND, "m5", 5, event="Bought"),
                row(b"\x09" * 16, BEGIN, "m6", 6),
            ]
        )
        self.api = profile_api(self.profiles)

    def get(self, target: str, **options: Any) -> Any:
        answer = call(self.api, target, **options)
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[ProfileServer]:
    with ProfileServer(profile_api(world.profiles)) as running:
        yield running


def error(answer: Any) -> tuple[int, str]:
    assert list(answer.json) == ["error"]
    assert sorted(answer.json["error"]) == ["code", "message"]
    return answer.status, answer.json["error"]["code"]


def test_over_a_real_server_pages_are_followed_by_their_urls(server: ProfileServer, world: World) -> None:
    refused = server.get(f"{USERS}/user_id:u1/traits")
    assert error(refused) == (401, "authentication_error")
    first = server.get(f"{USERS}/user_id:u1/traits", BASIC)
    assert first.status == 200
    assert first.headers["content-type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{16}", first.headers["request-id"])
    assert not [name for name in first.headers if name.startswith("access-control")]
    page = first.json
    assert list(page["traits"]) == SHOWN[:10]
    assert page["cursor"] == {
        "url": f"/v1/spaces/default/collections/users/profiles/{world.id}/traits?limit=10&next=trait%2006%3F",
        "has_more": True,
        "next": SHOWN[10],
        "limit": 10,
    }
    second = server.get(page["cursor"]["url"], BASIC).json
    assert list(second["traits"]) == SHOWN[10:]
    assert second["cursor"] == {"url": "", "has_more": False, "next": "", "limit": 10}
    head = server.get(f"{USERS}/user_id:u1/traits", BASIC, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(first.body))


def test_one_page_holds_all_traits_and_numbers_keep_their_digits(world: World) -> None:
    answer = call(world.api, f"{USERS}/user_id:u1/traits?limit=200")
    assert list(answer.json["traits"]) == SHOWN
    assert answer.json["cursor"]["has_more"] is False
    assert b'"big":123456789012345678901234567890.10' in answer.body
    assert answer.json["traits"]["address"] == {"city": "Zürich", "zip": 8001}


def test_include_class_and_verbose_choose_and_dress_traits(world: World) -> None:
    chosen = world.get(f"{USERS}/user_id:u1/traits?include=city,age,nothing")["traits"]
    assert chosen == {"age": 33, "city": "Zürich"}
    assert world.get(f"{USERS}/user_id:u1/traits?include=city&include=left")["traits"] == {"city": "Zürich"}
    for kind in ("audience", "computed_trait"):
        assert world.get(f"{USERS}/user_id:u1/traits?class={kind}")["traits"] == {}
    verbose = world.get(f"{USERS}/user_id:u1/traits?verbose=true&include=age")["traits"]
    assert verbose == {
        "age": {"value": 33, "source_id": "src_web", "updated_at": "2026-01-01T00:00:00.000000Z"}
    }


@pytest.mark.parametrize(
    "id", ["user_id:nobody", "user_id", "u1", "use_", "group_id:g1", "segment_id:u1", ":", "email:"]
)
@pytest.mark.parametrize("resource", ["traits", "external_ids", "events", "metadata", "links", "consent"])
def test_who_is_not_there_is_not_found(world: World, id: str, resource: str) -> None:
    answer = call(world.api, f"{USERS}/{id}/{resource}")
    assert answer.status == 404
    assert answer.body == b'{"error":{"code":"not_found","message":"Profile was not found."}}'


def test_ids_are_written_as_the_rules_in_force_say(world: World) -> None:
    path = f"{USERS}/user_id:%20U1/traits?include=age"
    assert call(world.api, path).status == 404
    lower = IdentityRules(2, (TypeRule("user_id", 1, normaliser="lower"),))
    answer = call(profile_api(world.profiles, rules=lambda _: lower), path)
    assert json.loads(answer.body)["traits"] == {"age": 33}


def test_ids_are_decoded_and_normalised(world: World) -> None:
    assert world.get(f"{USERS}/phone:%2B5555550123/traits")["traits"] == {"plan": "free"}
    assert world.get(f"{USERS}/phone:+5555550123/traits")["traits"] == {"plan": "free"}
    assert world.get(f"{USERS}/email:Bob@Example.com/traits?include=age")["traits"] == {"age": 33}
    assert world.get(f"{USERS}/anonymous_id:a:1/traits?include=age")["traits"] == {"age": 33}
    assert world.get(f"{ACCOUNTS}/group_id%3Ag1/traits")["traits"] == {"name": "ACME"}
    older = "/v1/namespaces/default/collections/users/profiles/user_id:u1/traits?include=age"
    assert world.get(older)["traits"] == {"age": 33}


def test_every_id_ever_issued_leads_to_the_profile_of_today(world: World) -> None:
    second_set = public_id("users", world.sets[1])
    for id in (world.id, f"segment_id:{world.id}", world.gone, f"segment_id:{world.gone}", second_set):
        assert world.get(f"{USERS}/{id}/metadata")["segment_id"] == world.id
        assert error(call(world.api, f"{ACCOUNTS}/{id}/metadata")) == (404, "not_found")
    assert world.get(f"{ACCOUNTS}/{world.account}/metadata")["segment_id"] == world.account
    wrong_prefix = world.account.replace("acc_", "use_")
    for id in (wrong_prefix, world.nobody, public_id("users", b"\xff" * 16)):
        assert error(call(world.api, f"{USERS}/{id}/metadata")) == (404, "not_found")


def test_external_ids_come_in_pages(world: World) -> None:
    first = world.get(f"{USERS}/{world.devices}/external_ids?limit=25")
    assert len(first["data"]) == 25
    assert re.fullmatch("map_[0-9A-Za-z]{27}", first["cursor"]["next"])
    second = world.get(first["cursor"]["url"])
    assert second["cursor"] == {"url": "", "has_more": False, "next": "", "limit": 25}
    everything = first["data"] + second["data"]
    assert {entry["id"] for entry in everything} == {f"device-{n}" for n in range(30)}
    assert next(entry for entry in everything if entry["id"] == "device-3") == {
        "source_id": "src_web",
        "collection": "users",
        "id": "device-3",
        "type": "ios.id",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "encoding": "none",
        "first_message_id": "first-device-3",
    }
    chosen = world.get(f"{USERS}/user_id:u1/external_ids?include=email,anonymous_id")["data"]
    assert {(entry["type"], entry["id"]) for entry in chosen} == {
        ("email", "bob@example.com"),
        ("anonymous_id", "a:1"),
    }
    account = world.get(f"{ACCOUNTS}/group_id:g1/external_ids")["data"]
    assert [(entry["type"], entry["id"], entry["collection"]) for entry in account] == [
        ("group_id", "g1", "accounts")
    ]


def test_an_event_shows_what_it_carried(world: World) -> None:
    by_id = world.get(f"{USERS}/{world.id}/events")
    assert by_id == world.get(f"{USERS}/user_id:u1/events")
    assert [event["message_id"] for event in by_id["data"]] == ["m5", "m4", "m2", "m1"]
    assert by_id["cursor"] == {"url": "", "has_more": False, "next": "", "limit": 10}
    page = by_id["data"][2]
    carried = page.pop("external_ids")
    assert {(c["collection"], c["type"], c["id"], c["encoding"]) for c in carried} == {
        ("users", "user_id", "u1", "none"),
        ("users", "anonymous_id", "a:1", "none"),
    }
    assert page == {
        "context": {"ip": "1.2.3.4"},
        "type": "page",
        "message_id": "m2",
        "source_id": "src_web",
        "timestamp": "2026-01-01T00:00:02.000000Z",
        "properties": {},
        "event": "Page Viewed",
        "related": {"users": world.id},
    }
    assert b'{"price": 1.10}' in call(world.api, f"{USERS}/user_id:u1/events").body
    assert world.get(f"{USERS}/phone:%2B5555550123/events")["data"] == []


def test_events_are_filtered_sorted_and_paged(world: World) -> None:
    def ids(query: str) -> list[str]:
        return [event["message_id"] for event in world.get(f"{USERS}/user_id:u1/events?{query}")["data"]]

    assert ids("include=Page%20Viewed&sort=asc&start=2026-01-02") == ["m4"]
    assert ids("include=Page+Viewed&sort=asc") == ["m2", "m4"]
    assert ids("exclude=Page%20Viewed,Bought") == ["m1"]
    assert ids("start=2026-01-01T00:00:02Z&end=2026-01-03T00:00:00%2B00:00&sort=desc") == ["m2"]
    seen, url = [], f"{USERS}/user_id:u1/events?limit=1&exclude=Bought&sort=asc"
    while url:
        page = world.get(url)
        assert len(page["data"]) == 1
        seen += [event["message_id"] for event in page["data"]]
        url = page["cursor"]["url"]
    assert seen == ["m1", "m2", "m4"]
    cursor = world.get(f"{USERS}/user_id:u1/events?limit=1")["cursor"]["next"]
    padded = cursor + "=" * (-len(cursor) % 4)
    assert base64.urlsafe_b64decode(padded) == b"%d::m5" % ((BEGIN + 3 * 86_400 * SECOND) * 1000)
    assert ids(f"limit=2&next={quote(padded)}") == ["m4", "m2"]


def test_metadata_stands_at_the_root_and_nested(world: World) -> None:
    answer = world.get(f"{USERS}/user_id:u1/metadata?verbose=true")
    nested = answer.pop("metadata")
    assert answer.pop("segment_id") == world.id
    assert nested == answer == {
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-04T00:00:00.000000Z",
        "expires_at": None,
        "first_message_id": "m-0",
        "first_source_id": "src_web",
        "last_message_id": "m5",
        "last_source_id": "src_web",
    }  # fmt: skip


def test_unknown_resources_are_not_found(world: World) -> None:
    answer = call(world.api, f"{ACCOUNTS}/group_id:g1/nothing?limit=20")
    assert error(answer) == (404, "not_found")
    assert "nothing" in answer.json["error"]["message"]


def test_several_resources_come_in_one_answer(world: World) -> None:
    whole = world.get(f"{USERS}/user_id:u1?expand=traits,external_ids,events,metadata")
    assert (whole["segment_id"], whole["collection"]) == (world.id, "users")
    for name, limit in (("traits", 200), ("external_ids", 25), ("events", 100)):
        assert whole[name] == world.get(f"{USERS}/user_id:u1/{name}?limit={limit}")
    assert whole["metadata"] == world.get(f"{USERS}/user_id:u1/metadata")
    assert world.get(f"{USERS}/user_id:u1") == {"segment_id": world.id, "collection": "users"}
    assert error(call(world.api, f"{USERS}/user_id:u1?expand=likes")) == (400, "validation_error")


def test_many_profiles_are_looked_up_with_their_ids_in_the_body(world: World) -> None:
    body = json.dumps({"ids": ["email:BOB@example.com", "user_id:nobody", world.phone]}).encode()
    found = world.get(f"{USERS}/lookup", method="POST", body=[body[:9], body[9:]])["data"]
    assert [entry["id"] for entry in found] == ["email:BOB@example.com", "user_id:nobody", world.phone]
    assert found[0]["segment_id"] == world.id
    assert found[0]["traits"] == world.get(f"{USERS}/user_id:u1/traits?limit=200")
    assert found[1] == {
        "id": "user_id:nobody",
        "error": {"code": "not_found", "message": "Profile was not found."},
    }
    assert found[2]["traits"]["traits"] == {"plan": "free"}
    chosen = b'{"ids": ["user_id:u1"], "expand": []}'
    assert world.get(f"{USERS}/lookup", method="POST", body=[chosen])["data"] == [
        {"id": "user_id:u1", "segment_id": world.id, "collection": "users"}
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"ids": [1]}', 400),
        (b'{"ids": [], "limit": 3}', 400),
        (b'{"ids": ["\xff"]}', 400),
        (b'{"ids": [], "expand": ["likes"]}', 400),
        (b'{"ids": [], "expand": ["events"]}', 400),
        (json.dumps({"ids": ["a:b"] * (LOOKUP_IDS_MAX + 1)}).encode(), 400),
        (b" " * (LOOKUP_BYTES_MAX + 1), 413),
    ],
)
def test_a_look_up_that_cannot_be_read_is_refused(world: World, body: bytes, status: int) -> None:
    answer = call(world.api, f"{USERS}/lookup", method="POST", body=[body])
    assert error(answer)[0] == status


@pytest.mark.parametrize(
    "target",
    [
        "/v1/spaces/default/collections/us!ers/profiles/user_id:u1/traits",
        "/v1/spaces/default/collections/people/profiles/user_id:u1/traits",
        "/v1/spaces/default/collections/users/profiles/user_id:%zz/traits",
        "/v1/spaces/default/collections/users/profiles/user_id:100%/traits",
        "/v1/spaces/default/collections/users/profiles/user_id:%ff/traits",
        "/v1/spaces/default/collections/users/profiles/user_id:\xfc/traits",
        "/v1/spaces/default/collections/users/profiles/user_id:%ED%A0%80/traits",
        f"{USERS}/a%00b:u1/traits",
        f"{USERS}/user_id:u1/traits?limit=0",
        f"{USERS}/user_id:u1/traits?limit=-1",
        f"{USERS}/user_id:u1/traits?limit=201",
        f"{USERS}/user_id:u1/traits?limit=%C2%B2",
        f"{USERS}/user_id:u1/traits?limit=ten",
        f"{USERS}/user_id:u1/traits?class=magic",
        f"{USERS}/user_id:u1/traits?verbose=maybe",
        f"{USERS}/user_id:u1/traits?next=%",
        f"{USERS}/user_id:u1/traits?{'a=1&' * 70}",
        f"{USERS}/user_id:{'u' * 9000}/traits",
        f"{USERS}/user_id:u1/external_ids?limit=26",
        f"{USERS}/user_id:u1/external_ids?next=use_{'0' * 27}",
        f"{USERS}/user_id:u1/external_ids?next=map_{'z' * 27}",
        f"{USERS}/user_id:u1/events?limit=101",
        f"{USERS}/user_id:u1/events?sort=up",
        f"{USERS}/user_id:u1/events?start=yesterday",
        f"{USERS}/user_id:u1/events?end=2026-13-01",
        f"{USERS}/user_id:u1/events?next=%21",
        f"{USERS}/user_id:u1/events?next=abc",
        f"{USERS}/user_id:u1/events?next={base64.urlsafe_b64encode(b'9' * 999 + b'::m').decode()}",
        f"{USERS}/user_id:u1/metadata?verbose=2",
    ],
)
def test_what_cannot_be_read_is_a_bad_request(world: World, target: str) -> None:
    assert error(call(world.api, target)) == (400, "validation_error")


def test_strange_characters_of_a_collection_are_named(world: World) -> None:
    answer = call(world.api, "/v1/spaces/default/collections/us!ers/profiles/user_id:u1/traits")
    assert answer.json["error"]["message"] == "The parameter `collection` has invalid character(s) `!`"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/spaces",
        "/v1/spaces/default/collections/users",
        "/v2" + USERS[3:] + "/a:b/traits",
        USERS + "/a/b/c/d",
    ],
)
def test_a_path_of_nothing_is_not_found(world: World, target: str) -> None:
    assert error(call(world.api, target)) == (404, "not_found")


def test_other_methods_are_not_allowed(world: World) -> None:
    answer = call(world.api, f"{USERS}/user_id:u1/traits", method="DELETE")
    assert error(answer) == (405, "invalid_request_error")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("space", ["default", "nowhere"])
@pytest.mark.parametrize("token", [None, "", "rk_wrong", OTHER_TOKEN])
@pytest.mark.parametrize(
    "rest", ["collections/users/profiles/user_id:u1/traits", "collections/u!/profiles/x/y"]
)
def test_without_a_token_for_the_space_nothing_can_be_learnt(
    world: World, space: str, token: str | None, rest: str
) -> None:
    answer = call(world.api, f"/v1/spaces/{space}/{rest}", token=token)
    assert error(answer) == (401, "authentication_error")
    assert answer.body == call(world.api, f"{USERS}/user_id:u1/traits", token=None).body
    assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Basic " + base64.b64encode(b"rk_test:").decode(), 200),
        ("basic " + base64.b64encode(b"rk_test:anything").decode().rstrip("="), 200),
        ("Basic " + base64.b64encode(b"rk_test").decode(), 200),
        ("Bearer rk_test", 200),
        ("bearer  rk_test ", 200),
        ("Basic rk_test:", 401),
        ("Basic " + base64.b64encode(b":rk_test").decode(), 401),
        ("Basic \xff\xfe", 401),
        ("Bearer \xff", 401),
        ("Bearer", 401),
        ("Digest rk_test", 401),
        ("rk_test", 401),
    ],
)
def test_tokens_come_as_basic_user_name_or_bearer(
    server: ProfileServer, authorization: str, status: int
) -> None:
    assert server.get(f"{USERS}/user_id:u1/traits", {"Authorization": authorization}).status == status


def test_more_than_the_limit_in_any_second_waits(world: World) -> None:
    clock = [10.0]
    api = profile_api(world.profiles, monotonic=lambda: clock[0], requests_per_second=100)
    statuses = []
    for _ in range(100):
        clock[0] += 0.004
        statuses.append(call(api, f"{USERS}/user_id:u1/traits").status)
    assert statuses == [200] * 100
    refused = call(api, f"{USERS}/user_id:u1/traits")
    assert error(refused) == (429, "rate_limit_error")
    assert refused.headers["retry-after"] == "1"
    elsewhere = call(api, USERS.replace("default", "elsewhere") + "/user_id:u1/traits", token=OTHER_TOKEN)
    assert elsewhere.status == 404
    assert call(api, f"{USERS}/user_id:u1/traits", token="rk_wrong").status == 401
    clock[0] = 11.005
    assert call(api, f"{USERS}/user_id:u1/traits").status == 200
    assert call(api, f"{USERS}/user_id:u1/traits").status == 429


def test_requests_are_counted_by_resource_and_status_and_nothing_else(world: World) -> None:
    registry = CollectorRegistry()
    api = profile_api(world.profiles, registry=registry)
    for target in (
        "user_id:u1/traits",
        "user_id:nobody/traits",
        "user_id:u1/secret-thing",
        "user_id:u1",
        "lookup",
        "?limit=3",
    ):
        call(api, f"{USERS}/{target}")
    call(api, "/v1/spaces")
    counted = {
        (sample.labels["resource"], sample.labels["status"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "profilelake_profile_api_requests_total"
    }
    assert counted == {
        ("traits", "200"): 1,
        ("traits", "404"): 1,
        ("other", "404"): 1,
        ("profile", "200"): 1,
        ("profile", "404"): 1,
        ("profiles", "200"): 1,
        ("refused", "404"): 1,
    }
    assert registry.get_sample_value("profilelake_profile_api_seconds_count", {"resource": "traits"}) == 2


def test_a_run_that_was_merged_meanwhile_is_read_in_its_new_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = profile_api(world.profiles)
    real, stale = recent.load, [[recent.Run("merged-away.run", 0, 1, 1, 1 << 62, 1)]]

    def load(tx: Any, workspace: str) -> list[recent.Run]:
        return stale.pop() if stale else real(tx, workspace)

    monkeypatch.setattr("profilelake.state.recent.load", load)
    assert len(call(api, f"{USERS}/user_id:u1/events").json["data"]) == 4
    stale += [[recent.Run("merged-away.run", 0, 1, 1, 1 << 62, 1)]] * 2
    answer = call(api, f"{USERS}/user_id:u1/events")
    assert error(answer) == (503, "service_unavailable")
    assert answer.headers["retry-after"] == "1"


def test_too_many_events_to_look_through_is_a_bad_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "SCAN_ROWS_MAX", 1)
    answer = call(world.api, f"{USERS}/user_id:u1/events?sort=asc")
    assert error(answer) == (400, "validation_error")
    assert "give a later `start`" in answer.json["error"]["message"]


def test_before_there_is_a_state_clients_are_told_to_retry(tmp_path: Path) -> None:
    clock = [0.0]
    latest = LatestState(tmp_path / "state", monotonic=lambda: clock[0])
    with pytest.raises(Unavailable):
        latest()
    profiles = Profiles(tmp_path)
    profiles.add(["user_id:u1"], traits={"generation": 1})
    api = profile_api(profiles, state=latest)

    def generation() -> int:
        answer = call(api, f"{USERS}/user_id:u1/traits")
        return int(answer.json["traits"]["generation"]) if answer.status == 200 else answer.status

    profiles.state.close()
    assert generation() == 1
    (tmp_path / "state").rename(tmp_path / "before")
    again = Profiles(tmp_path)
    again.add(["user_id:u1"], traits={"generation": 2})
    again.state.close()
    assert generation() == 1
    clock[0] += LOOK_SECONDS
    assert generation() == 2
    (tmp_path / "state").rename(tmp_path / "gone")
    clock[0] += LOOK_SECONDS
    assert generation() == 503
    latest.close()


def test_a_space_without_any_state_yet_is_unavailable(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", writable=True)
    profiles = Profiles.__new__(Profiles)
    profiles.directory = tmp_path
    assert error(call(profile_api(profiles, state=lambda: state), f"{USERS}/user_id:u1/traits")) == (
        503,
        "service_unavailable",
    )
    state.close()


def test_a_profile_that_cannot_be_read_is_our_fault_and_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> State:
        raise Corrupt("reading the state: secret@example.org")

    answer = call(profile_api(world.profiles, state=broken), f"{USERS}/user_id:u1/traits")
    assert error(answer) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert "answering a Profile API request" in caplog.text


PARTS = st.one_of(
    st.sampled_from(
        ["user_id:u1", "lookup", "traits", "events", "external_ids", "metadata", "users", "accounts"]
    ),
    st.text(st.characters(codec="latin-1"), max_size=12),
)
PARAMETERS = st.tuples(
    st.sampled_from(
        ["limit", "next", "include", "exclude", "start", "end", "sort", "class", "verbose", "expand", ""]
    ),
    st.text(st.characters(codec="latin-1"), max_size=12),
)


@settings(max_examples=300)
@given(
    id=st.one_of(
        st.sampled_from(["user_id:u1", "group_id:g1"]),
        st.text(max_size=20).map(lambda text: quote(text, "")),
        PARTS,
    ),
    collection=PARTS,
    resource=PARTS,
    query=st.lists(PARAMETERS, max_size=4),
    method=st.sampled_from(["GET", "GET", "GET", "POST"]),
)
@example(
    id="user_id:u1", collection="users", resource="events", query=[("start", "0001-01-01")], method="GET"
)
@example(id="user_id:u1", collection="users", resource="events", query=[("next", "OTk5OTo6")], method="GET")
def test_no_path_and_no_query_is_ever_our_fault(
    world: World, id: str, collection: str, resource: str, query: list[tuple[str, str]], method: str
) -> None:
    text = "&".join(f"{name}={value}" for name, value in query)
    for prefix in (USERS, f"/v1/spaces/default/collections/{collection}/profiles"):
        answer = call(world.api, f"{prefix}/{id}/{resource}?{text}", method=method)
        assert answer.status < 500
        assert answer.status == 200 or error(answer)


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value, ensure_ascii=False))
TRAIT_NAMES = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda name: not name.startswith("segment_consent_preference")
)


@settings(max_examples=60)
@given(
    written=st.dictionaries(TRAIT_NAMES, JSON_TEXTS, max_size=7),
    limit=st.integers(1, 4),
    value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    verbose=st.booleans(),
)
def test_every_trait_and_every_identifier_comes_back(
    world: World, written: dict[str, str], limit: int, value: str, verbose: bool
) -> None:
    texts = {name: JsonText(text) for name, text in written.items()}
    world.profiles.add([f"custom:{value}"], traits=texts)
    url = f"{USERS}/custom:{quote(value, '')}/traits?limit={limit}&verbose={str(verbose).lower()}"
    seen: dict[str, Any] = {}
    while url:
        page = world.get(url)
        assert len(page["traits"]) <= limit
        assert not seen.keys() & page["traits"].keys()
        seen |= page["traits"]
        url = page["cursor"]["url"]
    expected = {name: json.loads(text) for name, text in written.items()}
    assert list(seen) == sorted(expected)
    assert {name: got["value"] if verbose else got for name, got in seen.items()} == expected
