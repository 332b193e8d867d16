"""A power cut on a real ext4: what the writer never synced is gone, what it acknowledged is not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eventlog_checks import CHILD, acknowledged, check_survived
from eventlog_tools import ForgetfulDisk, injected

from eventlog_puppet import read_all, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MEGABYTES = 64


def run_until_the_power_goes(home: Path, seconds: float, fault: str | None = None) -> ForgetfulDisk:
    """Have a writer work on a disk under `home/log` until the power of that disk is cut."""
    disk = ForgetfulDisk(home / "log", MEGABYTES)
    with disk.on():
        child = subprocess.Popen(
            [sys.executable, str(CHILD), "load", str(home)], stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_until(lambda: len(acknowledged(home)) > 100)
            if fault is not None:
                with injected(child.pid, fault):
                    known = len(acknowledged(home))
                    wait_until(lambda: len(acknowledged(home)) > known + 100)
                    disk.cut_power()
            else:
                time.sleep(seconds)
                disk.cut_power()
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    return disk


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    disk = run_until_the_power_goes(tmp_path, random.Random(seed).uniform(0.0, 0.6))
    with disk.on() as root:
        (root / "lost+found").rmdir()
        assert len(check_survived(tmp_path)) >= len(acknowledged(tmp_path)) > 100


def test_the_disk_does_forget_what_was_not_synced(tmp_path: Path) -> None:
    """Without this the other test would prove nothing: here every sync is a lie, and it shows."""
    disk = run_until_the_power_goes(tmp_path, 0.0, "fdatasync,fsync:retval=0")
    with disk.on() as root:
        kept = {record.body.rstrip(b".") for record in read_all(root)[0]}
        assert not set(acknowledged(tmp_path)) <= kept
