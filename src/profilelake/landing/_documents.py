"""The JSON documents in a chunk of log records: a record's body, or each line of one that has lines."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from profilelake.eventlog import Flags, Kind, Record
from profilelake.kernels.json_tape import Bytes, borrowing
from profilelake.landing import _scan_rows as to
from profilelake.landing._scan_rows import Longs
from profilelake.landing._scan_times import NO_TIME
from profilelake.semantics import json_text
from profilelake.semantics.events import EVENT_TYPES, Envelope, EventType, Lines
from profilelake.semantics.times import parse_time

_TYPE_OF_KIND: Final[dict[Kind, EventType | None]] = {
    Kind.BATCH: None,
    Kind.IDENTIFY: "identify",
    Kind.TRACK: "track",
    Kind.PAGE: "page",
    Kind.SCREEN: "screen",
    Kind.GROUP: "group",
    Kind.ALIAS: "alias",
    Kind.LINES: None,
}
_NEWLINE: Final = 10


@dataclass(frozen=True, slots=True)
class Body:
    """A record and its unpacked body, or why it could not be unpacked."""

    record: Record
    body: bytes
    damage: str = ""


def envelope_of(record: Record) -> Envelope:
    """Return what the reference must know of a record besides its body."""
    lines = Lines.decode(record.ip) if record.kind is Kind.LINES else None
    return Envelope(
        received_at=record.received_at,
        region=record.region,
        log_id=record.log_id,
        offset=record.offset,
        source_id=record.source_id,
        type=_TYPE_OF_KIND[record.kind],
        events=record.events,
        ip="" if lines else record.ip,
        sent_at="" if lines else record.sent_at,
        browser=bool(record.flags & Flags.BROWSER),
        extraction_version=record.extraction_version,
        lines=lines,
    )


def documents_of(
    chunk: Sequence[Body],
    source: Bytes,
    addresses: Sequence[bytes],
    first_address: int,
    alias_sources: AbstractSet[str],
) -> npt.NDArray[np.void]:
    """Return what the scan must know of each document; `source` is all bodies, end to end."""
    documents = np.zeros(len(chunk), to.DOCUMENT)
    documents["record"] = np.arange(len(chunk))
    documents["stop"] = np.cumsum([len(item.body) for item in chunk])
    documents["start"][1:] = documents["stop"][:-1]
    documents["address_stop"] = first_address + np.cumsum([len(address) for address in addresses])
    documents["address_start"] = np.concatenate(([first_address], documents["address_stop"][:-1]))
    documents["type"] = [_path_type(item) for item in chunk]
    documents["default_type"] = -1
    documents["received_at"] = [item.record.received_at for item in chunk]
    documents["sent_at"] = [_header_time(item.record) for item in chunk]
    documents["browser"] = [bool(item.record.flags & Flags.BROWSER) for item in chunk]
    if alias_sources:
        documents["hint"] = [item.record.source_id in alias_sources for item in chunk]
    readable = documents["type"] != to.UNREADABLE
    documents["events"][readable] = np.array([item.record.events for item in chunk], np.int64)[readable]
    with_lines = np.flatnonzero(documents["type"] == to.LINE).tolist()
    if not with_lines:
        return documents
    parts, done = [], 0
    for number in with_lines:
        parts += [documents[done:number], _lines(chunk[number], documents[number : number + 1], source)]
        done = number + 1
    return np.concatenate([*parts, documents[done:]])


def address_of(record: Record) -> bytes:
    """Return the member that fills in the peer's address."""
    return (
        b'"ip":' + json_text.dump(record.ip).encode() if record.ip and record.kind is not Kind.LINES else b""
    )


def _path_type(item: Body) -> int:
    """Return what the scan must know of a record's path; some records it cannot read."""
    record = item.record
    # Room is made for as many events as were counted, so a count that cannot be is not believed.
    if (
        item.damage
        or record.flags & (Flags.TOLERANT | Flags.SUPPRESSED)
        or not 0 <= record.events <= len(item.body)
    ):
        return to.UNREADABLE
    if record.kind is Kind.LINES:
        return to.LINE
    if not _is_utf8(item.body):
        return to.UNREADABLE
    type = _TYPE_OF_KIND[record.kind]
    return to.BATCH if type is None else EVENT_TYPES.index(type)


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header_time(record: Record) -> int:
    time = parse_time(record.sent_at) if record.sent_at and record.kind is not Kind.LINES else None
    return NO_TIME if time is None else time


# ---- lines -----------------------------------------------------------------------------------


def _lines(item: Body, whole: npt.NDArray[np.void], source: Bytes) -> npt.NDArray[np.void]:
    """Return a document per line that holds something; the whole if they are not as many as counted."""
    start, stop, events = int(whole["start"][0]), int(whole["stop"][0]), item.record.events
    breaks = np.append(np.flatnonzero(source[start:stop] == _NEWLINE), stop - start)
    spans = np.empty((2, events), np.int64)
    if _find_lines(source[start:stop], breaks, spans) != events:
        whole["type"] = to.UNREADABLE
        whole["events"] = 0
        return whole
    lines = np.repeat(whole, events)
    lines["index"] = np.arange(events)
    lines["start"], lines["stop"] = start + spans
    lines["events"] = 1
    type = Lines.decode(item.record.ip).type
    lines["default_type"] = -1 if type is None else EVENT_TYPES.index(type)
    if not _is_utf8(item.body):
        for line, (begin, end) in zip(lines, spans.T.tolist(), strict=True):
            if not _is_utf8(item.body[begin:end]):
                line["type"] = to.UNREADABLE_LINE
                line["events"] = 0
    return lines


@borrowing
def _find_lines(body: Bytes, breaks: Longs, spans: Longs) -> int:
    """Note begin and end of each line, without the spaces around it; return how many hold something."""
    found = 0
    at = 0
    for place in range(breaks.size):
        end = breaks[place]
        after = end + 1
        while at < end and _is_space(body[at]):
            at += 1
        while at < end and _is_space(body[end - 1]):
            end -= 1
        if at < end:
            if found < spans.shape[1]:
                spans[0, found] = at
                spans[1, found] = end
            found += 1
        at = after
    return found


@borrowing
def _is_space(byte: int) -> bool:
    return byte == 32 or byte == 9 or byte == 13
