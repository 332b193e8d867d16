"""`/api/sql` in the HTTP processes: who may ask, and how much of it; the rest is forwarded.

An admin token sees everything, a read token what its scope says: nothing, tables with personal columns
as null, or everything.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid, Unavailable
from profilelake.manage.answers import problem
from profilelake.manage.guard import secret_of
from profilelake.ops.clock import Clock
from profilelake.ops.http import Receive, Scope, Send
from profilelake.query.failures import Failure
from profilelake.workspaces import Token, TokenKind, scopes
from profilelake.workspaces.keyring import KeyRing

TOKEN: Final = b"x-profilelake-token"
SEES: Final = b"x-profilelake-sql"
"""Headers to the process that reads the lake: the id of the token, `masked` or `whole`."""
FORMATS: Final = {
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
}
"""Names of formats and the media types they are asked by."""


class SqlAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A query over HTTP. Without a `format`, the Accept header names it, else it is JSON."""

    query: str
    parameters: list[Any] | dict[str, Any] | None = None
    format: Literal["arrow", "parquet", "csv", "ndjson", "json"] | None = None
    timeout_seconds: float | None = None
    mode: Literal["sync", "async"] = "sync"


class SqlJob(msgspec.Struct, frozen=True):
    """A query that runs without its client. Once it is done, `result` is where to read it until `expires_at`."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    format: str
    created_at: str
    finished_at: str | None
    expires_at: str | None
    rows: int
    bytes: int
    error: Failure | None
    result: str | None


class Forwarding(Protocol):
    """Hands a request on; `ops.forward.Forward` is one."""

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, trusted: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer a request with what the other process says."""
        ...


@dataclass(frozen=True, slots=True)
class SqlDoor:
    """Lets requests through whose token may ask in SQL, and tells the other process what it may see."""

    keys: KeyRing
    workspace: str
    clock: Clock
    forward: Forwarding
    wait: Callable[[str, int], int]
    """Counts a request of a token with a rate; the seconds it has to wait, 0 if it may pass."""

    def routes(self) -> list[Route]:
        """Return the routes, all answered by the process that reads the lake."""
        jobs = "/api/sql/jobs/{job}"
        return [
            Route("/api/sql", self._door, methods=["POST"]),
            Route(jobs, self._door, methods=["GET", "DELETE"]),
            Route(f"{jobs}/result", self._door, methods=["GET"]),
        ]

    @property
    def _door(self) -> Callable[..., object]:
        return _Door(self)

    def admitted(self, request: Request) -> Response | tuple[Token, str]:
        """Return the token of a request and what it sees, or the answer that refuses it."""
        self.keys.poll()
        secret = secret_of(request)
        try:
            token = self.keys.token(secret, now=self.clock()) if secret else None
        except Unavailable as error:
            retry = {"Retry-After": str(error.retry_after_seconds)}
            return problem(503, "unavailable", str(error), headers=retry)
        if token is None:
            return problem(
                401,
                "authentication_error",
                "a token is needed: Authorization: Bearer …",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope = _scope(token)
        if token.workspace != self.workspace or scope.sql == "no":
            return problem(
                403,
                "forbidden",
                "this token may not ask in SQL; its scope needs the word sql or sql:personal",
            )
        if scope.rate is not None and (seconds := self.wait(token.id, scope.rate)):
            return problem(
                429,
                "rate_limit_error",
                f"this token may send {scope.rate} requests per second; wait before the next one",
                headers={"Retry-After": str(seconds)},
            )
        return token, scope.sql


def _scope(token: Token) -> scopes.Scope:
    if token.kind is TokenKind.ADMIN:
        return _EVERYTHING
    try:
        return scopes.Scope.parse(token.scope)
    except Invalid:
        return _NOTHING  # a scope of another version: what is not understood opens nothing


_EVERYTHING: Final = scopes.Scope()
_NOTHING: Final = scopes.Scope(sql="no")


class _Door:
    """An ASGI application, because the answer passes through in pieces."""

    def __init__(self, door: SqlDoor) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        admitted = self._door.admitted(Request(scope))
        if isinstance(admitted, Response):
            await admitted(scope, receive, send)
            return
        token, sees = admitted
        trusted = [(TOKEN, token.id.encode()), (SEES, sees.encode())]
        await self._door.forward(scope, receive, send, trusted)
