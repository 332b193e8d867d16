"""PostgreSQL that is locked, refuses us, or ends our connections: what is said, and that nothing is lost."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from cluster.lake_places import Placed, database, placed
from lake_examples import VISITS, upto, visits
from profilelake.errors import Conflict, Corrupt, Invalid, Unavailable
from profilelake.lake import catalog_probe, catalogs, sql_catalog
from profilelake.lake.catalog import Lake
from profilelake.lake.catalog_probe import probe
from profilelake.lake.place import LakePlace


@pytest.fixture
def at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Placed]:
    monkeypatch.setattr(sql_catalog, "BUSY_TIMEOUT_SECONDS", 1)
    with placed("postgresql-files", tmp_path, request, monkeypatch) as found:
        yield found


def test_a_locked_row_is_told_at_once_and_the_call_repeated(at: Placed, tmp_path: Path) -> None:
    table = at.open().table(at.workspace, VISITS)
    table.append(visits(0, 1), upto(1))
    files = set(tmp_path.rglob("*.parquet"))
    with psycopg.connect(at.place.catalog) as other:
        other.execute("SELECT * FROM iceberg_tables FOR UPDATE").fetchall()
        with pytest.raises(Unavailable, match=r"the catalog is locked: .* another transaction holds it"):
            table.append(visits(1, 1), upto(2))
        assert set(tmp_path.rglob("*.parquet")) == files  # for certain not committed, so nothing is left
    assert table.append(visits(1, 1), upto(2))
    assert table.scan().num_rows == 2


def test_doctor_names_who_holds_the_lock(at: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(at.place.catalog) as other:
        at.open()
        other.execute("LOCK TABLE iceberg_tables IN ROW EXCLUSIVE MODE")
        now = "AND a.xact_start < clock_timestamp() - interval '5 seconds'"
        monkeypatch.setattr(catalog_probe, "_HOLDERS", _without(now))
        found = probe(at.place)
        assert [pid for pid, _ in found.holders] == [other.info.backend_pid]
    found = probe(at.place)
    assert found.holders == ()
    assert found.stale_commit_refused
    assert found.version.startswith("PostgreSQL ")
    assert at.open().pointers() == {}
    with psycopg.connect(at.place.catalog) as other:
        left = other.execute("SELECT count(*) FROM iceberg_namespace_properties").fetchone()
    assert left == (0,)


def _without(condition: str) -> object:
    return text(str(catalog_probe._HOLDERS).replace(condition, ""))


def test_connections_that_were_ended_are_made_anew(at: Placed) -> None:
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    for number in range(3):
        with psycopg.connect(at.place.catalog, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert table.append(visits(number, 1), upto(number + 1))
        assert lake.load(at.workspace, "visits").progress == upto(number + 1)


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def test_a_database_that_holds_something_else_is_refused(at: Placed) -> None:
    run(at.place.catalog, "CREATE TABLE iceberg_tables (something int)")
    with pytest.raises(Invalid, match=r"another version than V1|holds something else"):
        at.open().table(at.workspace, VISITS)


def test_a_catalog_of_schema_v0_is_refused_with_the_line_that_mends_it(at: Placed) -> None:
    with psycopg.connect(at.place.catalog, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE iceberg_tables (catalog_name varchar(255), table_namespace varchar(255), table_name "
            "varchar(255), metadata_location varchar(1000), previous_metadata_location varchar(1000))"
        )
        connection.execute(
            "CREATE TABLE iceberg_namespace_properties (catalog_name varchar(255), namespace varchar(255), "
            "property_key varchar(255), property_value varchar(1000))"
        )
    with pytest.raises(Invalid, match="schema V0") as told:
        at.open()
    run(at.place.catalog, str(told.value).partition("run there: ")[2])
    assert at.open().table(at.workspace, VISITS).append(visits(0, 1), upto(1))


def test_a_missing_database_and_a_role_without_rights_are_told(at: Placed, postgres: str) -> None:
    nowhere = urlsplit(postgres)._replace(path="/nowhere").geturl()
    with pytest.raises(Invalid, match=r"does not exist; make the database first: createdb"):
        Lake.at(LakePlace.at(nowhere, at.place.warehouse))
    at.open()
    run(postgres, f'CREATE ROLE "{at.workspace}" LOGIN')
    stranger = at.place.catalog.replace("profilelake@", f"{at.workspace}@")
    with pytest.raises(Invalid, match=r"permission denied .*GRANT"):
        Lake.at(LakePlace.at(stranger, at.place.warehouse))


def test_two_installations_do_not_share_a_database(at: Placed, tmp_path: Path) -> None:
    at.open().table(at.workspace, VISITS).append(visits(0, 1), upto(1))
    with pytest.raises(Conflict, match="those of another installation"):
        Lake.at(LakePlace.at(at.place.catalog, tmp_path / "other"))


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"does not answer: .*retry later"):
        Lake.at(LakePlace.at("postgresql://profilelake@127.0.0.1:1/x", tmp_path))
    with pytest.raises(Unavailable, match="does not answer"):
        catalogs.open_catalog(LakePlace("http://127.0.0.1:1", f"file://{tmp_path}", auth="none"))


def test_a_role_of_its_own_database_makes_its_tables(postgres: str, tmp_path: Path) -> None:
    place = LakePlace.at(database(postgres, f"d{tmp_path.name[-20:]}".replace("-", "_")), tmp_path)
    assert Lake.at(place).pointers() == {}


def test_a_lost_catalog_does_not_begin_over_the_files_on_a_store(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with placed("sqlite-s3", tmp_path, request, monkeypatch) as at:
        at.open().table(at.workspace, VISITS).append(visits(0, 3), upto(1))
        (tmp_path / "catalog.db").unlink()
        with pytest.raises(Corrupt, match=r"there are files of a table.* restore the catalog from backup"):
            at.open().table(at.workspace, VISITS)
