"""`activations.sqlite`: how far each destination is, what was announced there, what is under way, what is dead.

What waits to be sent, the place behind it and what is announced by it are written in one transaction before
anything is sent. So whoever is killed sends the same batches again, bytes and keys included, and nothing is lost.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from profilelake.errors import Corrupt, NotFound, Unavailable

BUSY_SECONDS: Final = 10.0
FORMAT: Final = 1
DEAD_LISTED_MAX: Final = 1_000
PARAMETERS_MAX: Final = 500
WAITING_MAX: Final = 256
"""Batches that are taken to be sent at once."""

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


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """One record as it is sent: its key, whom and what it is about, and its JSON."""

    key: str
    definition: str
    profile_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that go out together. Times in microseconds; `first_at` is 0 before the first attempt."""

    id: int
    lane: int
    records: Sequence[Sent]
    first_at: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """How far a destination is: in which life of the state, behind which change and which touched profile."""

    epoch: str
    cursor: bytes
    touched: bytes


class Sweep(NamedTuple):
    """A definition whose values are announced profile by profile; `again` tells also what is told already."""

    id: int
    definition: str
    through: bytes
    again: bool


class Announced(NamedTuple):
    """What a destination was told last: a digest of the value, the version, and the ids of the identifiers."""

    value: bytes
    version: int
    ids: bytes


@dataclass(slots=True)
class Turn:
    """What one look at the feed comes to; written as one."""

    place: Place
    batches: list[tuple[int, list[Sent]]] = field(default_factory=list)
    announced: dict[tuple[bytes, str], Announced | None] = field(default_factory=dict)
    """By profile and definition; None where it was told that there is nothing any more."""
    through: dict[int, bytes | None] = field(default_factory=dict)
    """How far sweeps are; None for those that are over."""


@dataclass(frozen=True, slots=True)
class Health:
    """How it goes with a destination. Times in microseconds, 0 for never."""

    delivered: int = 0
    delivered_at: int = 0
    failing_since: int = 0
    attempts: int = 0
    trouble: str = ""
    waiting: int = 0
    dead: int = 0
    sweeping: tuple[str, ...] = ()
    seen_through: int = 0
    """Pipeline time of the last look at the feed."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that was given up, and why."""

    id: int
    idempotency_key: str
    definition: str
    profile_id: str
    body: bytes
    reason: str
    status: int
    attempts: int
    at: int


class Journal:
    """The journal of one data directory; several processes may have it open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take an open connection; callers use `open`."""
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open the journal, made new where there is none, readable to its owner only.

        Raises:
            Unavailable: the disk does not take it, or another process holds it for long.
            Corrupt: it is of a newer program.
        """
        try:
            path.touch(mode=0o600)
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit that power failure undoes is a batch that is sent twice; what is sent once was read from here.
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _TABLES.split(";\n"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
            elif version != FORMAT:
                raise Corrupt(f"opening {path}: it has format {version}, this program reads {FORMAT}")
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"opening {path}: {error}; see that its disk works, then try again") from error
        return cls(connection)

    def close(self) -> None:
        """Close the file. What was written stays."""
        self._connection.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- places and sweeps -----------------------------------------------------------------------

    def place(self, destination: str) -> Place | None:
        """Return how far a destination is, None where it was never looked at."""
        row = self._row("SELECT epoch, cursor, touched FROM places WHERE destination = ?", destination)
        return None if row is None else Place(*row)

    def begin(self, destination: str, place: Place) -> None:
        """Have a destination begin at a place, or go on from there."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO places (destination, epoch, cursor, touched) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (destination) DO UPDATE SET epoch = excluded.epoch, cursor = excluded.cursor,"
                " touched = excluded.touched",
                (destination, place.epoch, place.cursor, place.touched),
            )

    def known(self, destination: str) -> set[str]:
        """Return the definitions that a destination was told from their beginning, or is being told."""
        rows = self._rows("SELECT definition FROM known WHERE destination = ?", destination)
        return {row[0] for row in rows}

    def learn(self, destination: str, definitions: Iterable[str]) -> None:
        """Note definitions as known, without telling what they are worth now."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO known VALUES (?, ?)", [(destination, one) for one in definitions]
            )

    def sweep(self, destination: str, definitions: Iterable[str], *, again: bool, now: int) -> None:
        """Have a destination be told what definitions are worth, from the first profile on."""
        with self._transaction():
            self._sweep(destination, definitions, again=again, now=now)

    def _sweep(self, destination: str, definitions: Iterable[str], *, again: bool, now: int) -> None:
        for one in definitions:
            # A sweep that is under way begins anew, under a number of its own.
            self._connection.execute(
                "DELETE FROM sweeps WHERE destination = ? AND definition = ?", (destination, one)
            )
            self._connection.execute(
                "INSERT INTO sweeps (destination, definition, through, again, began_at) VALUES (?, ?, ?, ?, ?)",
                (destination, one, b"", int(again), now),
            )
            self._connection.execute("INSERT OR IGNORE INTO known VALUES (?, ?)", (destination, one))

    def decisions_seen(self, destination: str) -> bytes:
        """Return the position of the last decision about definitions that was looked at for a destination."""
        row = self._row("SELECT decisions FROM places WHERE destination = ?", destination)
        return b"" if row is None else bytes(row[0])

    def decided(self, destination: str, through: bytes, definitions: Iterable[str], *, now: int) -> None:
        """Note that decisions were looked at, and tell anew what they ask for."""
        with self._transaction() as connection:
            self._sweep(destination, definitions, again=True, now=now)
            connection.execute(
                "UPDATE places SET decisions = ? WHERE destination = ?", (through, destination)
            )

    def sweeps(self, destination: str) -> list[Sweep]:
        """Return the sweeps of a destination that are not over."""
        rows = self._rows(
            "SELECT id, definition, through, again FROM sweeps WHERE destination = ? ORDER BY id", destination
        )
        return [Sweep(id, definition, through, bool(again)) for id, definition, through, again in rows]

    def put(self, destination: str, turn: Turn, *, seen: int) -> None:
        """Write a turn: the place behind it, what is to be sent, and what is announced by that."""
        encode = msgspec.msgpack.encode
        gone = [(destination, *key) for key, told in turn.announced.items() if told is None]
        told = [(destination, *key, *one) for key, one in turn.announced.items() if one is not None]
        with self._transaction() as connection:
            connection.execute(
                "UPDATE places SET epoch = ?, cursor = ?, touched = ?, sees_to = ? WHERE destination = ?",
                (turn.place.epoch, turn.place.cursor, turn.place.touched, seen, destination),
            )
            connection.executemany(
                "INSERT INTO batches (destination, lane, records, size) VALUES (?, ?, ?, ?)",
                [(destination, lane, encode(records), len(records)) for lane, records in turn.batches],
            )
            connection.executemany(
                "DELETE FROM announced WHERE destination = ? AND profile = ? AND definition = ?", gone
            )
            connection.executemany("INSERT OR REPLACE INTO announced VALUES (?, ?, ?, ?, ?, ?)", told)
            for id, through in turn.through.items():
                if through is None:
                    connection.execute("DELETE FROM sweeps WHERE id = ?", (id,))
                else:
                    connection.execute("UPDATE sweeps SET through = ? WHERE id = ?", (through, id))

    def seen(self, destination: str, at: int) -> None:
        """Note that a destination has been told of everything up to a time of the pipeline."""
        with self._transaction() as connection:
            connection.execute("UPDATE places SET sees_to = ? WHERE destination = ?", (at, destination))

    def announced(self, destination: str, profiles: Iterable[bytes]) -> dict[tuple[bytes, str], Announced]:
        """Return what a destination was told of some profiles, by profile and definition."""
        found: dict[tuple[bytes, str], Announced] = {}
        wanted = sorted(set(profiles))
        for start in range(0, len(wanted), PARAMETERS_MAX):
            some = wanted[start : start + PARAMETERS_MAX]
            marks = ",".join("?" * len(some))
            statement = f"SELECT * FROM announced WHERE destination = ? AND profile IN ({marks})"  # noqa: S608 - question marks only
            rows = self._rows(statement, destination, *some)
            found |= {(profile, definition): Announced(*told) for _, profile, definition, *told in rows}
        return found

    def announced_between(
        self, destination: str, after: bytes, through: bytes | None, most: int
    ) -> list[bytes]:
        """Return profiles a destination was told something of, behind `after` and not behind `through`."""
        rows = self._rows(
            "SELECT DISTINCT profile FROM announced WHERE destination = ?1 AND profile > ?2"
            " AND (?3 IS NULL OR profile <= ?3) ORDER BY profile LIMIT ?4",
            destination,
            after,
            through,
            most,
        )
        return [row[0] for row in rows]

    # ---- what is under way -----------------------------------------------------------------------

    def waiting(self, destination: str) -> list[Batch]:
        """Return what is to be sent next, in order."""
        rows = self._rows(
            "SELECT id, lane, records, first_at, attempts FROM batches WHERE destination = ? ORDER BY id LIMIT ?",
            destination,
            WAITING_MAX,
        )
        return [
            Batch(id, lane, _records(records), first, attempts) for id, lane, records, first, attempts in rows
        ]

    def tried(self, destination: str, batch: Batch, trouble: str) -> None:
        """Note a failed attempt; `first_at` of the batch is when the first was."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE batches SET first_at = ?, attempts = ? WHERE id = ?",
                (batch.first_at, batch.attempts, batch.id),
            )
            connection.execute(
                "UPDATE places SET attempts = attempts + 1, trouble = ?,"
                " failing_since = CASE failing_since WHEN 0 THEN ? ELSE failing_since END WHERE destination = ?",
                (trouble, batch.first_at, destination),
            )

    def delivered(self, destination: str, batch: Batch, count: int, *, now: int) -> Batch:
        """Note that the first records of a batch have arrived; return what is left of it."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE places SET delivered = delivered + ?, delivered_at = ?, failing_since = 0, attempts = 0,"
                " trouble = '' WHERE destination = ?",
                (count, now, destination),
            )
            return self._without(batch, count)

    def _without(self, batch: Batch, count: int) -> Batch:
        left = Batch(batch.id, batch.lane, batch.records[count:])
        if left.records:
            self._connection.execute(
                "UPDATE batches SET records = ?, size = ?, first_at = 0, attempts = 0 WHERE id = ?",
                (msgspec.msgpack.encode(left.records), len(left.records), batch.id),
            )
        else:
            self._connection.execute("DELETE FROM batches WHERE id = ?", (batch.id,))
        return left

    # ---- what was given up -----------------------------------------------------------------------

    def bury(
        self, destination: str, batch: Batch, count: int, reason: str, status: int, *, now: int
    ) -> Batch:
        """Give the first records of a batch up, kept to be looked at and sent again; return what is left of it."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO dead (destination, idempotency_key, definition, profile_id, body, reason, status,"
                " attempts, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        destination,
                        one.key,
                        one.definition,
                        one.profile_id,
                        one.body,
                        reason,
                        status,
                        batch.attempts,
                        now,
                    )
                    for one in batch.records[:count]
                ],
            )
            return self._without(batch, count)

    def dead(self, destination: str, after: int = 0, most: int = DEAD_LISTED_MAX) -> list[Dead]:
        """Return what was given up, the oldest first, behind an id."""
        rows = self._rows(
            "SELECT id, idempotency_key, definition, profile_id, body, reason, status, attempts, at FROM dead"
            " WHERE destination = ? AND id > ? ORDER BY id LIMIT ?",
            destination,
            after,
            min(most, DEAD_LISTED_MAX),
        )
        return [Dead(*row) for row in rows]

    def replay(self, destination: str, ids: Sequence[int] | None, batch: int) -> int:
        """Have records that were given up sent again with the keys they had, some or all; return how many.

        Raises:
            NotFound: one of those named is not there.
        """
        count = 0
        with self._transaction() as connection:
            if ids is None:
                ids = [
                    row[0]
                    for row in connection.execute("SELECT id FROM dead WHERE destination = ?", (destination,))
                ]
            for start in range(0, len(ids), batch):
                records = []
                for id in ids[start : start + batch]:
                    row = connection.execute(
                        "DELETE FROM dead WHERE id = ? AND destination = ?"
                        " RETURNING idempotency_key, definition, profile_id, body",
                        (id, destination),
                    ).fetchone()
                    if row is None:
                        raise NotFound(f"replaying {id}: destination {destination!r} has no such dead letter")
                    records.append(Sent(*row))
                count += len(records)
                connection.execute(
                    "INSERT INTO batches (destination, lane, records, size) VALUES (?, 0, ?, ?)",
                    (destination, msgspec.msgpack.encode(records), len(records)),
                )
        return count

    def forget(self, destination: str) -> None:
        """Forget all there is about a destination."""
        with self._transaction() as connection:
            for statement in (
                "DELETE FROM places WHERE destination = ?",
                "DELETE FROM sweeps WHERE destination = ?",
                "DELETE FROM known WHERE destination = ?",
                "DELETE FROM batches WHERE destination = ?",
                "DELETE FROM announced WHERE destination = ?",
                "DELETE FROM dead WHERE destination = ?",
            ):
                connection.execute(statement, (destination,))

    def version(self) -> int:
        """Return a number that differs once another connection has changed something."""
        version: int = self._rows("PRAGMA data_version")[0][0]
        return version

    def names(self) -> set[str]:
        """Return the destinations something is known of."""
        return {row[0] for row in self._rows("SELECT destination FROM places")}

    def health(self, destination: str) -> Health:
        """Return how it goes with a destination."""
        row = self._row(
            "SELECT delivered, delivered_at, failing_since, attempts, trouble, sees_to FROM places WHERE destination = ?",
            destination,
        )
        waiting = self._rows("SELECT coalesce(sum(size), 0) FROM batches WHERE destination = ?", destination)[
            0
        ][0]
        dead = self._rows("SELECT count(*) FROM dead WHERE destination = ?", destination)[0][0]
        sweeping = tuple(sweep.definition for sweep in self.sweeps(destination))
        told, at, since, attempts, trouble, seen = row or (0, 0, 0, 0, "", 0)
        return Health(told, at, since, attempts, trouble, waiting, dead, sweeping, seen)

    def _row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._rows(statement, *values)
        return rows[0] if rows else None

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"reading the activations: {error}; try again") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise Unavailable(f"writing the activations: {error}; nothing changed, try again") from error


_records: Final = msgspec.msgpack.Decoder(list[Sent]).decode
