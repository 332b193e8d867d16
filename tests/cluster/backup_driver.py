"""What tests of backups on object storage share: a directory with its tables there, and what is asked of it."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command_line import clean_environment, run
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, ensure_tables
from profilelake.lake.catalog import Lake
from profilelake.lake.object_storage import ObjectStorage
from profilelake.settings import Layout, StorageOptions
from s3_faults import Asked, FaultyProxy
from stopped_directory import desk


class RemoteDesk(Desk):
    """The pipeline on a directory, with the lake that its settings name."""

    def _open_lake(self) -> Lake:
        lake = Lake.of(Layout(self.directory))
        ensure_tables(lake, WORKSPACE)
        return lake


def with_settings(layout: Layout, lines: list[str]) -> Layout:
    (layout.directory / "profilelake.toml").write_text("\n".join(lines))
    return layout


def add_events(layout: Layout, number: int) -> None:
    messages = [
        {"type": "identify", "messageId": f"m{number}-{n}", "userId": f"u{n}", "traits": {"n": n}}
        for n in range(5)
    ]
    with desk(layout, RemoteDesk) as at:
        at.apply([LogBuilder(f"{number:016x}").record(START + number, messages)])
        assert at.publish()


def back_up(layout: Layout, place: str | Path, *options: str) -> dict[str, Any]:
    ran = run("backup", place, "--dir", layout.directory, "--json", *options)
    assert ran.code == 0, ran.err
    return dict(ran.json)


def restore(place: str | Path, target: Path, *options: str) -> dict[str, Any]:
    ran = run("restore", place, "--dir", target, "--json", *options)
    assert ran.code == 0, ran.err
    return dict(ran.json)


def fresh(s3: Any) -> str:
    return f"s3://{s3.bucket}/{uuid.uuid4().hex}"


def objects(s3: Any, root: str) -> dict[str, int]:
    storage = ObjectStorage(root, StorageOptions(endpoint=s3.endpoint, plain_http="allowed"))
    return {file.location: file.bytes for file in storage.list(root)}


def warehouse_of(layout: Layout) -> str:
    return Lake.of(layout).warehouse


def asked(proxy: FaultyProxy, method: str, part: str) -> list[Asked]:
    return [one for one in proxy.asked if one.method == method and part in one.path]


def check(directory: Path, events: int = 10) -> None:
    """See that a directory is whole and goes on where it was."""
    for command in (("verify",), ("lake", "verify")):
        ran = run(*command, "--dir", directory, "--json")
        assert (ran.code, ran.json) == (0, []), ran
    layout = Layout(directory)
    layout.check()
    with desk(layout, RemoteDesk) as at:
        at.check_epoch()
        assert at.applied().totals["in_lake"] == events
        again = [{"type": "identify", "messageId": "m0-0", "userId": "u0", "traits": {"n": 0}}]
        fresh_one = [{"type": "identify", "messageId": "m9", "userId": "u0"}]
        at.apply([LogBuilder("9" * 16).record(START + 100, again + fresh_one)])
        assert at.publish()
        assert at.applied().totals == at.applied().totals | {"in_lake": events + 1, "duplicates": 1}
        assert at.verify() == []


def check_after_settings(directory: Path, warehouse: str = "lake") -> None:
    """Check a directory that was restored to another place than its settings name."""
    os.environ["PROFILELAKE_LAKE_WAREHOUSE"] = warehouse
    try:
        check(directory)
    finally:
        del os.environ["PROFILELAKE_LAKE_WAREHOUSE"]


def kill(*arguments: str, failpoint: str, settings: Mapping[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "profilelake", *arguments]
    environment = {**clean_environment(), **(settings or {}), "PROFILELAKE_FAILPOINT": failpoint}
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
