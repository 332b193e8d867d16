"""What a micro-batch adds to the journals of Profiles Sync: which id is part of which profile, and since when.

The journals say what was announced, so they are kept in step with what `Db.ISSUED` remembers of that.
It holds what differs from the plain case, in which an id is its own profile and an identifier was
announced with the profile that owns it:

    "p" + id              the profile an id that was given out is part of now, if not its own
    "m" + profile + id    the same the other way round
    "i" + identifier      the id its last row has, if not its owner; empty: that row says REMOVED

Rows that follow from events are written as these happen, in order. After something was resolved again
(a late event, a decision) what was announced is compared with what is: each difference is one row.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.publish import public_ids
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.identity.sync_tables import EXTERNAL_ID_MAPPING_UPDATES, ID_GRAPH_UPDATES
from profilelake.identity.tables import TIME
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.records import NOBODY, IdentRecord, SetRecord
from profilelake.state.store import Db, Tx
from profilelake.state.working import Working

USERS: Final = COLLECTIONS.index("users")
CREATED: Final = "CREATED"
REMOVED: Final = "REMOVED"
ROWS_MAX: Final = 10**9
"""Rows of one micro-batch that `seq` has room for."""
SEQ_DIGITS: Final = 19
_ANNOUNCED_AT: Final = "announced_at"

_EVENT_COLUMNS: Final = ("position", "type", "event", "name", "timestamp")
_UNKNOWN: Final = Sighting(bytes(POSITION_BYTES), "", "")

_Mapping: TypeAlias = tuple[bytes, bytes, Sighting, str, bool]
"""Identifier, profile, event, operation, and whether an earlier row says something else."""


class Announced(NamedTuple):
    """Rows of `id_graph_updates` and `external_id_mapping_updates`."""

    ids: pa.Table
    mappings: pa.Table


def announce(work: Working, rows: IdentityRows, events: pa.Table, now: int) -> Announced:
    """Return what the changes of a micro-batch add to the journals; `work` is as they left it.

    `events` are those of the micro-batch in position order, `now` is pipeline time in microseconds.
    What is remembered changes in the transaction of `work`, which is flushed after this.
    """
    if not (rows.updates or rows.replayed):
        return Announced(
            ID_GRAPH_UPDATES.schema().empty_table(), EXTERNAL_ID_MAPPING_UPDATES.schema().empty_table()
        )
    announcer = Announcer(work, load_time(work.tx, work.workspace, now))
    announcer.announce(rows)
    return announcer.rows(events)


def load_time(tx: Tx, workspace: str, now: int) -> int:
    """Return `now`, or later: whoever reads from the last `uuid_ts` on must not miss a row."""
    before = tx.meta(workspace, _ANNOUNCED_AT)
    at = now if before is None else max(now, msgspec.msgpack.decode(before, type=int) + 1)
    remember_load_time(tx, workspace, at)
    return at


def remember_load_time(tx: Tx, workspace: str, at: int) -> None:
    """Note that there are rows with this `uuid_ts`."""
    tx.put_meta(workspace, _ANNOUNCED_AT, at)


class Announcer:
    """The rows of one micro-batch in the making."""

    def __init__(self, work: Working, loaded_at: int) -> None:
        self._work = work
        self._loaded_at = loaded_at
        self._graph: list[tuple[bytes, bytes, Sighting]] = []
        self._mappings: list[_Mapping] = []
        self._issued: list[bytes] = []

    def announce(self, rows: IdentityRows) -> None:
        """Add what these changes of ownership mean."""
        stamps: dict[bytes, bytes] = {}
        triggers: dict[bytes, Sighting] = {}
        merged: tuple[bytes, bytes, bytes] | None = None
        created = NOBODY
        for collection, ident, before, after, cause, evidence, first in rows.updates:
            if collection != "users":
                continue
            if cause == "merged":
                if merged != (before, after, evidence):
                    merged = (before, after, evidence)
                    self._merge(before, after, first)
                stamps.setdefault(ident, before)
            elif cause in ("created", "joined"):
                if cause == "created" and after != created:
                    created = after
                    self._create(after, first)
                if ident not in stamps:
                    self._mappings.append((ident, after, first, CREATED, False))
            else:
                triggers[before] = triggers[after] = first
                if before != NOBODY:
                    stamps.setdefault(ident, before)
                elif ident not in stamps:
                    self._mappings.append((ident, after, self._own_event(ident, first), CREATED, False))
        self._mark_repeated()
        if rows.replayed:
            self.settle_ids(triggers)
            self.settle_mappings(stamps, triggers)
        elif stamps:
            known = self._stamps(stamps)
            self._put((b"i" + ident, stamp) for ident, stamp in stamps.items() if ident not in known)

    # ---- ids -----------------------------------------------------------------------------------

    def _say(self, segment: bytes, profile: bytes, first: Sighting) -> None:
        """Announce that an id is part of a profile, and remember it."""
        tx, workspace = self._work.tx, self._work.workspace
        self._issue(segment)
        before = tx.get(workspace, Db.ISSUED, b"p" + segment)
        if before is not None:
            tx.delete(workspace, Db.ISSUED, b"m" + before + segment)
        if segment != profile:
            self._put([(b"p" + segment, profile), (b"m" + profile + segment, b"")])
        elif before is not None:
            tx.delete(workspace, Db.ISSUED, b"p" + segment)
        self._graph.append((segment, profile, first))

    def _create(self, profile: bytes, first: Sighting) -> None:
        if self._issue(profile):
            self._graph.append((profile, profile, first))

    def _issue(self, segment: bytes) -> bool:
        """Note that an id was given out; return whether it was not before."""
        record = self._work.sets.get(segment)
        if record is None or record.issued:
            return False
        record.issued = True
        self._issued.append(segment)
        return True

    def _merge(self, loser: bytes, survivor: bytes, first: Sighting) -> None:
        members = self._members(loser)
        self._say(loser, survivor, first)
        for segment in members:
            self._say(segment, survivor, first)

    def _members(self, profile: bytes) -> list[bytes]:
        """Return the other ids that were last announced as part of a profile."""
        prefix, found = b"m" + profile, []
        for key in self._work.tx.keys(self._work.workspace, Db.ISSUED, prefix):
            if not key.startswith(prefix):
                break
            found.append(key[len(prefix) :])
        return found

    def _announced(self, segment: bytes) -> bytes:
        """Return which profile an id was last announced to be part of."""
        found = self._work.tx.get(self._work.workspace, Db.ISSUED, b"p" + segment)
        return segment if found is None else found

    def settle_ids(self, triggers: dict[bytes, Sighting]) -> None:
        """Announce where the ids of all sets at hand lead now, if that differs from what was announced."""
        sets = sorted(
            ((key, record) for key, record in self._work.sets.items() if record.collection == USERS),
            key=lambda each: each[1].position,
        )
        for key, record in sets:
            if record.profile == key and not record.issued:
                trigger = triggers.get(key)
                decided = trigger is not None and not trigger.message_id
                self._create(key, trigger if decided and trigger else _seen(record))
        moved = []
        for key, record in sets:
            # An id of which nothing is left stays where it was last.
            if not record.issued or record.profile == NOBODY:
                continue
            before = self._announced(key)
            if before != record.profile:
                trigger = triggers.get(record.profile) or triggers.get(before) or _UNKNOWN
                self._say(key, record.profile, trigger)
                if before == key:
                    moved.append((key, record.profile, trigger))
        for gone, profile, trigger in moved:
            # What is still announced as part of it can only be ids of which nothing is left.
            for segment in self._members(gone):
                self._say(segment, profile, trigger)

    # ---- identifiers ---------------------------------------------------------------------------

    def _own_event(self, ident: bytes, first: Sighting) -> Sighting:
        """Return the event that first showed an identifier, unless a decision gave it its owner."""
        return _seen(self._work.idents[ident]) if first.message_id else first

    def _stamps(self, idents: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return what is remembered of identifiers whose last row does not name their owner."""
        keys = [b"i" + ident for ident in idents]
        found = self._work.tx.get_many(self._work.workspace, Db.ISSUED, keys)
        return {key[1:]: stamp for key, stamp in found.items()}

    def _mark_repeated(self) -> None:
        """Find the new mappings of identifiers that had one before: of those a row says REMOVED."""
        idents = self._work.idents
        older = {
            ident for ident, _, first, _, _ in self._mappings if first.position != idents[ident].position
        }
        repeated = self._stamps(older) if older else {}
        if not repeated:
            return
        for ident in repeated:
            self._work.tx.delete(self._work.workspace, Db.ISSUED, b"i" + ident)
        self._mappings = [(*row[:-1], True) if row[0] in repeated else row for row in self._mappings]

    def settle_mappings(self, stamps: dict[bytes, bytes], triggers: dict[bytes, Sighting]) -> None:
        """Announce identifiers anew whose last row does not lead to their owner."""
        idents = self._work.idents
        asked = sorted(ident for ident, record in idents.items() if record.collection == USERS)
        known = self._stamps(asked)
        for ident in asked:
            stamp = known.get(ident, stamps.get(ident))
            if not stamp:
                continue  # Its last row names its owner, or says that it has none, or there is no row.
            owner, key = idents[ident].profile, b"i" + ident
            if owner == NOBODY:
                trigger = triggers.get(stamp) or triggers.get(self._announced(stamp)) or _UNKNOWN
                self._mappings.append((ident, stamp, trigger, REMOVED, True))
                self._put([(key, b"")])
            elif self._announced(stamp) != owner:
                trigger = triggers.get(owner) or _UNKNOWN
                self._mappings.append((ident, owner, trigger, CREATED, True))
                self._work.tx.delete(self._work.workspace, Db.ISSUED, key)
            elif stamp == owner:
                self._work.tx.delete(self._work.workspace, Db.ISSUED, key)
            else:
                self._put([(key, stamp)])

    def announce_mappings(self, idents: Iterable[bytes]) -> None:
        """Announce these identifiers, which are at hand, where nothing or something else was announced last."""
        records = {ident: self._work.idents[ident] for ident in idents}
        known = self._stamps(records)
        for ident, record in records.items():
            if record.profile != NOBODY and not known.get(ident):
                again = ident in known
                self._mappings.append((ident, record.profile, _seen(record), CREATED, again))
                self._work.tx.delete(self._work.workspace, Db.ISSUED, b"i" + ident)
        self.settle_mappings({}, {})

    def _put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self._work.tx.put_many(self._work.workspace, Db.ISSUED, items)

    # ---- rows ----------------------------------------------------------------------------------

    def rows(self, events: pa.Table) -> Announced:
        """Return all rows; `events`, in position order, are looked up for what triggered them."""
        self._work.touch_sets(self._issued, publish=False)
        return Announced(self._id_rows(events), self._mapping_rows(events))

    def _id_rows(self, events: pa.Table) -> pa.Table:
        schema = ID_GRAPH_UPDATES.schema()
        if not self._graph:
            return schema.empty_table()
        segments, profiles, firsts = zip(*self._graph, strict=True)
        event = _Events(events, firsts)
        return pa.table(
            [
                _shown(segments),
                _shown(profiles),
                event.type,
                event.message_id,
                event.happened_at,
                self._seq(len(segments)),
                self._loaded(len(segments)),
            ],
            schema=schema,
        )

    def _mapping_rows(self, events: pa.Table) -> pa.Table:
        schema = EXTERNAL_ID_MAPPING_UPDATES.schema()
        if not self._mappings:
            return schema.empty_table()
        idents, profiles, firsts, operations, again = zip(*self._mappings, strict=True)
        records = [self._work.idents[ident] for ident in idents]
        event = _Events(events, firsts)
        seq, loaded = self._seq(len(idents)), self._loaded(len(idents))
        return pa.table(
            [
                pa.array([external_id_hash(record.type, record.value) for record in records], pa.string()),
                pa.array([record.type for record in records], pa.string()),
                pa.array([record.value for record in records], pa.string()),
                seq,
                event.received_at,
                _shown(profiles),
                seq,
                # The latest row by this time holds, so a correction must not be older than what it corrects.
                pc.if_else(pa.array(again), loaded, pc.coalesce(event.happened_at, loaded)),
                event.message_id,
                event.name,
                event.source_id,
                pa.nulls(len(idents), pa.string()),
                event.source_id,
                event.type,
                loaded,
                pa.array(operations, pa.string()),
            ],
            schema=schema,
        )

    def _seq(self, count: int) -> pa.Array:
        return sequence_texts(self._work.sequence, count)

    def _loaded(self, count: int) -> pa.Array:
        return pa.repeat(pa.scalar(self._loaded_at, pa.int64()), count).cast(TIME)


def external_id_hash(type: str, value: str) -> str:
    """Return the hash that Profiles Sync names an identifier by: of type and value, with nothing between."""
    return sha1((type + value).encode(), usedforsecurity=False).hexdigest()


def sequence_texts(sequence: int, count: int) -> pa.Array:
    """Return `seq` of the rows of a micro-batch: 19 digits, which order as text and as a number."""
    numbers = pa.array(np.arange(count) + sequence * ROWS_MAX).cast(pa.string())
    return pc.utf8_lpad(numbers, SEQ_DIGITS, "0")


class _Events:
    """What is known of the events that triggered rows; null where an event is not at hand."""

    def __init__(self, events: pa.Table, firsts: Sequence[Sighting]) -> None:
        positions = b"".join([first.position for first in firsts])
        rows = _found(events.column("position"), positions)
        taken = events.select(_EVENT_COLUMNS).take(pa.array(rows, mask=rows < 0))
        self.type: pa.ChunkedArray = taken.column("type")
        self.name: pa.ChunkedArray = pc.coalesce(taken.column("event"), taken.column("name"))
        self.message_id = pa.array([first.message_id or None for first in firsts], pa.string())
        self.source_id = pa.array([first.source_id or None for first in firsts], pa.string())
        # The first eight bytes of a position are its time.
        times = np.frombuffer(positions, dtype=">i8").reshape(len(firsts), -1)[:, 0].astype(np.int64)
        self.received_at = pa.array(times, mask=times == 0).cast(TIME)
        self.happened_at: pa.ChunkedArray = pc.coalesce(taken.column("timestamp"), self.received_at)


def _found(places: pa.ChunkedArray, wanted: bytes) -> npt.NDArray[np.int64]:
    """Return the row of each wanted position among `places`, which are in order; -1 where it is not there."""
    place = f"S{POSITION_BYTES}"
    asked = np.frombuffer(wanted, dtype=place)
    if not len(places):
        return np.full(len(asked), -1, dtype=np.int64)
    held = np.concatenate(
        [
            np.frombuffer(
                chunk.buffers()[1], dtype=place, count=len(chunk), offset=chunk.offset * POSITION_BYTES
            )
            for chunk in places.chunks
            if len(chunk)
        ]
    )
    rows = np.minimum(np.searchsorted(held, asked), len(held) - 1)
    return np.where(held[rows] == asked, rows, -1)


def _seen(record: SetRecord | IdentRecord) -> Sighting:
    return Sighting(record.position, record.message_id, record.source_id)


def _shown(profiles: Sequence[bytes]) -> pa.Array:
    return public_ids([USERS] * len(profiles), profiles)
