"""Answers as the wire shows them: JSON bodies, error shapes, times."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

encode: Final = msgspec.json.Encoder().encode
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


def profile_not_found() -> Refused:
    """Return the one answer for every profile that is not there, whatever the reason."""
    return Refused(404, "not_found", "Profile was not found.")


def time_text(micros: int) -> str:
    """Return a time as ISO 8601 in UTC with six digits and `Z`."""
    text = (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
    return text[:26] + "Z"
