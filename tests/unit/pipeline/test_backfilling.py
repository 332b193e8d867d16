import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfilling import backfill, backfilling
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.audiences import handover
from profilelake.audiences.facts import Drop
from profilelake.audiences.reading import Reading
from profilelake.errors import Corrupt, Unavailable
from profilelake.pipeline import backfilling as module
from profilelake.pipeline.backfilling import Backfilling, Stopped
from profilelake.state.computed import definition_records
from profilelake.state.store import Db

ORDERS = "event('Order').count() >= 2"


def order(user: str) -> Message:
    return {"type": "track", "userId": user, "event": "Order", "properties": {"revenue": 1}}


class Stops(threading.Event):
    """Ends a loop after some looks, without waiting."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - as in the class above
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder("00000000000000aa")


def test_a_definition_waits_until_all_events_before_it_are_in_the_lake(desk: Desk, log: LogBuilder) -> None:
    asked: list[str] = []
    desk.apply([log.record(START, [order("u"), order("v")])])
    desk.publish()
    desk.apply([log.record(START + 1, [order("u")])])
    desk.apply([log.define(START + 2, "buyers", ORDERS)])
    loop = backfilling(desk)
    loop.ask_to_publish = lambda: asked.append("asked")
    assert not loop.look(WORKSPACE)
    assert not loop.look(WORKSPACE)
    assert asked == ["asked"]  # not at every look
    assert desk.statuses() == {"buyers": "backfilling"}
    desk.publish()
    assert loop.look(WORKSPACE)
    desk.tick(START + 3)
    assert desk.statuses() == {"buyers": "live"}
    assert len(desk.members("buyers")) == 1
    assert not loop.look(WORKSPACE)
    assert not list((desk.directory / "backfill").iterdir())


def test_events_that_come_meanwhile_count_once(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u"), order("v"), order("w")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait")])
    desk.apply([log.record(START + 2, [order("u")])])
    desk.publish()
    put = handover.put_part

    def and_meanwhile(state: object, workspace: str, partials: object) -> None:
        put(state, workspace, partials)  # type: ignore[arg-type]
        desk.apply([log.record(desk.applied().watermark + 1, [order("v")])])

    monkeypatch.setattr(handover, "put_part", and_meanwhile)
    assert backfill(desk)
    desk.tick(START + 10)
    assert sorted(desk.values().values()) == ["1", "2", "2"]
    assert desk.verify() == []


def test_an_empty_lake_needs_no_part(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [{"type": "track", "userId": "u", "event": "Other"}])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    assert backfill(desk)
    desk.tick(START + 2)
    assert desk.statuses() == {"buyers": "live"}


def test_progress_is_told(desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_ROWS", 2)
    desk.apply([log.record(START, [order(f"u{number}") for number in range(20)])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    told: list[tuple[int, int]] = []
    put = handover.put_part

    def seen(state: object, workspace: str, partials: object) -> None:
        put(state, workspace, partials)  # type: ignore[arg-type]
        with desk.state.read(WORKSPACE) as tx:
            record = definition_records(tx, WORKSPACE)["buyers"]
        told.append((record.done_rows, record.known_rows))

    monkeypatch.setattr(handover, "put_part", seen)
    assert backfill(desk)
    assert {known for _, known in told} == {20}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0][0] == 0 < told[-1][0] < 20


def test_a_stop_gives_the_attempt_up(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    loop = backfilling(desk)
    loop.stop.set()
    with pytest.raises(Stopped):
        loop.look(WORKSPACE)
    loop.stop.clear()
    assert loop.look(WORKSPACE)


def test_a_stop_ends_a_long_read(desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    loop = backfilling(desk)
    endless = "SELECT count(*) FROM range(1000000000000) WHERE hash(range) = 1"

    def never_done(reading: Reading, _select: str) -> int:
        loop.stop.set()
        return len(reading.connection.sql(endless).fetchall())

    monkeypatch.setattr(Reading, "count", never_done)
    with pytest.raises(Stopped):
        loop.look(WORKSPACE)
    assert not list((desk.directory / "backfill").iterdir())


def test_what_fails_is_tried_again(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk.apply([log.record(START, [order("u"), order("u")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    put = handover.put_part
    failures = [Unavailable("writing the state: no room"), None]

    def failing_once(state: object, workspace: str, partials: object) -> None:
        put(state, workspace, partials)  # type: ignore[arg-type]
        if (failure := failures.pop(0)) is not None:
            raise failure

    monkeypatch.setattr(handover, "put_part", failing_once)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    loop = backfilling(desk)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        assert _until_empty(failures, loop)
    finally:
        loop.stop.set()
        thread.join()
    assert "no room" in caplog.text
    desk.tick(START + 2)
    assert len(desk.members("buyers")) == 1


def test_what_waits_beside_attempts_that_fail_is_bounded_and_counts_all_the_same(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "n", "event('Order').count()", kind="trait")])
    desk.apply([log.record(START + 2, [order("u"), order("v")])])
    desk.publish()
    put, loop = handover.put_part, backfilling(desk)

    def damaged(*_: object) -> None:
        raise Corrupt("reading events: a file is damaged")

    def waiting() -> int:
        with desk.state.read(WORKSPACE) as tx:
            return tx.count(WORKSPACE, Db.STEP_PENDING)

    monkeypatch.setattr(handover, "put_part", damaged)
    loop._tried(WORKSPACE)
    assert waiting() == 1
    monkeypatch.setattr(handover, "WAITING_BYTES_MAX", 0)
    loop._wait_until.clear()
    loop._tried(WORKSPACE)
    assert waiting() == 0
    monkeypatch.setattr(handover, "put_part", put)
    desk.apply([log.record(START + 3, [order("v")])])
    assert backfill(desk)
    desk.tick(START + 4)
    assert sorted(desk.values().values()) == ["2", "2"]
    desk.publish()
    assert desk.verify() == []


def _until_empty(failures: list[Unavailable | None], loop: Backfilling) -> bool:
    """Wait until the second attempt is finished; tell whether it was in time."""
    for _ in range(2_000):
        if not failures and loop.stop.wait(0.01) is False:
            with loop.state.read(WORKSPACE) as tx:
                if not handover.incomplete(tx, WORKSPACE):
                    return True
        loop.stop.wait(0.01)
    return False


def test_a_definition_made_again_at_the_wrong_moment_misses_no_event(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    begin = handover.begin_attempt

    def meanwhile(*given: Any) -> dict[bytes, int]:
        monkeypatch.setattr(handover, "begin_attempt", begin)
        desk.apply([log.definition(START + 2, Drop(by="test", key="buyers"))])
        desk.apply([log.record(START + 3, [order("u")])])  # not in the snapshot, and no step waits for it
        desk.apply([log.define(START + 4, "buyers", ORDERS)])
        return begin(*given)

    monkeypatch.setattr(handover, "begin_attempt", meanwhile)
    backfilling(desk).look(WORKSPACE)
    desk.publish()
    backfilling(desk).look(WORKSPACE)
    desk.tick(START + 5)
    assert len(desk.members("buyers")) == 1
    assert desk.verify() == []


def test_a_fault_of_ours_ends_an_attempt_and_no_process(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [order("u"), order("u")])])
    desk.apply([log.define(START + 1, "buyers", ORDERS)])
    desk.publish()
    loop = backfilling(desk)
    loop.stop = Stops(looks=3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fold", lambda *_: 1 / 0)
        loop.run()
    assert desk.statuses() == {"buyers": "backfilling"}
    backfilling(desk).look(WORKSPACE)
    desk.tick(START + 2)
    assert len(desk.members("buyers")) == 1
