"""The golden requests of a Segment-compatible Profile API, each over a real connection."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from profile_examples import BEGIN, DAY, TOKEN, Profiles, ProfileServer, basic, profile_api, row

USERS = "/v1/spaces/default/collections/users/profiles"
ACCOUNTS = "/v1/spaces/default/collections/accounts/profiles"
TRAITS = {f"trait_{n:02}": n for n in range(10)} | {"age": 33, "city": "Zürich"}
NAMES = sorted(TRAITS)
NOT_FOUND = {"error": {"code": "not_found", "message": "Profile was not found."}}


@dataclass(frozen=True)
class World:
    """A running server, and the ids of its profiles that requests name in braces."""

    server: ProfileServer
    ids: dict[str, str]

    def get(self, request: str, token: str | None = TOKEN) -> tuple[int, Any]:
        headers = {} if token is None else basic(token)
        answer = self.server.get(request.format_map(self.ids), headers)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["request-id"]
        assert "access-control-allow-origin" not in answer.headers
        return answer.status, answer.json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    profiles = Profiles(tmp_path_factory.mktemp("golden"))
    u1, (u1_set,) = profiles.add(["user_id:u1", "email:bob@example.com"], traits=TRAITS | {"left": None})
    profiles.add(["phone:+5555550123"], traits={"plan": "free"})
    profiles.add([f"ios.id:device-{n}" for n in range(30)])
    _, (account_set,) = profiles.add(["group_id:g1"], collection="accounts")
    for n in range(25):
        _, (member_set,) = profiles.add([f"user_id:member-{n}"])
        profiles.link(member_set, account_set, offset=n)
    pages = [row(u1_set, BEGIN + n * DAY, f"m{n}", n, type="page", event=None) for n in range(3)]
    profiles.remember([*pages, row(u1_set, BEGIN + 3 * DAY, "m3", 3, event="Bought")])
    ids = {"u1": u1, "gone": profiles.merge_away("anonymous_id:old", u1_set)}
    with ProfileServer(profile_api(profiles)) as server:
        yield World(server, ids)
    profiles.state.close()


def no_more(cursor: dict[str, Any]) -> bool:
    return (cursor["url"], cursor["has_more"], cursor["next"]) == ("", False, "")


@dataclass(frozen=True)
class Golden:
    """One request of a client, and what holds of its answer."""

    number: str
    request: str
    holds: Callable[[Any], bool]
    status: int = 200
    token: str | None = TOKEN


GOLDEN = [
    Golden(
        "G1",
        f"{USERS}/user_id:u1/traits",
        lambda body: body["error"]["code"] == "authentication_error",
        status=401,
        token=None,
    ),
    Golden(
        "G2",
        f"{USERS}/user_id:u1/traits",
        lambda body: (
            list(body["traits"]) == NAMES[:10]
            and body["cursor"]["has_more"] is True
            and body["cursor"]["next"] == NAMES[10]
            and body["cursor"]["limit"] == 10
        ),
    ),
    Golden(
        "G4",
        f"{USERS}/user_id:u1/traits?limit=200",
        lambda body: body["traits"] == TRAITS and no_more(body["cursor"]),
    ),
    Golden(
        "G5",
        f"{USERS}/user_id:u1/traits?include=age,city,shoe_size",
        lambda body: body["traits"] == {"age": 33, "city": "Zürich"},
    ),
    # Nobody is in an audience yet: a trait that was written is none.
    Golden("G6", f"{USERS}/user_id:u1/traits?class=audience", lambda body: body["traits"] == {}),
    Golden(
        "G7",
        f"{USERS}/user_id:u1/traits?verbose=true&include=age",
        lambda body: (
            body["traits"]
            == {"age": {"value": 33, "source_id": "src_web", "updated_at": "2026-01-01T00:00:00.000000Z"}}
        ),
    ),
    *(
        Golden(f"G8 {resource}", f"{USERS}/user_id:nobody/{resource}", NOT_FOUND.__eq__, status=404)
        for resource in ("traits", "external_ids", "events", "metadata", "links", "consent")
    ),
    Golden("G8 untyped", f"{USERS}/u1/traits", NOT_FOUND.__eq__, status=404),
    Golden("G9", f"{USERS}/phone:%2B5555550123/traits", lambda body: body["traits"] == {"plan": "free"}),
    Golden("G10", f"{USERS}/email:Bob@Example.com/metadata", lambda body: body["segment_id"][:4] == "use_"),
    Golden("G11", f"{USERS}/{{u1}}/events", lambda body: len(body["data"]) == 4),
    Golden(
        "G12",
        f"{USERS}/user_id:u1/events?include=Page%20Viewed&sort=asc&start=2026-01-02",
        lambda body: [event["message_id"] for event in body["data"]] == ["m1", "m2"],
    ),
    Golden("G13", f"{USERS}/{{gone}}/traits?include=age", lambda body: body["traits"] == {"age": 33}),
    Golden("G13 typed", f"{USERS}/segment_id:{{gone}}/traits", lambda body: len(body["traits"]) == 10),
    Golden(
        "G14",
        f"{USERS}/ios.id:device-1/external_ids?limit=25",
        lambda body: len(body["data"]) == 25 and body["cursor"]["has_more"] is True,
    ),
    Golden(
        "G15",
        f"{USERS}/user_id:u1/metadata",
        lambda body: (
            body.pop("segment_id").startswith("use_") and body.pop("metadata") == body and len(body) == 7
        ),
    ),
    Golden(
        "G16",
        f"{ACCOUNTS}/group_id:g1/links?limit=20",
        lambda body: (
            {link["to_collection"] for link in body["data"]} == {"users"}
            and len(body["data"]) == 20
            and body["cursor"]["has_more"] is True
        ),
    ),
    Golden("G16 back", f"{USERS}/user_id:member-3/links", lambda body: no_more(body["cursor"])),
    Golden(
        "G17",
        "/v1/spaces/default/collections/us!ers/profiles/user_id:u1/traits",
        lambda body: (
            body["error"]
            == {
                "code": "validation_error",
                "message": "The parameter `collection` has invalid character(s) `!`",
            }
        ),
        status=400,
    ),
    Golden("G19", f"{USERS}/user_id:u1/traits?include=left", lambda body: body["traits"] == {}),
    Golden(
        "older path",
        "/v1/namespaces/default/collections/users/profiles/user_id:u1/traits",
        lambda body: len(body["traits"]) == 10,
    ),
]


@pytest.mark.parametrize("golden", GOLDEN, ids=[golden.number for golden in GOLDEN])
def test_a_golden_request_is_answered_as_clients_of_segment_expect(world: World, golden: Golden) -> None:
    status, body = world.get(golden.request, golden.token)
    assert status == golden.status, body
    assert golden.holds(body), body


@pytest.mark.parametrize(
    ("request_line", "rows", "pages"),
    [
        (f"{USERS}/user_id:u1/traits", 12, 2),  # G3
        (f"{USERS}/user_id:u1/traits?limit=5&verbose=true", 12, 3),
        (f"{USERS}/ios.id:device-1/external_ids?limit=25", 30, 2),
        (f"{USERS}/user_id:u1/events?limit=1&sort=asc", 4, 4),
        (f"{ACCOUNTS}/group_id:g1/links?limit=20", 25, 2),
        (f"{USERS}?limit=9&expand=traits", 28, 4),
    ],
)
@pytest.mark.parametrize("style", ["url", "next"])
def test_pages_are_followed_by_url_and_by_next(
    world: World, request_line: str, rows: int, pages: int, style: str
) -> None:
    seen: list[str] = []
    url = request_line
    for _ in range(pages):
        status, body = world.get(url)
        assert status == 200
        page = body.get("traits", body.get("data"))
        seen += [str(entry) for entry in page]
        cursor = body["cursor"]
        assert cursor["has_more"] is (len(seen) < rows)
        joint = "&" if "?" in request_line else "?"
        url = cursor["url"] if style == "url" else f"{request_line}{joint}next={cursor['next']}"
    assert no_more(cursor)
    assert len(seen) == len(set(seen)) == rows


def test_g18_one_request_too_many_is_told_when_to_come_back(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    profiles.add(["user_id:u1"])
    api = profile_api(profiles, requests_per_second=100, monotonic=lambda: 5.0)
    with ProfileServer(api) as server:
        path = f"{USERS}/user_id:u1/traits"
        assert {server.get(path, basic(TOKEN)).status for _ in range(100)} == {200}
        refused = server.get(path, basic(TOKEN))
    assert refused.status == 429
    assert refused.json["error"]["code"] == "rate_limit_error"
    assert refused.headers["retry-after"] == "1"
    profiles.state.close()
