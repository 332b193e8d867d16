"""The small file through which a writer tells all processes how far its log is durable.

It is one page that lives in the system's cache and is never synced: after a power cut it may be old,
or nonsense, and then the segments say how far the log goes. It is written and read by calls and not
mapped into memory, where a disk that fails would be a signal that ends the process, not an error.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from profilelake.eventlog import LogEnd
from profilelake.eventlog._files import Files, write_all
from profilelake.eventlog._format import HEADER_BYTES, Header, Identity, crc32, decode_header

NAME: Final = "watermark"
FILE_BYTES: Final = 4096
UNFINISHED_SUFFIX: Final = ".tmp"

_MARK: Final = struct.Struct("<QQQqQII")
_PLACES: Final = (1024, 2048)
_TRIES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """What one writer has published: everything before `end` is durable, and nothing that it
    stamps later will be at or before `watermark`.

    `segments` counts the segments it has made, so a reader knows when to list them again. `closed`
    says that the log is finished and sealed.
    """

    end: LogEnd
    watermark: int
    segments: int
    closed: bool
    sequence: int = 0


class Watermark:
    """The watermark file of one log, held open: one process publishes, any number read.

    The two marks in the file are written in turn, each with its own checksum, so a reader always
    finds a whole one, however badly it is timed.
    """

    def __init__(self, descriptor: int, files: Files) -> None:
        self._descriptor = descriptor
        self._files = files
        last = self.read()
        self._sequence = last.sequence if last else 0

    @classmethod
    def create(cls, directory: Path, identity: Identity, created_at: int, files: Files) -> Self:
        """Make the file. Its page is really written: a hole could not be filled on a full disk."""
        header = Header(identity, 0, 0, created_at).encode()
        unfinished = directory / f"{NAME}{UNFINISHED_SUFFIX}"
        descriptor = files.create(unfinished)
        try:
            write_all(files, descriptor, [header.ljust(FILE_BYTES, b"\0")])
            files.fdatasync(descriptor)
        finally:
            files.close(descriptor)
        # Renamed, so that whoever has the old one open keeps it whole.
        files.rename(unfinished, directory / NAME)
        return cls.open(directory, files)

    @classmethod
    def open(cls, directory: Path, files: Files) -> Self:
        """Open the file of a log; raises OSError when it is missing or too short."""
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size < FILE_BYTES:
                raise OSError(f"watermark file of {directory} is shorter than {FILE_BYTES} bytes")
            return cls(descriptor, files)
        except BaseException:
            os.close(descriptor)
            raise

    def identity(self) -> Identity | None:
        header = decode_header(os.pread(self._descriptor, HEADER_BYTES, 0), NAME)
        return header.identity if header else None

    def publish(self, mark: Mark) -> None:
        """Show `mark` to all readers at once; raises OSError when the disk does not take it."""
        self._sequence += 1
        data = _MARK.pack(
            self._sequence, mark.end.offset, mark.end.events, mark.watermark, mark.segments, mark.closed, 0
        )[:-4]
        place = _PLACES[self._sequence % 2]
        self._files.write_at(self._descriptor, data + crc32(data).to_bytes(4, "little"), place)

    def read(self) -> Mark | None:
        """Return the newest mark, or None when the file holds no whole one."""
        for _ in range(_TRIES_MAX):
            try:
                mark = _newest(os.pread(self._descriptor, FILE_BYTES, 0))
            except OSError:
                return None
            if mark is not None:
                return mark
        return None

    def close(self) -> None:
        os.close(self._descriptor)


def read_mark(directory: Path) -> Mark | None:
    """Return what the log in `directory` has published, or None when that cannot be read."""
    for _ in range(_TRIES_MAX):
        try:
            mark = _newest((directory / NAME).read_bytes())
        except OSError:
            return None
        if mark is not None:
            return mark
    return None


def _newest(data: bytes) -> Mark | None:
    newest: Mark | None = None
    for place in _PLACES:
        slot = data[place : place + _MARK.size]
        if len(slot) < _MARK.size or crc32(slot[:-4]) != int.from_bytes(slot[-4:], "little"):
            continue
        sequence, offset, events, watermark, segments, closed, _ = _MARK.unpack(slot)
        if sequence > (newest.sequence if newest else 0):
            newest = Mark(LogEnd(offset, events), watermark, segments, closed == 1, sequence)
    return newest
