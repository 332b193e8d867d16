"""The engine on a Spark Connect server: another process, reached by `sc://` alone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyspark
import pytest

from cluster_servers import accepts, free_ports, process, wait_for
from engine_laws import check_spread, doubled, refuses
from profilelake.engines.choosing import engine_of
from profilelake.engines.engine import Engine
from profilelake.engines.jars import Jar, fetch, find_jar, repository
from profilelake.errors import Invalid
from profilelake.settings import EngineSettings

SERVER_JAR = Jar(
    "org.apache.spark",
    "spark-connect_2.12",
    "3.5.7",
    "15366e21273a874c760b51fa00743a2acb8fa78642cc35d7a076a3ade0c5eef6",
)
"""Of Spark 3.5 the wheel has the client alone."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TESTS = Path(__file__).parent.parent

SERVER = """
import sys
from pyspark.sql import SparkSession
from pyspark import SparkContext
session = SparkSession.builder.master("local[2,4]").config("spark.plugins", "org.apache.spark.sql.connect.SparkConnectPlugin")
for pair in sys.argv[1:]:
    session = session.config(*pair.split("=", 1))
session = session.getOrCreate()
session.sparkContext.setLogLevel("OFF")
sys.stdin.read()
"""


def found_or_fetched(jar: Jar, folder: Path) -> Path:
    """Return a JAR of this machine, or of Maven Central."""
    found = find_jar(jar, ())
    if found is not None:
        return found
    url = repository(EngineSettings().maven_url, Path.home() / ".m2" / "settings.xml")
    with httpx.Client() as client:
        return fetch(jar, folder, url, client)


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("connect")
    (port,) = free_ports(1)
    conf = {
        "spark.connect.grpc.binding.port": str(port),
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.local.dir": str(folder),
    }
    if pyspark.__version__.startswith("3.5"):
        conf["spark.jars"] = str(found_or_fetched(SERVER_JAR, folder))
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("SPARK_REMOTE", None)
    command = [sys.executable, "-c", SERVER, *(f"{key}={value}" for key, value in conf.items())]
    log = folder / "server.log"
    with process(command, log, environment, keep_open=True) as running:
        wait_for("Spark Connect", lambda: accepts(port), running, log)
        engine = engine_of(EngineSettings(url=f"sc://127.0.0.1:{port}"), folder)
        yield engine
        engine.close()


def test_the_laws_of_an_engine(connected: Engine) -> None:
    assert connected.name.startswith("sc://127.0.0.1:")
    assert connected.tasks == 2
    assert connected.each("double", [1, 2, 3], doubled) == [b"2", b"4", b"6"]
    rows = tuple((id, id % 7) for id in range(200))
    check_spread(connected, [(("people", rows),), (("numbers", rows[:50]),)], 7)


def test_errors_of_the_work_are_the_callers(connected: Engine) -> None:
    with pytest.raises(Invalid) as raised:
        connected.each("refuse", [1], refuses)
    assert str(raised.value) == 'unit 1 says "no"\nand ümlauts; give another'
