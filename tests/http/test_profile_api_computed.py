"""Computed traits and audiences as the Profile API shows them: traits among traits, and a class of their own."""

from pathlib import Path
from typing import Any

import pytest

from profile_examples import BEGIN, SPACE, Profiles, call, profile_api

USERS = f"/v1/spaces/{SPACE}/collections/users/profiles"


class World:
    """One person with traits of every origin, and one with none."""

    def __init__(self, directory: Path) -> None:
        self.profiles = Profiles(directory)
        self.id, (self.key, *_) = self.profiles.add(
            ["user_id:u1"],
            traits={"age": 33, "orders": "what somebody sent", "segment_consent_preference": 1},
        )
        self.profiles.add(["user_id:u2"], traits={"age": 20})
        self.profiles.compute(
            self.key,
            at=BEGIN + 60_000_000,
            orders=("trait", 4),
            categories=("trait", ["Books", "food"]),
            tier=("sql_trait", "gold"),
            buyers=("audience", True),
            vips=("sql_audience", True),
        )
        self.api = profile_api(self.profiles)

    def get(self, target: str, **options: Any) -> Any:
        answer = call(self.api, f"{USERS}/{target}", **options)
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("computed"))


def test_computed_traits_and_audiences_stand_among_the_traits(world: World) -> None:
    assert world.get("user_id:u1/traits")["traits"] == {
        "age": 33,
        "buyers": True,
        "categories": ["Books", "food"],
        "orders": 4,
        "tier": "gold",
        "vips": True,
    }
    assert world.get("user_id:u2/traits")["traits"] == {"age": 20}


def test_a_class_shows_only_its_own(world: World) -> None:
    assert world.get("user_id:u1/traits?class=audience")["traits"] == {"buyers": True, "vips": True}
    computed = world.get("user_id:u1/traits?class=computed_trait")["traits"]
    assert computed == {"categories": ["Books", "food"], "orders": 4, "tier": "gold"}
    assert world.get("user_id:u2/traits?class=audience")["traits"] == {}


def test_include_and_pages_take_them_like_any_trait(world: World) -> None:
    assert world.get("user_id:u1/traits?include=vips,age")["traits"] == {"age": 33, "vips": True}
    first = world.get("user_id:u1/traits?limit=2")
    assert list(first["traits"]) == ["age", "buyers"]
    assert first["cursor"]["next"] == "categories"
    assert list(world.get("user_id:u1/traits?limit=2&next=categories")["traits"]) == ["categories", "orders"]


def test_verbose_says_what_gave_the_value_and_since_when(world: World) -> None:
    verbose = world.get("user_id:u1/traits?verbose=true&include=orders,buyers,age")["traits"]
    at = "2026-01-01T00:01:00.000000Z"
    assert verbose["orders"] == {"value": 4, "source_id": "computed_trait", "updated_at": at}
    assert verbose["buyers"] == {"value": True, "source_id": "audience", "updated_at": at}
    assert verbose["age"]["source_id"] == "src_web"


def test_expanded_profiles_and_look_ups_show_them_too(world: World) -> None:
    expanded = world.get("user_id:u1?expand=traits")
    assert expanded["traits"]["traits"]["buyers"] is True
