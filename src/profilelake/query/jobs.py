"""Queries that run on without a client: their results wait on a private disk, for a while.

They live as long as the process that reads the lake; after a restart they are not found.
"""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from profilelake.errors import Conflict, NotFound, Unavailable
from profilelake.query.asking import Asked, Queries, TooMany
from profilelake.query.failures import Failed, Failure, failed

Status: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]

JOBS_MAX: Final = 1_000
"""Jobs that are remembered, of all tokens; one more takes the place of the oldest that ended."""
JOBS_PER_TOKEN_MAX: Final = 100
"""Of these, jobs of one token; one more takes the place of its own oldest that ended."""
QUEUED_MAX: Final = 100
"""Jobs that wait for their turn."""
QUEUED_PER_TOKEN_MAX: Final = 10
"""Of these, jobs of one token: each holds its query and parameters in memory until it has ended."""
SPOOL_SHARE: Final = 2
"""One token may fill one part in so many of the room for results."""
POLL_SECONDS: Final = 0.05
"""How often a job that waits looks whether it is its turn."""
EXPIRE_SECONDS: Final = 60.0
"""How often results are looked at for their age."""

UNEXPECTED: Final = Failure("worker_ended", "the query could not be answered; the server's log says why")

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """One query and what became of it. Times are microseconds UTC."""

    id: str
    asked: Asked
    created_at: int
    status: Status = "queued"
    finished_at: int | None = None
    expires_at: int | None = None
    rows: int = 0
    bytes: int = 0
    failure: Failure | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class Jobs:
    """Keeps jobs and their results, each for the token that asked."""

    queries: Queries
    spool: Path
    clock: Callable[[], int]
    spool_bytes_max: int
    """Bytes of all results together."""
    keep_seconds: float
    """How long a result waits."""
    _jobs: dict[str, Job] = field(default_factory=dict)
    _expiring: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Throw away what an earlier process left, and results whose time is up from now on."""
        shutil.rmtree(self.spool, ignore_errors=True)
        self.spool.mkdir(mode=0o700, parents=True)
        self._expiring = asyncio.create_task(self._expire())

    async def stop(self) -> None:
        """End all jobs and throw their results away."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        tasks += [self._expiring] if self._expiring is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(self.spool, ignore_errors=True)

    def add(self, asked: Asked) -> Job:
        """Start a job, or queue it.

        Raises:
            TooMany: too many wait already.
        """
        self._sweep()
        own = self._of(asked.token)
        _check_queue(own, QUEUED_PER_TOKEN_MAX, "of this token")
        _check_queue(list(self._jobs.values()), QUEUED_MAX, "of all tokens")
        if len(own) >= JOBS_PER_TOKEN_MAX:
            self._forget_oldest(own)
        elif len(self._jobs) >= JOBS_MAX:
            self._forget_oldest([*own, *self._jobs.values()])
        job = Job(secrets.token_hex(16), asked, self.clock())
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job))
        return job

    def get(self, id: str, token: str) -> Job:
        """Return a job of a token. Raises NotFound, also for those of others."""
        self._sweep()
        job = self._jobs.get(id)
        if job is None or job.asked.token != token:
            raise NotFound(
                f"looking for SQL job {id[:40]!r}: there is none; results are kept for a while only"
            )
        return job

    def result(self, id: str, token: str) -> Path:
        """Return the file with the result of a job.

        Raises:
            NotFound: there is no such job.
            Conflict: it has no result, or not yet.
        """
        job = self.get(id, token)
        if job.status != "done":
            raise Conflict(
                f"reading the result of SQL job {id}: it is {job.status}; see GET /api/sql/jobs/{id}"
            )
        return self._path(job)

    def cancel(self, id: str, token: str) -> Job:
        """End a job that runs; throw the result away of one that is done."""
        job = self.get(id, token)
        if job.finished_at is None:
            self._finish(job, "cancelled", Failure("cancelled", "the query was cancelled"))
            if job.task is not None:
                job.task.cancel()
        else:
            self._forget(job)
        return job

    async def _run(self, job: Job) -> None:
        try:
            await self._turn(job)
            job.status = "running"
            async with self.queries.asked(job.asked) as running:
                with self._path(job).open("wb", buffering=0) as sink:
                    async for piece in running.pieces():
                        self._check_room(job.asked.token, len(piece))
                        await asyncio.to_thread(sink.write, piece)
                        job.bytes += len(piece)
                job.rows = running.rows
            self._finish(job, "done", None)
        except Failed as error:
            self._finish(job, "failed", error.failure)
        except Unavailable as error:
            self._finish(job, "failed", Failure("worker_ended", str(error)))
        except OSError as error:
            self._finish(job, "failed", Failure("byte_limit", f"writing the result: {error.strerror}"))
        except asyncio.CancelledError:
            self._finish(job, "cancelled", Failure("cancelled", "the query was cancelled"))
            raise
        except Exception:  # noqa: BLE001 - it is logged, and the job says that it failed
            # Whoever asks learns nothing of our insides, and that the job is over.
            _LOG.exception("running SQL job %s", job.id)
            self._finish(job, "failed", UNEXPECTED)

    async def _turn(self, job: Job) -> None:
        while not self.queries.has_room(job.asked.token):  # noqa: ASYNC110 - others end at any time
            await asyncio.sleep(POLL_SECONDS)

    def _finish(self, job: Job, status: Status, failure: Failure | None) -> None:
        if job.finished_at is not None:
            return
        job.status, job.failure, job.finished_at = status, failure, self.clock()
        # What it asked can be many times larger than what is shown of it.
        job.asked = replace(job.asked, query="", parameters=None)
        job.expires_at = job.finished_at + int(self.keep_seconds * 1e6)
        if status != "done":
            job.bytes = job.rows = 0
            with suppress(FileNotFoundError):
                self._path(job).unlink()

    def _check_room(self, token: str, size: int) -> None:
        """Refuse bytes for which there is no room."""
        if sum(job.bytes for job in self._of(token)) + size > self.spool_bytes_max // SPOOL_SHARE:
            raise failed(
                "byte_limit",
                f"the results of this token would take more than {self.spool_bytes_max // SPOOL_SHARE:,} bytes;"
                " read and delete some, or ask for less",
            )
        if sum(job.bytes for job in self._jobs.values()) + size > self.spool_bytes_max:
            raise failed(
                "byte_limit", "the results that wait take all the room there is; read and delete some"
            )

    def _of(self, token: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.asked.token == token]

    def _path(self, job: Job) -> Path:
        return self.spool / job.id

    def _forget_oldest(self, jobs: Sequence[Job]) -> None:
        """Make room for one more by the first of these that has ended."""
        ended = next((job for job in jobs if job.finished_at is not None), None)
        if ended is None:
            raise TooMany(
                f"running a query: none of {len(jobs)} jobs has ended; try again later",
                retry_after_seconds=10,
            )
        self._forget(ended)

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(job.id, None) is not None:
            with suppress(FileNotFoundError):
                self._path(job).unlink()

    def _sweep(self) -> None:
        now = self.clock()
        for job in [
            job for job in self._jobs.values() if job.expires_at is not None and job.expires_at <= now
        ]:
            self._forget(job)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            self._sweep()


def _check_queue(jobs: Sequence[Job], most: int, whose: str) -> None:
    if sum(job.status == "queued" for job in jobs) >= most:
        raise TooMany(
            f"running a query: {most} jobs {whose} wait already; try again later", retry_after_seconds=10
        )
