"""The profiles that changes are about, as destinations need them: identifiers, consent, a few traits, linked users."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from profilelake.profiles.consent import policy_in_force, profile_consent
from profilelake.profiles.memberships import members_page
from profilelake.semantics.destinations import IdSync
from profilelake.state.records import ProfileRecord, joined_traits
from profilelake.state.store import Db, Tx

USERS_MAX: Final = 1_000
"""Linked users of an account that are told of its change; a destination hears of more than these by `truncated`."""


@dataclass(frozen=True, slots=True)
class Identified:
    """One identifier of a profile: the id it is stored under, and when it was added."""

    ident: bytes
    type: str
    value: str
    added: tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Person:
    """A profile, or what is left of one: nothing, where it is gone. `traits` are JSON texts."""

    profile: bytes
    identifiers: tuple[Identified, ...] = ()
    allows: frozenset[str] = frozenset()
    traits: Mapping[str, str] = field(default_factory=dict)
    users: tuple["Person", ...] = ()
    """Of an account: the people that belong to it."""
    truncated: bool = False

    def consents(self, categories: Iterable[str]) -> bool:
        """Tell whether it allows all categories; what was never said is not allowed."""
        return self.allows.issuperset(categories)


@dataclass(frozen=True, slots=True)
class Told:
    """One identifier under which something is told, and the name it is told under."""

    ident: bytes
    type: str
    value: str
    name: str


def load(
    tx: Tx,
    workspace: str,
    profiles: Iterable[bytes],
    *,
    consent: bool,
    traits: Sequence[str] = (),
    accounts: frozenset[bytes] = frozenset(),
) -> dict[bytes, Person]:
    """Return profiles by their founding sets; those in `accounts` with their linked users."""
    wanted = set(profiles)
    records = tx.profiles(workspace, wanted)
    linked: dict[bytes, list[bytes]] = {}
    for key in sorted(accounts & records.keys()):
        links, _ = members_page(tx, workspace, "accounts", records[key], b"", USERS_MAX + 1)
        linked[key] = [link.other_profile for link in links if link.unlinked_at is None]
    users = {user for listed in linked.values() for user in listed}
    records |= tx.profiles(workspace, users - records.keys())
    found = _persons(tx, workspace, records, consent=consent, traits=traits)
    for key, listed in linked.items():
        one = found[key]
        people = tuple(found[user] for user in islice(sorted(listed), USERS_MAX) if user in found)
        found[key] = Person(
            key, one.identifiers, one.allows, one.traits, people, truncated=len(listed) > USERS_MAX
        )
    return {key: found.get(key, Person(key)) for key in wanted}


def _persons(
    tx: Tx, workspace: str, records: Mapping[bytes, ProfileRecord], *, consent: bool, traits: Sequence[str]
) -> dict[bytes, Person]:
    idents = tx.idents(workspace, {ident for record in records.values() for ident, _ in record.idents})
    policy = policy_in_force(tx, workspace)
    said = consent and bool(tx.count(workspace, Db.CONSENT))
    found: dict[bytes, Person] = {}
    for key, record in records.items():
        allows: frozenset[str] = frozenset()
        if said:
            told = profile_consent(tx, workspace, record, policy)
            allows = frozenset(category for category, value in told.items() if value.value == "true")
        along: dict[str, str] = {}
        if traits:
            written = joined_traits(record, tx.set_traits(workspace, record.sets))
            values = {name: written[name].value for name in traits if name in written}
            along = {name: value for name, value in values.items() if value is not None}
        identifiers = tuple(
            Identified(ident, one.type, one.value, (one.created_at, one.position))
            for ident, _ in record.idents
            if (one := idents.get(ident)) is not None
        )
        found[key] = Person(key, identifiers, allows, along)
    return found


def chosen(identifiers: Iterable[Identified], ids: Sequence[IdSync], *, leaving: bool) -> list[Told]:
    """Return under which identifiers something is told, in the order of `ids`.

    Who leaves does so under all values of these types: what was told under one that is not the last any more
    must end too.
    """
    by_type: dict[str, list[Identified]] = {}
    for one in identifiers:
        by_type.setdefault(one.type, []).append(one)
    found: list[Told] = []
    for sync in ids:
        values = sorted(by_type.get(sync.type, ()), key=lambda one: (one.added, one.value))
        if not leaving and sync.strategy == "first":
            values = values[:1]
        elif not leaving and sync.strategy == "last":
            values = values[-1:]
        found += [Told(one.ident, one.type, one.value, sync.map_to or sync.type) for one in values]
    return found
