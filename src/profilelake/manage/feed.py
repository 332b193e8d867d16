"""`GET /api/feed`: changes of computed traits and audiences, as pages, by waiting for them, or as an event stream.

Any process may answer: all that a client must keep is the cursor of what it has done.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from profilelake.activate import feed
from profilelake.activate.feed import Cursor, Gone, Wanted
from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.manage.answers import json_answer, problem
from profilelake.manage.guard import secret_of
from profilelake.ops.clock import Clock
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.store import Db, State
from profilelake.workspaces import Token, TokenKind, scopes
from profilelake.workspaces.keyring import KeyRing

ROWS: Final = 100
"""Changes of one answer when the client names no number."""
ROWS_MAX: Final = 1_000
SCAN_MAX: Final = 2_000
"""Changes one look goes through: other requests wait for it."""
WAIT_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.05
HEARTBEAT_SECONDS: Final = 15.0
"""How often a quiet stream says that it lives, and how long one may go on with a token that is revoked."""
WAITERS_MAX: Final = 256
"""Requests that may wait in one process."""
STREAMS_MAX: Final = 64
"""Event streams of one process."""
STREAM_SECONDS_MAX: Final = 3_600.0
"""How long a stream lasts; clients come back by themselves, and this way spread over the processes anew."""
NAMES_MAX: Final = 100
_EXPAND: Final = "external_ids"
_STREAM: Final = "text/event-stream"
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for."""

    wanted: Wanted
    rows: int
    expand: bool


@dataclass(slots=True)
class _Pulse:
    """Wakes all who wait when the feed has grown: one look for all of them."""

    look: Callable[[], object]
    waiters: int = 0
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _task: "asyncio.Task[None] | None" = None

    async def next(self, seconds: float) -> None:
        """Return when there is something new, or after so many seconds."""
        self.waiters += 1
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._beat(self.look()))
            woken = self._woken
            try:
                await asyncio.wait_for(woken.wait(), seconds)
            except TimeoutError:
                pass
        finally:
            self.waiters -= 1

    async def _beat(self, seen: object) -> None:
        while self.waiters:
            await asyncio.sleep(LOOK_SECONDS)
            now = self.look()
            if now != seen:
                seen = now
                self._woken.set()
                self._woken = asyncio.Event()


class FeedDoor:
    """Answers requests for the feed in one HTTP process."""

    def __init__(
        self,
        keys: KeyRing,
        workspace: str,
        clock: Clock,
        state: Callable[[], State],
        wait: Callable[[str, int], int],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`wait` counts requests of tokens with a rate; `stopping` tells that the process is to end."""
        self._keys = keys
        self._workspace = workspace
        self._clock = clock
        self._state = state
        self._wait = wait
        self._stopping = stopping
        self._pulse = _Pulse(self._newest)
        self._streams = 0

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("/api/feed", self.answer, methods=["GET"])]

    async def answer(self, request: Request) -> Response:
        """Answer with what follows the cursor: a page, or a stream where that is accepted."""
        admitted = self._admitted(request)
        if isinstance(admitted, Response):
            return admitted
        query = request.query_params
        asked = self._asked(request, admitted)
        if isinstance(asked, Response):
            return asked
        streams = _STREAM in request.headers.get("accept", "")
        place = request.headers.get("last-event-id") if streams else None
        after = self._cursor(place or query.get("after"))
        try:
            if streams:
                return self._stream(request, asked, after)
            seconds = _number(query.get("wait"), "wait", 0, WAIT_SECONDS_MAX)
            return await self._page(request, asked, after, seconds)
        except Gone as error:
            return problem(410, "gone", str(error))

    # ---- what is asked -----------------------------------------------------------------------------

    def _token(self, request: Request) -> Token | None:
        self._keys.poll()
        secret = secret_of(request)
        return self._keys.token(secret, now=self._clock()) if secret else None

    def _admitted(self, request: Request) -> Response | scopes.Scope:
        token = self._token(request)
        if token is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            detail = "a token is needed: Authorization: Bearer …"
            return problem(401, "authentication_error", detail, headers=challenge)
        scope = _scope(token)
        if token.workspace != self._workspace or not scope.feed:
            detail = "this token may not read the feed; its scope needs the word feed"
            return problem(403, "forbidden", detail)
        if scope.rate is not None and (seconds := self._wait(token.id, scope.rate)):
            detail = f"this token may send {scope.rate} requests per second; wait before the next one"
            return problem(429, "rate_limit_error", detail, headers={"Retry-After": str(seconds)})
        return scope

    def _asked(self, request: Request, scope: scopes.Scope) -> Response | _Asked:
        query = request.query_params
        definitions = frozenset(query.getlist("definition"))
        collections = frozenset(query.getlist("collection"))
        if len(definitions) > NAMES_MAX:
            raise Invalid(f"definition: {len(definitions)} are named, the most is {NAMES_MAX}")
        for name in sorted(collections - set(COLLECTIONS)):
            raise Invalid(f"collection={name[:40]!r}: it is one of {', '.join(COLLECTIONS)}")
        expand = query.get("expand", "")
        if expand not in ("", _EXPAND):
            raise Invalid(f"expand={expand[:40]!r}: only {_EXPAND} can be expanded")
        if expand and scope.resources is not None and _EXPAND not in scope.resources:
            detail = "this token may not read identifiers; its scope needs resource:external_ids"
            return problem(403, "forbidden", detail)
        # A kind of words that a scope does not have narrows nothing; what it narrows is left out unsaid.
        wanted = Wanted(_narrowed(definitions, scope.traits), _narrowed(collections, scope.collections))
        rows = int(_number(query.get("limit"), "limit", 1, ROWS_MAX, ROWS))
        return _Asked(wanted, rows, bool(expand))

    def _cursor(self, text: str | None) -> Cursor:
        if text is None:
            raise Invalid(
                "reading the feed: say from where: after=start for all that is kept, after=now, or the cursor of"
                " an answer before"
            )
        if text not in ("now", "start"):
            return Cursor.parse(text)
        with self._reading() as (tx, workspace):
            return feed.now(tx, workspace) if text == "now" else feed.start(tx, workspace)

    # ---- answers -----------------------------------------------------------------------------------

    async def _page(self, request: Request, asked: _Asked, after: Cursor, seconds: float) -> Response:
        if seconds and self._pulse.waiters >= WAITERS_MAX:
            raise Unavailable(
                f"waiting for changes: {WAITERS_MAX} requests wait in this process; retry later"
            )
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds
        while True:
            told, after, more = self._read(asked, after)
            left = give_up_at - loop.time()
            if told or (not more and (left <= 0 or self._stopping() or await request.is_disconnected())):
                return json_answer(200, {"changes": told, "cursor": after.text(), "more": more})
            # What is passed over may be much; others are answered in between.
            await (asyncio.sleep(0) if more else self._pulse.next(min(left, 1.0)))

    def _stream(self, request: Request, asked: _Asked, after: Cursor) -> Response:
        if self._streams >= STREAMS_MAX:
            raise Unavailable(
                f"streaming changes: {STREAMS_MAX} streams are open in this process; retry later"
            )
        with self._reading() as (tx, workspace):
            feed.check(tx, workspace, after)  # while it can be said by a status
        self._streams += 1
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return _Stream(self._events(request, asked, after), self._closed, headers)

    def _closed(self) -> None:
        self._streams -= 1

    async def _events(self, request: Request, asked: _Asked, after: Cursor) -> AsyncIterator[bytes]:
        """Yield what follows, a heartbeat where nothing does. Nothing is read ahead of a slow client."""
        loop = asyncio.get_running_loop()
        end_at, beat_at = loop.time() + STREAM_SECONDS_MAX, loop.time() + HEARTBEAT_SECONDS
        check_at = beat_at
        yield b"retry: 1000\n\n"
        while loop.time() < end_at and not self._stopping():
            if loop.time() >= check_at:
                if self._token(request) is None:
                    return  # it was revoked meanwhile
                check_at = loop.time() + HEARTBEAT_SECONDS
            try:
                told, after, more = self._read(asked, after)
            except Gone as error:
                yield b"event: gone\ndata: " + _encode({"code": "gone", "detail": str(error)}) + b"\n\n"
                return
            except Unavailable:
                told, more = [], False  # the state is being replaced; the client need not know
            if told:
                yield b"".join(_event(change) for change in told)
                beat_at = loop.time() + HEARTBEAT_SECONDS
            elif loop.time() >= beat_at:
                # With the place, so that what was passed over is not gone through again after a reconnect.
                yield b": alive\nid: " + after.text().encode() + b"\n\n"
                beat_at = loop.time() + HEARTBEAT_SECONDS
            await (asyncio.sleep(0) if more else self._pulse.next(1.0))

    def _read(self, asked: _Asked, after: Cursor) -> tuple[list[dict[str, Any]], Cursor, bool]:
        """Return the next changes, the cursor behind them, and whether there is more right now."""
        with self._reading() as (tx, workspace):
            page = feed.read(tx, workspace, after, asked.wanted, asked.rows, scan=SCAN_MAX)
            known = None
            if asked.expand:
                known = feed.people(tx, workspace, [change.profile for _, change in page.changes])
        told = [feed.document(after.epoch, key, change, known) for key, change in page.changes]
        return told, page.cursor, not page.drained

    def _reading(self) -> "_Reading":
        return _Reading(self._state(), self._workspace)

    def _newest(self) -> object:
        if self._stopping():
            return "stopping"
        try:
            state = self._state()
            with state.read(self._workspace) as tx:
                return id(state), tx.last_key(self._workspace, Db.CHANGE)
        except (NotFound, Unavailable):
            return None


class _Reading:
    """A look at the state; one that nothing was written to yet is a passing trouble."""

    def __init__(self, state: State, workspace: str) -> None:
        self._state = state
        self._workspace = workspace
        self._context: Any = None

    def __enter__(self) -> tuple[Any, str]:
        try:
            self._context = self._state.read(self._workspace)
            return self._context.__enter__(), self._workspace
        except NotFound as error:
            raise Unavailable(f"reading the feed: {error}") from error

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)


class _Stream(StreamingResponse):
    """An event stream that says when it is over, however it ends."""

    def __init__(
        self, events: AsyncIterator[bytes], closed: Callable[[], None], headers: dict[str, str]
    ) -> None:
        super().__init__(events, media_type=_STREAM, headers=headers)
        self._closed = closed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()


def _event(change: dict[str, Any]) -> bytes:
    return b"id: " + str(change["cursor"]).encode() + b"\nevent: change\ndata: " + _encode(change) + b"\n\n"


def _scope(token: Token) -> scopes.Scope:
    if token.kind is TokenKind.ADMIN:
        return scopes.Scope()
    try:
        return scopes.Scope.parse(token.scope)
    except Invalid:
        return scopes.Scope(feed=False)  # of another version: what is not understood opens nothing


def _narrowed(asked: frozenset[str], allowed: frozenset[str] | None) -> frozenset[str]:
    """Return the names that are asked for and allowed; an empty set is all, so nothing becomes a name of nobody."""
    if not allowed:
        return asked
    return (asked & allowed or frozenset(("",))) if asked else allowed


def _number(text: str | None, name: str, least: float, most: float, default: float | None = None) -> float:
    if text is None:
        return least if default is None else default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise Invalid(f"{name}={text[:40]!r}: give a number from {least:.0f} to {most:.0f}")
    return number
