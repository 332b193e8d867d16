"""SIGKILL at every call that changes a file, counted and sent from outside Python."""

from pathlib import Path

import pytest
from eventlog_calls import consumed
from eventlog_checks import acknowledged, check_survived, sweep_calls
from eventlog_tools import build_shim

from eventlog_puppet import read_all, wall_clock
from profilelake.eventlog.embedded import prune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODES = ["before", "after", "torn"]
"""Fewer calls than these would mean that the shim does not see them."""
WRITES_MIN, RECOVERIES_MIN, PRUNES_MIN = 50, 8, 10


@pytest.mark.parametrize("mode", MODES)
def test_a_writer_killed_at_every_call_loses_nothing(tmp_path: Path, mode: str) -> None:
    homes = sweep_calls("write", directory(tmp_path), build_shim(tmp_path), 1, 1, mode)
    assert len(homes) > WRITES_MIN
    counts = [len(acknowledged(home)) for home in homes]
    assert (counts[0], counts[-1]) == (0, 12)
    for home in homes:
        check_survived(home)


@pytest.mark.parametrize("mode", MODES)
def test_a_recovery_killed_at_every_call_loses_nothing(tmp_path: Path, mode: str) -> None:
    homes = sweep_calls("recover", directory(tmp_path), build_shim(tmp_path), 1, 1, mode)
    assert len(homes) > RECOVERIES_MIN
    for home in homes:
        assert acknowledged(home)
        check_survived(home)


@pytest.mark.parametrize("mode", MODES)
def test_a_pruning_killed_at_every_call_leaves_no_gap(tmp_path: Path, mode: str) -> None:
    homes = sweep_calls("prune", directory(tmp_path), build_shim(tmp_path), 1, 1, mode)
    assert len(homes) > PRUNES_MIN
    for home in homes:
        root = home / "log"
        vector = consumed(home)
        for _ in range(2):
            records, _, damage = read_all(root, vector)
            assert [int(record.body) for record in records] == [3, 4, 5]
            assert not damage
            prune(root, vector, keep_seconds=0, now=wall_clock() + 120_000_000)
        assert {path.name for path in root.iterdir() if path.is_dir()} == {
            record.log_id for record in records
        }


def directory(tmp_path: Path) -> Path:
    root = tmp_path / "killed"
    root.mkdir()
    return root
