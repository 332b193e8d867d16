"""From the records of one workspace to its accepted events, each exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.eventlog import Damage, Record
from profilelake.kernels import siphash
from profilelake.landing._documents import envelope_of
from profilelake.landing._identifier_ids import ident_hashes
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict
from profilelake.landing.parse import parse
from profilelake.landing.requests import Request
from profilelake.landing.suppress import Listed, Suppression, nobody
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.ops.failpoints import reach
from profilelake.semantics.events import Rejected, undecodable
from profilelake.semantics.positions import POSITION_BYTES, Position
from profilelake.semantics.reasons import LOG_DAMAGED, MESSAGE_ID_CONFLICT, PROCESSING_ERROR
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.store import Tx

CONTENT_COLUMNS: Final = (
    "type",
    "event",
    "name",
    "user_id",
    "anonymous_id",
    "group_id",
    "previous_id",
    "properties",
    "traits",
)
"""What makes two events with one message id the same event. Times and context are left out: a
retry may carry another clock reading, another address, another retry count."""
SET_COLUMNS: Final[dict[Collection, str]] = {"users": "set_id", "accounts": "account_set_id"}

Words = siphash.Words
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SetSightings:
    """The distinct identifier sets of one collection in a batch, in no order.

    `first` and `last` are rows of the batch's events; `start` and `stop` delimit, in `ident_ids`,
    `types` and `values`, the identifiers of a set.
    """

    collection: Collection
    set_ids: Words
    first: Rows
    last: Rows
    counts: Rows
    start: Rows
    stop: Rows
    ident_ids: Words
    types: pa.Array
    values: pa.Array


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of the events of some records; every event counted on arrival is in exactly one part.

    `events` are the accepted ones in position order, with their set ids; `copies` are duplicates
    that came before the event they repeat; `duplicates` counts all duplicates, copies included.
    `arrived` are all events that could be read, in the order of their records, and `verdicts` what
    became of each; no verdicts, where none could be. Of suppressed events there is only the count.
    """

    events: pa.Table
    sightings: tuple[SetSightings, ...]
    copies: pa.Table
    failed: pa.Table
    duplicates: int
    arrived: pa.Table
    verdicts: npt.NDArray[np.int8] | None = None
    suppressed: int = 0


class Landing:
    """Lands the events of one workspace. Not thread-safe; one per pipeline."""

    def __init__(
        self, *, key: bytes, rules: IdentityRules, index: DedupIndex, suppressed: Listed = nobody
    ) -> None:
        self._key = key
        self._rules = rules
        self._suppression = Suppression(key, rules, suppressed)
        self.index = index

    def land(self, tx: Tx, records: Sequence[Record], sequence: int) -> Landed:
        """Parse, de-duplicate and set apart what failed; remember the accepted ids in `tx`."""
        # Before they are de-duplicated: of suppressed events not even the ids are remembered.
        parsed = self._suppression.judge(parse(records, self._rules))
        reach("landing.parsed")
        events = parsed.events
        entries = dedup_entries(self.index.key(self._key), events)
        judged = self.index.judge(entries)
        self.index.add(tx, sequence, judged)
        verdicts = judged.verdicts
        accepted = verdicts == Verdict.ACCEPTED
        keyed, sightings = self._with_sets(events, parsed.identifiers, accepted)
        conflicts = conflict_rows(keyed.filter(pa.array(verdicts == Verdict.CONFLICT)))
        return Landed(
            events=keyed.filter(pa.array(accepted)) if not accepted.all() else keyed,
            sightings=sightings,
            copies=EVENT_COPIES.shape(keyed.filter(pa.array(verdicts == Verdict.EARLIER_COPY))),
            failed=pa.concat_tables([FAILED_EVENTS.shape(parsed.failed), conflicts]),
            duplicates=int(
                np.count_nonzero((verdicts == Verdict.DUPLICATE) | (verdicts == Verdict.EARLIER_COPY))
            ),
            arrived=keyed,
            suppressed=parsed.suppressed,
            verdicts=verdicts,
        )

    def set_aside(self, records: Sequence[Record], detail: str) -> Landed:
        """Make dead letters of all events of records that cannot be processed, body and all."""
        nothing = EVENTS.schema().empty_table()
        kept = [self._suppression.without_suppressed(record) for record in records]
        return Landed(
            events=nothing,
            sightings=(),
            copies=nothing,
            failed=_undecodable_rows([record for record, _ in kept], detail),
            suppressed=sum(gone for _, gone in kept),
            duplicates=0,
            arrived=nothing,
        )

    def _with_sets(
        self, events: pa.Table, identifiers: pa.Table, accepted: npt.NDArray[np.bool_]
    ) -> tuple[pa.Table, tuple[SetSightings, ...]]:
        """Add the set id columns; return the distinct sets of the accepted events.

        The sightings' row numbers count accepted events only.
        """
        row_of = np.cumsum(accepted) - 1
        columns: dict[Collection, pa.Array] = {}
        sightings = []
        for number, collection in enumerate(COLLECTIONS):
            mine = identifiers.filter(pc.equal(identifiers.column("collection"), number)).combine_chunks()
            rows = mine.column("row").to_numpy().astype(np.int64)
            ident_ids = ident_hashes(self._key, collection, mine.column("type"), mine.column("value"))
            heads = np.flatnonzero(np.diff(rows, prepend=-1))
            offsets = np.append(heads, rows.size).astype(np.int64)
            hashes = siphash.set_ids(self._key, b"s" + collection[0].encode(), ident_ids, offsets)
            columns[collection] = _spread(events.num_rows, rows[heads], hashes)
            kept = np.flatnonzero(accepted[rows[heads]])
            if kept.size:
                sightings.append(
                    _distinct(
                        collection,
                        hashes[kept],
                        row_of[rows[heads[kept]]],
                        offsets[:-1][kept],
                        offsets[1:][kept],
                        ident_ids,
                        mine,
                    )
                )
        for collection, name in SET_COLUMNS.items():
            events = events.append_column(pa.field(name, pa.binary(16)), columns[collection])
        return EVENTS.shape(events), tuple(sightings)


def dedup_entries(key: bytes, events: pa.Table) -> Entries:
    """Return the de-duplication entry of each event: id, position and content digest; `key` is that of the index."""
    entries = np.zeros(events.num_rows, dtype=ENTRY)
    if not entries.size:
        return entries
    ids = siphash.hash_strings(key, b"m", events.column("message_id"))
    entries["first"], entries["second"] = ids[:, 0], ids[:, 1]
    positions = position_bytes(events.column("position"))
    entries["received_at"] = _big_endian(positions[:, 0:8], ">i8")
    entries["region"] = _big_endian(positions[:, 8:12], ">u4")
    entries["log"] = _big_endian(positions[:, 12:20], ">u8")
    entries["index"] = _big_endian(positions[:, 28:32], ">u4")
    digest = np.zeros(events.num_rows, dtype=np.uint64)
    for name in CONTENT_COLUMNS:
        hashed = siphash.hash_strings(key, b"c", events.column(name))[:, 0]
        digest = digest * np.uint64(0x9E3779B97F4A7C15) + hashed
    entries["digest"] = digest.astype(np.uint32)
    return entries


def position_bytes(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return a position column as rows of 32 bytes."""
    if not len(column):
        return np.zeros((0, POSITION_BYTES), dtype=np.uint8)
    flat = column.combine_chunks()
    array = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) else flat
    whole = np.frombuffer(array.buffers()[1], dtype=np.uint8).reshape(-1, POSITION_BYTES)
    return whole[array.offset : array.offset + len(array)]


def _big_endian(part: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(part).view(dtype).reshape(-1)


def _spread(count: int, rows: Rows, hashes: Words) -> pa.Array:
    """Return a column with a hash in each of `rows` and null elsewhere."""
    whole = np.zeros((count, 2), dtype=np.uint64)
    whole[rows] = hashes
    present = np.zeros(count, dtype=bool)
    present[rows] = True
    validity = pa.array(present).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(16), count, [validity, pa.py_buffer(np.ascontiguousarray(whole).tobytes())]
    )


def _distinct(
    collection: Collection,
    hashes: Words,
    rows: Rows,
    start: Rows,
    stop: Rows,
    ident_ids: Words,
    identifiers: pa.Table,
) -> SetSightings:
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: arrival order inside a set
    ordered = hashes[order]
    head = np.ones(order.size, dtype=bool)
    head[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    heads = np.flatnonzero(head)
    tails = np.append(heads[1:], order.size) - 1
    first = order[heads]
    return SetSightings(
        collection=collection,
        set_ids=np.ascontiguousarray(hashes[first]),
        first=rows[first],
        last=rows[order[tails]],
        counts=tails - heads + 1,
        start=start[first],
        stop=stop[first],
        ident_ids=ident_ids,
        types=identifiers.column("type").combine_chunks(),
        values=identifiers.column("value").combine_chunks(),
    )


def damage_rows(damage: Sequence[Damage], at: int, region: str) -> pa.Table:
    """Return one dead letter for each event that a damaged stretch of the log has cost."""
    rows = [
        {
            "position": Position(
                at, region, Path(stretch.path).parent.name, stretch.offset, index
            ).to_bytes(),
            "received_at": at,
            "reason": LOG_DAMAGED,
            "detail": f"{stretch.path} bytes {stretch.offset} to {stretch.next_offset}: {stretch.detail}",
            "source_id": "",
            "region": region,
        }
        for stretch in damage
        for index in range(stretch.events)
    ]
    return pa.Table.from_pylist(rows, schema=FAILED_EVENTS.schema())


def _undecodable_rows(records: Sequence[Record], detail: str) -> pa.Table:
    rows = [
        {
            "position": outcome.position.to_bytes(),
            "received_at": record.received_at,
            "reason": PROCESSING_ERROR,
            "detail": detail,
            "raw": outcome.raw,
            "request": Request.of(record, packed=True).encode(),
            "source_id": record.source_id,
            "region": record.region,
        }
        for record in records
        for outcome in undecodable(record.body, envelope_of(record), detail)
        if isinstance(outcome, Rejected)
    ]
    return pa.Table.from_pylist(rows, schema=FAILED_EVENTS.schema())


def conflict_rows(events: pa.Table) -> pa.Table:
    """Return dead letters for events whose message id belongs to another event already."""
    schema = FAILED_EVENTS.schema()
    if not events.num_rows:
        return schema.empty_table()
    sent = [*CONTENT_COLUMNS, "message_id", "context", "integrations", "timestamp"]
    raw = [_as_sent(row) for row in events.select(sent).to_pylist()]
    count = events.num_rows
    detail = "another event with this messageId and other content was accepted before"
    columns = {
        "reason": pa.array([MESSAGE_ID_CONFLICT] * count),
        "detail": pa.array([detail] * count),
        "raw": pa.array(raw, pa.binary()),
        # What its request said is in `raw` already.
        "request": pa.nulls(count, pa.string()),
        "batch": pa.nulls(count, pa.string()),
    }
    return pa.table(
        [columns[name] if name in columns else events.column(name) for name in schema.names], schema=schema
    )


_WIRE_NAMES: Final = {
    "type": "type",
    "event": "event",
    "name": "name",
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "group_id": "groupId",
    "previous_id": "previousId",
    "message_id": "messageId",
}


def _as_sent(row: dict[str, object]) -> bytes:
    """Return an event as a message that means by itself what it meant in its request."""
    message: dict[str, object] = {
        wire: row[name] for name, wire in _WIRE_NAMES.items() if row[name] is not None
    }
    for part in ("context", "properties", "traits", "integrations"):
        text = row[part]
        if isinstance(text, str):
            message[part] = msgspec.Raw(text.encode())
    message["timestamp"] = row["timestamp"]
    return msgspec.json.encode(message)
