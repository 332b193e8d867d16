from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from lake_examples import MEMBERS, changes, members, open_lake, upto
from profilelake.errors import Conflict, Internal, Invalid
from profilelake.lake.current import MERGED_THROUGH, CurrentTable
from profilelake.lake.tables import Column, TableDef


def _open(folder: Path) -> CurrentTable:
    return open_lake(folder).current_table("w", MEMBERS)


def _change(table: CurrentTable, sequence: int, *rows: tuple[str, int | None], epoch: str = "e1") -> bool:
    made = changes(table.log.definition.schema(), [(sequence, m, p) for m, p in rows])
    return table.append_changes(made, upto(sequence, epoch))


def _points(table: CurrentTable) -> dict[str, int]:
    return {row["member_id"]: row["points"] for row in table.scan().to_pylist()}


def test_changes_are_seen_before_and_after_merging(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 1, ("m1", 1), ("m2", 2), ("m3", 3))
    _change(table, 2, ("m1", 10), ("m2", None))
    assert _points(table) == {"m1": 10, "m3": 3}
    assert table.base.files() == []
    assert table.merge()
    assert _points(table) == {"m1": 10, "m3": 3}
    assert table.base.scan().num_rows == 2
    assert table.base.properties()[MERGED_THROUGH] == "2"
    assert table.base.progress() == upto(2)
    assert not table.merge()


def test_merging_rewrites_only_buckets_with_changes(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 1, *((f"m{i}", i) for i in range(1, 14)))
    table.merge()
    before = {f.partition: f.location for f in table.base.files()}
    _change(table, 2, ("m1", 100))
    table.merge()
    after = {f.partition: f.location for f in table.base.files()}
    assert before.keys() == after.keys()
    assert [b for b in before if before[b] != after[b]] == [4096]


def test_a_bucket_that_loses_its_last_row_loses_its_file(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 1, ("m1", 1), ("m13", 1))
    table.merge()
    _change(table, 2, ("m1", None))
    table.merge()
    assert [f.partition for f in table.base.files()] == [61_440]
    assert _points(table) == {"m13": 1}


def test_the_log_is_cut_one_generation_late(tmp_path: Path) -> None:
    table = _open(tmp_path)
    for sequence in (1, 2, 3):
        _change(table, sequence, ("m1", sequence))
        table.merge()
    assert table.log.scan(["seq"]).column("seq").to_pylist() == [3]
    assert table.log.progress() == upto(3)
    assert _points(table) == {"m1": 3}


def test_the_same_progress_writes_nothing(tmp_path: Path) -> None:
    table = _open(tmp_path)
    assert _change(table, 1, ("m1", 1))
    assert not _change(table, 1, ("m1", 1))
    table.merge()
    assert not _change(table, 1, ("m1", 1))
    assert not _change(_open(tmp_path), 1, ("m1", 1))
    assert table.progress() == upto(1)


def test_replace_makes_changes_up_to_its_sequence_void(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 1, ("m1", 1), ("m2", 2))
    _change(table, 3, ("m3", 3))
    assert table.replace(members({"m1": 7}), upto(2))
    assert _points(table) == {"m1": 7, "m3": 3}
    assert not table.replace(members({"m1": 8}), upto(2))
    table.merge()
    assert _points(table) == {"m1": 7, "m3": 3}
    with pytest.raises(Conflict, match="contains changes up to 3"):
        table.replace(members({"m1": 9}), upto(1))


def test_replace_is_newer_than_a_change_of_its_own_sequence(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 3, ("m1", 1), ("m2", 2))
    table.replace(members({"m1": 7}), upto(3))
    assert _points(table) == {"m1": 7}
    # Whoever has planned a read of the base before still finds its changes.
    assert table.log.scan(["seq"]).column("seq").to_pylist() == [3, 3]
    assert not table.merge()
    assert _points(table) == {"m1": 7}


def test_replace_divides_changes_that_came_in_one_file(tmp_path: Path) -> None:
    table = _open(tmp_path)
    made = changes(table.log.definition.schema(), [(3, "m1", 1), (4, "m2", 2)])
    table.append_changes(made, upto(4))
    table.replace(members({"m1": 7}), upto(3))
    assert _points(table) == {"m1": 7, "m2": 2}
    table.merge()
    assert _points(table) == {"m1": 7, "m2": 2}


def test_a_new_epoch_begins_with_replace_and_ends_the_old_one(tmp_path: Path) -> None:
    table = _open(tmp_path)
    _change(table, 50, ("m1", 1), ("m2", 2))
    with pytest.raises(Conflict, match="begin the new epoch"):
        _change(table, 1, ("m1", 2), epoch="e2")
    assert table.replace(members({"m3": 3}), upto(4, "e2"))
    # The old changes are numbered above the new epoch's, and yet do not count.
    assert _points(table) == {"m3": 3}
    assert table.log.files() == []
    assert _change(table, 5, ("m4", 4), epoch="e2")
    assert _points(table) == {"m3": 3, "m4": 4}
    for old in (51, 4):
        with pytest.raises(Conflict, match="stop an old writer"):
            _change(table, old, ("m1", 1), epoch="e1")
    with pytest.raises(Conflict, match="replacing"):
        table.replace(members({}), upto(99, "e1"))
    table.merge()
    assert _points(_open(tmp_path)) == {"m3": 3, "m4": 4}


def test_a_table_without_slots_is_one_bucket(tmp_path: Path) -> None:
    table = open_lake(tmp_path).current_table("w", replace(MEMBERS, slot=None))
    for sequence in (1, 2):
        _change(table, sequence, ("m1", sequence), (f"m{sequence + 1}", 1))
        table.merge()
    assert _points(table) == {"m1": 2, "m2": 1, "m3": 1}
    assert len(table.base.files()) == 1


def test_base_files_are_sorted_by_slot_and_key(tmp_path: Path) -> None:
    table = _open(tmp_path)
    table.replace(members({f"m{i}": i for i in range(40, 0, -1)}), upto(1))
    for file in table.base.files():
        rows = pa.parquet.read_table(file.location.removeprefix("file://"), partitioning=None)
        keys = list(zip(rows.column("slot").to_pylist(), rows.column("member_id").to_pylist(), strict=True))
        assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(0, "m1", 1)], "seq 0 to 0 is not within 2 to 5"),
        ([(6, "m1", 1)], "not within"),
        ([(1, "m1", 1)], "not within"),
        ([(2, "m1", 1), (2, "m1", 2)], "changes twice at one seq"),
    ],
)
def test_changes_out_of_order_are_our_bug(
    tmp_path: Path, rows: list[tuple[int, str, int | None]], says: str
) -> None:
    table = _open(tmp_path)
    _change(table, 1, ("m9", 1))
    with pytest.raises(Internal, match=says):
        table.append_changes(changes(table.log.definition.schema(), rows), upto(5))


def test_changes_of_an_unknown_kind_are_our_bug(tmp_path: Path) -> None:
    table = _open(tmp_path)
    made = changes(table.log.definition.schema(), [(1, "m1", 1)])
    made = made.set_column(1, table.log.definition.schema().field("op"), pa.array(["insert"]))
    with pytest.raises(Internal, match="op is one of"):
        table.append_changes(made, upto(1))


def test_two_rows_of_one_key_are_our_bug(tmp_path: Path) -> None:
    twice = pa.concat_tables([members({"m1": 1}), members({"m1": 2})])
    with pytest.raises(Internal, match="same member_id"):
        _open(tmp_path).replace(twice, upto(1))


def test_tables_are_opened_as_what_they_are(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    with pytest.raises(Invalid, match="use current_table"):
        lake.table("w", MEMBERS)
    with pytest.raises(Invalid, match="has a key"):
        lake.current_table("w", replace(MEMBERS, key=None))


def test_keys_may_be_hashes(tmp_path: Path) -> None:
    columns = (
        Column("set_id", pa.binary(16), "key", required=True),
        Column("slot", pa.int32(), "slot", required=True),
        Column("parts", pa.list_(pa.struct([("kind", pa.string()), ("id", pa.binary(16))])), "nested"),
    )
    definition = TableDef("sets", columns, "Sets.", kind="current", key="set_id", slot="slot")
    table = open_lake(tmp_path).current_table("w", definition)
    first, second = bytes(16), bytes(range(16))
    rows = [{"set_id": first, "slot": 0, "parts": [{"kind": "k", "id": second}]}]
    table.replace(pa.Table.from_pylist(rows, schema=definition.schema()), upto(1))
    change = {"seq": 2, "op": "upsert", "set_id": second, "slot": 1, "parts": None}
    schema = table.log.definition.schema()
    table.append_changes(pa.Table.from_pylist([change], schema=schema), upto(2))
    expected = [*rows, {"set_id": second, "slot": 1, "parts": None}]
    assert table.scan().sort_by("slot").to_pylist() == expected
    table.merge()
    assert table.base.scan().to_pylist() == expected
