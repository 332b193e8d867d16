"""`activations.sqlite`: how far each destination is, what was announced there, what is under way, what is dead.

What waits to be sent, the place behind it and what is announced by it are written in one transaction before
anything is sent. So whoever is killed sends the same batches again, bytes and keys included, and nothing is lost.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from profilelake.activate._database import Database
from profilelake.activate.letters import DeadLetters, Letters, Sent

PARAMETERS_MAX: Final = 500
WAITING_MAX: Final = 256
"""Batches that are taken to be sent at once."""
FORGET_ROWS: Final = 5_000
"""Rows about a destination that is no more which one transaction forgets."""
_ABOUT: Final = {
    "sweeps": "id",
    "known": "definition",
    "batches": "id",
    "announced": "profile, definition",
    "dead": "id",
    "letters": "destination",
}
"""Tables with rows about a destination, besides `places`, and what tells their rows apart."""


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
    letters: Letters = field(default_factory=Letters)
    sweeping: tuple[str, ...] = ()
    seen_through: int = 0
    """Pipeline time of the last look at the feed."""

    @property
    def dead(self) -> int:
        """How many dead letters there are."""
        return self.letters.held


@dataclass(frozen=True, slots=True)
class SentAgain:
    """What became of some dead letters that were to be sent again."""

    replayed: int = 0
    outdated: int = 0


class Journal:
    """The journal of one data directory; several processes may have it open."""

    def __init__(self, database: Database) -> None:
        """Take an open file; callers use `open`."""
        self._database = database
        self._connection = database.connection
        self._row, self._rows, self._transaction = database.row, database.rows, database.transaction
        self.letters = DeadLetters(database)

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open the journal, made new where there is none, readable to its owner only; an older one is upgraded.

        Raises:
            Unavailable: the disk does not take it, or another process holds it for long.
            Corrupt: it is of a newer program.
        """
        return cls(Database.open(path))

    def close(self) -> None:
        """Close the file. What was written stays."""
        self._database.close()

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
            # A sweep that is under way begins anew, under a number of its own. What somebody asked to be told
            # again is owed still, though another reason for a sweep has come meanwhile.
            owed = self._connection.execute(
                "DELETE FROM sweeps WHERE destination = ? AND definition = ? RETURNING again",
                (destination, one),
            ).fetchone()
            self._connection.execute(
                "INSERT INTO sweeps (destination, definition, through, again, began_at) VALUES (?, ?, ?, ?, ?)",
                (destination, one, b"", int(again or bool(owed and owed[0])), now),
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
        gone = [(destination, *key) for key, told in turn.announced.items() if told is None]
        told = [(destination, *key, *one) for key, one in turn.announced.items() if one is not None]
        with self._transaction() as connection:
            connection.execute(
                "UPDATE places SET epoch = ?, cursor = ?, touched = ?, sees_to = ? WHERE destination = ?",
                (turn.place.epoch, turn.place.cursor, turn.place.touched, seen, destination),
            )
            self._put_batches(destination, turn.batches)
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
            left = self._without(batch, count)
            self.letters.end_waiting(destination)
            return left

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
        self, destination: str, batch: Batch, count: int, reason: str, status: int, *, now: int, most: int
    ) -> Batch:
        """Give the first records of a batch up, kept to be looked at and sent again; return what is left of it.

        A destination keeps at most so many dead letters: of records for which there is no room none goes.
        """
        with self._transaction():
            taken = self.letters.take(
                destination,
                batch.records[:count],
                reason=reason,
                status=status,
                attempts=batch.attempts,
                now=now,
                most=most,
            )
            return self._without(batch, taken) if taken else batch

    def send_again(
        self,
        destination: str,
        most: int,
        pack: Callable[[list[tuple[bytes, list[Sent]]]], list[tuple[int, list[Sent]]]],
        *,
        full_at: int = 0,
    ) -> SentAgain:
        """Have the next of the letters sent that somebody asked for, with the keys they had; return what became.

        Only those that say what the destination was told last of that profile and definition: of others it has
        been told something newer since, which an older one must not overwrite. With `full_at` nothing is done
        unless there are so many letters.
        """
        if not self.letters.of(destination).replaying:
            return SentAgain()
        with self._transaction():
            if self.letters.of(destination).held < full_at:
                return SentAgain()
            found = self.letters.next_asked(destination, most)
            told = self.announced(destination, {letter.subject for _, letter in found})
            present: list[tuple[bytes, list[Sent]]] = []
            for _, letter in found:
                last = told.get((letter.subject, letter.definition))
                if letter.state == (b"" if last is None else last.value):
                    present.append((letter.subject, [letter]))
            # Behind all that waits: whatever is said there of the same profile ends with the same.
            self._put_batches(destination, pack(present))
            self.letters.remove(id for id, _ in found)
            outdated = len(found) - len(present)
            self.letters.count(destination, "replayed", len(present))
            self.letters.count(destination, "outdated", outdated)
        return SentAgain(len(present), outdated)

    def _put_batches(self, destination: str, batches: Iterable[tuple[int, list[Sent]]]) -> None:
        encode = msgspec.msgpack.encode
        self._connection.executemany(
            "INSERT INTO batches (destination, lane, records, size) VALUES (?, ?, ?, ?)",
            [(destination, lane, encode(records), len(records)) for lane, records in batches],
        )

    def forget(self, destination: str) -> None:
        """Forget all there is about a destination, in several transactions; cut short, it is to be done again."""
        for table, key in _ABOUT.items():
            statement = (
                f"DELETE FROM {table} WHERE destination = ?1 AND ({key}) IN"  # noqa: S608 - our own names
                f" (SELECT {key} FROM {table} WHERE destination = ?1 LIMIT ?2)"
            )
            went = FORGET_ROWS
            while went == FORGET_ROWS:
                with self._transaction() as connection:
                    went = connection.execute(statement, (destination, FORGET_ROWS)).rowcount
        with self._transaction() as connection:
            # Last, because by this it is known that there is something left to forget.
            connection.execute("DELETE FROM places WHERE destination = ?", (destination,))

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
        sweeping = tuple(sweep.definition for sweep in self.sweeps(destination))
        told, at, since, attempts, trouble, seen = row or (0, 0, 0, 0, "", 0)
        return Health(
            told, at, since, attempts, trouble, waiting, self.letters.of(destination), sweeping, seen
        )


_records: Final = msgspec.msgpack.Decoder(list[Sent]).decode
