"""A start while the catalog or the object store is away: events are accepted meanwhile, the lake follows."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from profilelake.errors import Unavailable
from profilelake.ops.supervisor import say_ready
from profilelake.settings import Layout

LOOK_AGAIN_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)
_Opened = TypeVar("_Opened")


def when_available(layout: Layout, ready: int, opening: Callable[[], _Opened]) -> tuple[_Opened, int]:
    """Open what lies elsewhere, however long that is away; return it, and the descriptor still to be told.

    A server that ran here before must accept events again at once, so the supervisor is told at the first
    failure. A directory whose lake was never reached is not like that: there, a setting is wrong.

    Raises:
        Unavailable: it is away, and was never there.
    """
    while True:
        try:
            return opening(), ready
        except Unavailable as error:
            if not layout.has_lake:
                raise
            _log.error("the lake is away, events wait in the log; looking again: %s", error)
        say_ready(ready)
        ready = -1
        time.sleep(LOOK_AGAIN_SECONDS)
