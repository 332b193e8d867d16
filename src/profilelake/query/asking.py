"""Queries of others, from their text to the bytes of their result, within the limits of this server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from profilelake.errors import Unavailable
from profilelake.query.failures import Failed, Failure, failed
from profilelake.query.gate import QUERY_BYTES_MAX, Checked
from profilelake.query.inputs import Inputs, Interruption
from profilelake.query.nursery import Nursery, Running
from profilelake.query.worker import Job

CHECK_SECONDS_MAX: Final = 10.0
"""How long the text of a query may take to be understood."""
CHECK_MEMORY_BYTES: Final = 256 << 20
INTERRUPT_AGAIN_SECONDS: Final = 0.1
CHECKED_MAX: Final = 256
"""Texts of queries whose tables are remembered."""


class TooMany(Unavailable):
    """As many queries run as may; nothing was started."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What queries may take."""

    queries_max: int = 4
    """Queries that run at the same time."""
    queries_per_token_max: int = 2
    """Of these, queries of one token."""
    memory_bytes: int = 1 << 30
    """Memory of one query."""
    threads: int = 2
    """Threads of one query."""
    rows_max: int = 100_000_000
    """Rows of one result."""
    bytes_max: int = 16 << 30
    """Bytes of one result."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, who asks it, and what he may see."""

    query: str
    parameters: list[Any] | dict[str, Any] | None
    format: str
    seconds: float
    token: str
    masked: bool


@dataclass(slots=True)
class Queries:
    """Runs queries in workers; at most so many at once, for each token and in all."""

    inputs: Inputs
    nursery: Nursery
    limits: QueryLimits
    jailed: bool = True
    _running: Counter[str] = field(default_factory=Counter)
    _checked: dict[str, Checked] = field(default_factory=dict)
    _handing: ThreadPoolExecutor = field(init=False)
    """Threads of their own: what takes as long as a copy must not keep others from being started."""

    def __post_init__(self) -> None:
        self._handing = ThreadPoolExecutor(max(1, self.limits.queries_max), "hand-over")

    def has_room(self, token: str) -> bool:
        """Tell whether a query of a token would start now."""
        limits = self.limits
        return (
            self._running.total() < limits.queries_max and self._running[token] < limits.queries_per_token_max
        )

    @asynccontextmanager
    async def asked(self, asked: Asked) -> AsyncIterator[Running]:
        """Give the running query once it has its first rows; it ends with the context.

        Raises:
            TooMany: too many run already.
            Failed: there is no result; also within `Running.pieces`, where it breaks off.
            Unavailable: the tables cannot be read now.
        """
        if not self.has_room(asked.token):
            raise TooMany(
                f"running a query: {self._running.total()} run on this server and {self._running[asked.token]}"
                ' of them with this token, as many as may; try again, or ask with "mode": "async"'
            )
        self._running[asked.token] += 1
        try:
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + asked.seconds
            late = Failure("timeout", f"the query took longer than {asked.seconds:g} seconds")
            try:
                async with asyncio.timeout_at(ends_at):
                    checked = await self._check(asked.query)
                    running = await self._start(asked, checked)
            except TimeoutError:
                raise Failed(late) from None
            try:
                timer = loop.call_at(ends_at, running.end, late)
                try:
                    await running.begin()
                    yield running
                finally:
                    timer.cancel()
            finally:
                running.close()
        finally:
            self._running[asked.token] -= 1
            if not self._running[asked.token]:
                del self._running[asked.token]

    async def _check(self, query: str) -> Checked:
        """Have a worker look at the text: what parses it must not be able to do anything either."""
        if len(query.encode(errors="surrogatepass")) > QUERY_BYTES_MAX:
            raise failed("too_complex", f"the query has more than {QUERY_BYTES_MAX:,} bytes")
        known = self._checked.get(query)
        if known is not None:
            return known
        job = Job(
            query, memory_bytes=CHECK_MEMORY_BYTES, cpu_seconds=int(CHECK_SECONDS_MAX), jailed=self.jailed
        )
        looking = await self.nursery.run(job)
        late = Failure("too_complex", "the query takes too long to be understood")
        timer = asyncio.get_running_loop().call_later(CHECK_SECONDS_MAX, looking.end, late)
        try:
            told = await looking.checked()
        finally:
            timer.cancel()
            looking.close()
        if told.checked is None:
            raise failed("worker_ended", "the query could not be understood")
        if len(self._checked) >= CHECKED_MAX:
            self._checked.pop(next(iter(self._checked)))
        self._checked[query] = told.checked
        return told.checked

    async def _start(self, asked: Asked, checked: Checked) -> Running:
        interruption = Interruption()
        hand_over = partial(
            self.inputs.hand_over, asked.query, checked, masked=asked.masked, interruption=interruption
        )
        handing = asyncio.get_running_loop().run_in_executor(self._handing, hand_over)
        try:
            handed = await asyncio.shield(handing)
        except asyncio.CancelledError:
            # The query has its place until nothing of it goes on.
            while not handing.done():
                interruption.interrupt()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([handing], timeout=INTERRUPT_AGAIN_SECONDS)
            if not handing.cancelled() and handing.exception() is None:
                handing.result().close()
            raise
        try:
            limits = self.limits
            job = Job(
                query=asked.query,
                views=handed.views,
                parameters=asked.parameters,
                format=asked.format,
                files=len(handed.files),
                memory_bytes=limits.memory_bytes,
                threads=limits.threads,
                cpu_seconds=int(asked.seconds * limits.threads) + 2,
                rows_max=limits.rows_max,
                bytes_max=limits.bytes_max,
                jailed=self.jailed,
            )
            return await self.nursery.run(job, handed.files)
        finally:
            handed.close()
