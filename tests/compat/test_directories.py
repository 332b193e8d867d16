"""Data directories of every format are read, upgraded, or refused with the command that helps.

Each is made here as its program made it: by today's program, and then without what came later.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from command_line import run, told
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.directory_format import FORMAT
from profilelake.settings import Layout
from stopped_directory import stopped_directory


def lived_in(directory: Path) -> Layout:
    """Return a small directory of the present format: two people in state and tables."""
    layout = stopped_directory(directory)
    desk = Desk(layout.directory)
    desk.state.close()
    desk.setup = replace(
        desk.setup, recent_directory=layout.recent(WORKSPACE), dedup_directory=layout.dedup(WORKSPACE)
    )
    desk.open()
    messages = [
        {"type": "identify", "messageId": f"m{n}", "userId": f"u{n}", "traits": {"n": n}} for n in range(2)
    ]
    desk.apply([LogBuilder("0" * 16).record(START, messages)])
    desk.publish()
    desk.state.close()
    return layout


def format_1(layout: Layout) -> None:
    """Take away what directories of format 1 do not have."""
    (layout.directory / "format.json").unlink()
    (layout.directory / "FORMAT").write_text("1\n")
    layout.directory.chmod(0o755)


OLDER: dict[int, Callable[[Layout], None]] = {1: format_1}
"""How a directory of today becomes one of each older format."""


def test_every_older_format_can_be_made_here() -> None:
    assert list(OLDER) == list(range(1, FORMAT))


def events(layout: Layout) -> object:
    return run("sql", "SELECT message_id FROM events ORDER BY 1", "--dir", layout.directory, "--json").json


def test_the_present_format_is_read(tmp_path: Path) -> None:
    layout = lived_in(tmp_path / "data")
    assert run("upgrade", "--dir", layout.directory, "--json").json["steps"] == []
    assert events(layout) == [{"message_id": "m0"}, {"message_id": "m1"}]
    assert run("status", "--dir", layout.directory, "--json").json["in_lake"] == 2


@pytest.mark.parametrize("format", OLDER)
def test_older_formats_are_refused_upgraded_and_read(tmp_path: Path, format: int) -> None:
    layout = lived_in(tmp_path / "data")
    OLDER[format](layout)
    told(
        run("sql", "SELECT 1", "--dir", layout.directory),
        4,
        f"upgrade it: profilelake upgrade --dir {layout.directory}",
    )
    assert run("upgrade", "--dir", layout.directory, "--json").json["from"] == format
    assert events(layout) == [{"message_id": "m0"}, {"message_id": "m1"}]
    assert run("status", "--dir", layout.directory, "--json").json["in_lake"] == 2


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    layout = lived_in(tmp_path / "data")
    (layout.directory / "FORMAT").write_text(f"{FORMAT + 1}\n")
    for command in (("sql", "SELECT 1"), ("status",), ("upgrade",), ("backup", tmp_path / "b")):
        told(run(*command, "--dir", layout.directory), 4, "upgrade profilelake: pip install")


def test_a_state_of_another_format_names_the_rebuild(tmp_path: Path) -> None:
    layout = lived_in(tmp_path / "data")
    with lmdb.open(str(layout.state), map_size=1 << 30, max_dbs=64) as env, env.begin(write=True) as txn:
        txn.put(b"profilelake.format", b"1")
    ran = run("status", "--dir", layout.directory)
    told(ran, 6, f"profilelake rebuild --dir {layout.directory}")
