"""What is left over by one publication is shown by a later one, also where nothing more comes or much is lost."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder, Message, tight_rules
from profilelake.errors import Conflict
from profilelake.identity import resolve
from profilelake.identity.facts import NewRules
from profilelake.lake.reading import attach
from profilelake.manage.status import committed, read_status
from profilelake.pipeline import publish
from profilelake.pipeline.cadence import Cadence
from profilelake.state import recent
from profilelake.state.store import Db

LOG = "00000000000000aa"
AGO = 10 * SECOND


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder(LOG)


def identify(user: str, number: int = 0, **traits: Any) -> Message:
    return {
        "type": "identify",
        "userId": user,
        "messageId": f"m-{user}-{number}",
        "traits": traits or {"n": number},
    }


def look(desk: Desk) -> bool:
    """Do what both loops of the lake process would do now; tell whether derived tables were published."""
    if desk.publisher.facts_waiting():
        desk.publisher.publish_facts()
    return bool(desk.publisher.current_waiting()) and desk.publisher.publish_current(whole=False)


def marks(desk: Desk) -> int:
    with desk.state.read(WORKSPACE) as tx:
        return tx.count(WORKSPACE, Db.DIRTY)


def test_profiles_left_for_later_are_shown_when_nothing_more_comes(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ACTIVITY_EVENTS_MAX", 1)
    desk.apply([log.record(START, [identify("u"), identify("v")])])
    desk.publisher.publish(whole=True)
    desk.now += AGO
    burst = log.record(START + 1, [identify("u", 1), identify("v", 1), identify("w", 1)])
    desk.apply([burst])
    look(desk)
    assert len(desk.lake_tables("profiles")["profiles"]) == 2
    status = read_status(desk.state, desk.directory / "log", desk.directory / "limits", WORKSPACE, desk.now)
    assert not committed(status, {LOG: burst.next_offset}), "whoever waits for events waits for profiles too"
    for _ in range(60):
        desk.now += AGO
        look(desk)
    assert len(desk.lake_tables("profiles")["profiles"]) == 3
    assert marks(desk) == 0
    assert not look(desk), "and then there is rest"
    assert desk.verify() == []


def test_sightings_count_once_however_runs_are_merged(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ACTIVITY_EVENTS_MAX", 0)
    monkeypatch.setattr(recent, "FAN_IN", 2)
    for number, name in enumerate(("a", "b", "a", "b", "c"), start=1):
        desk.now += AGO
        desk.apply([log.record(START + number, [identify("u", number, **{name: 1})])])
        desk.publisher.publish_facts()
        desk.publisher.publish_current(whole=False)
        desk.publisher.tend_runs()
    for _ in range(2):
        desk.now += 400 * SECOND
        desk.publisher.publish(whole=True)
    assert desk.verify() == []


def test_a_journal_ahead_of_the_events_outlives_the_state(desk: Desk, log: LogBuilder) -> None:
    records = [log.record(START, [identify("u", 0)])]
    desk.apply(records)
    desk.publisher.publish(whole=True)
    for number in range(1, 6):
        records.append(log.record(START + number, [identify("u", number)]))
        desk.apply(records[-1:])
    desk.publisher.publish_current(whole=False)
    desk.close()
    shutil.rmtree(desk.directory / "state")
    desk.open()
    desk.rebuild()
    desk.publish()
    desk.apply(records[1:])
    desk.apply([log.record(START + 9, [identify("u", 9)])])
    desk.publish()
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        told = connection.sql("SELECT traits FROM trait_updates ORDER BY seq DESC LIMIT 1").fetchall()
    assert told == [('{"n":9}',)]
    assert desk.verify() == []


def test_an_older_copy_of_the_state_is_refused(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    desk.close()
    shutil.copytree(desk.directory / "state", desk.directory / "older")
    desk.open()
    for number in range(1, 3):
        desk.apply([log.record(START + number, [identify(f"u{number}", number)])])
    desk.publish()
    desk.close()
    shutil.rmtree(desk.directory / "state")
    (desk.directory / "older").rename(desk.directory / "state")
    desk.open()
    with pytest.raises(Conflict, match="older copy; run: profilelake rebuild"):
        desk.check_epoch()


def test_marks_of_a_replay_are_let_go(desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay beside the micro-batches may change what no fact tells of, such as the version of refusals."""
    shared = {"type": "identify", "anonymousId": "a"}
    desk.apply([log.record(START + n, [{**shared, "userId": f"u{n}", "messageId": str(n)}]) for n in (0, 1)])
    desk.publisher.publish(whole=True)
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", 0)
    rules = replace(tight_rules(), version=2)
    desk.apply([log.decision(START + 20 * SECOND, NewRules(by="t", rules=rules))])
    desk.publisher.publish(whole=True)
    for _ in range(50):
        if not desk.batcher.tend_replays(wait_seconds=1):
            break
    assert marks(desk)
    published = 0
    for _ in range(20):
        desk.now += 5 * SECOND
        published += look(desk)
    assert marks(desk) == 0
    assert published < 5


def test_verify_looks_at_the_journal_of_traits(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    journal = desk.lake.table(WORKSPACE, publish.TRAIT_UPDATES)
    empty = journal.definition.schema().empty_table()
    journal.rewrite([file.location for file in journal.files()], empty, same_rows=False)
    (found,) = desk.verify()
    assert found.startswith("trait_updates")


def test_one_that_fails_does_not_hold_back_the_others() -> None:
    cadence, now = Cadence(5.0, 0.5), 0.0
    done = 0
    while now < 600:
        for name in "ab":
            cadence.saw(name, 10, now)
        chosen = cadence.next(now)
        if chosen == "a":
            cadence.failed("a", now)
        elif chosen == "b":
            cadence.published("b", now, now + 0.05)
            done += 1
        now += 1.0
    assert done > 50


def test_damage_to_the_table_of_shapes_stops_nothing_else(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    desk.close()
    desk.open()
    shapes = desk.lake.current_table(WORKSPACE, publish.SCHEMA)
    for table in (shapes.base, shapes.log):
        for file in table.files():
            Path(file.location.removeprefix("file://")).write_bytes(b"no longer Parquet")
    desk.apply([log.record(START + 1, [identify("v")])])
    desk.publisher.publish(whole=True)
    assert len(desk.lake_tables("profiles")["profiles"]) == 2
