from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lake_examples import DAY, START, VISITS, Clock, open_lake, upto, visits
from profilelake.errors import Conflict, Internal, NotFound
from profilelake.lake.commit import MANIFESTS_MAX
from profilelake.lake.files import local_path


def test_rows_and_progress_arrive_together(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    assert table.progress() is None
    assert table.append(visits(0, 3), upto(1))
    again = open_lake(tmp_path).table("w", VISITS)
    assert again.progress() == upto(1)
    assert again.scan().sort_by("visit_id").equals(visits(0, 3))


def test_the_same_progress_writes_nothing(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 3), upto(2))
    before = sorted(tmp_path.rglob("*"))
    assert not table.append(visits(0, 3), upto(2))
    assert not table.append(visits(0, 3), upto(1))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_later_epoch_begins_anew_and_an_earlier_one_is_refused(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 1), upto(9, "e1"))
    assert table.append(visits(1, 1), upto(1, "e2"))
    with pytest.raises(Conflict, match="epoch 'e1' has ended"):
        table.append(visits(2, 1), upto(10, "e1"))
    with pytest.raises(Conflict, match="epoch 'e1' has ended"):
        table.append(visits(2, 0), upto(10, "e1"))
    assert table.scan().num_rows == 2


def test_progress_without_rows_is_committed_only_on_request(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    assert not table.append(visits(0, 0), upto(1))
    assert table.progress() is None
    assert table.append(visits(0, 0), upto(1), always=True)
    assert table.progress() == upto(1)
    assert table.files() == []


def test_other_rows_than_declared_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    with pytest.raises(Internal, match="columns differ"):
        table.append(pa.table({"a": [1]}), upto(1))
    assert not list(tmp_path.rglob("*.parquet"))


def test_days_are_separate_files(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 4, at=START, step=DAY), upto(1))
    first = START // DAY
    assert sorted(f.partition or 0 for f in table.files()) == [first, first + 1, first + 2, first + 3]


def test_scan_takes_columns_and_a_filter(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    assert table.scan(["amount"]).schema.names == ["amount"]
    table.append(visits(0, 4), upto(1))
    found = table.scan(["email"], pc.field("visit_id") == "v2")
    assert found.to_pydict() == {"email": ["person2@example.org"]}


def test_two_committers_do_not_double_or_lose_rows(tmp_path: Path) -> None:
    one = open_lake(tmp_path).table("w", VISITS)
    two = open_lake(tmp_path).table("w", VISITS)
    assert one.append(visits(0, 1), upto(1))
    assert not two.append(visits(0, 1), upto(1))  # Planned from a table without it.
    assert two.append(visits(1, 1), upto(2))
    assert one.append(visits(2, 1), upto(3))
    assert sorted(one.scan().column("visit_id").to_pylist()) == ["v0", "v1", "v2"]
    assert len(list(tmp_path.rglob("*.parquet"))) == 3  # The refused attempt removed its file,
    assert two.sweep(min_age_seconds=-(10**10), dry_run=True) == []  # and its manifests.


def test_many_commits_keep_few_manifests_and_every_row(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    commits = MANIFESTS_MAX + 3
    for i in range(commits):
        table.append(visits(i, 1), upto(i + 1))
    assert table.scan().num_rows == commits
    reread = open_lake(tmp_path).table("w", VISITS)
    assert sorted(f.location for f in reread.files()) == sorted(f.location for f in table.files())
    assert len({f.sequence for f in reread.files()}) == commits  # Merging keeps each file's commit.
    assert reread.merge_manifests()
    plain = SqlCatalog("profilelake", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("ws_w.visits")
    snapshot = plain.current_snapshot()
    assert snapshot is not None
    (manifest,) = snapshot.manifests(plain.io)
    assert (manifest.added_files_count, manifest.existing_files_count) == (0, commits)
    assert manifest.min_sequence_number == 1
    assert not reread.merge_manifests()
    assert reread.progress() == upto(commits)
    assert reread.scan().num_rows == commits


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    for i in range(4):
        table.append(visits(i * 2, 2, step=DAY), upto(i + 1))
    table.merge_manifests()
    table.append(visits(8, 2, step=DAY), upto(5))
    table.rewrite([f.location for f in table.files()], table.scan(), same_rows=True)
    plain = SqlCatalog("profilelake", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("ws_w.visits")
    assert plain.scan().to_arrow().num_rows == 10
    assert plain.scan(row_filter="visit_id = 'v5'").to_arrow().num_rows == 1
    snapshot = plain.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation.value == "replace"
    assert snapshot.summary["total-records"] == "10"
    assert snapshot.summary["total-data-files"] == "2"
    plain.scan().to_duckdb("t").close()


def test_no_value_of_a_personal_column_is_in_a_manifest(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 3), upto(1))
    table.append(visits(3, 3), upto(2))
    table.rewrite([table.files()[0].location], visits(0, 2), same_rows=False)
    personal = {table.schema().find_field(name).field_id for name in ("email", "tags", "tags.element")}
    plain = SqlCatalog("profilelake", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("ws_w.visits")
    seen = 0
    for snapshot in plain.snapshots():
        for manifest in snapshot.manifests(plain.io):
            for entry in manifest.fetch_manifest_entry(plain.io, discard_deleted=False):
                bounds = {**(entry.data_file.lower_bounds or {}), **(entry.data_file.upper_bounds or {})}
                assert bounds  # Other columns have theirs, so the test looks at the right place.
                assert not personal & set(bounds)
                assert not any(b"person" in value for value in bounds.values())
                seen += 1
    assert seen >= 4


def test_rewrite_keeps_progress_and_checks_its_files(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 2), upto(1))
    table.append(visits(2, 2), upto(2))
    gone = [f.location for f in table.files()]
    with pytest.raises(Internal, match="4 rows became 3"):
        table.rewrite(gone, visits(0, 3), same_rows=True)
    assert table.rewrite(gone, visits(0, 4), same_rows=True)
    assert table.progress() == upto(2)
    assert len(table.files()) == 1
    with pytest.raises(Conflict, match="are gone"):
        table.rewrite(gone, visits(0, 0), same_rows=False)
    assert len(list(tmp_path.rglob("*.parquet"))) == 3
    assert not table.rewrite([], visits(0, 0), same_rows=False)


def test_snapshots_say_what_was_done(tmp_path: Path) -> None:
    clock = Clock()
    table = open_lake(tmp_path, clock).table("w", VISITS)
    table.append(visits(0, 2), upto(1))
    clock.advance(-3_600)
    table.append(visits(2, 2), upto(2))
    first, second = table.snapshots()
    assert (first.operation, second.parent_id) == ("append", first.snapshot_id)
    assert second.summary["profilelake.sequence"] == "2"
    assert second.committed_at >= first.committed_at  # Although the clock went back.


def test_old_metadata_files_go_with_the_commits(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    for i in range(30):
        table.append(visits(i, 1), upto(i + 1))
    assert len(list(tmp_path.rglob("*.metadata.json"))) == 21
    assert local_path(table.metadata_location()).exists()
    assert local_path(table.location()) == tmp_path / "warehouse" / "ws_w" / "visits"


def test_a_missing_table_is_not_found(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    assert lake.names("w") == []
    with pytest.raises(NotFound, match="no such table"):
        lake.load("w", "visits")
    lake.close()


def test_compaction_gathers_small_files_sorted_and_changes_no_row(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", replace(VISITS, sort=("visit_id",)))
    for i in range(4):
        table.append(visits(10 - 3 * i, 3, step=DAY), upto(i + 1))
    table.append(visits(20, 1, at=START + 3 * DAY), upto(5))
    before = table.scan().sort_by("visit_id")
    assert table.compact(0) is None  # All days are open, and few files are no reason.
    steps = []
    while (step := table.compact(None)) is not None:
        steps.append(step)
    assert [(s.files_before, s.files_after, s.rows) for s in steps] == [(4, 1, 4)] * 3
    assert len(table.files()) == 4  # A file alone is not written again.
    assert table.scan().sort_by("visit_id").equals(before)
    assert table.progress() == upto(5)
    for file in table.files():
        ids = pq.read_table(local_path(file.location), partitioning=None).column("visit_id").to_pylist()
        assert ids == sorted(ids)
    assert [s.operation for s in table.snapshots()[-3:]] == ["replace"] * 3
