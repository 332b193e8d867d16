"""`/api/tokens`: who may read profiles and administer. Secrets are shown once and not kept."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.manage.answers import json_answer, page_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.guard import Guard
from profilelake.manage.requests import decoded, read_body
from profilelake.semantics.times import format_time, parse_time
from profilelake.workspaces import Token, TokenKind
from profilelake.workspaces.control import Control


class NewToken(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A token to issue. `expires_at` is an ISO 8601 time, none means never; `scope` narrows a read token."""

    kind: Literal["read", "admin"]
    expires_at: str | None = None
    scope: str = ""


def token_routes(guard: Guard, changes: Changes) -> list[Route]:
    """Return the routes of tokens."""
    answers = _Tokens(changes)
    return [
        guard.route("/api/tokens", GET=answers.list, POST=answers.issue),
        guard.route("/api/tokens/{token}", DELETE=answers.revoke),
    ]


@dataclass(frozen=True, slots=True)
class _Tokens:
    changes: Changes

    async def list(self, request: Request) -> Response:
        page = page_asked(request)
        tokens = await self.changes.run(lambda control, _: control.tokens(self.changes.workspace))
        rows = [token for token in tokens if token.id > page.after]
        return page_answer("tokens", rows, page, lambda token: token.id, _shape)

    async def issue(self, request: Request) -> Response:
        body = await read_body(request)
        new = decoded(body, NewToken)
        expires_at = None if new.expires_at is None else parse_time(new.expires_at)
        if new.expires_at is not None and expires_at is None:
            raise Invalid(
                f"issuing a token: expiresAt is {new.expires_at[:40]!r}; write it as 2030-01-31T12:00:00Z"
            )
        shown: dict[str, str] = {}

        def act(control: Control, now: int) -> dict[str, Any]:
            token, secret = control.issue_token(
                TokenKind(new.kind),
                self.changes.workspace,
                now=now,
                scope=new.scope,
                expires_at=expires_at,
            )
            shown["secret"] = secret
            return _shape(token)

        token, repeated = await self.changes.once(request, body, act)
        if repeated:
            raise Conflict(
                f"issuing a token: this request made {token['id']}, whose secret was shown then and is not"
                " kept; if that answer was lost, revoke it and issue another one"
            )
        return json_answer(201, {"data": {"token": token | shown}})

    async def revoke(self, request: Request) -> Response:
        token_id = request.path_params["token"]

        def act(control: Control, now: int) -> Token:
            if all(token.id != token_id for token in control.tokens(self.changes.workspace)):
                raise NotFound(
                    f"revoking token {token_id!r}: there is no such token; list the tokens to see all"
                )
            control.revoke_token(token_id, now=now)
            return next(token for token in control.tokens() if token.id == token_id)

        return json_answer(200, {"data": {"token": _shape(await self.changes.run(act))}})


def _shape(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "kind": token.kind.value,
        "workspaceId": token.workspace,
        "scope": token.scope,
        "createdAt": format_time(token.created_at),
        "expiresAt": None if token.expires_at is None else format_time(token.expires_at),
        "revoked": token.revoked,
    }
