"""Failed events as they are committed, each with the message that can be sent in its place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import duckdb

from profilelake.errors import NotFound
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.landing.requests import RECORD_BYTES, Request
from profilelake.landing.tables import FAILED_EVENTS
from profilelake.semantics.events import Envelope
from profilelake.semantics.positions import Position
from profilelake.semantics.reasons import PROCESSING_ERROR
from profilelake.semantics.standalone import Message, events_of, standalone

PAGE_ROWS: Final = 200
"""Failed events that are held in memory together; each may be as large as a request."""
MEMORY_LIMIT: Final = "1GB"
WHOLE_RECORD: Final = ("undecodable_record", PROCESSING_ERROR)
"""Reasons for which the first failed event of a record keeps the whole body."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which failed events are meant; None is any. Times are microseconds, `until` is not included."""

    reason: str | None = None
    source: str | None = None
    since: int | None = None
    until: int | None = None
    message_id: str | None = None
    positions: tuple[bytes, ...] | None = None

    def condition(self) -> tuple[str, list[Any]]:
        """Return an SQL condition and the values of its parameters."""
        terms: list[tuple[str, Any]] = [
            ("reason = ?", self.reason),
            ("source_id = ?", self.source),
            ("message_id = ?", self.message_id),
            ("epoch_us(received_at) >= ?", self.since),
            ("epoch_us(received_at) < ?", self.until),
            ("position IN (SELECT unnest(?::BLOB[]))", self.positions and list(self.positions)),
        ]
        used = [(term, value) for term, value in terms if value is not None]
        return " AND ".join(term for term, _ in used) or "true", [value for _, value in used]


@dataclass(frozen=True, slots=True)
class Failed:
    """One failed event. `event` is the message to send in its place, None where none can be read."""

    position: bytes
    received_at: int
    reason: str
    detail: str
    message_id: str | None
    source_id: str
    region: str
    raw: bytes
    event: Message | None


class FailedEvents:
    """The failed events of a workspace as of one moment."""

    def __init__(self, lake: Lake, workspace: str, spill_directory: str) -> None:
        """Read the newest snapshot of the table. Raises NotFound where the server never started."""
        published = lake.load(workspace, FAILED_EVENTS.name)
        files = sql.select_files(published.table.schema(), published.files)
        known = {field.name for field in published.table.schema().fields}
        # A table that an older program made gains its columns when the server starts.
        missing = [f"NULL AS {sql.identifier(name)}" for name in ("request", "batch") if name not in known]
        self._failed = f"SELECT {', '.join(['*', *missing])} FROM ({files})"  # noqa: S608 - names are ours
        self._spill_directory = spill_directory
        self._storage = lake.storage

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return sql.connect(MEMORY_LIMIT, self._spill_directory, self._storage)

    def counts(self, wanted: Wanted) -> dict[str, int]:
        """Return how many there are by reason, the most frequent first."""
        condition, values = wanted.condition()
        rows = self._rows(
            "SELECT reason, count(*) FROM failed "  # noqa: S608 - the condition has parameters for all values
            f"WHERE {condition} GROUP BY reason ORDER BY count(*) DESC, reason",
            values,
        )
        return dict(rows)

    def positions(
        self, wanted: Wanted, *, newest_first: bool, after: bytes | None = None, limit: int | None = None
    ) -> list[bytes]:
        """Return the positions of those that are wanted, in order, from behind `after` on."""
        condition, values = wanted.condition()
        if after is not None:
            condition += f" AND position {'<' if newest_first else '>'} ?"
            values.append(after)
        statement = (
            f"SELECT position FROM failed WHERE {condition} "  # noqa: S608 - as above
            f"ORDER BY position {'DESC' if newest_first else 'ASC'}"
        )
        if limit is not None:
            statement += " LIMIT ?"
            values.append(limit)
        return [position for (position,) in self._rows(statement, values)]

    def read(self, positions: Sequence[bytes]) -> Iterator[Failed]:
        """Read the failed events at these positions, in their order.

        Raises:
            NotFound: there is none at one of them.
        """
        for start in range(0, len(positions), PAGE_ROWS):
            yield from self._page(positions[start : start + PAGE_ROWS])

    def _page(self, positions: Sequence[bytes]) -> list[Failed]:
        times = [int.from_bytes(position[:8], "big") for position in positions]
        # The range lets files and row groups be left out; the list says which rows.
        rows = self._rows(
            "SELECT position, epoch_us(received_at), reason, detail, message_id, source_id, region, raw, request "
            "FROM failed WHERE received_at BETWEEN make_timestamptz(?) AND make_timestamptz(?) "
            "AND position IN (SELECT unnest(?::BLOB[]))",
            [min(times), max(times), list(positions)],
        )
        found = {row[0]: row for row in rows}
        records = self._records(times)
        page = []
        for position in positions:
            if position not in found:
                raise NotFound(
                    f"reading failed event {position.hex()}: there is none at this position; "
                    "they are kept for pipeline.failed_retention_days"
                )
            page.append(_failed(found[position], records.get(position[:RECORD_BYTES], _Record())))
        return page

    def _records(self, times: Sequence[int]) -> dict[bytes, "_Record"]:
        """Return what the first failed event of each record keeps for the others."""
        rows = self._rows(
            "SELECT position, batch, request, CASE WHEN reason IN (SELECT unnest(?)) THEN raw END "
            "FROM failed WHERE epoch_us(received_at) IN (SELECT unnest(?::BIGINT[])) "
            "AND (batch IS NOT NULL OR (reason IN (SELECT unnest(?)) AND octet_length(raw) > 0))",
            [list(WHOLE_RECORD), sorted(set(times)), list(WHOLE_RECORD)],
        )
        records = {}
        for position, batch, request, raw in rows:
            events: list[bytes] | None = None
            if raw is not None:
                said = Request.decode(request)
                events, batch = events_of(said.body(raw), _envelope(said, position, "", ""))
            records[position[:RECORD_BYTES]] = _Record(batch, events)
        return records

    def _rows(self, statement: str, values: list[Any]) -> list[tuple[Any, ...]]:
        with damage_told():
            found = self._connection.execute(f"WITH failed AS ({self._failed}) {statement}", values)
            rows: list[tuple[Any, ...]] = found.fetchall()
        return rows


@dataclass(frozen=True, slots=True)
class _Record:
    """What failed events of one record share: what their batch hands down; all events, if all failed."""

    batch: str | None = None
    events: list[bytes] | None = None


def _envelope(request: Request, position: bytes, region: str, source_id: str) -> Envelope:
    return request.envelope(Position.from_bytes(position, region), source_id)


def _failed(row: tuple[Any, ...], record: _Record) -> Failed:
    position, received_at, reason, detail, message_id, source_id, region, raw, request = row
    index = int.from_bytes(position[RECORD_BYTES:], "big")
    sent: bytes | None = raw
    if reason in WHOLE_RECORD:
        events = record.events or []
        sent = events[index] if index < len(events) else None
    event = None
    if sent:
        envelope = _envelope(Request.decode(request), position, region, source_id)
        event = standalone(sent, record.batch, envelope, index)
    return Failed(
        position, received_at, reason, detail or "", message_id, source_id, region, raw or b"", event
    )
