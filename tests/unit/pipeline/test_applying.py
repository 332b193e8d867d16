"""The loop between log and state: it goes on after a fault, loses nothing and doubles nothing."""

import errno
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from eventlog_puppet import entry, wait_until, write_log
from pipeline_driver import Desk
from profilelake.eventlog import Kind
from profilelake.pipeline import batch, run
from profilelake.pipeline.run import Applying
from profilelake.profiles.fold import fold_traits
from profilelake.settings import PipelineSettings
from profilelake.state import recent

BAD = "m-7"


def test_a_full_disk_while_a_bad_record_is_looked_for_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [
        json.dumps({"userId": f"u{number}", "messageId": f"m-{number}", "traits": {"n": number}}).encode()
        for number in range(8)
    ]
    write_log(tmp_path / "log", [entry(body)._replace(kind=Kind.IDENTIFY) for body in bodies])
    writing = recent.write
    written: list[int] = []

    def folding(work: Any, events: Any) -> Any:
        if BAD in events.column("message_id").to_pylist():
            raise ZeroDivisionError("a bug")
        return fold_traits(work, events)

    def sometimes_full(*arguments: Any, **named: Any) -> Any:
        written.append(1)
        if len(written) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return writing(*arguments, **named)

    monkeypatch.setattr(batch, "fold_traits", folding)
    monkeypatch.setattr(recent, "write", sometimes_full)
    monkeypatch.setattr(run, "RETRY_SECONDS", 0.01)
    desk = Desk(tmp_path)
    applying = Applying(
        log_directory=tmp_path / "log",
        state=desk.state,
        workspaces=[desk.setup],
        region="eu",
        settings=PipelineSettings(),
        clock=lambda: time.time_ns() // 1000,
        registry=CollectorRegistry(),
    )
    worker = threading.Thread(target=applying.run)
    worker.start()
    wait_until(lambda: sum(desk.applied().totals.values()) == len(bodies))
    applying.stop()
    worker.join(10)
    assert not worker.is_alive()
    assert {name: count for name, count in desk.applied().totals.items() if count} == {
        "in_lake": 7,
        "failed": 1,
    }
    assert len(written) > 3
    assert desk.verify() == []
    desk.close()
