"""The client that waits in place."""

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

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
from profilelake.client._tables import SqlResult, batches

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")
_Row = TypeVar("_Row")


class Client:
    """Reads one space of a lake over HTTP.

    Holds a few connections open; use it as a context manager, or `close` it. Threads may share it. All
    methods try again where a server is overloaded or away (`ATTEMPTS_MAX` times), and raise the errors of
    `profilelake.client.errors`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        space: str = "default",
        timeout_seconds: float = TIMEOUT_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """Read from the server at `url` with a read or admin token."""
        self._space = Space(space)
        self._url = url.rstrip("/")
        self._sleep = sleep
        self._timeout_seconds = timeout_seconds
        self._rng = rng or random.Random()  # noqa: S311 - it spreads waits
        self._http = httpx.Client(headers=authorized(token), timeout=timeout_seconds)

    def profile(self, id: str, *, collection: Collection = "users") -> Profile:
        """Return a profile with all traits and identifiers; `id` is `TYPE:VALUE` or a profile id.

        Raises:
            ProfileNotFound: nobody has that id.
        """
        return self._run(_calls.profile(self._space, id, collection))

    def find(self, id: str, *, collection: Collection = "users") -> Profile | None:
        """Return a profile, None where nobody has that id."""
        return self._run(_calls.find(self._space, id, collection))

    def profiles(self, ids: Sequence[str], *, collection: Collection = "users") -> list[Profile | None]:
        """Return a profile for each id, in that order; None for each that nobody has.

        The ids travel in the body, so that no e-mail address comes into a log of URLs.
        """
        return self._run(_calls.profiles(self._space, ids, collection))

    def all_profiles(self, *, collection: Collection = "users") -> Iterator[Profile]:
        """Yield every profile, page by page; for millions of them use `sql`."""
        return self._each(_calls.list_first(self._space, collection), _calls.list_page)

    def traits(
        self, id: str, *, collection: Collection = "users", include: Sequence[str] | None = None
    ) -> dict[str, Trait]:
        """Return traits with source and time; only those named in `include`, where it is given."""
        return self._run(_calls.traits(self._space, id, collection, include))

    def events(
        self,
        id: str,
        *,
        collection: Collection = "users",
        start: datetime | None = None,
        end: datetime | None = None,
        include: Sequence[str] | None = None,
        descending: bool = True,
    ) -> Iterator[Event]:
        """Yield the recent events of a profile, page by page; `include` names the events wanted."""
        first = _calls.events_first(
            self._space, id, collection, start=start, end=end, include=include, descending=descending
        )
        return self._each(first, _calls.events_page)

    def sql(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = SQL_SECONDS,
    ) -> SqlResult:
        """Return the rows of a query over the tables; values go into `parameters`, never into the text.

        A query that runs longer than `timeout_seconds` is cancelled.
        """
        return self._run(_calls.sql(query, parameters, timeout_seconds))

    def sql_batches(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = SQL_SECONDS,
    ) -> Iterator["pa.RecordBatch"]:
        """Yield the rows of a query as Arrow batches while they arrive, for results larger than memory."""
        ask = _calls.sql_ask(query, parameters, timeout_seconds)
        try:
            with self._http.stream(
                ask.method,
                self._url + ask.path,
                content=ask.body,
                headers={"Accept": ask.accept},
                timeout=ask.timeout_seconds,
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise failed(ask, Reply(answer.status_code, answer.headers, answer.read()))
                yield from batches(_Arriving(answer.iter_raw()))
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each(
        self, first: Call[Ask], page: Callable[[Ask], Call[tuple[list[_Row], Ask | None]]]
    ) -> Iterator[_Row]:
        ask: Ask | None = self._run(first)
        while ask is not None:
            rows, ask = self._run(page(ask))
            yield from rows

    def _run(self, call: Call[_T]) -> _T:
        try:
            ask = next(call)
            while True:
                reply = self._answered(ask)
                ask = call.send(reply) if reply.status == httpx.codes.OK else call.throw(failed(ask, reply))
        except StopIteration as done:
            value: _T = done.value
            return value

    def _answered(self, ask: Ask) -> Reply:
        attempt = 0
        while True:
            reply: Reply | None = None
            try:
                answer = self._http.request(
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
            self._sleep(wait)
            attempt += 1


class _Arriving(io.RawIOBase):
    """Bytes that arrive, as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size
