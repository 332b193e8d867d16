"""`POST …/profiles/user_id:…/external_ids/delete`: take one identifier off a person, as clients of Segment do.

It is a decision that keeps the two apart, in all that was and will be: replays do not bring the
identifier back. Answers have the shape and the codes of the Profile API.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Conflict, Invalid, NotFound, Unavailable
from profilelake.identity.decide import Asked, AskUnlink, Deciding
from profilelake.manage.answers import json_answer
from profilelake.manage.guard import Guard
from profilelake.manage.requests import TooLarge, WrongType, decoded, read_body
from profilelake.semantics.identifiers import Identifier, ident_id, normalised

BODY_BYTES_MAX: Final = 16_384
PATHS: Final = tuple(
    f"/v1/{word}/{{space}}/collections/{{collection}}/profiles/{{id:path}}/external_ids/delete"
    for word in ("spaces", "namespaces")
)
Decide: TypeAlias = Callable[[Request, bytes, Asked], Awaitable[dict[str, Any]]]

_USER_ID: Final = "user_id"
_GUARD_CODES: Final = {401: "unauthorized", 403: "forbidden", 503: "service_unavailable"}


class ExternalIdNamed(msgspec.Struct):
    """An identifier to take off."""

    id: str
    type: str


class Deletion(msgspec.Struct):
    """Body of a deletion; it names one identifier."""

    delete_external_ids: list[ExternalIdNamed]


def is_deletion(path: str) -> bool:
    """Tell whether a path below the Profile API's is one of these."""
    return path.endswith("/external_ids/delete")


def deletion_routes(guard: Guard, deciding: Deciding, decide: Decide) -> list[Route]:
    """Return the routes; `decide` records a decision that a request asks for."""
    answers = _Deletions(guard, deciding, decide)
    return [Route(path, answers.delete, methods=["POST"]) for path in PATHS]


@dataclass(frozen=True, slots=True)
class _Deletions:
    guard: Guard
    deciding: Deciding
    decide: Decide

    async def delete(self, request: Request) -> Response:
        refusal = self.guard.refusal(request)
        if refusal is not None:
            headers = {
                name: value
                for name, value in refusal.headers.items()
                if name in ("www-authenticate", "retry-after")
            }
            code = _GUARD_CODES[refusal.status_code]
            return _refused(refusal.status_code, code, "An admin token of this space is needed.", headers)
        try:
            return await self._deleted(request)
        except (Invalid, WrongType) as error:
            return _refused(400, "bad_request", str(error))
        except TooLarge as error:
            return _refused(413, "invalid_request_error", str(error))
        except Unavailable as error:
            retry = {"Retry-After": str(error.retry_after_seconds)}
            return _refused(503, "service_unavailable", str(error), retry)

    async def _deleted(self, request: Request) -> Response:
        place = request.path_params
        body = await read_body(request, bytes_max=BODY_BYTES_MAX)
        named = decoded(body, Deletion).delete_external_ids
        if place["space"] != self.deciding.workspace:
            return _refused(403, "forbidden", "The token does not administer this space.")
        if place["collection"] != "users":
            raise Invalid("identifiers are taken off profiles of the collection `users`")
        type, _, value = place["id"].partition(":")
        if type != _USER_ID or not value:
            raise Invalid("the profile must be named by its user id, as user_id:…")
        if len(named) != 1:
            raise Invalid(f"delete_external_ids names {len(named)} identifiers; name exactly one")
        lookup, deleted = Identifier(type, value), Identifier(named[0].type, named[0].id)
        try:
            known = await asyncio.to_thread(self._known, lookup, deleted)
        except NotFound:
            known = [False]  # nothing was applied yet
        if known is None:
            return _refused(
                400, "unsupported_eid_type", f"No rule lets identifiers of type `{deleted.type}` link people."
            )
        if not known[0]:
            return _refused(404, "not_found", "Profile was not found.")
        if not known[1]:
            return _refused(404, "eid_not_found", "The profile has no such external identifier.")
        asked = AskUnlink(
            identifiers=(str(lookup), str(deleted)), collection="users", note="deleted over the Profile API"
        )
        try:
            done = await self.decide(request, body, asked)
        except (NotFound, Conflict):
            done = {"changed": False}
        if not done["changed"]:
            return _refused(404, "eid_not_found", "The profile has no such external identifier.")
        return json_answer(200, {"code": "success", "message": "External identifier has been deleted."})

    def _known(self, *identifiers: Identifier) -> list[bool] | None:
        """Tell which of the identifiers were ever seen; None where one of them cannot link people."""
        found = []
        with self.deciding.state().read(self.deciding.workspace) as tx:
            rules = self.deciding.held(tx).rules
            for one in identifiers:
                if rules.rule("users", one.type) is None:
                    return None
                try:
                    value = normalised(rules, "users", one.type, one.value)
                    key = ident_id(self.deciding.key(), "users", Identifier(one.type, value))
                except UnicodeEncodeError as error:
                    raise Invalid("an identifier is not valid text") from error
                found.append(tx.ident(self.deciding.workspace, key) is not None)
        return found


def _refused(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return json_answer(status, {"error": {"code": code, "message": message}}, headers=headers)
