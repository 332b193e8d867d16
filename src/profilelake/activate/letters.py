"""Dead letters: records that a receiver did not take, kept to be looked at, sent again, or put away.

Each is counted for ever by what became of it: `taken = held + replayed + outdated + discarded + expired`, in the
same transaction in which it comes or goes. How many a destination may hold is a limit that whoever buries gives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from profilelake.activate._database import Database
from profilelake.errors import Invalid, NotFound
from profilelake.semantics.identifiers import parse_public_id

LISTED_MAX: Final = 1_001
"""Letters of one page of a thousand, and the one that tells that there are more."""
IDS_MAX: Final = 10_000
"""Letters that can be named at once; more go by `all`."""
DISCARD_ROWS: Final = 5_000
"""Letters that one transaction puts away: it holds up whoever else writes for some 20 ms."""
PAGE_BYTES_MAX: Final = 8 << 20
"""Bytes of the letters that are taken to be sent again at once; one that is larger goes alone."""
_STATE_BYTES: Final = 8
_PARAMETERS_MAX: Final = 500

Fate = Literal["replayed", "outdated", "discarded", "expired"]
FATES: Final[tuple[Fate, ...]] = ("replayed", "outdated", "discarded", "expired")
"""What becomes of a letter. `outdated` was not sent again, because something newer had been told since."""
_COUNT: Final[dict[Fate, str]] = {
    fate: f"UPDATE letters SET {fate} = {fate} + ?, full_since = 0 WHERE destination = ?"  # noqa: S608 - our own words
    for fate in FATES
}


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """One record as it is sent: its key, whom and what it is about, and its JSON.

    `subject` is the profile it is about, and `state` what it says of it (`state_of`); records of an older program
    have neither.
    """

    key: str
    definition: str
    profile_id: str
    body: bytes
    subject: bytes = b""
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that was given up, and why. `body` is empty where it was not asked for."""

    id: int
    idempotency_key: str
    definition: str
    profile_id: str
    body: bytes
    reason: str
    status: int
    attempts: int
    at: int


@dataclass(frozen=True, slots=True)
class Letters:
    """What became of the letters of a destination, since it is. Times in microseconds, 0 for never."""

    taken: int = 0
    replayed: int = 0
    outdated: int = 0
    discarded: int = 0
    expired: int = 0
    expired_at: int = 0
    full_since: int = 0
    """Since when something waits because there is no room for one more letter."""
    replaying: bool = False
    """Whether letters are to be sent again that have not been looked at yet."""

    @property
    def held(self) -> int:
        """How many there are."""
        return self.taken - self.replayed - self.outdated - self.discarded - self.expired


class DeadLetters:
    """The dead letters in one journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, destination: str) -> Letters:
        """Return what became of the letters of a destination."""
        row = self._database.row(
            "SELECT taken, replayed, outdated, discarded, expired, expired_at, full_since,"
            " EXISTS (SELECT 1 FROM dead WHERE dead.destination = ?1 AND id <= replay_through)"
            " OR EXISTS (SELECT 1 FROM dead WHERE dead.destination = ?1 AND asked = 1)"
            " FROM letters WHERE destination = ?1",
            destination,
        )
        return Letters() if row is None else replace(Letters(*row), replaying=bool(row[-1]))

    def listed(
        self, destination: str, after: int = 0, most: int = LISTED_MAX, *, bodies: bool = True
    ) -> list[Dead]:
        """Return letters behind an id, the oldest first."""
        rows = self._database.rows(
            "SELECT id, idempotency_key, definition, profile_id, CASE WHEN ? THEN body ELSE x'' END, reason, status,"
            " attempts, at FROM dead WHERE destination = ? AND id > ? ORDER BY id LIMIT ?",
            int(bodies),
            destination,
            after,
            min(most, LISTED_MAX),
        )
        return [Dead(*row) for row in rows]

    def ask_replay(self, destination: str, ids: Sequence[int] | None) -> int:
        """Have letters sent again, those named or all there are now; return how many they are.

        Whoever tells the destination sends them page by page. The asking is durable, and of one size whatever
        their number.

        Raises:
            NotFound: one of those named is not there; none is sent.
            Invalid: more are named than `IDS_MAX`.
        """
        with self._database.transaction() as connection:
            if ids is None:
                connection.execute(
                    "UPDATE letters SET replay_through ="
                    " coalesce((SELECT max(id) FROM dead WHERE dead.destination = ?1), replay_through)"
                    " WHERE destination = ?1",
                    (destination,),
                )
                return self.of(destination).held
            wanted = self._named(destination, ids, "replaying")
            connection.executemany("UPDATE dead SET asked = 1 WHERE id = ?", [(id,) for id in wanted])
            return len(wanted)

    def discard(self, destination: str, ids: Sequence[int] | None) -> int:
        """Put letters away unsent, those named or all there are now; return how many.

        All of them go in several transactions; cut short, the rest stays.

        Raises:
            NotFound: one of those named is not there; none has gone.
            Invalid: more are named than `IDS_MAX`.
        """
        if ids is not None:
            with self._database.transaction() as connection:
                wanted = self._named(destination, ids, "discarding")
                connection.executemany("DELETE FROM dead WHERE id = ?", [(id,) for id in wanted])
                self.count(destination, "discarded", len(wanted))
            return len(wanted)
        last = self._database.row("SELECT max(id) FROM dead WHERE destination = ?", destination)
        through = 0 if last is None else last[0] or 0
        gone = 0
        while page := self._discard_some(destination, through):
            gone += page
        return gone

    def _discard_some(self, destination: str, through: int) -> int:
        with self._database.transaction() as connection:
            went = connection.execute(
                "DELETE FROM dead WHERE id IN"
                " (SELECT id FROM dead WHERE destination = ? AND id <= ? ORDER BY id LIMIT ?)",
                (destination, through, DISCARD_ROWS),
            ).rowcount
            if went:
                self.count(destination, "discarded", went)
        return went

    def expire(self, destination: str, before: int, most: int, *, now: int) -> int:
        """Put letters away that are from before a time, the oldest first, at most so many; return how many."""
        with self._database.transaction() as connection:
            went = connection.execute(
                "DELETE FROM dead WHERE at < ? AND id IN"
                " (SELECT id FROM dead WHERE destination = ? ORDER BY id LIMIT ?)",
                (before, destination, most),
            ).rowcount
            if went:
                self.count(destination, "expired", went)
                connection.execute(
                    "UPDATE letters SET expired_at = ? WHERE destination = ?", (now, destination)
                )
        return went

    def any_before(self, destination: str, before: int) -> bool:
        """Tell whether the oldest letter is from before a time."""
        row = self._database.row("SELECT at FROM dead WHERE destination = ? ORDER BY id LIMIT 1", destination)
        return row is not None and row[0] < before

    def waits_since(self, destination: str, at: int) -> None:
        """Note since when something waits for room, 0 where nothing does."""
        if self.of(destination).full_since != at:
            with self._database.transaction() as connection:
                connection.execute(
                    "UPDATE letters SET full_since = ? WHERE destination = ?", (at, destination)
                )

    def _named(self, destination: str, ids: Sequence[int], doing: str) -> list[int]:
        wanted = sorted(set(ids))
        if len(wanted) > IDS_MAX:
            raise Invalid(
                f"{doing} {len(wanted)} dead letters by id: at most {IDS_MAX} at once, or all of them"
            )
        known: set[int] = set()
        for start in range(0, len(wanted), _PARAMETERS_MAX):
            some = [id for id in wanted[start : start + _PARAMETERS_MAX] if -(1 << 63) <= id < 1 << 63]
            marks = ",".join("?" * len(some))
            statement = f"SELECT id FROM dead WHERE destination = ? AND id IN ({marks})"  # noqa: S608 - marks only
            known.update(id for (id,) in self._database.rows(statement, destination, *some))
        for id in wanted:
            if id not in known:
                raise NotFound(
                    f"{doing} dead letter {id}: destination {destination!r} has none of this id; nothing was changed"
                )
        return wanted

    # ---- within a transaction of the journal -----------------------------------------------------

    def take(
        self,
        destination: str,
        records: Sequence[Sent],
        *,
        reason: str,
        status: int,
        attempts: int,
        now: int,
        most: int,
    ) -> int:
        """Make letters of the first records, as far as there is room for them; return how many."""
        connection = self._database.connection
        connection.execute("INSERT OR IGNORE INTO letters (destination) VALUES (?)", (destination,))
        buried = records[: max(0, most - self.of(destination).held)]
        connection.executemany(
            "INSERT INTO dead (destination, idempotency_key, definition, profile_id, body, reason, status, attempts,"
            " at, subject, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    destination,
                    one.key,
                    one.definition,
                    one.profile_id,
                    one.body,
                    reason,
                    status,
                    attempts,
                    now,
                    one.subject,
                    one.state,
                )
                for one in buried
            ],
        )
        connection.execute(
            "UPDATE letters SET taken = taken + ? WHERE destination = ?", (len(buried), destination)
        )
        return len(buried)

    def next_asked(self, destination: str, most: int) -> list[tuple[int, Sent]]:
        """Return the next letters that are to be sent again, with their ids."""
        for condition in ("id <= (SELECT replay_through FROM letters WHERE destination = ?1)", "asked = 1"):
            cursor = self._database.connection.execute(
                "SELECT id, idempotency_key, definition, profile_id, body, subject, state FROM dead"  # noqa: S608 - one of two
                f" WHERE destination = ?1 AND {condition} ORDER BY id LIMIT ?2",
                (destination, most),
            )
            found: list[tuple[int, Sent]] = []
            size = 0
            for id, *told in cursor:
                letter = Sent(*told)
                size += len(letter.body)
                if found and size > PAGE_BYTES_MAX:
                    break
                found.append((id, _complete(letter)))
            if found:
                return found
        return []

    def remove(self, ids: Iterable[int]) -> None:
        """Have letters go; the caller counts them."""
        self._database.connection.executemany("DELETE FROM dead WHERE id = ?", [(id,) for id in ids])

    def count(self, destination: str, fate: Fate, number: int) -> None:
        """Count letters that have gone, for ever; there is room then."""
        if number:
            self._database.connection.execute(_COUNT[fate], (number, destination))

    def end_waiting(self, destination: str) -> None:
        """Note that nothing waits for room, if nothing waits at all: the receiver may have taken it after all."""
        self._database.connection.execute(
            "UPDATE letters SET full_since = 0 WHERE destination = ?1 AND full_since <> 0"
            " AND NOT EXISTS (SELECT 1 FROM batches WHERE batches.destination = ?1)",
            (destination,),
        )


def state_of(value: str | None) -> bytes:
    """Return what a record says that tells a value: a digest of it, nothing where there is none."""
    return b"" if value is None else blake2b(value.encode(), digest_size=_STATE_BYTES).digest()


def _complete(letter: Sent) -> Sent:
    """Return a letter with its subject and state; of an older program's they are read off what was sent."""
    subject = letter.subject
    if not subject:
        parsed = parse_public_id(letter.profile_id)
        subject = b"" if parsed is None else parsed[1]
    state = letter.state if letter.state is not None else _state_in(letter)
    return msgspec.structs.replace(letter, subject=subject, state=state)


class _Personas(msgspec.Struct, frozen=True):
    computation_class: str = ""


class _Context(msgspec.Struct, frozen=True):
    personas: _Personas = _Personas()


class _Body(msgspec.Struct, frozen=True):
    """Where a record has its value, and whether it is about an audience: those of webhooks, and calls."""

    kind: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    traits: dict[str, msgspec.Raw] = {}
    properties: dict[str, msgspec.Raw] = {}
    context: _Context = _Context()


def _state_in(letter: Sent) -> bytes | None:
    try:
        body = msgspec.json.decode(letter.body, type=_Body)
    except msgspec.DecodeError:
        return None
    told = body.value
    if told is msgspec.UNSET:
        values = body.properties or body.traits
        told = values.get(letter.definition, msgspec.UNSET)
    if told is msgspec.UNSET:
        return None
    text = bytes(told).decode()
    audience = body.kind.endswith("audience") or body.context.personas.computation_class == "audience"
    return state_of(None if text == ("false" if audience else "null") else text)
