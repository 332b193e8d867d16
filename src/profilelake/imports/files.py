"""Finds the files of an import and opens them: plain, gzip or zstd, by what they hold, not by their name."""

import glob
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias, cast, get_args

import pyarrow as pa
from isal import igzip, isal_zlib

from profilelake.errors import Invalid, NotFound, Unavailable

Format: TypeAlias = Literal["ndjson", "csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
STDIN: Final = "-"
FILES_MAX: Final = 1_000_000
"""Files of one import."""

_PACKED: Final = (".gz", ".zst", ".zstd")
_FORMAT_OF_SUFFIX: Final[dict[str, Format]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".log": "ndjson",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_MAGIC_BYTES: Final = 4
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"
_READ_BYTES: Final = 1024 * 1024
_IsalError = cast("type[Exception]", isal_zlib.error)


@dataclass(frozen=True, slots=True)
class ImportFile:
    """One file to import; `path` is None for the standard input, and `bytes` for what has no size."""

    name: str
    path: Path | None
    bytes: int | None

    @property
    def suffix(self) -> str:
        """The ending of the name in lower case, without that of a packer."""
        stem = Path(self.name.lower())
        return Path(stem.stem).suffix if stem.suffix in _PACKED else stem.suffix


def find_files(names: Sequence[str]) -> list[ImportFile]:
    """Return the files that names, patterns and directories stand for: in their order, each once.

    Of a directory these are all files below it whose ending is known, by name; hidden ones, and those
    whose name begins with `_` as the marks of other engines do, are left out.

    Raises:
        NotFound: a name stands for nothing.
        Unavailable: a file may not be read.
    """
    found: dict[str, ImportFile] = {}
    for name in names:
        if name == STDIN:
            found.setdefault(STDIN, ImportFile("standard input", None, None))
            continue
        paths = list(_paths(name))
        if not paths:
            endings = ", ".join(_FORMAT_OF_SUFFIX)
            raise NotFound(f"importing {name}: there is no such file; in a directory, files end in {endings}")
        for path in paths:
            if not os.access(path, os.R_OK):
                raise Unavailable(f"importing {path}: it may not be read; change its permissions")
            found.setdefault(str(path.absolute()), ImportFile(str(path), path, path.stat().st_size))
    if len(found) > FILES_MAX:
        raise Invalid(f"importing {len(found)} files: more than {FILES_MAX}; import them in parts")
    return list(found.values())


def _paths(name: str) -> Iterator[Path]:
    path = Path(name)
    # A file whose name holds a bracket is that file, not a pattern.
    matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    for match in matches:
        if not match.is_dir():
            yield match
            continue
        for below in sorted(match.rglob("*")):
            inner = below.relative_to(match).parts
            shown = not any(part.startswith((".", "_")) for part in inner)
            known = ImportFile(below.name, below, None).suffix in _FORMAT_OF_SUFFIX
            if shown and known and below.is_file():
                yield below


def format_of(file: ImportFile, forced: Format | None, head: bytes) -> Format:
    """Return what a file holds, of its first bytes (unpacked) and its name; `forced` is believed."""
    if forced is not None:
        return forced
    if head.startswith(_PARQUET):
        return "parquet"
    return _FORMAT_OF_SUFFIX.get(file.suffix, "ndjson")


class Source:
    """An open file: `read` gives what it holds, unpacked; `consumed` tells how far the file itself was read."""

    def __init__(self, file: ImportFile, raw: IO[bytes]) -> None:
        self.file = file
        self._raw = _Counting(raw)
        magic = self._raw.peek(_MAGIC_BYTES)
        self._stream: Any = self._raw
        if magic.startswith(_GZIP):
            self._stream = igzip.IGzipFile(fileobj=self._raw)  # type: ignore[no-untyped-call]
        elif magic.startswith(_ZSTD):
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), "zstd")
        self._head = b""

    @property
    def packed(self) -> bool:
        return self._stream is not self._raw

    @property
    def consumed(self) -> int:
        return self._raw.consumed

    def head(self) -> bytes:
        """Return the first bytes without taking them away."""
        if not self._head:
            self._head = self._read(_READ_BYTES)
        return self._head

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`, empty at the end.

        Raises:
            Invalid: the packed data is damaged or cut off.
        """
        if self._head:
            part = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(part) :]
            return part + self.read() if size < 0 else part
        return self._read(size)

    def blocks(self) -> Iterator[bytes]:
        """Yield everything that is left."""
        while block := self.read(_READ_BYTES):
            yield block

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except (EOFError, _IsalError, zlib.error, OSError) as error:
            if not self.packed or (isinstance(error, OSError) and error.errno):
                raise
            raise Invalid(
                f"reading {self.file.name}: the packed data is damaged or cut off ({error}); "
                "get a whole copy and import it: what is imported already is not doubled"
            ) from error

    # What file-like objects are asked for by readers of CSV.
    closed = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing: whoever has opened the file closes it."""


class _Counting:
    """A file that counts what is read of it."""

    closed = False

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._ahead = b""
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (part := self._raw.read(size - len(self._ahead))):
            self._ahead += part
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        data, self._ahead = self._ahead, b""
        data += self._raw.read(size - len(data) if size > len(data) else size)
        self.consumed += len(data)
        return data

    def readinto(self, room: bytearray | memoryview) -> int:
        data = self.read(len(room))
        room[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing: whoever has opened the file closes it."""


@contextmanager
def opened(file: ImportFile) -> Iterator[Source]:
    """Open a file for reading from its start."""
    if file.path is None:
        yield Source(file, sys.stdin.buffer)
        return
    with file.path.open("rb") as raw:
        yield Source(file, raw)
