"""Every write of a trait of a profile, and when it was in force: `/traits/{name}/history`."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from profilelake.profiles.tables import TRAIT_WRITES
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.times import is_time
from profilelake.serve import _past
from profilelake.serve._answer import Refused, invalid, time_text
from profilelake.serve._past import Past
from profilelake.serve._profile import Cursor, Found, cursor
from profilelake.serve._request import Query
from profilelake.serve._visible import Allowed, is_consent

WRITES_DEFAULT: Final = 10
WRITES_MAX: Final = 1_000

_WHAT: Final = "reading the history of a trait"
_FROM_LAST: Final = "ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING"
_QUESTION: Final = """
    WITH writes AS (
        SELECT value, epoch_us(timestamp) AS happened_at, epoch_us(received_at) AS received_at, source_id,
               coalesce(message_id, '') AS message_id, position
        FROM ({rows}) WHERE trait = $trait AND collection = $collection
    ),
    ranked AS (
        SELECT *, {{'t': happened_at, 'p': position}} AS rank,
               max({{'t': happened_at, 'p': position}}) OVER (ORDER BY position) AS best
        FROM writes
    ),
    told AS (
        SELECT *, rank = best AS won,
               min(CASE WHEN rank = best THEN received_at END) OVER (ORDER BY position {from_last}) AS until
        FROM ranked
    )
    SELECT value, happened_at, received_at, source_id, message_id, position, won, until
    FROM told
    WHERE ($after_t IS NULL OR happened_at < $after_t OR (happened_at = $after_t AND position < $after_p))
    ORDER BY happened_at DESC, position DESC LIMIT $rows
"""


class TraitWrite(msgspec.Struct):
    """One write of a trait.

    It was in force from `in_force_from`, when it was received, until `in_force_until`, when a later one
    took its place (None: it still is). A write that another one, later in time, was there before never was.
    """

    value: msgspec.Raw
    removed: bool
    timestamp: str
    received_at: str
    source_id: str
    message_id: str
    in_force: bool
    in_force_from: str | None
    in_force_until: str | None


class TraitHistory(msgspec.Struct):
    """Answer of `/traits/{name}/history`."""

    trait: str
    data: list[TraitWrite]
    cursor: Cursor


class _Row(NamedTuple):
    value: str | None
    timestamp: int
    received_at: int
    source_id: str
    message_id: str
    position: bytes
    won: bool
    until: int | None


def trait_history(
    found: Found, trait: str, query: Query, past: Past, allowed: Allowed = None
) -> TraitHistory:
    """Return one page of the writes of a trait, the one that is in force first.

    Raises:
        Refused: nobody ever wrote the trait for this profile, or the token may not see it.
        Unavailable, Invalid: it takes too long or too many files.
    """
    limit = query.limit(WRITES_DEFAULT, WRITES_MAX)
    after = _parse_next(query.text("next"))
    if is_consent(trait) or (allowed is not None and trait not in allowed):
        raise _no_such_trait()
    keys = frozenset(found.record.sets)
    where = past.appended(found.tx, found.space, TRAIT_WRITES, keys)
    with past.asking(_WHAT) as connection:
        rows = _past.select(connection, where, "set_id", keys)
        parameters: dict[str, Any] = {
            "trait": trait,
            "collection": found.collection,
            "after_t": None if after is None else after[0],
            "after_p": b"" if after is None else after[1],
            "rows": limit + 1,
        }
        answered = connection.execute(_QUESTION.format(rows=rows, from_last=_FROM_LAST), parameters)
        writes = [_Row(*row) for row in answered.fetchall()]
    if not writes and after is None:
        raise _no_such_trait()
    page = writes[:limit]
    following = _next(page[-1]) if len(writes) > limit else None
    resource = f"traits/{quote(trait, safe='')}/history"
    return TraitHistory(trait, _shown(page), cursor(found, resource, query, limit, following))


def _no_such_trait() -> Refused:
    return Refused(404, "not_found", "The profile has no such trait, and never had.")


def _shown(page: Sequence[_Row]) -> list[TraitWrite]:
    return [
        TraitWrite(
            msgspec.Raw(row.value or "null"),
            row.value is None,
            time_text(row.timestamp),
            time_text(row.received_at),
            row.source_id,
            row.message_id,
            row.won and row.until is None,
            time_text(row.received_at) if row.won else None,
            time_text(row.until) if row.won and row.until is not None else None,
        )
        for row in page
    ]


def _next(row: _Row) -> str:
    raw = b"%d:" % row.timestamp + row.position
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _parse_next(text: str) -> tuple[int, bytes] | None:
    if not text:
        return None
    try:
        raw = base64.b64decode(text + "==", altchars=b"-_", validate=True)
        micros, colon, position = raw.partition(b":")
        if colon and len(position) == POSITION_BYTES and is_time(int(micros)):
            return int(micros), position
    except (binascii.Error, ValueError):
        pass
    raise invalid("The parameter `next` is not a cursor of this resource; take it from the page before.")
