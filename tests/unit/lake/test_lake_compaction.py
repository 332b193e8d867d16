"""What is compacted when, and that compaction changes no row, whatever happens to it."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.manifest import DataFile, FileFormat, ManifestEntry, ManifestEntryStatus

from lake_examples import START, VISITS, open_lake, upto, visits
from profilelake.errors import Corrupt
from profilelake.lake import compaction
from profilelake.lake.compaction import Policy, Stopped, files_wanted, next_step
from profilelake.lake.files import local_path
from profilelake.lake.sql import LiveFile
from profilelake.lake.table import LakeTable

SORTED = replace(VISITS, sort=("visit_id",))
ENTRY = ManifestEntry.from_args(
    status=ManifestEntryStatus.ADDED,
    data_file=DataFile.from_args(file_path="", file_format=FileFormat.PARQUET),
)
SMALL = Policy(file_bytes=1_000, step_bytes=3_000, open_files_min=4, open_file_bytes=600)


def file(number: int, size: int, partition: int | None = 0) -> LiveFile:
    return LiveFile(f"f{number}", 1, size, partition, number, ENTRY)


sizes = st.lists(st.tuples(st.integers(1, 2_000), st.one_of(st.none(), st.integers(0, 3))), max_size=40)


@given(sizes, st.one_of(st.none(), st.integers(0, 4)))
def test_steps_are_bounded_and_come_to_an_end(
    made: list[tuple[int, int | None]], open_from: int | None
) -> None:
    files = [file(number, size, partition) for number, (size, partition) in enumerate(made)]
    number = len(files)
    for _ in range(len(made) + 1):
        group = next_step(files, open_from, SMALL)
        if not group:
            break
        total = sum(f.bytes for f in group)
        assert total <= SMALL.step_bytes
        assert len({f.partition for f in group}) == 1
        assert all(f.bytes < SMALL.file_bytes // 2 or f.bytes < SMALL.open_file_bytes for f in group)
        wanted = files_wanted(group, SMALL)
        assert wanted < len(group)
        files = [f for f in files if f not in group]
        files += [file(number + i, total // wanted, group[0].partition) for i in range(wanted)]
        number += wanted
    assert next_step(files, open_from, SMALL) == []


def test_a_day_that_is_over_is_gathered_and_one_that_is_not_waits_for_more() -> None:
    files = [file(n, 10, day) for day in (0, 1) for n in range(3)]
    assert [f.partition for f in next_step(files, 1, SMALL)] == [0, 0, 0]
    assert next_step(files[3:], 1, SMALL) == []
    assert len(next_step([file(n, 10, 1) for n in range(4)], 1, SMALL)) == 4


def test_in_an_open_day_files_are_gathered_by_their_size() -> None:
    tiny = [file(n, 1_000, 5) for n in range(3)]
    larger = [file(10 + n, 100_000, 5) for n in range(4)]
    policy = Policy(open_files_min=4)
    assert next_step([*tiny, *larger], 5, policy) == larger
    huge = [file(20 + n, policy.open_file_bytes, 5) for n in range(9)]
    assert next_step([*tiny, *huge], 5, policy) == []


def _filled(folder: Path, files: int, rows: int) -> LakeTable:
    table = open_lake(folder).table("w", SORTED)
    for i in range(files):
        table.append(visits(1_000 + (files - i) * rows, rows, step=1), upto(i + 1))
    return table


def test_files_are_stretches_of_the_order_of_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "BATCH_ROWS", 2_048)
    table = _filled(tmp_path, 6, 2_000)
    total = sum(f.bytes for f in table.files())
    done = table.compact(None, Policy(file_bytes=total // 2, step_bytes=2 * total))
    assert done is not None
    assert (done.files_before, done.rows) == (6, 12_000)
    assert done.files_after >= 2
    ranges = []
    for held in table.files():
        ids = pq.read_table(local_path(held.location), partitioning=None).column("visit_id").to_pylist()
        assert ids == sorted(ids)
        ranges.append((ids[0], ids[-1]))
    ranges.sort()
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ranges))


def test_a_compaction_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    table = _filled(tmp_path, 3, 10)
    before = set(tmp_path.rglob("*.parquet"))
    with pytest.raises(Stopped):
        table.compact(None, stopping=lambda: True)
    assert set(tmp_path.rglob("*.parquet")) == before
    assert table.compact(None) is not None


def test_values_that_changed_on_disk_stop_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _filled(tmp_path, 3, 10)
    before = [f.location for f in table.files()]
    digest = compaction.digest

    def other(*asked: object) -> tuple[int, int]:
        rows, total = digest(*asked)  # type: ignore[arg-type]
        return rows, total + len(list(asked[2]))  # type: ignore[call-overload]

    monkeypatch.setattr("profilelake.lake.gathering.digest", other)
    with pytest.raises(Corrupt, match="with other values"):
        table.compact(None)
    assert [f.location for f in table.files()] == before
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    table = _filled(tmp_path, 3, 10)
    path = local_path(table.files()[0].location)
    data = path.read_bytes()
    path.write_bytes(b"PAR1" + bytes(len(data) - 4))
    with pytest.raises(Corrupt, match="lake verify"):
        table.compact(None)
    path.write_bytes(data)
    assert table.compact(None) is not None


def test_rows_of_every_type_survive(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("w", SORTED)
    odd = visits(0, 3).set_column(
        2, SORTED.schema().field("tags"), pa.array([None, [], ["", None]], pa.list_(pa.string()))
    )
    table.append(odd, upto(1))
    table.append(visits(3, 2, at=START + 1), upto(2))
    before = table.scan().sort_by("visit_id")
    table.compact(None)
    assert table.scan().sort_by("visit_id").equals(before)
    assert len(table.files()) == 1
    assert os.stat(local_path(table.files()[0].location)).st_size == table.files()[0].bytes  # noqa: PTH116
