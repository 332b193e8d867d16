"""Log records to Arrow: what was accepted, whom it names, and what was refused and why.

`semantics.events` says what a record means. Clean records take the compiled scan (`_scan`), which
knows nothing else; all others are read by that reference itself, one by one, and put in their place.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.eventlog import Flags, Kind, Record
from profilelake.kernels import json_tape
from profilelake.landing import _scan_rows as to
from profilelake.landing._bodies import Damaged, unpack
from profilelake.landing._documents import Body, address_of, documents_of, envelope_of
from profilelake.landing._scan import scan
from profilelake.landing._scan_times import NO_TIME
from profilelake.landing._vocabulary import Vocabulary
from profilelake.landing.requests import Request, batch_of
from profilelake.landing.tables import POSITION, TIME
from profilelake.semantics.events import (
    EVENT_DEPTH_MAX,
    Event,
    Rejected,
    check_extraction_version,
    parse_line,
    parse_record,
    size_detail,
    undecodable,
)
from profilelake.semantics.positions import region_code
from profilelake.semantics.rules import EXTRACTION_VERSION, IdentityRules, segment_defaults

_TIMES: Final = ("received_at", "timestamp", "original_timestamp", "sent_at")
_COLUMNS: Final = (
    "position", "received_at", "message_id", "type", "event", "name", "user_id", "anonymous_id", "group_id",
    "previous_id", "timestamp", "original_timestamp", "sent_at", "source_id", "library", "consent",
    "context", "properties", "traits", "integrations", "region",
)  # fmt: skip
_SPECIAL: Final = {"position": POSITION, **dict.fromkeys(_TIMES, TIME)}
EVENTS: Final = pa.schema([(name, _SPECIAL.get(name, pa.string())) for name in _COLUMNS])
IDENTIFIERS: Final = pa.schema(
    [("row", pa.int32()), ("collection", pa.int8()), ("type", pa.string()), ("value", pa.string())]
)
"""`row` counts in the events table, ascending; `collection` is a place in `COLLECTIONS`."""
FAILED: Final = pa.schema(
    [
        ("position", POSITION),
        ("received_at", TIME),
        ("message_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.binary()),
        ("request", pa.string()),
        ("batch", pa.string()),
        ("source_id", pa.string()),
        ("region", pa.string()),
    ]
)

CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Unpacked bytes that are scanned together; the working set then stays near the processor's caches."""
_NAMES_PER_EVENT: Final = 6
_PATCH_ROOM: Final = 1024 * 1024

_HEADER: Final = np.dtype("V28")
"""A position up to the index."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What records mean: every event of every record is one row of `events` or of `failed`.

    Rows follow the records and the events in them. `identifiers` holds each identifier of an
    event once, users before accounts. `exact` counts the documents that only the reference could read,
    `suppressed` the events that collect has taken out, which are in neither table.
    """

    events: pa.Table
    identifiers: pa.Table
    failed: pa.Table
    exact: int
    suppressed: int = 0


def parse(records: Sequence[Record], rules: IdentityRules) -> Parsed:
    """Return what the events of the records mean; nothing a sender wrote makes this fail.

    Raises:
        Unavailable: a newer program wrote a record and reads identifiers from other places.
    """
    for record in records:
        check_extraction_version(record.extraction_version)
    vocabulary = Vocabulary.of(rules)
    parts = [_parse_chunk(chunk, rules, vocabulary) for chunk in _chunks(records)]
    rows = np.cumsum([0, *(part.events.num_rows for part in parts)])
    identifiers = [
        part.identifiers.set_column(
            0, IDENTIFIERS.field(0), pc.add(part.identifiers["row"], pa.scalar(first, pa.int32()))
        )
        for part, first in zip(parts, rows.tolist(), strict=False)
    ]
    return Parsed(
        pa.concat_tables([EVENTS.empty_table(), *(part.events for part in parts)]),
        pa.concat_tables([IDENTIFIERS.empty_table(), *identifiers]),
        pa.concat_tables([FAILED.empty_table(), *(part.failed for part in parts)]),
        sum(part.exact for part in parts),
        sum(part.suppressed for part in parts),
    )


def warm() -> None:
    """Compile the scan, or load it from numba's cache, before the first record is waited for."""
    event = b'{"type":"page","userId":"u"}'
    for kind, body in ((Kind.BATCH, b'{"batch":[%b,{}]}' % event), (Kind.LINES, event + b"\n{}")):
        record = Record(
            0, "", "00" * 8, 0, 0, 0, "", "", kind, Flags.NONE, 2, EXTRACTION_VERSION, "", "", body
        )
        parse([record], segment_defaults())


# ---- chunks ----------------------------------------------------------------------------------


def _chunks(records: Sequence[Record]) -> Iterator[list[Body]]:
    """Unpack the records, and cut them where about `CHUNK_BYTES` have come together."""
    chunk: list[Body] = []
    size = 0
    for record in records:
        try:
            unpacked = Body(record, unpack(record))
        except Damaged as damaged:
            unpacked = Body(record, b"", str(damaged))
        if chunk and size + len(unpacked.body) > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(unpacked)
        size += len(unpacked.body)
    if chunk:
        yield chunk


def _parse_chunk(chunk: list[Body], rules: IdentityRules, vocabulary: Vocabulary) -> Parsed:
    scanned = _Scanned(chunk, vocabulary, rules.alias_sources)
    documents = scanned.documents
    left = np.flatnonzero(scanned.refused).tolist()
    fast = Parsed(scanned.events(), scanned.identifiers(), scanned.failed(), 0)
    if not left:
        return fast
    exact = _Exact()
    for number, document in zip(left, documents[left], strict=True):
        item = chunk[document["record"]]
        if document["type"] in (to.LINE, to.UNREADABLE_LINE):
            exact.add_line(number, item, scanned.line(document), int(document["index"]), rules)
        else:
            exact.add(number, item, rules)
    order, rank = _merged(scanned.rows_of_documents(), exact.event_documents)
    failed_order, _ = _merged(scanned.failures_of_documents(), exact.failed_documents)
    names = pa.concat_tables([fast.identifiers, exact.identifiers(fast.events.num_rows)])
    moved = rank[names["row"].to_numpy()]
    names = names.set_column(0, IDENTIFIERS.field(0), pa.array(moved, pa.int32()))
    return Parsed(
        pa.concat_tables([fast.events, exact.events()]).take(order),
        names.take(np.argsort(moved, kind="stable")),
        pa.concat_tables([fast.failed, exact.failed()]).take(failed_order),
        len(left),
        exact.suppressed,
    )


def _merged(
    fast: npt.NDArray[np.int64], exact: list[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order that sorts rows of both ways by document, and each row's place in it."""
    order = np.argsort(np.concatenate([fast, np.array(exact, np.int64)]), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return order, rank


# ---- the compiled way ------------------------------------------------------------------------


class _Scanned:
    """One chunk after the compiled scan, and the Arrow tables made of it."""

    def __init__(
        self, chunk: list[Body], vocabulary: Vocabulary, alias_sources: AbstractSet[str] = frozenset()
    ) -> None:
        self._chunk = chunk
        self._received = np.array([item.record.received_at for item in chunk], np.int64)
        self._headers = np.frombuffer(b"".join(_header(item.record) for item in chunk), _HEADER)
        self._sources = pa.array([item.record.source_id for item in chunk], pa.string())
        self._regions = pa.array([item.record.region for item in chunk], pa.string())
        self._source = b"".join([item.body for item in chunk])
        # A name per record of lines, for events without an id; nothing for other records.
        self._lines = [
            envelope_of(item.record).lines if item.record.kind is Kind.LINES else None for item in chunk
        ]
        addresses = [address_of(item.record) for item in chunk]
        begin = b"".join([vocabulary.text, *addresses])
        source = np.frombuffer(self._source, np.uint8)
        self.documents = documents = documents_of(
            chunk, source, addresses, len(vocabulary.text), alias_sources
        )
        events = int(documents["events"].sum())
        size = len(begin) + len(self._source)
        self._text = np.empty(size + 2 * len(self._source) + _PATCH_ROOM, np.uint8)
        self._text[: len(begin)] = np.frombuffer(begin, np.uint8)
        # One row more than there are events: the scan tries an event in the row behind the last. And
        # never a single one, whose order would be both kinds: the scan would be compiled once more.
        rows = np.empty((events + 2, to.ROW_WIDTH), np.int64, order="F")
        names = np.empty(
            _NAMES_PER_EVENT * events + 1024 + len(vocabulary.custom) + len(vocabulary.paths), to.IDENTIFIER
        )
        failures = np.empty(events, to.FAILURE)
        cursor = np.zeros(to.CURSORS, np.int64)
        cursor[to.TEXT], cursor[to.PATCH] = len(begin), size
        self.refused = np.zeros(len(documents), np.bool_)
        scan(
            source,
            documents,
            vocabulary.known,
            vocabulary.starts,
            vocabulary.custom,
            vocabulary.paths,
            vocabulary.normalisers,
            json_tape.new_tape(int((documents["stop"] - documents["start"]).max(initial=0))),
            json_tape.new_room(EVENT_DEPTH_MAX),
            np.empty((2, len(vocabulary.starts)), np.int32),
            self._text,
            cursor,
            rows,
            names,
            failures,
            self.refused,
        )
        self._rows = rows[: cursor[to.ROWS]]
        self._names = names[: cursor[to.IDENTIFIERS]]
        self._failures = failures[: cursor[to.FAILURES]]

    def line(self, document: np.void) -> bytes:
        """Return the text of one document."""
        return self._source[document["start"] : document["stop"]]

    def rows_of_documents(self) -> npt.NDArray[np.int64]:
        return self._rows[:, to.ROW_DOCUMENT]

    def failures_of_documents(self) -> npt.NDArray[np.int64]:
        documents: npt.NDArray[np.int64] = self._failures["document"]
        return documents

    def events(self) -> pa.Table:
        record, index = self._places(self.rows_of_documents(), self._rows[:, to.ROW_INDEX])
        columns = {
            name: self._strings(self._rows[:, 2 * place], self._rows[:, 2 * place + 1])
            for place, name in enumerate(to.TEXT_COLUMNS)
        }
        columns["position"] = positions = self._positions(record, index)
        columns["message_id"] = self._with_derived_ids(columns["message_id"], record, index, positions)
        columns["received_at"] = _times(self._received[record])
        columns["timestamp"] = _times(self._rows[:, to.TIMESTAMP])
        columns["original_timestamp"] = _times(self._rows[:, to.ORIGINAL])
        columns["sent_at"] = _times(self._rows[:, to.SENT])
        columns["source_id"] = self._sources.take(pa.array(record))
        columns["region"] = self._regions.take(pa.array(record))
        return pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)

    def identifiers(self) -> pa.Table:
        names = self._names
        columns = [
            pa.array(names["row"].astype(np.int32)),
            pa.array(names["collection"].astype(np.int8)),
            self._strings(names["type_start"], names["type_stop"]),
            self._strings(names["start"], names["stop"]),
        ]
        return pa.table(columns, schema=IDENTIFIERS)

    def failed(self) -> pa.Table:
        failures = self._failures
        if not len(failures):
            return FAILED.empty_table()
        record, index = self._places(self.failures_of_documents(), failures["index"])
        reasons = [to.STATUSES[status] for status in failures["status"]]
        spans = zip(failures["start"].tolist(), failures["stop"].tolist(), strict=True)
        raw = [self._source[start:stop] for start, stop in spans]
        details = [
            size_detail(len(part)) if reason == "event_too_large" else ""
            for reason, part in zip(reasons, raw, strict=True)
        ]
        columns = [
            self._positions(record, index),
            _times(self._received[record]),
            self._strings(failures["id_start"], failures["id_stop"]),
            pa.array(reasons, pa.string()),
            pa.array(details, pa.string()),
            pa.array(raw, pa.binary()),
            *self._requests(record),
            self._sources.take(pa.array(record)),
            self._regions.take(pa.array(record)),
        ]
        return pa.table(columns, schema=FAILED)

    def _requests(self, record: npt.NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
        """Return, for failures by their record, what it said besides and what its batch hands down."""
        numbers: list[int] = record.tolist()
        firsts = {number: place for place, number in reversed(list(enumerate(numbers)))}
        requests = {
            number: Request.of(self._chunk[number].record, packed=False).encode() for number in firsts
        }
        batches: list[str | None] = [None] * len(numbers)
        for number, place in firsts.items():
            if self._chunk[number].record.kind is Kind.BATCH:
                batches[place] = batch_of(self._chunk[number].body)
        return pa.array([requests[number] for number in numbers], pa.string()), pa.array(batches, pa.string())

    def _strings(self, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> pa.Array:
        """Return the slices of the text as an Arrow column; a start below zero is a null."""
        offsets = np.empty(len(start) + 1, np.int32)
        valid = np.zeros((len(start) + 7) // 8, np.uint8)
        nulls = _measure(start, stop, offsets, valid)
        data = np.empty(int(offsets[-1]), np.uint8)
        _gather(self._text, start, offsets, data)
        validity = pa.py_buffer(valid) if nulls else None
        return pa.StringArray.from_buffers(
            len(start), pa.py_buffer(offsets), pa.py_buffer(data), validity, nulls
        )

    def _places(
        self, document: npt.NDArray[np.int64], index: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return, for events by their place in a document, which record and which event of it they are."""
        return self.documents["record"][document], self.documents["index"][document] + index

    def _positions(self, record: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> pa.Array:
        places = np.empty(len(record), [("header", _HEADER), ("index", ">u4")])
        places["header"] = self._headers[record]
        places["index"] = index
        return pa.FixedSizeBinaryArray.from_buffers(POSITION, len(record), [None, pa.py_buffer(places)])

    def _with_derived_ids(
        self, ids: pa.Array, record: npt.NDArray[np.int64], index: npt.NDArray[np.int64], positions: pa.Array
    ) -> pa.Array:
        """Name events without an id after their position or their line, as the reference does."""
        if not ids.null_count:
            return ids
        missing = ids.is_null()
        rows = np.flatnonzero(missing.to_numpy(zero_copy_only=False))
        of_lines = np.array([lines is not None for lines in self._lines])[record[rows]]
        if of_lines.all():
            # Files often have no ids at all, so this must cost as little as reading one.
            names = pa.array([lines and lines.message_id("") for lines in self._lines], pa.string())
            places = pa.array(index[rows]).cast(pa.string())
            derived = pc.binary_join_element_wise(names.take(pa.array(record[rows])), places, "")
            return pc.replace_with_mask(ids, missing, derived)
        named = zip(record[rows].tolist(), index[rows].tolist(), rows.tolist(), strict=True)
        derived = [
            f"pl-{positions[row].as_py().hex()}" if lines is None else lines.message_id(place)
            for lines, place, row in ((self._lines[number], place, row) for number, place, row in named)
        ]
        return pc.replace_with_mask(ids, missing, pa.array(derived, pa.string()))


def _header(record: Record) -> bytes:
    """Return a position up to the index, as `Position.to_bytes` lays it out."""
    return (
        record.received_at.to_bytes(8, "big")
        + region_code(record.region)
        + bytes.fromhex(record.log_id)
        + record.offset.to_bytes(8, "big")
    )


def _times(micros: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(micros, pa.int64(), mask=micros == NO_TIME).cast(TIME)


@json_tape.borrowing
def _measure(
    start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int32],
    valid: npt.NDArray[np.uint8],
) -> int:
    """Fill offsets and validity bits of slices; return how many are null."""
    nulls = 0
    offsets[0] = 0
    for row in range(start.size):
        if start[row] < 0:
            nulls += 1
            offsets[row + 1] = offsets[row]
        else:
            offsets[row + 1] = offsets[row] + stop[row] - start[row]
            valid[row >> 3] |= 1 << (row & 7)
    return nulls


@json_tape.borrowing
def _gather(
    text: npt.NDArray[np.uint8],
    start: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int32],
    data: npt.NDArray[np.uint8],
) -> None:
    for row in range(start.size):
        begin = offsets[row]
        size = offsets[row + 1] - begin
        origin = start[row]
        for place in range(size):
            data[begin + place] = text[origin + place]


# ---- the exact way ---------------------------------------------------------------------------


class _Exact:
    """Documents read by the reference, gathered into the same tables."""

    def __init__(self) -> None:
        self.event_documents: list[int] = []
        self.failed_documents: list[int] = []
        self.suppressed = 0
        self._events: list[tuple[Event, str]] = []
        self._failed: list[tuple[Rejected, Body]] = []

    def add(self, number: int, item: Body, rules: IdentityRules) -> None:
        envelope = envelope_of(item.record)
        if item.damage:
            outcomes = undecodable(item.record.body, envelope, item.damage)
        else:
            outcomes = parse_record(item.body, envelope, rules)
        self._keep(number, outcomes, item)

    def add_line(self, number: int, item: Body, line: bytes, index: int, rules: IdentityRules) -> None:
        envelope = envelope_of(item.record)
        self._keep(number, [parse_line(line, envelope, index, rules)], item)

    def _keep(self, number: int, outcomes: Sequence[Event | Rejected], item: Body) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Event):
                self.event_documents.append(number)
                self._events.append((outcome, item.record.region))
            elif item.record.flags & Flags.SUPPRESSED and outcome.raw == b"null":
                self.suppressed += 1  # collect has put it in the place of a suppressed event
            else:
                self.failed_documents.append(number)
                self._failed.append((outcome, item))

    def events(self) -> pa.Table:
        return _table(EVENTS, [_row(event, EVENTS, region=region) for event, region in self._events])

    def failed(self) -> pa.Table:
        return _table(FAILED, [_failed_row(rejected, item) for rejected, item in self._failed])

    def identifiers(self, first_row: int) -> pa.Table:
        found = [
            (row, collection, identifier.type, identifier.value)
            for row, (event, _) in enumerate(self._events, start=first_row)
            for collection, identifiers in enumerate((event.users, event.accounts))
            for identifier in identifiers
        ]
        return _table(IDENTIFIERS, found)


def _failed_row(rejected: Rejected, item: Body) -> tuple[object, ...]:
    request = Request.of(item.record, packed=bool(item.damage)).encode()
    return _row(rejected, FAILED, region=item.record.region, request=request)


def _row(outcome: Event | Rejected, schema: pa.Schema, **special: object) -> tuple[object, ...]:
    special["position"] = outcome.position.to_bytes()
    return tuple(special[name] if name in special else getattr(outcome, name) for name in schema.names)


def _table(schema: pa.Schema, rows: Sequence[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)
