"""Spark beside us on the same tables: reading, writing, changing, tending; what works, and what we say then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cluster.lake_places import Placed, placed
from cluster.spark_child import plain
from cluster.spark_sessions import SparkSql, spark_sql
from cluster_servers import S3Server
from lake_examples import MEMBERS, VISITS, changes, members, upto, visits
from profilelake.errors import Invalid
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.pipeline.register import TABLES

pytestmark = pytest.mark.timeout(600)  # a JVM, its packages and catalogs take their time on a busy machine


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[SparkSql]:
    with spark_sql(tmp_path_factory.mktemp("spark"), s3) as session:
        yield session


# What is read from a store does not depend on the catalog: CI has each catalog, and the store, once.
@pytest.fixture(params=["postgresql-files", pytest.param("postgresql-s3", marks=pytest.mark.slow), "rest-s3"])
def at(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSql
) -> Iterator[Placed]:
    with placed(request.param, tmp_path, request, monkeypatch) as found:
        spark.use(found.place)
        yield found


def ours(at: Placed, query: str) -> list[list[Any]]:
    with duckdb.connect() as connection:
        attach(connection, at.open(), at.workspace)
        return [[plain(value) for value in row] for row in connection.execute(query).fetchall()]


def ordered(rows: list[list[Any]]) -> list[str]:
    return sorted(json.dumps(row) for row in rows)


def name(at: Placed, table: str) -> str:
    return f"profilelake.ws_{at.workspace}.{table}"


def written(at: Placed) -> Lake:
    """Write two commits of visits and a current table with changes."""
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    table.append(visits(0, 30), upto(1))
    table.append(visits(30, 5), upto(2))
    current = lake.current_table(at.workspace, MEMBERS)
    current.replace(members({f"m{number}": number for number in range(10)}), upto(1))
    current.append_changes(
        changes(current.log.definition.schema(), [(2, "m1", 100), (2, "m2", None)]), upto(2)
    )
    return lake


def test_spark_reads_what_we_write(at: Placed, spark: SparkSql) -> None:
    written(at)
    assert ordered(spark.rows(f"SELECT * FROM {name(at, 'visits')}")) == ordered(ours(at, "FROM visits"))
    # Base and log together, by the query of docs/reading-the-lake.md.
    merged = spark.rows(f"SHOW TBLPROPERTIES {name(at, 'members')} ('profilelake.merged-through')")[0][1]
    newest = f"""
        SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY member_id ORDER BY seq DESC) AS place
            FROM {name(at, "members_changes")} WHERE seq > {int(merged)})
        WHERE place = 1"""
    found = spark.rows(
        f"""SELECT member_id, points FROM ({newest}) WHERE op = 'upsert'
        UNION ALL SELECT member_id, points FROM {name(at, "members")} AS base
        WHERE NOT EXISTS (SELECT 1 FROM ({newest}) AS late WHERE late.member_id = base.member_id)"""
    )
    assert ordered(found) == ordered(ours(at, "SELECT member_id, points FROM members"))
    assert len(found) == 9


@pytest.mark.slow
def test_spark_reads_every_table_there_is(at: Placed, spark: SparkSql) -> None:
    lake = at.open()
    for definition in TABLES:
        opened = lake.current_table if definition.kind == "current" else lake.table
        opened(at.workspace, definition)
    names = {row[1] for row in spark.rows(f"SHOW TABLES IN profilelake.ws_{at.workspace}")}
    assert names == set(lake.names(at.workspace))
    for table in sorted(names):
        assert spark.rows(f"SELECT * FROM {name(at, table)}") == []


def test_our_commits_and_those_of_spark_follow_each_other(at: Placed, spark: SparkSql) -> None:
    table = written(at).table(at.workspace, VISITS)
    spark.rows(f"DELETE FROM {name(at, 'visits')} WHERE visit_id < 'v1'")
    spark.rows(
        f"INSERT INTO {name(at, 'visits')} "
        "VALUES ('v90', 'a@example.org', array('x'), 7, timestamp '2026-01-01 00:00:00')"
    )
    # Ours was planned before: the conflict is seen, and planned anew.
    assert table.append(visits(35, 1), upto(3))
    assert table.progress() == upto(3)
    spark.rows(f"UPDATE {name(at, 'visits')} SET amount = 8 WHERE visit_id = 'v90'")
    again = at.open().table(at.workspace, VISITS)
    assert again.progress() == upto(3)  # carried past the commits of Spark
    assert not again.append(visits(35, 1), upto(3))
    rows = "SELECT count(*), sum(amount), max(visit_id) FROM "
    assert spark.rows(rows + name(at, "visits")) == ours(at, rows + "visits") == [[36, 358, "v90"]]


@pytest.mark.slow
def test_expiry_by_either_keeps_the_bearer_of_progress(at: Placed, spark: SparkSql) -> None:
    table = written(at).table(at.workspace, VISITS)
    spark.rows(f"INSERT INTO {name(at, 'visits')} SELECT * FROM {name(at, 'visits')} LIMIT 1")
    table.refresh()
    assert table.expire() == 1
    assert table.progress() == upto(2)
    spark.rows(
        f"CALL profilelake.system.rewrite_data_files(table => 'ws_{at.workspace}.visits', "
        "options => map('min-input-files', '2'))"
    )
    table.refresh()
    assert table.progress() == upto(2)
    assert table.append(visits(35, 1), upto(3))
    spark.rows(
        f"CALL profilelake.system.expire_snapshots(table => 'ws_{at.workspace}.visits', "
        "older_than => timestamp '2100-01-01 00:00:00', retain_last => 1)"
    )
    again = at.open().table(at.workspace, VISITS)
    assert len(again.snapshots()) == 1
    assert again.progress() == upto(3)
    count = "SELECT count(*) FROM "
    assert ours(at, count + "visits") == spark.rows(count + name(at, "visits")) == [[37]]
    assert again.sweep(min_age_seconds=3_600, dry_run=True) == []


@pytest.mark.parametrize("mode", ["copy-on-write", "merge-on-read"])
def test_a_merge_of_spark_is_read_or_refused_with_the_command(at: Placed, spark: SparkSql, mode: str) -> None:
    lake = written(at)
    visited = name(at, "visits")
    spark.rows(f"ALTER TABLE {visited} SET TBLPROPERTIES ('write.merge.mode' = '{mode}')")
    spark.rows(
        f"""MERGE INTO {visited} AS ours USING (SELECT 'v3' AS id) AS theirs ON ours.visit_id = theirs.id
        WHEN MATCHED THEN UPDATE SET amount = 1000"""
    )
    total = "SELECT count(*), sum(amount) FROM "
    assert spark.rows(total + visited) == [[35, 1340]]
    if mode == "merge-on-read":
        table = lake.table(at.workspace, VISITS)
        for refused in (lambda: ours(at, total + "visits"), lambda: table.append(visits(35, 1), upto(3))):
            with pytest.raises(Invalid, match=r"rewrite_data_files\(table => ") as told:
                refused()
        command = str(told.value).partition("CALL ")[2].partition(")); ")[0] + "))"
        spark.rows(f"CALL {command}")
        assert table.append(visits(35, 1), upto(3))
        assert ours(at, total + "visits") == [[36, 1350]]
    else:
        assert ours(at, total + "visits") == [[35, 1340]]


@pytest.mark.parametrize("version", [2, 3])
def test_a_table_of_spark_is_read_beside_ours(at: Placed, spark: SparkSql, version: int) -> None:
    written(at)
    schema = f"profilelake.ws_{at.workspace}_linked"
    spark.rows(f"CREATE NAMESPACE IF NOT EXISTS {schema}")
    spark.rows(
        f"""CREATE TABLE {schema}.orders (id bigint, visit_id string, total decimal(10, 2), at timestamp)
        USING iceberg PARTITIONED BY (bucket(4, visit_id), days(at))
        TBLPROPERTIES ('format-version' = '{version}')"""
    )
    spark.rows(
        f"INSERT INTO {schema}.orders SELECT id, concat('v', id), id / 4, timestamp '2026-03-01 12:00:00' "
        "FROM range(20)"
    )
    query = f"""SELECT o.id, o.total, v.email, o.at FROM ws_{at.workspace}_linked.orders o
        JOIN visits v USING (visit_id)"""
    in_spark = query.replace("ws_", "profilelake.ws_").replace("JOIN visits", f"JOIN {name(at, 'visits')}")
    assert ordered(ours(at, query)) == ordered(spark.rows(in_spark))
    assert len(ours(at, query)) == 20
