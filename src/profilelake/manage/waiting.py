"""Waiting until what was accepted is in state and lake, for requests that ask for it."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from profilelake.errors import Invalid

WAIT_SECONDS_MAX: Final = 300.0
WAIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
ASK_AGAIN_SECONDS: Final = 0.5
"""A flush is asked for again so often: what was accepted just before it may not have been applied."""

_Seen = TypeVar("_Seen")


async def flushed(
    ask: Callable[[], None], look: Callable[[], _Seen], done: Callable[[_Seen], bool], seconds_max: float
) -> _Seen:
    """Have `ask` ask for a flush until what `look` sees is `done` or time is up; return what was seen last."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + seconds_max
    ask_at = 0.0
    while True:
        seen = look()
        now = loop.time()
        if done(seen) or now >= give_up_at:
            return seen
        if now >= ask_at:
            ask()
            ask_at = now + ASK_AGAIN_SECONDS
        await asyncio.sleep(POLL_SECONDS)


def wait_asked(wait_for: str | None, timeout: str | None) -> float | None:
    """Return how many seconds a request wants to wait for the commit, None where it does not.

    Raises:
        Invalid: it wants to wait for something else, or for too long.
    """
    if wait_for is None:
        return None
    if wait_for != "committed":
        raise Invalid(f"wait_for={wait_for}: only `committed` can be waited for")
    if timeout is None:
        return WAIT_SECONDS
    try:
        seconds = float(timeout)
    except ValueError as error:
        raise Invalid(f"timeout={timeout}: not a number of seconds") from error
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise Invalid(f"timeout={timeout}: give 0 to {WAIT_SECONDS_MAX:.0f} seconds")
    return seconds
