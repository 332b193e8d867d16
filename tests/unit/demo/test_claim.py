"""Which directories the demo takes, and what it says when its server does not start."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from profilelake.demo.run import MARKER_FILE, Options, run_demo


def test_refuses_a_directory_that_holds_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    assert run_demo(Options(directory=tmp_path, once=True)) == 4
    assert "not empty" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt"]


def test_refuses_the_directory_of_another_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = {"seed": 1, "events": 10, "ends_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat()}
    (tmp_path / MARKER_FILE).parent.mkdir()
    (tmp_path / MARKER_FILE).write_text(json.dumps(marker))
    assert run_demo(Options(directory=tmp_path, seed=2, events=10, once=True)) == 4
    assert "seed 1" in capsys.readouterr().err


@pytest.mark.parametrize("events", [0, -1, 10_000_001])
def test_refuses_a_number_of_events_out_of_bounds(tmp_path: Path, events: int) -> None:
    assert run_demo(Options(directory=tmp_path / "new", events=events, once=True)) == 2
    assert not (tmp_path / "new").exists()


def test_a_server_that_does_not_start_is_reported_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 1 is not ours to listen on, or not an address of this machine: either way the server must end.
    assert run_demo(Options(directory=tmp_path / "new", host="192.0.2.1", port=1, once=True)) != 0
    said = capsys.readouterr().err
    assert "the demo's server ended with code" in said
    assert "last words" in said
    assert (tmp_path / "new" / "run" / "demo-server.log").read_text().strip().splitlines()[-1].strip() in said
