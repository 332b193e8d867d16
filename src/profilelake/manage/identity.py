"""`/api/identity`: why identifiers are one person, what was refused, how a profile formed, who is quarantined.

Reading only; decisions have routes of their own. Whatever names an identifier may also be asked by
POST, so that no e-mail address has to stand in a URL.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid, NotFound
from profilelake.identity import explain, history, view
from profilelake.identity.decide import EventSeen
from profilelake.identity.view import Page, View
from profilelake.manage.answers import Page as Asked
from profilelake.manage.answers import cursor_after, json_answer, page_asked
from profilelake.manage.decisions import LakeQuestion, LakeReader
from profilelake.manage.guard import Guard
from profilelake.manage.requests import read_json
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.semantics.times import parse_time
from profilelake.state import recent
from profilelake.state.store import State

BODY_BYTES_MAX: Final = 64 * 1024
QUESTIONS_MAX: Final = 2
"""Questions that one process answers at the same time; more would wait for its processor all the same."""
_Answer = TypeVar("_Answer")
_Shown = TypeVar("_Shown")


class WhyAsked(
    msgspec.Struct, forbid_unknown_fields=True, rename={"one": "from", "other": "to"}, frozen=True
):
    """Two identifiers, each as `TYPE:VALUE`. Their types say the collection where none is given."""

    one: str
    other: str
    collection: Collection | None = None


class RefusalsAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An identifier as `TYPE:VALUE`, or the messageId of an event: one of the two."""

    identifier: str | None = None
    message_id: str | None = None
    collection: Collection | None = None


class HistoryAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A profile by any id it ever had, or by one of its identifiers as `TYPE:VALUE`."""

    profile: str
    as_of: str | None = None
    collection: Collection | None = None


@dataclass(frozen=True, slots=True)
class Explaining:
    """What explanations are read from; `sets_in_lake` finds the sets of an event that is not recent."""

    workspace: str
    state: Callable[[], State]
    key: Callable[[], bytes]
    rules: IdentityRules
    recent_directory: Path
    sets_in_lake: Callable[[str], Awaitable[Sequence[bytes]]]
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUESTIONS_MAX))

    async def ask(self, question: Callable[[View], _Answer]) -> _Answer:
        """Return what `question` reads, in a thread: a large profile takes its time."""

        def asked() -> _Answer:
            return view.explained(self.state(), self.workspace, self.key(), self.rules, question)

        async with self.places:
            return await asyncio.to_thread(asked)


def identity_routes(guard: Guard, explaining: Explaining) -> list[Route]:
    """Return the routes that explain identity."""
    answers = _Answers(explaining)
    return [
        guard.route("/api/identity/why", GET=answers.why, POST=answers.why_in_body),
        guard.route("/api/identity/refusals", GET=answers.refusals, POST=answers.refusals_in_body),
        guard.route("/api/identity/profiles/{profile}/history", GET=answers.history),
        guard.route("/api/identity/history", POST=answers.history_in_body),
        guard.route("/api/identity/quarantine", GET=answers.quarantine),
    ]


def sets_in_lake(directory: Path) -> Callable[[str], Awaitable[list[bytes]]]:
    """Return what finds the sets of an event in the lake of a data directory, in a process of its own."""
    reader = LakeReader(directory)

    async def find(message_id: str) -> list[bytes]:
        found = await reader.ask(LakeQuestion(message_id=message_id))
        seen = msgspec.json.decode(found, type=EventSeen | None)
        return [] if seen is None else [key for _, key in seen.sets]

    return find


@dataclass(frozen=True, slots=True)
class _Answers:
    explaining: Explaining

    async def why(self, request: Request) -> Response:
        query = request.query_params
        one, other = query.get("from"), query.get("to")
        if not one or not other:
            raise Invalid("why: give two identifiers, ?from=TYPE:VALUE&to=TYPE:VALUE")
        return await self._why(WhyAsked(one, other, _collection(request)))

    async def why_in_body(self, request: Request) -> Response:
        return await self._why(await read_json(request, WhyAsked, bytes_max=BODY_BYTES_MAX))

    async def _why(self, asked: WhyAsked) -> Response:
        chain = await self.explaining.ask(
            partial(explain.why, collection=asked.collection, one=asked.one, other=asked.other)
        )
        return json_answer(200, {"data": {"chain": chain}})

    async def refusals(self, request: Request) -> Response:
        query = request.query_params
        asked = RefusalsAsked(query.get("identifier"), query.get("message_id"), _collection(request))
        return await self._refusals(request, asked)

    async def refusals_in_body(self, request: Request) -> Response:
        return await self._refusals(
            request, await read_json(request, RefusalsAsked, bytes_max=BODY_BYTES_MAX)
        )

    async def _refusals(self, request: Request, asked: RefusalsAsked) -> Response:
        page = page_asked(request)
        if asked.identifier and not asked.message_id:
            found = await self.explaining.ask(
                partial(
                    explain.refusals,
                    collection=asked.collection,
                    identifier=asked.identifier,
                    after=page.after,
                    rows=page.rows,
                )
            )
        elif asked.message_id and not asked.identifier:
            sets = await self._sets_of_event(asked.message_id)
            found = await self.explaining.ask(
                partial(explain.refusals_of_event, keys=sets, after=page.after, rows=page.rows)
            )
        else:
            raise Invalid("refusals: give either an identifier (TYPE:VALUE) or the message_id of an event")
        return _paged(page, found, refusals=found.shown.refusals, sets=found.shown.sets)

    async def _sets_of_event(self, message_id: str) -> Sequence[bytes]:
        """Find an event among the recent ones, which show it at once; else in the lake."""

        def recently(seen: View) -> list[bytes]:
            runs = recent.load(seen.tx, seen.workspace)
            return recent.keys_of_message(self.explaining.recent_directory, runs, message_id)

        sets = await self.explaining.ask(recently) or await self.explaining.sets_in_lake(message_id)
        if not sets:
            raise explain.no_such_event(message_id)
        return list(dict.fromkeys(sets))

    async def history(self, request: Request) -> Response:
        as_of = request.query_params.get("as_of")
        asked = HistoryAsked(request.path_params["profile"], as_of, _collection(request))
        return await self._history(request, asked)

    async def history_in_body(self, request: Request) -> Response:
        return await self._history(request, await read_json(request, HistoryAsked, bytes_max=BODY_BYTES_MAX))

    async def _history(self, request: Request, asked: HistoryAsked) -> Response:
        page = page_asked(request)
        found = await self.explaining.ask(
            partial(
                history.history,
                collection=asked.collection,
                text=asked.profile,
                as_of=_time(asked.as_of),
                after=page.after,
                rows=page.rows,
            )
        )
        return _paged(page, found, history=found.shown)

    async def quarantine(self, request: Request) -> Response:
        page = page_asked(request)
        try:
            found = await self.explaining.ask(partial(explain.quarantine, after=page.after, rows=page.rows))
        except NotFound:  # nothing was applied yet
            found = Page([], None)
        return _paged(page, found, quarantined=found.shown)


def _paged(asked: Asked, page: Page[_Shown], **members: object) -> Response:
    pagination: dict[str, object] = {"current": cursor_after(asked.after)}
    if page.following is not None:
        pagination["next"] = cursor_after(page.following)
    return json_answer(200, {"data": {**members, "pagination": pagination}})


def _collection(request: Request) -> Collection | None:
    name = request.query_params.get("collection")
    if name is None:
        return None
    if name not in COLLECTIONS:
        raise Invalid(f"collection={name[:40]!r}: it is one of {', '.join(COLLECTIONS)}")
    return COLLECTIONS[COLLECTIONS.index(name)]


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    micros = parse_time(text)
    if micros is None:
        raise Invalid(f"as_of={text[:40]!r}: write a time as 2026-03-01T10:00:00Z")
    return micros
