"""A whole rebuild as tasks of Spark: equal to that of one machine, and gone on with after a crash."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_arrivals import UNTRUSTED
from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder
from pipeline_history import batches, history
from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.errors import Unavailable
from profilelake.landing.dedup import run_names
from profilelake.pipeline.publish import EVERY_CURRENT
from profilelake.plans.digests import TableDigest, digest_tables
from profilelake.plans.rebuild import Cutting
from profilelake.plans.sizes import Sizes
from profilelake.state import recent

pytestmark = pytest.mark.timeout(900)

COARSE = Cutting(Sizes(), None, 2)
"""Few parts: a task of Spark costs more than all of this lake."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, untrusted=UNTRUSTED)
    log = LogBuilder("00000000000000aa")
    for number, batch in enumerate(batches(1, [message for _, message in history(7, 60)])):
        made.apply([log.record(START + number * SECOND, batch)])
    made.publish()
    yield made
    made.close()


def digests(desk: Desk, engine: SparkEngine | EmbeddedEngine) -> list[TableDigest]:
    return digest_tables(engine, desk.lake, WORKSPACE, [table.name for table in EVERY_CURRENT])


def event_files(desk: Desk) -> list[bytes]:
    """Return the files of the index of message ids and of recent events, as they lie on the disk."""
    with desk.state.read(WORKSPACE) as tx:
        ids = [desk.setup.dedup_directory / name for name in run_names(tx, WORKSPACE)]
        runs = [desk.setup.recent_directory / run.name for run in recent.load(tx, WORKSPACE)]
    return [path.read_bytes() for path in (*ids, *runs)]


def test_spark_leaves_what_one_machine_does(desk: Desk, spark_engine: SparkEngine, tmp_path: Path) -> None:
    embedded = EmbeddedEngine(tmp_path / "embedded")
    desk.rebuild()
    wanted, state = digests(desk, embedded), desk.state_tables()
    desk.rebuild_by_plan(COARSE, engine=spark_engine)
    assert desk.verify() == []
    assert digests(desk, embedded) == wanted
    assert digests(desk, spark_engine) == wanted
    assert desk.state_tables() == state
    made = event_files(desk)
    assert len(made) >= 2
    desk.rebuild_by_plan(COARSE, engine=embedded)
    assert event_files(desk) == made


def test_a_step_that_spark_has_finished_is_not_run_again(
    desk: Desk, spark_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    spread = SparkEngine.spread

    def failing(self: SparkEngine, name: str, *arguments: Any) -> dict[int, bytes]:
        ran.append(name)
        if ran.count("profiles") == 1 and name == "profiles":
            raise Unavailable("the cluster has lost its machines")
        return spread(self, name, *arguments)

    monkeypatch.setattr(SparkEngine, "spread", failing)
    with pytest.raises(Unavailable):
        desk.rebuild_by_plan(COARSE, engine=spark_engine)
    before = len(ran)
    desk.rebuild_by_plan(COARSE, engine=spark_engine)
    assert ran[before:] == ["profiles", "shapes", "ids"]
    assert desk.verify() == []
