"""What the Profile API does not answer itself: questions that need the lake go to the process that reads it."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from profilelake.ops.http import Receive, Scope, Send
from profilelake.serve._request import Route

SPACE_HEADER: Final = "x-profilelake-space"
SCOPE_HEADER: Final = "x-profilelake-token-scope"
TRAIT_HISTORY: Final = "traits/history"
"""Resource that `/traits/{name}/history` is known by."""
EXPLAIN: Final = "explain"
"""Resource that tells why a profile is in an audience, or what a computed trait of it is worth."""
EXPORT: Final = "export"
"""Stands where a profile id would; ids have a colon or a prefix, so it is none."""

_ENDS: Final = (b"/history", b"/profiles/export")

Forwarding: TypeAlias = Callable[[Scope, Receive, Send, Iterable[tuple[bytes, bytes]]], Awaitable[None]]
"""Answers a request by another process; `ops.forward.Forward` does."""


def is_past(scope: Scope) -> bool:
    """Tell whether a request asks for what only the lake knows."""
    path: bytes = scope.get("raw_path") or b""
    if scope["method"] == "POST":
        return False
    if path.endswith(_ENDS) or b"/explain/" in path:
        return True
    said: bytes = scope["query_string"]
    if b"as_of" not in said and b"history" not in said:
        return False
    names = {part.partition(b"=")[0] for part in said.split(b"&")}
    return b"as_of" in names or (b"history" in names and path.endswith(b"/events"))


def checked(place: Route, scope: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that say what was checked: the space, and the scope of the token."""
    return [
        (SPACE_HEADER.encode(), quote(place.space, safe="").encode()),
        (SCOPE_HEADER.encode(), quote(scope, safe="").encode()),
    ]


class ForwardedAnswer:
    """Passes an answer on to a client, and remembers its status."""

    def __init__(self, send: Send, own: tuple[bytes, bytes]) -> None:
        """Send to `send`, with a header of our own."""
        self._send = send
        self._own = own
        self.status: int | None = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message["headers"] if pair[0] != self._own[0]]
            message = {**message, "headers": [*headers, self._own]}
        await self._send(message)
