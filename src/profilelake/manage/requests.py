"""What management requests say: JSON bodies of bounded size, read into checked types."""

from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from profilelake.errors import Invalid, ProfilelakeError

BODY_BYTES_MAX: Final = 1 << 20
"""Bytes of a management request, unless its route says otherwise."""

_Body = TypeVar("_Body")


class WrongType(ProfilelakeError):
    """A body that is not JSON by its own word. It keeps web pages of others from posting forms to us."""


class TooLarge(ProfilelakeError):
    """A body with more bytes than its route reads."""


async def read_json(request: Request, shape: type[_Body], *, bytes_max: int = BODY_BYTES_MAX) -> _Body:
    """Return the body of a request as `shape`, a msgspec type; see `read_body` and `decoded`."""
    return decoded(await read_body(request, bytes_max=bytes_max), shape)


async def read_body(request: Request, *, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Return the bytes of a JSON body.

    Raises:
        WrongType: it is not sent as JSON.
        TooLarge: it has more than `bytes_max` bytes.
    """
    sent_as = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent_as != "application/json":
        raise WrongType("reading the body: send JSON with Content-Type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise TooLarge(f"reading the body: it has more than {bytes_max:,} bytes; send less at once")
    return bytes(body)


def decoded(body: bytes, shape: type[_Body]) -> _Body:
    """Return a JSON body as `shape`, a msgspec type. Raises Invalid where it is none, or another."""
    try:
        return msgspec.json.decode(body, type=shape)
    except RecursionError:
        raise Invalid("reading the body: it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"reading the body: {_first_lower(str(error))}") from error


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
