"""Spark SQL on a lake, as a user has it: the lines that `profilelake lake connect spark` prints, and no more."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cluster_servers import S3Server
from profilelake.lake import connections
from profilelake.lake.place import LakePlace
from profilelake.settings import StorageOptions

SPARK_PYTHON: Final = "PROFILELAKE_TEST_SPARK_PYTHON"
"""Names the Python of another environment, with another version of Spark, to run the same tests with."""
_MACHINE: Final = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "1g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
}


class SparkSql:
    """Takes statements, one after the other; each place gets a session of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.version = ""

    def ask(self, message: object) -> dict[str, Any]:
        """Send a message and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Spark ended"
        return dict(json.loads(line))

    def use(self, place: LakePlace) -> None:
        """Begin a session with the catalog of a place."""
        properties = dict(connections.spark(place, self.version[:3]).properties)
        del properties["spark.sql.extensions"]  # that of the JVM, from its start
        assert "error" not in self.ask(properties)

    def rows(self, statement: str) -> list[list[Any]]:
        """Run a statement and return its rows."""
        answer = self.ask(statement)
        assert "error" not in answer, answer["error"]
        return list(answer["rows"])

    def error(self, statement: str) -> str:
        """Run a statement that fails and return what Spark says."""
        return str(self.ask(statement)["error"])


@contextmanager
def spark_sql(folder: Path, server: S3Server) -> Iterator[SparkSql]:
    """Start Spark with every package that any place needs."""
    python = os.environ.get(SPARK_PYTHON, sys.executable)
    asking = [python, "-c", "import pyspark; print(pyspark.__version__[:3])"]
    version = subprocess.run(asking, check=True, capture_output=True, text=True).stdout.strip()
    options = StorageOptions(endpoint=server.endpoint, plain_http="allowed")
    widest = LakePlace("postgresql://u@h/d", "s3://b/p", storage=options)
    lines = connections.spark(widest, version)
    static = {"spark.jars.packages": ",".join(lines.packages), "spark.local.dir": str(folder)}
    static["spark.sql.extensions"] = lines.properties["spark.sql.extensions"]
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": python,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "PROFILELAKE_CATALOG_SECRET": f"{server.access_key}:{server.secret_key}",
        "TZ": "Asia/Kathmandu",  # so that nobody relies on the zone of a machine
    }
    with (folder / "spark.log").open("w") as sink:
        process = subprocess.Popen(
            [python, str(Path(__file__).with_name("spark_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env=environment,
        )
    spark = SparkSql(process)
    try:
        spark.version = spark.ask(_MACHINE | static)["version"]
        yield spark
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()  # Left open it would be told of after the last test, and fail the run.
