"""A rebuild of a data directory: one driver at a time, however small the lake is."""

from pathlib import Path

import pytest

from pipeline_driver import START, WORKSPACE, LogBuilder
from profilelake.app.directory import workspace_setup
from profilelake.app.offline import rebuild_directory
from profilelake.engines.claims import Holder, Locked
from profilelake.engines.jobs import FOLDER, Job, known_jobs
from profilelake.errors import Unavailable
from profilelake.lake.catalog import Lake
from profilelake.pipeline.progress import load_applied
from profilelake.settings import Layout
from profilelake.state.store import State
from stopped_directory import desk, stopped_directory


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = stopped_directory(tmp_path / "data")
    with desk(layout) as opened:
        message = {"type": "track", "event": "Seen", "messageId": "m", "userId": "u"}
        opened.apply([LogBuilder("0" * 16).record(START, [message])])
        opened.publish()
    return layout


def epoch(layout: Layout) -> str:
    state = State.open(layout.state)
    try:
        with state.read(WORKSPACE) as tx:
            return load_applied(tx, WORKSPACE, "").epoch
    finally:
        state.close()


def test_none_in_memory_beside_one_that_runs_elsewhere(layout: Layout) -> None:
    storage = Lake.of(layout).storage
    with Job(storage, "rebuild", {"workspace": workspace_setup(layout).name}) as job:
        pass
    elsewhere = Locked(f"{storage.root}/{FOLDER}/{job.id}", Holder.now())
    before = epoch(layout)
    try:
        with pytest.raises(Unavailable, match=f"running job {job.id}: it is being run by"):
            rebuild_directory(layout)
    finally:
        elsewhere.release()
    assert epoch(layout) == before
    rebuild_directory(layout)
    assert epoch(layout) > before
    assert known_jobs(storage) == []
