"""Which failed events were sent again, and when, as long as these are kept: beside the tables, with no personal data."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profilelake.errors import Unavailable

BUSY_SECONDS: Final = 10.0
LOOKUP_ROWS_MAX: Final = 500
FORGET_ROWS: Final = 10_000
"""Replays that one transaction forgets."""
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS failed_replays (
        position BLOB NOT NULL,
        replayed_at INTEGER NOT NULL,
        log_id TEXT NOT NULL,
        log_offset INTEGER NOT NULL,
        place INTEGER NOT NULL,
        PRIMARY KEY (position, log_id, log_offset, place)
    ) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Replay:
    """One sending: of the failed event at `position`, as event `index` of a record of the log."""

    position: bytes
    replayed_at: int
    log_id: str
    log_offset: int
    index: int


class Journal:
    """The replays of one data directory. Any process may write; what is written is never changed, and goes with the event."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, replays: Sequence[Replay]) -> None:
        """Note replays that are durable in the log.

        Raises:
            Unavailable: it could not be written; the events are in the log all the same.
        """
        with self._open() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO failed_replays VALUES (?, ?, ?, ?, ?)",
                [(r.position, r.replayed_at, r.log_id, r.log_offset, r.index) for r in replays],
            )

    def of(self, positions: Sequence[bytes]) -> dict[bytes, list[Replay]]:
        """Return the replays of failed events, the oldest first; those with none are left out."""
        found: dict[bytes, list[Replay]] = {}
        if not self._path.exists():
            return found
        with self._open() as connection:
            for start in range(0, len(positions), LOOKUP_ROWS_MAX):
                some = positions[start : start + LOOKUP_ROWS_MAX]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT * FROM failed_replays WHERE position IN ({marks}) ORDER BY replayed_at",  # noqa: S608
                    some,
                )
                for row in rows:
                    replay = Replay(*row)
                    found.setdefault(replay.position, []).append(replay)
        return found

    def forget(self, before: int) -> bool:
        """Forget replays of failed events that were received before a time; tell whether there may be more.

        One transaction of bounded size. To be called once these events are gone: until then a replay that is
        not known would be sent again.
        """
        if not self._path.exists():
            return False
        with self._open() as connection:
            # A position begins with the time of receipt.
            went = connection.execute(
                "DELETE FROM failed_replays WHERE (position, log_id, log_offset, place) IN"
                " (SELECT position, log_id, log_offset, place FROM failed_replays WHERE position < ?"
                " ORDER BY position LIMIT ?)",
                (max(0, before).to_bytes(8, "big"), FORGET_ROWS),
            ).rowcount
        return went == FORGET_ROWS

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_TABLE)
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise Unavailable(f"opening the replays in {self._path}: {error}; retry later") from error
