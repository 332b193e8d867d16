"""Where files lie: a disk here, or an object store.

A location is absolute, as Iceberg metadata have it: `file:///…` (or a plain path), `s3://bucket/key`. A
`Storage` is a value: it can be pickled and opens its connections where it is used.
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import duckdb
import pyarrow as pa

from profilelake.lake.files import local_path, make_folder, remove_files, sync_directory


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it lies there; `modified_at` in seconds since 1970."""

    location: str
    bytes: int
    modified_at: int


class Storage(Protocol):
    """Files below one root, named by location. What was written is durable when the call returns.

    All methods raise `Unavailable` when the storage does not answer or is full, `FileNotFoundError` for a
    file that is not there.
    """

    @property
    def root(self) -> str:
        """The location under which everything lies, without a slash at its end."""

    def read(self, location: str) -> bytes:
        """Return a whole small file."""

    def write(self, location: str, content: bytes) -> None:
        """Let a file have this content, all or nothing."""

    def create(self, location: str, content: bytes) -> bool:
        """Write a file that is not there yet; False, with nothing changed, where it is. One of many callers wins."""

    def input(self, location: str) -> pa.NativeFile:
        """Open a file for reading anywhere in it."""

    def output(self, location: str) -> BinaryIO:
        """Open a new file; it is there, whole, once it is closed. After an error inside `with` it is not."""

    def size(self, location: str) -> int | None:
        """Return the size of a file, None where it is not there."""

    def list(self, location: str) -> Iterator[Stored]:
        """Yield all files below a location, at any depth."""

    def remove(self, locations: Iterable[str]) -> None:
        """Remove files as far as possible; what stays is found by the next sweep."""

    def touch(self, locations: Iterable[str]) -> None:
        """Let files be as young as if they were written now, so that a sweep spares them."""

    def place(self, location: str) -> str:
        """Return the name by which DuckDB opens a file, on a connection given to `attach`."""

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection open places of this storage."""


class _Whole(io.BufferedWriter):
    """A file under another name until it is closed without an error."""

    def __init__(self, location: str) -> None:
        self._path = local_path(location)
        self._unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        make_folder(self._path.parent)
        super().__init__(io.FileIO(self._unfinished, "w"))
        self._failed = False

    def __exit__(self, kind: object, *_: object) -> None:
        self._failed = kind is not None
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._failed:
                self.flush()
                os.fsync(self.fileno())
        except BaseException:
            self._failed = True
            raise
        finally:
            super().close()
            if self._failed:
                self._unfinished.unlink(missing_ok=True)
        if not self._failed:
            self._unfinished.rename(self._path)
            sync_directory(self._path.parent)


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """Files below a folder of this machine."""

    root: str

    def read(self, location: str) -> bytes:
        """Return a whole small file."""
        return local_path(location).read_bytes()

    def write(self, location: str, content: bytes) -> None:
        """Let a file have this content, all or nothing."""
        with self.output(location) as sink:
            sink.write(content)

    def create(self, location: str, content: bytes) -> bool:
        """Write a file that is not there yet; False, with nothing changed, where it is."""
        path = local_path(location)
        make_folder(path.parent)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            with unfinished.open("wb") as sink:
                sink.write(content)
                sink.flush()
                os.fsync(sink.fileno())
            os.link(unfinished, path)
        except FileExistsError:
            return False
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(path.parent)
        return True

    def input(self, location: str) -> pa.NativeFile:
        """Open a file for reading anywhere in it."""
        return pa.memory_map(str(local_path(location)))

    def output(self, location: str) -> BinaryIO:
        """Open a new file; it is there, whole, once it is closed."""
        return _Whole(location)

    def size(self, location: str) -> int | None:
        """Return the size of a file, None where it is not there."""
        try:
            return local_path(location).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, location: str) -> Iterator[Stored]:
        """Yield all files below a location, at any depth."""
        for folder, _, names in os.walk(local_path(location)):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 - one stat a file is cost enough
                try:
                    status = os.stat(path)  # noqa: PTH116
                except FileNotFoundError:
                    continue
                yield Stored(path, status.st_size, int(status.st_mtime))

    def remove(self, locations: Iterable[str]) -> None:
        """Remove files as far as possible."""
        remove_files(locations)

    def touch(self, locations: Iterable[str]) -> None:
        """Let files be as young as if they were written now."""
        for location in locations:
            os.utime(local_path(location))

    def place(self, location: str) -> str:
        """Return the name by which DuckDB opens a file."""
        return str(local_path(location))

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection open places of this storage: any can."""
