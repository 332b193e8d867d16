import asyncio
import errno
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from eventlog_puppet import entry, read_all, wait_until, wall_clock, write_log
from profilelake.errors import Invalid, Unavailable
from profilelake.eventlog import LogEnd
from profilelake.eventlog._watermark import read_mark
from profilelake.eventlog.embedded import Files, Flushed, Limits, LogWriter, Space, ends
from profilelake.semantics.positions import Position

SECOND = 1_000_000


class Clocks:
    """A wall clock and a steady clock that stand until they are moved."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.steady = 50 * SECOND

    def pass_time(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND)
        self.steady += round(seconds * SECOND)

    def writer(self, root: Path) -> LogWriter:
        return LogWriter(root, region="eu", clock=lambda: self.wall, steady=lambda: self.steady)


class Gate(Files):
    """Holds every sync of data back while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def fdatasync(self, descriptor: int) -> None:
        assert self.open.wait(10)
        super().fdatasync(descriptor)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_entries_that_wait_together_share_one_sync_and_one_answer(tmp_path: Path) -> None:
    seen: list[Flushed] = []
    gate = Gate()

    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=gate, on_durable=seen.append)
        gate.open.clear()
        first = writer.append(entry(b"0"))
        await asyncio.sleep(0)
        wait_until(lambda: not writer._groups)
        rest = [writer.append(entry(b"x", events=2)) for _ in range(10)]
        assert len({id(answer) for answer in rest}) == 1
        assert not first.done()
        assert writer.end == LogEnd(0, 0)
        gate.open.set()
        assert (await first).events == 1
        assert (await rest[0]).events == 21
        writer.close()

    run(work)
    assert [(group.records, group.events) for group in seen] == [(1, 1), (10, 20)]


def test_a_request_that_hangs_up_does_not_take_its_group_along(tmp_path: Path) -> None:
    gate = Gate()

    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=gate)
        gate.open.clear()

        async def wait() -> LogEnd:
            return await writer.append(entry(b"x"))

        leaving, staying = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        leaving.cancel()
        gate.open.set()
        assert (await staying).offset > 0
        with pytest.raises(asyncio.CancelledError):
            await leaving
        writer.close()

    run(work)
    assert len(read_all(tmp_path)[0]) == 2


def test_a_full_queue_refuses_at_once_and_takes_entries_again(tmp_path: Path) -> None:
    gate = Gate()

    async def work() -> None:
        limits = Limits(queue_bytes_max=1000, group_bytes_max=400)
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=gate, limits=limits)
        gate.open.clear()
        taken = [writer.append(entry(b"x" * 200)) for _ in range(3)]
        with pytest.raises(Unavailable, match="waiting for the disk") as caught:
            writer.append(entry(b"x" * 200))
        assert caught.value.retry_after_seconds >= 1
        gate.open.set()
        await asyncio.gather(*taken)
        assert writer.queued_bytes == 0
        await writer.append(entry(b"x" * 2000))
        writer.close()

    run(work)
    assert len(read_all(tmp_path)[0]) == 4


def test_an_entry_that_does_not_fit_harms_no_other(tmp_path: Path) -> None:
    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock)
        good = writer.append(entry(b"good"))
        with pytest.raises(Invalid):
            writer.append(entry(b"bad", sent_at="x" * 70_000))
        await good
        writer.close()
        with pytest.raises(Unavailable, match="is closed"):
            writer.append(entry(b"late"))

    run(work)
    assert [record.body for record in read_all(tmp_path)[0]] == [b"good"]


def test_segments_roll_at_their_size_and_offsets_run_on(tmp_path: Path) -> None:
    log_id = write_log(tmp_path, [entry(b"x" * 100)] * 10, limits=Limits(segment_bytes_max=400))
    segments = sorted(path.name for path in (tmp_path / log_id).glob("*.seg"))
    assert len(segments) == 4
    assert segments[0] == f"{0:020}.seg"
    records, vector, damage = read_all(tmp_path)
    assert not damage
    assert all(a.next_offset == b.offset for a, b in pairwise(records))
    assert ends(tmp_path) == vector == {log_id: LogEnd(records[-1].next_offset, 10)}


def test_an_old_segment_rolls_while_the_writer_is_idle_but_an_empty_one_does_not(tmp_path: Path) -> None:
    async def work() -> None:
        limits = Limits(segment_age_max_seconds=0.0)
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, limits=limits)
        directory = tmp_path / writer.log_id
        await writer.append(entry(b"x"))
        wait_until(lambda: len(list(directory.glob("*.seg"))) == 2)
        await asyncio.sleep(0.1)
        assert len(list(directory.glob("*.seg"))) == 2
        writer.close()

    run(work)


def test_an_idle_writer_moves_its_watermark(tmp_path: Path) -> None:
    clocks = Clocks()
    writer = clocks.writer(tmp_path)
    directory = tmp_path / writer.log_id

    def published() -> int:
        mark = read_mark(directory)
        return mark.watermark if mark else 0

    wait_until(lambda: published() == clocks.wall)
    clocks.pass_time(5)
    wait_until(lambda: published() == clocks.wall)
    writer.close()


def test_stamps_rise_while_the_clock_stands_and_when_it_steps_back_a_little(tmp_path: Path) -> None:
    clocks = Clocks()

    async def work() -> None:
        writer = clocks.writer(tmp_path)
        for _ in range(3):
            await asyncio.gather(*(writer.append(entry(b"x")) for _ in range(4)))
            clocks.wall -= 100
        writer.close()

    run(work)
    stamps = [record.received_at for record in read_all(tmp_path)[0]]
    assert len(stamps) == 12
    assert all(a < b for a, b in pairwise(stamps))


def test_a_new_writer_stamps_after_everything_on_disk(tmp_path: Path) -> None:
    clocks = Clocks()

    async def work() -> None:
        for number in range(3):
            writer = clocks.writer(tmp_path)
            await writer.append(entry(b"%d" % number))
            writer.close()
            clocks.wall -= 1000

    run(work)
    records = read_all(tmp_path)[0]
    assert len({record.log_id for record in records}) == 3
    # They come in the order of their stamps.
    assert [record.body for record in records] == [b"0", b"1", b"2"]


def test_a_clock_that_falls_back_stops_the_log_until_it_has_caught_up(tmp_path: Path) -> None:
    clocks = Clocks()

    async def work() -> None:
        writer = clocks.writer(tmp_path)
        before = await writer.append(entry(b"x"))
        clocks.wall -= 5 * SECOND
        wait_until(lambda: writer.trouble is not None)
        assert not writer.healthy
        with pytest.raises(Unavailable, match="behind the newest stamp"):
            writer.append(entry(b"refused"))
        assert writer.end == before
        clocks.pass_time(5)
        wait_until(lambda: writer.healthy)
        await writer.append(entry(b"y"))
        writer.close()

    run(work)
    assert [record.body for record in read_all(tmp_path)[0]] == [b"x", b"y"]


def test_a_clock_that_leaps_ahead_is_believed_only_if_it_was_a_correction(tmp_path: Path) -> None:
    clocks = Clocks()

    async def work() -> None:
        writer = clocks.writer(tmp_path)
        await writer.append(entry(b"x"))
        clocks.wall += 10 * 365 * 86400 * SECOND
        wait_until(lambda: not writer.healthy)
        with pytest.raises(Unavailable, match=r"leapt .* ahead"):
            writer.append(entry(b"refused"))
        clocks.wall -= 10 * 365 * 86400 * SECOND
        wait_until(lambda: writer.healthy)
        clocks.wall += 60 * SECOND
        wait_until(lambda: not writer.healthy)
        await asyncio.sleep(0.1)
        assert not writer.healthy
        clocks.pass_time(11)
        wait_until(lambda: writer.healthy)
        await writer.append(entry(b"y"))
        writer.close()

    run(work)
    stamps = [record.received_at for record in read_all(tmp_path)[0]]
    assert 60 * SECOND < stamps[1] - stamps[0] < 80 * SECOND


class SmallDisk(Files):
    def __init__(self) -> None:
        self.free = 1 << 40

    def space(self, path: Path) -> Space:  # noqa: ARG002 - there is only one disk
        return Space(self.free, 1 << 41)


def test_the_reserve_is_kept_and_the_log_comes_back_by_itself(tmp_path: Path) -> None:
    disk = SmallDisk()

    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=disk)
        await writer.append(entry(b"x"))
        disk.free = 1000
        wait_until(lambda: not writer.healthy)
        with pytest.raises(Unavailable, match="kept in reserve"):
            writer.append(entry(b"refused"))
        disk.free = 1 << 40
        wait_until(lambda: writer.healthy)
        await writer.append(entry(b"y"))
        writer.close()

    run(work)
    assert [record.body for record in read_all(tmp_path)[0]] == [b"x", b"y"]


class NoFiles(Files):
    def create(self, path: Path) -> int:
        raise OSError(errno.EMFILE, "Too many open files", str(path))


def test_a_log_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Too many open files"):
        LogWriter(tmp_path, region="eu", clock=wall_clock, files=NoFiles())
    assert ends(tmp_path) == {}


def test_closing_twice_does_nothing_and_leaves_the_log_sealed(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, region="eu", clock=wall_clock)
    writer.close()
    writer.close()
    mark = read_mark(tmp_path / writer.log_id)
    assert mark
    assert mark.closed


def test_counting_that_fails_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(group: Flushed) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, on_durable=broken)
        await writer.append(entry(b"x"))
        await writer.append(entry(b"y"))
        assert writer.healthy
        writer.close()

    run(work)
    assert len(read_all(tmp_path)[0]) == 2
    assert "counting a group" in caplog.text


def test_a_writer_that_stops_on_a_fault_of_its_own_leaves_nobody_waiting(tmp_path: Path) -> None:
    clocks = Clocks()
    faults: list[Exception] = []

    def wall() -> int:
        if faults:
            raise faults[0]
        return clocks.wall

    async def work() -> None:
        gate = Gate()
        writer = LogWriter(tmp_path, region="eu", clock=wall, steady=lambda: clocks.steady, files=gate)
        gate.open.clear()
        first = writer.append(entry(b"0"))
        wait_until(lambda: not writer._groups)
        # The next group forms while this one is synced, and meets the fault before it is written.
        second = writer.append(entry(b"1"))
        faults.append(ArithmeticError("no time"))
        gate.open.set()
        for answer in (first, second):
            with suppress(Unavailable):
                await asyncio.wait_for(asyncio.shield(answer), 5)
        assert second.exception() is not None
        with pytest.raises(Unavailable, match="restart this process"):
            writer.append(entry(b"2"))
        writer.close()

    run(work)


def test_an_entry_that_asks_learns_its_position(tmp_path: Path) -> None:
    gate = Gate()
    places: list[Position] = []

    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=gate)
        gate.open.clear()
        writer.append(entry(b"0"))
        await asyncio.sleep(0)
        others = [writer.append(entry(b"x" * size)) for size in (3, 5)]
        asking = asyncio.ensure_future(writer.place(entry(b"decision", events=0)))
        await asyncio.sleep(0)
        later = writer.append(entry(b"last"))
        gate.open.set()
        places.append(await asking)
        await asyncio.gather(*others, later)
        writer.close()

    run(work)
    records, end, _ = read_all(tmp_path)
    record = next(record for record in records if record.body == b"decision")
    found = Position(record.received_at, record.region, record.log_id, record.offset, 0)
    assert places == [found]
    assert record.events == 0
    assert [log.events for log in end.values()] == [4]


def test_an_entry_that_asks_for_its_position_hears_of_a_failure(tmp_path: Path) -> None:
    async def work() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock)
        writer.close()
        with pytest.raises(Unavailable, match="is closed"):
            await writer.place(entry(b"decision", events=0))

    run(work)
