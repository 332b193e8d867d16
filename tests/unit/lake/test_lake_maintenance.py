import os
from dataclasses import replace
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lake_examples import VISITS, Clock, open_lake, upto, visits
from profilelake.lake import maintenance
from profilelake.lake.files import local_path
from profilelake.lake.maintenance import EXPIRE_AT_SNAPSHOTS, SNAPSHOTS_KEPT
from profilelake.lake.table import LakeTable


def _filled(folder: Path, clock: Clock, commits: int, seconds: int) -> LakeTable:
    table = open_lake(folder, clock).table("w", VISITS)
    for i in range(commits):
        clock.advance(seconds)
        table.append(visits(i, 1), upto(i + 1))
    return table


def test_old_snapshots_are_forgotten_by_later_commits(tmp_path: Path) -> None:
    table = _filled(tmp_path, Clock(), EXPIRE_AT_SNAPSHOTS, 600)
    assert len(table.snapshots()) == EXPIRE_AT_SNAPSHOTS
    table.append(visits(99, 1), upto(99))
    assert len(table.snapshots()) == SNAPSHOTS_KEPT + 1
    assert table.scan().num_rows == EXPIRE_AT_SNAPSHOTS + 1


def test_young_snapshots_stay_for_their_readers_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SNAPSHOTS_MAX", 30)
    table = _filled(tmp_path, Clock(), 34, 0)
    assert len(table.snapshots()) == 31


def test_expiry_stops_at_the_slowest_reader(tmp_path: Path) -> None:
    clock = Clock()
    table = _filled(tmp_path, clock, 10, 600)
    table.keep_from = table.snapshots()[3].snapshot_id
    for i in range(20):
        clock.advance(600)
        table.append(visits(100 + i, 1), upto(100 + i))
    assert table.snapshots()[0].snapshot_id == table.keep_from
    assert table.expire() == 0
    table.keep_from = None
    assert table.expire() > 0
    assert len(table.snapshots()) == 1


def test_progress_survives_commits_of_other_engines(tmp_path: Path) -> None:
    undivided = replace(VISITS, day=None)
    table = open_lake(tmp_path).table("w", undivided)
    table.append(visits(0, 1), upto(1))
    table.append(visits(1, 1), upto(2))
    foreign = SqlCatalog("profilelake", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("ws_w.visits")
    foreign.append(visits(50, 1))
    foreign.append(visits(51, 1))
    table.refresh()
    assert table.progress() == upto(2)
    assert table.expire() == 1  # Our first; our second still says how far we have come.
    assert table.progress() == upto(2)
    assert open_lake(tmp_path).table("w", undivided).progress() == upto(2)
    assert table.append(visits(2, 1), upto(3))
    assert table.scan().num_rows == 5


def test_sweep_removes_only_what_is_old_and_unreachable(tmp_path: Path) -> None:
    clock = Clock()
    table = _filled(tmp_path, clock, 4, 600)
    stray = local_path(table.location()) / "data" / "stray.parquet"
    stray.write_bytes(b"left by a crash")
    rewritten = [f.location for f in table.files()]
    table.rewrite(rewritten, table.scan(), same_rows=True)
    for path in tmp_path.rglob("*"):
        os.utime(path, (clock.now // 10**9 - 3_600,) * 2)

    assert [Path(f.location).name for f in table.sweep(min_age_seconds=60, dry_run=True)] == ["stray.parquet"]
    assert stray.exists()
    assert table.sweep(min_age_seconds=7_200, dry_run=False) == []
    assert len(table.sweep(min_age_seconds=60, dry_run=False)) == 1
    assert not stray.exists()

    table.expire()
    os.utime(local_path(table.metadata_location()), (clock.now // 10**9 - 3_600,) * 2)
    swept = {str(local_path(f.location)) for f in table.sweep(min_age_seconds=60, dry_run=False)}
    assert {str(local_path(location)) for location in rewritten} <= swept
    assert any(name.endswith(".avro") for name in swept)
    assert table.scan().num_rows == 4
    assert open_lake(tmp_path).table("w", VISITS).scan().num_rows == 4
    assert table.append(visits(9, 1), upto(9))


def test_sweep_spares_old_files_of_snapshots_that_can_still_be_read(tmp_path: Path) -> None:
    clock = Clock()
    table = _filled(tmp_path, clock, 2, 0)
    old = table.files()
    table.rewrite([f.location for f in old], visits(0, 1), same_rows=False)
    clock.advance(10**6)
    assert table.sweep(min_age_seconds=0, dry_run=False) == []
    assert all(local_path(f.location).exists() for f in old)
