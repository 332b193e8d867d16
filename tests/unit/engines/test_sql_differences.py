"""Where the same SQL means something else on DuckDB and on Spark: DuckDB's side, and the page about it."""

from pathlib import Path

import pytest

from profilelake.lake import sql
from sql_differences import DIFFERENCES, ERROR, Difference, answer

PAGE = Path(__file__).parents[3] / "docs" / "sql-engines.md"


@pytest.mark.parametrize("one", DIFFERENCES, ids=lambda one: one.name)
def test_what_duckdb_gives(one: Difference, tmp_path: Path) -> None:
    connection = sql.connect("100MB", str(tmp_path))
    told = [answer(lambda query: connection.sql(query).fetchall(), text) for text in (one.sql, one.portable)]
    connection.close()
    assert told == [one.duckdb, one.answer]


def test_the_page_has_a_line_for_each() -> None:
    lines = PAGE.read_text().splitlines()
    assert [one.line() for one in DIFFERENCES if one.line() not in lines] == []


def test_each_is_a_difference() -> None:
    names = [one.name for one in DIFFERENCES]
    assert len(names) == len(set(names))
    for one in DIFFERENCES:
        assert one.answer != ERROR
        assert len({one.duckdb, one.spark, one.spark_35 or one.spark}) > 1 or one.duckdb == ERROR, one.name
