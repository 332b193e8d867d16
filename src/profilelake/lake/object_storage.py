"""Files on an object store: Amazon S3 and what speaks as it does.

An object is there once its upload is complete, whole, and durable when the store has acknowledged it. What
a lost answer leaves in doubt is looked up: every upload carries a mark of its own, by which it is known.
"""

import configparser
import io
import logging
import random
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, Literal, cast
from urllib.parse import urlsplit

import duckdb
import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store, from_url

from profilelake.errors import Invalid, Unavailable
from profilelake.lake.object_faults import fault, status_of, told
from profilelake.lake.object_reading import RangedFile, attach
from profilelake.lake.storage import Storage, Stored
from profilelake.settings import StorageOptions

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES: Final = ("s3", "gs", "az")
PART_BYTES: Final = 8 << 20
"""A file up to this size goes in one request and waits in memory for it; a larger one waits on the disk
(in the temporary directory) and goes in parts of this size."""
PARTS_AT_ONCE: Final = 4
"""Parts of one upload that are under way together, and so in memory."""
PAUSE_SECONDS: Final = 0.1
PAUSE_SECONDS_MAX: Final = 15.0
"""Before something is tried again it waits for at most that long; twice as long each time, up to the last."""
REMOVED_AT_ONCE: Final = 1_000
LISTED_AT_ONCE: Final = 1_000
COPIED_BYTES_MAX: Final = 1 << 30
"""A larger file is not copied by the store: that is one request, which has to be answered in `request_seconds`."""
_CANNOT_COPY: Final = "405"
"""What servers answer that have no such request, beside 501."""
_MARK: Final = "profilelake-write"
"""Name of the metadata of an object that says which upload made it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ObjectStorage:
    """Files below a prefix of a bucket. A value without credentials: each process finds those itself."""

    root: str
    """`s3://bucket/prefix`; `gs://` and `az://` by the same means, which nobody has tested."""
    options: StorageOptions = field(default_factory=StorageOptions)

    def read(self, location: str) -> bytes:
        """Return a whole small file."""
        with told("reading", location):
            return bytes(obstore.get(*self.located(location)).bytes())

    def write(self, location: str, content: bytes) -> None:
        """Let a file have this content, all or nothing."""
        with self.output(location) as sink:
            sink.write(content)

    def create(self, location: str, content: bytes) -> bool:
        """Write a file that is not there yet; False, with nothing changed, where it is."""
        return _put(self._place(location), content, new=True)

    def input(self, location: str) -> pa.NativeFile:
        """Open a file for reading anywhere in it."""
        return pa.PythonFile(RangedFile.opened(*self.located(location), location), mode="r")

    def output(self, location: str, *, new: bool = False) -> BinaryIO:
        """Open a new file; it is there, whole, once it is closed."""
        return cast(BinaryIO, _Upload(self._place(location), new))

    def send(self, location: str, source: IO[bytes], size: int) -> None:
        """Write all of what is being read: up to `PART_BYTES` from memory, more in parts, `PARTS_AT_ONCE` in memory."""
        if size > PART_BYTES:
            _put_parts(self._place(location), source, size, new=False)
        else:
            _put(self._place(location), source.read(size), new=False)

    def copies(self, other: Storage, source: str, location: str, size: int) -> bool:
        """Tell whether both files are in one bucket, with the same rights, and the store may copy that many bytes."""
        return (
            isinstance(other, ObjectStorage)
            and other.options == self.options
            and _bucket(source) == _bucket(location)
            and size <= COPIED_BYTES_MAX
        )

    def copy_from(self, other: Storage, source: str, location: str, size: int) -> bool:
        """Let the store copy a file within a bucket; False where it cannot."""
        if not self.copies(other, source, location, size):
            return False
        store, key = self.located(location)
        try:
            obstore.copy(store, _key(source), key)
        except (BaseError, FileNotFoundError) as error:
            status = status_of(error)
            # A copy takes as long as it takes, in one request: who gives it up after some seconds, here or on the way, does so
            # each time. Sending the bytes needs many short ones, and tells by itself where the store is ill.
            if not isinstance(error, FileNotFoundError) and (
                status in ("", _CANNOT_COPY) or status[0] == "5"
            ):
                return False
            raise fault(error, "copying", source) from None
        return True

    def size(self, location: str) -> int | None:
        """Return the size of a file, None where it is not there."""
        return _size(self._place(location))

    def list(self, location: str) -> Iterator[Stored]:
        """Yield all files below a location, at any depth."""
        store, prefix = self.located(location)
        bucket = location[: len(location) - len(prefix)].rstrip("/")
        with told("listing", location):
            for found in obstore.list(store, prefix, chunk_size=LISTED_AT_ONCE):
                for each in found:
                    yield Stored(
                        f"{bucket}/{each['path']}", each["size"], int(each["last_modified"].timestamp())
                    )

    def remove(self, locations: Iterable[str]) -> None:
        """Remove files as far as possible."""
        waiting: dict[str, list[str]] = {}
        for location in locations:
            waiting.setdefault(_bucket(location), []).append(location)
        for each in waiting.values():
            coming = iter(each)
            while group := list(islice(coming, REMOVED_AT_ONCE)):
                store, _ = self.located(group[0])
                try:
                    obstore.delete(store, [_key(location) for location in group])
                except (BaseError, FileNotFoundError) as error:
                    _log.warning("%s; the next sweep tries again", fault(error, "removing", group[0]))

    def touch(self, locations: Iterable[str]) -> None:
        """Let files be as young as if they were written now."""
        # No store copies an object onto itself unchanged, so it goes by another name and back, both of them
        # copies within the store. The object is there all the time.
        for location in locations:
            store, key = self.located(location)
            aside = f"{key}.touched"
            with told("keeping", location):
                obstore.copy(store, key, aside)
                obstore.copy(store, aside, key)
            self.remove([f"{location}.touched"])

    def place(self, location: str) -> str:
        """Return the name by which DuckDB opens a file."""
        return location

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection open places of this storage."""
        attach(connection, self.root.partition(":")[0], self, self.options.requests_max)

    def _place(self, location: str) -> "_Place":
        return _Place(*self.located(location), location, self.options)

    def located(self, location: str) -> "tuple[ObjectStore, str]":
        """Return the connections to a bucket, and the key of an object in it."""
        return _opened(_bucket(location), self.options), _key(location)


@dataclass(frozen=True, slots=True)
class _Place:
    """One object, as it is asked for."""

    store: "ObjectStore"
    key: str
    location: str
    options: StorageOptions


class _Upload(io.RawIOBase):
    """A file that waits here until it is closed, and then is on the store, or, after an error, is not."""

    def __init__(self, place: _Place, new: bool) -> None:
        self._place, self._new = place, new
        self._content = tempfile.SpooledTemporaryFile(max_size=PART_BYTES)  # noqa: SIM115 - closed with this
        self._bytes = 0
        self._failed = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def write(self, part: Any) -> int:
        try:
            written = self._content.write(part)
        except OSError as error:
            self._failed = True
            raise Unavailable(
                f"writing {self._place.location}: {error}; make room in the temporary directory (TMPDIR)"
            ) from error
        self._bytes += written
        return written

    def __exit__(self, kind: object, *_: object) -> None:
        self._failed = self._failed or kind is not None
        self.close()

    def __del__(self) -> None:
        # Nobody has said that it is whole.
        self._failed = True
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._failed:
                self._send()
        finally:
            self._content.close()
            super().close()

    def _send(self) -> None:
        self._content.seek(0)
        if self._bytes > PART_BYTES:
            _put_parts(self._place, self._content, self._bytes, new=self._new)
        elif not _put(self._place, self._content.read(), new=self._new):
            raise FileExistsError(f"writing {self._place.location}: there is such a file already")


def _put(place: _Place, content: bytes, *, new: bool) -> bool:
    """Write a small file; False where it is there and should not be."""
    mark = uuid.uuid4().hex
    until = time.monotonic() + place.options.retry_seconds
    mode: Literal["create", "overwrite"] = "create" if new else "overwrite"
    for attempt in count():
        try:
            obstore.put(
                place.store, place.key, content, mode=mode, attributes={_MARK: mark}, use_multipart=False
            )
        except (BaseError, FileNotFoundError) as error:
            # The answer may be that to a repetition, after one that was lost. The mark tells.
            held = _held(place, error)
            if held == (mark, len(content)):
                return True
            if new and held is not None and held[0] != mark:
                return False
            if held is not None and held[0] == mark:
                # Some servers keep what came before the connection broke. The name is ours already.
                mode = "overwrite"
            elif not new or isinstance(error, AlreadyExistsError) or status_of(error):
                # The client has tried again what may be tried again.
                raise fault(error, "writing", place.location) from None
            if attempt >= place.options.retries_max or time.monotonic() > until:
                raise fault(error, "writing", place.location) from None
            time.sleep(random.uniform(0, min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2**attempt)))  # noqa: S311
        else:
            return True
    raise AssertionError("counting does not end")


def _put_parts(place: _Place, content: IO[bytes], size: int, *, new: bool) -> None:
    """Write a large file in parts; nothing of it is seen before all of them are there."""
    mark = uuid.uuid4().hex
    # The parts carry no condition, but names of large files are made for them alone.
    if new and _size(place) is not None:
        raise FileExistsError(f"writing {place.location}: there is such a file already")
    try:
        obstore.put(
            place.store,
            place.key,
            content,
            attributes={_MARK: mark},
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
        )
    except (BaseError, FileNotFoundError) as error:
        if _held(place, error) != (mark, size):
            raise fault(error, "writing", place.location) from None


def _held(place: _Place, error: Exception) -> tuple[str, int] | None:
    """Return the mark and size of what is there after an upload met an error; None where nothing is.

    Raises:
        Unavailable: nobody says. It is told as what the upload met.
    """
    try:
        found = obstore.get(place.store, place.key, options={"head": True})
    except FileNotFoundError:
        return None
    except BaseError:
        raise fault(error, "writing", place.location) from None
    return str(found.attributes.get(_MARK, "")), found.meta["size"]


def _size(place: _Place) -> int | None:
    try:
        with told("looking at", place.location):
            return obstore.head(place.store, place.key)["size"]
    except FileNotFoundError:
        return None


class _CredentialsFile:
    """Credentials from a file, read again as soon as they might be others."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> Any:
        parser = configparser.ConfigParser(interpolation=None)
        path = Path(self._path)
        try:
            if path.stat().st_mode & 0o007:
                raise Unavailable(f"reading credentials: everybody may read {path}; run: chmod 600 {path}")
            parser.read_string(path.read_text(encoding="utf-8"))
            section = parser["default"]
            found = {
                "access_key_id": section["aws_access_key_id"],
                "secret_access_key": section["aws_secret_access_key"],
                "token": section.get("aws_session_token"),
            }
        except OSError as error:
            raise Unavailable(f"reading credentials: {self._path}: {error.strerror}") from None
        except (configparser.Error, KeyError, UnicodeDecodeError):
            # What it holds is not repeated.
            raise Unavailable(
                f"reading credentials: {self._path} has no section [default] with aws_access_key_id and "
                "aws_secret_access_key"
            ) from None
        # As good as expired, so that the file is asked again by the next request.
        return {**found, "expires_at": datetime.now(UTC) + timedelta(seconds=1)}


@lru_cache(maxsize=64)
def _opened(bucket: str, options: StorageOptions) -> "ObjectStore":
    """Return the connections of this process to a bucket, made at the first use."""
    scheme, name = bucket.split("://")
    if scheme not in SCHEMES or not name:
        raise Invalid(f"opening the storage {bucket}: give s3://bucket/prefix")
    client: ClientConfig = {
        "allow_http": options.plain_http == "allowed",
        "connect_timeout": timedelta(seconds=options.connect_seconds),
        "timeout": timedelta(seconds=options.request_seconds),
    }
    retry: RetryConfig = {
        "max_retries": options.retries_max,
        "retry_timeout": timedelta(seconds=options.retry_seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=PAUSE_SECONDS),
            "max_backoff": timedelta(seconds=PAUSE_SECONDS_MAX),
            "base": 2,
        },
    }
    if scheme != "s3":
        return from_url(bucket, client_options=client, retry_config=retry)
    path_style = options.addressing == "path" or (options.addressing == "auto" and bool(options.endpoint))
    config: dict[str, Any] = {"virtual_hosted_style_request": not path_style}
    if options.endpoint:
        config["endpoint"] = options.endpoint.rstrip("/")
    if options.region:
        config["region"] = options.region
    if options.credentials:
        provider = _CredentialsFile(options.credentials)
        provider()
        config["credential_provider"] = provider
    return S3Store(name, client_options=client, retry_config=retry, **config)


def _bucket(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc}"


def _key(location: str) -> str:
    return location.split("/", 3)[3] if location.count("/") > 2 else ""
