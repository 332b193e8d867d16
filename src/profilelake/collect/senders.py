"""Who sends: from an Authorization header or a write key to a source, or to a refusal that says what to do."""

from base64 import b64decode
from binascii import Error as NotBase64
from typing import Final

from profilelake.collect.answers import Refused
from profilelake.collect.limits import UnknownKey
from profilelake.errors import Unavailable
from profilelake.workspaces import Source
from profilelake.workspaces.keyring import KeyRing

AUTHORIZATIONS_MAX: Final = 4_096
"""Authorization headers whose source is remembered."""
AUTHORIZATION_BYTES_MAX: Final = 1_024
"""Bytes of an Authorization header that is looked at."""


class Senders:
    """Finds the source of a request, and remembers which header named it."""

    def __init__(self, keys: KeyRing, unknown_key: UnknownKey) -> None:
        """Judge keys by what `keys` knows; `unknown_key` says what one gets that certainly does not exist."""
        self._keys = keys
        self._unknown_key = unknown_key
        self._authorized: dict[bytes, Source] = {}
        self._authorized_version = 0

    def of_header(self, authorization: bytes | None) -> tuple[Source | None, str | None]:
        """Return the source and key that an Authorization header names; None where it names none.

        Raises:
            Refused: as `of_key`.
        """
        version = self._keys.poll()
        if authorization is None:
            return None, None
        if version != self._authorized_version:
            self._authorized.clear()
            self._authorized_version = version
        source = self._authorized.get(authorization)
        if source is not None:
            return source, None
        key = basic_user(authorization)
        if key is None:
            return None, None
        source = self.of_key(key)
        if source is not None:
            if len(self._authorized) >= AUTHORIZATIONS_MAX:
                self._authorized.clear()
            self._authorized[authorization] = source
        return source, key

    def of_key(self, key: str) -> Source | None:
        """Return the source of a key; None where its events are to be dropped.

        Raises:
            Refused: there is no such key, its source is disabled, or it cannot be judged now.
        """
        source = self.known(key)
        if source is not None and not source.disabled:
            return source
        if self._unknown_key == "accept_and_drop":
            return None
        if source is None:
            raise Refused(401, "invalid_write_key", "unknown_write_key", "there is no such write key")
        raise Refused(401, "invalid_write_key", "source_disabled", "the source of this write key is disabled")

    def known(self, key: str) -> Source | None:
        """Return the source of a key, a disabled one too; None only if there is certainly no such key.

        Raises:
            Refused: it cannot be judged now.
        """
        self._keys.poll()
        try:
            return self._keys.source(key)
        except Unavailable as error:
            # 401 or 404 would make the sender throw its events away, and the key may be a new one.
            raise Refused(
                503,
                "unavailable",
                "keys_unavailable",
                "the write key cannot be checked now: send it again",
                retry_after=error.retry_after_seconds,
            ) from error


def basic_user(authorization: bytes) -> str | None:
    """Return the user name of Basic authentication, None where there is none.

    What follows the first colon is a password nobody needs. Some senders leave the colon out, and
    some the padding.
    """
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > AUTHORIZATION_BYTES_MAX:
        return None
    try:
        user = b64decode(encoded.strip().rstrip(b"=") + b"==").partition(b":")[0].decode()
    except (NotBase64, UnicodeDecodeError):
        return None
    return user or None


def missing_key(where: str) -> Refused:
    """Return the refusal of a request that names no key; `where` says how it could."""
    return Refused(401, "invalid_write_key", "missing_write_key", f"no write key: send it {where}")
