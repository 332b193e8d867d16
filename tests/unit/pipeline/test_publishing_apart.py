"""Facts are published without waiting for what follows from them, and nothing is forgotten between the two."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.identity.tables import IDENTIFIERS, SET_MAP
from profilelake.manage.status import committed, read_status
from profilelake.pipeline import publish, recent_runs
from profilelake.pipeline.progress import PUBLISHED, Published
from profilelake.state.store import Db

LOG = "00000000000000aa"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log() -> LogBuilder:
    return LogBuilder(LOG)


def identify(user: str) -> Message:
    return {"type": "identify", "userId": user, "messageId": f"m-{user}", "traits": {"n": 1}}


def rows(desk: Desk, *names: str) -> dict[str, int]:
    return {name: len(found) for name, found in desk.lake_tables(*names).items()}


def test_facts_go_first_and_say_so(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u"), identify("v")])])
    assert desk.publisher.facts_waiting() == 2
    facts = desk.publisher.publish_facts()
    assert facts is not None
    assert (facts.events, facts.oldest_at) == (2, START)
    assert rows(desk, "events", "trait_writes", "identifiers", "set_map", "profiles") == {
        "events": 2,
        "trait_writes": 2,
        "identifiers": 2,
        "set_map": 0,
        "profiles": 0,
    }
    assert (desk.published().facts_sequence, desk.published().sequence) == (1, 0)
    assert (desk.publisher.facts_waiting(), desk.publisher.current_waiting()) == (0, 2)
    assert desk.publisher.publish_facts() is None
    assert desk.publisher.publish_current(whole=True)
    assert rows(desk, "set_map", "profiles") == {"set_map": 2, "profiles": 2}
    assert desk.published().sequence == 1
    assert desk.verify() == []


def test_status_counts_events_in_the_lake_and_waits_for_all_tables(desk: Desk, log: LogBuilder) -> None:
    record = log.record(START, [identify("u")])
    desk.apply([record])
    desk.publisher.publish_facts()
    target = {LOG: record.next_offset}

    def status() -> dict[str, object]:
        return read_status(desk.state, desk.directory / "log", desk.directory / "limits", WORKSPACE, desk.now)

    found = status()
    assert (found["in_lake"], found["in_flight"], found["balanced"]) == (1, 0, True)
    assert not committed(found, target)
    desk.publisher.publish_current(whole=True)
    assert committed(status(), target)


def test_marks_of_identifiers_are_kept_until_facts_have_passed_them(desk: Desk, log: LogBuilder) -> None:
    """Derived tables may be ahead: their thread may not forget what the other has not published."""
    desk.apply([log.record(START, [identify("u")])])
    desk.publisher.publish_facts()
    desk.apply([log.record(START + 1, [identify("v")])])
    assert desk.publisher.publish_current(whole=True)
    assert (desk.published().facts_sequence, desk.published().sequence) == (1, 1)
    assert rows(desk, "identifiers", "set_map", "profiles") == {"identifiers": 1, "set_map": 2, "profiles": 2}
    desk.publisher.publish_facts()
    assert rows(desk, "identifiers", "events") == {"identifiers": 2, "events": 2}
    assert desk.publisher.publish_current(whole=False)
    assert desk.published().sequence >= 2
    with desk.state.read(WORKSPACE) as tx:
        assert tx.count(WORKSPACE, Db.OUTBOX) == 0
    assert desk.verify() == []
    with desk.state.read(WORKSPACE) as tx:
        assert tx.count(WORKSPACE, Db.DIRTY) == 0


def test_a_publication_of_profiles_that_fails_holds_back_no_event(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        raise OSError("no room for profiles")

    monkeypatch.setattr(publish, "profile_changes", fails)
    for number in range(3):
        desk.apply([log.record(START + number, [identify(f"u{number}")])])
        desk.publisher.publish_facts()
        with pytest.raises(OSError, match="no room"):
            desk.publisher.publish_current(whole=True)
    assert rows(desk, "events", "set_map", "profiles") == {"events": 3, "set_map": 3, "profiles": 0}
    monkeypatch.undo()
    assert desk.verify() == []


def test_facts_that_piled_up_are_published_in_parts(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_runs, "PART_ROWS", 2)
    for number in range(5):
        desk.apply([log.record(START + number, [identify(f"u{number}")])])
    desk.publish()
    events = desk.lake.table(WORKSPACE, publish.EVENTS)
    assert (len(events.files()), len(events.snapshots())) == (3, 1)
    assert desk.verify() == []


def test_what_an_older_program_published_is_not_published_again(desk: Desk, log: LogBuilder) -> None:
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    before = desk.published()
    with desk.state.write() as tx:
        older = Published(
            before.sequence, before.vector, before.totals, before.activity_through, at=before.at
        )
        tx.put_meta(WORKSPACE, PUBLISHED, older)
    assert desk.published().facts_vector == before.vector
    assert desk.publisher.publish_facts() is None
    assert desk.verify() == []


def test_merging_does_not_keep_facts_waiting(
    desk: Desk, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of identifiers are committed while the base they belong to is being made anew."""
    desk.apply([log.record(START, [identify("u")])])
    desk.publish()
    desk.apply([log.record(START + 1, [identify("v")])])
    table = desk.lake.current_table(WORKSPACE, IDENTIFIERS)
    merged = table._merged

    def meanwhile(*arguments: object) -> object:
        change = merged(*arguments)  # type: ignore[arg-type]
        assert desk.publisher.publish_facts() is not None
        return change

    monkeypatch.setattr(table, "_merged", meanwhile)
    assert table.merge()
    monkeypatch.undo()
    assert (table.base.scan().num_rows, table.scan().num_rows) == (1, 2)
    assert table.merge()
    assert table.base.scan().num_rows == 2
    assert not desk.lake.current_table(WORKSPACE, SET_MAP).merge() or desk.verify() == []
