"""The client for asyncio: the same reads, awaited."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from profilelake.client import _calls
from profilelake.client._answers import Event, Profile, Trait
from profilelake.client._calls import SQL_SECONDS, Collection, Space
from profilelake.client._exchange import (
    TIMEOUT_SECONDS,
    Ask,
    Call,
    Reply,
    authorized,
    failed,
    unreachable,
    wait_seconds,
)
from profilelake.client._tables import SqlResult

_T = TypeVar("_T")
_Row = TypeVar("_Row")


class AsyncClient:
    """Reads one space of a lake over HTTP, as `Client` does, for code that awaits.

    Use it as an async context manager, or `aclose` it; tasks of one event loop may share it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        space: str = "default",
        timeout_seconds: float = TIMEOUT_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """Read from the server at `url` with a read or admin token."""
        self._space = Space(space)
        self._url = url.rstrip("/")
        self._sleep = sleep
        self._timeout_seconds = timeout_seconds
        self._rng = rng or random.Random()  # noqa: S311 - it spreads waits
        self._http = httpx.AsyncClient(headers=authorized(token), timeout=timeout_seconds)

    async def profile(self, id: str, *, collection: Collection = "users") -> Profile:
        """Return a profile with all traits and identifiers; `id` is `TYPE:VALUE` or a profile id.

        Raises:
            ProfileNotFound: nobody has that id.
        """
        return await self._run(_calls.profile(self._space, id, collection))

    async def find(self, id: str, *, collection: Collection = "users") -> Profile | None:
        """Return a profile, None where nobody has that id."""
        return await self._run(_calls.find(self._space, id, collection))

    async def profiles(self, ids: Sequence[str], *, collection: Collection = "users") -> list[Profile | None]:
        """Return a profile for each id, in that order; None for each that nobody has."""
        return await self._run(_calls.profiles(self._space, ids, collection))

    def all_profiles(self, *, collection: Collection = "users") -> AsyncIterator[Profile]:
        """Yield every profile, page by page; for millions of them use `sql`."""
        return self._each(_calls.list_first(self._space, collection), _calls.list_page)

    async def traits(
        self, id: str, *, collection: Collection = "users", include: Sequence[str] | None = None
    ) -> dict[str, Trait]:
        """Return traits with source and time; only those named in `include`, where it is given."""
        return await self._run(_calls.traits(self._space, id, collection, include))

    def events(
        self,
        id: str,
        *,
        collection: Collection = "users",
        start: datetime | None = None,
        end: datetime | None = None,
        include: Sequence[str] | None = None,
        descending: bool = True,
    ) -> AsyncIterator[Event]:
        """Yield the recent events of a profile, page by page; `include` names the events wanted."""
        first = _calls.events_first(
            self._space, id, collection, start=start, end=end, include=include, descending=descending
        )
        return self._each(first, _calls.events_page)

    async def sql(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = SQL_SECONDS,
    ) -> SqlResult:
        """Return the rows of a query over the tables; values go into `parameters`, never into the text.

        A query that runs longer than `timeout_seconds` is cancelled.
        """
        return await self._run(_calls.sql(query, parameters, timeout_seconds))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _each(
        self, first: Call[Ask], page: Callable[[Ask], Call[tuple[list[_Row], Ask | None]]]
    ) -> AsyncIterator[_Row]:
        ask: Ask | None = await self._run(first)
        while ask is not None:
            rows, ask = await self._run(page(ask))
            for row in rows:
                yield row

    async def _run(self, call: Call[_T]) -> _T:
        try:
            ask = next(call)
            while True:
                reply = await self._answered(ask)
                ask = call.send(reply) if reply.status == httpx.codes.OK else call.throw(failed(ask, reply))
        except StopIteration as done:
            value: _T = done.value
            return value

    async def _answered(self, ask: Ask) -> Reply:
        attempt = 0
        while True:
            reply: Reply | None = None
            try:
                answer = await self._http.request(
                    ask.method,
                    self._url + ask.path,
                    params=ask.query or None,
                    content=ask.body,
                    headers={"Accept": ask.accept},
                    timeout=ask.timeout_seconds or self._timeout_seconds,
                )
                reply = Reply(answer.status_code, answer.headers, answer.content)
                if reply.status not in ask.retried:
                    return reply
            except httpx.TransportError as error:
                # What ran too long once would run as long again.
                late = isinstance(error, httpx.ReadTimeout)
                wait = None if late else wait_seconds(attempt, None, self._rng)
                if wait is None:
                    raise unreachable(self._url, error) from error
            else:
                wait = wait_seconds(attempt, reply, self._rng)
                if wait is None:
                    return reply
            await self._sleep(wait)
            attempt += 1
