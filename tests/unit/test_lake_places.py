"""`profilelake lake connect` and `move`: how others reach a lake, and how its catalog becomes another one."""

from pathlib import Path

import pytest

from command_line import run
from lake_examples import VISITS, upto, visits
from profilelake.lake.catalog import Lake
from profilelake.lake.place import noted_place
from profilelake.settings import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a data directory with one table."""
    layout = Layout(tmp_path / "data")
    layout.create()
    Lake.of(layout).table("default", VISITS).append(visits(0, 3), upto(1))
    return layout


def choose(layout: Layout, *lines: str) -> None:
    (layout.directory / "profilelake.toml").write_text("\n".join(["[lake]", *lines]))


def test_tables_move_to_another_catalog_where_they_are(layout: Layout) -> None:
    choose(layout, 'catalog = "sqlite:///elsewhere/c.sqlite"')
    assert b"tables:" not in run("lake", "tables", "--dir", layout.directory).out
    dry = run("lake", "move", "--dry-run", "--dir", layout.directory)
    assert dry.out.decode().startswith("1 tables would be known to sqlite:///")
    assert layout.catalog.exists()
    moved = run("lake", "move", "--dir", layout.directory, "--json").json
    assert (moved["tables"], moved["done"]) == (1, True)
    assert not layout.catalog.exists()
    assert layout.catalog.with_suffix(".sqlite.moved").exists()
    noted = noted_place(layout)
    assert noted is not None
    assert noted.catalog.endswith("/elsewhere/c.sqlite")
    table = Lake.of(layout).table("default", VISITS)
    assert table.progress() == upto(1)
    assert table.append(visits(3, 1), upto(2))


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("", 2, "it is where settings say; set lake.catalog to the new one first"),
        ('warehouse = "other"', 2, "files are taken elsewhere by backup and restore"),
    ],
)
def test_what_cannot_be_moved_is_told(layout: Layout, line: str, code: int, says: str) -> None:
    choose(layout, line)
    ran = run("lake", "move", "--dir", layout.directory)
    assert (ran.code, says in ran.err) == (code, True), ran.err


def test_a_directory_without_a_lake_has_nothing_to_move(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "new")
    layout.create()
    assert "start the server once" in run("lake", "move", "--dir", layout.directory).err


def test_connections_are_printed(layout: Layout) -> None:
    spark = run("lake", "connect", "spark", "--dir", layout.directory, "--json").json
    assert (
        spark["properties"]["spark.sql.catalog.profilelake.uri"] == f"jdbc:sqlite:{layout.catalog.absolute()}"
    )
    assert "iceberg_scan(" in run("lake", "connect", "duckdb", "--dir", layout.directory).out.decode()
    assert "SQLite catalog" in run("lake", "connect", "trino", "--dir", layout.directory).err
    assert (
        "was tried for"
        in run("lake", "connect", "spark", "--spark-version", "9", "--dir", layout.directory).err
    )
