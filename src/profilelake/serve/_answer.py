"""Answers as the wire shows them: JSON bodies, error shapes, times, entity tags."""

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final

import msgspec

encode: Final = msgspec.json.Encoder().encode
ETAG_BYTES: Final = 12
"""Of the digest that names a body: too many for two bodies ever to share one."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """A request that is answered with an error. `code` is one of the codes clients of Segment know."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    def error(self) -> dict[str, str]:
        """Return what stands under `error`."""
        return {"code": self.code, "message": self.message}


def invalid(message: str) -> Refused:
    """Return the refusal of a request that has to be changed."""
    return Refused(400, "validation_error", message)


def not_a_cursor() -> Refused:
    """Return the refusal of a `next` that no page of this resource gave."""
    return invalid("The parameter `next` is not a cursor of this resource.")


def profile_not_found() -> Refused:
    """Return the one answer for every profile that is not there, whatever the reason."""
    return Refused(404, "not_found", "Profile was not found.")


def time_text(micros: int) -> str:
    """Return a time as ISO 8601 in UTC with six digits and `Z`."""
    text = (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
    return text[:26] + "Z"


def entity_tag(body: bytes) -> bytes:
    """Return the strong entity tag of a body."""
    return b'"%s"' % blake2b(body, digest_size=ETAG_BYTES).hexdigest().encode()


def matches(if_none_match: bytes, tag: bytes) -> bool:
    """Tell whether a client that sent this `If-None-Match` has the body named by `tag` already."""
    return any(given.strip().removeprefix(b"W/") in (tag, b"*") for given in if_none_match.split(b","))
