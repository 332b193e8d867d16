"""What the dispatch knows of an endpoint that is not on the hot path."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from profilelake.collect.request import Request
from profilelake.ops.http import Answer, Message, Send

READING: Final = b"GET, HEAD, OPTIONS"
WRITING: Final = b"POST, OPTIONS"


class Stream(Protocol):
    """An answer that is too large to be put together first."""

    @property
    def start(self) -> Message:
        """What is sent first."""

    async def send(self, send: Send, *, with_body: bool) -> None:
        """Send all of it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What answers a path. `name` is its label in metrics, `allowed` its Allow header.

    `answer` may raise `Refused`. A preflight never gets there.
    """

    name: str
    allowed: bytes
    answer: Callable[[Request], Awaitable[Answer | Stream]]

    def allows(self, method: str) -> bool:
        """Return whether requests of this method are answered."""
        return method.encode() in self.allowed.split(b", ")
