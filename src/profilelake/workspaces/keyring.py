"""Keys and tokens in memory, for processes that answer requests.

A ring reads the control database and never writes it. It may be behind by `REFRESH_SECONDS`, but a
key is called unknown only after a look at the database as it is now.
"""

import hmac
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from profilelake.errors import Unavailable
from profilelake.workspaces import Source, Token
from profilelake.workspaces.control import read_sources, read_tokens, token_digest

REFRESH_SECONDS: Final = 1.0
"""How long a revoked key may go on working."""
RETRY_AFTER_SECONDS: Final = 2
"""What a sender is told whose key cannot be judged."""
BUSY_SECONDS: Final = 0.05
"""How long a look at the database may wait: requests stand behind it."""
FAILED_SECONDS: Final = 0.25
"""How long after a failed look the next unknown key is not worth another one: a look may block for
`BUSY_SECONDS`, and whoever sends made-up keys must not stall the rest."""

_NO_DIGEST: Final = bytes(32)


class KeyRing:
    """Answers who a write key or token belongs to, from memory.

    Opens nothing before its first look, so it may be made before a fork. When the database cannot
    be read the last good ring stays: known keys go on working, and unknown ones are not judged.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Look keys up in the control database at `path`."""
        self._path = path
        self._monotonic = monotonic
        self._connection: sqlite3.Connection | None = None
        self._data_version = -1
        self._refresh_at = float("-inf")
        self._failed_at = float("-inf")
        self._sources: dict[str, Source] = {}
        self._tokens: dict[bytes, tuple[Token, bytes]] = {}
        self.version = 0
        """Changes whenever the keys do; 0 until they were loaded for the first time."""
        self.failing = False
        """The last look at the database failed."""

    @property
    def loaded(self) -> bool:
        """Keys were loaded at least once."""
        return self.version > 0

    def poll(self) -> int:
        """Return `version`, after a look at the database if the last one is `REFRESH_SECONDS` old."""
        if self._monotonic() >= self._refresh_at:
            self.refresh()
        return self.version

    def refresh(self) -> bool:
        """Load the keys again if the database has changed. False when it could not be read."""
        self._refresh_at = self._monotonic() + REFRESH_SECONDS
        try:
            self._load()
        except (sqlite3.Error, OSError, ValueError):
            self.close()
            self.failing = True
            self._failed_at = self._monotonic()
            return False
        self.failing = False
        return True

    def source(self, write_key: str) -> Source | None:
        """Return the source of a live write key; None only if there is certainly no such key.

        Raises:
            Unavailable: the key is not among the known ones, and the database cannot be read.
        """
        found = self._sources.get(write_key)
        if found is None and self._changed():
            found = self._sources.get(write_key)
        return found

    def token(self, secret: str, *, now: int) -> Token | None:
        """Return what a token opens; None if there is no such token, or it was revoked, or has expired.

        Raises:
            Unavailable: the token is not among the known ones, and the database cannot be read.
        """
        digest = token_digest(secret)
        token = self._matching(digest)
        if token is None and self._changed():
            token = self._matching(digest)
        if token is None or token.revoked or (token.expires_at is not None and token.expires_at <= now):
            return None
        return token

    def close(self) -> None:
        """Close the database. What is in memory stays; the next look opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _matching(self, digest: bytes) -> Token | None:
        token, stored = self._tokens.get(digest, (None, _NO_DIGEST))
        return token if hmac.compare_digest(stored, digest) else None

    def _changed(self) -> bool:
        """Look at the database now; True if the keys were loaded again."""
        before = self.version
        failed_just_now = self.failing and self._monotonic() < self._failed_at + FAILED_SECONDS
        if failed_just_now or not self.refresh():
            raise Unavailable(
                "looking up a key: the control database cannot be read; send it again",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        return self.version != before

    def _load(self) -> None:
        connection = self._connection
        if connection is None:
            # `mode=rw` makes a missing database an error and not a new empty one. `mode=ro` would not do:
            # it cannot open a WAL database that no writer has open.
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection = connection
            self._data_version = -1
            connection.execute("PRAGMA query_only = ON")
        data_version = connection.execute("PRAGMA data_version").fetchone()[0]
        if data_version == self._data_version:
            return
        # One transaction, so keys and tokens are of one moment.
        connection.execute("BEGIN")
        try:
            sources = {key: source for source in read_sources(connection, None) for key in source.write_keys}
            tokens = {digest: (token, digest) for token, digest in read_tokens(connection, None)}
        finally:
            connection.execute("ROLLBACK")
        # A commit between the first look and the transaction is seen as one change too many next time.
        self._data_version = data_version
        self._sources = sources
        self._tokens = tokens
        self.version += 1
