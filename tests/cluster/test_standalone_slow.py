"""A Spark cluster of processes: a master and two workers, one executor of which is killed in the middle of a job."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from cluster_servers import accepts, free_ports, process, wait_for
from engine_laws import check_spread, doubled
from profilelake.engines.checks import on_cluster
from profilelake.engines.choosing import engine_of
from profilelake.engines.engine import Engine
from profilelake.lake.storage import LocalStorage
from profilelake.settings import EngineSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TESTS = Path(__file__).parent.parent
HOME = Path(pyspark.__file__).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a master with two workers of one core each."""
    active = SparkSession.getActiveSession()
    if active is not None:
        active.stop()
    folder = tmp_path_factory.mktemp("standalone")
    port, *others = free_ports(6)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    java = [str(HOME / "bin" / "spark-class")]
    master = [*java, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
    master += ["--port", str(port), "--webui-port", str(others[0])]
    url = f"spark://127.0.0.1:{port}"
    with process(master, folder / "master.log", environment) as running:
        wait_for("the master", lambda: accepts(port), running, folder / "master.log")
        worker = [*java, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1"]
        worker += ["--memory", "1g", "--work-dir", str(folder)]
        first = [*worker, "--port", str(others[1]), "--webui-port", str(others[2]), url]
        second = [*worker, "--port", str(others[3]), "--webui-port", str(others[4]), url]
        with (
            process(first, folder / "first.log", environment) as one,
            process(second, folder / "second.log", environment) as two,
        ):
            wait_for("a worker", lambda: accepts(others[1]), one, folder / "first.log")
            wait_for("a worker", lambda: accepts(others[3]), two, folder / "second.log")
            yield url


@pytest.fixture(scope="module")
def engine(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    options = EngineSettings(
        url=cluster,
        tasks=2,
        driver_memory="512m",
        executor_memory="512m",
        executor_python=sys.executable,
        conf={"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"},
    )
    running = engine_of(options, tmp_path_factory.mktemp("driver"))
    yield running
    running.close()


@dataclass(frozen=True)
class Slow:
    """Takes a moment, and leaves a file for each time it ran, named by the executor that ran it."""

    folder: str

    def __call__(self, unit: int) -> bytes:
        """Answer after a moment."""
        executor = os.getppid()
        (Path(self.folder) / f"{unit}-{executor}-{os.urandom(4).hex()}").touch()
        time.sleep(0.5)
        return doubled(unit)


def executors(driver: bytes) -> list[int]:
    """Return the processes of executors of this test."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().split(b"\0")
        except OSError:
            continue
        # The driver that they work for is named, by a port that only it has.
        if b"org.apache.spark.executor.CoarseGrainedExecutorBackend" in command and driver in command:
            found.append(int(place.parent.name))
    return found


def test_executors_of_other_processes_do_the_work(engine: Engine, tmp_path: Path) -> None:
    assert list(on_cluster(engine, LocalStorage(str(tmp_path)))) == []
    rows = tuple((id, id % 5) for id in range(300))
    check_spread(engine, [(("people", rows),), (("numbers", rows),)], 5)


def test_a_killed_executor_is_replaced(engine: Engine, tmp_path: Path) -> None:
    killed: list[int] = []
    session = SparkSession.getActiveSession()
    assert session is not None
    port = session.sparkContext.getConf().get("spark.driver.port")
    driver = f"spark://CoarseGrainedScheduler@127.0.0.1:{port}".encode()

    def kill() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not killed:
            if len(list(tmp_path.iterdir())) >= 4:
                mine = executors(driver)
                if mine:
                    os.kill(mine[0], signal.SIGKILL)
                    killed.append(mine[0])
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    answers = engine.each("slow", list(range(16)), Slow(str(tmp_path)))
    killer.join()
    assert answers == [doubled(unit) for unit in range(16)]
    assert len(killed) == 1
    # What it was doing was done again.
    assert len(list(tmp_path.iterdir())) > 16
