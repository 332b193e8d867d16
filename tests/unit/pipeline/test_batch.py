"""Micro-batches that meet a fault: what is applied, what is set aside, what is tried again."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pipeline_driver import START, Desk, LogBuilder, Message
from profilelake.errors import Corrupt, Unavailable
from profilelake.eventlog import Damage, Record
from profilelake.pipeline import batch
from profilelake.pipeline.batch import Batcher
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.profiles.fold import fold_traits
from profilelake.state import recent, store

LOG = "00000000000000aa"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def identify(name: str) -> Message:
    return {"type": "identify", "userId": name, "messageId": f"m-{name}", "traits": {"name": name}}


def records(*names: str) -> list[Record]:
    log = LogBuilder(LOG)
    return [log.record(START + number, [identify(name)]) for number, name in enumerate(names)]


def poison(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make a stage fail on the events of some users, as a bug of ours would."""
    ids = {f"m-{name}" for name in names}

    def folding(work: Any, events: Any) -> Any:
        if ids & set(events.column("message_id").to_pylist()):
            raise ZeroDivisionError("a bug")
        return fold_traits(work, events)

    monkeypatch.setattr(batch, "fold_traits", folding)


def totals(desk: Desk) -> dict[str, int]:
    return {name: count for name, count in desk.applied().totals.items() if count}


def users(desk: Desk) -> list[str]:
    return sorted(json.loads(row[2])["user_id"][0] for row in desk.state_tables()["profiles"])


def test_records_that_cannot_be_processed_are_set_aside_and_stop_nobody(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, "bad", "worse")
    arrived = records("a", "b", "bad", "c", "worse", "d")
    desk.apply(arrived)
    assert users(desk) == ["a", "b", "c", "d"]
    assert totals(desk) == {"in_lake": 4, "failed": 2}
    assert desk.batcher.vector()[LOG].offset == arrived[-1].next_offset
    assert desk.verify() == []
    dead = desk.lake.table("default", batch.FAILED_EVENTS).scan().to_pylist()
    assert {row["reason"] for row in dead} == {"processing_error"}
    assert {row["detail"] for row in dead} == {"processing failed: ZeroDivisionError"}
    assert sorted(json.loads(row["raw"])["batch"][0]["userId"] for row in dead) == ["bad", "worse"]
    assert "looking for the one that causes it" in caplog.text


def test_all_events_of_a_record_set_aside_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "bad")
    desk.apply([LogBuilder(LOG).record(START, [identify("a"), identify("bad"), identify("b")])])
    assert totals(desk) == {"failed": 3}
    assert desk.verify() == []


def test_a_message_set_aside_may_be_sent_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogBuilder(LOG)
    with monkeypatch.context() as broken:
        poison(broken, "bad")
        desk.apply([log.record(START, [identify("bad")])])
    desk.apply([log.record(START + 1, [identify("bad")])])
    assert users(desk) == ["bad"]
    assert totals(desk) == {"in_lake": 1, "failed": 1}
    assert desk.verify() == []


def test_damage_is_counted_once_though_the_batch_is_taken_apart(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each half counts the damage it passes over, so that a crash in between neither loses nor doubles it."""
    poison(monkeypatch, "bad")
    arrived = records("a", "b", "lost", "c", "bad", "lost too", "d")
    gaps = [
        Damage(f"/x/{LOG}/{0:020}.seg", gap.offset, gap.next_offset, gap.events, "checksum differs")
        for gap in (arrived[2], arrived[5])
    ]
    balanced: list[bool] = []
    applying = desk.batcher._transact

    def transact(*arguments: Any, **named: Any) -> None:
        applying(*arguments, **named)
        applied = desk.applied()
        balanced.append(sum(applied.totals.values()) == sum(events for _, events in applied.vector.values()))

    monkeypatch.setattr(desk.batcher, "_transact", transact)
    desk.apply([record for record in arrived if record not in (arrived[2], arrived[5])], gaps)
    assert totals(desk) == {"in_lake": 4, "failed": 3}
    assert len(balanced) > 1
    assert all(balanced)
    assert desk.verify() == []


def test_records_that_another_process_has_applied_meanwhile_are_refused(desk: Desk) -> None:
    arrived = records("a", "b", "c")
    desk.apply(arrived[:1])
    other = Batcher(desk.state, [desk.setup], "local", desk.now, Timer(Stages(CollectorRegistry())))
    other.apply(desk.slice(arrived[1:]))
    with pytest.raises(Corrupt, match="no other server"):
        desk.apply(arrived[1:])
    assert totals(desk) == {"in_lake": 3}
    assert desk.verify() == []


def full_disk(*_arguments: Any, **_named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_applies_nothing_and_the_same_batch_may_be_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply(records("a")[:1])
    before, vector = desk.state_tables(), desk.batcher.vector()
    arrived = records("a", "b", "c")[1:]
    with monkeypatch.context() as full:
        full.setattr(recent, "write", full_disk)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                desk.apply(arrived)
    assert (desk.state_tables(), desk.batcher.vector()) == (before, vector)
    desk.apply(arrived)
    assert users(desk) == ["a", "b", "c"]
    assert totals(desk) == {"in_lake": 3}
    assert desk.verify() == []


def test_a_fault_while_looking_for_a_bad_record_doubles_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "bad")
    arrived = records("a", "b", "c", "bad")
    written = []
    writing = recent.write

    def fill_up(*arguments: Any, **named: Any) -> Any:
        written.append(1)
        if len(written) > 1:
            full_disk()
        return writing(*arguments, **named)

    with monkeypatch.context() as full:
        full.setattr(recent, "write", fill_up)
        with pytest.raises(OSError, match="No space"):
            desk.apply(arrived)
    reached = desk.batcher.vector()[LOG].offset
    assert reached == arrived[1].next_offset
    desk.apply([record for record in arrived if record.offset >= reached])
    assert totals(desk) == {"in_lake": 3, "failed": 1}
    assert desk.verify() == []


def test_a_full_map_applies_nothing_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"user {number:04}" for number in range(3000)]
    with monkeypatch.context() as small:
        small.setattr(store, "MAP_BYTES", 1 << 20)
        desk = Desk(tmp_path)
        with pytest.raises(Unavailable, match="free space"):
            desk.apply(records(*names))
        assert desk.applied().sequence == 0
        desk.close()
    desk = Desk(tmp_path)
    desk.apply(records(*names))
    assert totals(desk) == {"in_lake": 3000}
    assert desk.verify() == []
    desk.close()
