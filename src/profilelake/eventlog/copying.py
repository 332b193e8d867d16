"""Copies of event logs that are being written: what a backup takes of them.

`pin` gives the segments a second name, so that no pruning takes them away; `copies` then says how much of
each belongs to a consistent copy: everything up to the watermark that was read before the segments were
listed, so what was acknowledged before `pin` was called is in it, and nothing that is half written.
"""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profilelake.errors import Unavailable
from profilelake.eventlog import LogEnd, Vector
from profilelake.eventlog._format import HEADER_BYTES
from profilelake.eventlog._segments import SUFFIX, log_directories
from profilelake.eventlog._watermark import NAME as WATERMARK
from profilelake.eventlog._watermark import Mark, read_mark

_NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
"""What a file system says that gives no second names."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One file of a consistent copy of the logs: its name under the root, and how much of it counts."""

    name: str
    path: Path
    bytes: int


def pin(root: Path, place: Path) -> None:
    """Keep what all logs under `root` hold now in `place`, on the same file system; may be repeated.

    Where the file system has no second names, segments are copied.
    """
    for directory in log_directories(root):
        kept = place / directory.name
        kept.mkdir(parents=True, exist_ok=True)
        try:
            # Before the segments are listed: they can only go further than it says.
            mark = (directory / WATERMARK).read_bytes() if read_mark(directory) else None
            if mark is not None:
                (kept / WATERMARK).write_bytes(mark)
            segments = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
        except FileNotFoundError:
            continue  # pruned as a whole since it was listed; what was pinned before stays
        for segment in segments:
            try:
                pin_file(segment, kept / segment.name)
            except FileNotFoundError:
                continue


def copies(place: Path, consumed: Vector) -> list[Copy]:
    """Return what of a pinned place belongs to a copy that is good for whoever stands at `consumed`.

    Segments that lie wholly before it are left out, as if they had been pruned.

    Raises:
        Unavailable: something between `consumed` and the end was pruned before it was pinned; pin again.
    """
    found: list[Copy] = []
    for directory in log_directories(place):
        found += _copies_of(directory, consumed.get(directory.name, LogEnd(0, 0)).offset)
    return found


def _copies_of(directory: Path, consumed: int) -> list[Copy]:
    mark = read_mark(directory)
    bases = sorted(int(path.stem) for path in directory.iterdir() if path.suffix == SUFFIX)
    if mark is not None:
        bases = [base for base in bases if base <= mark.end.offset]
    wanted: list[Copy] = []
    for base, following in zip(bases, [*bases[1:], None], strict=True):
        path = directory / f"{base:020}{SUFFIX}"
        size = path.stat().st_size
        # A footer behind the records is ours too, but of a log that goes on it belongs to what comes.
        if following is None and mark is not None and not mark.closed:
            size = min(size, HEADER_BYTES + mark.end.offset - base)
        if following is not None and base + size - HEADER_BYTES < following:
            raise _pruned(directory, base + size - HEADER_BYTES)
        end = following if following is not None else _end(mark, base, size)
        if end > consumed:
            wanted.append(Copy(f"{directory.name}/{path.name}", path, size))
    begins = int(wanted[0].path.stem) if wanted else None
    end = mark.end.offset if mark is not None else 0
    if (begins is None and end > consumed) or (begins is not None and begins > consumed):
        raise _pruned(directory, consumed)
    if wanted and mark is not None:
        watermark = directory / WATERMARK
        wanted.append(Copy(f"{directory.name}/{WATERMARK}", watermark, watermark.stat().st_size))
    return wanted


def _pruned(directory: Path, offset: int) -> Unavailable:
    return Unavailable(
        f"copying event log {directory.name}: its segment from offset {offset} on is gone or cut short; pruned"
        " meanwhile, or damaged: try again, and where that does not help: profilelake doctor"
    )


def _end(mark: Mark | None, base: int, size: int) -> int:
    return mark.end.offset if mark is not None else base + max(0, size - HEADER_BYTES)


def pin_file(source: Path, place: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing.

    Raises:
        FileNotFoundError: it is gone; what `place` had stays.
    """
    if place.exists():
        if os.path.samestat(source.stat(), place.stat()):
            return
        place.unlink()  # a segment that was given up and made again has the same name
    try:
        place.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, place)
