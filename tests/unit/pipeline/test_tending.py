"""When tables are tended, what is on record, and what commands get answered."""

import json
import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lake_examples import VISITS, Clock, open_lake, upto, visits
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.engines.jobs import Job, known_jobs
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.failed.journal import Journal as Replays
from profilelake.lake.files import local_path
from profilelake.landing.tables import EVENTS
from profilelake.pipeline import lake_requests, publish, tending, upkeep
from profilelake.pipeline.forgetting import Forgetting
from profilelake.pipeline.lake_metrics import LakeMetrics
from profilelake.pipeline.lake_requests import Request
from profilelake.pipeline.register import TABLES
from profilelake.pipeline.tending import Tending
from profilelake.pipeline.upkeep import Record, Upkeep
from profilelake.settings import LakeSettings

LOG = "00000000000000aa"


class Bench:
    """A desk whose tables are tended by hand: `now` are the seconds of the loop's clock."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.now = 1_000.0
        self.desk = Desk(folder)
        self.registry = CollectorRegistry()
        self.record = folder / "maintenance.jsonl"
        made = Record(self.record, self.desk.clock)
        self.upkeep = Upkeep(WORKSPACE, self.desk.lake, self.desk.clock, made)
        self.tending = Tending(
            publishers=[self.desk.publisher],
            upkeeps=[self.upkeep],
            settings=LakeSettings(**settings),
            publish_age_seconds=300.0,
            requests=folder / "requests",
            clock=self.desk.clock,
            metrics=LakeMetrics(self.registry),
            stop=threading.Event(),
            monotonic=lambda: self.now,
        )
        self.log = LogBuilder(LOG)
        self.sent = 0

    def publish(self, count: int) -> None:
        """Commit so many events, one at a time."""
        for _ in range(count):
            self.sent += 1
            event = {"userId": "u", "type": "track", "event": "E", "messageId": f"m{self.sent}"}
            self.desk.apply([self.log.record(START + self.sent, [event])])
            self.desk.publisher.publish_facts()

    def steps(self, seconds: float) -> None:
        """Let that much time pass, a step at a time."""
        until = self.now + seconds
        while self.now < until:
            self.tending.step()
            self.now += 1.0

    def done(self) -> list[str]:
        """Return the steps on record."""
        if not self.record.exists():
            return []
        return [json.loads(line)["step"] for line in self.record.read_text().splitlines()]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"profilelake_lake_{name}", labels)


def test_small_files_are_gathered_once_their_day_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.publish(3)
    bench.steps(tending.LOOK_SECONDS + 1)
    assert bench.metric("files", table="events") == 3
    assert "compact" not in bench.done()
    bench.desk.now += 2 * 86_400_000_000
    bench.publish(1)
    # The new event was received on the old day as well: `received_at` of the records does not move.
    bench.steps(2 * tending.LOOK_SECONDS + 2)
    assert "compact" in bench.done()
    assert bench.metric("files", table="events") == 1
    assert bench.metric("maintenance_steps_total", step="compact")
    assert bench.metric("compacted_bytes_total")
    assert bench.desk.verify() == []


def test_a_step_is_followed_by_a_rest_that_keeps_to_the_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, maintenance_share=0.1)
    worked: list[float] = []

    def slow(*_arguments: object) -> bool:
        worked.append(bench.now)
        bench.now += 10.0
        return True

    monkeypatch.setattr(Tending, "_sweep", slow)
    bench.steps(tending.SWEEP_SECONDS + 1_000)
    assert len(worked) >= 3
    assert all(later - earlier >= 100.0 for earlier, later in pairwise(worked))


def test_bases_are_merged_when_they_are_old_even_while_the_rest_rests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish(1)
    bench.desk.publish()
    bench.tending._rest_until = float("inf")
    bench.steps(1)
    assert bench.desk.lake.current_table(WORKSPACE, publish.SET_MAP).base.files() != []
    assert bench.metric("maintenance_steps_total", step="merge") == 1
    bench.publish(1)
    bench.desk.publish()
    bench.steps(20)
    assert bench.metric("maintenance_steps_total", step="merge") == 1
    bench.desk.now += 300_000_000
    bench.steps(20)
    assert bench.metric("maintenance_steps_total", step="merge") == 2


def test_a_file_goes_at_the_second_look_and_is_on_record_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    lake = open_lake(tmp_path, clock)
    monkeypatch.setattr(upkeep, "TABLES", (VISITS,))
    record = tmp_path / "record.jsonl"

    def now() -> int:
        return clock.now // 1_000

    tended = Upkeep("w", lake, now, Record(record, now))
    (table,) = tended.tables()
    for i in range(3):
        table.append(visits(i, 1), upto(i + 1))
    table.compact(None)
    clock.advance(86_400)
    assert tended.expire(table, 3600) == 3
    for path in tmp_path.rglob("*"):
        if path.is_file():
            os.utime(path, (clock.now // 10**9 - 7_200,) * 2)
    assert tended.sweep(table, 3600, 300) == []
    clock.advance(299)
    assert tended.sweep(table, 3600, 300) == []
    clock.advance(1)
    dry = tended.sweep(table, 3600, 300, dry_run=True)
    assert len([f for f in dry if f.location.endswith(".parquet")]) == 3
    assert all(Path(f.location).exists() for f in dry)

    there: list[tuple[str, bool]] = []

    def reached(place: str) -> None:
        there.append((place, all(Path(f.location).exists() for f in dry)))

    monkeypatch.setattr(upkeep, "reach", reached)
    assert {f.location for f in tended.sweep(table, 3600, 300)} == {f.location for f in dry}
    assert there == [("sweep.recorded", True), ("sweep.removed", False)]
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["step"] for line in lines] == ["expire", "sweep"]
    assert sorted(lines[1]["removed"]) == sorted(
        os.path.relpath(f.location, lake.storage.place(lake.warehouse)) for f in dry
    )
    assert table.scan().num_rows == 3


def test_a_damaged_table_is_told_of_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.publish(2)
    bench.desk.now += 2 * 86_400_000_000
    path = local_path(bench.desk.lake.table(WORKSPACE, EVENTS).files()[0].location)
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    bench.steps(2 * tending.LOOK_SECONDS)
    assert bench.metric("maintenance_failures_total") == 1
    path.write_bytes(data)
    bench.publish(1)
    bench.steps(2 * tending.LOOK_SECONDS)
    assert bench.metric("files", table="events") in (2, 3)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(Corrupt):
        bench.upkeep.carry_out(Request("compact", ("events",)))


def test_a_failed_step_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(tending, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(tending, "RETRY_SECONDS", 0.001)
    tries: list[int] = []

    def step() -> bool:
        tries.append(1)
        if len(tries) == 3:
            bench.tending.stop.set()
        raise Unavailable("full")

    monkeypatch.setattr(Tending, "step", lambda _self: step())
    bench.tending.run()
    assert len(tries) == 3
    assert bench.metric("maintenance_failures_total") == 3


# ---- what commands ask ------------------------------------------------------------------------------


def ask(bench: Bench, request: Request, alive: bool = True) -> list[dict[str, object]] | Exception:
    """Ask in a thread while the tables are tended here."""
    got: list[list[dict[str, object]] | Exception] = []

    def asking() -> None:
        try:
            got.append(lake_requests.ask(bench.tending.requests, request, 30, lambda: alive))
        except Exception as error:  # noqa: BLE001 - returned
            got.append(error)

    thread = threading.Thread(target=asking)
    thread.start()
    for _ in range(10_000):
        if not thread.is_alive():
            break
        lake_requests.carry_out(bench.tending.requests, bench.tending.carry_out)
        thread.join(0.01)
    thread.join()
    return got[0]


def test_a_command_is_carried_out_by_the_process_that_commits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish(3)
    answer = ask(bench, Request("compact", ("events",), dry_run=True))
    assert isinstance(answer, list)
    assert (answer[0]["table"], answer[0]["files_after"], answer[0]["finished"]) == ("events", 3, False)
    answer = ask(bench, Request("compact", ("events",)))
    assert isinstance(answer, list)
    assert (answer[0]["files_before"], answer[0]["files_after"], answer[0]["rows"]) == (3, 1, 3)
    bench.desk.now += 7_200_000_000
    answer = ask(bench, Request("expire", ("events",), age_seconds=3600.0))
    assert isinstance(answer, list)
    assert answer[0]["table"] == "events"
    assert list(bench.tending.requests.iterdir()) == []
    assert bench.desk.verify() == []


def test_errors_reach_whoever_asked_as_what_they_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    answer = ask(bench, Request("compact", ("nothing",)))
    assert isinstance(answer, NotFound)
    assert "there are " in str(answer)
    bench.tending.upkeeps = []
    answer = ask(bench, Request("expire"), alive=False)
    assert isinstance(answer, Unavailable)


def test_requests_have_limits_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "asked"
    with pytest.raises(Unavailable, match="no answer within"):
        lake_requests.ask(folder, Request("expire"), 0.01, lambda: True)
    with pytest.raises(Unavailable, match="has stopped"):
        lake_requests.ask(folder, Request("expire"), 30, lambda: False)
    assert list(folder.iterdir()) == []
    (folder / "1.ask").write_bytes(b"not ours")
    assert lake_requests.carry_out(folder, lambda _request: []) == 0
    (folder / "2.answer").write_bytes(b"{}")
    lake_requests.forget(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(lake_requests, "REQUESTS_MAX", 0)
    with pytest.raises(Unavailable, match="wait already"):
        lake_requests.ask(folder, Request("expire"), 30, lambda: True)


def test_everything_that_is_published_is_in_the_register() -> None:
    published = {
        publish.EVENTS,
        publish.SET_SIGHTINGS,
        *publish.APPENDED,
        *publish.JOURNALS,
        *publish.EVERY_CURRENT,
    }
    assert {table.name for table in TABLES} == {table.name for table in published}
    assert len({(table.part, table.name) for table in TABLES}) == len(TABLES)


def test_the_record_of_maintenance_is_put_aside_when_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RECORD_BYTES_MAX", 10)
    record = Record(tmp_path / "maintenance.jsonl", lambda: 1)
    for _ in range(3):
        record.write("expire", "t", snapshots=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maintenance.1", "maintenance.jsonl"]
    assert len((tmp_path / "maintenance.jsonl").read_text().splitlines()) == 1


def test_a_conflict_begins_a_compaction_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)

    def beaten(*_arguments: object, **_options: object) -> None:
        raise Conflict("files are gone")

    (table,) = bench.upkeep.tables(["events"])
    monkeypatch.setattr(table, "compact", beaten)
    assert bench.upkeep.compact(table) is None


def test_jobs_that_nobody_goes_on_with_are_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    storage = bench.desk.lake.storage
    with Job(storage, "rebuild", [1]) as job:
        job.step("first", lambda: [b"answer"])
    bench.tending.step()
    assert "forget job" not in bench.done()
    (known,) = known_jobs(storage)
    bench.tending.clock = lambda: (known.touched_at + 7 * 86_400 + 1) * 1_000_000
    bench.steps(3700)
    assert bench.done().count("forget job") == 1
    assert known_jobs(storage) == []


def test_failed_events_are_looked_at_once_an_hour_and_again_soon_where_there_is_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    asked: list[float] = []

    class Forgetful(Forgetting):
        def step(self) -> bool:
            asked.append(bench.now - began)
            if len(asked) == 4:
                raise Unavailable("the disk is full")
            return len(asked) < 3

    began = bench.now
    nothing = bench.tending.metrics
    bench.tending.forgetting = Forgetful([], [], 30.0, lambda _before: False, bench.desk.clock, nothing)
    bench.steps(tending.FORGET_SECONDS + 5)
    soon = 2 * tending.RETRY_SECONDS
    assert asked == [0, tending.RETRY_SECONDS, soon]
    bench.steps(2 * soon)
    assert asked[3:] == [soon + tending.FORGET_SECONDS, soon + tending.FORGET_SECONDS + tending.RETRY_SECONDS]
    assert bench.metric("maintenance_failures_total") == 1
    bench.desk.close()


def test_tables_are_tended_though_failed_events_cannot_be_forgotten(tmp_path: Path) -> None:
    """Not for now, or never: a journal of replays that is damaged fails at every step."""
    bench = Bench(tmp_path)
    damaged = tmp_path / "replays.sqlite"
    damaged.write_bytes(b"no database" * 1_000)
    forget = Replays(damaged).forget
    nameless = {"type": "track", "messageId": "bad"}
    bench.desk.apply([bench.log.record(START, [nameless])])
    bench.publish(3)
    bench.desk.now += 60 * 86_400_000_000
    bench.tending.forgetting = Forgetting(
        [bench.desk.publisher], [bench.upkeep], 30.0, forget, bench.desk.clock, bench.tending.metrics
    )
    for _ in range(20):
        try:
            bench.tending.step()
        except Unavailable:
            bench.now += tending.RETRY_SECONDS  # as `run` does
        bench.now += 4.0
    assert bench.done().count("expire rows") == 1
    assert "compact" in bench.done()
    assert bench.metric("maintenance_failures_total")
    bench.desk.close()
