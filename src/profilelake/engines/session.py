"""Spark sessions: made from settings, ended by whoever made them."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from profilelake.engines.distributed import Progress, SparkEngine
from profilelake.engines.jars import jars_in
from profilelake.engines.masters import TRIES, Master, master_of
from profilelake.engines.properties import handed_over
from profilelake.errors import Conflict, Unavailable
from profilelake.settings import EngineSettings

APPLICATION: Final = "profilelake"
_LOG: Final = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {place}
appender.file.append = false
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
"""


def open_engine(
    options: EngineSettings, scratch: Path, jars: Path, progress: Callable[[Progress], None] = lambda _: None
) -> SparkEngine:
    """Start a session where the settings say and return the engine that runs on it; closing it ends the session.

    Raises:
        Invalid: the URL names nothing.
        Conflict: this process has a session already.
        Unavailable: the cluster does not answer, or would not start a session.
    """
    master = master_of(options.url)
    if SparkSession.getActiveSession() is not None and master.kind != "submitted":
        raise Conflict(f"starting a session on {master.shown}: this process has one already; end it first")
    scratch.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("PYSPARK_PYTHON")
    # Spark takes the Python of its workers from the environment alone.
    if master.kind == "local":
        os.environ["PYSPARK_PYTHON"] = sys.executable
    elif options.executor_python:
        os.environ["PYSPARK_PYTHON"] = options.executor_python
    try:
        session = _started(master, options, scratch, jars)
    finally:
        _restore("PYSPARK_PYTHON", before)

    def end() -> None:
        if master.kind != "submitted":
            with contextlib.suppress(Exception):  # What is gone needs no ending.
                session.stop()

    return SparkEngine(session, master.shown, options.tasks, progress, end)


def _started(master: Master, options: EngineSettings, scratch: Path, jars: Path) -> SparkSession:
    builder = SparkSession.builder
    if master.kind == "connect":
        builder = builder.remote(master.url)
        conf: Mapping[str, str] = dict(options.conf)
    else:
        if master.kind != "submitted":
            builder = builder.master(master.url)
        conf = dict(_conf(master, options, scratch, jars)) | dict(options.conf)
    try:
        with contextlib.nullcontext(conf) if master.kind == "connect" else handed_over(conf) as told:
            session = builder.appName(APPLICATION).config(map=dict(told)).getOrCreate()
        # A Connect client starts without asking the server anything.
        session.conf.set("spark.sql.session.timeZone", "UTC")
        str(session.version)
    except (PySparkException, RuntimeError, OSError) as error:
        said = next(iter(str(error).splitlines()), "")[:300]
        raise Unavailable(
            f"starting a session on {master.shown}: {type(error).__name__}: {said}; see what is wrong: "
            f"profilelake engine check --engine {master.shown}"
        ) from None
    return session


def _conf(master: Master, options: EngineSettings, scratch: Path, jars: Path) -> Iterator[tuple[str, str]]:
    yield "spark.sql.session.timeZone", "UTC"
    yield "spark.task.maxFailures", str(TRIES)
    yield "spark.serializer", "org.apache.spark.serializer.KryoSerializer"
    yield "spark.ui.showConsoleProgress", "false"
    found = jars_in(jars)
    if found:
        yield "spark.jars", ",".join(str(jar) for jar in found)
    if master.kind == "submitted":
        return
    yield "spark.driver.memory", options.driver_memory
    if master.kind == "local":
        yield "spark.ui.enabled", "false"
        yield "spark.driver.bindAddress", "127.0.0.1"
        yield "spark.driver.host", "127.0.0.1"
        yield "spark.local.dir", str(scratch)
    else:
        yield "spark.executor.memory", options.executor_memory
        yield "spark.executor.memoryOverhead", options.executor_overhead
    # What Spark logs goes to a file: the driver tells errors in its own words.
    properties = scratch / "log4j2.properties"
    properties.write_text(_LOG.format(place=scratch.absolute() / "spark.log"))
    yield "spark.driver.extraJavaOptions", f'"-Dlog4j2.configurationFile={properties.absolute().as_uri()}"'


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
