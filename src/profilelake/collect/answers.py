"""Answers of the tracking API, in the shape SDKs know, with the headers browsers need.

No answer is a redirect (SDKs take one for success) and none is 501, 505 or 511 (they give up on those).
"""

import json
from typing import Final, TypeAlias

from profilelake.errors import ProfilelakeError
from profilelake.ops.http import Answer, answer

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

OK_BODY: Final = b'{"success": true}'
NO_STORE: Final = (b"cache-control", b"no-store")
_ANY_ORIGIN: Final = b"*"
_JSON: Final = b"application/json"
_ORIGINS_MAX: Final = 1_024
"""Origins whose headers are kept ready."""
_PREFLIGHT_SECONDS: Final = b"900"
_NAME_BYTES: Final = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ, "
)


class Refused(ProfilelakeError):
    """A request that is not taken: the status, and what the sender can do about it.

    `code` is what SDKs print; `reason` tells apart what one code covers, for people and metrics.
    """

    def __init__(
        self,
        status: int,
        code: str,
        reason: str,
        message: str,
        *,
        retry_after: int | None = None,
        close: bool = False,
        allow: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.reason = reason
        # Zero would be read as `at once`, and a fraction not at all.
        self.retry_after = max(1, retry_after) if retry_after is not None else None
        self.close = close
        self.allow = allow


def invalid(reason: str, message: str, *, close: bool = False) -> Refused:
    """Return the refusal of a request that can never be taken as it is."""
    return Refused(400, "invalid_request", reason, message, close=close)


def wrong_method(allowed: bytes) -> Refused:
    """Return the refusal of a method; `allowed` is the Allow header."""
    message = f"this path answers {allowed.decode()} only"
    return Refused(405, "method_not_allowed", "method", message, allow=allowed)


class Answers:
    """Builds answers; those that are given all the time are built once for each origin."""

    def __init__(self) -> None:
        """Start with none built."""
        self._ok: dict[bytes, Answer] = {}

    def ok(self, origin: bytes) -> Answer:
        """Return the answer to what was taken. `origin` is the Origin header, b"" where there was none."""
        ready = self._ok.get(origin)
        if ready is None:
            if len(self._ok) >= _ORIGINS_MAX:
                self._ok.clear()
            ready = self._ok[origin] = answer(200, cross_origin(origin), OK_BODY, _JSON)
        return ready

    def refused(self, refusal: Refused, origin: bytes) -> Answer:
        """Return the answer to what was not taken."""
        # A cache may keep a 404 of its own accord, and the key may be there a moment later.
        headers = [*cross_origin(origin), NO_STORE]
        if refusal.retry_after is not None:
            seconds = str(refusal.retry_after).encode()
            headers += [(b"retry-after", seconds), (b"x-ratelimit-reset", seconds)]
        if refusal.close:
            headers.append((b"connection", b"close"))
        if refusal.status == 405:
            headers.append((b"allow", refusal.allow))
        elif refusal.status == 415:
            headers.append((b"accept-encoding", b"gzip"))
        body = {"success": False, "message": str(refusal), "code": refusal.code, "reason": refusal.reason}
        return answer(refusal.status, headers, json.dumps(body).encode(), _JSON)

    def preflight(self, origin: bytes, requested_headers: bytes) -> Answer:
        """Return the answer to a browser that asks whether it may send: yes, whatever headers it wants."""
        headers = cross_origin(origin)
        headers += [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
            (b"vary", b"Origin, Access-Control-Request-Headers"),
        ]
        if requested_headers and _NAME_BYTES.issuperset(requested_headers):
            headers.append((b"access-control-allow-headers", requested_headers))
        return answer(200, headers, b"", _JSON)


def cross_origin(origin: bytes) -> Headers:
    """Return the headers that let a page of any origin read an answer."""
    exposed = (b"access-control-expose-headers", b"Retry-After, X-RateLimit-Reset")
    if not origin or not all(32 < byte < 127 for byte in origin):
        return [(b"access-control-allow-origin", _ANY_ORIGIN), exposed]
    # Rudder asks for credentials; with them a browser takes only its own origin for an answer. What is
    # let in is write-only and needs a key in any case, so every origin is welcome.
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        exposed,
    ]
