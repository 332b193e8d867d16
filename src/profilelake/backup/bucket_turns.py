"""Whose turn it is to write to a place of backups that has no locks: a bucket.

Turns are numbered. Who wants one takes the next number by creating `claims/NUMBER.json`, which the store lets one of many do,
and renews it while it works. A backup is there once `backups/NUMBER.json` is, created in the same way by the one who has
that number. Who takes a turn from one that was not heard of for long first creates that object itself, empty: so a process that
was only asleep finds its number given up, and cannot add a backup any more.

So clocks decide how long somebody waits, and nothing else. What is safe follows from the numbers (`bucket_pool`).
"""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from profilelake.errors import Conflict, Corrupt, Unavailable
from profilelake.lake.storage import Storage, Stored

RENEW_SECONDS: Final = 60.0
"""How often a claim is renewed."""
SILENT_SECONDS: Final = 900
"""A claim that was not renewed for so long, by the clock of the store, is given up by the next who comes."""
EMPTY_SECONDS: Final = 7 * 86_400
"""How long a number that was given up, or whose backup was removed, is held against whoever had it."""
TRIES_MAX: Final = 5
_CLAIMS: Final = "claims"
_BACKUPS: Final = "backups"
_DIGITS: Final = 8

_log = logging.getLogger(__name__)


class Claim(msgspec.Struct, frozen=True):
    """Who has a turn: `installation` is a name that a data directory made up for itself."""

    installation: str
    host: str
    process: int
    directory: str
    begun_at: str
    ended: bool = False


@dataclass(slots=True)
class Turn:
    """A number that one backup has."""

    turns: "Turns"
    number: int
    claim: Claim
    last: int
    """The number of the last backup that is there; 0 where there is none."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _renewing: threading.Thread | None = None

    def begin(self) -> None:
        """Renew the claim until the end."""
        self._renewing = threading.Thread(target=self._renew, name="backup-claim", daemon=True)
        self._renewing.start()

    def finish(self, content: bytes) -> None:
        """Make the backup of this turn exist, described by this content.

        Raises:
            Conflict: the turn was given to another; nothing was added.
        """
        if not self.turns.storage.create(self.turns.finished_location(self.number), content):
            raise self._lost()

    def refuse_lost(self) -> None:
        """Raise Conflict where the turn was given to another."""
        if self.turns.storage.size(self.turns.finished_location(self.number)) is not None:
            raise self._lost()

    def end(self) -> None:
        """Let the next one begin at once."""
        self._stop.set()
        if self._renewing is not None:
            self._renewing.join()
        try:
            self._write(msgspec.structs.replace(self.claim, ended=True))
        except (Unavailable, OSError) as error:
            _log.warning(
                "%s; another directory's next backup waits for %d minutes", error, SILENT_SECONDS // 60
            )

    def _lost(self) -> Conflict:
        return Conflict(
            f"backing up to {self.turns.storage.root}: nothing was heard of this backup for {SILENT_SECONDS // 60} minutes, "
            "and another was begun; run the same again, what is there is used"
        )

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                self._write(self.claim)
            except (Unavailable, OSError) as error:
                # Who is given up for it is told at the end, and nothing is lost.
                _log.warning("%s; it is renewed again in %d s", error, RENEW_SECONDS)

    def _write(self, claim: Claim) -> None:
        self.turns.storage.write(self.turns.claim_location(self.number), msgspec.json.encode(claim))


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of one place."""

    storage: Storage

    def finished(self) -> list[int]:
        """Return the numbers of all backups that are there, oldest first."""
        return sorted(number for number, stored in self._numbers(_BACKUPS) if stored.bytes)

    def describes(self, number: int) -> bytes:
        """Return what `finish` was given. Raises FileNotFoundError where there is no such backup."""
        return self.storage.read(self.finished_location(number))

    def remove(self, number: int) -> None:
        """Make a backup exist no more. Its number is never given again."""
        # Whoever added it may still be trying to, after a lost answer: it must not come back.
        self.storage.write(self.finished_location(number), b"")

    def take(self, claim: Claim) -> Turn:
        """Take the next number.

        Raises:
            Conflict: another backup is being made.
        """
        for _ in range(TRIES_MAX):
            claims, finished = dict(self._numbers(_CLAIMS)), dict(self._numbers(_BACKUPS))
            highest = max([*claims, *finished, 0])
            if highest in claims:
                self._refuse_busy(highest, claim)
            if (
                highest
                and highest not in finished
                and not self.storage.create(self.finished_location(highest), b"")
            ):
                continue  # it has just ended after all
            if self.storage.create(self.claim_location(highest + 1), msgspec.json.encode(claim)):
                last = max(self.finished(), default=0)
                return Turn(self, highest + 1, claim, last)
        raise Conflict(f"backing up to {self.storage.root}: others begin there all the time; retry later")

    def tidy(self, turn: Turn) -> None:
        """Remove claims of turns before this one, and numbers that were given up long ago."""
        claims, finished = dict(self._numbers(_CLAIMS)), dict(self._numbers(_BACKUPS))
        going = [stored.location for number, stored in claims.items() if number < turn.number]
        if turn.number in claims:
            now = claims[turn.number].modified_at
            going += [
                stored.location
                for number, stored in finished.items()
                if not stored.bytes and number < turn.number and now - stored.modified_at > EMPTY_SECONDS
            ]
        self.storage.remove(going)

    def claim_location(self, number: int) -> str:
        """Return where it is said who has a number."""
        return f"{self.storage.root}/{_CLAIMS}/{spelt(number)}.json"

    def finished_location(self, number: int) -> str:
        """Return where the backup of a number becomes one."""
        return f"{self.storage.root}/{_BACKUPS}/{spelt(number)}.json"

    def _numbers(self, folder: str) -> Iterator[tuple[int, Stored]]:
        for stored in self.storage.list(f"{self.storage.root}/{folder}"):
            name = stored.location.rpartition("/")[2].removesuffix(".json")
            if name.isdecimal():
                yield int(name), stored

    def _refuse_busy(self, number: int, ours: Claim) -> None:
        """Raise Conflict where the one who has a number is, or may be, still at work."""
        try:
            found = msgspec.json.decode(self.storage.read(self.claim_location(number)), type=Claim)
        except FileNotFoundError:
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(
                f"reading {self.claim_location(number)}: {error}; remove it where no backup is being made"
            ) from error
        # Our directory has a lock of its own, which we hold: one that it began and did not end is dead.
        if found.ended or found.installation == ours.installation:
            return
        silent = self._silent_seconds(number)
        if silent < SILENT_SECONDS:
            raise Conflict(
                f"backing up to {self.storage.root}: another backup is being made, of {found.directory} by process "
                f"{found.process} on {found.host}, begun at {found.begun_at}; wait for it. If it was killed, run the same again "
                f"{SILENT_SECONDS // 60} minutes after that"
            )

    def _silent_seconds(self, number: int) -> int:
        """Return for how long a claim was not renewed, by the clock of the store."""
        probe = f"{self.storage.root}/{_CLAIMS}/now-{uuid.uuid4().hex}"
        self.storage.write(probe, b"")
        try:
            seen = {
                stored.location.rpartition("/")[2]: stored.modified_at
                for stored in self.storage.list(f"{self.storage.root}/{_CLAIMS}")
            }
        finally:
            self.storage.remove([probe])
        claimed, now = seen.get(f"{spelt(number)}.json"), seen.get(probe.rpartition("/")[2])
        return 0 if claimed is None or now is None else now - claimed


def claim_of(installation: str, directory: str, begun_at: str) -> Claim:
    """Return what this process says of itself."""
    return Claim(installation, socket.gethostname(), os.getpid(), directory, begun_at)


def spelt(number: int) -> str:
    """Return a number as names of objects have it, so that they are in its order."""
    return f"{number:0{_DIGITS}d}"
