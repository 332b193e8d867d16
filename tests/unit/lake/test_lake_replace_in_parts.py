"""Replacing a whole table by rows that come in parts."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lake_examples import MEMBERS, open_lake, upto
from profilelake.errors import Conflict, Internal
from profilelake.lake.current import CurrentTable


def part(*keys: str) -> pa.Table:
    """Return members; the slot follows from the key, as a prefix does."""
    rows = [{"member_id": key, "slot": 4096 * (ord(key[0]) - ord("a")), "points": len(key)} for key in keys]
    return pa.Table.from_pylist(rows, schema=MEMBERS.schema())


def table_in(folder: Path) -> CurrentTable:
    return open_lake(folder).current_table("w", MEMBERS)


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("warehouse/**/data/**/*.parquet"))


def test_parts_become_the_whole_table_in_one_snapshot(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.replace(part("c1"), upto(1))
    before = len(table.base.snapshots())
    assert table.replace_in_parts([part("a1", "a2"), part(), part("b1")], upto(2))
    assert sorted(table.scan().column("member_id").to_pylist()) == ["a1", "a2", "b1"]
    assert len(table.base.snapshots()) == before + 1
    assert [file.rows for file in sorted(table.base.files(), key=lambda f: f.location)].count(2) == 1


def test_the_same_replacement_again_asks_for_no_rows(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    assert table.replace_in_parts([part("a1")], upto(2))

    def never() -> Iterator[pa.Table]:
        raise AssertionError("asked for rows")
        yield

    assert not table.replace_in_parts(never(), upto(2))


@pytest.mark.parametrize(
    "parts",
    [
        [part("a2", "a1")],
        [part("a1", "a1")],
        [part("a2"), part("a1")],
        [part("a1"), part("a1", "a2")],
    ],
)
def test_keys_that_do_not_ascend_are_refused_and_leave_nothing(tmp_path: Path, parts: list[pa.Table]) -> None:
    table = table_in(tmp_path)
    table.replace(part("c1"), upto(1))
    kept = data_files(tmp_path)
    with pytest.raises(Internal, match="member_id does not ascend"):
        table.replace_in_parts(parts, upto(2))
    assert data_files(tmp_path) == kept
    assert table.scan().column("member_id").to_pylist() == ["c1"]


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    table = table_in(tmp_path)

    def failing() -> Iterator[pa.Table]:
        yield part("a1")
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        table.replace_in_parts(failing(), upto(1))
    assert data_files(tmp_path) == []


def test_a_table_that_is_further_on_keeps_its_rows_and_the_parts_are_removed(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.replace(part("c1"), upto(5))
    kept = data_files(tmp_path)
    with pytest.raises(Conflict, match="take the rows again"):
        table.replace_in_parts([part("a1")], upto(4))
    assert data_files(tmp_path) == kept
