"""Beyond Segment's resources: links that ended, consent, the list of all profiles, entity tags."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from profile_examples import BEGIN, DAY, SECOND, TOKEN, Profiles, ProfileServer, basic, call, profile_api
from profilelake.profiles.consent import POLICY
from profilelake.serve import _listing
from profilelake.serve._resources import EXTERNAL_IDS_MAX
from profilelake.serve.profile_api import ProfileApi
from profilelake.state import activity

USERS = "/v1/spaces/default/collections/users/profiles"
ACCOUNTS = "/v1/spaces/default/collections/accounts/profiles"


@pytest.fixture
def profiles(tmp_path: Path) -> Iterator[Profiles]:
    made = Profiles(tmp_path)
    yield made
    made.state.close()


@pytest.fixture
def api(profiles: Profiles) -> ProfileApi:
    return profile_api(profiles)


def get(api: ProfileApi, target: str) -> Any:
    answer = call(api, target)
    assert answer.status == 200, answer.body
    return answer.json


def refused(api: ProfileApi, target: str) -> bool:
    answer = call(api, target)
    return answer.status == 400 and answer.json["error"]["code"] == "validation_error"


async def acall(
    api: ProfileApi, target: str, order: list[str], name: str, *, method: str = "GET", body: bytes = b""
) -> None:
    """Send a request, and note in `order` when it is answered."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            order.append(name)

    await api(scope, receive, send)


def walked(api: ProfileApi, target: str) -> list[dict[str, Any]]:
    """Return all rows, page by page; each page is followed by its url."""
    rows: list[dict[str, Any]] = []
    pages = 0
    while target:
        page = get(api, target)
        rows += page["data"]
        target = page["cursor"]["url"]
        pages += 1
        assert pages < 100
    return rows


def test_links_lead_both_ways_and_show_those_that_ended_only_when_asked(
    profiles: Profiles, api: ProfileApi
) -> None:
    person, (ana,) = profiles.add(["user_id:ana", "email:ana@example.org"])
    _, (bob,) = profiles.add(["user_id:bob"])
    account, (acme,) = profiles.add(["group_id:acme"], collection="accounts")
    _, (old,) = profiles.add(["group_id:old"], collection="accounts")
    profiles.link(ana, acme, BEGIN + SECOND, 1)
    profiles.link(bob, acme, BEGIN + 2 * SECOND, 2)
    profiles.link(ana, old, BEGIN + 3 * SECOND, 3)
    profiles.part("user_id:ana", "group_id:old", BEGIN + DAY)

    assert get(api, f"{USERS}/user_id:ana/links")["data"] == [
        {
            "to_collection": "accounts",
            "segment_id": account,
            "linked_at": "2026-01-01T00:00:01.000000Z",
            "unlinked_at": None,
            "external_ids": [
                {
                    "id": "acme",
                    "type": "group_id",
                    "source_id": "src_web",
                    "collection": "accounts",
                    "created_at": "2026-01-01T00:00:00.000000Z",
                    "encoding": "none",
                    "first_message_id": "first-acme",
                }
            ],
        }
    ]
    everything = get(api, f"{USERS}/user_id:ana/links?ended=true")["data"]
    ended = [link for link in everything if link["unlinked_at"] is not None]
    assert [link["external_ids"][0]["id"] for link in ended] == ["old"]
    assert ended[0]["unlinked_at"] == "2026-01-02T00:00:00.000000Z"
    people = get(api, f"{ACCOUNTS}/group_id:acme/links")["data"]
    assert {link["to_collection"] for link in people} == {"users"}
    assert {link["segment_id"] for link in people} >= {person}
    by_type = {one["type"] for link in people if link["segment_id"] == person for one in link["external_ids"]}
    assert by_type == {"user_id", "email"}
    assert get(api, f"{ACCOUNTS}/group_id:old/links")["data"] == []
    assert get(api, f"{USERS}/user_id:ana?expand=links")["links"] == get(
        api, f"{USERS}/user_id:ana/links?limit=20"
    )


def test_pages_of_links_hold_everybody_once(profiles: Profiles, api: ProfileApi) -> None:
    _, (first, second) = profiles.add(["group_id:g"], ["group_id:g", "domain:g.org"], collection="accounts")
    for n in range(23):
        _, sets = profiles.add([f"user_id:{n}"], [f"user_id:{n}", f"anonymous_id:{n}"])
        for number, (person, account) in enumerate([(sets[0], first), (sets[1], second), (sets[1], first)]):
            profiles.link(person, account, offset=n * 3 + number)
    for limit in (1, 7, 20):
        rows = walked(api, f"{ACCOUNTS}/group_id:g/links?limit={limit}")
        assert len({link["segment_id"] for link in rows}) == len(rows) == 23
    many, (key,) = profiles.add([f"ios.id:{n}" for n in range(EXTERNAL_IDS_MAX + 5)])
    _, (group,) = profiles.add(["group_id:many"], collection="accounts")
    profiles.link(key, group)
    (link,) = get(api, f"{ACCOUNTS}/group_id:many/links")["data"]
    assert link["segment_id"] == many
    assert len(link["external_ids"]) == EXTERNAL_IDS_MAX


@pytest.mark.parametrize(
    "query", ["limit=21", "limit=0", "next=abc", "next=%21", "next=user", "ended=maybe", "next=" + "A" * 44]
)
def test_links_refuse_what_cannot_be_read(profiles: Profiles, api: ProfileApi, query: str) -> None:
    profiles.add(["user_id:u"])
    assert refused(api, f"{USERS}/user_id:u/links?{query}")


def test_a_cursor_of_another_resource_is_refused(profiles: Profiles, api: ProfileApi) -> None:
    profiles.add(["group_id:g"], collection="accounts")
    _, (account, _) = profiles.add(["group_id:h"], ["group_id:h", "domain:h.org"], collection="accounts")
    for n in range(2):
        _, (member,) = profiles.add([f"user_id:{n}"])
        profiles.link(member, account, offset=n)
    paths = {
        "external_ids": f"{ACCOUNTS}/group_id:h/external_ids",
        "links": f"{ACCOUNTS}/group_id:h/links",
        "list": USERS,
        "other list": ACCOUNTS,
    }
    cursors = {name: get(api, f"{path}?limit=1")["cursor"]["next"] for name, path in paths.items()}
    assert all(cursors.values())
    for name, path in paths.items():
        for other, cursor in cursors.items():
            assert refused(api, f"{path}?next={cursor}") is (name != other), (name, other)


def test_consent_is_read_by_category(profiles: Profiles, api: ProfileApi) -> None:
    _, (first, second) = profiles.add(["user_id:u", "anonymous_id:a"], ["user_id:u", "anonymous_id:b"])
    assert get(api, f"{USERS}/user_id:u/consent") == {"consent": {}, "policy": "most_restrictive"}
    profiles.say(first, {"ads": False, "mail": True})
    profiles.say(second, {"ads": True, "mail": True}, BEGIN + SECOND)
    answer = get(api, f"{USERS}/user_id:u/consent")
    assert {name: said["value"] for name, said in answer["consent"].items()} == {
        "ads": "false",
        "mail": "true",
    }
    assert answer["consent"]["ads"] == {
        "value": "false",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "source_id": "src_web",
        "message_id": "consent-1",
    }
    with profiles.state.write() as tx:
        tx.put_meta("default", POLICY, "latest")
    answer = get(api, f"{USERS}/user_id:u?expand=consent")["consent"]
    assert answer["policy"] == "latest"
    assert answer["consent"]["ads"]["value"] == "true"


def test_the_list_holds_every_profile_of_its_collection_once(
    profiles: Profiles, api: ProfileApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = {profiles.add([f"user_id:{n}"], traits={"n": n})[0]: n for n in range(40)}
    accounts = {profiles.add([f"group_id:{n}"], collection="accounts")[0] for n in range(3)}
    monkeypatch.setattr(_listing, "LOOKED_AT_MAX", 7)
    rows = walked(api, f"{USERS}?limit=5&expand=traits,metadata")
    assert {row["segment_id"]: row["traits"]["traits"]["n"] for row in rows} == people
    assert len(rows) == len(people)
    assert rows[0]["metadata"]["segment_id"] == rows[0]["segment_id"]
    assert [row["segment_id"] for row in rows] == sorted(people)
    assert rows[0]["collection"] == "users"
    assert {row["segment_id"] for row in walked(api, ACCOUNTS)} == accounts
    assert get(api, f"{USERS}/?limit=2") == get(api, f"{USERS}?limit=2")


def test_a_run_that_goes_away_while_a_page_is_read_doubles_nobody(
    profiles: Profiles, api: ProfileApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = sorted(profiles.add([f"user_id:{n}"])[0] for n in range(25))
    real, calls = activity.read, [0]

    def read(*asked: Any) -> Any:
        calls[0] += 1
        if calls[0] in (4, 17):
            raise FileNotFoundError
        return real(*asked)

    monkeypatch.setattr(activity, "read", read)
    page = get(api, f"{USERS}?limit=100&expand=metadata")
    assert [row["segment_id"] for row in page["data"]] == people
    assert page["cursor"]["has_more"] is False


def test_a_long_page_and_a_long_look_up_let_others_in(profiles: Profiles, api: ProfileApi) -> None:
    for n in range(50):
        profiles.add([f"user_id:{n}"], traits={"n": n})
    ids = [f"user_id:{n}" for n in range(50)]
    order: list[str] = []

    async def both(long: str, method: str, body: bytes) -> None:
        await asyncio.gather(
            acall(api, long, order, "long", method=method, body=body),
            acall(api, f"{USERS}/user_id:1/traits", order, "short"),
        )

    asyncio.run(both(f"{USERS}?limit=50&expand=traits", "GET", b""))
    asyncio.run(both(f"{USERS}/lookup", "POST", json.dumps({"ids": ids}).encode()))
    assert order == ["short", "long"] * 2
    found = call(api, f"{USERS}/lookup", method="POST", body=[json.dumps({"ids": ids}).encode()])
    assert [entry["traits"]["traits"]["n"] for entry in found.json["data"]] == list(range(50))


def test_whoever_stays_is_listed_whatever_comes_and_goes(profiles: Profiles, api: ProfileApi) -> None:
    rng = random.Random(1)
    stays = {profiles.add([f"user_id:{n}"])[0] for n in range(30)}
    target, seen = f"{USERS}?limit=4", []
    while target:
        page = get(api, target)
        seen += [row["segment_id"] for row in page["data"]]
        profiles.add([f"user_id:new-{rng.randrange(1_000)}"])
        target = page["cursor"]["url"]
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


@pytest.mark.parametrize(
    "query",
    [
        "limit=1001",
        "limit=101&expand=traits",
        "expand=events",
        "expand=likes",
        "next=use_",
        f"next=acc_{'0' * 27}",
    ],
)
def test_the_list_refuses_what_cannot_be_read(api: ProfileApi, query: str) -> None:
    assert refused(api, f"{USERS}?{query}")


def test_what_has_not_changed_is_not_sent_again(profiles: Profiles, api: ProfileApi) -> None:
    _, _ = profiles.add(["user_id:u"], traits={"age": 33})
    path = f"{USERS}/user_id:u/traits"
    first = call(api, path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = call(api, path, if_none_match=known)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["request-id"] != first.headers["request-id"]
        assert "content-length" not in again.headers
        assert "content-type" not in again.headers
    assert call(api, path, if_none_match='"other"').status == 200
    assert call(api, f"{path}?verbose=true").headers["etag"] != tag
    profiles.add(["user_id:u"], traits={"age": 34})
    assert call(api, path, if_none_match=tag).json["traits"] == {"age": 34}
    # What is refused carries no tag, whatever the client knows.
    missing = call(api, f"{USERS}/user_id:nobody/traits", if_none_match="*")
    assert missing.status == 404
    assert "etag" not in missing.headers
    assert missing.headers["cache-control"] == "no-store"


def test_an_unchanged_answer_leaves_the_connection_good(profiles: Profiles, api: ProfileApi) -> None:
    profiles.add(["user_id:u"], traits={"age": 33})
    path = f"{USERS}/user_id:u/traits"
    with ProfileServer(api) as server:
        tag = server.get(path, basic(TOKEN)).headers["etag"]
        known = basic(TOKEN) | {"If-None-Match": tag}
        answers = server.get_all([(path, known), (path, basic(TOKEN)), (path, known)])
        assert [answer.status for answer in answers] == [304, 200, 304]
        assert [len(answer.body) > 0 for answer in answers] == [False, True, False]
        head = server.get(path, known, method="HEAD")
        assert (head.status, head.body) == (304, b"")
