"""Rebuilds by plan killed at failpoints: what is asked of every such run."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pipeline_driver import START, Desk, LogBuilder
from pipeline_history import batches, history

CHILD = Path(__file__).parent / "faults" / "rebuild_child.py"


def killed_and_called_again(folder: Path, *places: str) -> None:
    """Kill a rebuild at each place; called again it ends right, and no finished step runs once more."""
    desk = Desk(folder)
    log = LogBuilder("00000000000000aa")
    for number, batch in enumerate(batches(1, [message for _, message in history(7, 60)])):
        desk.apply([log.record(START + number * 1_000_000, batch)])
    desk.publish()
    desk.close()
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), *places],
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parent}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    whole, *runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert "error" not in whole, whole
    assert (whole["differences"], whole["jobs"]) == ([], [])
    assert set(whole["replaced"]) == {1}, "each table is replaced by one commit"
    killed = Counter(run["place"] for run in runs if run["killed"])
    assert set(killed) == set(places), "a place that is never reached tests nothing"
    for run in runs:
        assert not run.get("wrong"), run
        assert not run.get("error"), run
        assert not set(run.get("finished", ())) & set(run.get("ran_again", ())), run
