"""The records one micro-batch works on: loaded once, changed in memory, written once."""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final

from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    ProfileRecord,
    SetRecord,
    TraitRecord,
    encode,
)
from profilelake.state.store import Db, Tx


class Dirty(StrEnum):
    """Which published table no longer shows what a record says."""

    SET = "s"
    IDENT = "i"
    PROFILE = "p"
    REFUSALS = "r"
    TRAITS = "t"
    """of this set, with a value that was not there before"""
    AGAIN = "a"
    """traits of this set, written again with the values they had"""
    CONSENT = "c"
    """what this set allows, with a category or an answer that was not there before"""
    CONSENT_AGAIN = "d"
    """what this set allows, said again"""
    VALUE = "v"
    """value of a computed trait: founding set and number of the definition"""
    MEMBER = "m"
    """membership in an audience: founding set and number of the definition"""


_RECORDS: Final = (Db.SET, Db.IDENT, Db.PROFILE, Db.TRAITS)


class Working:
    """Records of one workspace inside one write transaction.

    Load what a step needs, change the records, say which changed (`touch_…`), and `flush` at the
    end of the micro-batch. `publish=True` also marks the record for the published tables.
    """

    def __init__(self, tx: Tx, workspace: str, sequence: int) -> None:
        self.tx = tx
        self.workspace = workspace
        self.sequence = sequence
        self.sets: dict[bytes, SetRecord] = {}
        self.idents: dict[bytes, IdentRecord] = {}
        self.profiles: dict[bytes, ProfileRecord] = {}
        self.traits: dict[bytes, dict[str, TraitRecord]] = {}
        self.links: list[tuple[bytes, bytes]] = []
        self._looked_up: dict[Db, set[bytes]] = {db: set() for db in _RECORDS}
        self._changed: dict[Db, set[bytes]] = {db: set() for db in _RECORDS}
        self._written: dict[Db, set[bytes]] = {db: set() for db in _RECORDS}
        self._dirty: dict[Dirty, set[bytes]] = {kind: set() for kind in Dirty}
        self.consented: set[bytes] = set()
        """Sets that allow something else than before."""

    def _missing(self, db: Db, keys: Iterable[bytes]) -> list[bytes]:
        known = self._looked_up[db]
        missing = set(keys) - known
        known |= missing
        return sorted(missing)

    def load_sets(self, keys: Iterable[bytes]) -> None:
        """Have the records of these sets at hand, where they exist."""
        self.sets.update(self.tx.sets(self.workspace, self._missing(Db.SET, keys)))

    def load_idents(self, keys: Iterable[bytes]) -> None:
        """Have the records of these identifiers at hand, where they exist."""
        self.idents.update(self.tx.idents(self.workspace, self._missing(Db.IDENT, keys)))

    def load_profiles(self, keys: Iterable[bytes]) -> None:
        """Have the records of these profiles at hand, where they exist."""
        wanted = (key for key in keys if key != NOBODY)
        self.profiles.update(self.tx.profiles(self.workspace, self._missing(Db.PROFILE, wanted)))

    def load_traits(self, keys: Iterable[bytes]) -> None:
        """Have the last trait writes of these sets at hand, where there are any."""
        self.traits.update(self.tx.set_traits(self.workspace, self._missing(Db.TRAITS, keys)))

    def touch_sets(self, keys: Collection[bytes], *, publish: bool) -> None:
        """Write the records of these sets at the end."""
        self._changed[Db.SET].update(keys)
        if publish:
            self._dirty[Dirty.SET].update(keys)

    def touch_idents(self, keys: Collection[bytes]) -> None:
        """Write the records of these identifiers at the end."""
        self._changed[Db.IDENT].update(keys)
        self._dirty[Dirty.IDENT].update(keys)

    def touch_profiles(self, keys: Collection[bytes]) -> None:
        """Write the records of these profiles at the end, or remove those that are gone."""
        self._changed[Db.PROFILE].update(keys)
        self._dirty[Dirty.PROFILE].update(keys)

    def touch_traits(self, key: bytes, *, changed: bool) -> None:
        """Write this set's trait writes at the end; `changed` tells new values from the old ones again."""
        self._changed[Db.TRAITS].add(key)
        self._dirty[Dirty.TRAITS if changed else Dirty.AGAIN].add(key)

    def publish_refusals(self, key: bytes) -> None:
        """Show this set's refusals anew in the published tables."""
        self._dirty[Dirty.REFUSALS].add(key)

    def publish_consent(self, key: bytes, *, changed: bool) -> None:
        """Show what this set allows; `changed` tells new answers from the old ones said again."""
        self._dirty[Dirty.CONSENT if changed else Dirty.CONSENT_AGAIN].add(key)
        if changed:
            self.consented.add(key)

    def written(self, db: Db) -> set[bytes]:
        """Return the keys of all records that were written, or removed, so far."""
        return self._written[db]

    def flush(self) -> None:
        """Put everything that changed into the transaction."""
        stores: tuple[tuple[Db, Mapping[bytes, object], tuple[Dirty, ...]], ...] = (
            (Db.SET, self.sets, (Dirty.SET,)),
            (Db.IDENT, self.idents, (Dirty.IDENT,)),
            (Db.PROFILE, self.profiles, (Dirty.PROFILE,)),
            (Db.TRAITS, self.traits, (Dirty.TRAITS, Dirty.AGAIN)),
        )
        for db, records, kinds in stores:
            changed = self._changed[db]
            # From here on the store has them, and what is at hand must not be read over.
            self._looked_up[db] |= changed
            self._written[db] |= changed
            ordered = sorted(changed)
            present = [(key, encode(records[key])) for key in ordered if key in records]
            self.tx.put_many(self.workspace, db, present)
            for key in changed.difference(records):
                self.tx.delete(self.workspace, db, key)
            for kind in kinds:
                # What is to be published has changed, so it is in the order already.
                self._mark(kind, [key for key in ordered if key in self._dirty[kind]])
            changed.clear()
        for kind in (Dirty.REFUSALS, Dirty.CONSENT, Dirty.CONSENT_AGAIN):
            self._mark(kind, sorted(self._dirty[kind]))
        self.flush_links()

    def _mark(self, kind: Dirty, keys: Iterable[bytes]) -> None:
        prefix, mark = kind.encode(), self.sequence.to_bytes(8, "big")
        self.tx.put_many(self.workspace, Db.DIRTY, [(prefix + key, mark) for key in keys])
        self._dirty[kind].clear()

    def flush_links(self) -> None:
        """Put the links into the transaction, so that they can be followed and counted."""
        # Sorting joined bytes costs half of sorting pairs, which the store then finds in order.
        joined = sorted([ident + key for ident, key in self.links])
        self.tx.put_links(self.workspace, [(pair[:16], pair[16:]) for pair in joined])
        self.links.clear()
