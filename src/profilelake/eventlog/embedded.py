"""The embedded event log: segment files under one directory, a log per writer incarnation.

    ROOT/<log_id>/<base offset, 20 digits>.seg    records
    ROOT/<log_id>/watermark                       how far the log is durable, shared in memory
    ROOT/<log_id>/lock                            held by the writer as long as it lives

`LogWriter` appends and `LogReader` reads all logs in position order; any process may ask for
`ends`, and whoever has consumed may `prune`.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from profilelake.errors import Corrupt
from profilelake.eventlog import LogEnd, Vector
from profilelake.eventlog._clock import steady_clock
from profilelake.eventlog._files import Files, Space
from profilelake.eventlog._reader import LogReader
from profilelake.eventlog._recovery import take_lock
from profilelake.eventlog._segments import Segments, log_directories
from profilelake.eventlog._watermark import UNFINISHED_SUFFIX, read_mark
from profilelake.eventlog._writer import Flushed, Limits, LogWriter

__all__ = ["Files", "Flushed", "Limits", "LogReader", "LogWriter", "Space", "ends", "prune", "steady_clock"]

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
    root: Path, consumed: Vector, *, keep_seconds: float, now: int, files: Files | None = None
) -> list[Path]:
    """Delete sealed segments that are wholly consumed and were sealed `keep_seconds` before `now`.

    Oldest first, so what remains has no gap. A log of which nothing remains goes as a whole.
    Returns the paths that were deleted. `now` is in microseconds.
    """
    files = files or Files()
    sealed_before = now - round(keep_seconds * 1e6)
    deleted: list[Path] = []
    for directory in log_directories(root):
        with contextlib.suppress(Corrupt, FileNotFoundError):
            place = consumed.get(directory.name, LogEnd(0, 0))
            deleted += _prune_log(directory, place.offset, sealed_before, files)
    for directory in root.glob(f".*{UNFINISHED_SUFFIX}"):
        # A young one may belong to a writer that is just starting.
        with contextlib.suppress(FileNotFoundError):
            if now - directory.stat().st_mtime * 1e6 > SWEEP_AGE_SECONDS * 1e6:
                _sweep(directory, files)
    return deleted


def _prune_log(directory: Path, consumed: int, sealed_before: int, files: Files) -> list[Path]:
    mark = read_mark(directory)
    segments = Segments(directory)
    try:
        paths = []
        finished = True
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
                finished = False
                break
            sealed_at = footer.sealed_at if footer else int(segment.path.stat().st_mtime * 1e6)
            if end > consumed or sealed_at > sealed_before:
                finished = False
                break
            paths.append(segment.path)
    finally:
        segments.close()
    if finished:
        # Hidden first: a crash in between leaves nothing that looks like a log with a gap.
        hidden = directory.with_name(f".{directory.name}{UNFINISHED_SUFFIX}")
        files.rename(directory, hidden)
        files.fsync_dir(directory.parent)
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
