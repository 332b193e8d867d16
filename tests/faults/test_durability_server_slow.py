"""A real server that is overtaken, doubled, told a wrong time, killed, stopped under load, or loses power."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from eventlog_senders import Senders, check_exactly_once, refused, resident_bytes, track
from eventlog_tools import ForgetfulDisk, SkewedClock, build_shim

from command_line import run_process
from eventlog_puppet import read_all, wait_until
from profilelake.eventlog.embedded import log_bytes
from profilelake.settings import Layout
from served import KEYS, STOP_SECONDS_MAX, Served, children_of, serving, stopped, wait_until_dead

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1 << 20
QUICK = {**KEYS, "PROFILELAKE_PIPELINE_LAKE_AGE_SECONDS": "0.3"}
ONE_PROCESS = {**QUICK, "PROFILELAKE_HTTP_PROCESSES": "1"}
YEAR_SECONDS = 365.25 * 86400
START_SECONDS_MAX = 60
LOG_BYTES_MAX = 64 * MIB
"""The least that can be set."""


def test_a_log_that_nobody_reads_grows_to_its_limit_and_goes_on_by_itself(tmp_path: Path) -> None:
    environment = {**QUICK, "PROFILELAKE_LOG_BYTES_MAX": str(LOG_BYTES_MAX)}
    with serving(tmp_path / "data", environment) as served:
        log = Layout(served.directory).log
        collecting = [pid for pid, what in served.children.items() if what == "http"]
        before = [resident_bytes(pid) for pid in collecting]
        with Senders(served, "full", threads=4, events=40, text="x" * 20_000) as senders:
            with stopped(served.child("pipeline")):
                senders.wait_for(429, 20)
                assert senders.statuses.keys() == {200, 429}
                assert served.get("/readyz").status == 200, "it is not the log's fault"
                # What each process wrote since it last looked comes on top.
                assert 0.9 * LOG_BYTES_MAX < log_bytes(log) < 1.2 * LOG_BYTES_MAX
                size = log_bytes(log)
                senders.wait_for(429, 50)
                assert log_bytes(log) <= size + MIB, "it has stopped growing"
                for pid, then in zip(collecting, before, strict=True):
                    assert resident_bytes(pid) - then < 64 * MIB
            taken = senders.statuses[200]
            senders.wait_for(200, 20)
        assert senders.statuses[200] > taken
        assert senders.statuses.keys() == {200, 429}
        assert "" not in senders.retry_after
        assert not senders.broken
        check_exactly_once(served, senders)


def test_two_servers_on_one_directory(tmp_path: Path) -> None:
    with serving(tmp_path / "data", ONE_PROCESS) as served:
        with Senders(served, "owner") as senders:
            senders.wait_for(200, 3)
            for _ in range(2):
                ran = run_process("serve", "--dir", tmp_path / "data", "--port", "0", environment=ONE_PROCESS)
                assert ran.code == 4
                assert f"in use by process {served.process.pid}" in ran.err
            senders.wait_for(200, 3)
        assert senders.statuses.keys() == {200}
        assert not senders.broken
        check_exactly_once(served, senders)


@contextmanager
def doomed(directory: Path) -> Iterator[Served]:
    """Serve a directory with a server that will be dead at the end of the block, and its children too."""
    with suppress(FileNotFoundError), serving(directory, QUICK) as served:
        yield served
        assert served.process.wait(STOP_SECONDS_MAX) is not None
        assert not wait_until_dead(list(served.children))


def test_a_killed_server_leaves_no_lock_and_no_child_and_all_it_acknowledged(tmp_path: Path) -> None:
    with doomed(tmp_path / "data") as served, Senders(served, "killed") as senders:
        senders.wait_for(200, 20)
        os.kill(served.process.pid, signal.SIGKILL)
    with serving(tmp_path / "data", QUICK) as served:
        check_exactly_once(served, senders)


def test_a_collecting_process_killed_under_load_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "data", QUICK) as served:
        with Senders(served, "child") as senders:
            for _ in range(3):
                senders.wait_for(200, 20)
                os.kill(served.child("http"), signal.SIGKILL)
                wait_until(lambda: answered(served) == 200, START_SECONDS_MAX)
                served.children = children_of(served.process.pid)
            senders.wait_for(200, 20)
        assert senders.statuses.keys() == {200}
        check_exactly_once(served, senders)


def test_sigterm_under_load_ends_cleanly_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    with (
        doomed(tmp_path / "data") as served,
        Senders(served, "term", threads=8, events=20) as senders,
    ):
        senders.wait_for(200, 50)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(STOP_SECONDS_MAX) == 0
    # Each connection was either answered in full or closed before it was asked anything.
    assert senders.statuses.keys() <= {200, 503}
    assert b"Traceback" not in (tmp_path / "data.log").read_bytes()
    with serving(tmp_path / "data", QUICK) as served:
        check_exactly_once(served, senders)


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumps_stops_the_log_and_never_the_order(tmp_path: Path, years: int) -> None:
    clock = SkewedClock(tmp_path, build_shim(tmp_path))
    data = tmp_path / "data"
    with serving(data, {**ONE_PROCESS, **clock.environment}) as served:
        assert served.post("/v1/track", track("clock-0")).status == 200
        clock.move(years * YEAR_SECONDS)
        wait_until(lambda: served.get("/readyz").status == 503)
        assert b"wall clock" in served.get("/readyz").body
        refused(served.post("/v1/track", track("clock-refused")), 503, "log_not_writable")
        # Whoever is started while the clock is wrong believes it no more than the others do.
        os.kill(served.child("http"), signal.SIGKILL)
        assert not wait_until_dead([served.child("http")])
        wait_until(lambda: answered(served) == 503, START_SECONDS_MAX)
        refused(served.post("/v1/track", track("clock-refused")), 503, "log_not_writable")
        clock.move(0)
        wait_until(lambda: served.get("/readyz").status == 200)
        assert served.post("/v1/track", track("clock-1")).status == 200
        served.committed()
        rows = served.sql("SELECT message_id, received_at FROM events ORDER BY received_at")
    assert [row["message_id"] for row in rows] == ["clock-0", "clock-1"]
    records, _, damage = read_all(data / "log")
    assert not damage
    now = time.time_ns() // 1000
    assert all(now - 3600 * 1_000_000 < record.received_at <= now for record in records)


def answered(served: Served) -> int:
    try:
        return served.get("/readyz").status
    except OSError:
        return 0


def test_a_power_cut_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    disk = ForgetfulDisk(tmp_path / "disk", 512)
    data = tmp_path / "disk" / "here" / "data"
    rounds: list[Senders] = []
    for number in range(3):
        with disk.on():
            data.parent.mkdir(exist_ok=True)
            with doomed(data) as served, Senders(served, f"power-{number}") as senders:
                rounds.append(senders)
                senders.wait_for(200, 60)
                time.sleep(number * 0.4)
                disk.cut_power()
                os.kill(served.process.pid, signal.SIGKILL)
    with disk.on(), serving(data, QUICK) as served:
        check_exactly_once(served, *rounds)
    assert all(each.acknowledged for each in rounds)
