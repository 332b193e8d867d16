"""Every file operation of a writer, one kill each, in every way; and many kills under load."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eventlog_checks import CHILD, acknowledged, check_survived, cut_the_power, sweep

from eventlog_puppet import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_writer_killed_at_every_file_operation_loses_nothing(tmp_path: Path, mode: str) -> None:
    homes = sweep(tmp_path, 1, 1, 0, mode)
    assert len(homes) > 40
    for home in homes:
        check_survived(home)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_power_cut_at_every_file_operation_takes_only_what_was_never_acknowledged(
    tmp_path: Path, share: float
) -> None:
    for home in sweep(tmp_path, 1, 1, 0, "after"):
        cut_the_power(home, share)
        check_survived(home)


@pytest.mark.parametrize("seed", range(12))
def test_kills_under_load_lose_nothing(tmp_path: Path, seed: int) -> None:
    child = subprocess.Popen([sys.executable, str(CHILD), "load", str(tmp_path)])
    try:
        wait_until(lambda: len(acknowledged(tmp_path)) > 100)
        time.sleep(random.Random(seed).uniform(0.0, 0.5))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert len(check_survived(tmp_path)) >= len(acknowledged(tmp_path)) > 100
