"""The embedded event log: segment files under one directory, a log per writer incarnation.

    ROOT/<log_id>/<base offset, 20 digits>.seg    records
    ROOT/<log_id>/watermark                       how far the log is durable, shared in memory
    ROOT/<log_id>/lock                            held by the writer as long as it lives
    ROOT/clock                                    what the living writers believe of the time

`LogWriter` appends and `LogReader` reads all logs in position order; any process may ask for
`ends`, and whoever has consumed may `prune`.
"""

import contextlib
import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final

from profilelake.errors import Corrupt
from profilelake.eventlog import LogEnd, Vector
from profilelake.eventlog._clock import forget_clock, steady_clock
from profilelake.eventlog._files import Files, Space
from profilelake.eventlog._reader import LogReader
from profilelake.eventlog._recovery import take_lock
from profilelake.eventlog._room import log_bytes, reserve_of
from profilelake.eventlog._segments import Segments, log_directories
from profilelake.eventlog._watermark import UNFINISHED_SUFFIX, read_mark
from profilelake.eventlog._writer import Flushed, Limits, LogWriter

__all__ = [
    "Files",
    "Flushed",
    "Limits",
    "LogReader",
    "LogWriter",
    "Space",
    "ends",
    "forget_clock",
    "log_bytes",
    "log_trouble",
    "prune",
    "steady_clock",
]

EARLY_SHARE: Final = 0.75
"""Above this part of the log's limit consumed segments are deleted before their time."""

SWEEP_AGE_SECONDS: Final = 60.0
"""How old a hidden directory must be before what is in it counts as left behind."""


def ends(root: Path) -> dict[str, LogEnd]:
    """Return how far each log under `root` is durable, without reading any record.

    A pruned log is not among them: its totals are in the vector of whoever consumed it.
    """
    found = {}
    for directory in log_directories(root):
        mark = read_mark(directory)
        if mark is not None:
            found[directory.name] = mark.end
            continue
        try:
            segments = Segments(directory)
        except (Corrupt, FileNotFoundError):
            continue
        try:
            last = segments.last
            footer = segments.footer(last) if last else None
            if footer is not None:
                found[directory.name] = footer.end
            elif last is not None and last.header is not None:
                found[directory.name] = LogEnd(last.base, last.header.events_before)
        finally:
            segments.close()
    return found


def prune(
    root: Path,
    consumed: Vector,
    *,
    keep_seconds: float,
    now: int,
    limits: Limits | None = None,
    files: Files | None = None,
) -> list[Path]:
    """Delete sealed segments that are wholly consumed and were sealed `keep_seconds` before `now`.

    Consumed ones go before their time, the oldest first, when the log holds more than three
    quarters of `limits.log_bytes_max`, or the disk comes near the reserve: keeping them is a wish,
    and the room is needed. What remains of a log has no gap. A log of which nothing remains goes as
    a whole. Returns the paths that were deleted. `now` is in microseconds.
    """
    files = files or Files()
    limits = limits or Limits()
    logs = []
    for directory in log_directories(root):
        with contextlib.suppress(Corrupt, FileNotFoundError):
            logs.append(_consumed(directory, consumed.get(directory.name, LogEnd(0, 0)).offset))
    sealed_before = now - round(keep_seconds * 1e6)
    for log in logs:
        log.going = bisect_right(log.segments, sealed_before, key=attrgetter("sealed_at"))
    _go_early(root, logs, limits, files)
    deleted: list[Path] = []
    for log in logs:
        with contextlib.suppress(FileNotFoundError):
            deleted += _delete(log, files)
    for directory in root.glob(f".*{UNFINISHED_SUFFIX}"):
        # A young one may belong to a writer that is just starting.
        with contextlib.suppress(FileNotFoundError):
            if now - directory.stat().st_mtime * 1e6 > SWEEP_AGE_SECONDS * 1e6:
                _sweep(directory, files)
    return deleted


@dataclass(slots=True)
class _Sealed:
    """A sealed segment that is wholly consumed."""

    path: Path
    sealed_at: int
    bytes: int


@dataclass(slots=True)
class _Prunable:
    """What may be deleted of one log, oldest first; the first `going` of it are to go."""

    directory: Path
    segments: list[_Sealed]
    whole: bool
    """Nothing else is left of the log, and nothing will come."""
    going: int = 0


def _consumed(directory: Path, consumed: int) -> _Prunable:
    mark = read_mark(directory)
    segments = Segments(directory)
    try:
        found: list[_Sealed] = []
        listed = list(segments)
        for segment, following in zip(listed, [*listed[1:], None], strict=True):
            footer = segments.footer(segment)
            if following is not None:
                end = following.base
            elif footer is not None and footer.closed:
                end = footer.end.offset
            elif mark is not None and mark.closed:
                end = mark.end.offset
            else:
                return _Prunable(directory, found, whole=False)
            if end > consumed:
                return _Prunable(directory, found, whole=False)
            sealed_at = footer.sealed_at if footer else int(segment.path.stat().st_mtime * 1e6)
            # Times that fall back would let a segment go before an older one.
            sealed_at = max(sealed_at, found[-1].sealed_at if found else sealed_at)
            found.append(_Sealed(segment.path, sealed_at, segment.bytes))
        return _Prunable(directory, found, whole=True)
    finally:
        segments.close()


def _go_early(root: Path, logs: list[_Prunable], limits: Limits, files: Files) -> None:
    """Have more segments go until the log and its disk have room, or none is left."""
    with contextlib.suppress(OSError):
        space = files.space(root)
        going = sum(segment.bytes for log in logs for segment in log.segments[: log.going])
        over = max(
            log_bytes(root) - round(limits.log_bytes_max * EARLY_SHARE),
            2 * reserve_of(space, limits.reserve_bytes) - space.free,
        )
        staying = [(segment, log) for log in logs for segment in log.segments[log.going :]]
        for segment, log in sorted(staying, key=lambda pair: pair[0].sealed_at):
            if going >= over:
                break
            going += segment.bytes
            log.going += 1


def _delete(log: _Prunable, files: Files) -> list[Path]:
    paths = [segment.path for segment in log.segments[: log.going]]
    if log.whole and log.going == len(log.segments):
        # Hidden first: a crash in between leaves nothing that looks like a log with a gap.
        hidden = log.directory.with_name(f".{log.directory.name}{UNFINISHED_SUFFIX}")
        files.rename(log.directory, hidden)
        files.fsync_dir(log.directory.parent)
        _sweep(hidden, files)
    else:
        for path in paths:
            files.unlink(path)
    return paths


def _sweep(directory: Path, files: Files) -> None:
    """Remove what is left of a log that was never shown, or is hidden again, unless someone holds it."""
    lock = take_lock(directory)
    if lock is None:
        return
    try:
        for path in directory.iterdir():
            files.unlink(path)
        files.rmdir(directory)
    finally:
        os.close(lock)


def log_trouble(root: Path) -> list[str]:
    """Return what is wrong with the files of the logs: headers, footers, gaps. Records are not read.

    Changes nothing, also where a log waits for its recovery.
    """
    found: list[str] = []
    for directory in log_directories(root):
        try:
            segments = Segments(directory)
        except Corrupt as error:
            found.append(str(error))
            continue
        except FileNotFoundError:
            continue  # pruned meanwhile
        try:
            listed = list(segments)
            found += [
                f"{segment.path}: its header is damaged" for segment in listed if segment.header is None
            ]
            for segment, following in pairwise(listed):
                if segment.end_of_file < following.base:
                    found.append(
                        f"{segment.path}: ends at {segment.end_of_file}, the next begins at {following.base}"
                    )
            mark = read_mark(directory)
            if mark is not None and listed and listed[-1].end_of_file < mark.end.offset:
                found.append(f"{listed[-1].path}: ends before {mark.end.offset}, up to where it was durable")
        finally:
            segments.close()
    return found
