"""What watchers see of micro-batches: all of it, once, or how many events they missed."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.errors import Invalid, Unavailable
from profilelake.eventlog import Damage, Kind, Record
from profilelake.ops.clock import wall
from profilelake.pipeline import batch, outcomes
from profilelake.pipeline.outcomes import PENDING, SHOWN, Recording
from profilelake.pipeline.tail import Filter, Place, Reader, Watch, documents
from profilelake.profiles.fold import fold_traits

LOG = "00000000000000aa"
GOOD = {"type": "track", "event": "A", "userId": "u", "anonymousId": "a"}


class Watched(Desk):
    """A desk whose pipeline can be watched, and one watcher."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "tail" / WORKSPACE
        super().__init__(directory)
        self.log = LogBuilder(LOG)
        self.at = START

    def open(self) -> None:
        self.setup = replace(self.setup, tail_directory=self.folder)
        super().open()

    def send(self, *messages: Message, **facts: Any) -> Record:
        self.at += 1
        return self.log.record(self.at, messages, **facts)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.*"))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.close()


@pytest.fixture
def watch(desk: Watched) -> Iterator[Watch]:
    with Watch(desk.folder) as made:
        desk.batcher.look()
        yield made


def rest(reader: Reader, rows_max: int = 1000) -> list[dict[str, Any]]:
    """Return everything that is there, counts among the rows."""
    found: list[dict[str, Any]] = []
    while (seen := reader.next(rows_max)) is not None:
        found += [{"missed": seen.missed}] if seen.missed else []
        found += documents(seen.rows)
        found += [{"suppressed": seen.suppressed}] if seen.suppressed else []
    return found


def ids(found: list[dict[str, Any]]) -> list[Any]:
    return [row.get("message_id") or row for row in found]


def test_every_event_is_told_with_what_became_of_it(desk: Watched, watch: Watch) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)))
    first = desk.send(GOOD | {"messageId": "1"}, GOOD | {"messageId": "1"}, {"type": "track", "userId": "x"})
    conflict = desk.send(GOOD | {"messageId": "1", "event": "B"})
    single = desk.send(GOOD, body=b'{"userId":"y"}', kind=Kind.TRACK)
    gap = Damage(f"/x/{LOG}/{0:020}.seg", 900, 950, 2, "checksum differs")
    desk.apply([first, conflict, single], [gap])
    found = rest(reader)
    told = [(row["status"], row.get("reason"), row.get("type"), row.get("event")) for row in found]
    assert sorted(told, key=repr) == sorted(
        [
            ("accepted", None, "track", "A"),
            ("duplicate", None, "track", "A"),
            ("failed", "missing_event_name", "track", None),
            ("failed", "message_id_conflict", "track", "B"),
            ("failed", "missing_event_name", "track", None),
            ("failed", "log_damaged", None, None),
            ("failed", "log_damaged", None, None),
        ],
        key=repr,
    )
    assert [row["position"] for row in found] == sorted(row["position"] for row in found)
    assert {
        (row.get("user_id"), row.get("anonymous_id")) for row in found if row["status"] == "accepted"
    } == {("u", "a")}
    assert sum(desk.applied().totals.values()) == reader.place.count == 7


def test_without_a_watcher_nothing_is_written(desk: Watched) -> None:
    desk.batcher.look()
    desk.apply([desk.send(GOOD)])
    assert desk.files() == []
    assert not desk.folder.exists()


def test_what_came_before_the_promise_is_not_shown(desk: Watched) -> None:
    desk.apply([desk.send(GOOD | {"messageId": "0"})])
    with Watch(desk.folder) as watch:
        assert watch.promised() is None
        with pytest.raises(Unavailable, match="the pipeline did not answer"):
            watch.wait(0)
        # Applied before the pipeline has looked: not promised, not shown.
        desk.apply([desk.send(GOOD | {"messageId": "1"})])
        desk.batcher.look()
        assert watch.wait(0) == 2
        desk.apply([desk.send(GOOD | {"messageId": "2"})])
        assert ids(rest(Reader(desk.folder, Place(watch.wait(0))))) == ["2"]


def test_the_last_watcher_takes_all_with_it(desk: Watched) -> None:
    one, other = Watch(desk.folder), Watch(desk.folder)
    desk.batcher.look()
    desk.apply([desk.send(GOOD)])
    one.close()
    desk.batcher.look()
    assert len(desk.files()) == 1
    other.close()
    desk.batcher.look()
    assert desk.files() == []
    desk.apply([desk.send(GOOD)])
    assert desk.files() == []


def test_a_killed_watcher_holds_nothing(desk: Watched) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from profilelake.pipeline.tail import Watch;"
        "watch = Watch(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(desk.folder)], check=False)
    leases = list((desk.folder / "leases").iterdir())
    assert len(leases) == 1
    desk.batcher.look()
    desk.apply([desk.send(GOOD)])
    assert (desk.files(), list((desk.folder / "leases").iterdir())) == ([], [])


def test_only_the_owner_may_read(desk: Watched, watch: Watch) -> None:
    desk.apply([desk.send(GOOD)])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in desk.folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE(desk.folder.stat().st_mode) == 0o700


def test_a_slow_reader_is_told_exactly_how_many_it_missed(
    desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)), steady_seconds=iter(range(10**6)).__next__)
    desk.apply([desk.send(*(GOOD | {"messageId": f"1{n}"} for n in range(3)))])
    assert len(rest(reader)) == 3
    for number in range(2, 7):
        desk.apply([desk.send(*(GOOD | {"messageId": f"{number}{n}"} for n in range(3)))])
    size = max((desk.folder / name).stat().st_size for name in desk.files())
    monkeypatch.setattr(outcomes, "OUTCOME_BYTES_MAX", 2 * size)
    desk.batcher.look()
    assert len(desk.files()) == 2
    assert ids(rest(reader)) == [{"missed": 9}, "50", "51", "52", "60", "61", "62"]
    # A page that was begun counts with what is left of it.
    again = Reader(desk.folder, Place(9, 2), steady_seconds=iter(range(10**6)).__next__)
    assert ids(rest(again))[0] == {"missed": 1}


def test_what_is_old_goes(desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.apply([desk.send(GOOD)])
    monkeypatch.setattr(outcomes, "OUTCOME_AGE_SECONDS_MAX", -1.0)
    desk.batcher.look()
    assert desk.files() == []


def test_pages_break_a_batch_anywhere(desk: Watched, watch: Watch) -> None:
    start = Place(watch.wait(0))
    desk.apply([desk.send(*(GOOD | {"messageId": str(n)} for n in range(7)))])
    for rows_max in (1, 2, 3, 7, 8):
        reader = Reader(desk.folder, start)
        assert ids(rest(reader, rows_max)) == [str(n) for n in range(7)]
        assert reader.place == Place(7)


def test_a_batch_tried_again_in_parts_is_shown_once(
    desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)))

    def folding(work: Any, events: Any) -> Any:
        if "2" in events.column("message_id").to_pylist():
            raise ZeroDivisionError("a bug")
        return fold_traits(work, events)

    monkeypatch.setattr(batch, "fold_traits", folding)
    desk.apply([desk.send(GOOD | {"messageId": str(number)}) for number in range(5)])
    found = rest(reader)
    assert [(row["status"], row.get("reason")) for row in found] == [
        ("accepted", None),
        ("accepted", None),
        ("failed", "processing_error"),
        ("accepted", None),
        ("accepted", None),
    ]
    assert not [name for name in desk.files() if name.endswith(PENDING)]


def test_a_transaction_that_fails_late_leaves_nothing_behind(
    desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)))
    record = desk.send(GOOD | {"messageId": "1"})

    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Recording, "show", full)
        patched.setattr(batch, "_count", full)
        with pytest.raises(OSError, match="no space"):
            desk.apply([record])
    desk.apply([record])
    assert ids(rest(reader)) == ["1"]
    assert [Path(name).suffix for name in desk.files()] == [SHOWN]


@pytest.mark.parametrize("committed", [True, False])
def test_a_pipeline_that_was_killed_is_taken_over_from(desk: Watched, watch: Watch, committed: bool) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)))
    desk.apply([desk.send(GOOD | {"messageId": "1"})])
    shown = desk.folder / desk.files()[0]
    pending = shown.with_suffix(PENDING)
    if committed:
        shown.rename(pending)
    else:
        # The transaction of the next batch did not commit; one after that was not even written whole.
        with suppress(ZeroDivisionError), desk.state.write() as tx:
            landed = desk.batcher._landings[WORKSPACE].land(tx, [desk.send(GOOD | {"messageId": "lost"})], 2)
            desk.batcher._recordings[WORKSPACE].write(landed, landed.failed, 1, 2)
            raise ZeroDivisionError
        (desk.folder / f"{2:020d}{PENDING}").write_bytes(shown.read_bytes()[:100])
        assert len(desk.files()) == 3
    desk.restart()
    assert ids(rest(reader)) == ["1"]
    desk.apply([desk.send(GOOD | {"messageId": "2"})])
    assert ids(rest(reader)) == ["2"]
    assert [Path(name).suffix for name in desk.files()] == [SHOWN, SHOWN]


def test_a_full_disk_is_a_gap_and_not_a_stop(
    desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(desk.folder, Place(watch.wait(0)), steady_seconds=iter(range(10**6)).__next__)
    opening = os.open

    def full(path: Any, flags: int, *mode: Any, **named: Any) -> int:
        if str(path).endswith(PENDING):
            raise OSError(28, "no space left")
        return opening(path, flags, *mode, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        desk.apply([desk.send(GOOD | {"messageId": "1"}, GOOD | {"messageId": "2"})])
    desk.apply([desk.send(GOOD | {"messageId": "3"})])
    assert ids(rest(reader)) == [{"missed": 2}, "3"]


def test_filters_compare_values(desk: Watched, watch: Watch) -> None:
    desk.apply([desk.send(GOOD | {"messageId": "1", "event": "x' OR 1=1 --"}, GOOD | {"messageId": "2"})])
    seen = Reader(desk.folder, Place(0)).next(10)
    assert seen is not None
    for chosen, expected in (
        ({"event": ["x' OR 1=1 --"]}, ["1"]),
        ({"event": ["A", "x' OR 1=1 --"], "message_id": ["2"]}, ["2"]),
        ({"status": ["failed"]}, []),
        ({"user_id": ["u"], "source_id": ["shop"]}, ["1", "2"]),
        ({}, ["1", "2"]),
    ):
        assert ids(documents(Filter.of(**chosen).rows(seen.rows))) == expected
    for wrong in ({"status": ["lost"]}, {"type": ["event"]}):
        with pytest.raises(Invalid, match="it is one of"):
            Filter.of(**wrong)


def test_cursors_are_read_back() -> None:
    assert Place.decode(Place(12, 3).encode()) == Place(12, 3)
    for wrong in ("", "1", "1.", ".1", "a.1", "1.1.1", "-1.0", "9" * 19 + ".0", "²²²²²²²²²².0"):
        with pytest.raises(Invalid, match="not one of ours"):
            Place.decode(wrong)


def test_suppressed_events_are_only_counted(desk: Watched, tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    with Watch(folder):
        recording = Recording(folder, 0, wall)
        recording.look(lambda: 0)
        from_desk = desk.batcher._landings[WORKSPACE]
        with desk.state.write() as tx:
            landed = from_desk.land(tx, [desk.send(GOOD | {"messageId": "1"})], 1)
        recording.write(landed, landed.failed, 0, 4)
        recording.show()
        assert ids(rest(Reader(folder, Place(0)))) == ["1", {"suppressed": 3}]


def test_a_fault_in_recording_is_a_gap_and_makes_no_dead_letters(
    desk: Watched, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> None:
        raise KeyError("user_id")

    with monkeypatch.context() as patched:
        patched.setattr(outcomes, "outcomes", faulty)
        desk.apply([desk.send(GOOD | {"messageId": "1"})])
    desk.apply([desk.send(GOOD | {"messageId": "2"})])
    totals = desk.applied().totals
    assert (totals["in_lake"], totals["failed"]) == (2, 0)
    reader = Reader(desk.folder, Place(watch.wait()), steady_seconds=iter(range(100)).__next__)
    assert [each.get("missed", each.get("message_id")) for each in rest(reader)] == [1, "2"]
