"""Who may administer: an admin token of the workspace stands before every management route."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Unavailable
from profilelake.manage.answers import problem
from profilelake.ops.clock import Clock
from profilelake.workspaces import TokenKind
from profilelake.workspaces.keyring import KeyRing

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets requests through that show an admin token of `workspace`."""

    keys: KeyRing
    workspace: str
    clock: Clock

    def route(self, path: str, **handlers: Handler) -> Route:
        """Return a guarded route that answers each method by its own handler: `GET=…, POST=…`.

        A path must have one route: of several, only the first would answer, and a method that
        another one takes would be called not allowed.
        """

        async def by_method(request: Request) -> Response:
            return await handlers["GET" if request.method == "HEAD" else request.method](request)

        return Route(path, self.wrap(by_method), methods=list(handlers))

    def wrap(self, handler: Handler) -> Handler:
        """Return `handler` with the guard before it."""

        async def guarded(request: Request) -> Response:
            return self.refusal(request) or await handler(request)

        return guarded

    def refusal(self, request: Request) -> Response | None:
        """Return the answer for a request that shows no admin token of this workspace."""
        self.keys.poll()
        secret = secret_of(request)
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
        request.state.token = token
        return None


def asked_by(request: Request) -> str:
    """Return who sent a request that the guard let through, as audit trails name him: by token, not secret."""
    return f"token {request.state.token.id}"


def secret_of(request: Request) -> str:
    """Return the token of an Authorization header: Bearer, or Basic with the token as user name."""
    header = request.headers.get("authorization", "")
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[0]
        except ValueError:
            return ""
    return ""
