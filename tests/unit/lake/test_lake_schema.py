from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from lake_examples import DAY, MEMBERS, START, VISITS, members, open_lake, upto, visits
from profilelake.errors import Internal, Invalid
from profilelake.lake.catalog import Lake
from profilelake.lake.schema import changes_definition, checked, iceberg_schema, partitions, sql_type
from profilelake.lake.tables import Column


def test_a_new_column_reads_as_null_in_old_rows(tmp_path: Path) -> None:
    open_lake(tmp_path).table("w", VISITS).append(visits(0, 2), upto(1))
    grown = replace(VISITS, columns=(Column("city", pa.string(), "where", personal=True), *VISITS.columns))
    table = open_lake(tmp_path).table("w", grown)
    new = visits(2, 1).append_column("city", pa.array(["Graz"]))
    table.append(new.select([c.name for c in grown.columns]), upto(2))
    assert sorted(table.scan(["visit_id", "city"]).to_pydict()["city"], key=str) == ["Graz", None, None]
    assert table.properties()["write.metadata.metrics.column.city"] == "none"
    # Declared first, stored last: rows must still land in the right columns.
    assert set(table.scan().column("visit_id").to_pylist()) == {"v0", "v1", "v2"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (VISITS.columns[:-2] + VISITS.columns[-1:], r"has columns \['amount'\]"),
        ((*VISITS.columns, Column("x", pa.int64(), "x", required=True)), "new column 'x' is required"),
        (
            tuple(replace(c, type=pa.string()) if c.name == "amount" else c for c in VISITS.columns),
            "'amount' is long in the lake and string",
        ),
    ],
)
def test_other_differences_are_refused(tmp_path: Path, columns: tuple[Column, ...], says: str) -> None:
    open_lake(tmp_path).table("w", VISITS)
    with pytest.raises(Invalid, match=says):
        open_lake(tmp_path).table("w", replace(VISITS, columns=columns))


def test_another_partitioning_or_kind_is_refused(tmp_path: Path) -> None:
    open_lake(tmp_path).table("w", VISITS)
    with pytest.raises(Invalid, match="partitioned"):
        open_lake(tmp_path).table("w", replace(VISITS, day=None))
    with pytest.raises(Invalid, match="is 'append' in the lake"):
        open_lake(tmp_path).current_table("w", replace(MEMBERS, name="visits"))


@pytest.mark.parametrize("workspace", ["", "a.b", "a/b", "ä", "x" * 65])
def test_workspace_names_cannot_leave_their_namespace(tmp_path: Path, workspace: str) -> None:
    with pytest.raises(Invalid, match="opening workspace"):
        open_lake(tmp_path).table(workspace, VISITS)


@pytest.mark.parametrize("name", ["a*", "a[1]", "a%20", "a?b", "a#b"])
def test_a_warehouse_that_readers_would_take_for_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="choose another"):
        Lake.open(f"sqlite:///{tmp_path}/c.db", tmp_path / name)


def test_a_catalog_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="'mysql' is no kind of catalog"):
        Lake.open("mysql://host/db", tmp_path)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (visits(0, 1).drop_columns(["email"]), "columns differ .*'email'"),
        (visits(0, 1).append_column("more", pa.array([1])), "columns differ .*'more'"),
        (visits(0, 1).set_column(3, "amount", pa.array([1.5])), "amount is double, not int64"),
        (
            visits(0, 1).set_column(0, "visit_id", pa.array([None], pa.string())),
            "1 nulls in required visit_id",
        ),
    ],
)
def test_rows_that_are_not_of_the_definition_are_our_bug(rows: pa.Table, says: str) -> None:
    with pytest.raises(Internal, match=says):
        checked(VISITS, rows)


def test_slots_outside_16_bits_are_our_bug() -> None:
    rows = members({"m1": 1})
    rows = rows.set_column(1, "slot", pa.array([65_536], pa.int32()))
    with pytest.raises(Internal, match="slots"):
        checked(MEMBERS, rows)


def test_days_are_counted_from_1970_downwards_too() -> None:
    days = [-1, 0, 19_675]
    at = [-1, 0, 19_675 * DAY + DAY - 1]
    rows = pa.concat_tables([visits(i, 1, at=t) for i, t in enumerate(at)])
    assert [p[0] for p, _ in partitions(VISITS, rows)] == days


def test_buckets_are_the_upper_four_bits_of_the_slot() -> None:
    rows = members({"m1": 1, "m2": 2, "m13": 3})  # Slots 5003, 10006, 65039.
    assert {p[0]: part.num_rows for p, part in partitions(MEMBERS, rows)} == {4096: 1, 8192: 1, 61_440: 1}


def test_one_partition_is_passed_on_uncopied() -> None:
    rows = visits(0, 3, at=START)
    assert [part for _, part in partitions(VISITS, rows)] == [rows]


def test_the_log_requires_key_and_slot_only() -> None:
    log = changes_definition(MEMBERS)
    assert log.name == "members_changes"
    assert [c.name for c in log.columns if c.required] == ["seq", "op", "member_id", "slot"]
    assert {c.name for c in log.columns if c.personal} == {"address"}


def test_every_declared_type_has_a_sql_type() -> None:
    struct = pa.struct([("a b", pa.int64()), ("c", pa.list_(pa.date32()))])
    columns = (
        Column("i", pa.int32(), "x"),
        Column("f", pa.binary(16), "x"),
        Column("b", pa.binary(), "x"),
        Column("d", pa.decimal128(20, 4), "x"),
        Column("s", struct, "x"),
        Column("m", pa.map_(pa.string(), pa.bool_()), "x"),
    )
    fields = iceberg_schema(replace(VISITS, columns=columns)).fields
    assert [sql_type(f.field_type) for f in fields] == [
        "INTEGER",
        "BLOB",
        "BLOB",
        "DECIMAL(20,4)",
        'STRUCT("a b" BIGINT, "c" DATE[])',
        "MAP(VARCHAR, BOOLEAN)",
    ]
