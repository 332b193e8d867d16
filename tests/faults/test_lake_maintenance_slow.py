"""Maintenance killed at every failpoint loses no row, doubles none, and leaves nothing behind for ever."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLACES = (
    "compact.written",
    "compact.verified",
    "compact.committed",
    "merge.written",
    "expire.committed",
    "sweep.recorded",
    "sweep.removed",
    "lake.staged",
    "lake.swapped",
)


def test_maintenance_killed_anywhere_is_continued_and_changes_nothing(tmp_path: Path) -> None:
    child = Path(__file__).with_name("lake_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path), *PLACES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(child.parent.parent), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    undisturbed, *runs = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = undisturbed["found"]
    assert wanted["problems"] == []
    assert wanted["unreachable"] == []
    assert wanted["visits"] == sorted(f"v{n}" for n in (*range(1, 7), *range(2, 8)))
    assert wanted["members"] == [["m1", 6], ["m40", 6]]
    killed = Counter(run["place"] for run in runs if run["killed"])
    assert set(killed) == set(PLACES), "a place that is never reached tests nothing"
    assert [run for run in runs if run["found"] != wanted or run["said"]] == []
