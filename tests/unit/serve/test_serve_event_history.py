"""All events of a profile: each once, in order, whatever is published."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from past_examples import World, identify, track, world
from profilelake.errors import Invalid, Unavailable
from profilelake.serve import _past, event_history
from profilelake.serve._answer import Refused

PROPERTIES = {
    "e1": {"plan": "pro", "n": 5, "nested": {"city": "Zürich", "a.b": 1, "x/y~z": 2}},
    "e2": {"plan": "free", "n": 7.5, "big": 2**60, "gone": None},
    "e3": {"plan": "pro", "n": "7", "on": True, "at": "2026-01-31T12:00:00Z"},
    "e4": {"list": [1, 2], "n": 10},
}
"""The second of two days is later than the first."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One person whose events lie in the lake, in two commits, and behind it."""
    with world(tmp_path_factory.mktemp("events")) as made:
        made.feed(0, track("e1", "a1", PROPERTIES["e1"], "01"), track("other", "a9"))
        made.desk.publish()
        made.feed(1, track("e2", "a1", PROPERTIES["e2"], "02"))
        made.desk.publish()
        made.feed(2, identify("e0", "u1", "a1", {"email": "Ana@example.org", "n": 1}, "05"))
        made.feed(3, track("e3", "a1", PROPERTIES["e3"], "03"), track("e4", "a1", PROPERTIES["e4"], "03"))
        yield made


NEWEST_FIRST = ["e0", "e4", "e3", "e2", "e1"]


def test_every_event_is_there_once_newest_first(shop: World) -> None:
    assert shop.ids("user_id:u1") == NEWEST_FIRST
    assert shop.ids("user_id:u1", "sort=asc") == NEWEST_FIRST[::-1]


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("sort", ["desc", "asc"])
def test_pages_join_without_gap_or_repeat(shop: World, rows: int, sort: str) -> None:
    ids = shop.all_ids("user_id:u1", f"limit={rows}&sort={sort}")
    assert ids == (NEWEST_FIRST if sort == "desc" else NEWEST_FIRST[::-1])


def test_a_page_is_what_it_was_while_things_are_published(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        steps: list[Callable[[], object]] = [
            lambda: None,
            lambda: made.desk.publish(whole=False),
            made.desk.publish,
            made.desk.tend,
            made.desk.rebuild,
        ]
        for number in range(5):
            made.feed(number, track(f"m{number}", "a1", {"n": number}, f"0{number + 1}"))
            steps[number]()
            assert made.all_ids("anonymous_id:a1") == [f"m{n}" for n in range(number, -1, -1)]


def test_newest_first_reads_no_more_files_than_it_needs(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_history, "FILES_FIRST", 1)
    asked: list[int] = []
    select = _past.select

    def counted(*arguments: object, **named: object) -> str:
        asked.append(1)
        return select(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(_past, "select", counted)
    assert shop.ids("user_id:u1", "limit=5") == NEWEST_FIRST
    assert len(asked) == 2
    asked.clear()
    assert shop.ids("user_id:u1", "limit=5&start=2026-02-02") == ["e0", "e4", "e3", "e2"]


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        ("property.plan=pro", ["e3", "e1"]),
        ("property.plan[eq]=free", ["e2"]),
        ("property.n=7", ["e3"]),
        ("property.n=5.0", ["e1"]),
        ("property.n=7.50", ["e2"]),
        ("property.n[gt]=5", ["e4", "e2"]),
        ("property.n[gte]=5", ["e4", "e2", "e1"]),
        ("property.n[lt]=7.5", ["e1"]),
        ("property.n[lte]=1e1", ["e4", "e2", "e1"]),
        ("property.n[gte]=5&property.plan=pro", ["e1"]),
        ("property.nested.city=Z%C3%BCrich", ["e1"]),
        ("property.nested.a%5C.b=1", ["e1"]),
        ("property.nested.x/y~z=2", ["e1"]),
        ("property.on=true", ["e3"]),
        ("property.at[gte]=2026-01-31", ["e3"]),
        ("property.at[lt]=2026-01-31T12:00:00Z", []),
        ("property.plan[exists]=false", ["e0", "e4"]),
        ("property.gone[exists]=true", []),
        ("property.list[exists]=true", ["e4"]),
        ("property.big[gt]=1000", ["e2"]),
        ("property.plan=pro' OR 'a'='a", []),
        ("property.x'; DROP TABLE waiting_rows; --=1", []),
        ("type=identify", ["e0"]),
        ("type=track,identify&limit=2", ["e0", "e4"]),
        ("include=Bought", ["e4", "e3", "e2", "e1"]),
        ("exclude=Bought", ["e0"]),
        ("start=2026-02-02&end=2026-02-03", ["e2"]),
    ],
)
def test_filters(shop: World, filter: str, ids: list[str]) -> None:
    assert shop.ids("user_id:u1", filter) == ids


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("property.n[gt]=x", "compares with a number or an ISO 8601 time"),
        ("property.n[gt]=nan", "compares with a number"),
        ("property.n[near]=1", "with one of eq, lt, lte, gt, gte, exists"),
        ("property.=1", "cannot be read"),
        ("property.n[exists]=yes", "takes true or false"),
        ("type=purchase", "`type` names `purchase`"),
        ("limit=1001", "from 1 to 1000"),
        ("limit=0", "from 1 to 1000"),
        ("next=abc", "not a cursor of this resource"),
        ("next=MTAwMDo6bQ", "not a cursor of this resource"),
        ("start=yesterday", "ISO 8601"),
        ("&".join(f"property.n{n}=1" for n in range(17)), "more than 16"),
    ],
)
def test_a_wrong_query_is_told(shop: World, query: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as told:
        shop.events("user_id:u1", query)
    assert told.value.status == 400


def test_an_event_shows_what_it_carried(shop: World) -> None:
    (event, *_), page = shop.events("user_id:u1").data, shop.events("user_id:u1", "limit=1")
    assert event.type == "identify"
    assert bytes(event.traits) == b'{"email":"Ana@example.org","n":1}'
    assert sorted((one.type, one.id) for one in event.external_ids) == [
        ("anonymous_id", "a1"),
        ("email", "ana@example.org"),
        ("user_id", "u1"),
    ]
    assert event.received_at == "2026-03-01T10:00:12.000000Z"
    assert page.cursor.has_more
    assert "limit=1" in page.cursor.url


def test_a_token_for_some_traits_sees_no_others(shop: World) -> None:
    (event, *_) = shop.events("user_id:u1", allowed=frozenset({"n"})).data
    assert bytes(event.traits) == b'{"n":1}'


def test_the_events_of_an_account(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        call = {
            "type": "group",
            "groupId": "g1",
            "userId": "u1",
            "messageId": "g",
            "traits": {"name": "ACME"},
        }
        made.feed(0, call, track("t", "a1"))
        for _ in range(2):
            assert made.ids("group_id:g1", collection="accounts") == ["g"]
            assert made.ids("user_id:u1") == ["g"]
            made.desk.publish()


def test_a_profile_in_too_many_files_is_told(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_past, "FILES_MAX", 0)
    with pytest.raises(Invalid, match="more than 0; ask for a shorter time"):
        shop.events("user_id:u1")


def test_too_many_recent_rows_are_told(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_past, "RECENT_ROWS_MAX", 1)
    with pytest.raises(Invalid, match="more than 1 recent events"):
        shop.events("user_id:u1")


def test_a_question_that_takes_too_long_is_ended(shop: World) -> None:
    with (
        pytest.raises(Unavailable, match=r"it took more than 0\.05 s"),
        shop.past.asking("asking", 0.05) as asked,
    ):
        asked.execute("SELECT count(*) FROM range(100000000000) a, range(1000)").fetchall()
    assert shop.ids("user_id:u1") == NEWEST_FIRST
