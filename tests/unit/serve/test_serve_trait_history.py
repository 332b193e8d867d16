"""Every write of a trait, and when it was in force."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from past_examples import World, identify, world
from pipeline_driver import SECOND, START
from profilelake.semantics.times import format_time
from profilelake.serve._answer import Refused


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Writes of `plan` that happened in another order than they came in, of two sets of one person."""
    with world(tmp_path_factory.mktemp("traits")) as made:
        first = {"plan": "free", "a/b": 1, "segment_consent_preference_ads": True}
        made.feed(0, identify("m1", "u1", None, first, "02"))
        made.desk.publish()
        made.feed(1, identify("m2", "u1", "a1", {"plan": "pro"}, "04"))
        made.feed(2, identify("m3", "u1", None, {"plan": "late"}, "01"))
        made.desk.publish()
        made.feed(3, identify("m4", "u1", "a1", {"plan": None}, "05"))
        yield made


def at(second: int) -> str:
    return format_time(START + second * SECOND)


def test_the_newest_write_first_with_the_time_it_was_in_force(shop: World) -> None:
    told = shop.writes("user_id:u1", "plan")
    shown = [
        (one.message_id, bytes(one.value).decode(), one.in_force, one.in_force_from, one.in_force_until)
        for one in told.data
    ]
    assert shown == [
        ("m4", "null", True, at(3), None),
        ("m2", '"pro"', False, at(1), at(3)),
        ("m1", '"free"', False, at(0), at(1)),
        ("m3", '"late"', False, None, None),
    ]
    assert [one.removed for one in told.data] == [True, False, False, False]


def test_pages_join(shop: World) -> None:
    first = shop.writes("user_id:u1", "plan", "limit=3")
    assert first.cursor.has_more
    assert "/traits/plan/history?limit=3&next=" in first.cursor.url
    rest = shop.writes("user_id:u1", "plan", f"limit=3&next={first.cursor.next}")
    assert [one.message_id for one in [*first.data, *rest.data]] == ["m4", "m2", "m1", "m3"]
    assert not rest.cursor.has_more


def test_published_or_not_is_the_same(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        for number in range(3):
            made.feed(number, identify(f"m{number}", "u1", None, {"n": number}, f"0{number + 1}"))
            told = [bytes(one.value) for one in made.writes("user_id:u1", "n").data]
            made.desk.publish()
            assert told == [bytes(one.value) for one in made.writes("user_id:u1", "n").data]
            assert told == [str(n).encode() for n in range(number, -1, -1)]


@pytest.mark.parametrize("allowed", [None, frozenset({"plan"})])
def test_a_trait_that_was_never_written_or_may_not_be_seen(
    shop: World, allowed: frozenset[str] | None
) -> None:
    for trait in ("colour", "") if allowed is None else ("a/b",):
        with pytest.raises(Refused, match="no such trait") as told:
            shop.writes("user_id:u1", trait, allowed=allowed)
        assert told.value.status == 404


@pytest.mark.parametrize("allowed", [None, frozenset({"segment_consent_preference_ads"})])
def test_statements_of_consent_are_no_traits(shop: World, allowed: frozenset[str] | None) -> None:
    with pytest.raises(Refused, match="no such trait"):
        shop.writes("user_id:u1", "segment_consent_preference_ads", allowed=allowed)


@pytest.mark.parametrize("query", ["next=abc", "next=MTAwMDo", "limit=0"])
def test_a_wrong_query_is_told(shop: World, query: str) -> None:
    with pytest.raises(Refused) as told:
        shop.writes("user_id:u1", "plan", query)
    assert told.value.status == 400


def test_a_name_with_a_slash(shop: World) -> None:
    (write,) = shop.writes("user_id:u1", "a/b").data
    assert bytes(write.value) == b"1"
