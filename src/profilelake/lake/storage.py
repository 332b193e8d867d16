"""Where files lie: a disk here, or an object store.

A location is absolute, as Iceberg metadata have it: `file:///…` (or a plain path), `s3://bucket/key`. A
`Storage` is a value: it can be pickled and opens its connections where it is used.
"""

import io
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Final, Protocol

import duckdb
import pyarrow as pa

from profilelake.errors import Invalid
from profilelake.lake.files import is_remote, local_path, make_folder, remove_files, sync_directory
from profilelake.settings import StorageOptions

COPIED_BYTES: Final = 4 << 20
"""Of a file that is copied, this much is in memory."""


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

    def output(self, location: str, *, new: bool = False) -> BinaryIO:
        """Open a new file; it is there, whole, once it is closed. After an error inside `with` it is not.

        With `new` it must not be there yet: else FileExistsError, when it is closed at the latest.
        """

    def send(self, location: str, source: IO[bytes], size: int) -> None:
        """Write all of what is being read, `size` bytes, without a copy on the way.

        What reading raises ends it, as an OSError, and nothing is there.
        """

    def copies(self, other: "Storage", source: str, location: str, size: int) -> bool:
        """Tell whether `copy_from` can be of use: whether the store has both files and takes that many bytes."""

    def copy_from(self, other: "Storage", source: str, location: str, size: int) -> bool:
        """Copy a file of another storage without bringing it here; False, with nothing done, where that cannot be."""

    def size(self, location: str) -> int | None:
        """Return the size of a file, None where it is not there."""

    def list(self, location: str) -> Iterator[Stored]:
        """Yield all files below a location, at any depth."""

    def remove(self, locations: Iterable[str]) -> None:
        """Remove files as far as possible; what stays is found by the next sweep. Never raises for one."""

    def touch(self, locations: Iterable[str]) -> None:
        """Let files be as young as if they were written now, so that a sweep spares them."""

    def place(self, location: str) -> str:
        """Return the name by which DuckDB opens a file, on a connection given to `attach`.

        It is the same for all ways to write a location, so locations are compared by it.
        """

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection open places of this storage."""


class _Whole(io.BufferedWriter):
    """A file under another name until it is closed without an error."""

    def __init__(self, location: str, new: bool) -> None:
        self._path, self._new = local_path(location), new
        self._unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.{os.urandom(4).hex()}")
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
        if self._failed:
            return
        if not self._new:
            self._unfinished.rename(self._path)
        else:
            try:
                os.link(self._unfinished, self._path)
            finally:
                self._unfinished.unlink()
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
        try:
            with self.output(location, new=True) as sink:
                sink.write(content)
        except FileExistsError:
            return False
        return True

    def input(self, location: str) -> pa.NativeFile:
        """Open a file for reading anywhere in it."""
        # Not mapped into memory: a block that a disk cannot read is an error then, not the end of the process.
        return pa.OSFile(str(local_path(location)), "r")

    def output(self, location: str, *, new: bool = False) -> BinaryIO:
        """Open a new file; it is there, whole, once it is closed."""
        return _Whole(location, new)

    def send(self, location: str, source: IO[bytes], size: int) -> None:  # noqa: ARG002 - the disk need not know
        """Write all of what is being read."""
        with self.output(location) as sink:
            shutil.copyfileobj(source, sink, COPIED_BYTES)

    def copies(self, other: Storage, source: str, location: str, size: int) -> bool:  # noqa: ARG002 - never
        """Say no: a disk copies nothing by itself."""
        return False

    def copy_from(self, other: Storage, source: str, location: str, size: int) -> bool:  # noqa: ARG002 - never
        """Do nothing."""
        return False

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


def storage_of(url: str, options: StorageOptions | None = None) -> Storage:
    """Return the storage below a URL: a path or `file:///…`, or `s3://bucket/prefix`. Asks nobody yet.

    Raises:
        Invalid: no such kind of storage, or what speaks to it is not installed.
    """
    scheme, _, rest = url.partition("://")
    if not is_remote(url):
        return LocalStorage(url.rstrip("/"))
    # Loaded here, because most lakes lie on a disk and its libraries need not be there.
    try:
        from profilelake.lake.object_storage import SCHEMES, ObjectStorage  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Invalid(
            f"opening the storage {url}: {error.name} is not installed; run: pip install 'profilelake[s3]'"
        ) from error
    if scheme not in SCHEMES or not rest.strip("/"):
        raise Invalid(f"opening the storage {url}: give a directory, or s3://bucket/prefix")
    return ObjectStorage(url.rstrip("/"), options or StorageOptions())
