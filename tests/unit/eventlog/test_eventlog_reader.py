"""How several logs become one sequence: mostly with writers led by hand, on a clock led by hand."""

import errno
import os
from pathlib import Path

import pytest

from eventlog_puppet import Puppet, entry, make_reader, position, read_all, wall_clock, write_log
from profilelake.errors import Corrupt
from profilelake.eventlog import LogEnd, Slice, Vector
from profilelake.eventlog._format import FOOTER_BYTES, HEADER_BYTES, crc32
from profilelake.eventlog._watermark import Mark, Watermark, read_mark
from profilelake.eventlog.embedded import Files, Limits, LogReader, ends, prune
from profilelake.semantics.positions import region_code

A, B, C = "a" * 16, "b" * 16, "c" * 16


class Readings:
    """A reader whose time passes only when told to."""

    def __init__(self, root: Path) -> None:
        self.seconds = 100.0
        self.wall = 5_000
        self.reader = LogReader(
            root,
            clock=lambda: self.wall,
            steady_seconds=lambda: self.seconds,
            sleep=self.sleep,
        )
        self.vector: Vector = {}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def next(self, *, events_max: int = 1 << 30, bytes_max: int = 1 << 20, wait: float = 0.0) -> Slice:
        part = self.reader.read(
            self.vector, bytes_max=bytes_max, events_max=events_max, wait_max_seconds=wait
        )
        self.vector = part.ends
        return part

    def bodies(self, **limits: int) -> list[bytes]:
        return [record.body for record in self.next(**limits).records]  # type: ignore[arg-type]


def test_records_of_several_logs_come_in_position_order(tmp_path: Path) -> None:
    a, b, readings = Puppet(tmp_path, A), Puppet(tmp_path, B), Readings(tmp_path)
    for at in (10, 30, 50):
        a.add(at, b"a%d" % at)
    for at in (20, 30, 60):
        b.add(at, b"b%d" % at)
    a.publish(60)
    b.publish(60)
    part = readings.next()
    assert [record.body for record in part.records] == [b"a10", b"b20", b"a30", b"b30", b"a50", b"b60"]
    assert part.watermark == 60
    assert part.ends == {A: a.end, B: b.end}
    assert (part.behind, part.damage) == ((), ())


def test_at_equal_times_regions_go_by_their_code(tmp_path: Path) -> None:
    puppets = [Puppet(tmp_path, A, "eu"), Puppet(tmp_path, B, "us"), Puppet(tmp_path, C, "apac")]
    for puppet in puppets:
        puppet.add(10, puppet.identity.region.encode())
        puppet.publish(10)
    records = Readings(tmp_path).next().records
    assert records == sorted(records, key=lambda record: region_code(record.region))


def test_nothing_is_given_before_every_living_writer_has_passed_it(tmp_path: Path) -> None:
    a, b, readings = Puppet(tmp_path, A), Puppet(tmp_path, B), Readings(tmp_path)
    a.add(10, b"a10")
    a.add(30, b"a30")
    a.publish(40)
    b.publish(20)
    part = readings.next()
    assert [record.body for record in part.records] == [b"a10"]
    assert part.watermark == 20
    b.add(25, b"b25")
    b.publish(35)
    assert readings.bodies() == [b"b25", b"a30"]


def test_unpublished_bytes_are_not_read(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.publish(5)
    a.add(10, b"a10")
    assert readings.bodies() == []
    a.publish(10)
    assert readings.bodies() == [b"a10"]


def test_a_writer_that_stands_still_holds_nobody_back_and_what_it_brings_is_late(tmp_path: Path) -> None:
    a, b, readings = Puppet(tmp_path, A), Puppet(tmp_path, B), Readings(tmp_path)
    b.publish(20)
    assert readings.bodies() == []
    for step in range(4):
        readings.seconds += 0.06
        a.add(30 + step, b"a%d" % step)
        a.publish(30 + step)
        part = readings.next()
    assert [record.body for record in part.records] == [b"a0", b"a1", b"a2", b"a3"]
    assert part.behind == (B,)
    assert part.watermark == 33
    b.add(25, b"late")
    b.publish(26)
    part = readings.next()
    assert [record.body for record in part.records] == [b"late"]
    assert part.watermark == 33
    assert part.behind == (B,)


def test_while_all_writers_stand_still_time_stands_still(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.add(10, b"a10")
    a.publish(20)
    assert readings.next().watermark == 20
    readings.seconds += 5
    readings.wall += 5_000_000
    assert readings.next().watermark == 20


def test_without_any_writer_time_goes_on_by_the_clock(tmp_path: Path) -> None:
    readings = Readings(tmp_path)
    assert readings.next().watermark == readings.wall - 1
    readings.wall += 7
    assert readings.next().watermark == readings.wall - 1


def test_a_log_that_appears_later_is_taken_along(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.publish(10)
    assert readings.bodies() == []
    b = Puppet(tmp_path, B)
    b.add(12, b"b12")
    b.publish(12)
    a.publish(15)
    assert readings.bodies() == [b"b12"]


@pytest.mark.parametrize("limit", [{"events_max": 3}, {"bytes_max": 250}])
def test_limits_cut_a_prefix_and_lose_nothing(tmp_path: Path, limit: dict[str, int]) -> None:
    puppets = [Puppet(tmp_path, log_id) for log_id in (A, B, C)]
    for at in range(1, 40):
        puppets[at * 7 % 3].add(at // 2 + 1, b"%d" % at, events=at % 3)
    for puppet in puppets:
        puppet.publish(100)
    whole = Readings(tmp_path).next().records
    readings = Readings(tmp_path)
    records = []
    while True:
        part = readings.next(**limit)
        if not part.records:
            break
        records += part.records
        left = [record for record in whole if position(record) > position(records[-1])]
        assert part.watermark == (left[0].received_at - 1 if left else 100)
        events = sum(record.events for record in part.records)
        size = sum(record.next_offset - record.offset for record in part.records)
        assert len(part.records) == 1 or (
            events <= limit.get("events_max", events) and size <= limit.get("bytes_max", size)
        )
    assert records == whole


def test_one_record_is_given_even_if_it_is_beyond_the_limits(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.add(1, b"x" * 3_000_000, events=500)
    a.publish(2)
    assert len(readings.next(bytes_max=10, events_max=10).records) == 1


def test_an_empty_read_waits_only_as_long_as_it_is_told(tmp_path: Path) -> None:
    readings = Readings(tmp_path)
    assert not readings.next(wait=0.2).records
    assert readings.seconds == pytest.approx(100.2)


def test_reading_goes_on_from_any_vector_in_a_new_reader(tmp_path: Path) -> None:
    write_log(tmp_path, [entry(b"%d" % n) for n in range(30)], limits=Limits(segment_bytes_max=300))
    records = read_all(tmp_path)[0]
    for count in range(len(records)):
        last = records[count]
        vector = {last.log_id: LogEnd(last.next_offset, count + 1)}
        assert read_all(tmp_path, vector)[0] == records[count + 1 :]


def test_the_log_of_a_dead_writer_is_cut_sealed_and_given_whole(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    a.add(10, b"answered")
    a.publish(10)
    a.add(20, b"whole but unpublished")
    end = a.end
    a.add(30, b"torn")
    with a.path.open("r+b") as file:
        file.truncate(a.path.stat().st_size - 1)
    a.die()
    records, vector, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"answered", b"whole but unpublished"]
    assert vector == {A: end} == ends(tmp_path)
    assert [(d.offset, d.next_offset, d.events) for d in damage] == [(end.offset, end.offset, 0)]
    assert "unfinished write" in damage[0].detail
    assert a.path.stat().st_size == HEADER_BYTES + end.offset + FOOTER_BYTES
    assert read_all(tmp_path) == (records, vector, [])


def test_published_bytes_that_are_gone_are_damage_with_their_events(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    a.add(10, b"kept", events=2)
    kept = a.end
    a.add(20, b"gone", events=5)
    a.publish(20)
    with a.path.open("r+b") as file:
        file.truncate(HEADER_BYTES + kept.offset + 7)
    a.die()
    records, vector, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"kept"]
    assert vector == {A: a.end}
    assert [(d.path, d.offset, d.next_offset, d.events) for d in damage] == [
        (str(a.path), kept.offset, a.end.offset, 5)
    ]


@pytest.mark.parametrize("spoil", ["zeros", "missing", "old"])
def test_answered_records_survive_the_loss_of_the_watermark_file(tmp_path: Path, spoil: str) -> None:
    a = Puppet(tmp_path, A)
    for at in range(10):
        a.add(at, b"%d" % at)
        if at == 3:
            a.publish(3)
        if at == 6:
            a.roll()
    a.die()
    path = a.directory / "watermark"
    if spoil == "zeros":
        path.write_bytes(bytes(4096))
    if spoil == "missing":
        path.unlink()
    records, vector, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"%d" % at for at in range(10)]
    assert vector == {A: a.end} == ends(tmp_path)
    assert not damage


def test_where_segments_overlap_the_newer_one_is_right(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    a.add(10, b"good")
    good = a.end
    a.add(20, b"refused, and the cut did not reach the disk")
    a.end = good
    a.roll()
    a.add(30, b"after")
    a.publish(30)
    a.finish()
    records, _, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"good", b"after"]
    assert not damage


def test_a_reader_that_holds_an_old_list_lists_again_before_it_believes_the_end(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.add(10, b"good")
    a.publish(10)
    assert readings.bodies() == [b"good"]
    good = a.end
    a.add(20, b"refused" * 30)
    a.end = good
    a.roll()
    a.add(30, b"after" * 20)
    a.publish(30)
    assert readings.bodies() == [b"after" * 20]


def test_damage_in_the_middle_costs_that_record_and_names_it(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    places = []
    for at in range(1, 6):
        places.append(a.end)
        a.add(at, b"body %d" % at, events=at)
    a.publish(6)
    a.finish()
    data = bytearray(a.path.read_bytes())
    data[HEADER_BYTES + places[2].offset + 4] ^= 0xFF
    a.path.write_bytes(data)
    records, vector, damage = read_all(tmp_path)
    assert [record.events for record in records] == [1, 2, 4, 5]
    assert vector == {A: a.end}
    assert [(d.path, d.offset, d.next_offset, d.events) for d in damage] == [
        (str(a.path), places[2].offset, places[3].offset, 3)
    ]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_segment_is_damage_and_the_rest_is_read(tmp_path: Path, gone: int) -> None:
    a = Puppet(tmp_path, A)
    bounds, paths = [a.end], []
    for at in range(3):
        paths.append(a.path)
        a.add(at * 2 + 1, b"%d" % (at * 2), events=3)
        a.add(at * 2 + 2, b"%d" % (at * 2 + 1), events=4)
        bounds.append(a.end)
        a.publish(at * 2 + 2)
        if at < 2:
            a.seal(closed=False)
            a.roll()
    a.finish()
    paths[gone].unlink()
    records, vector, damage = read_all(tmp_path)
    assert [int(record.body) for record in records] == [n for n in range(6) if n // 2 != gone]
    assert vector == {A: a.end}
    assert [(d.offset, d.next_offset, d.events, d.detail) for d in damage] == [
        (bounds[gone].offset, bounds[gone + 1].offset, 7, "segment file is missing")
    ]


def test_a_segment_of_zero_length_is_damage_and_the_rest_is_read(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    first = a.path
    a.add(1, b"1", events=3)
    lost = a.end
    a.seal(closed=False)
    a.roll()
    a.add(2, b"2")
    a.publish(2)
    a.finish()
    first.write_bytes(b"")
    records, vector, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"2"]
    assert vector == {A: a.end}
    assert {d.path for d in damage} == {str(first)}
    assert sum(d.events for d in damage) == 3
    assert max(d.next_offset for d in damage) == lost.offset


def test_a_segment_of_a_newer_version_stops_reading_by_name(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    data = bytearray(a.path.read_bytes())
    data[8] = 9
    data[HEADER_BYTES - 4 : HEADER_BYTES] = crc32(bytes(data[: HEADER_BYTES - 4])).to_bytes(4, "little")
    a.path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"0\.seg has format version 9"):
        read_all(tmp_path)


def test_a_log_of_which_nothing_tells_whose_it_is_is_corrupt_by_name(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    a.path.write_bytes(b"")
    (a.directory / "watermark").write_bytes(bytes(4096))
    with pytest.raises(Corrupt, match=A):
        read_all(tmp_path)


def test_only_what_is_consumed_sealed_and_old_is_pruned(tmp_path: Path) -> None:
    limits = Limits(segment_bytes_max=300)
    log_id = write_log(tmp_path, [entry(b"x" * 100) for _ in range(10)], limits=limits)
    records, vector, _ = read_all(tmp_path)
    later = wall_clock() + 3600 * 1_000_000
    assert prune(tmp_path, {}, keep_seconds=0, now=later) == []
    assert prune(tmp_path, vector, keep_seconds=7200, now=later) == []
    half = {log_id: LogEnd(records[5].offset, 5)}
    gone = prune(tmp_path, half, keep_seconds=60, now=later)
    assert gone
    assert all(path.parent.name == log_id for path in gone)
    assert read_all(tmp_path, half) == (records[5:], vector, [])
    assert prune(tmp_path, vector, keep_seconds=60, now=later)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert ends(tmp_path) == {}
    assert read_all(tmp_path, vector) == ([], vector, [])


def test_the_open_segment_of_a_living_log_is_never_pruned(tmp_path: Path) -> None:
    a, readings = Puppet(tmp_path, A), Readings(tmp_path)
    a.add(10, b"x")
    a.publish(10)
    readings.next()
    assert prune(tmp_path, readings.vector, keep_seconds=0, now=wall_clock() * 2) == []
    assert a.path.exists()


def test_what_was_pruned_without_being_consumed_is_reported(tmp_path: Path) -> None:
    limits = Limits(segment_bytes_max=300)
    log_id = write_log(tmp_path, [entry(b"x" * 100) for _ in range(10)], limits=limits)
    records, vector, _ = read_all(tmp_path)
    half = {log_id: LogEnd(records[6].offset, 6)}
    prune(tmp_path, half, keep_seconds=0, now=wall_clock() + 1_000_000)
    left, vector_again, damage = read_all(tmp_path, {})
    assert left == records[10 - len(left) :]
    assert vector_again == vector
    assert [d.events for d in damage] == [10 - len(left)]


def test_leftovers_of_a_start_that_failed_are_swept(tmp_path: Path) -> None:
    hidden = tmp_path / f".{A}.tmp"
    hidden.mkdir()
    (hidden / "watermark").write_bytes(b"")
    prune(tmp_path, {}, keep_seconds=0, now=wall_clock())
    assert hidden.exists()
    prune(tmp_path, {}, keep_seconds=0, now=wall_clock() + 120 * 1_000_000)
    assert not hidden.exists()


def test_a_torn_mark_is_never_seen(tmp_path: Path) -> None:
    a = Puppet(tmp_path, A)
    marks = Watermark.open(a.directory, Files())
    for sequence in range(1, 20):
        marks.publish(Mark(LogEnd(sequence, sequence), sequence, 1, closed=False))
        data = bytearray((a.directory / "watermark").read_bytes())
        newest = 1024 if data[1024:1032] > data[2048:2056] else 2048
        data[newest + 9] ^= 0xFF
        torn = tmp_path / "torn"
        torn.mkdir(exist_ok=True)
        (torn / "watermark").write_bytes(data)
        mark = read_mark(torn)
        assert mark is not None
        assert mark.end == LogEnd(mark.watermark, mark.watermark)
    marks.close()


def test_a_reader_notices_a_writer_that_ends_and_one_that_is_killed(tmp_path: Path) -> None:
    a, b, readings = Puppet(tmp_path, A), Puppet(tmp_path, B), Readings(tmp_path)
    a.publish(10)
    b.publish(10)
    readings.next()
    a.add(20, b"a20")
    a.publish(20)
    a.finish()
    assert readings.bodies() == []
    b.add(15, b"b15")
    b.die()
    readings.seconds += 0.15
    assert readings.bodies() == [b"b15", b"a20"]
    assert readings.next().behind == ()


def test_make_reader_reads_what_a_real_writer_wrote(tmp_path: Path) -> None:
    write_log(tmp_path, [entry(b"x", events=3)])
    reader = make_reader(tmp_path)
    part = reader.read({}, bytes_max=1000, events_max=1000)
    assert [(record.events, record.region) for record in part.records] == [(3, "eu")]
    reader.close()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_passing_read_error_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    write_log(tmp_path, [entry(b"whole")])
    monkeypatch.setattr("profilelake.eventlog._segments.READ_AGAIN_SECONDS", 0.0)
    fail_pread(monkeypatch, errno.EIO, failures)
    records, _, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"whole"]
    assert not damage


def test_an_error_that_says_nothing_of_the_bytes_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path, [entry(b"whole")])
    fail_pread(monkeypatch, errno.ESTALE, 1)
    with pytest.raises(OSError, match="Stale file handle"):
        read_all(tmp_path)
    assert [record.body for record in read_all(tmp_path)[0]] == [b"whole"]


def fail_pread(monkeypatch: pytest.MonkeyPatch, error: int, count: int) -> None:
    """Have the next reads of segments fail."""
    pread, left = os.pread, [count]

    def failing(descriptor: int, size: int, place: int) -> bytes:
        if left[0] and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".seg":
            left[0] -= 1
            raise OSError(error, os.strerror(error))
        return pread(descriptor, size, place)

    monkeypatch.setattr("profilelake.eventlog._segments.os.pread", failing)
