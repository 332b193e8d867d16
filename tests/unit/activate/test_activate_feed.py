"""The feed: pages in order, cursors, what is not kept any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from activate_world import SECOND, WORKSPACE, World
from profilelake.activate import feed, retention
from profilelake.activate.feed import Cursor, Gone, Page, Wanted
from profilelake.errors import Invalid
from profilelake.state.store import State


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    made.define("vip")
    made.define("score", "trait")
    made.define("big", target="accounts")
    for number in (1, 2, 3):
        made.profile(number, [f"user_id:u{number}", f"email:e{number}"])
    yield made
    made.close()


def read(
    world: World, after: Cursor | None = None, wanted: Wanted | None = None, most: int = 100, **more: int
) -> Page:
    with world.state.read(WORKSPACE) as tx:
        after = after or feed.start(tx, WORKSPACE)
        return feed.read(tx, WORKSPACE, after, wanted or Wanted(), most, **more)


def test_pages_follow_each_other(world: World) -> None:
    world.change("vip", {1: "true", 2: "true"})
    world.change("score", {1: "7"})
    world.change("vip", {1: None})
    whole = [change.idempotency_key for _, change in read(world).changes]
    assert len(whole) == 4
    for most in (1, 2, 3, 4):
        found, after = [], None
        while True:
            page = read(world, after, most=most)
            found += [change.idempotency_key for _, change in page.changes]
            after = Cursor.parse(page.cursor.text())
            if page.drained:
                break
        assert found == whole


def test_now_is_behind_everything(world: World) -> None:
    world.change("vip", {1: "true"})
    with world.state.read(WORKSPACE) as tx:
        now = feed.now(tx, WORKSPACE)
    assert read(world, now).changes == []
    world.change("vip", {2: "true"})
    assert [change.profile[-1] for _, change in read(world, now).changes] == [2]


def test_filters_pass_over_and_the_cursor_goes_on(world: World) -> None:
    world.change("vip", {1: "true", 2: "true", 3: "true"})
    world.change("score", {1: "7"})
    only = Wanted(frozenset(["score"]))
    assert [change.definition for _, change in read(world, wanted=only).changes] == ["score"]
    page = read(world, wanted=only, scan=2)
    assert (page.changes, page.drained) == ([], False)
    assert len(read(world, page.cursor, only, scan=10).changes) == 1
    assert read(world, wanted=Wanted(collections=frozenset(["accounts"]))).changes == []


def test_a_flood_of_changes_is_forgotten_as_fast_as_it_came(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRIM_MAX", 2)
    for _ in range(7):
        world.change("vip", {1: "true"})
        world.change("vip", {1: None})
    rests: list[str] = []
    assert retention.trim(world.state, WORKSPACE, world.at + 1, lambda: rests.append("")) == 14
    assert len(rests) == 7
    monkeypatch.setattr(retention, "TRIMS_MAX", 1)
    world.change("vip", {1: "true", 2: "true", 3: "true"})
    assert retention.trim(world.state, WORKSPACE, world.at + 1, lambda: rests.append("")) == 2


def test_what_is_trimmed_is_gone_and_said_so(world: World) -> None:
    with world.state.read(WORKSPACE) as tx:
        start = feed.start(tx, WORKSPACE)
    world.change("vip", {1: "true"})
    first = read(world).cursor
    world.change("vip", {2: "true"})
    second = read(world).cursor
    world.change("vip", {3: "true"})
    assert retention.trim(world.state, WORKSPACE, world.at, bool) == 2
    assert retention.trim(world.state, WORKSPACE, world.at, bool) == 0
    for after in (start, first):
        with pytest.raises(Gone, match="now"):
            read(world, after)
    assert len(read(world, second).changes) == 1
    assert len(read(world).changes) == 1


def test_a_cursor_of_another_state_is_gone(world: World, tmp_path: Path) -> None:
    after = read(world).cursor
    other = World(tmp_path / "other", epoch=2)
    with pytest.raises(Gone):
        read(other, after)
    other.close()


@pytest.mark.parametrize("text", ["", "x", "1-2", "1-2-3-4", "-1-2-3", "g-0-0", "1-1-1" + "0" * 80, "1-é-1"])
def test_nonsense_is_no_cursor(text: str) -> None:
    with pytest.raises(Invalid):
        Cursor.parse(text)


def test_documents_tell_all_there_is(world: World) -> None:
    world.change("vip", {1: "true"})
    world.change("vip", {1: None})
    page = read(world)
    with world.state.read(WORKSPACE) as tx:
        known = feed.people(tx, WORKSPACE, [change.profile for _, change in page.changes])
    told = [feed.document("1", key, change, known) for key, change in page.changes]
    assert told[0]["external_ids"] == [{"type": "email", "id": "e1"}, {"type": "user_id", "id": "u1"}]
    assert [bytes(one["value"]) for one in told] == [b"true", b"false"]
    assert [bytes(one["previous"]) for one in told] == [b"false", b"true"]
    assert told[0]["cursor"] < told[1]["cursor"]
    assert SECOND  # times are the pipeline's


def test_a_cursor_from_before_anything_was_applied_is_before_everything(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", writable=True)
    state.ensure([WORKSPACE])
    with state.read(WORKSPACE) as tx:
        now = Cursor.parse(feed.now(tx, WORKSPACE).text())
    state.close()
    world = World(tmp_path / "state")
    world.define("vip")
    world.profile(1, ["user_id:u1"])
    world.change("vip", {1: "true"})
    assert len(read(world, now).changes) == 1
    world.close()
