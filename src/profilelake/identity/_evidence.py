"""The links of one profile, read from the state as they are asked for, and the shortest way along them.

Identifiers and sets are a graph: a set joins those of its identifiers that it linked. One it refused,
one that is blocked or quarantined, and a set that no event counts for, are no way from one person to
another. So a profile is exactly what can be reached, and nothing outside it is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from profilelake.errors import Internal, Invalid
from profilelake.identity.facts import Standing
from profilelake.semantics.identifiers import KEY_BYTES
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.records import (
    NOBODY,
    RefusalRecord,
    SetRecord,
    SightingRecord,
    decode_refusals,
    decode_sighting,
)
from profilelake.state.store import Db, Tx

WHY_SETS_MAX: Final = 100_000
"""Sets that are read to find one chain."""


class Entry(NamedTuple):
    """One event through which a set counts: its first, or where rules have windows the first in each.

    `idents` are those of the set that it did not refuse. Those among them that may link nobody belong
    to nobody; whoever asks knows who owns what.
    """

    position: bytes
    key: bytes
    message_id: str
    source_id: str
    record: SetRecord
    idents: tuple[bytes, ...]
    refused: tuple[RefusalRecord, ...]


def entries(
    tx: Tx, workspace: str, held: Standing, sets: Mapping[bytes, SetRecord]
) -> dict[bytes, list[Entry]]:
    """Return the events through which each set counts, in order; none where it links nobody."""
    asked = [key for key, record in sets.items() if record.refused]
    refusals = tx.decoded(workspace, Db.REFUSALS, asked, decode_refusals)
    return {
        key: _entries(tx, workspace, held, key, record, refusals.get(key, [])) for key, record in sets.items()
    }


def _entries(
    tx: Tx, workspace: str, held: Standing, key: bytes, record: SetRecord, refusals: Sequence[RefusalRecord]
) -> list[Entry]:
    if record.first_profile == NOBODY or record.position in held.retracted.get(key, ()):
        return []  # nothing in it may link, or no event of it counts
    members = split(record.idents)
    found = []
    for number, seen in enumerate(_sightings(tx, workspace, held, key, record)):
        # A set that refuses an identifier again and again does so in its first windows, once in each.
        refused = [nth for ident in members for nth in _of(refusals, ident)[number : number + 1]]
        out = {refusal.ident for refusal in refused}
        linked = tuple(ident for ident in members if ident not in out)
        found.append(
            Entry(seen.position, key, seen.message_id, seen.source_id, record, linked, tuple(refused))
        )
    return found


def _of(refusals: Iterable[RefusalRecord], ident: bytes) -> list[RefusalRecord]:
    return [refusal for refusal in refusals if refusal.ident == ident]


def _sightings(
    tx: Tx, workspace: str, held: Standing, key: bytes, record: SetRecord
) -> Iterator[SightingRecord]:
    if common_window(held.rules, COLLECTIONS[record.collection]) is None:
        yield SightingRecord(record.position, record.message_id, record.source_id)
        return
    for place, value in tx.items(workspace, Db.SIGHTING, key):
        if not place.startswith(key):
            break
        yield decode_sighting(value)


def split(joined: bytes) -> list[bytes]:
    """Return ids that stand one after the other."""
    return [joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES)]


class Link(NamedTuple):
    """One step of a chain: through a set, at one of its events, from the identifier before to `ident`."""

    position: bytes
    key: bytes
    ident: bytes


class Links:
    """The accepted links of the profile founded by the set `profile`."""

    def __init__(self, tx: Tx, workspace: str, held: Standing, profile: bytes) -> None:
        record = tx.profile(workspace, profile)
        if record is None:
            raise Internal(f"explaining the profile {profile.hex()}: identifiers name it and it is not there")
        self._tx, self._workspace, self._held = tx, workspace, held
        self._mine = frozenset(record.sets)
        self._owned = frozenset(ident for ident, _ in record.idents)
        self._sets_of: dict[bytes, list[bytes]] = {}
        self._entries: dict[bytes, list[Entry]] = {}

    def read(self, idents: Iterable[bytes]) -> None:
        """Have the links of these identifiers at hand."""
        asked = [ident for ident in idents if ident not in self._sets_of]
        for ident in asked:
            linked = self._tx.linked_sets(self._workspace, ident)
            self._sets_of[ident] = [key for key in linked if key in self._mine]
        new = {key for ident in asked for key in self._sets_of[ident] if key not in self._entries}
        if len(self._entries) + len(new) > WHY_SETS_MAX:
            raise Invalid(
                f"explaining a link: more than {WHY_SETS_MAX:,} identifier sets were looked through; ask for two"
                " identifiers that are nearer to each other, or the lake with SQL (identifier_sets)"
            )
        sets = self._tx.sets(self._workspace, new)
        self._entries |= entries(self._tx, self._workspace, self._held, sets)

    def steps(self, ident: bytes) -> Iterator[Link]:
        """Yield the ways from an identifier, which was read, to others."""
        for key in self._sets_of[ident]:
            for entry in self._entries.get(key, ()):
                if ident in entry.idents:
                    for other in entry.idents:
                        if other != ident and other in self._owned:
                            yield Link(entry.position, key, other)

    def entry(self, link: Link) -> Entry:
        """Return the event of a link that `steps` gave."""
        return next(entry for entry in self._entries[link.key] if entry.position == link.position)


def shortest(links: Links, one: bytes, other: bytes) -> list[Link]:
    """Return the shortest chain from one identifier to another of the same profile.

    Of several the one whose first event is the earliest, then its second event, and so on: the answer
    depends on the facts alone.
    """
    here, there = _Front(links, one), _Front(links, other)
    while not (met := here.outermost() & there.outermost()):
        nearer = here if len(here.outermost()) <= len(there.outermost()) else there
        if not nearer.grow():
            raise Internal(
                f"explaining {one.hex()} and {other.hex()}: they share a profile and nothing links them"
            )
    # Behind the places where the fronts met, the way on is known by the other front's distances.
    stages = [*here.ways_to(met), *there.stages[-2::-1]]
    chain: list[Link] = []
    at = one
    for stage in stages:
        links.read([at])
        chain.append(min(link for link in links.steps(at) if link.ident in stage))
        at = chain[-1].ident
    return chain


class _Front:
    """What can be reached from one identifier: `stages[n]` in n steps and no fewer."""

    def __init__(self, links: Links, start: bytes) -> None:
        self._links = links
        self.stages = [{start}]
        self._reached = {start}

    def outermost(self) -> set[bytes]:
        """Return what was reached last."""
        return self.stages[-1]

    def grow(self) -> bool:
        """Go one step further; tell whether there was any."""
        self._links.read(self.outermost())
        new = {
            link.ident
            for ident in self.outermost()
            for link in self._links.steps(ident)
            if link.ident not in self._reached
        }
        self._reached |= new
        self.stages.append(new)
        return bool(new)

    def ways_to(self, met: set[bytes]) -> list[set[bytes]]:
        """Return, for each step from the start to `met`, what a shortest way may pass."""
        if len(self.stages) == 1:
            return []
        ways = [met]
        for stage in self.stages[-2:0:-1]:
            ways.append(
                {ident for ident in stage if any(link.ident in ways[-1] for link in self._links.steps(ident))}
            )
        return ways[::-1]
