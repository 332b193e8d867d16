"""What is done for a log whose writer is gone: find its true end, cut what is torn, seal it.

Also the lock that tells whether a writer lives.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

from profilelake.errors import Corrupt
from profilelake.eventlog import Damage, LogEnd
from profilelake.eventlog._files import Files, write_all
from profilelake.eventlog._format import HEADER_BYTES, Footer
from profilelake.eventlog._segments import SEARCH_BYTES, Segment, Segments, log_directories
from profilelake.eventlog._watermark import UNFINISHED_SUFFIX, Mark, Watermark, read_mark

LOCK_NAME: Final = "lock"


def take_lock(directory: Path) -> int | None:
    """Return a descriptor that holds the log's lock, or None while its writer lives."""
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def recover(directory: Path, now: int, files: Files) -> tuple[Mark, list[Damage]]:
    """Seal the log of a dead writer and return its last mark; the caller holds its lock.

    Whole records behind the published end are kept: they may have been answered, if the watermark
    file is older than they are. What follows the last whole record is cut off and told as damage
    of no events, since nothing in it was acknowledged. Published bytes are never cut: if the file
    is too short for them, zeros take their place, and reading names that stretch as damage.
    May be interrupted anywhere and run again.

    Raises:
        Corrupt: no file of the log says whose it is, or it is of an unknown format version.
        OSError: the disk refused; nothing may be delivered from this log yet.
    """
    mark = read_mark(directory)
    segments = Segments(directory)
    try:
        published = mark.end if mark else (segments.first or LogEnd(0, 0))
        end, last_received_at = _true_end(segments, published)
        torn: list[Damage] = []
        last = segments.last
        if last is not None:
            torn = _seal(segments, last, end, last_received_at, now, files)
        sealed = Mark(
            end, max(last_received_at, mark.watermark if mark else 0), 1 + len(list(segments)), True
        )
        _publish(segments, sealed, now, files)
        for path in directory.glob(f"*{UNFINISHED_SUFFIX}"):
            files.unlink(path)
        files.fsync_dir(directory)
        return sealed, torn
    finally:
        segments.close()


def newest_stamp(root: Path) -> int:
    """Return the greatest `received_at` that any log under `root` shows, or 0."""
    newest = 0
    for directory in log_directories(root):
        mark = read_mark(directory)
        if mark is not None:
            newest = max(newest, mark.watermark)
            if mark.closed:
                continue
        try:
            segments = Segments(directory)
        except (Corrupt, FileNotFoundError):
            # An unreadable log is the reader's to report, and a pruned one has nothing new.
            continue
        try:
            start = mark.end if mark else (segments.first or LogEnd(0, 0))
            newest = max(newest, _true_end(segments, start)[1])
        finally:
            segments.close()
    return newest


def _true_end(segments: Segments, published: LogEnd) -> tuple[LogEnd, int]:
    """Return the end of the last whole record at or behind `published`, and the newest stamp seen."""
    last = segments.last
    if last is None:
        return published, 0
    footer = segments.footer(last)
    received_at = footer.last_received_at if footer else 0
    if footer and footer.end.offset >= published.offset:
        return footer.end, received_at
    good = at = published
    until = LogEnd(max(published.offset, last.end_of_file), 0)
    while at.offset < until.offset:
        loaded = segments.load(at, until, SEARCH_BYTES)
        at = loaded.end
        if loaded.records:
            good = at
            received_at = max(received_at, loaded.records[-1].received_at)
    if good.offset < last.base:
        # The segment before ends in damage; the last one is empty, and new.
        good = LogEnd(last.base, max(good.events, last.header.events_before if last.header else 0))
    return good, received_at


def _seal(
    segments: Segments, last: Segment, end: LogEnd, received_at: int, now: int, files: Files
) -> list[Damage]:
    """Bring the last segment to its true length and end it with a footer."""
    footer = segments.footer(last)
    if footer and footer.closed and footer.end == end:
        return []
    torn: list[Damage] = []
    spare = last.bytes - (HEADER_BYTES + end.offset - last.base)
    if spare > 0 and footer is None:
        detail = f"cut {spare} bytes of an unfinished write: no event in them was acknowledged"
        torn.append(Damage(str(last.path), end.offset, end.offset, 0, detail))
    size = HEADER_BYTES + end.offset - last.base
    files.truncate(last.path, size)
    sealed = Footer(last.base, end, received_at, now, closed=True)
    descriptor = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, size, os.SEEK_SET)
        write_all(files, descriptor, [sealed.encode(segments.identity)])
        files.fdatasync(descriptor)
    finally:
        files.close(descriptor)
    return torn


def _publish(segments: Segments, mark: Mark, now: int, files: Files) -> None:
    try:
        watermark = Watermark.open(segments.directory, files)
        if watermark.identity() is None:
            watermark.close()
            raise OSError("watermark file is damaged")
    except OSError:
        watermark = Watermark.create(segments.directory, segments.identity, now, files)
    try:
        watermark.publish(mark)
    finally:
        watermark.close()
