"""The management routes of one HTTP process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from profilelake.errors import Conflict, Invalid, NotFound, Unavailable
from profilelake.manage.answers import json_answer, problem
from profilelake.manage.guard import Guard
from profilelake.manage.requests import TooLarge, WrongType
from profilelake.manage.status import accepted_ends, committed, read_status
from profilelake.manage.waiting import flushed, wait_asked
from profilelake.ops.clock import Clock
from profilelake.pipeline.progress import TOTALS
from profilelake.state.store import State
from profilelake.workspaces.keyring import KeyRing

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class Management:
    """What the routes that every server has need of their process."""

    workspace: str
    guard: Guard
    state: Callable[[], State]
    log_directory: Path
    flush_request: Path
    metrics_directory: Path
    limits_report: Path
    keys: KeyRing
    trouble: Callable[[], str | None]
    clock: Clock
    collectors: Sequence[Collector] = ()
    """What else `/metrics` shows, computed when it is asked for."""

    def application(self, routes: Sequence[Route] = ()) -> Starlette:
        """Return the ASGI application, with the `routes` of other areas.

        Their handlers may raise the errors of `profilelake.errors`; what is told is the message.
        """
        application = Starlette(
            routes=[
                Route("/livez", self._live),
                Route("/readyz", self._ready),
                Route("/metrics", self._metrics),
                self.guard.route("/api/status", GET=self._status),
                *routes,
            ],
            exception_handlers=HANDLERS,
        )
        # A redirect would be built from what the client says our name is.
        application.router.redirect_slashes = False
        return application

    async def _live(self, _request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def _ready(self, _request: Request) -> Response:
        self.keys.poll()
        reason = self.trouble() or (None if self.keys.loaded else "keys are not loaded yet")
        if reason is None:
            return Response("ok\n", media_type="text/plain")
        return problem(503, "not_ready", reason, headers={"Retry-After": "1"})

    async def _status(self, request: Request) -> Response:
        query = request.query_params
        seconds = wait_asked(query.get("wait_for"), query.get("timeout"))
        if seconds is None:
            return json_answer(200, self._read())
        target = accepted_ends(self.log_directory)
        status = await flushed(
            self.flush_request.touch, self._read, lambda status: committed(status, target), seconds
        )
        return json_answer(200 if committed(status, target) else 504, status)

    def _read(self) -> dict[str, object]:
        try:
            state = self.state()
        except Unavailable:
            state = None
        return read_status(state, self.log_directory, self.limits_report, self.workspace, self.clock())

    async def _metrics(self, request: Request) -> Response:
        peer = request.client.host if request.client else ""
        # Behind a proxy on this machine everybody comes from loopback.
        if peer not in _LOOPBACK or not _FORWARDED.isdisjoint(request.headers.keys()):
            refused = self.guard.refusal(request)
            if refused is not None:
                return refused
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.metrics_directory))  # type: ignore[no-untyped-call]
        registry.register(_Conservation(self._read()))
        for collector in self.collectors:
            registry.register(collector)
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Conservation:
    """The conservation numbers as gauges, computed when they are asked for."""

    def __init__(self, status: dict[str, object]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        events = GaugeMetricFamily(
            "profilelake_events", "Accepted events by where they are; see /api/status", labels=["state"]
        )
        for name in ("accepted", *TOTALS, "in_flight"):
            events.add_metric([name], float(str(self._status[name])))
        yield events
        yield GaugeMetricFamily(
            "profilelake_events_balanced",
            "1 if every accepted event is accounted for",
            value=1.0 if self._status["balanced"] else 0.0,
        )
        lag = GaugeMetricFamily(
            "profilelake_stage_lag_seconds", "How far a stage is behind", labels=["stage"]
        )
        stages = self._status["stages"]
        if isinstance(stages, list):
            for stage in stages:
                lag.add_metric([stage["name"]], stage["lag_seconds"])
        yield lag


async def _no_route(request: Request, _error: Exception) -> Response:
    return problem(404, "not_found", f"nothing is served at {request.url.path}")


async def _not_allowed(request: Request, error: Exception) -> Response:
    detail = f"{request.method} is not answered at {request.url.path}"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return problem(405, "method_not_allowed", detail, headers=headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    # What it was is in the log; the client learns nothing of our insides.
    return problem(500, "internal", "answering failed; the server's log says why")


async def _unavailable(_request: Request, error: Exception) -> Response:
    seconds = error.retry_after_seconds if isinstance(error, Unavailable) else 1
    return problem(503, "unavailable", str(error), headers={"Retry-After": str(seconds)})


def _telling(status: int, code: str) -> ExceptionHandler:
    async def tell(_request: Request, error: Exception) -> Response:
        return problem(status, code, str(error))

    return tell


HANDLERS: Final[Mapping[Any, ExceptionHandler]] = {
    404: _no_route,
    405: _not_allowed,
    500: _failed,
    Invalid: _telling(400, "invalid_request"),
    NotFound: _telling(404, "not_found"),
    Conflict: _telling(409, "conflict"),
    TooLarge: _telling(413, "too_large"),
    WrongType: _telling(415, "unsupported_media_type"),
    Unavailable: _unavailable,
}
