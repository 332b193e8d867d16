"""Reading the segments of one log as one stretch of bytes: records, and damage by name.

Nothing here changes a file. Where two segments overlap, the newer one is right: an older one can
hold bytes of a group that was refused and could not be cut off.
"""

import errno
import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from profilelake.errors import Corrupt
from profilelake.eventlog import Damage, LogEnd, Record
from profilelake.eventlog._files import Files
from profilelake.eventlog._format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    MARKER_AT,
    Footer,
    Header,
    Identity,
    decode_footer,
    decode_header,
    parse_records,
)
from profilelake.eventlog._watermark import NAME as WATERMARK
from profilelake.eventlog._watermark import Watermark

SUFFIX: Final = ".seg"
SEARCH_BYTES: Final = 1024 * 1024
"""How much is read at a time when searching for the record after a damaged one."""

READ_TRIES: Final = 3
READ_AGAIN_SECONDS: Final = 0.1
"""A page is given up after so many errors: disks have passing faults, and damage is for ever."""

_PAGE_BYTES: Final = 4096
_LOG_NAME: Final = re.compile(r"[0-9a-f]{16}\Z")
_SEGMENT_NAME: Final = re.compile(r"[0-9]{20}\.seg\Z")


def log_directories(root: Path) -> list[Path]:
    """Return the directories of all logs under `root`, in the order of their ids."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if _LOG_NAME.match(entry.name)]
    except FileNotFoundError:
        return []
    return [root / name for name in sorted(names)]


def segment_path(directory: Path, base: int) -> Path:
    return directory / f"{base:020}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment file: the offset of its first record, and its header unless that is damaged."""

    path: Path
    base: int
    header: Header | None
    bytes: int

    @property
    def end_of_file(self) -> int:
        """The offset one past the last byte of the file, were it all records."""
        return self.base + max(0, self.bytes - HEADER_BYTES)


@dataclass(slots=True)
class Loaded:
    """Records from one place to another, and what could not be read between them."""

    records: list[Record]
    end: LogEnd
    damage: list[Damage] = field(default_factory=list)


class Segments:
    """All segments of one log.

    Raises:
        Corrupt: no file of the log says whose it is, or a segment is of an unknown format version.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.closed = False
        """Set when the log has ended: then its last segment must have a footer, too."""
        self._list: list[Segment] = []
        self._bases: list[int] = []
        self._descriptor = -1
        self._open_path: Path | None = None
        self._footers_seen: set[int] = set()
        self._headers_told: set[int] = set()
        self.refresh()
        self.identity: Final = self._identify()

    def refresh(self) -> None:
        """List the segments again."""
        self.close()
        known = {segment.path: segment for segment in self._list[:-1] if segment.header}
        paths = sorted(path for path in self.directory.iterdir() if _SEGMENT_NAME.match(path.name))
        self._list = [known.get(path) or _open_segment(path) for path in paths]
        self._bases = [segment.base for segment in self._list]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._open_path = -1, None

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._list)

    @property
    def first(self) -> LogEnd | None:
        """Where the oldest segment starts, if there is one and its header is whole."""
        if not self._list or self._list[0].header is None:
            return None
        return LogEnd(self._list[0].base, self._list[0].header.events_before)

    @property
    def last(self) -> Segment | None:
        return self._list[-1] if self._list else None

    def footer(self, segment: Segment) -> Footer | None:
        """Return the footer of a segment, or None when it has none that is whole and in its place."""
        if segment.bytes < HEADER_BYTES + FOOTER_BYTES:
            return None
        data = self._read_file(segment.path, segment.bytes - FOOTER_BYTES, FOOTER_BYTES)
        footer = decode_footer(data, self.identity)
        if footer is None or footer.base != segment.base:
            return None
        return footer if footer.end.offset == segment.end_of_file - FOOTER_BYTES else None

    def load(self, at: LogEnd, until: LogEnd, bytes_max: int) -> Loaded:
        """Return the records from `at` on, no further than `until` and the end of the segment.

        At most `bytes_max` bytes of records come back, but always at least one record or one
        stretch of damage, so calling again from `Loaded.end` arrives at `until`.
        """
        index = bisect_right(self._bases, at.offset) - 1
        if index < 0:
            return self._missing(at, until)
        if index + 1 == len(self._list) and until.offset > self._list[index].end_of_file:
            # The last segment of a living log has grown since it was listed.
            self._list[index] = _open_segment(self._list[index].path)
        segment = self._list[index]
        end = self._end_of(index, until)
        loaded = Loaded([], at)
        self._tell_header(segment, loaded)
        if at.offset < end.offset:
            self._parse(segment, at, end, max(bytes_max, _PAGE_BYTES), loaded)
        if loaded.end.offset == end.offset and (self.closed or index + 1 < len(self._list)):
            self._tell_footer(segment, end.offset, loaded)
        return loaded

    def _parse(self, segment: Segment, at: LogEnd, end: LogEnd, size: int, loaded: Loaded) -> None:
        left = max(0, min(end.offset, segment.end_of_file) - at.offset)
        parsed = parse_records(self._read(segment, at.offset, min(size, left)), at.offset, self.identity)
        if not parsed.records and size < parsed.wanted <= left:
            parsed = parse_records(self._read(segment, at.offset, parsed.wanted), at.offset, self.identity)
        if parsed.records:
            last = parsed.records[-1]
            loaded.records = parsed.records
            loaded.end = LogEnd(last.next_offset, last.events_before + last.events)
            return
        # No record starts here, so everything up to the next whole one is damage.
        following = self._resume(segment, at, end)
        path, detail = segment.path, "bytes are no record" if left else "segment file ends too early"
        footer = self.footer(segment)
        if footer is not None and footer.end.offset <= at.offset:
            path, detail = self.directory, "segment file is missing"
        loaded.damage.append(
            Damage(str(path), at.offset, following.offset, following.events - at.events, detail)
        )
        loaded.end = following

    def _resume(self, segment: Segment, at: LogEnd, end: LogEnd) -> LogEnd:
        """Return where the next whole record after `at` starts, or `end`."""
        stop = min(end.offset, segment.end_of_file)
        search = at.offset + 1 + MARKER_AT
        while search < stop:
            window = self._read(segment, search, min(SEARCH_BYTES, stop - search))
            found = window.find(self.identity.marker)
            while found >= 0:
                candidate = search + found - MARKER_AT
                record = self._record_at(segment, candidate, stop)
                if record is not None:
                    return LogEnd(candidate, max(record.events_before, at.events))
                found = window.find(self.identity.marker, found + 1)
            search += max(1, len(window) - len(self.identity.marker) + 1)
        return LogEnd(end.offset, max(end.events, at.events))

    def _record_at(self, segment: Segment, offset: int, stop: int) -> Record | None:
        data = self._read(segment, offset, min(_PAGE_BYTES, stop - offset))
        parsed = parse_records(data, offset, self.identity)
        if parsed.wanted and parsed.wanted <= stop - offset:
            parsed = parse_records(self._read(segment, offset, parsed.wanted), offset, self.identity)
        return parsed.records[0] if parsed.records else None

    def _end_of(self, index: int, until: LogEnd) -> LogEnd:
        """Return where segment `index` ends for a reader that goes to `until`."""
        if index + 1 == len(self._list) or self._list[index + 1].base >= until.offset:
            return until
        following = self._list[index + 1]
        # With two neighbouring faults the events lost between them show in the next record's
        # count only, and are not named in the damage.
        return LogEnd(following.base, following.header.events_before if following.header else 0)

    def _missing(self, at: LogEnd, until: LogEnd) -> Loaded:
        """Report that the bytes before the first segment are gone."""
        end = until
        if self._list and self._list[0].base < until.offset:
            header = self._list[0].header
            end = LogEnd(self._list[0].base, header.events_before if header else at.events)
        end = LogEnd(end.offset, max(end.events, at.events))
        detail = "segment file is missing"
        damage = Damage(str(self.directory), at.offset, end.offset, end.events - at.events, detail)
        return Loaded([], end, [damage])

    def _tell_header(self, segment: Segment, loaded: Loaded) -> None:
        if segment.header is None and segment.base not in self._headers_told:
            self._headers_told.add(segment.base)
            place = segment.base
            loaded.damage.append(Damage(str(segment.path), place, place, 0, "segment header is damaged"))

    def _tell_footer(self, segment: Segment, end: int, loaded: Loaded) -> None:
        if segment.base in self._footers_seen:
            return
        self._footers_seen.add(segment.base)
        # Another length means that the writer gave the segment up, which leaves no footer.
        if segment.bytes == HEADER_BYTES + (end - segment.base) + FOOTER_BYTES and not self.footer(segment):
            loaded.damage.append(Damage(str(segment.path), end, end, 0, "segment footer is damaged"))

    def _identify(self) -> Identity:
        for segment in self._list:
            if segment.header:
                return segment.header.identity
        try:
            watermark = Watermark.open(self.directory, Files())
        except OSError:
            watermark = None
        if watermark is not None:
            identity = watermark.identity()
            watermark.close()
            if identity is not None:
                return identity
        raise Corrupt(
            f"log {self.directory} cannot be read: no segment header and no {WATERMARK} file is whole; "
            "restore one of them from a backup, or move the directory away to go on without its events"
        )

    def _read(self, segment: Segment, offset: int, size: int) -> bytes:
        return self._read_file(segment.path, HEADER_BYTES + offset - segment.base, size)

    def _read_file(self, path: Path, place: int, size: int) -> bytes:
        if path != self._open_path:
            self.close()
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._open_path = path
        try:
            return os.pread(self._descriptor, size, place)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return self._read_around(place, size)

    def _read_around(self, place: int, size: int) -> bytes:
        """Read page by page, with zeros for pages that the disk does not give: they become damage."""
        data = bytearray(size)
        for start in range(0, size, _PAGE_BYTES):
            part = self._read_page(place + start, min(_PAGE_BYTES, size - start))
            data[start : start + len(part)] = part
        return bytes(data)

    def _read_page(self, place: int, size: int) -> bytes:
        for attempt in range(READ_TRIES):
            try:
                return os.pread(self._descriptor, size, place)
            except OSError as error:
                # Anything else says nothing of these bytes, so it must not make damage of them.
                if error.errno != errno.EIO:
                    raise
                if attempt + 1 < READ_TRIES:
                    time.sleep(READ_AGAIN_SECONDS)
        return b""


def _open_segment(path: Path) -> Segment:
    with path.open("rb") as file:
        header = decode_header(file.read(HEADER_BYTES), str(path))
        size = os.fstat(file.fileno()).st_size
    base = int(path.stem)
    if header is not None and (header.base != base or header.identity.log_id != path.parent.name):
        header = None
    return Segment(path, base, header, size)
