"""`GET /api/tail`: what becomes of events, as it happens, for the console and for scripts.

A client asks again and again, with the cursor of the answer before; any process may answer.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.manage.answers import json_answer
from profilelake.manage.guard import Guard
from profilelake.pipeline.progress import load_applied
from profilelake.pipeline.tail import Filter, Place, Reader, Seen, Watch, documents
from profilelake.state.store import State

ROWS: Final = 1_000
"""Events of one answer when the client names no number."""
ROWS_MAX: Final = 5_000
WAIT_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.05
LEASE_SECONDS: Final = 60.0
"""How long outcomes go on being kept after the last answer."""
WAITERS_MAX: Final = 32
"""Requests that may wait in one process."""
_FILTERS: Final = {
    "type": "type",
    "event": "event",
    "source": "source_id",
    "user_id": "user_id",
    "anonymous_id": "anonymous_id",
    "message_id": "message_id",
    "status": "status",
    "reason": "reason",
}
_LINES: Final = "application/x-ndjson"


@dataclass(slots=True)
class Tail:
    """The watchers of one HTTP process, under one lease that outlives the last answer for a while."""

    directory: Path
    workspace: str
    state: Callable[[], State]
    _watch: Watch | None = None
    _waiters: int = 0
    _release: asyncio.TimerHandle | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: Request) -> Response:
        """Answer with what follows the cursor, or with the cursor of now where none is given."""
        query = request.query_params
        chosen = Filter.of(**{column: query.getlist(name) for name, column in _FILTERS.items()})
        limit = int(_number(query.get("limit"), "limit", ROWS, 1, ROWS_MAX))
        wait = _number(query.get("wait"), "wait", 0, 0, WAIT_SECONDS_MAX)
        cursor = query.get("cursor")
        place = None if cursor is None else Place.decode(cursor)
        if self._waiters >= WAITERS_MAX:
            raise Unavailable(f"watching events: {WAITERS_MAX} requests wait in this process; retry later")
        self._waiters += 1
        try:
            began = await self._lease()
            reader = Reader(self.directory, began if place is None else place)
            found = await self._read(request, reader, chosen, limit, wait)
        finally:
            self._waiters -= 1
            self._renew()
        found["cursor"] = reader.place.encode()
        if _LINES in request.headers.get("accept", ""):
            events = found.pop("events")
            lines = [*events, {"status": "end", **found}]
            headers = {"Cache-Control": "no-store"}
            return Response(msgspec.json.Encoder().encode_lines(lines), 200, headers, _LINES)
        return json_answer(200, found)

    async def _read(
        self, request: Request, reader: Reader, chosen: Filter, limit: int, wait: float
    ) -> dict[str, Any]:
        """Read until there is something to show, the time is up, or the client has gone."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait
        found: dict[str, Any] = {"events": [], "missed": 0, "suppressed": 0}
        while True:
            seen: Seen | None = await asyncio.to_thread(reader.next, limit)
            if seen is not None:
                found["missed"] += seen.missed
                found["suppressed"] += seen.suppressed
                found["events"] = documents(chosen.rows(seen.rows))
                if found["events"] or found["missed"]:
                    return found
            if loop.time() >= give_up_at or await request.is_disconnected():
                return found
            if seen is None:
                await asyncio.sleep(LOOK_SECONDS)

    async def _lease(self) -> Place:
        """Have outcomes recorded; return a place from which on all of them are."""
        async with self._opening:
            if self._watch is None:
                watch = await asyncio.to_thread(Watch, self.directory)
                try:
                    place = Place(await asyncio.to_thread(watch.wait))
                except BaseException:
                    watch.close()
                    raise
                self._watch = watch
                return place
        return Place(await asyncio.to_thread(self._applied))

    def _applied(self) -> int:
        try:
            with self.state().read(self.workspace) as tx:
                return sum(load_applied(tx, self.workspace, "").totals.values())
        except NotFound:
            return 0

    def _renew(self) -> None:
        if self._release is not None:
            self._release.cancel()
        self._release = asyncio.get_running_loop().call_later(LEASE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._waiters == 0 and self._watch is not None:
            self._watch.close()
            self._watch = None


def tail_routes(guard: Guard, directory: Path, workspace: str, state: Callable[[], State]) -> list[Route]:
    """Return the routes; `directory` is `Layout.tail` of the workspace."""
    return [guard.route("/api/tail", GET=Tail(directory, workspace, state).answer)]


def _number(text: str | None, name: str, default: float, least: float, most: float) -> float:
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise Invalid(f"{name}={text[:40]!r}: give a number from {least:.0f} to {most:.0f}")
    return number
