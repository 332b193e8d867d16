"""Requests about memberships: what is recorded, what holds already, and what is refused with which words."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from identity_deciding import BY, Decisions
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.identity.decide import Asked, AskLeave, AskRejoin
from profilelake.identity.decisions import listed
from profilelake.identity.facts import Leave
from profilelake.profiles.memberships import Link, accounts_of
from profilelake.state.store import Db

W = "default"
LEAVE = AskLeave(user="user_id:u1", account="group_id:g1", note="sold")
REJOIN = AskRejoin(user="user_id:u1", account="group_id:g1")


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Decisions]:
    made = Decisions(tmp_path)
    made.send(
        {"type": "group", "groupId": "g1", "userId": "u1", "anonymousId": "a1", "messageId": "m1"},
        {"type": "group", "groupId": "g2", "userId": "u2", "messageId": "m2"},
    )
    yield made
    made.desk.close()


def links(people: Decisions, user: str) -> list[Link]:
    with people.desk.state.read(W) as tx:
        for record in tx.profiles(W, list(tx.keys(W, Db.PROFILE))).values():
            if any(tx.idents(W, [ident])[ident].value == user for ident, _ in record.idents):
                return accounts_of(tx, W, record)
    raise AssertionError(user)


def test_leaving_ends_the_link_and_a_later_call_begins_another(people: Decisions) -> None:
    decided = people.ask(LEAVE)
    assert decided.changed
    (fact,) = decided.facts
    assert isinstance(fact, Leave)
    assert (fact.by, fact.note, fact.left) == (BY, "sold", True)
    people.do(LEAVE)
    (ended,) = links(people, "u1")
    assert ended.unlinked_at is not None
    assert ended.unlinked_at > ended.linked_at
    assert not people.ask(LEAVE).changed
    people.send({"type": "group", "groupId": "g1", "anonymousId": "a1", "messageId": "m3"})
    (again,) = links(people, "u1")
    assert (again.message_id, again.unlinked_at) == ("m3", None)
    assert people.ask(LEAVE).changed
    people.do(LEAVE)
    (ended_again,) = links(people, "u1")
    assert (ended_again.message_id, ended_again.unlinked_at is None) == ("m3", False)
    assert people.desk.verify() == []


def test_taking_it_back_makes_it_never_so(people: Decisions) -> None:
    before = links(people, "u1")
    with pytest.raises(NotFound, match="nobody has said they left"):
        people.ask(REJOIN)
    people.do(LEAVE)
    people.do(REJOIN)
    assert links(people, "u1") == before
    assert not people.ask(REJOIN).changed
    with people.desk.state.read(W) as tx:
        told = listed(tx, W, people.deciding.held(tx), rows=10)
    assert [(one.decision, one.identifiers, one.in_force) for one in told] == [
        ("rejoin", ["user_id:u1", "group_id:g1"], True),
        ("leave", ["user_id:u1", "group_id:g1"], False),
    ]
    assert people.desk.verify() == []
    people.desk.rebuild()
    assert links(people, "u1") == before


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (AskLeave(user="user_id:u2", account="group_id:g1"), Conflict, "do not belong together now"),
        (AskLeave(user="user_id:nobody", account="group_id:g1"), NotFound, "was never seen"),
        (AskLeave(user="user_id:u1", account="user_id:u1"), NotFound, "was never seen"),
        (AskLeave(user="u1", account="group_id:g1"), Invalid, "TYPE:VALUE"),
        (
            AskLeave(user="user_id:u1", account="group_id:g1", collection="users"),
            Invalid,
            "leave `collection`",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    people: Decisions, asked: Asked, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        people.ask(asked)


def test_it_can_be_recorded_before_the_link_is_known(people: Decisions) -> None:
    assert people.ask(AskLeave(user="user_id:u2", account="group_id:g1", anyway=True)).changed


def test_a_plan_says_that_nobody_becomes_somebody_else(people: Decisions) -> None:
    effects = people.plan(LEAVE)
    assert not effects.changed
    assert (effects.profiles_before, effects.profiles_after) == (4, 4)
