"""What a backup that was killed leaves half written goes with the next one, and nothing else does."""

import signal
import subprocess
from pathlib import Path

import pytest

from command_line import COMMAND, clean_environment, run, told
from profilelake.backup.locking import alone
from profilelake.backup.manifest import MARKER
from profilelake.settings import Layout
from stopped_directory import stopped_directory


def killed_at(failpoint: str, place: Path, directory: Path) -> None:
    command = [*COMMAND, "backup", str(place), "--dir", str(directory)]
    environment = {**clean_environment(), "PROFILELAKE_FAILPOINT": failpoint}
    ended = subprocess.run(command, env=environment, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("failpoint", "left"), [("backup.copied", "files/*.new"), ("backup.described", "backups/*.new")]
)
def test_the_next_backup_removes_what_a_killed_one_left(tmp_path: Path, failpoint: str, left: str) -> None:
    layout, place = Layout(tmp_path / "data"), tmp_path / "backups"
    stopped_directory(layout.directory)
    (layout.directory / "profilelake.toml").write_text('region = "eu"\n')
    killed_at(failpoint, place, layout.directory)
    (unfinished,) = place.glob(left)
    assert unfinished.stat().st_size > 0
    # As long as another backup is being made there the file may be its own.
    with alone(place / MARKER, "test"):
        told(run("backup", place, "--dir", layout.directory), 4, "another backup is being made")
    assert unfinished.exists()
    contents = {path: path.stat().st_ino for path in (place / "files").glob("*/*")}
    ran = run("backup", place, "--dir", layout.directory)
    assert ran.code == 0, ran.err
    assert not list(place.rglob("*.new"))
    assert not (place / "making").exists()
    # What was copied whole is used again.
    assert {path: path.stat().st_ino for path in contents} == contents
    assert run("restore", place, "--check").code == 0


def test_a_backup_into_a_folder_removes_what_one_into_a_bucket_left(tmp_path: Path) -> None:
    layout, bucket = Layout(tmp_path / "data"), tmp_path / "bucket"
    stopped_directory(layout.directory)
    (layout.directory / "profilelake.toml").write_text('region = "eu"\n')
    bucket.mkdir()
    (bucket / MARKER).write_text("objects 1\n")
    killed_at("backup.sent", bucket, layout.directory)
    making = layout.run / "backup-objects" / "making"
    # Copies of databases, which hold people's data.
    assert list(making.iterdir())
    ran = run("backup", tmp_path / "backups", "--dir", layout.directory)
    assert ran.code == 0, ran.err
    assert not making.exists()
