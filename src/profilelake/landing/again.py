"""Read once more whom stored events name, by the parser that read them first.

Columns of `events` say all that the record of an event said about whom it names, but for the request around
it, which names nobody. So a message of the same meaning is put together from them and parsed as any other.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.eventlog import Flags, Kind, Record
from profilelake.kernels import siphash
from profilelake.landing._identifier_ids import ident_hashes
from profilelake.landing.land import Rows, position_bytes
from profilelake.landing.parse import IDENTIFIERS, parse
from profilelake.semantics import json_text
from profilelake.semantics.events import read_event
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.rules import EXTRACTION_VERSION, Collection, IdentityRules

READ_COLUMNS: Final = (
    "position", "source_id", "type", "event", "name", "user_id", "anonymous_id", "group_id", "previous_id",
    "context", "properties", "traits",
)  # fmt: skip
_TEXTS: Final = {
    "type": "type",
    "event": "event",
    "name": "name",
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "group_id": "groupId",
    "previous_id": "previousId",
}
_OBJECTS: Final = ("context", "properties", "traits")
_LOG: Final = "00" * 8
_PART_ROWS: Final = 4_096
"""Events that make one record; the parser cuts by bytes besides."""


def identifiers_again(events: pa.Table, rules: IdentityRules) -> pa.Table:
    """Return the identifiers that stored events (`READ_COLUMNS`) name under rules, in the form of `IDENTIFIERS`.

    `row` counts in `events`, in no order. An event that would be refused now names nobody.
    """
    found = []
    for source in pc.unique(events.column("source_id")).to_pylist():
        rows = np.flatnonzero(pc.equal(events.column("source_id"), source).to_numpy(zero_copy_only=False))
        for start in range(0, len(rows), _PART_ROWS):
            part = rows[start : start + _PART_ROWS]
            found.append(_parsed(events.take(pa.array(part)), source, part, rules))
    return pa.concat_tables([IDENTIFIERS.empty_table(), *found])


def _parsed(events: pa.Table, source: str, rows: Rows, rules: IdentityRules) -> pa.Table:
    messages = _messages(events).to_pylist()
    body = ('{"batch":[' + ",".join(messages) + "]}").encode()
    record = Record(
        0,
        "",
        _LOG,
        0,
        0,
        0,
        "",
        source,
        Kind.BATCH,
        Flags.NONE,
        len(messages),
        EXTRACTION_VERSION,
        "",
        "",
        body,
    )
    parsed = parse([record], rules)
    # The index at the end of a position says which message an event was.
    index = (
        np.ascontiguousarray(position_bytes(parsed.events.column("position"))[:, -4:]).view(">u4").reshape(-1)
    )
    named = parsed.identifiers
    places = rows[index[named.column("row").to_numpy()].astype(np.int64)]
    again = named.set_column(0, IDENTIFIERS.field(0), pa.array(places, pa.int32()))
    refused = np.setdiff1d(np.arange(len(messages)), index)
    if not len(refused):
        return again
    # With what its batch handed down an event may be longer than any that is sent now.
    exact = [
        (int(rows[number]), collection, identifier.type, identifier.value)
        for number in refused.tolist()
        for collection, identifiers in enumerate(_exact(messages[number], source, rules))
        for identifier in identifiers
    ]
    columns = zip(*exact, strict=True) if exact else ([] for _ in IDENTIFIERS)
    arrays = [pa.array(list(values), field.type) for values, field in zip(columns, IDENTIFIERS, strict=True)]
    return pa.concat_tables([again, pa.table(arrays, schema=IDENTIFIERS)])


def _exact(message: str, source: str, rules: IdentityRules) -> tuple[tuple[Identifier, ...], ...]:
    value = json_text.value(message)
    event = read_event(value, None, None, rules, source) if isinstance(value, dict) else None
    return () if event is None else (event.users, event.accounts)


def _messages(events: pa.Table) -> pa.Array:
    """Return each event as JSON."""
    members = [
        *(_member(wire, _quoted(events.column(name).combine_chunks())) for name, wire in _TEXTS.items()),
        *(_member(name, events.column(name).combine_chunks()) for name in _OBJECTS),
    ]
    head = pa.array(['"messageId":"-"'] * events.num_rows, pa.string())
    joined = pc.binary_join_element_wise(head, *members, ",", null_handling="skip")
    return pc.binary_join_element_wise("{", joined, "}", "")


def _member(name: str, values: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(f'"{name}":', values, "", null_handling="emit_null")


def _quoted(values: pa.Array) -> pa.Array:
    """Return texts as JSON. Most need nothing but quotes, which a pattern tells fast."""
    plain = pc.fill_null(pc.match_substring_regex(values, r'^[^"\\\x00-\x1f]*$'), True)
    quoted = pc.binary_join_element_wise('"', values, '"', "", null_handling="emit_null")
    if pc.all(plain).as_py() in (True, None):
        return quoted
    odd = values.filter(pc.invert(plain)).to_pylist()
    return pc.replace_with_mask(
        quoted, pc.invert(plain), pa.array([json_text.dump(value) for value in odd], pa.string())
    )


def set_hashes(
    key: bytes, collection: Collection, rows: Rows, identifiers: pa.Table
) -> tuple[siphash.Words, siphash.Words, Rows]:
    """Return ids of sets and of their identifiers, as landing makes them, and where the identifiers of each begin.

    `rows` says to which set each identifier belongs, ascending.
    """
    ident_ids = ident_hashes(key, collection, identifiers.column("type"), identifiers.column("value"))
    heads = np.flatnonzero(np.diff(rows, prepend=-1))
    offsets = np.append(heads, rows.size).astype(np.int64)
    return siphash.set_ids(key, b"s" + collection[0].encode(), ident_ids, offsets), ident_ids, offsets
