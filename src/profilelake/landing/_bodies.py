"""Request bodies as they lie in the log, to bytes of JSON."""

import zlib
from typing import Final, cast

from isal import isal_zlib

from profilelake.eventlog import Flags, Record

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of one body after Content-Encoding; collect accepts far fewer, so only damage or a bomb is larger."""
_IsalError = cast("type[Exception]", isal_zlib.error)
_GZIP: Final = 31
_GZIP_MAGIC: Final = b"\x1f\x8b"


class Damaged(Exception):
    """The body cannot be unpacked; the message says why."""


def unpack(record: Record) -> bytes:
    """Return the body of a record without its gzip, whatever a sender put into it.

    Raises:
        Damaged: the gzip data is broken, cut off, or larger than `BODY_BYTES_MAX`.
    """
    if not record.flags & Flags.GZIP:
        return record.body
    out = b""
    rest = record.body
    while True:
        part, rest = _member(rest, BODY_BYTES_MAX - len(out))
        out = out + part if out else part
        if not rest:
            return out
        if not rest.startswith(_GZIP_MAGIC):
            raise Damaged("gzip: other data follows the end")


def _member(data: bytes, bytes_max: int) -> tuple[bytes, bytes]:
    """Unpack one gzip member; return its content and what follows."""
    try:
        return _inflate(isal_zlib.decompressobj(_GZIP), data, bytes_max)
    except _IsalError:
        # The slower library is the judge of what is gzip.
        try:
            return _inflate(zlib.decompressobj(_GZIP), data, bytes_max)
        except zlib.error as error:
            raise Damaged(f"gzip: {error}") from error


def _inflate(
    reader: "isal_zlib.Decompress | zlib._Decompress", data: bytes, bytes_max: int
) -> tuple[bytes, bytes]:
    # One byte more than allowed is asked for, because 0 would mean no limit.
    out = reader.decompress(data, bytes_max + 1)
    if len(out) > bytes_max:
        raise Damaged(f"gzip: more than {BODY_BYTES_MAX} bytes after unpacking")
    if not reader.eof:
        raise Damaged("gzip: the data ends too early")
    return out, reader.unused_data
