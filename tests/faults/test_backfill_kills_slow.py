"""A backfill killed anywhere leaves nothing that counts twice, and nothing out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHILD = Path(__file__).with_name("backfill_child.py")
PLACES = (
    "handover.begun",
    "backfill.divided",
    "handover.part",
    "backfill.part",
    "handover.reached",
    "handover.merged",
    "backfill.done",
)


@pytest.mark.timeout(600)
def test_a_backfill_killed_anywhere_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(tmp_path), *PLACES]
    paths = [str(CHILD.parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stderr
    first, *runs = map(json.loads, done.stdout.splitlines())
    assert first["found"]["statuses"] == ["live"]
    assert first["found"]["differences"] == []
    assert len(first["found"]["values"]) > 20
    for run in runs:
        assert run["same"], run
    assert {run["place"] for run in runs if run["killed"]} == set(PLACES)
