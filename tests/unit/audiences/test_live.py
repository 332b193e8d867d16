"""Computed traits and audiences in the pipeline: definitions, events, time, and what is announced of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_driver import SECOND, START, Desk, LogBuilder, Message
from profilelake.audiences.facts import Drop
from profilelake.semantics.times import format_time

LOG = "00000000000000aa"
DAY = 86_400 * SECOND
ORDERS = "event('Order Completed').count() >= 2"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder(LOG)


_number = iter(range(1_000_000))


def track(user: str, event: str, at: int = START, **properties: Any) -> Message:
    return {
        "type": "track",
        "userId": user,
        "event": event,
        "messageId": f"m{next(_number)}",
        "timestamp": format_time(at),
        "properties": properties,
    }


def told(desk: Desk) -> list[tuple[str, str | None, str | None, str]]:
    return [(c.definition, c.previous, c.value, c.cause) for c in desk.changes()]


def test_an_event_makes_a_member_in_state_table_and_journal(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", ORDERS)])
    desk.tick(START)
    assert desk.statuses() == {"buyers": "live"}
    desk.apply([log.record(START + 1, [track("u", "Order Completed"), track("v", "Order Completed")])])
    assert desk.members("buyers") == set()
    desk.apply([log.record(START + 2, [track("u", "Order Completed")])])
    assert len(desk.members("buyers")) == 1
    assert told(desk) == [("buyers", None, "true", "event")]
    assert desk.verify() == []
    assert len(desk.lake_tables("audience_members")["audience_members"]) == 1
    assert len(desk.lake_tables("audience_changes")["audience_changes"]) == 1


def test_time_alone_ends_a_membership(desk: Desk, log: LogBuilder) -> None:
    """Vector A1: true while the order is within seven days, both ends included, then out by timer."""
    query = "event('Order').where( property('revenue') >= 30 ).within(7 days).count() >= 1"
    desk.apply([log.define(START, "recent", query)])
    desk.tick(START)
    desk.apply([log.record(START + SECOND, [track("u", "Order", START + SECOND, revenue=30)])])
    assert len(desk.members("recent")) == 1
    desk.tick(START + SECOND + 7 * DAY)
    assert len(desk.members("recent")) == 1
    desk.tick(START + SECOND + 7 * DAY + 1)
    assert desk.members("recent") == set()
    assert told(desk) == [("recent", None, "true", "event"), ("recent", "true", None, "timer")]
    assert desk.changes()[-1].at == START + SECOND + 7 * DAY + 1
    assert desk.verify() == []


def test_older_events_count_after_a_backfill(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [track("u", "Order Completed"), track("v", "Order Completed")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.apply([log.record(START + 2, [track("u", "Order Completed")])])
    desk.tick(START + 2)
    assert desk.statuses() == {"buyers": "backfilling"}
    assert desk.members("buyers") == set()
    desk.settle(START + 3)
    assert desk.statuses() == {"buyers": "live"}
    assert len(desk.members("buyers")) == 1
    assert told(desk) == [("buyers", None, "true", "definition")]
    assert desk.verify() == []


def test_what_is_dropped_is_withdrawn(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "n", "event('Order').count()", kind="trait")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order"), track("v", "Order"), track("v", "Order")])])
    assert sorted(desk.values().values()) == ["1", "2"]
    desk.apply([log.definition(START + 2, Drop(by="test", key="n"))])
    desk.tick(START + 2)
    assert desk.values() == {}
    assert desk.statuses() == {"n": "dropped"}
    assert [change.value for change in desk.changes()[-2:]] == [None, None]
    assert desk.verify() == []
