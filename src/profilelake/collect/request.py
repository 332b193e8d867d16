"""One request as the endpoints see it: its headers by name, its peer, its query."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

from profilelake.collect.answers import invalid
from profilelake.ops.http import Scope

QUERY_FIELDS_MAX: Final = 1_000
"""Fields of one query. Its bytes are bounded with the headers."""


class Request:
    """The head of one request. Of a header that is there several times the last is found by name."""

    __slots__ = ("_scope", "headers", "origin")

    def __init__(self, scope: Scope) -> None:
        """Look at an ASGI scope of HTTP."""
        self._scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.origin = self.headers.get(b"origin", b"")

    @property
    def method(self) -> str:
        """Its method, in capitals."""
        method: str = self._scope["method"]
        return method

    @property
    def path(self) -> str:
        """Its path, with percent signs decoded."""
        path: str = self._scope["path"]
        return path

    @property
    def peer(self) -> str:
        """The address of who is connected, "" where there is none."""
        client = self._scope["client"]
        return client[0] if client else ""

    @property
    def requested_headers(self) -> bytes:
        """What a browser asks to be allowed to send."""
        return self.headers.get(b"access-control-request-headers", b"")

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header that may be there several times, in order."""
        return [value for header, value in self._scope["headers"] if header == name]

    def query(self) -> Sequence[tuple[str, str]]:
        """Return the fields of the query in order. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            Refused: there are more than are read.
        """
        text = self._scope["query_string"].decode(errors="replace")
        try:
            return parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError as error:
            raise invalid(
                "too_many_fields",
                f"the query has more than {QUERY_FIELDS_MAX} fields: send the event by POST",
            ) from error

    def query_key(self) -> str | None:
        """Return the write key that the query names; None where it names none."""
        return next((value for name, value in self.query() if name == "writeKey" and value), None)
