"""The kinds of failure a caller can act on, and nothing else.

A new class exists only where a caller would do something different. Status codes belong to the
HTTP layers, exit codes to the command line: both map from these classes.
"""

from typing import ClassVar


class ProfilelakeError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class Internal(ProfilelakeError):
    """An invariant of ours does not hold: our bug, never the caller's."""


class Invalid(ProfilelakeError):
    """The request cannot be carried out as it is: change it."""

    exit_code = 2


class NotFound(ProfilelakeError):
    """The named thing does not exist."""

    exit_code = 3


class Conflict(ProfilelakeError):
    """Somebody else moved first or holds the lock: load again and retry."""

    exit_code = 4


class Unavailable(ProfilelakeError):
    """A limit or a passing fault: retry later. `retry_after_seconds` says when."""

    exit_code = 5

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Corrupt(ProfilelakeError):
    """Stored data contradicts itself: stop and call an operator."""

    exit_code = 6
