"""The loops of the lake process, run for real in threads: what they publish, tend, and how they end."""

import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.errors import Conflict, Unavailable
from profilelake.ops.clock import wall
from profilelake.pipeline import run as loops
from profilelake.pipeline.publish import Publisher
from profilelake.pipeline.run import Publishing
from profilelake.settings import PipelineSettings

LOG = "00000000000000aa"
LOOKS_MAX = 3_000


class Loops:
    """A desk with the loops of the lake process running beside it."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder)
        self.registry = CollectorRegistry()
        (folder / "log").mkdir()
        self.publishing = Publishing(
            log_directory=folder / "log",
            flush_request=folder / "flush",
            state=self.desk.state,
            lake=self.desk.lake,
            workspaces=[self.desk.setup],
            settings=PipelineSettings(lake_age_seconds=0.01),
            clock=wall,
            registry=self.registry,
        )
        self.failure: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.log = LogBuilder(LOG)

    def _run(self) -> None:
        try:
            self.publishing.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.failure.append(error)

    def send(self, number: int) -> None:
        event = {"userId": f"u{number}", "type": "identify", "messageId": f"m{number}"}
        self.desk.apply([self.log.record(START + number, [event])])

    def until(self, sequence: int) -> bool:
        """Wait until all tables have come that far; tell whether they did."""
        waiting = threading.Event()
        for _ in range(LOOKS_MAX):
            published = self.desk.published()
            if min(published.sequence, published.facts_sequence) >= sequence:
                return True
            waiting.wait(0.02)
        return False


def test_what_is_applied_is_published_and_all_of_it_at_the_end(tmp_path: Path) -> None:
    running = Loops(tmp_path)
    running.thread.start()
    running.send(1)
    assert running.until(1)
    running.send(2)
    (tmp_path / "flush").touch()
    assert running.until(2)
    running.send(3)
    running.publishing.stop()
    running.thread.join()
    assert running.failure == []
    assert {name: len(rows) for name, rows in running.desk.lake_tables("events", "profiles").items()} == {
        "events": 3,
        "profiles": 3,
    }
    assert running.registry.get_sample_value("profilelake_lake_age_seconds") is not None
    assert running.desk.verify() == []


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Loops(tmp_path)
    monkeypatch.setattr(loops, "RETRY_SECONDS", 0.01)
    publish, tries = Publisher.publish_facts, []

    def full(self: Publisher) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("no space left")
        return publish(self)

    monkeypatch.setattr(Publisher, "publish_facts", full)
    running.thread.start()
    running.send(1)
    assert running.until(1)
    running.publishing.stop()
    running.thread.join()
    assert running.failure == []
    assert len(tries) >= 3


@pytest.mark.parametrize("what", ["publish_facts", "publish_current", "merge"])
def test_a_loop_that_cannot_go_on_ends_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    running = Loops(tmp_path)

    def beaten(*_arguments: object, **_options: object) -> None:
        raise Conflict("another process commits")

    monkeypatch.setattr(Publisher, what, beaten)
    running.send(1)
    running.thread.start()
    running.thread.join(60)
    assert not running.thread.is_alive()
    assert [str(error) for error in running.failure] == ["another process commits"]
    with running.desk.state.read(WORKSPACE) as tx:
        assert tx.meta(WORKSPACE, "progress") is not None
