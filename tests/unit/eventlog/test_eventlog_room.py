"""The limit of the whole log: refused at it, early pruned before it, and open again after."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from eventlog_puppet import Puppet, entry, make_reader, read_all, wait_until, wall_clock, write_log
from profilelake.errors import Unavailable
from profilelake.eventlog import Vector
from profilelake.eventlog._room import NEAR_BYTES, Room
from profilelake.eventlog.embedded import Files, Flushed, Limits, LogWriter, Space, log_bytes, prune
from profilelake.eventlog.metrics import LogMetrics, LogSize

MIB = 1024 * 1024
ENDS_BYTES = 8192
"""Headers and footers of segments sealed at the limit may pass it by so much."""
DAY = 86400.0


def consume(root: Path) -> Vector:
    """Read everything that is there, as the pipeline does, and say how far that was."""
    reader = make_reader(root)
    vector: Vector = {}
    while True:
        part = reader.read(vector, bytes_max=MIB, events_max=1000, wait_max_seconds=0.25)
        vector = part.ends
        if not part.records:
            reader.close()
            return vector


async def fill(writer: LogWriter, body: bytes) -> int:
    """Append until the log refuses; return how many entries it took."""
    count = 0
    refusal = None
    while refusal is None:
        try:
            await writer.append(entry(body))
            count += 1
        except Unavailable as error:
            refusal = error
    assert "log.bytes_max" in str(refusal)
    assert refusal.retry_after_seconds >= 1
    assert writer.trouble is None, "a full log is no fault"
    return count


def test_a_full_log_refuses_until_what_was_consumed_is_pruned(tmp_path: Path) -> None:
    limits = Limits(log_bytes_max=MIB, reserve_bytes=0)

    async def run() -> list[int]:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, limits=limits)
        taken = [await fill(writer, b"x" * 10_000)]
        assert taken[0] > 90
        assert log_bytes(tmp_path) <= MIB + ENDS_BYTES
        wait_until(lambda: writer.full)
        # Nothing was consumed: nothing may go, however full it is.
        assert prune(tmp_path, {}, keep_seconds=DAY, now=wall_clock(), limits=limits) == []
        vector = consume(tmp_path)
        # Consumed a moment ago and to be kept for a day, but the room is needed.
        assert prune(tmp_path, vector, keep_seconds=DAY, now=wall_clock(), limits=limits)
        wait_until(lambda: not writer.full)
        taken.append(await fill(writer, b"y" * 10_000))
        assert taken[1] > 10
        assert log_bytes(tmp_path) <= MIB + ENDS_BYTES
        writer.close()
        return taken

    taken = asyncio.run(run())
    rest, _, _ = read_all(tmp_path)
    assert sum(record.body[:1] == b"y" for record in rest) == taken[1]


def test_all_logs_count_and_a_new_writer_starts_full(tmp_path: Path) -> None:
    write_log(tmp_path, [entry(b"x" * 100_000)] * 11, limits=Limits(segment_bytes_max=MIB))

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, limits=Limits(log_bytes_max=MIB))
        assert writer.full
        with pytest.raises(Unavailable, match=r"log\.bytes_max"):
            writer.append(entry(b"refused"))
        writer.close()

    asyncio.run(run())
    assert len(read_all(tmp_path)[0]) == 11


def test_what_waits_for_the_disk_takes_room_too(tmp_path: Path) -> None:
    class Shut(Files):
        shut = False

        def fdatasync(self, descriptor: int) -> None:
            wait_until(lambda: not self.shut)
            super().fdatasync(descriptor)

    disk = Shut()
    limits = Limits(log_bytes_max=MIB, group_bytes_max=50_000)

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=disk, limits=limits)
        disk.shut = True
        taken = [writer.append(entry(b"x" * 10_000)) for _ in range(100)]
        with pytest.raises(Unavailable, match=r"log\.bytes_max"):
            writer.append(entry(b"x" * 100_000))
        disk.shut = False
        # What was taken before the limit is stored, not refused.
        await asyncio.gather(*taken)
        writer.close()

    asyncio.run(run())
    assert log_bytes(tmp_path) < 1.1 * MIB


def test_retained_segments_go_oldest_first_and_only_as_many_as_needed(tmp_path: Path) -> None:
    limits = Limits(segment_bytes_max=10_000)
    first, *_ = [write_log(tmp_path, [entry(b"x" * 9_950)] * 8, limits=limits) for _ in range(3)]
    oldest = sorted((tmp_path / first).glob("*.seg"))[:6]
    vector = consume(tmp_path)
    tight = Limits(log_bytes_max=log_bytes(tmp_path), reserve_bytes=0)
    now = wall_clock()
    gone = prune(tmp_path, vector, keep_seconds=DAY, now=now, limits=tight)
    assert len(gone) == 6, "a quarter of 24 segments"
    assert gone == oldest
    assert prune(tmp_path, vector, keep_seconds=DAY, now=now, limits=tight) == []
    # The rest reads without a gap for whoever had consumed what went.
    assert not read_all(tmp_path, vector)[2]


def test_a_log_that_grew_unconsumed_keeps_what_nobody_read(tmp_path: Path) -> None:
    read = write_log(tmp_path, [entry(b"x" * 10_000)] * 4, limits=Limits(segment_bytes_max=10_000))
    vector = consume(tmp_path)
    unread = write_log(tmp_path, [entry(b"x" * 10_000)] * 4, limits=Limits(segment_bytes_max=10_000))
    prune(tmp_path, vector, keep_seconds=DAY, now=wall_clock(), limits=Limits(log_bytes_max=1))
    assert not (tmp_path / read).exists()
    assert [record.log_id for record in read_all(tmp_path)[0]] == [unread] * 4


class Disk(Files):
    def __init__(self, free: int) -> None:
        self.free = free

    def space(self, path: Path) -> Space:  # noqa: ARG002 - there is only one disk
        return Space(self.free, 1 << 40)


def test_a_disk_near_its_reserve_lets_go_of_what_is_only_retained(tmp_path: Path) -> None:
    write_log(tmp_path, [entry(b"x" * 10_000)] * 9, limits=Limits(segment_bytes_max=10_000))
    vector = consume(tmp_path)
    limits = Limits(reserve_bytes=1_000_000)

    def pruned(free: int) -> int:
        gone = prune(tmp_path, vector, keep_seconds=DAY, now=wall_clock(), limits=limits, files=Disk(free))
        return len(gone)

    assert pruned(2_000_000) == 0
    assert pruned(1_975_000) == 3
    assert pruned(0) == 6


def test_an_idle_writer_makes_its_segment_prunable_when_the_log_is_full(tmp_path: Path) -> None:
    limits = Limits(log_bytes_max=MIB)

    async def run() -> None:
        idle = LogWriter(tmp_path, region="eu", clock=wall_clock, limits=limits)
        await idle.append(entry(b"one"))
        busy = LogWriter(tmp_path, region="eu", clock=wall_clock, limits=limits)
        await fill(busy, b"x" * 10_000)
        segments = tmp_path / idle.log_id
        wait_until(lambda: len(list(segments.glob("*.seg"))) == 2)
        idle.close()
        busy.close()

    asyncio.run(run())


def test_a_look_without_descriptors_only_shrinks_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path, [entry(b"x" * 1000)])
    room = Room(tmp_path, Files(), bytes_max=MIB, reserve_bytes=0)
    left = room.look()
    assert left is not None
    assert left < MIB

    def exhausted(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("profilelake.eventlog._room.log_bytes", exhausted)
    assert room.look() is None
    assert room.trouble is None


def test_looks_are_rare_far_from_the_limits_and_frequent_near_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("profilelake.eventlog._room.time.monotonic", lambda: now[0])
    room = Room(tmp_path, Disk(1 << 39), bytes_max=4 * NEAR_BYTES, reserve_bytes=0)
    assert room.due()
    room.look()
    now[0] += 0.5
    assert not room.due()
    room.grant(NEAR_BYTES - 1)
    assert room.due()
    room.look()
    assert not room.due()
    room.left -= 65 * MIB
    assert room.due()
    room.look()
    room.grant(4 * NEAR_BYTES)
    now[0] += 1.0
    assert room.due()


def test_a_log_pruned_while_it_is_measured_counts_nothing(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path, "ab" * 8)
    puppet.add(1, b"x" * 100)
    size = log_bytes(tmp_path)
    assert size == puppet.path.stat().st_size
    (tmp_path / ("cd" * 8)).symlink_to(tmp_path / "gone")
    assert log_bytes(tmp_path) == size
    assert log_bytes(tmp_path / "nothing") == 0
    puppet.die()


def test_groups_are_counted(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = LogMetrics(registry)
    metrics.flushed(Flushed(records=3, events=5, bytes=700, sync_seconds=0.003))
    assert registry.get_sample_value("profilelake_log_written_bytes_total") == 700
    assert registry.get_sample_value("profilelake_log_sync_seconds_bucket", {"le": "0.002"}) == 0
    assert registry.get_sample_value("profilelake_log_sync_seconds_bucket", {"le": "0.005"}) == 1


def test_the_size_of_the_log_is_shown_with_its_limit(tmp_path: Path) -> None:
    write_log(tmp_path, [entry(b"x" * 1000)])
    registry = CollectorRegistry()
    registry.register(LogSize(tmp_path, 1 << 30))
    assert registry.get_sample_value("profilelake_log_bytes") == log_bytes(tmp_path) > 1000
    assert registry.get_sample_value("profilelake_log_bytes_max") == 1 << 30
