"""Whom no event may be stored of any more: a list of keyed hashes in the control database.

The identifiers themselves are never stored. Who holds the list but not the identifier key learns
nothing from it but its length and times.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from profilelake.errors import Conflict, Invalid, NotFound, Unavailable
from profilelake.semantics.identifiers import Identifier, ident_id, ident_prefix, normalised
from profilelake.semantics.rules import Collection, IdentityRules

IDENTIFIERS_PER_CALL_MAX: Final = 5_000
"""Identifiers of one call, as many as Segment takes."""
SUPPRESSIONS_MAX: Final = 2_000_000
"""Suppressed identifiers of one workspace. Each costs a collecting process about 100 bytes."""
TYPE_CHARACTERS_MAX: Final = 200
"""Characters of an identifier type."""
VALUE_BYTES_MAX: Final = 32_768
"""Bytes of an identifier; an event has no more."""
REASON_CHARACTERS_MAX: Final = 200
"""Characters of a reason, such as the id of the regulation that asked for it."""
REFRESH_SECONDS: Final = 1.0
"""How long collect may go on with an old list. Landing always reads the newest."""
BUSY_SECONDS: Final = 0.05
"""How long a look at the list may wait: requests or micro-batches stand behind it."""
RETRY_AFTER_SECONDS: Final = 2
HASH_BYTES: Final = 16

_PERSON: Final = b"suppression"

TABLES: Final = """
CREATE TABLE suppressions (
    workspace TEXT NOT NULL REFERENCES workspaces (id),
    ident_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    collection TEXT NOT NULL,
    type TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (workspace, ident_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX suppressions_by_version ON suppressions (workspace, version);
CREATE TABLE suppression_versions (
    workspace TEXT PRIMARY KEY REFERENCES workspaces (id),
    version INTEGER NOT NULL,
    removed_version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""`version` counts the changes of a workspace's list, `removed_version` is the last one that took
something off it: who has seen that one needs only what was added since."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """An identifier as the list knows it: its type, and two keyed hashes.

    `ident_id` is the id that lake and state have for it. `digest` is another hash of the same, one
    that a process without compiled code makes in half a microsecond.
    """

    collection: Collection
    type: str
    ident_id: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Suppression:
    """One entry of the list. `created_at` is in microseconds UTC."""

    hashed: Hashed
    reason: str
    created_at: int


class Digests:
    """Makes the digests of one workspace."""

    def __init__(self, key: bytes) -> None:
        """Take the identifier key of the workspace."""
        self._start = hashlib.blake2b(key=key, digest_size=HASH_BYTES, person=_PERSON)

    def digest(self, collection: Collection, type: str, value: str) -> bytes:
        """Return the digest of a normalised identifier."""
        hasher = self._start.copy()
        hasher.update(ident_prefix(collection, type) + value.encode())
        return hasher.digest()

    def of_type(self, collection: Collection, type: str) -> Callable[[str], bytes]:
        """Return what makes the digests of one type, at about half the cost."""
        start = self._start.copy()
        start.update(ident_prefix(collection, type))

        def digest(value: str) -> bytes:
            hasher = start.copy()
            hasher.update(value.encode())
            return hasher.digest()

        return digest


def hash_identifier(
    key: bytes, rules: IdentityRules, collection: Collection, type: str, value: str
) -> Hashed:
    """Return how the list knows an identifier that somebody has written down; `rules` are those in force.

    Raises:
        Invalid: no event can name it. The message does not repeat it.
    """
    if not type or len(type) > TYPE_CHARACTERS_MAX or not type.isprintable():
        raise Invalid(
            f"reading an identifier: its type has {len(type)} characters; give 1 to {TYPE_CHARACTERS_MAX}"
            " that can be printed"
        )
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise Invalid("reading an identifier: it holds half a character; write it as UTF-8") from error
    compared = normalised(rules, collection, type, value)
    if not compared or size > VALUE_BYTES_MAX:
        raise Invalid(
            f"reading an identifier of type {type}: it has {size} bytes; give 1 to {VALUE_BYTES_MAX}"
            " and not only spaces"
        )
    return Hashed(
        collection,
        type,
        ident_id(key, collection, Identifier(type, compared)),
        Digests(key).digest(collection, type, compared),
    )


class Suppressions:
    """Reads and changes the list. A change is durable when its method returns."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        """Take the control database; callers use `Control.suppressions`."""
        self._connection = connection
        self._transaction = transaction

    def suppress(self, workspace: str, hashed: Sequence[Hashed], *, reason: str = "", now: int) -> int:
        """Put identifiers on the list; return how many were not there. Those that were keep their entry.

        Raises:
            NotFound: there is no such workspace.
            Invalid: too many at once, or no reason one can read.
            Conflict: the list would become longer than it may be.
        """
        _check_call(hashed)
        if len(reason) > REASON_CHARACTERS_MAX or (reason and not reason.isprintable()):
            raise Invalid(
                f"suppressing: the reason has {len(reason)} characters; give at most"
                f" {REASON_CHARACTERS_MAX} that can be printed"
            )
        with self._transaction() as connection:
            version = self._next_version(workspace)
            before = self.count(workspace)
            connection.executemany(
                "INSERT OR IGNORE INTO suppressions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (workspace, one.ident_id, one.digest, one.collection, one.type, reason, now, version)
                    for one in hashed
                ],
            )
            count = self.count(workspace)
            if count > SUPPRESSIONS_MAX:
                raise Conflict(
                    f"suppressing {len(hashed)} identifiers: the list would have {count}, the most is"
                    f" {SUPPRESSIONS_MAX}; unsuppress those whose data was erased long ago"
                )
            if count > before:
                connection.execute(
                    "INSERT INTO suppression_versions VALUES (?1, ?2, 0)"
                    " ON CONFLICT (workspace) DO UPDATE SET version = ?2",
                    (workspace, version),
                )
            return count - before

    def unsuppress(self, workspace: str, hashed: Sequence[Hashed]) -> int:
        """Take identifiers off the list, and forget them; return how many were on it.

        Raises:
            NotFound: there is no such workspace.
            Invalid: too many at once.
        """
        _check_call(hashed)
        with self._transaction() as connection:
            version = self._next_version(workspace)
            removed = 0
            for one in hashed:
                removed += connection.execute(
                    "DELETE FROM suppressions WHERE workspace = ? AND ident_id = ?", (workspace, one.ident_id)
                ).rowcount
            if removed:
                connection.execute(
                    "UPDATE suppression_versions SET version = ?2, removed_version = ?2 WHERE workspace = ?1",
                    (workspace, version),
                )
            return removed

    def find(self, workspace: str, hashed: Hashed) -> Suppression | None:
        """Return the entry of an identifier, None where it is not suppressed."""
        row = self._connection.execute(
            "SELECT collection, type, ident_id, digest, reason, created_at FROM suppressions"
            " WHERE workspace = ? AND ident_id = ?",
            (workspace, hashed.ident_id),
        ).fetchone()
        return None if row is None else _entry(row)

    def page(self, workspace: str, *, after: bytes = b"", rows: int) -> list[Suppression]:
        """Return at most `rows` entries whose ident_id comes after `after`, in its order."""
        found = self._connection.execute(
            "SELECT collection, type, ident_id, digest, reason, created_at FROM suppressions"
            " WHERE workspace = ? AND ident_id > ? ORDER BY ident_id LIMIT ?",
            (workspace, after, rows),
        )
        return [_entry(row) for row in found]

    def count(self, workspace: str) -> int:
        """Return how long the list is."""
        row = self._connection.execute(
            "SELECT count(*) FROM suppressions WHERE workspace = ?", (workspace,)
        ).fetchone()
        return int(row[0])

    def _next_version(self, workspace: str) -> int:
        if not self._connection.execute("SELECT 1 FROM workspaces WHERE id = ?", (workspace,)).fetchone():
            raise NotFound(f"looking for workspace {workspace!r}: there is none")
        row = self._connection.execute(
            "SELECT version FROM suppression_versions WHERE workspace = ?", (workspace,)
        ).fetchone()
        return 1 if row is None else int(row[0]) + 1


def _entry(row: tuple[Collection, str, bytes, bytes, str, int]) -> Suppression:
    collection, type, ident, digest, reason, created_at = row
    return Suppression(Hashed(collection, type, ident, digest), reason, created_at)


def _check_call(hashed: Sequence[Hashed]) -> None:
    if not 1 <= len(hashed) <= IDENTIFIERS_PER_CALL_MAX:
        raise Invalid(
            f"changing the suppressions: {len(hashed)} identifiers were given; give 1 to"
            f" {IDENTIFIERS_PER_CALL_MAX} at once"
        )


# ---- the list in memory ----------------------------------------------------------------------

Column = Literal["ident_id", "digest"]


@dataclass(slots=True)
class _List:
    """The hashes of one workspace; `version` is that of the database when they were read."""

    version: int = 0
    hashes: set[bytes] = field(default_factory=set)


class Following:
    """The lists of all workspaces in memory, one of their two hashes, kept up with the database.

    Opens nothing before its first look, so it may be made before a fork. Not for several threads.
    """

    def __init__(self, path: Path, column: Column) -> None:
        """Follow the control database at `path`."""
        self._path = path
        self._column = column
        self._connection: sqlite3.Connection | None = None
        self._data_version = -1
        self._lists: dict[str, _List] = {}

    def list(self, workspace: str) -> tuple[int, AbstractSet[bytes]]:
        """Return the list of a workspace and its version, which changes whenever the list does."""
        followed = self._lists.get(workspace)
        return (0, frozenset()) if followed is None else (followed.version, followed.hashes)

    def now(self, workspace: str) -> tuple[int, AbstractSet[bytes]]:
        """Return `list` with every change that was committed before this call. Raises as `look` does."""
        self.look()
        return self.list(workspace)

    def look(self) -> None:
        """See every change that was committed before this call.

        Raises:
            Unavailable: the database cannot be read. What was read before stays.
        """
        try:
            self._load()
        except (sqlite3.Error, OSError, ValueError) as error:
            self.close()
            raise Unavailable(
                f"reading the suppressions in {self._path}: {error}; see that the file can be read",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error

    def close(self) -> None:
        """Close the database. What is in memory stays; the next look opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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
        connection.execute("BEGIN")  # so that versions and hashes are of one moment
        try:
            changed = {
                workspace: (version, self._changed(connection, workspace, version, removed))
                for workspace, version, removed in connection.execute(
                    "SELECT workspace, version, removed_version FROM suppression_versions"
                ).fetchall()
            }
        finally:
            connection.execute("ROLLBACK")
        self._data_version = data_version
        for workspace, (version, (fresh, hashes)) in changed.items():
            followed = self._lists.setdefault(workspace, _List())
            followed.version = version
            if fresh:
                followed.hashes = hashes
            else:
                followed.hashes |= hashes

    def _changed(
        self, connection: sqlite3.Connection, workspace: str, version: int, removed: int
    ) -> tuple[bool, set[bytes]]:
        """Return what was added since the last look; or, where something was removed, all there is."""
        known = self._lists.get(workspace, _List()).version
        fresh = removed > known or version < known  # less than known: restored from a backup
        if version == known:
            return False, set()
        rows = connection.execute(
            f"SELECT {self._column} FROM suppressions WHERE workspace = ? AND version > ?",  # noqa: S608
            (workspace, 0 if fresh else known),
        )
        return fresh, {row[0] for row in rows}


class SuppressionRing:
    """The digests for processes that answer requests: looked at every `REFRESH_SECONDS`.

    When the database cannot be read the last good list stays: landing is the judge, and waits.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Follow the control database at `path`."""
        self._following = Following(path, "digest")
        self._monotonic = monotonic
        self._refresh_at = float("-inf")

    def digests(self, workspace: str) -> AbstractSet[bytes]:
        """Return the digests of what is suppressed in a workspace."""
        if self._monotonic() >= self._refresh_at:
            self.refresh()
        return self._following.list(workspace)[1]

    def refresh(self) -> bool:
        """Look now. False when the database could not be read."""
        self._refresh_at = self._monotonic() + REFRESH_SECONDS
        try:
            self._following.look()
        except Unavailable:
            return False
        return True

    def close(self) -> None:
        """Close the database."""
        self._following.close()
