"""The SQLite file below the journal: its tables, its formats, and transactions whose errors say what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from profilelake.errors import Corrupt, Unavailable

BUSY_SECONDS: Final = 10.0
FORMAT: Final = 2

_TABLES: Final = """
CREATE TABLE places (
    destination TEXT PRIMARY KEY, epoch TEXT NOT NULL, cursor BLOB NOT NULL, touched BLOB NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0, delivered_at INTEGER NOT NULL DEFAULT 0,
    failing_since INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, trouble TEXT NOT NULL DEFAULT '',
    sees_to INTEGER NOT NULL DEFAULT 0, decisions BLOB NOT NULL DEFAULT x''
) STRICT, WITHOUT ROWID;
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, definition TEXT NOT NULL,
    through BLOB NOT NULL, again INTEGER NOT NULL, began_at INTEGER NOT NULL,
    UNIQUE (destination, definition)
) STRICT;
CREATE TABLE known (
    destination TEXT NOT NULL, definition TEXT NOT NULL, PRIMARY KEY (destination, definition)
) STRICT, WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, lane INTEGER NOT NULL, records BLOB NOT NULL,
    size INTEGER NOT NULL, first_at INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_of ON batches (destination, id);
CREATE TABLE announced (
    destination TEXT NOT NULL, profile BLOB NOT NULL, definition TEXT NOT NULL, value BLOB NOT NULL,
    version INTEGER NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (destination, profile, definition)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    definition TEXT NOT NULL, profile_id TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL,
    status INTEGER NOT NULL, attempts INTEGER NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_of ON dead (destination, id)
"""

_LETTERS: Final = """
ALTER TABLE dead ADD COLUMN subject BLOB NOT NULL DEFAULT x'';
ALTER TABLE dead ADD COLUMN state BLOB;
ALTER TABLE dead ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
CREATE INDEX dead_asked ON dead (destination, id) WHERE asked = 1;
CREATE TABLE letters (
    destination TEXT PRIMARY KEY, taken INTEGER NOT NULL DEFAULT 0, replayed INTEGER NOT NULL DEFAULT 0,
    outdated INTEGER NOT NULL DEFAULT 0, discarded INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0,
    expired_at INTEGER NOT NULL DEFAULT 0, full_since INTEGER NOT NULL DEFAULT 0,
    replay_through INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO letters (destination, taken) SELECT destination, count(*) FROM dead GROUP BY destination
"""
"""From format 1 to 2: dead letters are counted for ever, and know whom and what they are about."""
_UPGRADES: Final = {0: (_TABLES, _LETTERS), 1: (_LETTERS,)}
"""What brings a file of each format to the present one; 0 is a new file."""


class Database:
    """One connection to the file; several processes may have one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection; callers use `open`."""
        self.connection = connection

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open the file, made new where there is none, readable to its owner only; an older one is upgraded.

        Raises:
            Unavailable: the disk does not take it, or another process holds it for long.
            Corrupt: it is of a newer program.
        """
        try:
            path.touch(mode=0o600)
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                # A commit that power failure undoes is a batch sent twice; what is sent once was read from here.
                connection.execute("PRAGMA synchronous = NORMAL")
                if _format(connection) != FORMAT:
                    _upgrade(connection, path)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"opening {path}: {error}; see that its disk works, then try again") from error
        return cls(connection)

    def close(self) -> None:
        """Close the file. What was written stays."""
        self.connection.close()

    def row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row of an answer, None where there is none."""
        rows = self.rows(statement, *values)
        return rows[0] if rows else None

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of an answer. Raises Unavailable."""
        try:
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"reading the activations: {error}; try again") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all of what is written inside, or nothing. Raises Unavailable."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise Unavailable(f"writing the activations: {error}; nothing changed, try again") from error


def _format(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to the present format, whole or not at all; another process may have done it meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _format(connection)
        if found != FORMAT:
            if found not in _UPGRADES:
                raise Corrupt(
                    f"opening {path}: it has format {found}, this program reads {FORMAT} and older; use the program"
                    " that wrote it, or a newer one"
                )
            for statements in _UPGRADES[found]:
                for statement in statements.split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
