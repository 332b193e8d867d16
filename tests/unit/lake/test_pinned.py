from pathlib import Path

import duckdb

from lake_examples import MEMBERS, VISITS, changes, members, open_lake, upto, visits
from profilelake.lake.pinned import PinnedFile, PinnedTable, Share


def _rows(table: PinnedTable, shares: list[Share]) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return [row for share in shares for row in connection.sql(table.shape.select(share, str)).fetchall()]


def test_shares_together_are_the_table_as_it_was(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    for number in range(4):
        table.append(visits(10 * number, 10), upto(number + 1))
    pinned = PinnedTable.of(lake, "w", VISITS.name)
    before = pinned.snapshots
    table.append(visits(40, 10), upto(5))
    assert pinned.rows == 40
    assert len(pinned.shares(1)) == 4
    assert len(pinned.shares(pinned.bytes)) == 1
    assert len(pinned.shares(pinned.bytes - 1)) == 2
    for size in (1, pinned.bytes):
        assert len({row[0] for row in _rows(pinned, pinned.shares(size))}) == 40
    assert PinnedTable.of(lake, "w", VISITS.name).snapshots != before


def test_a_table_without_files_has_no_shares_but_its_columns(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS)
    pinned = PinnedTable.of(lake, "w", VISITS.name)
    assert pinned.shares(1) == []
    with duckdb.connect() as connection:
        nothing = connection.sql(pinned.shape.select(Share(VISITS.name, ()), str))
        assert nothing.columns == [column.name for column in VISITS.columns]
        assert nothing.fetchall() == []


def test_what_changed_since_is_told_by_the_log_alone(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.current_table("w", MEMBERS)
    table.replace(members({"m1": 1, "m2": 2, "m3": 3}), upto(1))
    table.append_changes(changes(table.log.definition.schema(), [(2, "m2", 20), (2, "m3", None)]), upto(2))
    pinned = PinnedTable.of(lake, "w", MEMBERS.name)
    *base, log = pinned.shares(1)
    assert [(row[0], row[2]) for row in _rows(pinned, base)] == [("m1", 1)]
    assert [(row[0], row[2]) for row in _rows(pinned, [log])] == [("m2", 20)]


def test_files_that_no_snapshot_has_can_be_read_with_a_table(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    table.append(visits(0, 10), upto(1))
    (handed,) = table.files_elsewhere().write(visits(10, 5))
    pinned = PinnedTable.of(lake, "w", VISITS.name)
    more = pinned.adding([PinnedFile(handed.location, handed.rows, handed.size)])
    assert len(_rows(more, more.shares(1))) == 15
    assert pinned.rows == 10
