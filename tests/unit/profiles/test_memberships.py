from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.profiles.memberships import accounts_of, members_page
from profilelake.state.records import (
    IdentRecord,
    MembershipRecord,
    ProfileRecord,
    SetRecord,
    SpellRecord,
    encode,
)
from profilelake.state.store import Db, State, Tx

W = "default"
PEOPLE, ACCOUNTS = 0, 1


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def place(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(24)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", writable=True)
    opened.ensure([W])
    yield opened
    opened.close()


def profile(tx: Tx, collection: int, ident: int, sets: list[int]) -> None:
    """Store a profile founded by the first of its sets, with one identifier."""
    keys = [key(number) for number in sets]
    tx.put(W, Db.PROFILE, keys[0], encode(ProfileRecord(collection, place(1), [(key(ident), "id")], keys)))
    tx.put(
        W,
        Db.IDENT,
        key(ident),
        encode(IdentRecord(collection, "id", "x", "shop", "m", 1, place(1), keys[0])),
    )
    for one in keys:
        record = SetRecord(collection, key(ident), key(ident), keys[0], keys[0], place(1), "m", "shop")
        tx.put(W, Db.SET, one, encode(record))


def seen(tx: Tx, person: int, account: int, *positions: int) -> None:
    spells = [SpellRecord(place(at), f"m{at}", "shop") for at in positions]
    tx.put(W, Db.ACCOUNTS_OF, key(person) + key(account), encode(MembershipRecord(spells)))
    tx.put(W, Db.MEMBERS, key(account) + key(person), b"")


def left(tx: Tx, user: int, organisation: int, *positions: int) -> None:
    tx.put(W, Db.LEFT, key(user) + key(organisation), encode([place(at) for at in positions]))


def test_a_link_is_read_in_both_directions_over_all_sets_of_both(state: State) -> None:
    with state.write() as tx:
        profile(tx, PEOPLE, 100, [1, 2])
        profile(tx, ACCOUNTS, 200, [11, 12])
        seen(tx, 1, 12, 50)
        seen(tx, 2, 11, 40)
    with state.read(W) as tx:
        person, account = tx.profiles(W, [key(1), key(11)]).values()
        (link,) = accounts_of(tx, W, person)
        assert (link.other_profile, link.other_set, link.linked_at, link.unlinked_at) == (
            key(11),
            key(11),
            40,
            None,
        )
        assert (link.message_id, link.source_id) == ("m40", "shop")
        ((back,), following) = members_page(tx, W, "accounts", account, b"", 10)
        assert (back.other_profile, back.other_set, back.linked_at) == (key(1), key(2), 40)
        assert following is None


def test_a_decision_about_identifiers_of_both_ends_the_link_until_it_is_seen_again(state: State) -> None:
    with state.write() as tx:
        profile(tx, PEOPLE, 100, [1, 2])
        profile(tx, ACCOUNTS, 200, [11])
        profile(tx, ACCOUNTS, 201, [12])
        seen(tx, 1, 11, 40)
        seen(tx, 2, 12, 41, 70)
        left(tx, 100, 200, 60)
        left(tx, 100, 201, 60)
        left(tx, 999, 200, 20)
    with state.read(W) as tx:
        person = tx.profile(W, key(1))
        assert person is not None
        ended, lasting = accounts_of(tx, W, person)
        assert (ended.linked_at, ended.unlinked_at) == (40, 60)
        assert (lasting.linked_at, lasting.unlinked_at) == (70, None)


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages_show_each_profile_once(state: State, limit: int) -> None:
    with state.write() as tx:
        profile(tx, ACCOUNTS, 200, [11, 12])
        for person in range(20, 40, 2):
            profile(tx, PEOPLE, 1000 + person, [person, person + 1])
            seen(tx, person, 12, person)
            seen(tx, person + 1, 11 + person % 4 // 2, person + 100)
    with state.read(W) as tx:
        account = tx.profile(W, key(11))
        assert account is not None
        pages, after = [], b""
        while True:
            page, following = members_page(tx, W, "accounts", account, after, limit)
            assert len(page) <= limit
            pages += page
            if following is None:
                break
            after = following
        assert sorted(link.other_profile for link in pages) == [key(person) for person in range(20, 40, 2)]
        person = tx.profile(W, key(20))
        assert person is not None
        first, following = members_page(tx, W, "users", person, b"", 1)
        assert (len(first), following) == (1, None)
