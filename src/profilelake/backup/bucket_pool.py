"""Contents of backups as objects of a store: `files/NUMBER/SHA-256`.

NUMBER is the turn (`bucket_turns`) of the backup that brought a content. A backup uses again what the last one names, and what
turns after that one have brought, none of which became a backup. It removes, once it is one itself, only contents of its own
number or a smaller one which no backup names. So nobody can remove what another one at work uses, however long either of them
was asleep: what the last backup names stays, and what came after it has a greater number.
"""

import hashlib
import io
import tempfile
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa

from profilelake.backup.bucket_turns import spelt
from profilelake.backup.fetching import each_at_once
from profilelake.backup.pool import copy_pieces, hash_file, pieces
from profilelake.errors import Corrupt, Internal, Unavailable
from profilelake.lake.storage import Storage, Stored
from profilelake.ops.failpoints import reach

SMALL_BYTES: Final = 8 << 20
"""A content up to this size is read once and waits in memory; a larger one is read twice from a disk of this machine."""
LARGE_AT_ONCE: Final = 3
"""Larger ones that are under way together: each has four parts in memory, and what comes from another bucket waits on the disk."""
REMOVED_AT_ONCE: Final = 1_000
_FOLDER: Final = "files"
_DIGEST_CHARACTERS: Final = 64


class BucketPool:
    """The contents of all backups below one prefix of a bucket."""

    at_once: Final = 8

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._folder = f"{storage.root}/{_FOLDER}"
        self._number = 0
        self._where: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._copying = True
        self._lock = threading.Lock()
        self._large = threading.BoundedSemaphore(LARGE_AT_ONCE)

    # ---- which contents there are ---------------------------------------------------------------

    def know(self, kept: Mapping[str, int]) -> None:
        """Learn where a backup that is there has its contents; what the first one has stays where that has it."""
        self._where = {**kept, **self._where}

    def begin(self, number: int, last: int, kept: Mapping[str, int]) -> None:
        """Take contents under this number from now on; those that the last backup names, and later ones, are used again."""
        self._number = number
        for at, sha256, stored in self._listed():
            if kept.get(sha256, 0) == at or (last < at < number and sha256 not in kept):
                self._where[sha256], self._held[sha256] = at, stored.bytes

    def holds(self, sha256: str, size: int) -> bool:
        """Tell whether a content is there, as long as it should be, and stays if a backup names it."""
        with self._lock:
            return self._held.get(sha256) == size

    def where(self, sha256: str) -> int:
        """Return the number under which a content lies."""
        return self._where[sha256]

    def location(self, sha256: str) -> str:
        """Return where a content lies."""
        number = self._where.get(sha256)
        if number is None:
            raise Internal(
                f"looking for the content {sha256} in {self._folder}: no backup was read that names it"
            )
        return self._location(number, sha256)

    def lacking(self, files: Collection[tuple[str, int]]) -> list[str]:
        """Return contents that are missing or have another size: the store is asked for a list only."""
        wanted = {(self._where.get(sha256, 0), sha256): size for sha256, size in files}
        for at, sha256, stored in self._listed():
            if wanted.get((at, sha256)) == stored.bytes:
                del wanted[at, sha256]
        return sorted(sha256 for _, sha256 in wanted)

    def damaged(
        self, files: Collection[tuple[str, int]], progress: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Read contents and return those that are missing or not what their name says."""
        found: list[str] = []

        def one(file: tuple[str, int]) -> None:
            sha256, size = file
            try:
                with self._opened(sha256, size) as source:
                    _checked(source, sha256, size, self.location(sha256))
            except Corrupt:
                found.append(sha256)
            progress(size)

        each_at_once(sorted(set(files)), one, self.at_once)
        return sorted(found)

    def sweep(self, kept: Container[tuple[int, str]], first: int, last: int) -> int:
        """Remove the contents with these numbers that are not among those kept; return how many."""
        removed = 0
        going: list[str] = []
        for at, sha256, stored in self._listed():
            if first <= at <= last and (at, sha256) not in kept:
                going.append(stored.location)
            if len(going) == REMOVED_AT_ONCE:
                self._storage.remove(going)
                removed, going = removed + len(going), []
        self._storage.remove(going)
        return removed + len(going)

    # ---- taking ---------------------------------------------------------------------------------

    def add(self, source: Path, size: int, *, link: bool = False) -> tuple[str, bool]:  # noqa: ARG002 - nothing to link
        """Send the first `size` bytes of a file; return their SHA-256 and whether they are new.

        Raises:
            Unavailable: the file has changed meanwhile, or the store does not take it.
        """
        try:
            with self._turn(size), source.open("rb") as opened:
                if size <= SMALL_BYTES:
                    return self._send_small(b"".join(pieces(opened, size, str(source))))
                digest = hash_file(source, size)
                return digest, not self.holds(digest, size) and self._send(digest, opened, size, str(source))
        except OSError as error:
            raise Unavailable(f"backing up {source}: {error}; see that it can be read, then retry") from error

    def take(self, made: Path) -> tuple[str, bool]:
        """Send a whole file; return its SHA-256 and whether it is new."""
        return self.add(made, made.stat().st_size)

    def fetch(self, storage: Storage, location: str, size: int) -> tuple[str, bool]:
        """Take a file of a storage: the store copies it where it can, but it is read once, for its SHA-256.

        Raises:
            FileNotFoundError: it is gone.
            Unavailable: a store does not answer, or the temporary directory is full.
        """
        with self._turn(size):
            if self._copying and self._storage.copies(storage, location, self._location(1, ""), size):
                with storage.input(location) as source:
                    digest = _hash(source, size, location)
                if self.holds(digest, size):
                    return digest, False
                if self._storage.copy_from(storage, location, self._location(self._number, digest), size):
                    return digest, self._note(digest, size)
                self._copying = False
            if size <= SMALL_BYTES:
                with storage.input(location) as source:
                    return self._send_small(b"".join(pieces(source, size, location)))
            with tempfile.TemporaryFile() as spool:
                with storage.input(location) as source:
                    digest = _spool(source, spool, size, location)
                if self.holds(digest, size):
                    return digest, False
                spool.seek(0)
                return digest, self._send(digest, spool, size, location)

    def sync(self) -> None:
        """Do nothing: what the store has acknowledged is durable."""

    # ---- giving ---------------------------------------------------------------------------------

    def give(self, sha256: str, size: int, target: Path) -> None:
        """Copy a content to a new file, checked on its way. Raises Corrupt where it is not what its name says."""
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        location = self.location(sha256)
        with self._opened(sha256, size) as source:
            if copy_pieces(source, target, size, location) != sha256:
                raise _damaged(location)

    def deliver(self, sha256: str, size: int, storage: Storage, location: str) -> None:
        """Copy a content to a storage, checked on its way: within a bucket the store does it, after it was read once."""
        source_location = self.location(sha256)
        if self._copying and storage.copies(self._storage, source_location, location, size):
            with self._opened(sha256, size) as source:
                _checked(source, sha256, size, source_location)
            if storage.copy_from(self._storage, source_location, location, size):
                return
            self._copying = False
        with self._opened(sha256, size) as source, storage.output(location) as sink:
            _checked(source, sha256, size, source_location, sink)

    # ---- inside ---------------------------------------------------------------------------------

    def _turn(self, size: int) -> Any:
        return self._large if size > SMALL_BYTES else nullcontext()

    def _send_small(self, content: bytes) -> tuple[str, bool]:
        digest = hashlib.sha256(content).hexdigest()
        if self.holds(digest, len(content)):
            return digest, False
        self._storage.send(self._location(self._number, digest), io.BytesIO(content), len(content))
        return digest, self._note(digest, len(content))

    def _send(self, digest: str, source: IO[bytes], size: int, name: str) -> bool:
        checked = _Checked(source, digest, size, name)
        try:
            self._storage.send(self._location(self._number, digest), cast(IO[bytes], checked), size)
        except OSError:
            if checked.failed is not None:
                raise checked.failed from None
            raise
        return self._note(digest, size)

    def _note(self, digest: str, size: int) -> bool:
        with self._lock:
            self._where[digest], self._held[digest] = self._number, size
        reach("backup.sent")
        return True

    @contextmanager
    def _opened(self, sha256: str, size: int) -> Iterator[pa.NativeFile]:
        location = self.location(sha256)
        try:
            with self._storage.input(location) as source:
                if (found := source.size()) != size:
                    raise Corrupt(
                        f"reading {location}: it has {found:,} bytes instead of {size:,}; restore another backup"
                    )
                yield source
        except FileNotFoundError:
            # It may go between two pieces, too.
            if self._storage.size(location) is not None:
                raise  # it is where it was to be put that is gone
            raise Corrupt(
                f"reading {location}: it is missing, or its backup was removed meanwhile; restore another backup"
            ) from None

    def _location(self, number: int, sha256: str) -> str:
        return f"{self._folder}/{spelt(number)}/{sha256}"

    def _listed(self) -> Iterator[tuple[int, str, Stored]]:
        for stored in self._storage.list(self._folder):
            _, number, sha256 = stored.location.rsplit("/", 2)
            if number.isdecimal() and len(sha256) == _DIGEST_CHARACTERS:
                yield int(number), sha256, stored


class _Checked(io.RawIOBase):
    """What is being sent: its last piece is not given out where the whole is not what it was before, so that
    the upload ends there, and the store forgets its parts."""

    def __init__(self, source: IO[bytes], sha256: str, size: int, name: str) -> None:
        self.failed: Unavailable | None = None
        self._source, self._sha256, self._left, self._name = source, sha256, size, name
        self._hasher = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted)
        self._hasher.update(data)
        self._left -= len(data)
        changed = self._left == 0 and self._hasher.hexdigest() != self._sha256
        if changed or (wanted and not data):
            self.failed = Unavailable(f"backing up {self._name}: it changed while it was sent; retry")
            raise self.failed
        return data


def _hash(source: pa.NativeFile, size: int, location: str) -> str:
    hasher = hashlib.sha256()
    for data in pieces(source, size, location):
        hasher.update(data)
    return hasher.hexdigest()


def _spool(source: pa.NativeFile, sink: IO[bytes], size: int, location: str) -> str:
    hasher = hashlib.sha256()
    for data in pieces(source, size, location):
        hasher.update(data)
        try:
            sink.write(data)
        except OSError as error:
            raise Unavailable(
                f"backing up {location}: {error}; make room in the temporary directory (TMPDIR)"
            ) from error
    return hasher.hexdigest()


def _checked(
    source: pa.NativeFile, sha256: str, size: int, location: str, sink: IO[bytes] | None = None
) -> None:
    """Read a content, and write it where a sink is given. Raises Corrupt where it is not what its name says."""
    hasher = hashlib.sha256()
    for data in pieces(source, size, location):
        hasher.update(data)
        if sink is not None:
            sink.write(data)
    if hasher.hexdigest() != sha256:
        raise _damaged(location)


def _damaged(location: str) -> Corrupt:
    return Corrupt(f"reading {location}: its content is damaged; restore another backup")
