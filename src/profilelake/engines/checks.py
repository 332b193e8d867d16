"""What keeps plans from running on a cluster, found before work starts: by looking here, then by a job of moments."""

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

import profilelake
from profilelake.engines.choosing import Places, embedded
from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jars import jars_in, mismatch, scala_of
from profilelake.engines.jobs import FOLDER
from profilelake.engines.masters import Master, master_of
from profilelake.errors import Invalid, ProfilelakeError
from profilelake.lake.storage import Storage
from profilelake.settings import EngineSettings

ANSWER_SECONDS: Final = 5.0
"""How long a master may take to accept a connection."""
JAVA_SECONDS: Final = 20.0
LOOKS_MAX: Final = 64
"""Tasks that look around on the cluster."""
LOOK_SECONDS: Final = 0.1
"""How long each of them stays, so that one executor does not take them all."""
TASK_BYTES_MIN: Final = 1 << 30
"""Memory beside the JVM that a task should have."""
_SPARKS: Final = ("3.5", "4.0", "4.1")
_SIZE: Final = re.compile(r"(\d+)([kmgt]?)b?", re.IGNORECASE)
_UNITS: Final = {"": 1 << 20, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_JAVA: Final = re.compile(r'version "(?:1\.)?(\d+)')
_LIBRARIES: Final = ("pyarrow", "numpy", "numba", "duckdb")
_CONTENT: Final = b"profilelake"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something in the way of work on a cluster, and the line that puts it right."""

    what: str
    text: str
    fix: str


def before_start(
    options: EngineSettings, directory: Path, environment: Mapping[str, str]
) -> Iterator[Trouble]:
    """Yield what can be seen without starting anything. Takes seconds at most."""
    if embedded(options):
        return
    try:
        master = master_of(options.url)
    except Invalid as error:
        yield Trouble("master", str(error), "set [engine] url, or give --engine")
        return
    yield from _memory(master, options)
    spark = _installed("pyspark")
    if spark is None:
        yield Trouble("pyspark", "pyspark is not installed", "pip install 'profilelake[spark]'")
        return
    yield from _libraries(master, spark)
    if master.kind not in ("connect", "submitted"):
        yield from _java(spark, environment)
    yield from _jars(master, spark, options, directory)
    yield from _reachable(master, environment)


def on_cluster(engine: Engine, storage: Storage) -> Iterator[Trouble]:
    """Yield what a small job finds out: is every executor like this machine, and does it see the warehouse?"""
    probe = f"{storage.root}/{FOLDER}/probe-{uuid.uuid4().hex}"
    storage.write(f"{probe}/driver", _CONTENT)
    try:
        # More than one for each core, as some may come to an executor twice.
        count = min(LOOKS_MAX, 2 * engine.tasks)
        seen = [
            msgspec.msgpack.decode(answer, type=Seen)
            for answer in engine.each("look around", list(range(count)), Look(storage, probe))
        ]
        yield from _unlike(seen)
        yield from _places(seen, storage, probe)
        sums = engine.spread("bring together", [0, 1], _cut, _ROWS, 4, _gather)
        if sum(int(answer) for answer in sums.values()) != 2 * sum(range(_ROWS_EACH)):
            yield Trouble(
                "shuffle", "rows that were brought together are not those that were sent", "report it"
            )
    except ProfilelakeError as error:
        yield Trouble("job", str(error), "put that right, then check again")
    finally:
        storage.remove([file.location for file in storage.list(probe)])


def ready(options: EngineSettings, directory: Path, environment: Mapping[str, str]) -> None:
    """Refuse to start what could not work. Raises Invalid with the first trouble and the line that helps."""
    for trouble in before_start(options, directory, environment):
        raise Invalid(f"running on {options.url.partition(';')[0]}: {trouble.text}; {trouble.fix}")


def ready_there(engine: Engine, storage: Storage) -> None:
    """Refuse to work on a cluster that could not finish it. Raises Invalid as `ready`."""
    for trouble in on_cluster(engine, storage):
        raise Invalid(f"running on {engine.name}: {trouble.text}; {trouble.fix}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def spark_here() -> tuple[str, str] | None:
    """Return the versions of the Spark that is installed and of its Scala, None where there is none."""
    version, spec = _installed("pyspark"), find_spec("pyspark")
    if version is None or spec is None or not spec.origin:
        return None
    found = sorted((Path(spec.origin).parent / "jars").glob("scala-library-*.jar"))
    scala = found[0].stem.split("-")[2] if found else scala_of(version)
    return version, ".".join(scala.split(".")[:2])


def _libraries(master: Master, spark: str) -> Iterator[Trouble]:
    missing = [name for name in ("pandas", "pyarrow") if find_spec(name) is None]
    if master.kind == "connect" and find_spec("grpc") is None:
        missing.append("grpcio")
    if missing:
        yield Trouble(
            "libraries",
            f"Spark needs {', '.join(missing)} beside pyspark",
            "pip install 'profilelake[spark]'",
        )
    if ".".join(spark.split(".")[:2]) not in _SPARKS:
        yield Trouble(
            "pyspark",
            f"pyspark {spark} was never tried with this profilelake, which knows {', '.join(_SPARKS)}",
            "pip install 'pyspark>=4.1,<4.2', or the version of your cluster among these",
        )


def _java(spark: str, environment: Mapping[str, str]) -> Iterator[Trouble]:
    least = 17 if int(spark.split(".")[0]) >= 4 else 8
    fix = "apt-get install openjdk-17-jre-headless, then export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64"
    home = environment.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java", path=environment.get("PATH"))
    if program is None:
        yield Trouble("java", f"no Java: Spark {spark} needs version {least} or newer", fix)
        return
    try:
        ran = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=JAVA_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Trouble("java", f"{program} does not run: {type(error).__name__}", fix)
        return
    found = _JAVA.search(ran.stderr + ran.stdout)
    if found is None or int(found[1]) < least:
        said = f"is version {found[1]}" if found else "does not tell its version"
        yield Trouble("java", f"{program} {said}: Spark {spark} needs {least} or newer", fix)


def _jars(master: Master, spark: str, options: EngineSettings, directory: Path) -> Iterator[Trouble]:
    if master.kind == "connect":
        return  # The server has its own.
    here = spark_here()
    asked = [options.conf.get(name, "") for name in ("spark.jars", "spark.jars.packages")]
    # Packages are written with colons: group:artifact:version.
    names = [name.replace(":", "-") + ".jar" for name in asked[1].split(",")] + asked[0].split(",")
    names += [jar.name for jar in jars_in(Places.of(options, directory).jars)]
    wrong = mismatch(names, spark, here[1] if here else scala_of(spark))
    if wrong is not None:
        yield Trouble("jars", wrong, "remove it, then: profilelake engine fetch")


def _memory(master: Master, options: EngineSettings) -> Iterator[Trouble]:
    for name in ("driver_memory", "executor_memory", "executor_overhead"):
        text = getattr(options, name)
        size = _bytes(text)
        if size is None or size < 256 << 20:
            yield Trouble(
                "memory",
                f"[engine] {name} = {text!r} is no size of 256m or more",
                f'set it, such as {name} = "2g"',
            )
        elif master.kind == "local" and name == "driver_memory":
            here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if size > here * 3 // 4:
                yield Trouble(
                    "memory",
                    f"[engine] driver_memory = {text!r}, and this machine has {here >> 20:,} MB for everything",
                    f'set driver_memory = "{max(512, here >> 22)}m"',
                )


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text.strip())
    return int(found[1]) * _UNITS[found[2].lower()] if found else None


def _reachable(master: Master, environment: Mapping[str, str]) -> Iterator[Trouble]:
    if master.kind == "yarn" and not any(
        environment.get(name) for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR")
    ):
        yield Trouble("master", "yarn: nothing says where it is", "export HADOOP_CONF_DIR=/etc/hadoop/conf")
    failures = []
    for host, port in master.places:
        try:
            with socket.create_connection((host, port), timeout=ANSWER_SECONDS):
                return
        except OSError as error:
            failures.append(f"{host}:{port}: {error.strerror or error}")
    if failures:
        yield Trouble(
            "master",
            f"{master.shown} does not answer ({'; '.join(failures)})",
            "start it, correct [engine] url, or open the network between",
        )


class Seen(msgspec.Struct, frozen=True):
    """What a task found where it ran."""

    host: str
    python: str
    profilelake: str
    libraries: dict[str, str]
    cache: str
    """Why compiled kernels cannot be kept, empty where they can."""
    reads: bool
    """Whether it read what the driver wrote."""
    wrote: str
    """Where it wrote, for the driver to look."""
    failure: str
    memory: int
    """Bytes that this process and its neighbours may have; 0 where nobody says."""


@dataclass(frozen=True, slots=True)
class Look:
    """Looks around where it runs."""

    storage: Storage
    probe: str

    def __call__(self, unit: int) -> bytes:
        """Answer with what is there."""
        time.sleep(LOOK_SECONDS)
        mine, reads, failure = f"{self.probe}/{unit}-{uuid.uuid4().hex}", False, ""
        try:
            reads = self.storage.read(f"{self.probe}/driver") == _CONTENT
            if reads:
                self.storage.write(mine, _CONTENT)
        except (OSError, ProfilelakeError) as error:
            failure = f"{type(error).__name__}: {error}"[:300]
        return msgspec.msgpack.encode(
            Seen(
                host=socket.gethostname(),
                python=platform.python_version(),
                profilelake=profilelake.__version__,
                libraries={name: _installed(name) or "" for name in _LIBRARIES},
                cache=_cache_failure(),
                reads=reads,
                wrote=mine,
                failure=failure,
                memory=_memory_limit(),
            )
        )


def _cache_failure() -> str:
    """Say why numba cannot keep compiled code here; where it can, the answer is empty."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(profilelake.__file__).parent / "kernels" / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for place in (Path(chosen),) if chosen else (package, Path(home) / "numba"):
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            mine = place / f".profilelake-{uuid.uuid4().hex}"
            mine.touch()
            mine.unlink()
            return ""
    return chosen or f"{package} and {home}/numba"


def _memory_limit() -> int:
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(place).read_text())
            if limit < 1 << 60:
                return limit
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _unlike(seen: list[Seen]) -> Iterator[Trouble]:
    here = Seen("", platform.python_version(), profilelake.__version__, {}, "", True, "", "", 0)
    libraries = {name: _installed(name) or "" for name in _LIBRARIES}
    for host in sorted({one.host for one in seen}):
        one = next(one for one in seen if one.host == host)
        if one.python.split(".")[:2] != here.python.split(".")[:2]:
            yield Trouble(
                "python",
                f"executor {host} has Python {one.python}, the driver {here.python}",
                f"set [engine] executor_python to a Python {sys.version_info.major}.{sys.version_info.minor} there",
            )
        if one.profilelake != here.profilelake:
            yield Trouble(
                "profilelake",
                f"executor {host} has profilelake {one.profilelake}, the driver {here.profilelake}",
                f"install profilelake=={here.profilelake} in the executors' image",
            )
        for name in _LIBRARIES:
            if one.libraries[name].split(".")[:2] != libraries[name].split(".")[:2]:
                yield Trouble(
                    "libraries",
                    f"executor {host} has {name} {one.libraries[name] or 'not at all'}, the driver {libraries[name]}",
                    f"install {name}=={libraries[name]} in the executors' image",
                )
        if one.cache:
            yield Trouble(
                "compiled code",
                f"executor {host} cannot write to {one.cache}: every worker compiles for a minute",
                'set "spark.executorEnv.NUMBA_CACHE_DIR" = "/tmp/numba" in [engine.conf]',
            )
        if 0 < one.memory < TASK_BYTES_MIN:
            yield Trouble(
                "memory",
                f"executor {host} has {one.memory >> 20:,} MB in all",
                'set [engine] executor_overhead = "4g"',
            )


def _places(seen: list[Seen], storage: Storage, probe: str) -> Iterator[Trouble]:
    written = {file.location.rpartition("/")[2] for file in storage.list(probe)}
    for host in sorted({one.host for one in seen}):
        of_host = [one for one in seen if one.host == host]
        failure = next((one.failure for one in of_host if one.failure), "")
        if all(one.reads and one.wrote.rpartition("/")[2] in written for one in of_host):
            continue
        if "://" not in storage.root.removeprefix("file://"):
            yield Trouble(
                "warehouse",
                f"executor {host} does not see the files of this machine in {storage.root}",
                'keep the lake where all see it: [lake] warehouse = "s3://BUCKET/PREFIX", or mount that folder there',
            )
        else:
            yield Trouble(
                "warehouse",
                f"executor {host} cannot read and write {storage.root}: {failure or 'its files are not seen here'}",
                "give executors a role or credentials for it",
            )


_ROWS_EACH: Final = 1000
_ROWS: Final = {"numbers": pa.schema([("number", pa.int64())])}


def _cut(_: int) -> Iterator[Cut]:
    numbers = np.arange(_ROWS_EACH, dtype=np.int64)
    yield Cut("numbers", pa.table({"number": numbers}), (numbers % 4).astype(np.int32))


def _gather(_: int, tables: Mapping[str, pa.Table]) -> bytes:
    return str(sum(tables["numbers"]["number"].to_pylist())).encode()
