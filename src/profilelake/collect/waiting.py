"""Waiting for the log no longer than a sender waits for its answer."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from profilelake.errors import Unavailable

SHARED_SECONDS: Final = 0.5
"""Requests that begin to wait for the same future within this time share one deadline."""


class Overdue(Exception):
    """It did not become durable in time. It may become so later."""


class Waits:
    """Lets many requests wait for the same future, each about as long as the limit and not longer.

    The log answers a whole group of requests with one future that cannot be cancelled, so neither
    `wait_for` nor `timeout` would come back before the disk does; and a timer for each request would
    cost more than the rest of its waiting. So requests share timers as they share the future.
    """

    def __init__(self, seconds_max: float) -> None:
        """Wait for `seconds_max`, and at most `SHARED_SECONDS` less."""
        self._seconds_max = seconds_max
        self._shared: _Shared | None = None

    def within_limit(self, durable: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Return what ends when `durable` does and as it does, or fails with `Overdue` at the limit."""
        shared = self._shared
        if shared is not None and shared.durable is durable:
            return shared
        if durable.done():
            return durable
        shared = self._shared = _Shared(durable, self._seconds_max, self._let_nobody_join)
        return shared

    def _let_nobody_join(self, shared: "_Shared") -> None:
        if shared is self._shared:
            self._shared = None


class _Shared(asyncio.Future[None]):
    """Ends with another future or at a deadline. Nobody who waits can cancel it for the others."""

    def __init__(
        self, durable: asyncio.Future[Any], seconds_max: float, on_old: Callable[["_Shared"], None]
    ) -> None:
        loop = durable.get_loop()
        super().__init__(loop=loop)
        self.durable: Final = durable
        self._on_old = on_old
        seconds_young = min(SHARED_SECONDS, seconds_max / 2)
        self._seconds_old = seconds_max - seconds_young
        self._timer = loop.call_later(seconds_young, self._grow_old)
        durable.add_done_callback(self._settle)

    def _grow_old(self) -> None:
        self._on_old(self)
        self._timer = self.get_loop().call_later(self._seconds_old, self._give_up)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        return False

    def _settle(self, durable: asyncio.Future[Any]) -> None:
        self._timer.cancel()
        error = Unavailable("the log has let go of an entry") if durable.cancelled() else durable.exception()
        if not self.done():
            self._end(error)

    def _give_up(self) -> None:
        if not self.done():
            self._end(Overdue())

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self.set_result(None)
            return
        self.set_exception(error)
        # Read once, so that nobody is told of it whose requests have all hung up.
        self.exception()
