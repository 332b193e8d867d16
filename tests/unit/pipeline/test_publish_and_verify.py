"""Publication, and holding its result against the facts: what is noticed, refused, and shown when."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.errors import Conflict, Unavailable
from profilelake.identity.tables import IDENTITY_MAP, SET_MAP
from profilelake.lake.progress import Progress
from profilelake.landing.tables import EVENTS
from profilelake.ops import failpoints
from profilelake.pipeline import publish
from profilelake.pipeline.publish import Publisher
from profilelake.profiles.tables import PROFILES
from profilelake.state.records import NOBODY, decode_activity, decode_ident, decode_profile, encode
from profilelake.state.store import Db, Tx

LOG = "00000000000000aa"
COUNT = PROFILES.schema().get_field_index("event_count")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder(LOG)


def identify(user: str, number: int = 0) -> Message:
    return {
        "type": "identify",
        "userId": user,
        "anonymousId": f"a{number}",
        "messageId": f"m-{user}-{number}",
        "traits": {"n": number},
    }


def counts(desk: Desk) -> list[int]:
    return sorted(row[COUNT] for row in desk.lake_tables("profiles")["profiles"])


def test_an_empty_lake_is_what_no_facts_say(desk: Desk) -> None:
    assert desk.verify() == []
    assert desk.publish() is False
    desk.rebuild()
    assert desk.verify() == []


def test_counts_left_out_of_a_busy_publication_are_shown_when_asked_for(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ACTIVITY_EVENTS_MAX", 1)
    desk.apply([log.record(START, [identify("u"), identify("v")])])
    desk.publish()
    # `w` is new, so the table has this sequence already when the others are to be shown.
    desk.apply([log.record(START + 1, [identify("u", 1), identify("v", 1), identify("w")])])
    desk.publish(whole=False)
    desk.publish()
    assert counts(desk) == [1, 2, 2]
    assert desk.publish() is False
    assert desk.verify() == []


def test_a_state_that_was_lost_is_not_published_anew(desk: Desk, log: LogBuilder) -> None:
    record = log.record(START, [identify("u")])
    desk.apply([record])
    desk.publish()
    desk.check_epoch()
    desk.close()
    shutil.rmtree(desk.directory / "state")
    desk.open()
    with pytest.raises(Conflict, match="profilelake rebuild"):
        desk.check_epoch()
    desk.apply([record])
    with pytest.raises(Conflict, match="profilelake rebuild"):
        desk.check_epoch()
    desk.rebuild()
    desk.check_epoch()
    assert desk.verify() == []
    assert len(desk.lake_tables("events")["events"]) == 1


def test_after_a_rebuild_that_was_cut_short_the_old_state_is_refused(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    empty = SET_MAP.schema().empty_table()
    desk.lake.current_table(WORKSPACE, SET_MAP).replace(empty, Progress("9" * 20, 9))
    with pytest.raises(Conflict, match="rebuild was cut short"):
        desk.check_epoch()


def test_a_rebuild_takes_in_what_only_the_state_knew(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    desk.apply([log.record(START + 1, [identify("u", 1)]), log.record(START + 2, [identify("v")])])
    before = desk.state_tables()
    desk.rebuild()
    assert desk.state_tables() == before
    assert desk.verify() == []


def test_a_clock_that_was_set_back_hinders_no_rebuild(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.rebuild()
    desk.now = START - 3600 * SECOND
    desk.rebuild()
    desk.apply([log.record(START + 1, [identify("v")])])
    assert desk.verify() == []


class Killed(Exception):
    pass


def test_a_rebuild_refuses_facts_of_which_a_part_is_missing(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publication was cut short after the events, and the state is gone with the rest."""
    desk.apply([log.record(START, [identify("u")])])

    def killed(place: str) -> None:
        if place == "publish.events":
            raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(publish, "reach", killed)
        with pytest.raises(Killed):
            desk.publish()
    desk.close()
    (desk.directory / "state").rename(desk.directory / "lost")
    desk.open()
    with pytest.raises(Conflict, match="1 identifier sets"):
        desk.rebuild()
    desk.close()
    shutil.rmtree(desk.directory / "state")
    (desk.directory / "lost").rename(desk.directory / "state")
    desk.open()
    desk.rebuild()
    assert desk.verify() == []
    assert counts(desk) == [1]


def test_runs_of_earlier_rebuilds_are_swept(desk: Desk, log: LogBuilder) -> None:
    for number in range(3):
        desk.apply([log.record(START + number, [identify("u", number)])])
        desk.rebuild()
    with desk.state.read(WORKSPACE) as tx:
        listed = {run.name for run in publish.recent.load(tx, WORKSPACE)}
        publish.recent.sweep(desk.setup.recent_directory, publish.recent.load(tx, WORKSPACE))
    assert {path.name for path in desk.setup.recent_directory.iterdir()} == listed


def _orphan(tx: Tx) -> None:
    key, value = next(tx.items(WORKSPACE, Db.IDENT))
    record = decode_ident(value)
    record.profile = NOBODY
    tx.put(WORKSPACE, Db.IDENT, key, encode(record))


def _miscount(tx: Tx) -> None:
    key, value = next(tx.items(WORKSPACE, Db.ACTIVITY))
    record = decode_activity(value)
    record.count += 1
    tx.put(WORKSPACE, Db.ACTIVITY, key, encode(record))


def _forget_set(tx: Tx) -> None:
    key, value = next(tx.items(WORKSPACE, Db.PROFILE))
    record = decode_profile(value)
    record.sets.clear()
    tx.put(WORKSPACE, Db.PROFILE, key, encode(record))


def _lose_profile(tx: Tx) -> None:
    key, _ = next(tx.items(WORKSPACE, Db.PROFILE))
    tx.delete(WORKSPACE, Db.PROFILE, key)


def _lose_set_traits(tx: Tx) -> None:
    key, _ = next(tx.items(WORKSPACE, Db.TRAITS))
    tx.delete(WORKSPACE, Db.TRAITS, key)


def _invent_refusal(tx: Tx) -> None:
    key, _ = next(tx.items(WORKSPACE, Db.SET))
    tx.put(WORKSPACE, Db.REFUSALS, key, encode([]))


@pytest.mark.parametrize(
    ("tamper", "what"),
    [
        (_orphan, "state of identifiers"),
        (_miscount, "state of activity"),
        (_forget_set, "state of profiles"),
        (_lose_profile, "state of profiles"),
        (_lose_set_traits, "state of traits"),
        (_invent_refusal, "state of refusals"),
    ],
)
def test_verify_notices_a_state_that_is_wrong_and_rebuild_mends_it(
    desk: Desk, log: LogBuilder, tamper: Callable[[Tx], None], what: str
) -> None:
    desk.apply([log.record(START, [identify("u"), identify("v", 1)])])
    assert desk.verify() == []
    with desk.state.write() as tx:
        tamper(tx)
    found = desk.verify()
    assert [line.split(":")[0] for line in found] == [what]
    desk.rebuild()
    assert desk.verify() == []


def test_verify_notices_events_that_are_doubled(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    table = desk.lake.table(WORKSPACE, EVENTS)
    progress = table.progress()
    assert progress is not None
    table.append(
        table.scan(), Progress(progress.epoch, progress.sequence + 1, progress.vector, progress.totals)
    )
    assert any("conservation: events in the lake: 2, should be 1" in line for line in desk.verify())


def test_verify_notices_a_current_table_that_is_wrong(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    table = desk.lake.current_table(WORKSPACE, IDENTITY_MAP)
    progress = table.progress()
    assert progress is not None
    row = table.scan().slice(0, 1)
    gone = row.add_column(0, "seq", pa.array([progress.sequence + 1], pa.int64()))
    gone = gone.add_column(1, "op", pa.array(["delete"]))
    after = Progress(progress.epoch, progress.sequence + 1, progress.vector, progress.totals)
    table.append_changes(gone.cast(table.log.definition.schema()), after)
    assert [line.split(";")[0] for line in desk.verify()] == ["table identity_map: 1 rows differ"]


def test_a_failpoint_is_not_handed_to_a_process_that_is_started_again() -> None:
    environment = {"HOME": "/x", failpoints.VARIABLE: "log.read:2"}
    assert failpoints.disarmed(environment) == {"HOME": "/x"}


def test_counts_settled_after_a_publication_was_cut_short_are_shown(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    monkeypatch.setattr(publish, "ACTIVITY_EVENTS_MAX", 0)
    desk.apply([log.record(START + 1, [identify("u", 1), identify("v", 2)])])
    desk.now += 60 * SECOND
    with monkeypatch.context() as cut:
        cut.setattr(Publisher, "_let_go", _full_disk)
        with pytest.raises(Unavailable):
            desk.publish(whole=False)
    desk.restart()
    desk.now += 400 * SECOND
    desk.publish(whole=False)
    assert desk.verify() == []


def _full_disk(*_: object) -> None:
    raise Unavailable("letting go: the disk is full")
