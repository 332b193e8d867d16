"""What waits beside older events that do not come in: bounded, and nothing of it lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.audiences import handover
from profilelake.state.store import Db


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder("00000000000000aa")


def order(user: str) -> Message:
    return {"type": "track", "userId": user, "event": "Order"}


def waiting(desk: Desk) -> int:
    with desk.state.read(WORKSPACE) as tx:
        return tx.count(WORKSPACE, Db.STEP_PENDING)


def test_what_waits_for_a_backfill_that_does_not_finish_is_bounded_and_not_lost(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait")])
    # One that began to fold older events, and does not come to its end.
    desk.backfill(finish=False)
    desk.apply([log.record(START + 2, [order("u")])])
    assert waiting(desk) == 1
    monkeypatch.setattr(handover, "WAITING_BYTES_MAX", 0)
    desk.apply([log.record(START + 3, [order("u"), order("v")])])
    assert waiting(desk) == 2  # as long as nothing failed
    handover.bound_waiting(desk.state, WORKSPACE)
    assert waiting(desk) == 0
    monkeypatch.undo()
    handover.bound_waiting(desk.state, WORKSPACE)
    # What the first one had begun counts for nothing: it would lack what is older now.
    handover.finish(desk.state, WORKSPACE, desk.applied().sequence)
    assert desk.statuses() == {"n": "backfilling"}
    desk.apply([log.record(START + 4, [order("v")])])
    assert waiting(desk) == 1
    desk.settle(START + 5)
    assert sorted(desk.values().values()) == ["2", "3"]
    assert waiting(desk) == 0
    desk.publish()
    assert desk.verify() == []


def test_what_waits_to_be_merged_is_merged_though_it_is_much(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait")])
    desk.apply([log.record(START + 2, [order("u")])])
    reached = desk.applied().sequence - 1
    desk.backfill(finish=False, through=reached)
    monkeypatch.setattr(handover, "merge_waiting", lambda *_: False)
    handover.finish(desk.state, WORKSPACE, reached)
    monkeypatch.undo()
    monkeypatch.setattr(handover, "WAITING_BYTES_MAX", 0)
    handover.bound_waiting(desk.state, WORKSPACE)
    assert waiting(desk) == 1
    desk.apply([log.record(START + 3, [order("u")])])
    desk.tick(START + 4)
    assert list(desk.values().values()) == ["3"]
    desk.publish()
    assert desk.verify() == []
