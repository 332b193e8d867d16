"""The file operations of the event log, in one place.

Everything that changes the disk goes through `Files`, so a test can fail, shorten or kill at the
n-th operation of a real writer. Reading needs no such seam.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | memoryview

BUFFERS_PER_WRITE: Final = 1000
"""Linux takes 1,024 buffers in one `writev`."""


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system: what is free for us, and all of it."""

    free: int
    total: int


class Files:
    """The operating system's files. Each method is one operation and raises `OSError`."""

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """Return a descriptor of a new, empty file, whatever stood under that name."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
        """Write some of `buffers` at the descriptor's place and return how many bytes that were."""
        return os.writev(descriptor, buffers)

    def write_at(self, descriptor: int, data: bytes, place: int) -> int:
        return os.pwrite(descriptor, data, place)

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def fsync_dir(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def space(self, path: Path) -> Space:
        status = os.statvfs(path)
        return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


def write_all(files: Files, descriptor: int, buffers: Sequence[Buffer]) -> None:
    """Write every byte of `buffers`. A short write is no error to the system, so it is repeated here."""
    for start in range(0, len(buffers), BUFFERS_PER_WRITE):
        part = buffers[start : start + BUFFERS_PER_WRITE]
        size = sum(map(len, part))
        written = files.write(descriptor, part)
        if written < size:
            rest = memoryview(b"".join(part))[written:]
            while rest:
                written = files.write(descriptor, [rest])
                if written <= 0:
                    raise OSError(f"wrote no byte of {len(rest)} that were left")
                rest = rest[written:]
