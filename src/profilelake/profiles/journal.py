"""The journal of traits: the traits of a person, whole, each time they are announced to have changed.

It is written with every publication, from what changed since the one before: a person who changes
several times in between has one row, which says what is so at the end. `trait_writes` has every write.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.publish import public_ids
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.identity.sync import USERS, sequence_texts
from profilelake.lake.tables import Column, TableDef
from profilelake.profiles.fold import traits_text
from profilelake.profiles.publish import CHUNK, written_profiles
from profilelake.profiles.tables import ID, POSITION, TIME
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.state.records import TraitRecord, decode_traits, joined_traits, received_at
from profilelake.state.store import Db, Tx
from profilelake.state.working import Working

TRAIT_UPDATES: Final = TableDef(
    name="trait_updates",
    doc="the traits of a person, whole, each time they changed; the row with the last seq holds",
    columns=(
        Column("profile_id", pa.string(), "profile, as it was called then", required=True),
        Column(
            "seq", pa.string(), "place in the order of rows, 19 digits: micro-batch and row", required=True
        ),
        Column("uuid_ts", TIME, "when the row was made; grows with every publication", required=True),
        Column("timestamp", TIME, "when the event happened; null where a decision was the cause"),
        Column("received_at", TIME, "when the event was received; null where a decision was the cause"),
        Column("traits", pa.string(), "object of trait to value, as JSON", personal=True, required=True),
        Column("message_id", pa.string(), "the latest event that changed them", personal=True),
        Column("type", pa.string(), "identify, or the type of the event that merged"),
        Column("name", pa.string(), "name of a tracked action, page or screen that merged", personal=True),
        Column("source_id", pa.string(), "source of the event"),
    ),
    day="uuid_ts",
)

REGROUPED: Final = TableDef(
    name="regrouped_profiles",
    doc="people whose sets are others than before, with the event that did it; waits in the outbox only",
    columns=(
        Column("profile", ID, "founding set", required=True),
        Column("again", pa.bool_(), "resolved again: they may have lost sets", required=True),
        Column("position", POSITION, "position of the event; zeros where it is not known", required=True),
        Column("message_id", pa.string(), "the event", personal=True),
        Column("source_id", pa.string(), "its source"),
        Column("type", pa.string(), "its type"),
        Column("name", pa.string(), "what it tracked, or the page or screen", personal=True),
        Column("timestamp", TIME, "when it happened"),
    ),
)

TABLES: Final = (TRAIT_UPDATES,)

_NOTHING: Final = "{}"
_EVENT_COLUMNS: Final = ("message_id", "type", "event", "name", "timestamp")


class _Cause(NamedTuple):
    """The event that changed traits: its place first, so that the later of two is the greater."""

    position: bytes
    message_id: str | None
    source_id: str | None
    type: str | None
    name: str | None
    timestamp: int | None


_UNKNOWN: Final = _Cause(bytes(POSITION_BYTES), None, None, None, None, None)


def regrouped(work: Working, rows: IdentityRows, events: pa.Table) -> pa.Table:
    """Return people whose traits may be others because they have other sets; `work` is flushed.

    A merge names its survivor. Where components were resolved again it is everybody in them.
    """
    if not rows.updates and not rows.replayed:
        return REGROUPED.schema().empty_table()
    causes: dict[bytes, Sighting | None] = {}
    for collection, _, before, after, cause, _, first in rows.updates:
        if collection == "users" and cause not in ("created", "joined"):
            causes[after] = first
            if cause != "merged":
                causes[before] = first
    again = set() if not rows.replayed else work.written(Db.PROFILE)
    for profile in again:
        causes.setdefault(profile, None)
    return _regrouped(
        {profile: cause for profile, cause in causes.items() if profile in work.profiles}, again, events
    )


def regrouped_anew(profiles: Iterable[bytes]) -> pa.Table:
    """Return people of whom the journal does not say what is so, and nobody knows since when."""
    known: dict[bytes, Sighting | None] = dict.fromkeys(profiles)
    return _regrouped(known, known.keys(), pa.table({name: [] for name in _EVENT_COLUMNS}))


def _regrouped(causes: dict[bytes, Sighting | None], again: Iterable[bytes], events: pa.Table) -> pa.Table:
    schema, again = REGROUPED.schema(), set(again)
    if not causes:
        return schema.empty_table()
    messages = pa.array([cause.message_id if cause else None for cause in causes.values()], pa.string())
    rows = pc.index_in(messages, value_set=events.column("message_id").cast(pa.string()), skip_nulls=True)
    found = events.select(_EVENT_COLUMNS).take(rows)
    return pa.table(
        [
            pa.array(list(causes), ID),
            pa.array([profile in again for profile in causes]),
            pa.array([cause.position if cause else _UNKNOWN.position for cause in causes.values()], POSITION),
            pc.if_else(pc.equal(messages, ""), None, messages),
            pa.array([cause.source_id or None if cause else None for cause in causes.values()], pa.string()),
            found.column("type").cast(pa.string()),
            pc.coalesce(found.column("event").cast(pa.string()), found.column("name").cast(pa.string())),
            found.column("timestamp").cast(TIME),
        ],
        schema=schema,
    )


def trait_updates(
    tx: Tx,
    workspace: str,
    *,
    changed: Sequence[bytes],
    again: Sequence[bytes],
    moved: pa.Table,
    sequence: int,
    loaded_at: int,
) -> pa.Table:
    """Return the rows of a publication: one for each person whose traits changed, in order of the causes.

    `changed` and `again` are sets as `written_profiles` takes them, `moved` is what `regrouped` made
    since the publication before.
    """
    causes: dict[bytes, _Cause] = {}
    lost: set[bytes] = set()
    columns = [moved.column(name) for name in ("profile", "again", *_Cause._fields)]
    columns[-1] = columns[-1].cast(pa.int64())
    for profile, whole, *event in zip(*(column.to_pylist() for column in columns), strict=True):
        causes[profile] = max(_Cause(*event), causes.get(profile, _UNKNOWN), key=lambda each: each.position)
        if whole:
            lost.add(profile)
    written = written_profiles(tx, workspace, Db.TRAITS, changed, again)
    keys = sorted(written | causes.keys())
    profiles: list[bytes] = []
    texts: list[str] = []
    of: list[_Cause] = []
    for start in range(0, len(keys), CHUNK):
        records = tx.profiles(workspace, keys[start : start + CHUNK])
        people = {key: record for key, record in records.items() if record.collection == USERS}
        members = sorted([key for record in people.values() for key in record.sets])
        stored = tx.get_many(workspace, Db.TRAITS, members)
        for key, record in people.items():
            writes = {member: decode_traits(stored[member]) for member in record.sets if member in stored}
            traits = joined_traits(record, writes)
            text = traits_text(traits)
            if text == _NOTHING and key not in written and key not in lost:
                continue  # Two became one, and neither had traits.
            cause = causes.get(key, _UNKNOWN)
            if key in written:
                cause = max(cause, _last_write(traits.values()), key=lambda each: each.position)
            profiles.append(key)
            texts.append(text)
            of.append(cause)
    return _rows(profiles, texts, of, sequence, loaded_at)


def _last_write(writes: Iterable[TraitRecord]) -> _Cause:
    """Return the latest of the writes that traits are made of, also of those that removed one."""
    last = max(writes, key=lambda write: write.position, default=None)
    if last is None:
        return _UNKNOWN
    return _Cause(last.position, last.message_id, last.source_id, "identify", None, last.timestamp)


def _rows(
    profiles: Sequence[bytes], texts: Sequence[str], causes: Sequence[_Cause], sequence: int, loaded_at: int
) -> pa.Table:
    schema, count = TRAIT_UPDATES.schema(), len(profiles)
    if not count:
        return schema.empty_table()
    order = sorted(range(count), key=lambda row: causes[row].position)
    of = [causes[row] for row in order]
    received = pa.array([received_at(cause.position) or None for cause in of], pa.int64()).cast(TIME)
    happened = pa.array([cause.timestamp for cause in of], pa.int64()).cast(TIME)
    return pa.table(
        [
            public_ids([USERS] * count, [profiles[row] for row in order]),
            sequence_texts(sequence, count),
            pa.repeat(pa.scalar(loaded_at, pa.int64()), count).cast(TIME),
            pc.coalesce(happened, received),
            received,
            pa.array([texts[row] for row in order], pa.string()),
            pa.array([cause.message_id for cause in of], pa.string()),
            pa.array([cause.type for cause in of], pa.string()),
            pa.array([cause.name for cause in of], pa.string()),
            pa.array([cause.source_id for cause in of], pa.string()),
        ],
        schema=schema,
    )
