"""Another engine's own reader finds the rows in our tables that we put there: digests of either are equal."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from cluster.lake_places import Placed, placed
from cluster.spark_sessions import SparkSql, spark_sql
from cluster_servers import S3Server
from lake_examples import upto
from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder
from pipeline_history import batches, history
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.publish import APPENDED, CURRENT
from profilelake.plans.digests import digest, digest_tables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # a JVM, its packages and catalogs take their time on a busy machine


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[SparkSql]:
    with spark_sql(tmp_path_factory.mktemp("spark"), s3) as session:
        yield session


@pytest.fixture(params=["postgresql-files"])
def at(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSql
) -> Iterator[Placed]:
    with placed(request.param, tmp_path, request, monkeypatch) as found:
        spark.use(found.place)
        yield found


def test_the_reader_of_spark_finds_the_same_rows(at: Placed, spark: SparkSql, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk")
    log = LogBuilder("00000000000000aa")
    for number, batch in enumerate(batches(1, [message for _, message in history(7, 60)])):
        desk.apply([log.record(START + number * SECOND, batch)])
    desk.publish()
    desk.rebuild()
    lake = at.open()
    for definition in (EVENTS, *APPENDED):
        if not definition.part:
            lake.table(at.workspace, definition).append(
                desk.lake.table(WORKSPACE, definition).scan(), upto(1)
            )
    for definition in CURRENT:
        rows = desk.lake.current_table(WORKSPACE, definition).scan()
        lake.current_table(at.workspace, definition).replace(rows, upto(1))
    desk.close()
    tables = [table.name for table in (EVENTS, *APPENDED, *CURRENT) if not table.part]
    found = digest_tables(EmbeddedEngine(tmp_path / "engine"), lake, at.workspace, tables)
    assert sum(one.digest.rows > 0 for one in found) > len(CURRENT)
    for one in found:
        folder = tmp_path / "read" / one.table
        name = f"profilelake.ws_{at.workspace}.{one.table}"
        spark.rows(f"INSERT OVERWRITE DIRECTORY 'file://{folder}' USING parquet TABLE {name}")
        read = ds.dataset(folder, format="parquet").to_table() if one.digest.rows else None
        assert (digest([read]) if read is not None else one.digest) == one.digest, one.table
