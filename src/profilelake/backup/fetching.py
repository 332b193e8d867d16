"""Files of an object store on their way into the pool: several at a time, and none of them twice.

What has arrived is noted beside the pool, once it is durable, so that a backup that was cut short is gone on
with. Files of tables never change, so one that is as it was seen before need not be read again.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from profilelake.backup.capture import Distant
from profilelake.backup.manifest import Manifest, StoredFile
from profilelake.backup.pool import Contents
from profilelake.errors import Corrupt, Unavailable
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach

AT_ONCE: Final = 8
"""Files that are on their way at the same time, each with one piece (`pool.CHUNK_BYTES`) in memory."""
NOTED_FILES: Final = 1_000
NOTED_BYTES: Final = 1 << 30
"""After so many files or bytes what has arrived is made durable and noted: what a crash costs at most."""

T = TypeVar("T")
_Key = tuple[str, int, tuple[int, ...]]


class Fetcher:
    """Brings files into a pool. `new_files` and `new_bytes` count those that were not there before."""

    def __init__(self, pool: Contents, notes: Path, earlier: Manifest | None) -> None:
        """Fetch what neither the last backup nor `notes`, the file of one that was cut short, has."""
        self.new_files = self.new_bytes = 0
        self._pool, self._notes = pool, notes
        known = list(earlier.files) if earlier else []
        self._known: dict[_Key, str] = {
            (file.path, file.bytes, file.seen): file.sha256
            for file in [*known, *_noted(notes)]
            if file.seen and pool.holds(file.sha256, file.bytes)
        }
        self._lock = threading.Lock()
        self._fresh: list[StoredFile] = []
        self._fresh_bytes = 0

    def fetch(self, storage: Storage, files: Sequence[Distant]) -> None:
        """Have files in the pool.

        Raises:
            FileNotFoundError: one is gone; all others are there.
            Unavailable: the object store does not answer, or the disk is full.
        """
        wanted = [file for file in files if (file.path, file.bytes, file.seen) not in self._known]
        gone: list[str] = []

        def one(file: Distant) -> None:
            try:
                self._fetch(storage, file)
            except FileNotFoundError:
                gone.append(file.location)

        try:
            each_at_once(wanted, one, AT_ONCE)
        finally:
            with self._lock:
                self._note()
        if gone:
            raise FileNotFoundError(f"{gone[0]} is gone")

    def stored(self, files: Sequence[Distant]) -> list[StoredFile]:
        """Return what a manifest says of files that were fetched."""
        return [
            StoredFile(file.path, file.bytes, self._known[file.path, file.bytes, file.seen], file.seen)
            for file in files
        ]

    def forget(self) -> None:
        """Remove the notes: a manifest names all that they name."""
        self._notes.unlink(missing_ok=True)

    def _fetch(self, storage: Storage, file: Distant) -> None:
        try:
            sha256, new = self._pool.fetch(storage, file.location, file.bytes)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and storage.size(file.location) is None:
                raise
            # Else it is the folder of the backup that is gone.
            raise Unavailable(
                f"backing up {file.location}: {error}; see that the folder of the backup is there and has room, then run "
                "the same again"
            ) from error
        with self._lock:
            self._known[file.path, file.bytes, file.seen] = sha256
            self._fresh.append(StoredFile(file.path, file.bytes, sha256, file.seen))
            self._fresh_bytes += file.bytes
            self.new_files += new
            self.new_bytes += file.bytes if new else 0
            if len(self._fresh) >= NOTED_FILES or self._fresh_bytes >= NOTED_BYTES:
                self._note()

    def _note(self) -> None:
        """Note what has arrived, once it is on the disk: a note is a promise that outlives a power cut."""
        if not self._fresh:
            return
        self._pool.sync()
        lines = b"".join(msgspec.json.encode(file) + b"\n" for file in self._fresh)
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as sink:
            sink.write(lines)
            sink.flush()
            os.fsync(sink.fileno())
        self._fresh, self._fresh_bytes = [], 0
        reach("backup.fetched")


def each_at_once(items: Iterable[T], work: Callable[[T], None], threads: int) -> None:
    """Do work on items, several at a time; the first error ends it, after what has begun, and is raised.

    So does an interruption of who waits.
    """
    coming, turn, ended = iter(items), threading.Lock(), threading.Event()

    def some() -> None:
        while not ended.is_set():
            with turn:
                try:
                    item = next(coming)
                except StopIteration:
                    return
            try:
                work(item)
            except BaseException:
                ended.set()
                raise

    with ThreadPoolExecutor(threads, thread_name_prefix="backup") as pool:
        try:
            for running in [pool.submit(some) for _ in range(threads)]:
                running.result()
        finally:
            # The pool waits for its threads, and they would go on to the last item.
            ended.set()


def _noted(path: Path) -> list[StoredFile]:
    """Return what was noted; what a crash cut off is taken away, so that more can be added."""
    found: list[StoredFile] = []
    good = 0
    try:
        with path.open("r+b") as notes:
            for line in notes:
                if not line.endswith(b"\n"):
                    break
                found.append(msgspec.json.decode(line, type=StoredFile))
                good += len(line)
            notes.truncate(good)
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise Corrupt(f"reading {path}: {error}; remove it, what it names is fetched again") from error
    return found
