"""A lake that was moved, copied, or lost its catalog is refused before anything is read or written."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from lake_examples import VISITS, open_lake, upto, visits
from profilelake.errors import Conflict, Corrupt
from profilelake.lake.reading import attach, damage_told

OTHERS = replace(VISITS, name="others")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the folder of a lake with one table of three rows."""
    home = tmp_path / "home"
    home.mkdir()
    lake = open_lake(home)
    lake.table("w", VISITS).append(visits(0, 3), upto(1))
    lake.close()
    return home


def rows(folder: Path) -> int:
    with duckdb.connect() as connection:
        attach(connection, open_lake(folder), "w")
        counted = connection.execute("SELECT count(*) FROM visits").fetchall()
    return int(counted[0][0])


def test_a_copy_is_refused_while_the_original_is_there(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    with pytest.raises(Conflict, match=f"its tables lie in {home}/.*, not in {copy}/"):
        open_lake(copy)
    assert rows(home) == 3


def test_a_moved_lake_is_refused_until_a_link_leads_there(home: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    home.rename(moved)
    with pytest.raises(Conflict, match=r"move the data directory back, or make .* a symbolic link to"):
        open_lake(moved)
    home.symlink_to(moved)
    assert rows(moved) == rows(home) == 3


@pytest.mark.parametrize("catalog", [b"no database, whatever it is called" * 100, None])
def test_a_damaged_or_lost_catalog_is_not_made_anew(home: Path, catalog: bytes | None) -> None:
    file = next(path for path in home.iterdir() if path.is_file())
    file.unlink() if catalog is None else file.write_bytes(catalog)
    with pytest.raises(Corrupt, match=r"restore (it|the catalog) from backup"):
        open_lake(home)


def test_a_table_is_not_made_anew_over_the_files_of_another(home: Path) -> None:
    lake = open_lake(home)
    lake.table("w", OTHERS)
    with closing(sqlite3.connect(home / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM iceberg_tables WHERE table_name = 'visits'")
    with pytest.raises(
        Corrupt, match=r"making table visits in .*: there are files of a table.* restore the catalog"
    ):
        open_lake(home).table("w", VISITS)


@pytest.mark.parametrize("kind", ["*.parquet", "*.avro", "*.json"])
@pytest.mark.parametrize("content", [b"PAR1" + bytes(100), None])
def test_a_damaged_or_lost_file_is_told(home: Path, kind: str, content: bytes | None) -> None:
    for file in home.rglob(kind):
        file.unlink() if content is None else file.write_bytes(content)
    told = r"(?s)reading the tables: .*; restore the file from backup"
    with pytest.raises(Corrupt, match=told), damage_told():
        rows(home)
