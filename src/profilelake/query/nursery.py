"""Start workers for queries, follow and end them, from the process that may read everything.

Nothing a worker says is believed beyond its shape, and what it may take in time is kept from here.
"""

import asyncio
import errno
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from profilelake.errors import Unavailable
from profilelake.ops.pipes import pieces
from profilelake.query.failures import Failed, Failure, failed
from profilelake.query.worker import (
    FILES_PER_MESSAGE,
    FORKED,
    NESTED,
    NOT_FORKED,
    Job,
    Told,
    message_of,
)

START_SECONDS_MAX: Final = 30.0
"""How long the process that forks workers may take to load its libraries."""
FORK_SECONDS_MAX: Final = 5.0
PIPE_BYTES: Final = 1 << 20
"""What of a result waits in the kernel before the worker has to."""
TOLD_BYTES_MAX: Final = 1 << 20
"""Bytes of one thing that a worker says."""

_NO_ROOM: Final = "starting a query: the system has no room for another process or open file now; try again"
_NOT_ITS_END: Final = frozenset(
    {errno.EBADF, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}
)
"""Why a job could not be sent that does not mean that the process that forks workers is gone."""
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from profilelake.query import worker; worker.main(int(sys.argv[1]))"
)


@dataclass(slots=True)
class Running:
    """A worker at work. Close it, however it went: that ends it."""

    _pidfd: int
    _control: asyncio.StreamReader
    _transport: asyncio.BaseTransport
    out: int
    """Descriptor of the pipe that the result comes through."""
    _last: Told | None = None
    _ended: Failure | None = None

    async def checked(self) -> Told:
        """Return what was found in a query that was only looked at. Raises Failed if it may not run."""
        return await self._told()

    async def begin(self) -> None:
        """Wait for the first rows, or the end of a result without any.

        Raises:
            Failed: there will be none.
        """
        self._last = await self._told()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the result.

        Raises:
            Failed: it breaks off here, and what came is not all of it.
        """
        async for piece in pieces(self.out, PIPE_BYTES):
            yield piece
        await self.written()

    async def written(self) -> None:
        """Wait until the worker has written all of the result into `out`. Raises Failed if it breaks off."""
        while self._last is None or self._last.rows is None:
            self._last = await self._told()

    @property
    def rows(self) -> int:
        """Rows of the whole result, once all its pieces were taken."""
        return (self._last.rows if self._last else None) or 0

    def end(self, failure: Failure) -> None:
        """End the work at once; whoever waits for the result gets `failure`."""
        self._ended = self._ended or failure
        _kill(self._pidfd)

    def close(self) -> None:
        """End the worker, if it has not, and give back what it held here."""
        self.end(Failure("cancelled", "the query was cancelled"))
        self._transport.close()
        os.close(self.out)
        os.close(self._pidfd)

    async def _told(self) -> Told:
        try:
            line = await self._control.readuntil(b"\n")
            told = msgspec.json.decode(line, type=Told)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.MsgspecError):
            if self._ended is not None:
                raise Failed(self._ended) from None
            raise failed(
                "worker_ended",
                "the query was ended from outside: it took more memory or processor time than it may have",
            ) from None
        if told.failure is not None:
            raise Failed(told.failure)
        return told


@dataclass(slots=True)
class Nursery:
    """Forks a worker for each job. The process that does so is started again when it is gone."""

    _process: subprocess.Popen[bytes] | None = None
    _socket: socket.socket | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Have the process that forks workers ready, so that the first query does not wait for it.

        Raises:
            Unavailable: it does not start.
        """
        with self._lock:
            self._ready()

    def stop(self) -> None:
        """End that process, and with it every worker."""
        with self._lock:
            self._drop()

    async def run(self, job: Job, files: Sequence[int] = ()) -> Running:
        """Start a worker with a job and read-only descriptors of the files it reads, at most `FILES_MAX`.

        Raises:
            Failed: the parameters are none that a query can have.
            Unavailable: no worker could be started.
        """
        described = _described(job)
        (control, said), (out, written) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        # Of the fork's own: it goes on in its thread when nobody waits for it any more, and a number that
        # was closed meanwhile may be a descriptor of somebody else.
        handed = [said, written]
        try:
            handed.extend(os.dup(file) for file in files)  # those before one that fails stay listed
        except OSError as error:
            for descriptor in (described, control, out, *handed):
                os.close(descriptor)
            raise Unavailable(_NO_ROOM) from error
        forking = asyncio.ensure_future(asyncio.to_thread(self._fork, described, handed))
        try:
            pidfd = await asyncio.shield(forking)
        except BaseException:
            os.close(control)
            os.close(out)
            forking.add_done_callback(_end_late)
            # Whoever counts workers counts this one until it is dead.
            while not forking.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([forking])
            raise
        with suppress(OSError):
            fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # beyond what this user may have, it stays small
        try:
            told, transport = await _reader(control)
        except BaseException:
            _kill(pidfd)
            os.close(pidfd)
            os.close(out)
            raise
        return Running(pidfd, told, transport, out)

    def _fork(self, described: int, handed: Sequence[int]) -> int:
        """Have a worker forked for a job, and close its description and what it is handed here."""
        try:
            with self._lock:
                try:
                    return self._ask([described, *handed])
                except OSError:
                    self._drop()  # it was killed; nothing of the job has begun
                try:
                    return self._ask([described, *handed])
                except OSError as error:
                    self._drop()
                    raise Unavailable("starting a query: its process does not start; try again") from error
        finally:
            for descriptor in (described, *handed):
                os.close(descriptor)

    def _ask(self, descriptors: list[int]) -> int:
        asked = self._ready()
        for begin in range(0, len(descriptors), FILES_PER_MESSAGE):
            part = descriptors[begin : begin + FILES_PER_MESSAGE]
            last = begin + FILES_PER_MESSAGE >= len(descriptors)
            try:
                socket.send_fds(asked, [message_of(first=begin == 0, last=last)], part)
            except OSError as error:
                if error.errno in _NOT_ITS_END:
                    raise Unavailable(_NO_ROOM) from error
                raise
        asked.settimeout(FORK_SECONDS_MAX)
        message, received, _, _ = socket.recv_fds(asked, 16, 1)
        if message == NOT_FORKED:
            raise Unavailable(_NO_ROOM)
        if message != FORKED or len(received) != 1:
            raise OSError("the process that forks workers is gone")
        return received[0]

    def _ready(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._drop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # An empty environment: what is not there cannot be read.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _BOOT, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TZ": "UTC"},
                cwd="/",
                process_group=0,
            )
        self._socket = ours
        if not select.select([ours], [], [], START_SECONDS_MAX)[0] or ours.recv(16) != b"ready":
            self._drop()
            raise Unavailable(
                "starting a query: the process that forks its workers does not start; see the log"
            )
        return ours

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _described(job: Job) -> int:
    """Return a job as a file in memory. Raises Failed if its parameters cannot be said to a worker."""
    try:
        encoded = msgspec.msgpack.encode(job)
    except (OverflowError, RecursionError, TypeError, msgspec.MsgspecError) as error:
        why = NESTED if isinstance(error, RecursionError) else f"the parameters: {error}"
        raise failed("invalid_parameters", why) from None
    described = os.memfd_create("job", os.MFD_CLOEXEC)
    with open(described, "wb", closefd=False) as sink:
        sink.write(encoded)
    os.lseek(described, 0, os.SEEK_SET)
    return described


def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _end_late(forking: "asyncio.Future[int]") -> None:
    """End a worker that nobody waits for any more."""
    if not forking.cancelled() and forking.exception() is None:
        _kill(forking.result())
        os.close(forking.result())


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader(limit=TOLD_BYTES_MAX)
    pipe = open(descriptor, "rb", buffering=0)  # noqa: SIM115, ASYNC230 - the transport closes it
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
    except BaseException:
        pipe.close()
        raise
    return reader, transport
