"""`/api/sql` in the process that reads the lake: run a query and stream its result, or keep it as a job."""

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from profilelake.errors import Invalid, Unavailable
from profilelake.manage.answers import json_answer, problem
from profilelake.manage.requests import read_json
from profilelake.manage.sql import FORMATS, SEES, TOKEN, SqlAsked, SqlJob
from profilelake.ops.forward import PIPE, pipe_of
from profilelake.ops.http import Receive, Scope, Send
from profilelake.query.asking import Asked, Queries, TooMany
from profilelake.query.failures import Code, Failed, Failure, failed
from profilelake.query.jobs import Job, Jobs
from profilelake.query.nursery import Running
from profilelake.semantics.times import format_time

BODY_BYTES_MAX: Final = 1 << 20
_STATUS: Final[dict[Code, int]] = {
    "table_not_found": 404,
    "memory_limit": 422,
    "row_limit": 422,
    "byte_limit": 422,
    "timeout": 504,
    "worker_ended": 422,
}
"""Of the codes that are not 400."""
_Parameters: TypeAlias = list[Any] | dict[str, Any] | None
NO_VIEWS: Final = (
    "views of Profiles Sync and the warehouse are not here: ask them on the command line (profilelake sql) or in a"
    " DuckDB file (profilelake lake duckdb)"
)
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SqlAnswers:
    """Answers queries that the process in front has let through.

    `closed` says why nothing is answered at all: there is no jail on this system.
    """

    queries: Queries
    jobs: Jobs
    seconds_max: float
    job_seconds_max: float
    closed: str | None = None

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/sql", self.ask, methods=["POST"]),
            Route("/api/sql/jobs/{job}", self.job, methods=["GET", "DELETE"]),
            Route("/api/sql/jobs/{job}/result", self.result, methods=["GET"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Run a query."""
        if self.closed is not None:
            return problem(503, "sql_unavailable", self.closed)
        body = await read_json(request, SqlAsked, bytes_max=BODY_BYTES_MAX)
        try:
            asked = self._asked(request, body)
            if body.mode == "async":
                job = self.jobs.add(asked)
                return json_answer(202, _shown(job), headers={"Location": f"/api/sql/jobs/{job.id}"})
            return await self._streamed(request, asked)
        except Failed as error:
            return _refused(error.failure)
        except TooMany as error:
            retry = {"Retry-After": str(error.retry_after_seconds)}
            return problem(429, "too_many_queries", str(error), headers=retry)

    async def job(self, request: Request) -> Response:
        """Show a job, or end it."""
        id, token = request.path_params["job"], _header(request, TOKEN)
        if request.method == "DELETE":
            return json_answer(200, _shown(self.jobs.cancel(id, token)))
        return json_answer(200, _shown(self.jobs.get(id, token)))

    async def result(self, request: Request) -> Response:
        """Give the result of a job."""
        id, token = request.path_params["job"], _header(request, TOKEN)
        job = self.jobs.get(id, token)
        if job.failure is not None:
            return _refused(job.failure)
        path = self.jobs.result(id, token)
        headers = {"Cache-Control": "no-store", "X-Result-Rows": str(job.rows)}
        return FileResponse(path, headers=headers, media_type=FORMATS[job.asked.format])

    def _asked(self, request: Request, body: SqlAsked) -> Asked:
        most = self.job_seconds_max if body.mode == "async" else self.seconds_max
        seconds = most if body.timeout_seconds is None else body.timeout_seconds
        if not 0 < seconds <= most:
            raise Invalid(
                f"timeout_seconds = {seconds:g}: give more than 0 and at most {most:g} for {body.mode}"
            )
        return Asked(
            query=body.query,
            parameters=_parameters(body.parameters),
            format=body.format or _format(request.headers.get("accept", "")),
            seconds=seconds,
            token=_header(request, TOKEN),
            # What is not said is not seen.
            masked=_header(request, SEES) != "whole",
        )

    async def _streamed(self, request: Request, asked: Asked) -> Response:
        beginning = asyncio.create_task(self._begun(asked))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((beginning, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not beginning.done():
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
        if beginning.cancelled():
            return problem(400, "cancelled", "the client went away")  # nobody reads it
        running, kept = beginning.result()

        headers = {"Cache-Control": "no-store", PIPE.decode(): pipe_of(running.out)}
        return _ThroughPipe(running, kept, headers=headers, media_type=FORMATS[asked.format])

    async def _begun(self, asked: Asked) -> tuple[Running, AsyncExitStack]:
        async with AsyncExitStack() as held:
            running = await held.enter_async_context(self.queries.asked(asked))
            return running, held.pop_all()


class _ThroughPipe(Response):
    """Says where the result comes through, and that all of it is there: see `ops.forward.PIPE`."""

    def __init__(self, running: Running, held: AsyncExitStack, **how: Any) -> None:
        super().__init__(**how)
        del self.headers["content-length"]
        self._running = running
        self._held = held

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            writing = asyncio.create_task(self._running.written())
            leaving = asyncio.ensure_future(receive())
            try:
                await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    if isinstance(error := writing.exception(), Failed):
                        # The head is sent: all that is left is to let the answer end where nobody can take
                        # it for whole. What it was is for the log, without what was asked.
                        _LOG.info("a result breaks off: %s", error.failure.code)
                        return
                    writing.result()
                    await send({"type": "http.response.body", "body": b".", "more_body": True})
                    await leaving
            finally:
                leaving.cancel()
                writing.cancel()
                await asyncio.gather(leaving, writing, return_exceptions=True)


def _refused(failure: Failure) -> Response:
    status = _STATUS.get(failure.code, 400)
    body = {
        "type": "about:blank",
        "title": failure.code,
        "status": status,
        "code": failure.code,
        "detail": _told(failure).message,
    }
    if failure.line is not None:
        body |= {"line": failure.line, "column": failure.column or 1}
    return Response(msgspec.json.encode(body), status, media_type="application/problem+json")


def _told(failure: Failure) -> Failure:
    """Return a failure as clients are told: of a table that is not here also where it may be."""
    if failure.code != "table_not_found":
        return failure
    return msgspec.structs.replace(failure, message=f"{failure.message}; {NO_VIEWS}")


def _shown(job: Job) -> SqlJob:
    return SqlJob(
        id=job.id,
        status=job.status,
        format=job.asked.format,
        created_at=format_time(job.created_at),
        finished_at=None if job.finished_at is None else format_time(job.finished_at),
        expires_at=None if job.expires_at is None else format_time(job.expires_at),
        rows=job.rows,
        bytes=job.bytes,
        error=None if job.failure is None else _told(job.failure),
        result=f"/api/sql/jobs/{job.id}/result" if job.status == "done" else None,
    )


def _parameters(given: _Parameters) -> _Parameters:
    """Return parameters that can be handed to a worker."""
    try:
        msgspec.msgpack.encode(given)
    except (OverflowError, RecursionError) as error:
        raise failed(
            "invalid_parameters",
            "a parameter is an integer of more than 64 bits, or nested too deeply; give it as text and cast it",
        ) from error
    return given


def _format(accept: str) -> str:
    """Return the first format that an Accept header names; weights are not looked at."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for media_type in wanted:
        for name, known in FORMATS.items():
            if media_type == known:
                return name
    if not accept or any(media_type in ("*/*", "application/*") for media_type in wanted):
        return "json"
    raise Invalid(f"Accept: {accept[:100]}: results are given as {', '.join(FORMATS.values())}")


def _header(request: Request, name: bytes) -> str:
    value = request.headers.get(name.decode())
    if value is None:
        raise Unavailable("answering a query: the request did not come through the server's front")
    return value
