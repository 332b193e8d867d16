"""Requests about identity: what is recorded, what is in force already, and what is refused with which words."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from identity_deciding import BY, Decisions
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.eventlog import Kind
from profilelake.identity.decide import (
    Asked,
    AskQuarantine,
    AskRelease,
    AskRelink,
    AskRemove,
    AskRestore,
    AskRetract,
    AskRules,
    AskUnlink,
    entry_of,
)
from profilelake.identity.decisions import listed
from profilelake.identity.facts import NOTE_CHARACTERS_MAX, NewRules, Quarantine, Retract, Unlink, decode

PAIR = ("user_id:u1", "anonymous_id:a1")


def identify(user: str, device: str, number: int, **traits: str) -> dict[str, object]:
    return {
        "type": "identify",
        "userId": user,
        "anonymousId": device,
        "messageId": f"m{number}",
        "traits": traits,
    }


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Decisions]:
    yield from two_people(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decisions]:
    yield from two_people(tmp_path_factory.mktemp("unchanged"))


def two_people(directory: Path) -> Iterator[Decisions]:
    """Two people, each with a device; the first has an e-mail, and belongs to a group."""
    made = Decisions(directory)
    made.send(
        identify("u1", "a1", 1, email="E1@x "),
        identify("u2", "a2", 2),
        {"type": "group", "groupId": "g1", "userId": "u1", "messageId": "m3"},
        {"type": "track", "event": "Bought", "userId": "null", "anonymousId": "a3", "messageId": "m4"},
    )
    yield made
    made.desk.close()


def profile_of(people: Decisions, identifier: str) -> str:
    return next(profile for profile, members in people.profiles().items() if identifier in members)


def test_an_unlink_names_identifiers_by_their_ids(unchanged: Decisions) -> None:
    decided = unchanged.ask(AskUnlink(identifiers=("user_id:u1", "email: e1@X"), note="ticket 7"))
    assert decided.changed
    (fact,) = decided.facts
    assert isinstance(fact, Unlink)
    assert (fact.by, fact.note, fact.collection, fact.apart) == (BY, "ticket 7", "users", True)
    entry = entry_of("default", fact)
    assert (entry.kind, entry.events, entry.source_id) == (Kind.FACT, 0, "")
    assert b"e1" not in entry.body
    assert decode(entry.body) == fact


def test_what_is_in_force_is_not_recorded_again(people: Decisions) -> None:
    (event,) = [AskRetract(message_id="m1")]
    for asked, back in (
        (AskUnlink(identifiers=PAIR), AskRelink(identifiers=PAIR)),
        (AskQuarantine(identifier="user_id:u2"), AskRelease(identifier="user_id:u2")),
        (event, AskRestore(message_id="m1")),
    ):
        for request in (asked, back, asked):
            assert people.do(request).changed
            assert not people.ask(request).changed
    turned = AskUnlink(identifiers=(PAIR[1], PAIR[0]))
    assert not people.ask(turned).changed


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (AskUnlink(identifiers=("user_id:u1", "user_id:nobody")), NotFound, "user_id:nobody was never seen"),
        (AskUnlink(identifiers=("user_id:u1", "user_id:u1")), Invalid, "name two identifiers"),
        (AskUnlink(identifiers=("email:e1@x", "email:E1@X")), Invalid, "name two identifiers"),
        (AskUnlink(identifiers=("user_id:u1", "group_id:g1")), Invalid, "never share a profile"),
        (
            AskUnlink(identifiers=("user_id:u1", "shoe_size:42")),
            Invalid,
            "no rule knows the type 'shoe_size'",
        ),
        (AskUnlink(identifiers=("user_id:u1", "user_id:null")), Invalid, "the rules block user_id:null"),
        (AskUnlink(identifiers=("user_id:u1", "u2")), Invalid, "'u2' is no identifier; give TYPE:VALUE"),
        (AskUnlink(identifiers=("user_id:u1", "user_id:")), Invalid, "is no identifier"),
        (AskUnlink(identifiers=("user_id:u1", "user_id:\udcff")), Invalid, "is not valid text"),
        (AskUnlink(identifiers=("user_id:u1", "user_id:u2")), Conflict, "do not share a profile now"),
        (AskUnlink(identifiers=PAIR, collection="accounts"), Invalid, "the types are group_id"),
        (AskRelink(identifiers=PAIR), NotFound, "nobody has unlinked them"),
        (AskQuarantine(identifier="user_id:nobody"), NotFound, "was never seen"),
        (AskQuarantine(identifier="user_id:null"), Invalid, "the rules block"),
        (AskRelease(identifier="user_id:u1"), Conflict, "it is not quarantined"),
        (AskRetract(message_id="none"), NotFound, "there is no such event"),
        (AskRestore(message_id="none"), NotFound, "there is no such event"),
        (AskRestore(message_id="m1"), NotFound, "nobody has retracted it"),
        (AskRemove(identifier="user_id:u1", profile="use_"), Invalid, "is no profile id"),
        (AskRemove(identifier="user_id:u1", profile=f"use_{'0' * 27}"), NotFound, "there is no such profile"),
        (
            AskUnlink(identifiers=PAIR, note="x" * (NOTE_CHARACTERS_MAX + 1)),
            Invalid,
            "the note has 1,001 characters",
        ),
    ],
)
def test_a_request_that_cannot_mean_anything_is_refused(
    unchanged: Decisions, asked: Asked, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace("(", r"\(")) as refused:
        unchanged.ask(asked)
    assert str(refused.value)[0].islower()


def test_what_changes_nothing_today_is_recorded_when_that_is_meant(unchanged: Decisions) -> None:
    assert unchanged.ask(AskUnlink(identifiers=("user_id:u1", "user_id:u2"), anyway=True)).changed
    decided = unchanged.ask(AskRelease(identifier="user_id:u1", anyway=True))
    assert decided.changed
    assert isinstance(decided.facts[0], Quarantine)
    assert not decided.facts[0].quarantined


def test_a_removed_identifier_is_unlinked_from_what_the_profile_began_with(people: Decisions) -> None:
    profile = profile_of(people, "user_id:u1")
    asked = AskRemove(identifier="anonymous_id:a1", profile=profile)
    decided = people.do(asked)
    (fact,) = decided.facts
    assert isinstance(fact, Unlink)
    assert fact.removed_from == profile
    assert not people.ask(asked).changed
    assert people.profiles()[profile] == {"user_id:u1", "email:e1@x"}


def test_what_a_profile_began_with_cannot_be_removed_nor_what_is_elsewhere(unchanged: Decisions) -> None:
    profile = profile_of(unchanged, "user_id:u1")
    with pytest.raises(Invalid, match="the profile began with user_id:u1"):
        unchanged.ask(AskRemove(identifier="user_id:u1", profile=profile))
    with pytest.raises(NotFound, match="it is not in that profile"):
        unchanged.ask(AskRemove(identifier="user_id:u2", profile=profile))
    with pytest.raises(Invalid, match="no rule knows the type 'group_id'"):
        unchanged.ask(AskRemove(identifier="group_id:g1", profile=profile))


def test_a_profile_that_was_merged_away_is_told_with_what_it_became(people: Decisions) -> None:
    people.send({"type": "track", "event": "E", "anonymousId": "a9", "messageId": "m9"})
    old = profile_of(people, "anonymous_id:a9")
    people.send(identify("u2", "a9", 10))
    now = profile_of(people, "anonymous_id:a9")
    assert now != old
    with pytest.raises(NotFound, match=f"that profile is no more; it is part of {now}"):
        people.ask(AskRemove(identifier="anonymous_id:a9", profile=old))


def test_a_retraction_names_the_event_and_its_sets(unchanged: Decisions) -> None:
    decided = unchanged.ask(AskRetract(message_id="m3"))
    (fact,) = decided.facts
    assert isinstance(fact, Retract)
    assert [collection for collection, _ in fact.sets] == ["users", "accounts"]
    assert fact.message_id == "m3"


def test_rules_that_say_the_same_are_in_force_whatever_their_version(people: Decisions) -> None:
    people.rules = replace(people.rules, version=9, types=people.rules.types[::-1])
    assert not people.ask(AskRules(rules=None)).changed
    people.rules = replace(people.rules, degree_max=17)
    decided = people.do(AskRules(rules=None))
    (fact,) = decided.facts
    assert isinstance(fact, NewRules)
    assert (fact.rules.version, fact.rules.degree_max) == (2, 17)
    assert not people.ask(AskRules(rules=None)).changed


def test_decisions_are_listed_newest_first_with_what_is_in_force(people: Decisions) -> None:
    for asked in (
        AskUnlink(identifiers=PAIR),
        AskQuarantine(identifier="user_id:u2"),
        AskRelink(identifiers=PAIR),
    ):
        people.do(asked)
    with people.desk.state.read("default") as tx:
        held = people.deciding.held(tx)
        every = listed(tx, "default", held, rows=10)
        page = listed(tx, "default", held, after=every[0].position, rows=1)
    assert [(one.decision, one.in_force) for one in every] == [
        ("relink", True),
        ("quarantine", True),
        ("unlink", False),
    ]
    assert every[0].identifiers == list(PAIR)
    assert page == every[1:2]
