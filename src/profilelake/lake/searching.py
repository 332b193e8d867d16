"""Look for values in all files below a table, whether a snapshot reaches them or not.

Parquet is decoded column by column and so is its footer, which keeps least and greatest values; the blocks of
Avro files are unpacked; of other files the bytes are searched. So it finds what was removed and is still
there, wherever it is.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilelake.errors import Corrupt, Invalid
from profilelake.lake.storage import Storage

SOUGHT_MAX: Final = 10_000
"""Values that are looked for at once: each text is compared with all of them."""
_ID_BYTES: Final = 16
_AVRO: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_FOOTER_BYTES: Final = 8
"""Length of the footer and the magic word at the end of a Parquet file."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in which something is, and where: a column, or a part of the file. Not what it is."""

    location: str
    where: str


def search(storage: Storage, location: str, *, ids: Sequence[bytes], texts: Sequence[str]) -> Iterator[Found]:
    """Yield every place below a location that has one of these ids, as bytes or in hex, or of these texts.

    Raises:
        Invalid: there is nothing to look for, or more than `SOUGHT_MAX`.
        Corrupt: a file cannot be decoded, so that nobody can say what is in it.
    """
    if not 0 < len(ids) + len(texts) <= SOUGHT_MAX:
        raise Invalid(f"searching {location}: {len(ids) + len(texts)} values; give 1 to {SOUGHT_MAX}")
    sought = _Sought.of(ids, texts)
    for file in storage.list(location):
        try:
            for where in _search_file(storage, file.location, sought):
                yield Found(file.location, where)
        except FileNotFoundError:
            continue  # Swept meanwhile.
        except (pa.ArrowInvalid, OSError, zlib.error, IndexError) as error:
            raise Corrupt(
                f"searching {file.location}: {error}; see whether it is a file of ours, and remove it if not"
            ) from error


@dataclass(frozen=True)
class _Sought:
    ids: pa.Array
    words: str
    """For texts: regular expression of all texts, and of the ids in hex."""
    raw: "re.Pattern[bytes]"

    @classmethod
    def of(cls, ids: Sequence[bytes], texts: Sequence[str]) -> "_Sought":
        words = [*(key.hex() for key in ids), *texts]
        raw = [*ids, *(word.encode() for word in words)]
        return cls(
            pa.array(list(ids), pa.binary(_ID_BYTES)),
            "|".join(re.escape(word) for word in words),
            re.compile(b"|".join(re.escape(word) for word in raw), re.DOTALL),
        )


def _search_file(storage: Storage, location: str, sought: _Sought) -> Iterator[str]:
    if location.endswith(".parquet"):
        with storage.input(location) as source:
            yield from _search_parquet(source, sought)
        return
    content = storage.read(location)
    parts = _avro_blocks(content) if content.startswith(_AVRO) else iter((content,))
    if any(sought.raw.search(part) for part in parts):
        yield "its bytes"


def _search_parquet(source: pa.NativeFile, sought: _Sought) -> Iterator[str]:
    size = source.size()
    footer = int.from_bytes(source.read_at(_FOOTER_BYTES, size - _FOOTER_BYTES)[:4], "little")
    if sought.raw.search(bytes(source.read_at(footer, size - _FOOTER_BYTES - footer))):
        yield "its footer"
    with pq.ParquetFile(source, page_checksum_verification=True) as opened:
        left = list(opened.schema_arrow.names)
        for number in range(opened.num_row_groups):
            rows = opened.read_row_group(number, columns=left)
            for name in rows.column_names:
                if any(_holds(values, sought) for values in rows.column(name).chunks):
                    left.remove(name)
                    yield f"column {name}"


def _holds(values: pa.Array, sought: _Sought) -> bool:
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds(values.flatten(), sought)
    if pa.types.is_struct(kind):
        return any(_holds(part, sought) for part in values.flatten())
    if pa.types.is_fixed_size_binary(kind):
        if kind.byte_width != _ID_BYTES or not len(sought.ids):
            return False
        return bool(pc.any(pc.is_in(values, sought.ids)).as_py())
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        found = pc.match_substring_regex(values, sought.words)
        return bool(np.asarray(pc.fill_null(found, False)).any())
    return False


def _avro_blocks(content: bytes) -> Iterator[bytes]:
    """Yield the header and the unpacked blocks of an Avro file."""
    at, codec = len(_AVRO), b"null"
    while True:
        count, at = _number(content, at)
        if count == 0:
            break
        if count < 0:
            count, (_, at) = -count, _number(content, at)
        for _ in range(count):
            key, at = _bytes(content, at)
            value, at = _bytes(content, at)
            if key == b"avro.codec":
                codec = value
    at += _SYNC_BYTES
    yield content[:at]
    while at < len(content):
        _, at = _number(content, at)
        packed, at = _bytes(content, at)
        at += _SYNC_BYTES
        if codec == b"deflate":
            yield zlib.decompress(packed, wbits=-zlib.MAX_WBITS)
        elif codec == b"null":
            yield packed
        else:
            raise OSError(f"codec {codec.decode(errors='replace')} is not known")


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Read a number as Avro writes it: seven bits at a time, the sign in the lowest."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


def _bytes(content: bytes, at: int) -> tuple[bytes, int]:
    length, at = _number(content, at)
    return content[at : at + length], at + length
