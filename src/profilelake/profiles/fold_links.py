"""Fold a micro-batch of events into when a person's set and an account's set were seen together.

`semantics.memberships` says what that means; this is its form on the online state.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.facts import Leave, Standing
from profilelake.profiles.tables import ACCOUNT_LINKS
from profilelake.semantics.memberships import interval
from profilelake.state.records import (
    MembershipRecord,
    SpellRecord,
    decode_membership,
    encode,
    received_at,
)
from profilelake.state.store import Db
from profilelake.state.working import Working

_ID: Final = 16
_CALL: Final = "group"
_Sighting: TypeAlias = tuple[bytes, SpellRecord]
"""Both sets of a pair, and the event."""
_COLUMNS: Final = ("set_id", "account_set_id", "position", "message_id", "source_id")


def fold_links(
    work: Working,
    events: pa.Table,
    copies: pa.Table,
    cuts: Sequence[bytes],
    behind: Callable[[bytes], pa.Table],
) -> pa.Table:
    """Note what these events say of memberships; return the spells that began, as rows of `account_links`.

    `copies` are earlier copies of events that are known already. `cuts` are the positions of all decisions
    that ended memberships, in order. `behind` returns all group events behind a position, each where its
    first copy stands. A spell that turns out to have begun at another event has a row again.
    """
    copied, seen = _group_events(copies), _group_events(events)
    if not (copied.num_rows or seen.num_rows):
        return ACCOUNT_LINKS.schema().empty_table()
    folding = _Folding(work, cuts)
    if copied.num_rows:
        folding.move_back(copied, behind)
    folding.take(folding.sightings(seen))
    return folding.written()


def fold_leave(work: Working, fact: Leave, held: Standing, behind: Callable[[], pa.Table] | None) -> pa.Table:
    """Let a decision to leave, which `held` has by now, end memberships; return the spells after it.

    `behind` returns the group events behind it, where any may have been applied before it.
    """
    pair = bytes.fromhex(fact.user), bytes.fromhex(fact.account)
    positions = held.left[pair].holding()
    if positions:
        work.tx.put(work.workspace, Db.LEFT, b"".join(pair), encode(positions))
    else:
        work.tx.delete(work.workspace, Db.LEFT, b"".join(pair))
    folding = _Folding(work, held.leavings)
    if behind is not None and fact.left:
        folding.take(folding.sightings(_group_events(behind())))
    return folding.written()


class _Folding:
    """The memberships of one micro-batch in the making."""

    def __init__(self, work: Working, cuts: Sequence[bytes]) -> None:
        self._work = work
        self._cuts = cuts
        self._held: dict[bytes, MembershipRecord] = {}
        self._fresh: set[bytes] = set()
        self._changed: set[bytes] = set()
        self._rows: dict[tuple[bytes, bytes], SpellRecord] = {}

    def sightings(self, events: pa.Table) -> list[_Sighting]:
        """Return what group events showed; the records of their pairs are at hand then."""
        told = events.to_pydict()
        pairs = list(map(bytes.__add__, told["set_id"], told["account_set_id"]))
        missing = sorted(set(pairs) - self._held.keys())
        found = self._work.tx.decoded(self._work.workspace, Db.ACCOUNTS_OF, missing, decode_membership)
        self._fresh.update(set(missing) - found.keys())
        self._held.update({pair: found.get(pair) or MembershipRecord([]) for pair in missing})
        events_told = zip(told["position"], told["message_id"], told["source_id"], strict=True)
        return [(pair, SpellRecord(*event)) for pair, event in zip(pairs, events_told, strict=True)]

    def take(self, sightings: Iterable[_Sighting]) -> None:
        """Let sightings begin spells where none of their interval began before."""
        cuts = self._cuts
        for pair, event in sightings:
            spells = self._held[pair].spells
            place = bisect_right(spells, event.position, key=_position)
            mine = interval(event.position, cuts)
            if place and interval(spells[place - 1].position, cuts) == mine:
                continue
            later = place < len(spells) and interval(spells[place].position, cuts) == mine
            spells[place : place + later] = [event]
            self._changed.add(pair)
            self._rows[pair, event.position] = event

    def move_back(self, copies: pa.Table, behind: Callable[[bytes], pa.Table]) -> None:
        """Let events stand where their copies stand; a spell that began with one begins with the next."""
        copied = self.sightings(copies)
        began: list[bytes] = []
        for pair, copy in copied:
            spells = self._held[pair].spells
            mine = interval(copy.position, self._cuts)
            if mine < len(self._cuts):
                self._rows[pair, copy.position] = copy  # tells that the event does not stand further on
            for spell in list(spells):
                theirs = interval(spell.position, self._cuts)
                if spell.message_id == copy.message_id and theirs > mine:
                    spells.remove(spell)
                    self._changed.add(pair)
                    began.append(self._cuts[theirs - 1])
        self.take(copied)
        if began:
            known, moved = self._held.keys(), {copy.message_id for _, copy in copied}
            found = _group_events(behind(min(began)))
            pairs = map(bytes.__add__, found.column(0).to_pylist(), found.column(1).to_pylist())
            mine_too = pa.array([pair in known for pair in pairs], pa.bool_())
            again = self.sightings(found.filter(mine_too))
            self.take(one for one in again if one[1].message_id not in moved)

    def written(self) -> pa.Table:
        """Put what changed into the transaction; return rows of `account_links`."""
        tx, workspace = self._work.tx, self._work.workspace
        tx.put_many(workspace, Db.ACCOUNTS_OF, [(pair, encode(self._held[pair])) for pair in self._changed])
        fresh = [(pair[_ID:] + pair[:_ID], b"") for pair in self._changed & self._fresh]
        tx.put_many(workspace, Db.MEMBERS, fresh)
        return _rows(self._rows)


def _position(spell: SpellRecord) -> bytes:
    return spell.position


def _group_events(events: pa.Table) -> pa.Table:
    accounts = events.column("account_set_id")
    chosen = events.select(_COLUMNS)
    if accounts.null_count == events.num_rows:
        return chosen.slice(0, 0)
    both = pc.and_(pc.is_valid(accounts), pc.is_valid(events.column("set_id")))
    return chosen.filter(pc.and_(both, pc.equal(events.column("type"), _CALL)))


def _rows(written: Mapping[tuple[bytes, bytes], SpellRecord]) -> pa.Table:
    schema = ACCOUNT_LINKS.schema()
    spells = written.values()
    columns = (
        [pair[:_ID] for pair, _ in written],
        [pair[_ID:] for pair, _ in written],
        [spell.position for spell in spells],
        [received_at(spell.position) for spell in spells],
        [spell.message_id for spell in spells],
        [spell.source_id for spell in spells],
    )
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)
