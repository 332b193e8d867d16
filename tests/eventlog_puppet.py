"""What the tests of the event log share: entries, reading to the end, and a writer led by hand."""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from profilelake.eventlog import Damage, Entry, Flags, Kind, LogEnd, Record, Vector
from profilelake.eventlog._files import Files
from profilelake.eventlog._format import Footer, Header, Identity, encode_entry, encode_record
from profilelake.eventlog._recovery import LOCK_NAME
from profilelake.eventlog._segments import segment_path
from profilelake.eventlog._watermark import Mark, Watermark
from profilelake.eventlog.embedded import Limits, LogReader, LogWriter


def wall_clock() -> int:
    return time.time_ns() // 1000


def entry(body: bytes, *, events: int = 1, workspace: str = "default", sent_at: str = "") -> Entry:
    return Entry(workspace, "src_web", Kind.TRACK, Flags.NONE, events, 1, "203.0.113.7", sent_at, body)


def make_reader(root: Path) -> LogReader:
    """Return a reader that never sleeps."""
    return LogReader(root, clock=wall_clock, sleep=lambda _: None)


def read_all(
    root: Path, start: Vector | None = None, *, bytes_max: int = 1 << 20, events_max: int = 1 << 30
) -> tuple[list[Record], dict[str, LogEnd], list[Damage]]:
    """Read every finished log under `root` to its end, in slices of the given size."""
    reader = make_reader(root)
    records: list[Record] = []
    damage: list[Damage] = []
    ends = dict(start or {})
    try:
        while True:
            part = reader.read(ends, bytes_max=bytes_max, events_max=events_max, wait_max_seconds=0)
            records += part.records
            damage += part.damage
            ends = part.ends
            if not part.records and not part.damage:
                return records, ends, damage
    finally:
        reader.close()


def position(record: Record) -> tuple[int, str, str, int]:
    return record.received_at, record.region, record.log_id, record.offset


def write_log(
    root: Path, entries: Iterable[Entry], *, limits: Limits | None = None, files: Files | None = None
) -> str:
    """Write one finished log, an entry per group, and return its id."""

    async def run() -> str:
        writer = LogWriter(root, region="eu", clock=wall_clock, limits=limits, files=files)
        try:
            for item in entries:
                await writer.append(item)
        finally:
            writer.close()
        return writer.log_id

    return asyncio.run(run())


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once `true()` is; fail after `seconds`."""
    give_up_at = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.002)


class Puppet:
    """A log whose writer lives as long as this object, and publishes only what it is told to."""

    def __init__(self, root: Path, log_id: str, region: str = "eu") -> None:
        self.directory = root / log_id
        self.directory.mkdir(parents=True)
        self.identity = Identity(log_id, bytes(reversed(bytes.fromhex(log_id))), region)
        self.end = LogEnd(0, 0)
        self.base = 0
        self.segments = 0
        self.watermark = 0
        self._lock = os.open(self.directory / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._marks = Watermark.create(self.directory, self.identity, 0, Files())
        self.roll()
        self.publish(0)

    @property
    def path(self) -> Path:
        return segment_path(self.directory, self.base)

    def roll(self) -> None:
        self.base = self.end.offset
        self.path.write_bytes(Header(self.identity, self.base, self.end.events, 0).encode())
        self.segments += 1

    def add(self, received_at: int, body: bytes, events: int = 1) -> None:
        item = entry(body, events=events)
        front = encode_record(encode_entry(item), body, self.identity.marker, received_at, self.end.events)
        with self.path.open("ab") as file:
            file.write(front + body)
        self.end = LogEnd(self.end.offset + len(front) + len(body), self.end.events + events)

    def publish(self, watermark: int) -> None:
        self.watermark = watermark
        self._marks.publish(Mark(self.end, watermark, self.segments, closed=False))

    def seal(self, *, closed: bool) -> None:
        footer = Footer(self.base, self.end, self.watermark, self.watermark, closed)
        with self.path.open("ab") as file:
            file.write(footer.encode(self.identity))

    def finish(self) -> None:
        self.seal(closed=True)
        self._marks.publish(Mark(self.end, self.watermark, self.segments, closed=True))
        self.die()

    def die(self) -> None:
        """Let go of the lock, as a killed process does."""
        os.close(self._lock)
        self._marks.close()
