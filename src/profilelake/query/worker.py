"""The processes that user SQL runs in: one that waits, and forks another for each query.

The one that waits has imported everything and opened nothing: a fork of it is ready in milliseconds. A
fork takes its job, confines itself, answers and ends; it is never used twice. Nothing here is trusted
once a query was looked at: limits that matter are kept from outside too.
"""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.dataset

from profilelake.query import formats, gate, jail
from profilelake.query.failures import Failed, Failure, failed, of_engine

FILES_MAX: Final = 4_000
"""Files of one query."""
FILES_AT: Final = 5_000
"""Descriptor of the first file of a job; the next ones follow, and no other descriptor gets so far."""
FILES_PER_MESSAGE: Final = 200
"""Descriptors that one message carries; Linux takes 253."""
FORKED, NOT_FORKED = b"forked", b"failed"
"""Answers to a job: its worker, as a descriptor, comes along; the system has no room for one."""
CONTROL, OUT = 3, 4
"""Descriptors of a worker: where it says what became of it, where the result goes."""
WRITE_BYTES: Final = 1 << 20
BESIDE_BYTES: Final = 1 << 30
"""Address space beside the memory that the engine counts, such as for batches of the result."""
THREAD_BYTES: Final = 72 << 20
"""Address space that a thread reserves for its stack and its small objects, and hardly fills."""
NESTED: Final = "the parameters are nested too deeply"

_PR_SET_PDEATHSIG: Final = 1


class View(msgspec.Struct, frozen=True):
    """A table as the query sees it: a SELECT over descriptors. A schema of "" is where bare names are."""

    schema: str
    name: str
    select: str


class Job(msgspec.Struct, frozen=True):
    """A query and what it may use. Without a `format` it is only looked at; nothing runs."""

    query: str
    views: Sequence[View] = ()
    parameters: list[Any] | dict[str, Any] | None = None
    format: str = ""
    files: int = 0
    memory_bytes: int = 1 << 30
    threads: int = 1
    cpu_seconds: int = 60
    rows_max: int = 1 << 40
    bytes_max: int = 1 << 50
    gated: bool = True
    """Only tests say no: what the gate refuses has to be harmless without it."""
    jailed: bool = True
    """No only where the operator said so, on a system that has no jail."""


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says: what it found in a query, that rows begin, how it ended."""

    checked: gate.Checked | None = None
    started: bool = False
    rows: int | None = None
    failure: Failure | None = None


def main(descriptor: int) -> None:
    """Wait for jobs on a socket and fork a worker for each, until the other side closes it."""
    os.environ.clear()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _warm()
    asked = socket.socket(fileno=descriptor)
    asked.send(b"ready")
    while True:
        descriptors = _received(asked)
        if not descriptors:
            return
        pidfd = _forked(partial(_work, asked, descriptors))
        if pidfd is None:
            asked.send(NOT_FORKED)
        else:
            socket.send_fds(asked, [FORKED], [pidfd])
            descriptors.append(pidfd)
        for opened in descriptors:
            os.close(opened)


def _forked(work: Callable[[], None]) -> int | None:
    """Fork a process that does `work`, which ends it. Return its pidfd, None if there is no room for it.

    A process that ended is only reaped once it has its pidfd: until then its number names it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = None
    try:
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            work()
        return os.pidfd_open(child)
    except OSError:
        if child is not None:
            os.kill(child, signal.SIGKILL)
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reap(*_: object) -> None:
    """Take note of workers that ended, so that their time is counted and nothing of them is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _warm() -> None:
    """Load now what could not be loaded from inside the jail."""
    batch = pa.record_batch({"a": ["x"], "t": pa.array([0], pa.timestamp("us", "UTC"))})
    for row in formats.rows(batch):
        formats.text(row)
    sink = pa.BufferOutputStream()
    with pa.csv.CSVWriter(sink, batch.schema) as csv:
        csv.write_batch(batch)
    sink = pa.BufferOutputStream()
    with pa.parquet.ParquetWriter(sink, batch.schema, compression="zstd") as parquet:
        parquet.write_batch(batch)
    with contextlib.suppress(Failed):
        raise failed("invalid_sql", "", "", 0)


def message_of(*, first: bool, last: bool) -> bytes:
    """Return what is said with a part of the descriptors of a job."""
    return b"%d%d" % (first, last)


def _received(asked: socket.socket) -> list[int]:
    """Return the descriptors of the next job: its description, where it says and writes, its files."""
    descriptors: list[int] = []
    while True:
        message, some, _, _ = socket.recv_fds(asked, 16, FILES_PER_MESSAGE)
        if not message:
            return []
        if message.startswith(b"1"):
            # Of a job whose rest never came.
            for left in descriptors:
                os.close(left)
            descriptors = []
        descriptors += some
        if message.endswith(b"1"):
            return descriptors


def _work(asked: socket.socket, descriptors: list[int]) -> None:
    """Do one job in this process and end it."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        asked.close()
        job_file, control, out, *files = descriptors
        with os.fdopen(job_file, "rb") as source:
            described = source.read()
        _arrange(control, out, files)
        job = _job(described)
        if job.jailed:
            # When the machine runs out of memory all the same, this process goes first.
            Path("/proc/self/oom_score_adj").write_text("1000")
            cage = jail.Cage(
                address_bytes=(
                    _address_bytes() + job.memory_bytes + BESIDE_BYTES + job.threads * THREAD_BYTES
                ),
                cpu_seconds=job.cpu_seconds,
                descriptors=FILES_AT + 2 * len(files) + 128,
            )
            jail.enter(cage, range(FILES_AT, FILES_AT + len(files)))
        _answer(job, len(files))
    except Failed as ended:
        _say(Told(failure=ended.failure))
    except BaseException as error:  # noqa: BLE001 - nobody is above
        _say(Told(failure=Failure("worker_ended", f"the query could not be run: {type(error).__name__}")))
    finally:
        os._exit(0)


def _address_bytes() -> int:
    """Return the address space of this process: its libraries, and what they reserve."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _job(described: bytes) -> Job:
    try:
        return msgspec.msgpack.decode(described, type=Job)
    except RecursionError:
        raise failed("invalid_parameters", NESTED) from None


def _arrange(control: int, out: int, files: Sequence[int]) -> None:
    """Give every descriptor its number, and close all others."""
    null = os.open(os.devnull, os.O_RDWR)
    moved = [os.dup2(file, FILES_AT + number, inheritable=False) for number, file in enumerate(files)]
    high = FILES_AT + len(moved) + 16
    control, out = os.dup2(control, high, inheritable=False), os.dup2(out, high + 1, inheritable=False)
    for number, opened in enumerate((null, null, null, control, out)):
        os.dup2(opened, number, inheritable=False)
    os.closerange(OUT + 1, FILES_AT)
    os.closerange(FILES_AT + len(moved), high + 2)


def _answer(job: Job, files: int) -> None:
    connection = None
    try:
        connection = _connection(job, files)
        if not job.format:
            _say(Told(checked=gate.check(connection, job.query)))
            return
        if job.gated:
            gate.check(connection, job.query)
        _run(connection, job)
    except Failed as ended:
        _say(Told(failure=ended.failure))
    except (duckdb.Error, MemoryError) as error:
        _say(Told(failure=of_engine(error, job.query).failure))
    except RecursionError:
        told = failed("result_format", f"the result as {job.format}: it is nested too deeply")
        _say(Told(failure=told.failure))
    except pa.ArrowException as error:
        told = failed("result_format", f"the result as {job.format}: {error}; cast the column in the query")
        _say(Told(failure=told.failure))


def _connection(job: Job, files: int) -> duckdb.DuckDBPyConnection:
    """Open an engine that is closed to everything but the files of the job."""
    connection = duckdb.connect(
        config={
            "threads": str(job.threads),
            "memory_limit": f"{job.memory_bytes}B",
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "errors_as_json": "true",
            "preserve_insertion_order": "false",
        }
    )
    connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
    paths = ", ".join(f"'/proc/self/fd/{FILES_AT + number}'" for number in range(files))
    connection.execute(f"SET allowed_paths=[{paths}]")
    connection.execute("SET enable_external_access=false")
    for view in job.views:
        name = f'"{view.name.replace(chr(34), chr(34) * 2)}"'
        if view.schema:
            schema = f'"{view.schema.replace(chr(34), chr(34) * 2)}"'
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            name = f"{schema}.{name}"
        connection.execute(f"CREATE VIEW {name} AS {view.select}")
    connection.execute("SET lock_configuration=true")
    return connection


def _run(connection: duckdb.DuckDBPyConnection, job: Job) -> None:
    seen = 0

    def see(rows: int) -> None:
        nonlocal seen
        if not seen:
            # What is wrong with most queries has shown by the first rows.
            _say(Told(started=True))
        seen += rows
        if seen > job.rows_max:
            raise failed("row_limit", f"the result has more than {job.rows_max:,} rows; add a LIMIT")

    try:
        relation = _relation(connection, job)
    except RecursionError:
        raise failed("invalid_parameters", NESTED) from None
    if relation is None:
        raise failed("not_a_query", "the statement gives no rows")
    with os.fdopen(OUT, "wb", buffering=WRITE_BYTES) as out:
        formats.stream(relation, job.format, _Bounded(out, job.bytes_max), see)
        out.flush()
        _say(Told(rows=seen))


def _relation(connection: duckdb.DuckDBPyConnection, job: Job) -> duckdb.DuckDBPyRelation | None:
    try:
        relation: duckdb.DuckDBPyRelation | None = connection.sql(job.query, params=job.parameters)
    except duckdb.Error:
        # Asked in the other way, the engine says where in the text it is wrong.
        connection.execute(job.query, job.parameters)
        raise
    return relation


class _Bounded:
    """A file that refuses more than it may take."""

    closed = False

    def __init__(self, out: BinaryIO, bytes_max: int) -> None:
        self._out = out
        self._left = bytes_max

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise failed("byte_limit", "the result has more bytes than are given out; ask for less of it")
        self._out.write(data)
        return size

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _say(told: Told) -> None:
    with contextlib.suppress(OSError):
        os.write(CONTROL, msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
