"""A Spark cluster of processes: a master and two workers, one executor of which is killed in the middle of a job."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TESTS = Path(__file__).parent.parent
HOME = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class Cluster:
    """A master, and the ports of its workers."""

    url: str
    workers: tuple[int, ...]

    def executors(self) -> list[int]:
        """Return the processes of executors that the workers have started."""
        workers = [f"spark://Worker@127.0.0.1:{port}".encode() for port in self.workers]
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = place.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--worker-url" in command and any(worker in command for worker in workers):
                found.append(int(place.parent.name))
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with two workers of one core each."""
    active = SparkSession.getActiveSession()
    if active is not None:
        active.stop()
    folder = tmp_path_factory.mktemp("standalone")
    port, *others = free_ports(6)
    here = os.pathsep.join([str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": here,
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
            yield Cluster(url, (others[1], others[3]))


def options(cluster: Cluster) -> EngineSettings:
    """Return how the engine is opened."""
    return EngineSettings(
        url=cluster.url,
        tasks=2,
        driver_memory="512m",
        executor_memory="512m",
        executor_python=sys.executable,
        conf={
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        },
    )


@pytest.fixture(scope="module")
def engine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = engine_of(options(cluster), tmp_path_factory.mktemp("driver"))
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


def until(seconds: float, true: Callable[[], bool]) -> bool:
    """Wait until something is true, and tell whether it came to be."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.2)
    return False


DRIVER = """
import sys
from pathlib import Path
from profilelake.engines.choosing import engine_of
from test_standalone_slow import Cluster, Slow, options
engine = engine_of(options(Cluster(sys.argv[1], ())), Path(sys.argv[2]))
engine.each("slow", list(range(10_000)), Slow(sys.argv[3]))
"""


def test_a_killed_driver_leaves_nothing_running(cluster: Cluster, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), str(TESTS), environment.get("PYTHONPATH", "")]
    )
    command = [sys.executable, "-c", DRIVER, cluster.url, str(tmp_path / "driver"), str(work)]
    with process(command, tmp_path / "driver.log", environment) as driver:
        assert until(240, lambda: len(list(work.iterdir())) > 3), (tmp_path / "driver.log").read_text()
        assert cluster.executors()
        os.kill(driver.pid, signal.SIGKILL)
        assert until(120, lambda: not cluster.executors())


def test_executors_of_other_processes_do_the_work(engine: Engine, tmp_path: Path) -> None:
    assert list(on_cluster(engine, LocalStorage(str(tmp_path)))) == []
    rows = tuple((id, id % 5) for id in range(300))
    check_spread(engine, [(("people", rows),), (("numbers", rows),)], 5)


def test_a_killed_executor_is_replaced(engine: Engine, cluster: Cluster, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        if until(240, lambda: len(list(tmp_path.iterdir())) >= 4 and bool(cluster.executors())):
            killed.extend(cluster.executors()[:1])
            os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    answers = engine.each("slow", list(range(16)), Slow(str(tmp_path)))
    killer.join()
    assert answers == [doubled(unit) for unit in range(16)]
    assert len(killed) == 1
    # What it was doing was done again.
    assert len(list(tmp_path.iterdir())) > 16
