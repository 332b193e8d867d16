"""Which accounts a person belongs to and who belongs to an account, read from the online state.

The meaning is `semantics.memberships`. Pairs of sets are stored both ways round, so either direction is
a walk over the keys that begin with a set.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Final, NamedTuple

from profilelake.semantics.memberships import spells
from profilelake.semantics.rules import Collection
from profilelake.state.heads import decode_set_head
from profilelake.state.records import (
    MembershipRecord,
    ProfileRecord,
    SpellRecord,
    decode_membership,
    decode_positions,
    received_at,
)
from profilelake.state.store import Db, Tx

_ID: Final = 16


class Link(NamedTuple):
    """That a profile is linked with another one, or was.

    `linked_at` and the event are those with which the last stretch of belonging began; `unlinked_at` is
    when a decision ended it, None while it lasts. `other_set` is the other profile's set in that event.
    """

    other_set: bytes
    other_profile: bytes
    linked_at: int
    unlinked_at: int | None
    message_id: str
    source_id: str


def accounts_of(tx: Tx, workspace: str, profile: ProfileRecord) -> list[Link]:
    """Return every account a person belongs or belonged to, each once, in the order of pages."""
    return [link for _, link in _accounts_of(tx, workspace, profile)]


def belongs(tx: Tx, workspace: str, person: bytes, account: bytes) -> bool:
    """Tell whether a person belongs to an account today, by their founding sets."""
    profile = tx.profile(workspace, person)
    links = [] if profile is None else accounts_of(tx, workspace, profile)
    return any(link.other_profile == account and link.unlinked_at is None for link in links)


def members_page(
    tx: Tx, workspace: str, collection: Collection, profile: ProfileRecord, after: bytes, limit: int
) -> tuple[list[Link], bytes | None]:
    """Return one page of a profile's links and where the next one begins: None after the last.

    `collection` is that of `profile`: the links of an account lead to people, those of a person to
    accounts. Each other profile stands once, at the least pair of sets that shows it. `after` is what
    the page before returned, empty for the first one.
    """
    found = (
        (place for place in _accounts_of(tx, workspace, profile) if place[0] > after)
        if collection == "users"
        else _people_of(tx, workspace, profile, after)
    )
    page: list[tuple[bytes, Link]] = []
    for place in found:
        if len(page) == limit:
            return [link for _, link in page], page[-1][0]
        page.append(place)
    return [link for _, link in page], None


# ---- the two directions ------------------------------------------------------------------------


def _accounts_of(tx: Tx, workspace: str, person: ProfileRecord) -> list[tuple[bytes, Link]]:
    """Return a person's links with the least pair (person's set, account's set) of each, in that order."""
    pairs = _sightings(tx, workspace, person)
    owners = _profiles_of(tx, workspace, {pair[_ID:] for pair in pairs})
    by_account: dict[bytes, dict[bytes, MembershipRecord]] = {}
    for pair, record in pairs.items():
        if owner := owners.get(pair[_ID:]):
            by_account.setdefault(owner, {})[pair] = record
    ended = _ended(tx, workspace, person, by_account)
    return [
        (min(shared), _link(account, shared, ended.get(account, ()), slice(_ID, None)))
        for account, shared in sorted(by_account.items(), key=lambda item: min(item[1]))
    ]


def _people_of(tx: Tx, workspace: str, account: ProfileRecord, after: bytes) -> Iterator[tuple[bytes, Link]]:
    """Yield an account's links with the least pair (account's set, person's set) of each, in that order."""
    mine = set(account.sets)
    for key in sorted(mine):
        if key < after[:_ID]:
            continue
        for pair, _ in _beginning_with(tx, workspace, Db.MEMBERS, key, after):
            owner = _profiles_of(tx, workspace, (pair[_ID:],)).get(pair[_ID:])
            person = tx.profile(workspace, owner) if owner and pair > after else None
            if owner is None or person is None:
                continue
            found = _sightings(tx, workspace, person)
            shared = {both: record for both, record in found.items() if both[_ID:] in mine}
            if min(both[_ID:] + both[:_ID] for both in shared) == pair:  # else it stood there already
                ended = _ended_between(tx, workspace, person, account)
                yield pair, _link(owner, shared, ended, slice(_ID))


def _link(
    other: bytes, shared: Mapping[bytes, MembershipRecord], ended: Iterable[bytes], other_set: slice
) -> Link:
    """Return what the sightings of two profiles' set pairs amount to."""
    seen: dict[bytes, tuple[bytes, SpellRecord]] = {
        spell.position: (pair, spell) for pair, record in shared.items() for spell in record.spells
    }
    last = spells(seen, ended)[-1]
    pair, first = seen[last.since]
    return Link(
        other_set=pair[other_set],
        other_profile=other,
        linked_at=received_at(last.since),
        unlinked_at=None if last.until is None else received_at(last.until),
        message_id=first.message_id,
        source_id=first.source_id,
    )


# ---- reading -----------------------------------------------------------------------------------


def _sightings(tx: Tx, workspace: str, person: ProfileRecord) -> dict[bytes, MembershipRecord]:
    """Return when the sets of a person were seen with sets of accounts, by pair."""
    return {
        pair: decode_membership(value)
        for key in person.sets
        for pair, value in _beginning_with(tx, workspace, Db.ACCOUNTS_OF, key)
    }


def _profiles_of(tx: Tx, workspace: str, sets: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the profile of each set that has one."""
    heads = tx.decoded(workspace, Db.SET, sets, decode_set_head)
    return {key: head.profile for key, head in heads.items() if head.profile}


def _ended(
    tx: Tx, workspace: str, person: ProfileRecord, accounts: Iterable[bytes]
) -> dict[bytes, list[bytes]]:
    """Return the decisions that ended what a person had with each of these accounts."""
    if not tx.count(workspace, Db.LEFT):
        return {}
    records = tx.profiles(workspace, accounts)
    return {key: _ended_between(tx, workspace, person, account) for key, account in records.items()}


def _ended_between(tx: Tx, workspace: str, person: ProfileRecord, account: ProfileRecord) -> list[bytes]:
    """Return the decisions that name an identifier of each, as positions."""
    if not tx.count(workspace, Db.LEFT):
        return []
    theirs = {ident for ident, _ in account.idents}
    return [
        position
        for ident, _ in person.idents
        for pair, value in _beginning_with(tx, workspace, Db.LEFT, ident)
        if pair[_ID:] in theirs
        for position in decode_positions(value)
    ]


def _beginning_with(
    tx: Tx, workspace: str, db: Db, key: bytes, after: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    items = tx.items(workspace, db, max(key, after))
    return takewhile(lambda item: item[0].startswith(key), items)
