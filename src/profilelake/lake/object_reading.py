"""Reading objects piece by piece, for Arrow and for DuckDB, which needs no extension for it.

DuckDB asks a filesystem in Python for pieces of files; while one is on its way the interpreter is free, so
its threads fetch side by side. A Parquet file begins at its end: the last bytes and the size come in one
request, and are held for the next reader, since files of a table never change.
"""

import io
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import duckdb
import obstore
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from obstore.exceptions import BaseError

from profilelake.lake.object_faults import status_of, told

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TAIL_BYTES: Final = 128 << 10
"""What is fetched of a file when it is opened: the footer, and all of a small file."""
TAILS_BYTES_MAX: Final = 64 << 20
"""Of the ends of files that a process holds; those go first that were not asked for the longest."""
AHEAD_MAX: Final = 128
"""Files of one connection whose ends are fetched before it opens them."""
ANNOUNCED_MAX: Final = 10_000
"""Files of one connection that wait for their turn to be fetched ahead; more are fetched when they are opened."""
_NO_SUCH_RANGE: Final = "416"
_NEVER_CHANGES: Final = datetime(2000, 1, 1, tzinfo=UTC)

Locate = Callable[[str], "tuple[ObjectStore, str]"]


class Located(Protocol):
    """A storage as a value: equal ones locate alike, and so share what was read."""

    def __hash__(self) -> int: ...

    def located(self, location: str) -> "tuple[ObjectStore, str]":
        """Return the connections to a bucket, and the key of an object in it."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The size of a file and its last bytes."""

    size: int
    content: bytes

    @property
    def begin(self) -> int:
        """Where in the file the content begins."""
        return self.size - len(self.content)


def fetch_tail(store: "ObjectStore", key: str, location: str) -> Tail:
    """Fetch the end of a file, with its size, in one request."""
    with told("reading", location):
        try:
            answer = obstore.get(store, key, options={"range": {"suffix": TAIL_BYTES}})
            return Tail(answer.meta["size"], bytes(answer.bytes()))
        except BaseError as error:
            # Of an empty object S3 has no last bytes to give, and says that the range cannot be satisfied.
            if status_of(error) != _NO_SUCH_RANGE or obstore.head(store, key)["size"] != 0:
                raise
            return Tail(0, b"")


class RangedFile(io.RawIOBase):
    """An object, read where somebody looks. Each thread has a position of its own once it has set it."""

    def __init__(self, store: "ObjectStore", key: str, location: str, tail: Tail) -> None:
        self._store, self._key, self._location, self._tail = store, key, location, tail
        self._here = threading.local()

    @classmethod
    def opened(cls, store: "ObjectStore", key: str, location: str) -> "RangedFile":
        """Open an object. Raises FileNotFoundError, Unavailable."""
        return cls(store, key, location, fetch_tail(store, key, location))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        """Return the size of the object."""
        return self._tail.size

    def tell(self) -> int:
        return getattr(self._here, "at", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._tail.size}[whence]
        at: int = max(0, start + offset)
        self._here.at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        end = self._tail.size if size is None or size < 0 else min(self._tail.size, start + size)
        if end <= start:
            return b""
        content = self._piece(start, end)
        self._here.at = start + len(content)
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _piece(self, start: int, end: int) -> bytes:
        tail = self._tail
        if start >= tail.begin:
            return tail.content[start - tail.begin : end - tail.begin]
        before = min(end, tail.begin)
        with told("reading", self._location):
            fetched = bytes(obstore.get_range(self._store, self._key, start=start, end=before))
        if len(fetched) != before - start:
            raise OSError(f"reading {self._location}: {len(fetched)} bytes came of {before - start}")
        return fetched + tail.content[: end - before] if end > before else fetched


class _Tails:
    """Ends of files that were read, bounded in bytes; and those on their way."""

    def __init__(self, storage: Located, requests_max: int) -> None:
        self._locate = storage.located
        self._held: OrderedDict[str, Tail] = OrderedDict()
        self._coming: dict[str, Future[Tail]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(requests_max, thread_name_prefix="object-reader")

    def expect(self, location: str) -> None:
        """Begin to fetch the end of a file that somebody is about to open."""
        with self._lock:
            if location not in self._held and location not in self._coming:
                self._coming[location] = self._threads.submit(self._fetch, location)

    def get(self, location: str) -> Tail:
        """Return the end of a file."""
        with self._lock:
            held = self._held.get(location)
            if held is not None:
                self._held.move_to_end(location)
                return held
            coming = self._coming.get(location)
        return self._fetch(location) if coming is None else coming.result()

    def _fetch(self, location: str) -> Tail:
        try:
            tail = fetch_tail(*self._locate(location), location)
        finally:
            with self._lock:
                self._coming.pop(location, None)
        with self._lock:
            if location not in self._held:
                self._held[location] = tail
                self._bytes += len(tail.content)
            while self._bytes > TAILS_BYTES_MAX:
                self._bytes -= len(self._held.popitem(last=False)[1].content)
        return tail


tails_of: Final = lru_cache(maxsize=16)(_Tails)


class _Ahead:
    """The files of one connection that it is about to open, in that order."""

    def __init__(self, tails: _Tails) -> None:
        self._tails = tails
        self._announced: deque[str] = deque(maxlen=ANNOUNCED_MAX)
        self._expected: set[str] = set()
        self._lock = threading.Lock()

    def announce(self, location: str) -> None:
        with self._lock:
            self._announced.append(location)
            self._advance()

    def opened(self, location: str) -> None:
        with self._lock:
            self._expected.discard(location)
            self._advance()

    def _advance(self) -> None:
        while self._announced and len(self._expected) < AHEAD_MAX:
            location = self._announced.popleft()
            self._expected.add(location)
            self._tails.expect(location)


class _Objects(AbstractFileSystem):  # type: ignore[misc]
    """What DuckDB asks of a filesystem, no more."""

    cachable = False

    def __init__(self, scheme: str, tails: _Tails, locate: Locate) -> None:
        super().__init__()
        self.protocol = scheme
        self._tails, self._locate, self._ahead = tails, locate, _Ahead(tails)

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return a planned file as it is; DuckDB is about to open it."""
        self._ahead.announce(path)
        return [path]

    def open(self, path: str, mode: str = "rb", **_: Any) -> RangedFile:
        if mode != "rb":
            raise OSError(f"opening {path}: queries only read")
        self._ahead.opened(path)
        return RangedFile(*self._locate(path), path, self._tails.get(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._tails.get(path).size, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:  # noqa: ARG002
        return True

    def modified(self, path: str) -> datetime:  # noqa: ARG002
        return _NEVER_CHANGES


def forget() -> None:
    """Give up what was read of files, as a new process has it."""
    tails_of.cache_clear()


def attach(connection: duckdb.DuckDBPyConnection, scheme: str, storage: Located, requests_max: int) -> None:
    """Let a connection read objects by their locations; equal storages share what was read."""
    if not connection.filesystem_is_registered(scheme):
        connection.register_filesystem(_Objects(scheme, tails_of(storage, requests_max), storage.located))
