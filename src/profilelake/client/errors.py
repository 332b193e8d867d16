"""What a read can end with: the kinds of `profilelake.errors`, with what the server said."""

from profilelake.errors import Invalid, NotFound, ProfilelakeError, Unavailable


class RequestFailed(ProfilelakeError):
    """The server answered with an error, or not at all.

    `code` is the stable code of the answer ("" where there is none), `status` the HTTP status (0 where
    there was no answer), `request_id` what the server calls the request in its own records.
    """

    def __init__(self, message: str, *, code: str = "", status: int = 0, request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id


class InvalidRequest(RequestFailed, Invalid):
    """The request cannot be answered as it is: change it. SQL errors say where."""


class NotAllowed(RequestFailed):
    """The token is missing, expired, of another space, or made for less than this."""


class ProfileNotFound(RequestFailed, NotFound):
    """There is no such profile, table, trait or job."""


class ServerUnavailable(RequestFailed, Unavailable):
    """The server could not be reached or is overloaded, and stayed so through all retries."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int = 0,
        request_id: str = "",
        retry_after_seconds: int = 1,
    ) -> None:
        RequestFailed.__init__(self, message, code=code, status=status, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds
