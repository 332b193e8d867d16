"""The bytes of a segment: header, records, footer. No files here, only encoding and checking.

A segment is one header, records back to back, and once it is sealed one footer. All numbers are
little-endian. Offsets count record bytes only, through all segments of a log, so a segment's
header and footer take no place in them. A *marker*, 8 random bytes per log that never leave the
log's files, stands in every record: after damage the next record is found by searching for it,
and no sender can forge a record inside a body.

Every version of the format keeps this: the header starts with `MAGIC`, the version and the
header's size (two bytes each), and its last four bytes are the CRC-32 of what stands before them.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from profilelake.errors import Corrupt, Invalid
from profilelake.eventlog import Entry, Flags, Kind, LogEnd, Record

try:
    from isal import isal_zlib

    crc32 = cast("Callable[..., int]", isal_zlib.crc32)
except ImportError:  # pragma: no cover  (isal has no wheel for every platform; the sums are the same)
    crc32 = zlib.crc32

MAGIC: Final = b"PLEVENTS"
FORMAT_VERSION: Final = 1

RECORD_BYTES_MAX: Final = 32 * 1024 * 1024
"""A longer length in a record header is damage."""

REGION_BYTES_MAX: Final = 64

_HEADER: Final = struct.Struct("<8sHHHH8s8sQQq64s4xI")
HEADER_BYTES: Final = _HEADER.size

_FOOTER: Final = struct.Struct("<8s8s8sQQQqqB7xII")
_FOOTER_MAGIC: Final = b"PLSEALED"
FOOTER_BYTES: Final = _FOOTER.size
_FOOTER_SUM_AT: Final = FOOTER_BYTES - 8

_RECORD: Final = struct.Struct("<II8sqQIBBHHHHH")
RECORD_HEADER_BYTES: Final = _RECORD.size
_RECORD_SUM: Final = struct.Struct("<I")
_RECORD_PLACE: Final = struct.Struct("<I8sqQ")
_RECORD_ENTRY: Final = struct.Struct("<IBBHHHHH")
_RECORD_FRONT_BYTES: Final = _RECORD_SUM.size + _RECORD_PLACE.size
MARKER_AT: Final = 8
"""Where the marker stands in a record."""

_KINDS: Final = {int(kind): kind for kind in Kind}
_FLAGS: Final = tuple(Flags(value) for value in range(256))


@dataclass(frozen=True, slots=True)
class Identity:
    """What all files of one log have in common."""

    log_id: str
    marker: bytes
    region: str


@dataclass(frozen=True, slots=True)
class Header:
    """The start of a segment: whose it is, its first offset and the events of the log before it."""

    identity: Identity
    base: int
    events_before: int
    created_at: int

    def encode(self) -> bytes:
        region = self.identity.region.encode()
        if len(region) > REGION_BYTES_MAX:
            raise Invalid(f"region name {self.identity.region!r} is longer than {REGION_BYTES_MAX} bytes")
        data = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            HEADER_BYTES,
            len(region),
            0,
            bytes.fromhex(self.identity.log_id),
            self.identity.marker,
            self.base,
            self.events_before,
            self.created_at,
            region,
            0,
        )
        return data[:-4] + crc32(data[:-4]).to_bytes(4, "little")


def decode_header(data: bytes, name: str) -> Header | None:
    """Return the header in `data`, or None when it is damaged; `name` is for the error's text.

    Raises:
        Corrupt: the header is whole, but of a version this program does not know. Going on would
            skip good records, so nothing is read.
    """
    if len(data) < 12 or data[:8] != MAGIC:
        return None
    version, size = struct.unpack_from("<HH", data, 8)
    if not 16 <= size <= len(data):
        return None
    if crc32(data[: size - 4]) != int.from_bytes(data[size - 4 : size], "little"):
        return None
    if version != FORMAT_VERSION or size != HEADER_BYTES:
        raise Corrupt(
            f"segment {name} has format version {version}, this program reads {FORMAT_VERSION}: "
            "start the newer profilelake that wrote it"
        )
    _, _, _, region_bytes, _, log_id, marker, base, events_before, created_at, region, _ = _HEADER.unpack(
        data[:HEADER_BYTES]
    )
    identity = Identity(log_id.hex(), marker, region[:region_bytes].decode())
    return Header(identity, base, events_before, created_at)


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of a sealed segment. `closed` says that the log ends here, too."""

    base: int
    end: LogEnd
    last_received_at: int
    sealed_at: int
    closed: bool

    def encode(self, identity: Identity) -> bytes:
        data = _FOOTER.pack(
            _FOOTER_MAGIC,
            bytes.fromhex(identity.log_id),
            identity.marker,
            self.base,
            self.end.offset,
            self.end.events,
            self.last_received_at,
            self.sealed_at,
            self.closed,
            0,
            0,
        )
        total = crc32(data[:_FOOTER_SUM_AT]).to_bytes(4, "little")
        return data[:_FOOTER_SUM_AT] + total + total


def decode_footer(data: bytes, identity: Identity) -> Footer | None:
    """Return the footer in `data`, or None when these bytes are no whole footer of this log."""
    if len(data) != FOOTER_BYTES or data[:8] != _FOOTER_MAGIC:
        return None
    total = crc32(data[:_FOOTER_SUM_AT]).to_bytes(4, "little")
    if data[_FOOTER_SUM_AT:] != total + total:
        return None
    _, log_id, marker, base, offset, events, last_received_at, sealed_at, closed, _, _ = _FOOTER.unpack(data)
    if log_id.hex() != identity.log_id or marker != identity.marker:
        return None
    return Footer(base, LogEnd(offset, events), last_received_at, sealed_at, closed == 1)


def encode_entry(entry: Entry) -> bytes:
    """Return the part of a record that is known before its place is: numbers and short texts.

    Raises:
        Invalid: a value does not fit its field, or the record would be longer than `RECORD_BYTES_MAX`.
    """
    workspace, source_id, kind, flags, events, extraction, ip, sent_at, body = entry
    parts: tuple[str, ...] | tuple[bytes, ...] = (workspace, source_id, ip, sent_at)
    text = f"{workspace}{source_id}{ip}{sent_at}"
    if text.isascii():
        names = text.encode()
    else:
        # Text from a client may hold lone surrogates; they are kept as they are.
        parts = tuple(_bytes(part) for part in (workspace, source_id, ip, sent_at))
        names = b"".join(parts)
    try:
        head = _RECORD_ENTRY.pack(events, kind, flags, extraction, *map(len, parts)) + names
    except struct.error as error:
        raise Invalid(f"entry of source {source_id[:80]!r} does not fit the log: {error}") from None
    if record_bytes(head, body) > RECORD_BYTES_MAX:
        raise Invalid(f"body of {len(body)} bytes is longer than the log's {RECORD_BYTES_MAX}: split it")
    return head


def record_bytes(head: bytes, body: bytes) -> int:
    """Return how long the record of an encoded entry will be."""
    return _RECORD_FRONT_BYTES + len(head) + len(body)


def encode_record(head: bytes, body: bytes, marker: bytes, received_at: int, events_before: int) -> bytes:
    """Return everything of a record that stands before its body."""
    front = (
        _RECORD_PLACE.pack(_RECORD_FRONT_BYTES + len(head) + len(body), marker, received_at, events_before)
        + head
    )
    return _RECORD_SUM.pack(crc32(body, crc32(front))) + front


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a stretch of bytes held: whole records from its start, and why it ended there.

    `used` bytes are records. `wanted` is the length of the record at that place when it is longer
    than what was given, else 0. `damaged` says that the bytes there are no record.
    """

    records: list[Record]
    used: int
    wanted: int
    damaged: bool


def parse_records(data: bytes, offset: int, identity: Identity) -> Parsed:
    """Return the whole, correct records at the start of `data`, whose first byte is at `offset`.

    Raises:
        Corrupt: a whole record is of a kind this program does not know.
    """
    records: list[Record] = []
    marker, region, log_id = identity.marker, identity.region, identity.log_id
    unpack, kinds, flags_of, check, make = _RECORD.unpack_from, _KINDS, _FLAGS, crc32, tuple.__new__
    names: dict[tuple[bytes, int], tuple[str, str]] = {}
    view = memoryview(data)
    at, size = 0, len(data)
    wanted, damaged = 0, False
    while size - at >= RECORD_HEADER_BYTES:
        (
            total, length, mark, received_at, events_before, events,
            kind, flags, extraction, workspace_bytes, source_bytes, ip_bytes, sent_bytes,
        ) = unpack(data, at)  # fmt: skip
        if mark != marker or not RECORD_HEADER_BYTES <= length <= RECORD_BYTES_MAX:
            damaged = True
            break
        end = at + length
        if end > size:
            wanted = length
            break
        if check(view[at + 4 : end]) != total:
            damaged = True
            break
        source_at = at + RECORD_HEADER_BYTES
        ip_at = source_at + workspace_bytes + source_bytes
        sent_at = ip_at + ip_bytes
        body_at = sent_at + sent_bytes
        # Almost all records of a stretch come from few sources, so their names are decoded once.
        key = (data[source_at:ip_at], workspace_bytes)
        pair = names.get(key)
        if pair is None:
            pair = (_text(key[0][:workspace_bytes]), _text(key[0][workspace_bytes:]))
            names[key] = pair
        if kind not in kinds:
            raise Corrupt(
                f"record at offset {offset + at} of log {log_id} is of the unknown kind {kind}: "
                "start the newer profilelake that wrote it"
            )
        row = (
            received_at, region, log_id, offset + at, offset + end, events_before, pair[0], pair[1],
            kinds[kind], flags_of[flags], events, extraction,
            _text(data[ip_at:sent_at]), _text(data[sent_at:body_at]), data[body_at:end],
        )  # fmt: skip
        records.append(make(Record, row))
        at = end
    return Parsed(records, at, wanted, damaged)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
