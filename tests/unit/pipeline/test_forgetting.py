"""Failed events whose time is over: gone day by day, counted for ever, and no accepted event unaccounted for."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from prometheus_client import CollectorRegistry

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.failed.find import FailedEvents, Wanted
from profilelake.failed.journal import Journal, Replay
from profilelake.lake import retention
from profilelake.lake.checking import check_tables
from profilelake.lake.retention import Expired
from profilelake.landing.tables import FAILED_EVENTS
from profilelake.manage.status import read_status
from profilelake.pipeline import forgetting
from profilelake.pipeline.forgetting import DAY_MICROS, Forgetting
from profilelake.pipeline.lake_metrics import LakeMetrics
from profilelake.pipeline.upkeep import Record, Upkeep

LOG = "00000000000000aa"
NAMELESS = {"type": "track", "userId": "u"}
GOOD = {"type": "track", "event": "A", "userId": "u"}


class Bench:
    """A desk that gets failed events, and what makes it forget them."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder)
        self.log = LogBuilder(LOG)
        self.registry = CollectorRegistry()
        self.metrics = LakeMetrics(self.registry)
        self.journal = Journal(folder / "replays.sqlite")
        self.sent = 0

    def fail(self, day: int, count: int = 1) -> None:
        """Have events come in on a day, so many of which fail, and one which does not."""
        self.sent += 1
        at = START + day * DAY_MICROS + self.sent
        self.desk.now = max(self.desk.now, at)
        good = GOOD | {"messageId": f"good{self.sent}"}
        failing = [NAMELESS | {"messageId": f"bad{self.sent}-{n}"} for n in range(count)]
        self.desk.apply([self.log.record(at, [good, *failing])])
        self.desk.publish()

    def forgetting(self, days: float = 30.0) -> Forgetting:
        desk = self.desk
        record = Record(desk.directory / "maintenance.jsonl", desk.clock)
        upkeep = Upkeep(WORKSPACE, desk.lake, desk.clock, record)
        forget = self.journal.forget
        return Forgetting([desk.publisher], [upkeep], days, forget, desk.clock, self.metrics)

    def forget(self, days: float = 30.0) -> None:
        while self.forgetting(days).step():
            pass

    def pass_days(self, days: float) -> None:
        self.desk.now += int(days * DAY_MICROS)

    def there(self) -> int:
        table = self.desk.lake.table(WORKSPACE, FAILED_EVENTS)
        return sum(file.rows for file in table.files())

    def expired(self) -> Expired:
        return Expired.of(self.desk.lake.table(WORKSPACE, FAILED_EVENTS).properties())

    def status(self) -> dict[str, int]:
        folder = self.desk.directory
        found = read_status(self.desk.state, folder / "log", folder / "none.json", WORKSPACE, self.desk.now)
        assert found["balanced"]
        assert found["accepted"] == sum(
            found[name]
            for name in ("in_lake", "duplicates", "failed", "suppressed", "erased", "expired", "in_flight")
        )
        return {"failed": found["failed"], "expired": found["expired"]}

    def wrong(self) -> list[str]:
        with duckdb.connect() as connection:
            found = check_tables(self.desk.lake, WORKSPACE, connection, quick=False)
            return [*self.desk.verify(), *(f"{one.table}: {one.detail}" for one in found)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.desk.close()


def test_whole_days_go_when_their_time_is_over_and_are_counted(bench: Bench) -> None:
    bench.fail(0, 2)
    bench.fail(1, 3)
    bench.fail(40, 4)
    bench.pass_days(1)
    bench.forget(days=40)
    assert (bench.there(), bench.expired().rows) == (7, 2)
    assert bench.status() == {"failed": 7, "expired": 2}
    bench.pass_days(20)
    bench.forget(days=30)
    assert (bench.there(), bench.expired().rows) == (4, 5)
    assert bench.status() == {"failed": 4, "expired": 5}
    assert bench.wrong() == []
    assert bench.registry.get_sample_value("profilelake_failed_events_expired_total") == 5
    lines = [
        json.loads(line) for line in (bench.desk.directory / "maintenance.jsonl").read_text().splitlines()
    ]
    assert [(line["step"], line["rows"]) for line in lines] == [("expire rows", 2), ("expire rows", 3)]
    # What fails from now on is counted beside what has gone.
    bench.fail(62, 1)
    assert bench.status() == {"failed": 5, "expired": 5}
    assert bench.wrong() == []


def test_zero_days_keep_them_for_ever(bench: Bench) -> None:
    bench.fail(0, 2)
    bench.pass_days(4_000)
    bench.forget(days=0)
    assert (bench.there(), bench.status()) == (2, {"failed": 2, "expired": 0})


def test_nothing_goes_before_the_end_of_its_day(bench: Bench) -> None:
    bench.fail(0)
    received = bench.desk.now
    end = (received // DAY_MICROS + 1) * DAY_MICROS
    bench.desk.now = end + DAY_MICROS - 1
    bench.forget(days=1)
    assert bench.there() == 1
    bench.desk.now += 1
    bench.forget(days=1)
    assert bench.there() == 0


def test_a_step_is_bounded_and_says_that_there_is_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (0, 0, 1, 2):
        bench.fail(day)
    bench.pass_days(60)
    monkeypatch.setattr(
        forgetting, "expire_days", lambda table, day: retention.expire_days(table, day, files_max=1)
    )
    left = []
    while bench.forgetting().step():
        left.append(bench.there())
    assert left == [2, 1, 0]  # the two files of the first day go together
    assert bench.wrong() == []


def test_a_crash_in_between_counts_nothing_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fail(0, 3)
    bench.pass_days(60)
    monkeypatch.setattr(forgetting, "tell_expired", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bench.forgetting().step()
    monkeypatch.undo()
    assert bench.status() == {"failed": 3, "expired": 0}  # the sum is right all the same
    assert bench.wrong() == []
    bench.desk.restart()
    assert not bench.forgetting().step()
    assert bench.status() == {"failed": 0, "expired": 3}
    assert bench.wrong() == []


def test_a_lost_answer_of_the_catalog_counts_nothing_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fail(0, 3)
    bench.pass_days(60)
    table = bench.desk.lake.table(WORKSPACE, FAILED_EVENTS)
    catalog = table._table.catalog
    commit, calls = catalog.commit_table, [0]

    def lossy(*arguments: object) -> object:
        calls[0] += 1
        answer = commit(*arguments)  # type: ignore[arg-type]
        if calls[0] == 1:
            raise OSError("the answer is lost")
        return answer

    monkeypatch.setattr(catalog, "commit_table", lossy)
    bench.forget()
    monkeypatch.undo()
    assert (bench.there(), bench.expired().rows) == (0, 3)
    assert bench.wrong() == []


def test_a_rebuild_keeps_the_count(bench: Bench) -> None:
    bench.fail(0, 3)
    bench.fail(50, 2)
    bench.pass_days(10)
    bench.forget()
    bench.desk.rebuild()
    assert bench.wrong() == []
    # Before anybody looks at the table again: beside a running server that is an hour later.
    assert bench.status() == {"failed": 2, "expired": 3}
    bench.forget()
    assert bench.status() == {"failed": 2, "expired": 3}
    bench.fail(70, 1)
    assert bench.status() == {"failed": 3, "expired": 3}
    assert bench.wrong() == []


def test_a_row_that_vanished_untold_is_found(bench: Bench) -> None:
    bench.fail(0, 3)
    bench.fail(50, 2)
    bench.pass_days(10)
    bench.forget()
    table = bench.desk.lake.table(WORKSPACE, FAILED_EVENTS)
    retention.expire_days(table, 1 << 20)  # all of it, and then as if nobody had counted
    with table._table.transaction() as transaction:
        transaction.set_properties({retention.EXPIRED_ROWS: "3"})
    bench.desk.restart()
    assert any("failed events in the lake and expired: 3, should be 5" in line for line in bench.wrong())
    assert any("0 rows and 3 expired, its snapshot accounts for 5" in line for line in bench.wrong())


def test_replays_of_what_is_gone_are_forgotten_and_others_are_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fail(0, 2)
    bench.fail(50, 1)
    events = FailedEvents(bench.desk.lake, WORKSPACE, str(bench.desk.directory / "spill"))
    old, older, young = events.positions(Wanted(), newest_first=False)
    replays = [Replay(position, 1, LOG, offset, 0) for position in (old, older, young) for offset in (1, 2)]
    bench.journal.add(replays)
    bench.pass_days(1)
    bench.forget(days=100)
    assert len(bench.journal.of([old, older, young])) == 3
    monkeypatch.setattr("profilelake.failed.journal.FORGET_ROWS", 3)
    bench.forget(days=30)
    # Of an event that is still there a replay stays known: else it would be sent once more.
    assert bench.journal.of([old, older, young]) == {young: replays[4:]}


def test_no_journal_of_replays_is_made_for_this(bench: Bench) -> None:
    bench.fail(0, 1)
    bench.pass_days(60)
    bench.forget()
    assert not (bench.desk.directory / "replays.sqlite").exists()
