"""The records one micro-batch works on: loaded once, changed in memory, written once."""

from collections.abc import Iterable, Mapping
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
        self._dirty: set[bytes] = set()

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

    def touch_set(self, key: bytes, *, publish: bool) -> None:
        """Write this set's record at the end."""
        self._touch(Db.SET, Dirty.SET, key, publish=publish)

    def touch_ident(self, key: bytes, *, publish: bool = True) -> None:
        """Write this identifier's record at the end."""
        self._touch(Db.IDENT, Dirty.IDENT, key, publish=publish)

    def touch_profile(self, key: bytes, *, publish: bool = True) -> None:
        """Write this profile's record at the end, or remove it where it is gone."""
        self._touch(Db.PROFILE, Dirty.PROFILE, key, publish=publish)

    def touch_traits(self, key: bytes, *, changed: bool) -> None:
        """Write this set's trait writes at the end; `changed` tells new values from the old ones again."""
        self._touch(Db.TRAITS, Dirty.TRAITS if changed else Dirty.AGAIN, key, publish=True)

    def publish_refusals(self, key: bytes) -> None:
        """Show this set's refusals anew in the published tables."""
        self._dirty.add(Dirty.REFUSALS.encode() + key)

    def _touch(self, db: Db, dirty: Dirty, key: bytes, *, publish: bool) -> None:
        self._looked_up[db].add(key)
        self._changed[db].add(key)
        if publish:
            self._dirty.add(dirty.encode() + key)

    def flush(self) -> None:
        """Put everything that changed into the transaction."""
        stores: tuple[tuple[Db, Mapping[bytes, object]], ...] = (
            (Db.SET, self.sets),
            (Db.IDENT, self.idents),
            (Db.PROFILE, self.profiles),
            (Db.TRAITS, self.traits),
        )
        for db, records in stores:
            changed = self._changed[db]
            present = [(key, encode(records[key])) for key in sorted(changed) if key in records]
            self.tx.put_many(self.workspace, db, present)
            for key in changed:
                if key not in records:
                    self.tx.delete(self.workspace, db, key)
            changed.clear()
        self.tx.put_links(self.workspace, self.links)
        self.links.clear()
        mark = self.sequence.to_bytes(8, "big")
        self.tx.put_many(self.workspace, Db.DIRTY, ((key, mark) for key in self._dirty))
        self._dirty.clear()
