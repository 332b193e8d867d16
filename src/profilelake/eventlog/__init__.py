"""The durable hand-over between accepting and processing: one interface, several logs.

`Entry` goes in, `Record` comes out, in position order. The embedded log lives in `embedded.py`.
What a body means is none of the log's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias


class Kind(IntEnum):
    """What the body is: a batch envelope, or one message whose type the path named."""

    BATCH = 0
    IDENTIFY = 1
    TRACK = 2
    PAGE = 3
    SCREEN = 4
    GROUP = 5
    ALIAS = 6
    LINES = 7
    """Messages, one per line, each with its type: what an import writes. In place of an address, `ip` holds
    a name for these lines."""
    FACT = 8
    """One decision about the workspace, such as an unlink: no event, and read by the pipeline only."""


class Flags(IntFlag):
    """How the body must be read."""

    NONE = 0
    GZIP = 1
    """The body is gzip, stored as it came."""
    TOLERANT = 2
    """Only the tolerant parser takes the body (NaN, lone surrogates, byte order mark)."""
    BROWSER = 4
    """The request had an `Origin` header: `context.ip` is filled from `ip`."""
    ZSTD = 8
    """The body is one zstd frame."""
    SUPPRESSED = 16
    """Collect has put `null` in the place of events of suppressed people; each counts as suppressed."""


class Entry(NamedTuple):
    """What collect hands to the log: one request body and what only the request knew."""

    workspace: str
    source_id: str
    kind: Kind
    flags: Flags
    events: int
    extraction_version: int
    ip: str
    sent_at: str
    body: bytes


class Record(NamedTuple):
    """One durable entry with its place. `events_before` counts the events of this log before it.

    A named tuple, because one is made per request: it costs a seventh of a frozen dataclass.
    """

    received_at: int
    region: str
    log_id: str
    offset: int
    next_offset: int
    events_before: int
    workspace: str
    source_id: str
    kind: Kind
    flags: Flags
    events: int
    extraction_version: int
    ip: str
    sent_at: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far one log goes: next byte offset and events so far."""

    offset: int
    events: int


Vector: TypeAlias = Mapping[str, LogEnd]
"""How far each log was consumed, by log id."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a log that could not be read: quarantined by name, never skipped in silence."""

    path: str
    offset: int
    next_offset: int
    events: int
    detail: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Records in position order up to `watermark`, and the vector that stands behind them.

    `behind` names logs whose writer is alive but did not reach the watermark in time; what they
    bring later is late. `damage` lists quarantined stretches, already counted in `ends`.
    """

    records: list[Record]
    ends: dict[str, LogEnd]
    watermark: int
    behind: tuple[str, ...]
    damage: tuple[Damage, ...]
