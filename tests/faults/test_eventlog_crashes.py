"""The event log under kills, torn writes, a disk that errs and a disk that fills."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from eventlog_checks import CHILD, acknowledged, check_survived, cut_the_power, sweep

from eventlog_puppet import entry, make_reader, read_all, wait_until, wall_clock
from profilelake.errors import Unavailable
from profilelake.eventlog._recovery import recover, take_lock
from profilelake.eventlog._watermark import read_mark
from profilelake.eventlog.embedded import Files, Limits, LogWriter


@pytest.mark.parametrize(("mode", "first"), [("before", 2), ("after", 5), ("torn", 1)])
def test_a_writer_killed_at_a_file_operation_loses_nothing(tmp_path: Path, mode: str, first: int) -> None:
    homes = sweep(tmp_path, first, 13, 0, mode)
    assert len(homes) > 3
    assert any(acknowledged(home) for home in homes)
    for home in homes:
        check_survived(home)


def test_a_power_cut_takes_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    for number, home in enumerate(sweep(tmp_path, 4, 11, 0, "after")):
        cut_the_power(home, (0.0, 0.4, 0.9)[number % 3])
        check_survived(home)


def test_writers_killed_from_outside_under_load_lose_nothing(tmp_path: Path) -> None:
    for seconds in (0.05, 0.12):
        home = tmp_path / f"load-{seconds}"
        home.mkdir()
        child = subprocess.Popen([sys.executable, str(CHILD), "load", str(home)])
        try:
            wait_until(lambda home=home: len(acknowledged(home)) > 100)  # type: ignore[misc]
            time.sleep(seconds)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert len(check_survived(home)) >= len(acknowledged(home)) > 100


class FailingFiles(Files):
    """Fails the given operations with the given error, while it is told to."""

    def __init__(self, error: int, *operations: str) -> None:
        self.error = error
        self.operations = operations
        self.failing = 0

    def _maybe_fail(self, operation: str) -> None:
        if self.failing and operation in self.operations:
            self.failing -= 1
            raise OSError(self.error, os.strerror(self.error))

    def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
        if self.failing and "write" in self.operations:
            # As a full disk does it: first a short write, then none at all.
            data = b"".join(buffers)
            if len(data) > 10:
                return os.write(descriptor, data[: len(data) // 2])
        self._maybe_fail("write")
        return super().write(descriptor, buffers)

    def fdatasync(self, descriptor: int) -> None:
        super().fdatasync(descriptor)
        self._maybe_fail("fdatasync")

    def truncate(self, path: Path, size: int) -> None:
        self._maybe_fail("truncate")
        super().truncate(path, size)

    def create(self, path: Path) -> int:
        self._maybe_fail("create")
        return super().create(path)

    def fsync_dir(self, path: Path) -> None:
        self._maybe_fail("fsync_dir")
        super().fsync_dir(path)


ALWAYS = 1 << 40


def test_a_sync_that_fails_once_refuses_its_group_and_the_next_goes_to_a_new_segment(tmp_path: Path) -> None:
    files = FailingFiles(errno.EIO, "fdatasync")

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files)
        await writer.append(entry(b"stored"))
        files.failing = 1
        refused = [writer.append(entry(b"refused")) for _ in range(3)]
        for answer in await asyncio.gather(*refused, return_exceptions=True):
            assert isinstance(answer, Unavailable)
            assert "Input/output error" in str(answer)
        await writer.append(entry(b"stored again"))
        assert writer.healthy
        writer.close()
        assert len(list((tmp_path / writer.log_id).glob("*.seg"))) == 2

    asyncio.run(run())
    records, _, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"stored", b"stored again"]
    assert not damage


def test_refused_bytes_that_could_not_be_cut_are_never_read(tmp_path: Path) -> None:
    files = FailingFiles(errno.EIO, "fdatasync", "truncate")

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files)
        await writer.append(entry(b"stored"))
        files.failing = 2
        with pytest.raises(Unavailable):
            await writer.append(entry(b"refused" * 50))
        await writer.append(entry(b"stored again"))
        writer.close()

    asyncio.run(run())
    assert any(b"refused" in path.read_bytes() for path in tmp_path.rglob("*.seg"))
    records, _, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"stored", b"stored again"]
    assert not damage


def test_time_does_not_pass_over_refused_bytes_that_may_come_back(tmp_path: Path) -> None:
    files = FailingFiles(errno.EIO, "fdatasync", "truncate", "create")

    def watermark(directory: Path) -> int:
        mark = read_mark(directory)
        return mark.watermark if mark else 0

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files)
        directory = tmp_path / writer.log_id
        files.failing = ALWAYS
        with pytest.raises(Unavailable):
            await writer.append(entry(b"refused, but whole on disk"))
        before = watermark(directory)
        await asyncio.sleep(0.15)
        assert watermark(directory) == before
        writer.close()

    asyncio.run(run())
    # Killed now, nobody could tell it from a record whose answer was lost, so it is kept, and in order.
    part = make_reader(tmp_path).read({}, bytes_max=1000, events_max=10)
    assert [record.body for record in part.records] == [b"refused, but whole on disk"]


def test_a_failed_first_group_of_a_segment_leaves_no_trace(tmp_path: Path) -> None:
    files = FailingFiles(errno.EIO, "fdatasync", "truncate")

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files)
        files.failing = 2
        with pytest.raises(Unavailable):
            await writer.append(entry(b"refused"))
        await writer.append(entry(b"stored"))
        writer.close()

    asyncio.run(run())
    assert [record.body for record in read_all(tmp_path)[0]] == [b"stored"]
    assert len(list(tmp_path.rglob("*.seg"))) == 1


@pytest.mark.parametrize("operation", ["fdatasync", "write"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_keeps_failing_is_never_an_ack_and_the_log_recovers(
    tmp_path: Path, operation: str, error: int
) -> None:
    files = FailingFiles(error, operation)

    async def run() -> None:
        writer = LogWriter(
            tmp_path, region="eu", clock=wall_clock, files=files, limits=Limits(group_bytes_max=200)
        )
        await writer.append(entry(b"before"))
        files.failing = ALWAYS
        answers = await asyncio.gather(
            *(writer.append(entry(b"refused" * 9)) for _ in range(9)), return_exceptions=True
        )
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert not writer.healthy
        with pytest.raises(Unavailable):
            writer.append(entry(b"refused"))
        assert writer.queued_bytes == 0
        files.failing = 0
        wait_until(lambda: writer.healthy)
        await writer.append(entry(b"after"))
        writer.close()

    asyncio.run(run())
    assert [record.body for record in read_all(tmp_path)[0]] == [b"before", b"after"]


def test_a_short_write_is_completed(tmp_path: Path) -> None:
    class Dribbling(Files):
        def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
            return os.write(descriptor, b"".join(buffers)[:50])

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=Dribbling())
        await asyncio.gather(*(writer.append(entry(b"%d" % n * 90)) for n in range(9)))
        writer.close()

    asyncio.run(run())
    records, _, damage = read_all(tmp_path)
    assert [record.body for record in records] == [b"%d" % n * 90 for n in range(9)]
    assert not damage


def test_a_roll_that_fails_costs_no_acknowledged_record(tmp_path: Path) -> None:
    files = FailingFiles(errno.EMFILE, "create", "fsync_dir")

    async def run() -> None:
        limits = Limits(segment_bytes_max=100)
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files, limits=limits)
        await writer.append(entry(b"before" * 20))
        files.failing = ALWAYS
        with pytest.raises(Unavailable, match="cannot open a new event log segment"):
            await writer.append(entry(b"refused"))
        files.failing = 0
        wait_until(lambda: writer.healthy)
        await writer.append(entry(b"after"))
        writer.close()

    asyncio.run(run())
    assert [record.body for record in read_all(tmp_path)[0]] == [b"before" * 20, b"after"]


def test_closing_on_a_broken_disk_leaves_the_log_to_recovery(tmp_path: Path) -> None:
    files = FailingFiles(errno.EIO, "fdatasync")

    async def run() -> None:
        writer = LogWriter(tmp_path, region="eu", clock=wall_clock, files=files)
        await writer.append(entry(b"stored"))
        files.failing = ALWAYS
        writer.close()

    asyncio.run(run())
    assert [record.body for record in read_all(tmp_path)[0]] == [b"stored"]


def test_recovery_may_fail_and_be_interrupted_at_every_operation(tmp_path: Path) -> None:
    class Interrupted(Files):
        def __init__(self, fail_at: int) -> None:
            self.left = fail_at

        def _count(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EIO, "Input/output error")

        def truncate(self, path: Path, size: int) -> None:
            self._count()
            super().truncate(path, size)

        def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
            if self.left == 1:
                os.write(descriptor, bytes(buffers[0])[:20])
            self._count()
            return super().write(descriptor, buffers)

        def fdatasync(self, descriptor: int) -> None:
            self._count()
            super().fdatasync(descriptor)

        def fsync_dir(self, path: Path) -> None:
            self._count()
            super().fsync_dir(path)

    home = sweep(tmp_path, 40, 1, 40, "torn")[0]
    directory = next(path for path in (home / "log").glob("[0-9a-f]*") if path.is_dir())
    for fail_at in range(1, 100):
        lock = take_lock(directory)
        assert lock is not None
        try:
            mark, _ = recover(directory, wall_clock(), Interrupted(fail_at))
            break
        except OSError:
            continue
        finally:
            os.close(lock)
    assert fail_at > 3
    assert mark.closed
    check_survived(home)
