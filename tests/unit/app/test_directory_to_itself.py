"""Commands that need a directory to themselves say at once, in a line, who has it."""

import os

import pytest

from command_line import run, run_process, told
from profilelake.app.directory import DirectoryLock
from profilelake.lake.catalog import Lake
from profilelake.settings import Layout
from stopped_directory import stopped_directory


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = stopped_directory(tmp_path_factory.mktemp("held") / "data")
    Lake.of(made).close()
    return made


@pytest.mark.parametrize(
    "command",
    [
        ("lake", "repair"),
        ("lake", "repair", "--dry-run"),
        ("lake", "compact", "--engine", "embedded"),
        ("verify",),
    ],
    ids=" ".join,
)
def test_who_has_it_is_told_before_anything_large_is_loaded(layout: Layout, command: tuple[str, ...]) -> None:
    lock = DirectoryLock(layout)
    try:
        ran = run(*command, "--dir", layout.directory)
        told(ran, 4, f"in use by process {os.getpid()} since ")
        assert "stop it first" in ran.err
        assert len(ran.err.splitlines()) == 1
        if command[0] == "lake":
            loaded = run_process(
                *command, "--dir", layout.directory, environment={"PYTHONPROFILEIMPORTTIME": "1"}
            )
            assert "profilelake.app.upkeep" in loaded.err
            assert not [
                line for line in loaded.err.splitlines() if line.endswith(("numba", "profilelake.plans"))
            ]
    finally:
        lock.release()
