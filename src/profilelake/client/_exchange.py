"""One request and its answer, without a network: what is sent, what an answer means, when to try again.

The two clients differ in how they wait and in nothing else, so all that they know is here: a call is
a generator that yields requests and is sent answers.
"""

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import msgspec

from profilelake.client.errors import (
    InvalidRequest,
    NotAllowed,
    ProfileNotFound,
    RequestFailed,
    ServerUnavailable,
)

ATTEMPTS_MAX: Final = 5
"""Requests sent for one call before it fails."""
WAIT_SECONDS_FIRST: Final = 0.1
WAIT_SECONDS_MAX: Final = 10.0
"""Longest wait between two attempts; a server that asks for more is not waited for."""
TIMEOUT_SECONDS: Final = 30.0

RETRIED: Final = frozenset({429, 502, 503, 504})
"""Answers after which the same request may succeed. Everything sent here only reads."""
SQL_RETRIED: Final = RETRIED - {504}
"""The same for a query: one that ran too long once would run as long again."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: a path with its query, and a body where the ids or the SQL are in it."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    accept: str = "application/json"
    timeout_seconds: float | None = None
    retried: frozenset[int] = RETRIED


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Call: TypeAlias = Generator[Ask, Reply, _T]


def authorized(token: str) -> dict[str, str]:
    """Return the headers that every request carries."""
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidRequest("making a client: the token is empty or has characters that no token has")
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def wait_seconds(attempt: int, reply: Reply | None, rng: random.Random) -> float | None:
    """Return how long to wait after a failed attempt (the first is 0), None where it is no use to wait.

    Waits double and are drawn at random, so that clients which failed together do not return together; a
    server that says when is waited for.
    """
    if attempt + 1 >= ATTEMPTS_MAX:
        return None
    drawn = rng.uniform(0.5, 1.0) * min(WAIT_SECONDS_MAX, WAIT_SECONDS_FIRST * 2.0**attempt)
    asked = retry_after(reply)
    if asked > WAIT_SECONDS_MAX:
        return None
    return max(drawn, asked)


def retry_after(reply: Reply | None) -> float:
    """Return the seconds a server asks to wait, 0 where it does not."""
    text = "" if reply is None else reply.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def unreachable(url: str, error: Exception) -> ServerUnavailable:
    """Return the error of a server that gave no answer."""
    return ServerUnavailable(
        f"asking {url}: {type(error).__name__} {error}; see that the server runs there, then retry"
    )


class _Said(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Problem(msgspec.Struct):
    error: _Said | None = None
    code: str = ""
    detail: str = ""
    line: int | None = None
    column: int | None = None


def failed(ask: Ask, reply: Reply) -> RequestFailed:
    """Return the error that an answer stands for; both shapes of the server's errors are understood."""
    code, message = "", ""
    try:
        problem = msgspec.json.decode(reply.body, type=_Problem)
        said = problem.error or _Said(problem.code, problem.detail)
        code, message = said.code, said.message
        if problem.line is not None:
            message += f" (line {problem.line}, column {problem.column})"
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass  # a proxy answered, or nothing at all; the status says what can be said
    # The path may hold an e-mail address, which must not reach logs by way of an error.
    text = f"{ask.method} answered {reply.status} {code}: {message or 'no reason given'}"
    request_id = reply.headers.get("request-id", "")
    if reply.status in ask.retried:
        return ServerUnavailable(
            f"{text}; retry later",
            code=code,
            status=reply.status,
            request_id=request_id,
            retry_after_seconds=max(1, int(retry_after(reply))),
        )
    kind: type[RequestFailed] = RequestFailed
    if reply.status in (401, 403):
        kind = NotAllowed
    elif reply.status in (404, 410):
        kind = ProfileNotFound
    elif 400 <= reply.status < 500:
        kind = InvalidRequest
    return kind(text, code=code, status=reply.status, request_id=request_id)
