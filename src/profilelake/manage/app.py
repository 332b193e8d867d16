"""The management routes of one HTTP process."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid, Unavailable
from profilelake.manage.status import accepted_ends, committed, read_status
from profilelake.ops.clock import Clock
from profilelake.pipeline.progress import TOTALS
from profilelake.state.store import State
from profilelake.workspaces import TokenKind
from profilelake.workspaces.keyring import KeyRing

WAIT_SECONDS_MAX: Final = 300.0
WAIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
ASK_AGAIN_SECONDS: Final = 0.5
"""A flush is asked for again so often: what was accepted just before it may not have been applied."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class Management:
    """What the management routes need of their process."""

    workspace: str
    state: Callable[[], State]
    log_directory: Path
    flush_request: Path
    metrics_directory: Path
    keys: KeyRing
    trouble: Callable[[], str | None]
    clock: Clock

    def application(self) -> Starlette:
        """Return the ASGI application."""
        application = Starlette(
            routes=[
                Route("/livez", self._live),
                Route("/readyz", self._ready),
                Route("/metrics", self._metrics),
                Route("/api/status", self._guarded(self._status)),
            ],
            exception_handlers={404: _not_found, 405: _not_allowed, 500: _failed},
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
        wait_for = request.query_params.get("wait_for")
        if wait_for is None:
            return _json(200, self._read())
        if wait_for != "committed":
            return problem(400, "invalid_request", f"wait_for={wait_for}: only `committed` can be waited for")
        try:
            timeout = _timeout(request.query_params.get("timeout"))
        except Invalid as error:
            return problem(400, "invalid_request", str(error))
        target = accepted_ends(self.log_directory)
        status = await self._wait(target, timeout)
        return _json(200 if committed(status, target) else 504, status)

    async def _wait(self, target: dict[str, int], seconds_max: float) -> dict[str, object]:
        """Ask for a flush until everything before `target` is committed or time is up."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds_max
        ask_at = 0.0
        while True:
            status = self._read()
            now = loop.time()
            if committed(status, target) or now >= give_up_at:
                return status
            if now >= ask_at:
                self.flush_request.touch()
                ask_at = now + ASK_AGAIN_SECONDS
            await asyncio.sleep(POLL_SECONDS)

    def _read(self) -> dict[str, object]:
        try:
            state = self.state()
        except Unavailable:
            state = None
        return read_status(state, self.log_directory, self.workspace, self.clock())

    async def _metrics(self, request: Request) -> Response:
        peer = request.client.host if request.client else ""
        # Behind a proxy on this machine everybody comes from loopback.
        if peer not in _LOOPBACK or not _FORWARDED.isdisjoint(request.headers.keys()):
            refused = self._refusal(request)
            if refused is not None:
                return refused
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.metrics_directory))  # type: ignore[no-untyped-call]
        registry.register(_Conservation(self._read()))
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            return self._refusal(request) or await handler(request)

        return guarded

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer for a request that shows no admin token of this workspace."""
        self.keys.poll()
        secret = _secret(request.headers.get("authorization", ""))
        token = None
        if secret:
            try:
                token = self.keys.token(secret, now=self.clock())
            except Unavailable as error:
                retry = {"Retry-After": str(error.retry_after_seconds)}
                return problem(503, "unavailable", str(error), headers=retry)
        if token is None:
            return problem(
                401,
                "authentication_error",
                "an admin token is needed: Authorization: Bearer adm_…",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if token.kind is not TokenKind.ADMIN or token.workspace != self.workspace:
            return problem(403, "forbidden", "this token does not administer this workspace")
        return None


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


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    """Return an error as RFC 9457 has it; `code` is stable."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/problem+json")


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _not_found(request: Request, _error: Exception) -> Response:
    return problem(404, "not_found", f"nothing is served at {request.url.path}")


async def _not_allowed(request: Request, _error: Exception) -> Response:
    detail = f"{request.method} is not answered at {request.url.path}"
    return problem(405, "method_not_allowed", detail, headers={"Allow": "GET, HEAD"})


async def _failed(_request: Request, _error: Exception) -> Response:
    # What it was is in the log; the client learns nothing of our insides.
    return problem(500, "internal", "answering failed; the server's log says why")


def _timeout(text: str | None) -> float:
    if text is None:
        return WAIT_SECONDS
    try:
        seconds = float(text)
    except ValueError as error:
        raise Invalid(f"timeout={text}: not a number of seconds") from error
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise Invalid(f"timeout={text}: give 0 to {WAIT_SECONDS_MAX:.0f} seconds")
    return seconds


def _secret(header: str) -> str:
    """Return the token of an Authorization header: Bearer, or Basic with the token as user name."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[0]
        except ValueError:
            return ""
    return ""
