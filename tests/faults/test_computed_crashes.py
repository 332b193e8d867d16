"""Ends at every place where definitions are gone on with: what was begun goes on, nothing is told twice or forgotten.

A transaction that a killed process had open is undone, as it is by what is raised here; whatever is committed
stays. So a place is passed by raising there, opening the directory anew, and reading the log from where the state is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from computed_laws import check, folded
from pipeline_driver import SECOND, START, Desk, LogBuilder, Message
from profilelake.audiences import handover, live
from profilelake.audiences.facts import Drop
from profilelake.eventlog import Record
from profilelake.pipeline import batch
from profilelake.semantics.times import format_time

HOUR = 3600 * SECOND
PLACES = (
    "computed.decided",
    "computed.folded",
    "computed.announced",
    "computed.swept",
    "handover.begun",
    "handover.part",
    "handover.reached",
    "handover.merged",
    "state.outbox",
    "state.before_commit",
    "state.committed",
)


class Killed(BaseException):
    """The process has ended here."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def order(user: str, number: int, at: int) -> Message:
    return {
        "type": "track",
        "userId": user,
        "event": "Order",
        "messageId": f"m{number}",
        "timestamp": format_time(at),
        "properties": {"value": number},
    }


def story(log: LogBuilder) -> list[Record]:
    """Return a log with definitions before and between events, one of them dropped at the end."""
    records = [log.define(START, "recent", "event('Order').within(1 hour).count() >= 1")]
    for number in range(4):
        at = START + (number + 1) * 1000
        records.append(log.record(at, [order(f"u{number % 3}", number, at)]))
        if number == 1:
            records.append(log.define(at + 1, "total", "event('Order').sum(property('value'))", kind="trait"))
    records.append(log.define(START + 9000, "gone", "event('Order').count() >= 1"))
    records.append(log.record(START + 9001, [order("u0", 9, START + 9001)]))
    records.append(log.definition(START + 9002, Drop(by="test", key="gone")))
    return records


def live_through(desk: Desk, records: list[Record], restart: Callable[[], None]) -> None:
    """Apply what the state does not have yet, and go on until all is done, however often it is killed."""
    while True:
        try:
            reached = desk.applied().vector
            offset = reached[records[0].log_id][0] if reached else -1
            for record in records:
                if record.offset >= offset:
                    desk.apply([record])
                    desk.tick(record.received_at)
            desk.settle(START + 10_000)
            desk.tick(START + 2 * HOUR)
            return
        except Killed:
            restart()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2, 5])
def test_what_was_begun_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str, nth: int) -> None:
    monkeypatch.setattr(live, "SWEEP_PROFILES", 2)
    monkeypatch.setattr(handover, "PENDING_MAX", 1)
    left = [nth]

    def reach(name: str) -> None:
        if name == place and left[0] > 0:
            left[0] -= 1
            if not left[0]:
                raise Killed

    for module in (live, handover, batch):
        monkeypatch.setattr(module, "reach", reach)
    log = LogBuilder("00000000000000aa")
    live_through(desk, story(log), desk.restart)
    assert nth > 1 or left == [0]  # each place is met at least once
    check(desk)
    found = desk.values()
    assert {key for key, _ in found} == {"total"}
    assert len(found) == 3
    assert folded(desk, found) == found
    assert desk.statuses() == {"recent": "live", "total": "live", "gone": "dropped"}
