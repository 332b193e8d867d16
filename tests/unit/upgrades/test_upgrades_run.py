"""Upgrades: step by step, refused with the exact command, safe to kill anywhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import profilelake
from command_line import run, told
from profilelake.app import directory
from profilelake.directory_format import FORMAT, DirectoryFormat, read_format, write_format
from profilelake.errors import Conflict, Corrupt, Internal, Invalid
from profilelake.settings import Layout
from profilelake.upgrades.run import missing, upgrade, upgrade_if_quick
from profilelake.upgrades.steps import STEPS, Step


def old(directory: Path, format: int = 1) -> Layout:
    """Return a directory as a program of format 1 left it: a number and nothing more."""
    layout = Layout(directory)
    layout.create()
    (directory / "format.json").unlink()
    (directory / "FORMAT").write_text(f"{format}\n")
    return layout


def test_there_is_a_step_to_every_format() -> None:
    assert [step.to for step in STEPS] == list(range(2, FORMAT + 1))


def test_a_new_directory_tells_who_made_it_and_lets_nobody_else_in(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    version = profilelake.__version__
    assert read_format(layout.directory) == DirectoryFormat(FORMAT, None, version, version)
    assert layout.directory.stat().st_mode & 0o777 == 0o700
    assert missing(layout) == []


def test_an_older_directory_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    layout = old(tmp_path / "data")
    told(run("status", "--dir", layout.directory), 4, f"profilelake upgrade --dir {layout.directory}")
    ran = run("upgrade", "--dir", layout.directory, "--dry-run")
    assert b"would bring it to format 2" in ran.out
    with pytest.raises(Conflict, match="format 1, this program reads"):
        layout.check()
    assert run("upgrade", "--dir", layout.directory, "--json").json == {
        "directory": str(layout.directory),
        "from": 1,
        "to": FORMAT,
        "steps": [step.about for step in STEPS],
        "done": True,
    }
    layout.check()
    assert b"nothing to do" in run("upgrade", "--dir", layout.directory).out


def test_quick_steps_are_done_at_the_start_of_a_server(tmp_path: Path) -> None:
    layout = old(tmp_path / "data")
    directory.upgrade_quickly(layout)
    layout.check()
    assert read_format(layout.directory) == DirectoryFormat(FORMAT, None, "", profilelake.__version__)


def test_an_upgrade_needs_the_directory_for_itself(tmp_path: Path) -> None:
    layout = old(tmp_path / "data")
    lock = directory.DirectoryLock(layout)
    try:
        told(run("upgrade", "--dir", layout.directory), 4, "in use by process")
    finally:
        lock.release()


def test_no_directory_no_upgrade(tmp_path: Path) -> None:
    told(run("upgrade", "--dir", tmp_path / "none"), 2, "not a profilelake data directory")
    with pytest.raises(Invalid):
        missing(Layout(tmp_path))


def test_a_failing_step_is_begun_again_and_nobody_gets_in_before(tmp_path: Path) -> None:
    layout = old(tmp_path / "data")
    tries: list[int] = []

    def second(_: Layout) -> None:
        tries.append(2)

    def third(_: Layout) -> None:
        tries.append(3)
        if tries.count(3) == 1:
            raise OSError("disk full")

    steps = [Step(2, "second", quick=True, run=second), Step(3, "third", quick=False, run=third)]
    with pytest.raises(OSError, match="disk full"):
        upgrade(layout, steps, wanted=3)
    # The guard is up: this program, which knows no format 3, is kept out as an older one would be.
    with pytest.raises(Conflict, match="format 3, this program reads"):
        layout.check()
    assert json.loads((layout.directory / "format.json").read_text())["upgrading_to"] == 3
    (layout.directory / "FORMAT").write_text("2\n")  # so that this program looks at the rest
    with pytest.raises(Conflict, match="was cut short; finish it: profilelake upgrade"):
        layout.check()
    assert upgrade(layout, steps, wanted=3) == 1
    assert tries == [2, 3, 3]


def test_there_must_be_a_way(tmp_path: Path) -> None:
    layout = old(tmp_path / "data")
    with pytest.raises(Internal, match="no way from format 1 to 3"):
        missing(layout, STEPS[:1], wanted=3)


def test_what_is_long_is_not_done_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = old(tmp_path / "data")
    long = Step(2, "long", quick=False, run=lambda _: pytest.fail("run"))
    monkeypatch.setattr("profilelake.upgrades.run.missing", lambda _: [long])
    assert upgrade_if_quick(layout) is False


@pytest.mark.parametrize("place", ["upgrade.begun", "upgrade.changed", "upgrade.done"])
def test_a_killed_upgrade_is_finished_by_the_next(tmp_path: Path, place: str) -> None:
    layout = old(tmp_path / "data")
    command = [sys.executable, "-m", "profilelake", "upgrade", "--dir", str(layout.directory)]
    killed = subprocess.run(command, env={**os.environ, "PROFILELAKE_FAILPOINT": place}, check=False)
    assert killed.returncode == -signal.SIGKILL
    if place != "upgrade.done":
        told(run("status", "--dir", layout.directory), 4, "finish it: profilelake upgrade")
    assert run("upgrade", "--dir", layout.directory).code == 0
    layout.check()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x", "upgrading_to": null}'])
def test_nonsense_is_told(tmp_path: Path, text: str) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    (layout.directory / "format.json").write_text(text)
    with pytest.raises(Corrupt, match=r"its file format\.json"):
        layout.check()


def test_both_files_must_agree(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    write_format(layout.directory, DirectoryFormat(FORMAT))
    (layout.directory / "FORMAT").write_text("1\n")
    with pytest.raises(Corrupt, match="speaks of 2"):
        layout.check()
    (layout.directory / "FORMAT").write_text(f"{FORMAT}\n")
    (layout.directory / "format.json").unlink()
    with pytest.raises(Corrupt, match=r"format\.json is missing"):
        layout.check()
