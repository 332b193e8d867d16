"""What the online state keeps of computed traits and audiences, under which keys.

Partials are rows of fixed width, one after the other, so that those of many sets are read, joined and written
back as columns. Keys that begin with a time sort by it.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from profilelake.state.records import encode
from profilelake.state.store import Db, Tx

COUNTS: Final = np.dtype([("step", "<u4"), ("bucket", "<i4"), ("count", "<i8")])
"""Partials of `Family.COUNT`. `bucket` is the day since 1970 (UTC) of a step with a window, else 0."""
NUMBERS: Final = np.dtype(
    [
        ("step", "<u4"),
        ("bucket", "<i4"),
        ("count", "<i8"),
        ("numbers", "<i8"),
        ("whole", "<i8"),
        ("nano", "<i8"),
        ("least", "<f8"),
        ("greatest", "<f8"),
    ]
)
"""Partials of `Family.NUMBER`: events, numbers among their values, and the exact sum of these in two parts."""
VALUES: Final = np.dtype(
    [
        ("step", "<u4"),
        ("bucket", "<i4"),
        ("high", "<u8"),
        ("low", "<u8"),
        ("count", "<i8"),
        ("first", "<i8"),
        ("last", "<i8"),
    ]
)
"""Partials of `Family.VALUE`: one row per distinct value, times in microseconds.

`high` and `low` are the big-endian halves of the digest of the value, which the record spells out beside.
Of a step that asks for the first (last) value alone only rows of that are kept: `count` is 0, and `last` (`first`) is
the least (greatest) number there is.
"""
ENTRIES: Final = np.dtype(
    [("at", "<i8"), ("step", "<u4"), ("kind", "<u4"), ("number", "<f8"), ("high", "<u8"), ("low", "<u8")]
)
"""Single events of steps with a window, for the day the edge of the window lies in. `kind`: 0 an event that is
counted, 1 a number of one, 2 a value of one. An event whose value is an array has a row per element."""


class StepRecord(msgspec.Struct, array_like=True, gc=False):
    """One step that some definition needs: its number in the partials, and how far it is complete.

    `live_after` is the micro-batch behind which events are folded as they come. `complete` says that older ones
    are in too. While they are not, `attempt` is the number under which a backfill puts them (0: none was begun);
    once all of them are there, `reached` is the micro-batch through which, and what was folded behind it follows,
    as far as `merged`.
    """

    number: int
    live_after: int
    complete: bool
    attempt: int = 0
    reached: int = 0
    merged: int = 0


class ValueRecord(msgspec.Struct, array_like=True, gc=False):
    """What was last announced of one definition for one profile.

    `value` is JSON text (`true` for a member). `since` is when that began, in microseconds of pipeline time.
    """

    value: str
    since: int
    version: int


class ComputedRecord(msgspec.Struct, array_like=True, gc=False):
    """What definitions are worth for one profile, by their number; what is missing is nothing, 0 or not a member.

    `due` is the next time at which an answer may change with no new event, 0 for never.
    """

    due: int
    values: dict[int, ValueRecord]


class ChangeRecord(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One announced change: what feeds, webhooks and the table `audience_changes` are made of.

    `position` is that of the cause: of the newest event of the profile, of a decision, or of a timer
    (`due` and the profile). `cause`: event, timer, identity, definition, resync, rebuild.
    """

    definition: str
    kind: str
    version: int
    collection: str
    profile: bytes
    value: str | None
    previous: str | None
    at: int
    cause: str
    position: bytes
    idempotency_key: str


class DefinitionRecord(msgspec.Struct, array_like=True, gc=False):
    """One key that ever was defined: the number its values stand under, and where its computation stands.

    `status`: backfilling, computing, live, failed, disabled, dropped. `swept` is the profile through which its
    values are announced while `computing`. `known_rows`, `done_rows` tell the progress of a backfill.
    """

    number: int
    key: str
    status: str
    version: int = 0
    swept: bytes = b""
    done_rows: int = 0
    known_rows: int = 0
    failure: str = ""
    members: int = 0
    """Profiles with a value, counted when it changes."""
    kind: str = "audience"
    """As in `semantics.definitions`, so that readers of values need not read the facts."""
    sweeping: bool = False
    """Whether there are profiles behind `swept` whose values are still to be announced, or withdrawn."""
    cause: str = "definition"
    """What the sweep is announced with, as in `ChangeRecord`."""
    caused_by: bytes = b""
    """Position of the fact that asked for the sweep."""


def put_computed(
    tx: Tx, workspace: str, items: dict[bytes, ComputedRecord], before: dict[bytes, int]
) -> None:
    """Keep what profiles are worth, and their timers in place of those that stood at `before`."""
    for profile, due in before.items():
        if due and (profile not in items or items[profile].due != due):
            tx.delete(workspace, Db.TIMER, due.to_bytes(8, "big") + profile)
    full = [(key, encode(record)) for key, record in items.items() if record.due or record.values]
    tx.put_many(workspace, Db.COMPUTED, full)
    for profile, record in items.items():
        if not (record.due or record.values):
            tx.delete(workspace, Db.COMPUTED, profile)
    timers = [(r.due.to_bytes(8, "big") + key, b"") for key, r in items.items() if r.due]
    tx.put_many(workspace, Db.TIMER, timers)


def due_profiles(tx: Tx, workspace: str, at: int, most: int) -> list[bytes]:
    """Return the profiles whose timers are due at a time, the longest due first, at most so many."""
    found: list[bytes] = []
    for key in tx.keys(workspace, Db.TIMER):
        if int.from_bytes(key[:8], "big") > at or len(found) == most:
            break
        found.append(key[8:])
    return found


def definition_records(tx: Tx, workspace: str) -> dict[str, DefinitionRecord]:
    """Return every key that ever was defined, with where its computation stands."""
    return {key.decode(): decode_definition(value) for key, value in tx.items(workspace, Db.DEFINITION)}


def entity_rows_key(number: int, profile: bytes) -> bytes:
    """Return under what the rows of an entity are kept that are linked with a profile."""
    return number.to_bytes(4, "big") + profile


def change_key(sequence: int, number: int) -> bytes:
    """Return the place of a change in the feed: its micro-batch, and its number in that."""
    return sequence.to_bytes(8, "big") + number.to_bytes(4, "big")


def changes_after(tx: Tx, workspace: str, after: bytes, most: int) -> Iterator[tuple[bytes, ChangeRecord]]:
    """Yield changes behind a place in the feed, in order."""
    number = 0
    for key, value in tx.items(workspace, Db.CHANGE, after):
        if key == after:
            continue
        if number == most:
            return
        number += 1
        yield key, decode_change(value)


decode_step: Final = msgspec.msgpack.Decoder(StepRecord).decode
decode_computed: Final = msgspec.msgpack.Decoder(ComputedRecord).decode
decode_change: Final = msgspec.msgpack.Decoder(ChangeRecord).decode
decode_definition: Final = msgspec.msgpack.Decoder(DefinitionRecord).decode
