"""Files of an object store as files of this machine, for who can only be handed open files.

A bounded folder: what was asked for the longest ago goes first, and nothing stays for longer than
`KEEP_SECONDS`, so that what was erased from the lake does not live on here. Files of tables never change,
so a copy is as good as the file.
"""

import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from profilelake.errors import Unavailable
from profilelake.lake.storage import Storage

KEEP_SECONDS: Final = 900
FETCHES_MAX: Final = 8
"""Files that are fetched at the same time."""
PIECE_BYTES: Final = 8 << 20
_LOOK_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _Copy:
    path: Path
    bytes: int
    fetched_at: float


class LocalCopies:
    """Copies for one process; whatever an earlier one left in the folder is thrown away."""

    def __init__(self, storage: Storage, folder: Path, bytes_max: int) -> None:
        """Copy files of `storage` to `folder`, at most `bytes_max` together; an open one counts until it goes."""
        self._storage, self._folder, self._bytes_max = storage, folder, bytes_max
        self._held: OrderedDict[str, _Copy] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._coming_bytes = 0
        self._room = threading.Condition(self._lock)
        self._watching = False
        shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, locations: Sequence[str], go_on: Callable[[], None] = lambda: None) -> None:
        """Have files here before they are opened, several at a time; `go_on` raises where nobody waits any more.

        Raises: as `open`.
        """
        with ThreadPoolExecutor(FETCHES_MAX, thread_name_prefix="object-copies") as threads:

            def each(location: str) -> None:
                go_on()
                os.close(self.open(location))

            running = [threads.submit(each, location) for location in dict.fromkeys(locations)]
            try:
                for one in running:
                    one.result()
            except BaseException:
                threads.shutdown(wait=True, cancel_futures=True)
                raise

    def open(self, location: str) -> int:
        """Return a descriptor of a copy; it stays readable whatever becomes of the copy.

        Raises:
            FileNotFoundError: there is no such file any more.
            Unavailable: the storage does not answer, or there is no room.
        """
        with self._lock:
            turn = self._fetching.setdefault(location, threading.Lock())
        with turn:
            try:
                found = self._open_held(location)
                return self._fetched(location) if found is None else found
            finally:
                with self._lock:
                    self._fetching.pop(location, None)

    def forget_old(self) -> None:
        """Remove what has been here for too long."""
        before = time.monotonic() - KEEP_SECONDS
        with self._lock:
            for location in [name for name, copy in self._held.items() if copy.fetched_at < before]:
                self._held.pop(location).path.unlink(missing_ok=True)

    def _open_held(self, location: str) -> int | None:
        with self._lock:
            copy = self._held.get(location)
            if copy is None:
                return None
            self._held.move_to_end(location)
            return os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC)

    def _fetched(self, location: str) -> int:
        self._watch()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / secrets.token_hex(16)
        with self._storage.input(location) as source:
            size = int(source.size())
            self._make_room(location, size)
            fetched = None
            try:
                opened = self._written(location, source, path)
                fetched = _Copy(path, size, time.monotonic())
            finally:
                with self._room:
                    self._coming_bytes -= size
                    if fetched is not None:
                        before, self._held[location] = self._held.get(location), fetched
                        if before is not None:
                            # Where a fetch fails, two who waited for it fetch again side by side.
                            before.path.unlink(missing_ok=True)
                    self._room.notify_all()
        return opened

    def _written(self, location: str, source: pa.NativeFile, path: Path) -> int:
        try:
            with path.open("xb") as sink:
                while piece := source.read(PIECE_BYTES):
                    sink.write(piece)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise Unavailable(f"copying {location} to {self._folder}: {error}; free disk") from error
            raise

    def _make_room(self, location: str, size: int) -> None:
        """Take room for a copy, once those who took some before have given it back or hold no more than allowed."""
        if size > self._bytes_max:
            raise Unavailable(
                f"copying {location}: {size:,} bytes are more than the {self._bytes_max:,} of storage.cache_bytes; "
                "raise it"
            )
        with self._room:
            # Whoever is on the way takes no more room, so this ends as each of them does.
            self._room.wait_for(lambda: self._coming_bytes + size <= self._bytes_max)
            self._coming_bytes += size
            held = self._coming_bytes + sum(copy.bytes for copy in self._held.values())
            while held > self._bytes_max and self._held:
                _, oldest = self._held.popitem(last=False)
                oldest.path.unlink(missing_ok=True)
                held -= oldest.bytes

    def _watch(self) -> None:
        """Have old copies go also while nobody asks for any."""
        with self._lock:
            if self._watching:
                return
            self._watching = True

        def watch() -> None:
            while True:
                time.sleep(_LOOK_SECONDS)
                self.forget_old()

        threading.Thread(target=watch, name="object-copies-age", daemon=True).start()
