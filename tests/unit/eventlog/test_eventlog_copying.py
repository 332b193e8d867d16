"""Copies of logs that are written, rolled and pruned meanwhile: whole up to what was durable, never torn."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog_puppet import Puppet, entry, read_all, wall_clock, write_log
from profilelake.errors import Unavailable
from profilelake.eventlog import LogEnd, Vector
from profilelake.eventlog.copying import copies, pin
from profilelake.eventlog.embedded import Limits, ends, log_trouble, prune

A, B = "a" * 16, "b" * 16


def copied(place: Path, target: Path, consumed: Vector | None = None) -> Path:
    for copy in copies(place, consumed or {}):
        path = target / copy.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(copy.path.read_bytes()[: copy.bytes])
    return target


def bodies(root: Path, start: Vector | None = None) -> list[bytes]:
    records, _, damage = read_all(root, start)
    assert damage == []
    return [record.body for record in records]


def test_what_was_published_is_in_the_copy_and_nothing_half_written(tmp_path: Path) -> None:
    writer = Puppet(tmp_path / "log", A)
    writer.add(10, b"one")
    writer.publish(10)
    with writer.path.open("ab") as file:
        file.write(b"half a rec")
    pin(tmp_path / "log", tmp_path / "pinned")
    writer.path.write_bytes(writer.path.read_bytes()[: -len(b"half a rec")])
    writer.add(20, b"two")
    writer.publish(20)
    assert bodies(copied(tmp_path / "pinned", tmp_path / "copy")) == [b"one"]


def test_a_second_pin_takes_what_came_meanwhile(tmp_path: Path) -> None:
    writer = Puppet(tmp_path / "log", A)
    writer.add(10, b"one")
    writer.publish(10)
    pin(tmp_path / "log", tmp_path / "pinned")
    writer.add(20, b"two")
    writer.seal(closed=False)
    writer.roll()
    writer.add(30, b"three")
    writer.publish(30)
    other = Puppet(tmp_path / "log", B)
    other.add(15, b"other")
    other.publish(15)
    pin(tmp_path / "log", tmp_path / "pinned")
    assert bodies(copied(tmp_path / "pinned", tmp_path / "copy")) == [b"one", b"other", b"two", b"three"]


def test_what_is_pruned_after_the_pin_stays(tmp_path: Path) -> None:
    root = tmp_path / "log"
    write_log(root, [entry(b"x%d" % n) for n in range(5)])
    pin(root, tmp_path / "pinned")
    prune(root, ends(root), keep_seconds=0, now=wall_clock() + 10**9)
    assert ends(root) == {}
    pin(root, tmp_path / "pinned")
    assert bodies(copied(tmp_path / "pinned", tmp_path / "copy")) == [b"x%d" % n for n in range(5)]


def test_segments_that_are_consumed_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "log"
    log_id = write_log(root, [entry(b"x" * 90) for _ in range(6)], limits=Limits(segment_bytes_max=200))
    records, _, _ = read_all(root)
    pin(root, tmp_path / "pinned")
    middle = records[3]
    place = {log_id: LogEnd(middle.offset, middle.events_before)}
    copy = copied(tmp_path / "pinned", tmp_path / "copy", place)
    assert len(list(copy.rglob("*.seg"))) < len(list(root.rglob("*.seg")))
    assert len(bodies(copy, place)) == 3
    assert copies(tmp_path / "pinned", ends(root)) == []


def test_a_gap_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "log"
    log_id = write_log(root, [entry(b"x" * 90) for _ in range(6)], limits=Limits(segment_bytes_max=200))
    pin(root, tmp_path / "pinned")
    segments = sorted((tmp_path / "pinned" / log_id).glob("*.seg"))
    segments[1].unlink()
    with pytest.raises(Unavailable, match="gone or cut short"):
        copies(tmp_path / "pinned", {})
    segments[0].unlink()
    with pytest.raises(Unavailable, match="gone or cut short"):
        copies(tmp_path / "pinned", {})


def test_a_segment_made_again_under_its_name_is_pinned_again(tmp_path: Path) -> None:
    writer = Puppet(tmp_path / "log", A)
    pin(tmp_path / "log", tmp_path / "pinned")
    writer.path.unlink()
    writer.roll()
    writer.add(10, b"new")
    writer.publish(10)
    pin(tmp_path / "log", tmp_path / "pinned")
    assert bodies(copied(tmp_path / "pinned", tmp_path / "copy")) == [b"new"]


@given(st.lists(st.sampled_from(["add", "publish", "roll", "pin", "die"]), max_size=25))
def test_a_copy_holds_what_was_published_before_the_last_pin(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("copying")
    writer = Puppet(folder / "log", A)
    published, at_pin, added, alive = 0, None, 0, True
    for number, step in enumerate(steps, start=1):
        if step == "pin":
            pin(folder / "log", folder / "pinned")
            at_pin = published
        elif not alive:
            continue
        elif step == "add":
            writer.add(number, b"%d" % added)
            added += 1
        elif step == "publish":
            writer.publish(number)
            published = added
        elif step == "roll" and writer.end.offset > writer.base:
            writer.seal(closed=False)
            writer.roll()
        elif step == "die":
            writer.die()
            alive = False
    if at_pin is not None:
        found = bodies(copied(folder / "pinned", folder / "copy"))
        assert found == [b"%d" % n for n in range(at_pin)]
    if alive:
        writer.die()
    shutil.rmtree(folder)


def test_trouble_in_files_is_named(tmp_path: Path) -> None:
    root = tmp_path / "log"
    log_id = write_log(root, [entry(b"x" * 90) for _ in range(6)], limits=Limits(segment_bytes_max=200))
    assert log_trouble(root) == []
    segments = sorted((root / log_id).glob("*.seg"))
    segments[1].write_bytes(segments[1].read_bytes()[:100])
    segments[2].write_bytes(b"\0" + segments[2].read_bytes()[1:])
    told = " ".join(log_trouble(root))
    assert f"{segments[1]}: ends at" in told
    assert f"{segments[2]}: its header is damaged" in told
    segments[-1].unlink()
    assert "ends before" in " ".join(log_trouble(root))
