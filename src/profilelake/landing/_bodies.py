"""Bodies as they lie in the log, to bytes of JSON."""

import zlib
from typing import Final, cast

import pyarrow as pa
from isal import isal_zlib

from profilelake.eventlog import Flags, Record

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of one body after Content-Encoding; collect accepts far fewer, so only damage or a bomb is larger."""
_IsalError = cast("type[Exception]", isal_zlib.error)
_ZSTD_STEP: Final = 4 * 1024 * 1024
_GZIP: Final = 31
_GZIP_MAGIC: Final = b"\x1f\x8b"


class Damaged(Exception):
    """The body cannot be unpacked; the message says why."""


def unpack(record: Record) -> bytes:
    """Return the body of a record without its gzip or zstd, whatever a sender put into it.

    Raises:
        Damaged: the packed data is broken, cut off, or larger than `BODY_BYTES_MAX`.
    """
    if record.flags & Flags.ZSTD:
        return unpack_zstd(record.body)
    return unpack_gzip(record.body) if record.flags & Flags.GZIP else record.body


def unpack_gzip(body: bytes) -> bytes:
    """Return what is in gzip data of one or more members. Raises Damaged."""
    out = b""
    rest = body
    while True:
        part, rest = _member(rest, BODY_BYTES_MAX - len(out))
        out = out + part if out else part
        if not rest:
            return out
        if not rest.startswith(_GZIP_MAGIC):
            raise Damaged("gzip: other data follows the end")


def unpack_zstd(body: bytes) -> bytes:
    """Return what is in a zstd frame. Raises Damaged."""
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            # One read would make room for as much as is allowed.
            parts = []
            size = 0
            while part := stream.read(_ZSTD_STEP):
                parts.append(part)
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise Damaged(f"zstd: more than {BODY_BYTES_MAX} bytes after unpacking")
    except OSError as error:
        raise Damaged(f"zstd: {error}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
