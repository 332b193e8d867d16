"""What other engines are told of a lake: complete, of fitting versions, and without secrets."""

import ast
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from lake_examples import VISITS, open_lake, upto, visits
from profilelake.errors import Invalid
from profilelake.lake import connections
from profilelake.lake.place import LakePlace
from profilelake.settings import StorageOptions

PAGE = (Path(__file__).parents[3] / "docs" / "spark.md").read_text()
DATABASE = LakePlace.at("postgresql://profilelake@db.example.org/profilelake", "/data/profilelake-data/lake")
BUCKET = replace(
    LakePlace.at(
        "postgresql://some%40one@h:5433/d?sslmode=verify-full&sslrootcert=/ca&application_name=x", "s3://b/p"
    ),
    storage=StorageOptions(endpoint="https://s3.example.org:9000", region="eu-west-1"),
)
SERVED = replace(
    LakePlace.at("https://rest.example.org/api/", "s3://b/p"), options="warehouse=w, scope=PRINCIPAL_ROLE:ALL"
)
NAMED = "spark.sql.catalog.profilelake"


def test_the_page_shows_what_is_printed() -> None:
    assert " \\\n  ".join(["spark-sql", *connections.spark(DATABASE).options()]) in PAGE
    for runtime in connections.SPARK.values():
        assert f"iceberg-spark-runtime-{runtime}:{connections.ICEBERG}" in PAGE


def test_spark_reaches_postgresql_and_a_bucket() -> None:
    lines = connections.spark(BUCKET, "3.5")
    assert lines.packages == (
        "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.12.0",
        "org.postgresql:postgresql:42.7.8",
        "org.apache.iceberg:iceberg-aws-bundle:1.12.0",
    )
    told = lines.properties
    assert told[f"{NAMED}.uri"] == "jdbc:postgresql://h:5433/d?sslmode=verify-full&sslrootcert=%2Fca"
    assert told[f"{NAMED}.jdbc.user"] == "some@one"
    assert told[f"{NAMED}.s3.endpoint"] == "https://s3.example.org:9000"
    assert told[f"{NAMED}.client.region"] == "eu-west-1"
    assert told[f"{NAMED}.cache-enabled"] == "false"


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        ("oauth", "credential", "env:PROFILELAKE_CATALOG_SECRET"),
        ("bearer", "token", "env:PROFILELAKE_CATALOG_SECRET"),
        ("sigv4", "rest.sigv4-enabled", "true"),
        ("none", "warehouse", "w"),
    ],
)
def test_spark_is_told_how_a_rest_catalog_knows_us(auth: str, name: str, value: str) -> None:
    told = connections.spark(replace(SERVED, auth=auth)).properties
    assert told[f"{NAMED}.{name}"] == value
    assert told[f"{NAMED}.uri"] == "https://rest.example.org/api"
    assert (f"{NAMED}.oauth2-server-uri" in told) is (auth == "oauth")


def test_versions_that_nobody_tried_are_refused() -> None:
    with pytest.raises(Invalid, match=r"an Iceberg runtime was tried for 4\.1, 3\.5"):
        connections.spark(DATABASE, "4.3")


def test_trino_takes_secrets_from_its_environment() -> None:
    told = connections.trino(BUCKET)
    assert told["iceberg.jdbc-catalog.catalog-name"] == "profilelake"
    assert told["iceberg.jdbc-catalog.connection-password"] == "${ENV:PROFILELAKE_CATALOG_SECRET}"
    served = connections.trino(SERVED)
    assert served["iceberg.rest-catalog.oauth2.scope"] == "PRINCIPAL_ROLE:ALL"
    assert served["iceberg.rest-catalog.warehouse"] == "w"
    with pytest.raises(Invalid, match="it reads no SQLite catalog"):
        connections.trino(LakePlace.at("sqlite:////c", "/w"))


@pytest.mark.parametrize("place", [DATABASE, BUCKET, SERVED, replace(SERVED, auth="bearer")])
def test_python_for_pyiceberg_is_python(place: LakePlace) -> None:
    text = "\n".join(connections.pyiceberg(place))
    ast.parse(text)
    assert ("PROFILELAKE_CATALOG_SECRET" in text) is (place.kind == "rest")


def test_pyiceberg_loads_a_table_by_what_it_is_told(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 3), upto(1))
    scope: dict[str, object] = {}
    exec("\n".join(connections.pyiceberg(lake.place)), scope)  # noqa: S102 - as a reader of the page does
    table = scope["catalog"].load_table("ws_w.visits")  # type: ignore[attr-defined]
    assert table.scan().to_arrow().num_rows == 3


def test_sql_for_duckdb_is_sql() -> None:
    pointers = {("ws_w", "it's"): "s3://b/p/ws_w/it's/metadata/1.metadata.json"}
    for place in (DATABASE, BUCKET, SERVED):
        lines = connections.duckdb(place, pointers)
        # The extension of Iceberg need not be here: what only it understands is parsed, not run.
        assert duckdb.extract_statements("\n".join(line for line in lines if "SECRET" not in line))
    assert "iceberg_scan('s3://b/p/ws_w/it''s/metadata/1.metadata.json')" in "\n".join(
        connections.duckdb(BUCKET, pointers)
    )
    assert any(line.startswith("ATTACH 'w' AS profilelake") for line in connections.duckdb(SERVED, {}))
