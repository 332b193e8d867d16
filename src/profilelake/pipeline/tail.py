"""Watching what becomes of events: everything from the promise on, or the exact number that was missed.

`Watch` holds the lease that makes the pipeline record outcomes, `Reader` goes through them.
`outcomes` is the recording side.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Internal, Invalid, Unavailable
from profilelake.pipeline.outcomes import AFTER, LEASES, OUTCOMES, PRIVATE_FILE, SHOWN, STATUSES
from profilelake.semantics.events import EVENT_TYPES
from profilelake.semantics.times import format_time

PRIVATE_DIRECTORY: Final = 0o700
PROMISE_SECONDS_MAX: Final = 10.0
"""How long the pipeline may take to see a watcher; a large micro-batch is finished first."""
LOOK_SECONDS: Final = 0.02
GAP_SECONDS: Final = 0.5
"""How often it is looked for a gap where the next batch is not there."""
LEASE_ATTEMPTS_MAX: Final = 100


class Watch:
    """A lease: as long as this process lives and does not close it, outcomes are recorded and kept.

    It is a lock, so a process that is stopped keeps it and one that is killed does not.
    """

    def __init__(self, directory: Path) -> None:
        """Take a lease on the outcomes in `directory` (`Layout.tail`)."""
        leases = directory / LEASES
        leases.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        directory.chmod(PRIVATE_DIRECTORY)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(LEASE_ATTEMPTS_MAX):
            self._path = leases / secrets.token_hex(8)
            self._descriptor = os.open(self._path, flags, PRIVATE_FILE)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            # The pipeline may have taken it for a dead one before it was locked.
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)
        raise Internal(f"watching {directory}: every lease was removed at once")

    def promised(self) -> int | None:
        """Return the count of events from which on everything is recorded; None until it is known."""
        text = os.pread(self._descriptor, 20, 0)
        return int(text) if text else None

    def wait(self, seconds_max: float = PROMISE_SECONDS_MAX) -> int:
        """Wait for the promise.

        Raises:
            Unavailable: the pipeline does not answer: the server is starting, busy, or not there.
        """
        give_up_at = time.monotonic() + seconds_max
        while (promised := self.promised()) is None:
            if time.monotonic() > give_up_at:
                raise Unavailable(
                    f"watching events: the pipeline did not answer in {seconds_max:.0f} s; "
                    "see whether the server runs, then try again"
                )
            time.sleep(LOOK_SECONDS)
        return promised

    def close(self) -> None:
        """Let go; with the last lease all recorded outcomes are removed."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Place:
    """How far a watcher has come: `rows` into the batch that begins after `count` events."""

    count: int
    rows: int = 0

    def encode(self) -> str:
        """Return the place as a cursor."""
        return f"{self.count}.{self.rows}"

    @classmethod
    def decode(cls, cursor: str) -> Self:
        """Read a cursor. Raises Invalid."""
        count, _, rows = cursor.partition(".")
        if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (count, rows)):
            raise Invalid(
                f"cursor={cursor[:40]!r}: not one of ours; leave it out to begin with what comes next"
            )
        return cls(int(count), int(rows))


@dataclass(frozen=True, slots=True)
class Seen:
    """A stretch of events: first `missed` that are gone, then `rows` (`OUTCOMES`), then `suppressed`."""

    missed: int
    rows: pa.Table
    suppressed: int


class Reader:
    """Goes through recorded outcomes. `place` is where it goes on."""

    def __init__(
        self, directory: Path, place: Place, *, steady_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self.place = place
        self._directory = directory
        self._steady = steady_seconds
        self._listed_at = float("-inf")

    def next(self, rows_max: int) -> Seen | None:
        """Return what follows, at most `rows_max` rows of it; None while there is nothing."""
        seen = self._read(rows_max)
        if seen is not None or self._steady() - self._listed_at < GAP_SECONDS:
            return seen
        self._listed_at = self._steady()
        later = self._later()
        # Batches are shown in their order: if a later one is there, ours is there by now, or never.
        seen = self._read(rows_max)
        if seen is not None or later is None:
            return seen
        missed = later - self.place.count - self.place.rows
        self.place = Place(later)
        return Seen(missed, OUTCOMES.empty_table(), 0)

    def _read(self, rows_max: int) -> Seen | None:
        count, start = self.place.count, self.place.rows
        try:
            with pa.ipc.open_file(self._directory / f"{count:020d}{SHOWN}") as file:
                # A batch has an event at least, or nobody would ever get past it.
                after = max(int(file.schema.metadata[AFTER]), count + 1)
                rows = file.read_all()
        except FileNotFoundError:
            return None
        if start + rows_max < rows.num_rows:
            self.place = Place(count, start + rows_max)
            return Seen(0, rows.slice(start, rows_max), 0)
        self.place = Place(after)
        return Seen(0, rows.slice(start), after - count - rows.num_rows)

    def _later(self) -> int | None:
        found = [int(path.stem) for path in self._directory.glob(f"*{SHOWN}")]
        return min((count for count in found if count > self.place.count), default=None)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are shown: of each column one of the values, where there are any."""

    values: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, **values: Iterable[str]) -> Self:
        """Return a filter on columns of `OUTCOMES`. Raises Invalid for a status or type there is not."""
        chosen = {name: tuple(found) for name, found in values.items() if found}
        for name, known in (("status", STATUSES), ("type", EVENT_TYPES)):
            for value in chosen.get(name, ()):
                if value not in known:
                    raise Invalid(f"{name} {value[:40]!r}: it is one of {', '.join(known)}")
        return cls(chosen)

    def rows(self, rows: pa.Table) -> pa.Table:
        """Return the rows that are shown."""
        for name, values in self.values.items():
            rows = rows.filter(pc.is_in(rows.column(name), pa.array(values, pa.string())))
        return rows


def documents(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as JSON has them: the position in hex, the time to the microsecond, no nulls."""
    times = rows.column("received_at").cast("int64").to_pylist()
    listed = rows.to_pylist()
    for row, micros in zip(listed, times, strict=True):
        row["position"] = row["position"].hex()
        row["received_at"] = format_time(micros)
    return [{name: value for name, value in row.items() if value is not None} for row in listed]
