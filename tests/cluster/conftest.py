"""What tests of a cluster share: one Spark session, one S3 server, one PostgreSQL of a run, all real."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from cluster_servers import S3Server, postgresql, seaweed
from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine

TESTS = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of this folder, so that nobody runs it without its environment."""
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)
            # Spark's own client warns of itself, and leaves sockets to the garbage collector.
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session on this machine: two tasks at a time, each tried four times, in one gigabyte."""
    folder = tmp_path_factory.mktemp("spark")
    # Workers import what the tests hand them.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2,4]")
        .appName("profilelake tests")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.local.dir", str(folder))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def spark_engine(spark: SparkSession) -> SparkEngine:
    """The engine of a cluster, on the session of this machine."""
    return SparkEngine(spark, "local[2]")


@pytest.fixture(params=["embedded", "spark"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Every engine, one after the other; `indirect` parameters choose among them."""
    if request.param == "embedded":
        return EmbeddedEngine(tmp_path / "engine")
    chosen: SparkEngine = request.getfixturevalue("spark_engine")
    return chosen


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server, with an Iceberg REST catalog."""
    with seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: the URL of an empty database."""
    with postgresql(tmp_path_factory.mktemp("postgres") / "server") as url:
        yield url
