"""How far the pipeline has come, as kept in the state."""

from collections.abc import Mapping
from typing import Final

import msgspec

from profilelake.eventlog import LogEnd
from profilelake.lake.progress import Progress
from profilelake.state.store import Tx

PROGRESS: Final = "progress"
PUBLISHED: Final = "published"

TOTALS: Final = ("in_lake", "duplicates", "failed", "suppressed", "erased", "expired")
"""Where an accepted event can end; their sum is what the vector says was read."""


class Applied(msgspec.Struct):
    """What the state contains.

    `vector` is, per log, the next offset and the events so far. `position` is the greatest one
    applied: what comes below it later is late. `watermark` is in microseconds.
    """

    epoch: str
    sequence: int = 0
    vector: dict[str, tuple[int, int]] = {}
    totals: dict[str, int] = {}
    position: bytes = b""
    watermark: int = 0

    def ends(self) -> dict[str, LogEnd]:
        """Return the vector as the log understands it."""
        return {log: LogEnd(offset, events) for log, (offset, events) in self.vector.items()}

    def as_progress(self) -> Progress:
        """Return what the snapshots of the lake say."""
        return Progress(self.epoch, self.sequence, dict(self.vector), dict(self.totals))


class Published(msgspec.Struct):
    """What the lake contains, as read back from its snapshots.

    `sequence`, `vector`, `totals` and `at` are of all tables; `facts_…` of events and what hangs on them,
    which may be further on. `activity_through` is the micro-batch up to which counts and last-seen times of profiles are shown.
    `profiles_seconds` is what the last publication of `profiles` took.
    """

    sequence: int = 0
    vector: dict[str, tuple[int, int]] = {}
    totals: dict[str, int] = {}
    activity_through: int = 0
    activity_at: int = 0
    profiles_at: int = 0
    profiles_seconds: float = 0.0
    at: int = 0
    merged_at: int = 0
    traits_told_at: int = 0
    """`uuid_ts` of the newest rows of the journal of traits."""
    facts_sequence: int = 0
    facts_vector: dict[str, tuple[int, int]] = {}
    facts_totals: dict[str, int] = {}
    facts_at: int = 0
    failed_expired: int = 0
    """Of the failed events in `totals`, those that have left their table again because their time was over."""


def load_applied(tx: Tx, workspace: str, epoch: str) -> Applied:
    """Return how far the state has come; a new state begins in `epoch`."""
    value = tx.meta(workspace, PROGRESS)
    return Applied(epoch) if value is None else msgspec.msgpack.decode(value, type=Applied)


def load_published(tx: Tx, workspace: str) -> Published:
    """Return how far the lake has come."""
    value = tx.meta(workspace, PUBLISHED)
    if value is None:
        return Published()
    published = msgspec.msgpack.decode(value, type=Published)
    if published.facts_sequence < published.sequence:
        # Of a program that published all tables as one.
        published.facts_sequence, published.facts_at = published.sequence, published.at
        published.facts_vector, published.facts_totals = published.vector, published.totals
    return published


def events_in(vector: Mapping[str, tuple[int, int]]) -> int:
    """Return how many accepted events lie before a vector."""
    return sum(events for _, events in vector.values())
