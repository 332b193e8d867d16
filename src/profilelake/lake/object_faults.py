"""What an object store answers instead of doing what it was asked, in words an operator can act on.

The store's own text is never passed on: it may repeat the request, with names of keys in it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import BaseError, InvalidPathError, NotFoundError

from profilelake.errors import Invalid, Unavailable

_STATUS: Final = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_KIND: Final = re.compile(r"kind: (Connect|Timeout|Request|Interrupted|Decode|Unknown)")

_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
_UNKNOWN_KEY: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure"})
_NEW_ONES: Final = (
    "put good ones into the file that storage.credentials names (read again at once), or into "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN and start again"
)
_OTHER_REGION: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)
_REDIRECTED: Final = "redirect without LOCATION"
"""What the client says of an answer that sends it to another region."""
_FULL: Final = frozenset(
    {"QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "InsufficientStorage", "507"}
)
_RIGHTS: Final = (
    "grant s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload below the prefix and "
    "s3:ListBucket on the bucket"
)
_METADATA_SERVICE: Final = ("169.254.169.254", "169.254.170.2")
"""Where machines of a cloud ask for the credentials of their role."""


@contextmanager
def told(doing: str, location: str) -> Iterator[None]:
    """Let what fails inside be one of our errors.

    Raises:
        FileNotFoundError: there is no such file.
        Unavailable: no answer, no room, or no right to do it; the message says which, and what to do.
        Invalid: no object can have that name.
    """
    try:
        yield
    except BaseError as error:
        # Not chained: the text of the cause would be in every traceback.
        raise fault(error, doing, location) from None
    except FileNotFoundError as error:
        raise fault(error, doing, location) from None


def status_of(error: Exception) -> str:
    """Return the status with which a server answered; empty where it gave no answer."""
    return _found(_STATUS, str(error))


def fault(error: Exception, doing: str, location: str) -> Exception:
    """Return what an error of the store means for whoever was `doing` something with a location."""
    text = str(error)
    status, code = status_of(error), _found(_CODE, text)
    what = f"{doing} {location}"
    if code == "NoSuchBucket":
        return Unavailable(f"{what}: there is no such bucket; make it, or name one that is there")
    if isinstance(error, NotFoundError | FileNotFoundError):
        return FileNotFoundError(f"{what}: there is no such file")
    if isinstance(error, InvalidPathError):
        return Invalid(f"{what}: no object can have that name")
    if any(service in text for service in _METADATA_SERVICE):
        return Unavailable(
            f"{what}: there are no credentials: neither in the environment nor from a role of this machine; "
            f"{_NEW_ONES}"
        )
    if code in _EXPIRED:
        return Unavailable(f"{what}: the credentials have expired ({code}); {_NEW_ONES}")
    if code in _UNKNOWN_KEY:
        return Unavailable(f"{what}: the credentials are not good ({code}); {_NEW_ONES}")
    if code == "RequestTimeTooSkewed":
        return Unavailable(
            f"{what}: the clock of this machine is too far off ({code}); set it right: chronyc makestep"
        )
    if misplaced := _misplaced(what, text, code or status):
        return misplaced
    if status in ("401", "403"):
        return Unavailable(f"{what}: the credentials do not allow it ({code or status}); {_RIGHTS}")
    if status:
        answer = f"{status} {code}" if code else status
        hint = "it is busy or broken" if status[0] == "5" or status == "429" else "see its log"
        return Unavailable(f"{what}: the object store answered {answer}; {hint}, retry later")
    kind = _found(_KIND, text)
    if kind == "Connect":
        return Unavailable(
            f"{what}: the object store cannot be reached; see storage.endpoint, network and certificates, "
            "then retry"
        )
    lost = "did not answer in time" if kind == "Timeout" else "broke the connection off"
    return Unavailable(f"{what}: the object store {lost}; retry later")


def _misplaced(what: str, text: str, answer: str) -> Unavailable | None:
    """Return the error of a request that went to the wrong place, or to one that is full; None of any other."""
    if answer in _OTHER_REGION or _REDIRECTED in text:
        return Unavailable(
            f"{what}: the bucket is in another region or at another address; set storage.region and storage.endpoint to its own"
        )
    if answer in _FULL:
        return Unavailable(f"{what}: the object store has no room for it ({answer}); make room, then retry")
    return None


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return next((group for group in match.groups() if group), "") if match else ""
