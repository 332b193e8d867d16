"""Log records for tests, and the two ways of reading them brought to one form."""

from collections.abc import Sequence
from typing import Any

from profilelake.eventlog import Flags, Kind, Record
from profilelake.landing._documents import envelope_of
from profilelake.landing.parse import Parsed, parse
from profilelake.landing.requests import Request
from profilelake.semantics.events import Event, parse_record
from profilelake.semantics.rules import COLLECTIONS, IdentityRules

RECEIVED_AT = 1_772_359_210_000_000
"""2026-03-01T10:00:10Z."""
Row = dict[str, Any]


def record(body: bytes, *, kind: Kind = Kind.BATCH, events: int = 1, **facts: Any) -> Record:
    """Return one record of a log, with the facts of a plain server request."""
    plain = Record(
        received_at=RECEIVED_AT,
        region="eu",
        log_id="00112233aabbccdd",
        offset=0,
        next_offset=len(body),
        events_before=0,
        workspace="w",
        source_id="shop",
        kind=kind,
        flags=Flags.NONE,
        events=events,
        extraction_version=1,
        ip="",
        sent_at="",
        body=body,
    )
    return plain._replace(**facts)


def by_reference(records: Sequence[Record], rules: IdentityRules) -> tuple[list[Row], list[Row]]:
    """Return events and failures as the reference reads records that are not packed."""
    events: list[Row] = []
    failed: list[Row] = []
    for item in records:
        for outcome in parse_record(item.body, envelope_of(item), rules):
            row = {name: getattr(outcome, name) for name in outcome.__slots__}
            row["position"] = outcome.position.to_bytes()
            row["region"] = item.region
            if isinstance(outcome, Event):
                row["users"] = [(found.type, found.value) for found in outcome.users]
                row["accounts"] = [(found.type, found.value) for found in outcome.accounts]
                events.append(row)
            else:
                row["request"] = Request.of(item, packed=False).encode()
                failed.append(row)
    return events, failed


def by_landing(records: Sequence[Record], rules: IdentityRules) -> tuple[list[Row], list[Row], Parsed]:
    """Return the same through `parse`, and what `parse` returned."""
    parsed = parse(records, rules)
    for table in (parsed.events, parsed.identifiers, parsed.failed):
        table.validate(full=True)
    events, failed = _rows(parsed.events), _rows(parsed.failed)
    for event in events:
        event.update({collection: [] for collection in COLLECTIONS})
    rows = parsed.identifiers["row"].to_pylist()
    assert rows == sorted(rows)
    for name in parsed.identifiers.to_pylist():
        events[name["row"]][COLLECTIONS[name["collection"]]].append((name["type"], name["value"]))
    return events, failed, parsed


def _rows(table: Any) -> list[Row]:
    times = ("received_at", "timestamp", "original_timestamp", "sent_at")
    for name in times:
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].cast("int64"))
    rows: list[Row] = table.to_pylist()
    return rows
