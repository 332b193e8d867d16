"""Tables that owners of a workspace put beside ours: from files, read by SQL, replaced as a whole."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from profilelake.errors import Invalid
from profilelake.lake.catalog import Lake
from profilelake.lake.linked import read_rows
from profilelake.lake.reading import attach, columns


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(f"sqlite:///{tmp_path}/catalog.sqlite", tmp_path / "lake")


def rows_of(lake: Lake, table: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        assert f"ws_default_linked.{table}" in attach(connection, lake, "default")
        return connection.sql(f"SELECT * FROM ws_default_linked.{table} ORDER BY ALL").fetchall()  # noqa: S608 - of the test


def test_rows_are_read_under_the_namespace_of_linked_tables_and_replaced_whole(lake: Lake) -> None:
    lake.put_linked("default", "orders", pa.table({"user_id": ["u1", "u2"], "total": [1, 2]}))
    assert rows_of(lake, "orders") == [("u1", 1), ("u2", 2)]
    lake.put_linked("default", "orders", pa.table({"user_id": ["u3"], "total": [3]}))
    assert rows_of(lake, "orders") == [("u3", 3)]
    lake.put_linked("default", "orders", pa.table({"email": ["e"]}))
    assert rows_of(lake, "orders") == [("e",)]


def test_what_a_linked_table_holds_counts_as_personal(lake: Lake) -> None:
    lake.put_linked("default", "orders", pa.table({"a": [1]}))
    assert [column.personal for column in columns(lake, "default", "orders", "linked")] == [True]


@pytest.mark.parametrize(
    ("name", "text"), [("o.csv", "user_id,total\nu1,5\n"), ("o.ndjson", '{"user_id":"u1","total":5}\n')]
)
def test_files_are_read_by_what_their_names_end_in(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_rows(tmp_path / name).to_pylist() == [{"user_id": "u1", "total": 5}]


def test_what_cannot_be_linked_is_said(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "broken.parquet").write_text("no")
    for file, said in (("x.xls", "ends in"), ("broken.parquet", "broken")):
        with pytest.raises(Invalid, match=said):
            read_rows(tmp_path / file)
    with pytest.raises(Invalid, match="letters, digits"):
        lake.put_linked("default", "../x", pa.table({"a": [1]}))
