"""Files by what they contain: each content once, named by its SHA-256, readable to the owner only."""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from profilelake.errors import Corrupt, Unavailable
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach

CHUNK_BYTES: Final = 4 << 20
_FOLDER: Final = "files"
_UNFINISHED: Final = ".new"


class Source(Protocol):
    """What can be read from its beginning on."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class Contents(Protocol):
    """The contents of all backups in one place, each known by its SHA-256.

    Methods that take or give contents may be called from several threads, `at_once` of them being of use. They raise
    `Unavailable` where there is no room, or no answer.
    """

    @property
    def at_once(self) -> int:
        """How many contents it is of use to take or give at the same time."""

    def holds(self, sha256: str, size: int) -> bool:
        """Tell whether a content is there, as long as it should be, and stays if a backup names it."""

    def add(self, source: Path, size: int, *, link: bool = False) -> tuple[str, bool]:
        """Take the first `size` bytes of a file; return their SHA-256 and whether they are new."""

    def take(self, made: Path) -> tuple[str, bool]:
        """Take a whole file that nobody needs any more; return its SHA-256 and whether it is new."""

    def fetch(self, storage: Storage, location: str, size: int) -> tuple[str, bool]:
        """Take a file of a storage; return its SHA-256 and whether it is new. Raises FileNotFoundError where it is gone."""

    def sync(self) -> None:
        """Return when all that was added outlives a power cut."""

    def damaged(
        self, files: Collection[tuple[str, int]], progress: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Read contents and return those that are missing or not what their name says."""

    def lacking(self, files: Collection[tuple[str, int]]) -> list[str]:
        """Return contents that cannot be given, as far as that can be told without paying for all of them.

        What is given is checked on its way in any case.
        """

    def give(self, sha256: str, size: int, target: Path) -> None:
        """Copy a content to a new file. Raises Corrupt where it is not what its name says."""

    def deliver(self, sha256: str, size: int, storage: Storage, location: str) -> None:
        """Copy a content to a storage. Raises Corrupt where it is not what its name says; then nothing is there."""


class Pool:
    """The contents of all backups in one folder."""

    at_once: Final = 1

    def __init__(self, place: Path) -> None:
        self._folder = place / _FOLDER

    def path(self, sha256: str) -> Path:
        """Return where a content lies."""
        return self._folder / sha256[:2] / sha256

    def holds(self, sha256: str, size: int) -> bool:
        """Tell whether a content is there, as long as it should be."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def add(self, source: Path, size: int, *, link: bool = False) -> tuple[str, bool]:
        """Take the first `size` bytes of a file; return their SHA-256 and whether they are new.

        With `link` the pool gets a second name of the file where the file system has them, which must
        then never change: it is whole, and `size` is its length.

        Raises:
            Unavailable: the file has become shorter, or the disk is full.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if link:
            digest = hash_file(source, size)
            return digest, self._linked(source, digest, size)
        try:
            with source.open("rb") as opened:
                return self.receive(opened, size, str(source))
        except OSError as error:
            raise Unavailable(f"backing up {source}: {error}; see that there is room, then retry") from error

    def receive(self, source: Source, size: int, name: str) -> tuple[str, bool]:
        """Take `size` bytes of what is being read; return their SHA-256 and whether they are new.

        Threads may do so side by side. Raises Unavailable where there are fewer, OSError as reading and writing do.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = self._folder / f"{os.getpid()}-{threading.get_ident()}{_UNFINISHED}"
        try:
            digest = copy_pieces(source, unfinished, size, name)
            reach("backup.copied")
            return digest, self._put(unfinished, digest, size)
        finally:
            unfinished.unlink(missing_ok=True)

    def fetch(self, storage: Storage, location: str, size: int) -> tuple[str, bool]:
        """Take a file of a storage; return its SHA-256 and whether it is new. Raises as `receive`."""
        with storage.input(location) as source:
            return self.receive(source, size, location)

    def take(self, made: Path) -> tuple[str, bool]:
        """Move a file on the same file system into the pool; return its SHA-256 and whether it is new."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        made.chmod(0o600)
        size = made.stat().st_size
        digest = hash_file(made, size)
        return digest, self._put(made, digest, size)

    def sync(self) -> None:
        """Return when all that was added is on the disk, with its names."""
        sync_file_system(self._folder)

    def damaged(
        self, files: Collection[tuple[str, int]], progress: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Read contents and return those that are missing or not what their name says."""
        found = []
        for sha256, size in sorted(set(files)):
            try:
                good = (
                    self.path(sha256).stat().st_size == size and hash_file(self.path(sha256), size) == sha256
                )
            except (OSError, Unavailable):
                good = False
            if not good:
                found.append(sha256)
            progress(size)
        return found

    def lacking(self, files: Collection[tuple[str, int]]) -> list[str]:
        """Return contents that cannot be given: all are read, which costs little in a folder."""
        return self.damaged(files)

    def give(self, sha256: str, size: int, target: Path) -> None:
        """Copy a content to a new file, checked once more on its way.

        Raises:
            Corrupt: it is not what its name says.
        """
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path(sha256).open("rb") as source:
            if copy_pieces(source, target, size, str(self.path(sha256))) != sha256:
                raise Corrupt(f"restoring {target}: its content in {self.path(sha256)} is damaged")

    def deliver(self, sha256: str, size: int, storage: Storage, location: str) -> None:
        """Copy a content to a storage, checked once more on its way."""
        with storage.output(location) as sink:
            self.send(sha256, size, sink)

    def send(self, sha256: str, size: int, sink: BinaryIO) -> None:
        """Write a content, checked once more on its way.

        Raises:
            Corrupt: it is not what its name says; whatever was written is none.
        """
        hasher = hashlib.sha256()
        with self.path(sha256).open("rb") as source:
            for data in pieces(source, size, str(self.path(sha256))):
                hasher.update(data)
                sink.write(data)
        if hasher.hexdigest() != sha256:
            raise Corrupt(f"restoring: the content in {self.path(sha256)} is damaged")

    def sweep(self, kept: Collection[str]) -> int:
        """Remove the contents that are not among these; return how many."""
        removed = 0
        for path in self._folder.glob("*/*"):
            if path.name not in kept:
                path.unlink()
                removed += 1
        return removed

    def sweep_unfinished(self) -> None:
        """Remove what a killed backup had begun to copy: for who holds the lock of the place, so that nobody writes it."""
        for path in self._folder.glob(f"*{_UNFINISHED}"):
            path.unlink()

    def _put(self, made: Path, sha256: str, size: int) -> bool:
        if self.holds(sha256, size):
            return False
        place = self.path(sha256)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        made.rename(place)
        return True

    def _linked(self, source: Path, sha256: str, size: int) -> bool:
        if self.holds(sha256, size):
            return False
        place = self.path(sha256)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            place.hardlink_to(source)
        except OSError:
            return self.add(source, size)[1]  # another file system, or one that has no second names
        return True


def sync_file_system(folder: Path) -> None:
    """Return when everything on the file system of a folder is on its disk.

    One call: syncing every file by itself takes a hundred times as long.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"syncing {folder}")
    finally:
        os.close(descriptor)


def hash_file(path: Path, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes. Raises Unavailable where there are fewer."""
    hasher = hashlib.sha256()
    with path.open("rb") as source:
        for data in pieces(source, size, str(path)):
            hasher.update(data)
    return hasher.hexdigest()


def copy_pieces(source: Source, target: Path, size: int, name: str) -> str:
    """Write `size` bytes of what is being read to a new file for its owner only; return their SHA-256."""
    hasher = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as sink:
        for data in pieces(source, size, name):
            hasher.update(data)
            written = memoryview(data)
            while written:
                written = written[sink.write(written) :]
    return hasher.hexdigest()


def pieces(source: Source, size: int, name: str) -> Iterator[bytes]:
    """Yield `size` bytes of what is being read, piece by piece. Raises Unavailable where there are fewer."""
    left = size
    while left:
        data = source.read(min(left, CHUNK_BYTES))
        if not data:
            raise Unavailable(f"reading {name}: {left} bytes of {size} are missing")
        yield data
        left -= len(data)
