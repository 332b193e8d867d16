"""Computed traits and audiences in the pipeline: definitions, events, time, and what is announced of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pipeline_driver
from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.audiences import definitions_now, evaluating, handover, live, pending
from profilelake.audiences.facts import Drop, Resync
from profilelake.errors import Invalid
from profilelake.eventlog import Record
from profilelake.semantics.definitions import EXTERNAL_IDS
from profilelake.semantics.times import format_time
from profilelake.traits import stored
from profilelake.traits.answers import answers

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


def identify(user: str, anonymous: str, **traits: Any) -> Message:
    return {
        "type": "identify",
        "userId": user,
        "anonymousId": anonymous,
        "messageId": f"m{next(_number)}",
        "traits": traits,
    }


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


def test_nothing_for_a_time_makes_a_member(desk: Desk, log: LogBuilder) -> None:
    """Vector A2: false, and true once seven days have passed."""
    query = "NOT event('Order Completed').within(7 days).count() >= 1"
    desk.apply([log.define(START, "quiet", query)])
    desk.tick(START)
    desk.apply([log.record(START, [track("u", "Order Completed", START)])])
    desk.tick(START + 7 * DAY)
    assert desk.members("quiet") == set()
    desk.tick(START + 7 * DAY + 1)
    assert len(desk.members("quiet")) == 1
    assert told(desk) == [("quiet", None, "true", "timer")]


def test_a_funnel_is_followed_by_time(desk: Desk, log: LogBuilder) -> None:
    """Vector A3: of two products added, one was ordered within a day; the other one was left."""
    ordered = "event('Order Completed').within(parent: 1 days).count() >= 1"
    left = f"event('Product Added').where( NOT {ordered} ).within(7 days).count() >= 1"
    desk.apply([log.define(START, "left", left)])
    desk.tick(START)
    hour = 3600 * SECOND
    desk.apply([log.record(START + 1, [track("u", "Product Added", START)])])
    assert len(desk.members("left")) == 1
    desk.apply([log.record(START + 2 * hour, [track("u", "Order Completed", START + 2 * hour)])])
    assert desk.members("left") == set()
    desk.apply([log.record(START + 3 * hour, [track("u", "Product Added", START + 3 * hour)])])
    desk.tick(START + 2 * DAY)
    assert len(desk.members("left")) == 1
    desk.tick(START + 3 * hour + 7 * DAY + 1)
    assert desk.members("left") == set()
    assert [cause for *_, cause in told(desk)] == ["event", "event", "event", "timer"]


def test_a_member_must_have_an_identifier_that_is_asked_for(desk: Desk, log: LogBuilder) -> None:
    """Vector A4."""
    desk.apply([log.define(START, "some", "event('Seen').count() >= 1", external_ids=EXTERNAL_IDS)])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("", "Seen") | {"anonymousId": "a", "userId": None}])])
    assert desk.members("some") == set()
    desk.apply([log.record(START + 2, [identify("u", "a")])])
    assert len(desk.members("some")) == 1


def test_a_new_threshold_needs_no_older_events(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", ORDERS)])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order Completed")])])
    desk.apply([log.define(START + 2, "buyers", "event('Order Completed').count() >= 1")])
    assert desk.statuses() == {"buyers": "backfilling"}
    desk.tick(START + 2)
    assert desk.statuses() == {"buyers": "live"}
    assert [(change.value, change.version, change.cause) for change in desk.changes()] == [
        ("true", 2, "definition")
    ]


def test_another_name_is_announced_to_nobody(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    desk.apply([log.define(START + 2, "buyers", "event('Order').count() >= 1", name="Buyers")])
    assert desk.statuses() == {"buyers": "live"}
    assert len(desk.changes()) == 1


def test_disabling_withdraws_and_enabling_announces_again(desk: Desk, log: LogBuilder) -> None:
    query = "event('Order').count() >= 1"
    desk.apply([log.define(START, "buyers", query)])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    desk.apply([log.define(START + 2, "buyers", query, enabled=False)])
    desk.tick(START + 2)
    assert desk.members("buyers") == set()
    desk.apply([log.record(START + 3, [track("v", "Order")])])
    desk.apply([log.define(START + 4, "buyers", query)])
    desk.tick(START + 4)
    assert len(desk.members("buyers")) == 2
    causes = ["event", "definition", "definition", "definition"]
    assert [cause for *_, cause in told(desk)] == causes


def test_whoever_lives_on_in_another_profile_loses_what_it_was_worth(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    one = track("u", "Order") | {"userId": None, "anonymousId": "a"}
    other = track("u", "Order") | {"userId": "u"}
    desk.apply([log.record(START + 1, [one, other])])
    assert len(desk.members("buyers")) == 2
    desk.apply([log.record(START + 2, [identify("u", "a")])])
    assert len(desk.members("buyers")) == 1
    assert told(desk)[2:] == [("buyers", "true", None, "identity")]
    assert desk.verify() == []


def test_a_definition_that_cannot_be_read_stops_nobody(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "odd", "event('Order'")])
    desk.apply([log.define(START + 1, "buyers", "event('Order').count() >= 1")])
    desk.apply([log.record(START + 2, [track("u", "Order")])])
    desk.tick(START + 2)
    assert desk.statuses() == {"odd": "failed", "buyers": "live"}
    assert len(desk.members("buyers")) == 1
    desk.apply([log.define(START + 3, "odd", "event('Order').count() >= 1")])
    desk.settle(START + 3)
    assert desk.statuses() == {"odd": "live", "buyers": "live"}
    assert desk.members("odd") == desk.members("buyers")


@pytest.mark.parametrize("part", ["add", "read"])
def test_a_fault_anywhere_else_costs_all_definitions_and_no_event(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    with monkeypatch.context() as patch:
        patch.setattr(evaluating.stored, part, fails)
        desk.apply([log.record(START + 1, [track("u1", "Order")])])
    assert desk.statuses() == {"buyers": "failed"}
    assert desk.applied().totals["in_lake"] == 1
    assert desk.applied().totals["failed"] == 0


def test_a_fault_of_ours_costs_a_definition_and_no_event(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.define(START, "bad", "event('Order').count() >= 1")])
    desk.apply([log.define(START + 1, "good", "event('Order').count() >= 1")])
    desk.tick(START + 1)

    def failing(plan: Any, *rest: Any) -> Any:
        if any(planned.held.definition.key == "bad" for planned in plan):
            raise ZeroDivisionError
        return answers(plan, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "answers", failing)
        desk.apply([log.record(START + 2, [track("u", "Order")])])
    assert desk.statuses() == {"bad": "failed", "good": "live"}
    assert len(desk.members("good")) == 1
    assert desk.applied().totals["failed"] == 0
    desk.restart()
    assert desk.statuses()["bad"] == "backfilling"
    desk.settle(START + 3)
    assert desk.members("bad") == desk.members("good")


def test_what_is_due_at_once_is_done_bit_by_bit(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "TIMERS_MAX", 2)
    desk.apply([log.define(START, "recent", "event('Order').within(1 day).count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START, [track(f"u{number}", "Order") for number in range(5)])])
    assert desk.tick(START + DAY + 1) == 3
    assert desk.members("recent") == set()


def test_more_than_one_micro_batch_takes_waits_for_the_next(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVALUATED_MAX", 2)
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START, [track(f"u{number}", "Order") for number in range(5)])])
    assert len(desk.members("buyers")) == 2
    desk.tick(START)
    assert len(desk.members("buyers")) == 5


def test_profiles_are_gone_through_in_parts(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SWEEP_PROFILES", 2)
    desk.apply([log.record(START, [track(f"u{number}", "Order") for number in range(5)])])
    desk.apply([log.define(START + 1, "buyers", "event('Order').count() >= 1")])
    desk.backfill()
    assert desk.batcher.tend_computing(START + 1)
    assert len(desk.members("buyers")) == 2
    desk.apply([log.record(START + 2, [track("new", "Order")])])
    desk.restart()
    desk.tick(START + 2)
    assert desk.statuses() == {"buyers": "live"}
    assert len(desk.members("buyers")) == 6


def test_an_account_with_very_many_users_waits_for_its_turn(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "ACCOUNT_USERS_MAX", 1)
    query = "event('Order').count() >= 1"
    desk.apply([log.define(START, "active", query, target="accounts")])
    desk.tick(START)
    for number in range(2):
        group = {"type": "group", "groupId": "g", "userId": f"u{number}", "messageId": f"g{number}"}
        desk.apply([log.record(START + 1, [group])])
    desk.apply([log.record(START + 2, [track("u0", "Order")])])
    assert desk.members("active") == set()
    desk.tick(START + 2 + evaluating.ACCOUNT_SECONDS * SECOND)
    assert len(desk.members("active")) == 1
    assert desk.verify() == []


def accounts(log: LogBuilder, at: int, count: int, event: str) -> list[Record]:
    """Return a record in which two users of each of some accounts do something."""
    users = [(f"g{group}", f"u{group}{number}") for group in range(count) for number in range(2)]
    seen = [{"type": "group", "groupId": group, "userId": user, "messageId": user} for group, user in users]
    return [log.record(at, [*seen, *(track(user, event) for _, user in users)])]


def test_accounts_with_many_users_together_follow_one_another(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "USERS_AT_ONCE", 3)
    desk.apply([log.define(START, "active", "event('Order').count() >= 2", target="accounts")])
    desk.tick(START)
    desk.apply(accounts(log, START + 1, 5, "Order"))
    assert len(desk.members("active")) == 2
    assert desk.tick(START + 1) == 2
    assert len(desk.members("active")) == 5
    assert desk.verify() == []


def test_accounts_with_many_users_together_are_gone_through_in_parts(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "USERS_AT_ONCE", 3)
    desk.apply(accounts(log, START, 5, "Order"))
    desk.apply([log.define(START + 1, "active", "event('Order').count() >= 2", target="accounts")])
    desk.backfill()
    assert desk.batcher.tend_computing(START + 1)
    assert len(desk.members("active")) == 2
    desk.tick(START + 1)
    assert told(desk) == [("active", None, "true", "definition")] * 5
    assert desk.statuses() == {"active": "live"}
    assert desk.verify() == []


def test_only_what_follows_counts_where_history_does_not(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [track("u", "Order"), track("v", "Order")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait", historical=False)])
    desk.tick(START + 1)
    assert desk.statuses() == {"n": "live"}
    desk.apply([log.record(START + 2, [track("u", "Order")])])
    assert list(desk.values().values()) == ["1"]


def test_everything_is_told_once_more_where_somebody_asks(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    desk.apply([log.definition(START + 2, Resync(by="test", key="buyers"))])
    desk.tick(START + 2)
    assert told(desk) == [("buyers", None, "true", "event"), ("buyers", "true", "true", "resync")]
    desk.apply([log.definition(START + 3, Resync(by="test", key="buyers", destination="crm"))])
    desk.tick(START + 3)
    assert len(desk.changes()) == 2
    assert desk.verify() == []


def test_what_is_asked_for_while_older_events_are_folded_is_told_after_it(
    desk: Desk, log: LogBuilder
) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    desk.apply([log.define(START + 2, "buyers", "event('Order').within(1 day).count() >= 1")])
    assert desk.statuses() == {"buyers": "backfilling"}
    desk.apply([log.definition(START + 3, Resync(by="test", key="buyers"))])
    desk.settle(START + 4)
    assert told(desk) == [("buyers", None, "true", "event"), ("buyers", "true", "true", "resync")]


def test_what_is_asked_for_is_told_though_the_definition_is_edited_meanwhile(
    desk: Desk, log: LogBuilder
) -> None:
    """It waits behind a backfill, or it was just asked for, when another version comes, and one more."""
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order"), track("v", "Order"), track("v", "Order")])])
    before = told(desk)
    desk.apply([
        log.definition(START + 2, Resync(by="test", key="buyers")),
        log.define(START + 3, "buyers", "event('Order').within(1 day).count() >= 1"),
    ])  # fmt: skip
    assert desk.statuses() == {"buyers": "backfilling"}
    desk.apply([log.define(START + 4, "buyers", "event('Order').within(1 day).count() >= 2")])
    desk.settle(START + 5)
    assert sorted(told(desk)[len(before) :], key=str) == [
        ("buyers", "true", "true", "resync"),
        ("buyers", "true", None, "definition"),
    ]
    # It was told: another version tells only what differs.
    desk.apply([log.define(START + 6, "buyers", "event('Order').within(2 days).count() >= 2")])
    desk.settle(START + 7)
    assert len(told(desk)) == len(before) + 2
    assert desk.verify() == []


def test_what_is_asked_for_is_told_once_the_definition_can_be_computed_again(
    desk: Desk, log: LogBuilder
) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.tick(START)
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    records = definitions_now.records
    with desk.state.write() as tx:
        failed = msgspec.structs.replace(records(tx, WORKSPACE)["buyers"], status="failed", failure="x")
        definitions_now.put_records(tx, WORKSPACE, {"buyers": failed})
    desk.apply([log.definition(START + 2, Resync(by="test", key="buyers"))])
    desk.apply([log.define(START + 3, "buyers", "event('Order').within(1 day).count() >= 1")])
    desk.settle(START + 4)
    assert told(desk) == [("buyers", None, "true", "event"), ("buyers", "true", "true", "resync")]


def test_what_comes_in_while_everything_is_told_once_more_is_a_change(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [track("u", "Order")])])
    desk.apply([log.define(START + 1, "buyers", "event('Order').count() >= 1")])
    desk.backfill()
    desk.apply([log.record(START + 2, [track("v", "Other")])])
    assert desk.statuses() == {"buyers": "computing"}
    desk.apply([log.definition(START + 3, Resync(by="test", key="buyers"))])
    desk.tick(START + 3)
    assert told(desk) == [("buyers", None, "true", "definition")]
    assert desk.statuses() == {"buyers": "live"}
    desk.publish()
    assert desk.verify() == []


def test_a_repeated_event_announces_nothing(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "n", "event('Order').count()", kind="trait")])
    desk.tick(START)
    order = track("u", "Order")
    desk.apply([log.record(START + 1, [order])])
    desk.apply([log.record(START + 2, [order, order])])
    assert told(desk) == [("n", None, "1", "event")]


def test_a_count_that_comes_down_to_nothing_is_announced_as_zero(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "n", "event('Order').within(1 day).count()", kind="trait")])
    desk.tick(START)
    desk.apply([log.record(START, [track("u", "Order")])])
    desk.tick(START + DAY + 1)
    assert told(desk) == [("n", None, "1", "event"), ("n", "1", "0", "timer")]
    assert desk.values() == {}
    assert desk.verify() == []
    desk.rebuild()
    desk.settle(START + DAY + 2)
    assert len(desk.changes()) == 0
    assert desk.verify() == []


def test_a_rebuild_announces_only_what_differs(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.define(START, "buyers", "event('Order').count() >= 1")])
    desk.apply([log.define(START + 1, "gone", "event('Order').count() >= 1")])
    desk.tick(START + 1)
    desk.apply([log.record(START + 2, [track("u", "Order"), track("v", "Order")])])
    desk.apply([log.definition(START + 3, Drop(by="test", key="gone"))])
    before = desk.members("buyers")
    desk.verify()
    desk.rebuild()
    assert desk.members("buyers") == before
    desk.settle(START + 4)
    assert {(c.definition, c.value, c.cause) for c in desk.changes()} == {("gone", None, "rebuild")}
    assert desk.statuses() == {"buyers": "live", "gone": "dropped"}
    assert desk.verify() == []
    desk.apply([log.record(START + 5, [track("w", "Order")])])
    assert len(desk.members("buyers")) == 3
    assert desk.verify() == []


def test_an_attempt_that_was_cut_short_leaves_nothing_behind(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [track("u", "Order")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait")])
    desk.backfill(finish=False)
    desk.restart()
    desk.apply([log.record(START + 2, [track("u", "Order")])])
    desk.settle(START + 3)
    assert list(desk.values().values()) == ["2"]


def test_older_events_of_many_steps_are_put_in_parts(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PART_ROWS", 4)
    monkeypatch.setattr(pipeline_driver, "BACKFILLED_ROWS", 100)
    users = [f"u{number}" for number in range(6)]
    desk.apply([log.record(START, [track(user, name) for user in users for name in ("Order", "Visit")])])
    for number, name in enumerate(("Order", "Visit")):
        desk.apply([log.define(START + 1 + number, name.lower(), f"event('{name}').count()", kind="trait")])
    sizes: list[int] = []
    add = stored.add
    monkeypatch.setattr(stored, "add", lambda *given: (sizes.append(pending.size(given[2])), add(*given)))
    desk.settle(START + 3)
    assert sizes == [4, 4, 4]
    assert list(desk.values().values()) == ["1"] * 12


def test_what_waits_for_others_is_looked_at_once(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PENDING_MAX", 2)
    desk.apply([log.record(START, [track("u", "Order"), track("u", "Visit")])])
    desk.apply([log.define(START + 1, "orders", "event('Order').count()", kind="trait")])
    before = desk.applied().sequence
    desk.backfill(finish=False)
    desk.apply([log.define(START + 2, "visits", "event('Visit').count()", kind="trait")])
    for number in range(10):
        desk.apply([log.record(START + 3 + number, [track("u", "Order"), track("u", "Visit")])])
    looked_at: list[bytes] = []
    unpacked = pending.unpacked
    monkeypatch.setattr(pending, "unpacked", lambda held: looked_at.append(held) or unpacked(held))
    handover.finish(desk.state, WORKSPACE, before)
    assert len(looked_at) == 10
    desk.settle(START + 20)
    assert sorted(desk.values().values()) == ["11", "11"]


@pytest.mark.parametrize(("limit", "most"), [("PENDING_MAX", 2), ("PENDING_BYTES_MAX", 1)])
def test_merging_what_waited_goes_on_where_it_was_cut_short(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(handover, limit, most)
    desk.apply([log.define(START, "a", "event('Other').count()", kind="trait")])
    desk.apply([log.record(START + 1, [track("u", "Order")])])
    desk.apply([log.define(START + 2, "n", "event('Order').count()", kind="trait")])
    for number in range(5):
        desk.apply([log.record(START + 3 + number, [track("u", "Order")])])
    with monkeypatch.context() as patch:
        patch.setattr(handover, "merge_waiting", lambda *_: False)
        desk.backfill(through=3)
    desk.restart()
    desk.settle(START + 20)
    assert [value for (key, _), value in desk.values().items() if key == "n"] == ["6"]


def test_what_was_missing_is_looked_for_with_the_next_decision(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.define(START, "odd", "event('Order').count() >= 1")])
    desk.tick(START)

    def missing(*_: Any) -> Any:
        raise Invalid("there is no entity 'orders'; define it first")

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "answers", missing)
        desk.apply([log.record(START + 1, [track("u", "Order")])])
    assert desk.statuses() == {"odd": "failed"}
    desk.apply([log.define(START + 2, "buyers", "event('Order').count() >= 1")])
    assert desk.statuses()["odd"] == "backfilling"
    desk.settle(START + 3)
    assert desk.statuses() == {"odd": "live", "buyers": "live"}
    assert len(desk.members("odd")) == 1
