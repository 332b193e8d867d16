"""Remembers which chunks are in the log, so that no file is imported twice and an interrupted one goes on.

It only saves work: events have message ids, so a chunk that is forgotten comes in again and changes nothing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from profilelake.errors import Corrupt, Unavailable
from profilelake.imports.chunks import Chunk, Known

BUSY_SECONDS: Final = 10.0
"""How long one import waits for another to write down a chunk."""
CANDIDATES_MAX: Final = 32
"""Chunks that are tried where several have followed the same one."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS chunks (
    target TEXT NOT NULL,
    previous TEXT NOT NULL,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (target, previous, name)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and as what events are imported: the same file for another target is another import."""

    workspace: str
    source_id: str
    type: str = ""

    @property
    def key(self) -> str:
        return "\0".join((self.workspace, self.source_id, self.type))


class Progress:
    """The chunks of all imports into one data directory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made new where there is none.

        Raises:
            Corrupt: it is no file of ours.
            Unavailable: it cannot be opened at the moment.
        """
        with _told():
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with _told():
                connection.execute("PRAGMA journal_mode = WAL")
                # What a power cut makes it forget is imported again, and changes nothing.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_SCHEMA)
        except Unavailable:
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise Corrupt(
                f"opening {path}: {error}; move it away: imports then begin anew, and nothing is doubled"
            ) from error
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after(self, target: Target, previous: str) -> list[Known]:
        """Return the chunks that have followed a chunk, longest first. Raises Unavailable."""
        with _told():
            rows = self._connection.execute(
                "SELECT bytes, name, events FROM chunks WHERE target = ? AND previous = ?"
                " ORDER BY bytes DESC LIMIT ?",
                (target.key, previous, CANDIDATES_MAX),
            )
            return [Known(*row) for row in rows]

    def add(self, target: Target, chunk: Chunk) -> None:
        """Remember that a chunk is durable in the log. Raises Unavailable."""
        with _told():
            self._connection.execute(
                "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?)",
                (target.key, chunk.previous, chunk.name, len(chunk.body), chunk.events),
            )


@contextmanager
def _told() -> Iterator[None]:
    """Say what can be done where the file is held by others, or its disk is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"remembering what is imported: {error}; run the same command again: nothing is doubled"
        ) from error
