"""A known story and what is told of it: chains, what keeps people apart, refusals, histories, quarantine."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from identity_deciding import BY, Decisions
from pipeline_driver import KEY, START, WORKSPACE, Message
from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.identity import _evidence, explain
from profilelake.identity.decide import AskQuarantine, AskRelease, AskRetract, AskRules, AskUnlink
from profilelake.identity.explain import quarantine, refusals, refusals_of_event, why
from profilelake.identity.history import history
from profilelake.identity.told import Chain, History, Step
from profilelake.identity.view import ATTEMPTS_MAX, View, explained
from profilelake.semantics.times import format_time
from profilelake.state import recent

T = TypeVar("T")


def event(message_id: str, **named: str) -> Message:
    """Return a call that names `userId`, `anonymousId`, or an `email`."""
    email = named.pop("email", None)
    return {
        "type": "identify",
        "messageId": message_id,
        **named,
        "traits": {} if email is None else {"email": email},
    }


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Decisions]:
    made = Decisions(tmp_path)
    yield made
    made.desk.close()


@pytest.fixture
def town(desk: Decisions) -> Decisions:
    """Ana uses a laptop and a tablet, which Bo uses too; Cy writes from two devices that meet late."""
    desk.send(
        event("m1", anonymousId="laptop"),
        event("m2", userId="ana", anonymousId="laptop"),
        event("m3", userId="ana", email="ana@x"),
        event("m4", userId="ana", anonymousId="tablet"),
        event("m5", userId="bo", anonymousId="tablet"),
        event("m6", anonymousId="phone", email="cy@x"),
        event("m7", anonymousId="desktop", email="cyrus@x"),
        event("m8", userId="cy", email="cyrus@x"),
        event("m9", userId="cy", email="cy@x"),
    )
    return desk


def ask(desk: Decisions, question: Callable[[View], T]) -> T:
    return explained(desk.desk.state, WORKSPACE, KEY, desk.desk.setup.rules, question)


def between(desk: Decisions, one: str, other: str) -> Chain:
    return ask(desk, partial(why, collection=None, one=one, other=other))


def told(desk: Decisions, text: str, as_of: int | None = None) -> History:
    return ask(desk, partial(history, collection=None, text=text, as_of=as_of, after="", rows=100)).shown


def said(step: Step) -> tuple[str, ...]:
    """Return a step in few words."""
    by = step.evidence.message_id if step.evidence else ""
    return step.what, by, *map(str, step.identifiers)


# ---- why -----------------------------------------------------------------------------------------


def test_a_chain_has_its_events_in_order_with_time_source_and_message(town: Decisions) -> None:
    chain = between(town, "anonymous_id:laptop", "email:ANA@x ")
    assert [str(node) for node in chain.nodes] == ["anonymous_id:laptop", "user_id:ana", "email:ana@x"]
    assert [edge.evidence.message_id for edge in chain.edges] == ["m2", "m3"]
    assert [(edge.source, edge.target) for edge in chain.edges] == [
        (chain.nodes[0].id, chain.nodes[1].id),
        (chain.nodes[1].id, chain.nodes[2].id),
    ]
    assert chain.edges[0].evidence.at == format_time(START + 2)
    assert chain.edges[0].evidence.source_id == "shop"
    assert chain.apart is None
    assert chain.profile_id == told(town, "user_id:ana").profile_id


def test_a_chain_leads_through_merges_of_merges(town: Decisions) -> None:
    chain = between(town, "anonymous_id:phone", "anonymous_id:desktop")
    assert [edge.evidence.message_id for edge in chain.edges] == ["m6", "m9", "m8", "m7"]
    back = between(town, "anonymous_id:desktop", "anonymous_id:phone")
    assert [edge.evidence.message_id for edge in back.edges] == ["m7", "m8", "m9", "m6"]


def test_of_equal_chains_the_earliest_is_told(desk: Decisions) -> None:
    desk.send(
        event("m1", userId="u", anonymousId="two"),
        event("m2", userId="u", anonymousId="one"),
        event("m3", email="e@x", anonymousId="one"),
        event("m4", email="e@x", anonymousId="two"),
    )
    chain = between(desk, "user_id:u", "email:e@x")
    assert [edge.evidence.message_id for edge in chain.edges] == ["m1", "m4"]
    assert between(desk, "email:e@x", "user_id:u").nodes[1].value == "one"


def test_an_identifier_and_itself(town: Decisions) -> None:
    chain = between(town, "user_id:ana", "user_id:ana")
    assert (len(chain.nodes), chain.edges, chain.apart) == (1, [], None)


def test_a_shared_device_does_not_link_and_its_refusal_is_told(town: Decisions) -> None:
    chain = between(town, "user_id:ana", "user_id:bo")
    assert chain.profile_id is None
    assert chain.apart is not None
    ana, bo = chain.apart.sides
    assert ana.profile_id == told(town, "user_id:ana").profile_id
    assert bo.profile_id == told(town, "user_id:bo").profile_id
    assert (ana.standing, bo.standing) == ("linked", "linked")
    (refused,) = chain.apart.refusals
    assert str(refused.identifier) == "anonymous_id:tablet"
    assert (refused.cause, refused.limit_type, refused.limit) == ("limit", "user_id", 1)
    assert refused.profile_id == refused.against_profile_id == bo.profile_id
    assert refused.owner_profile_id == ana.profile_id
    assert refused.evidence.message_id == "m5"
    assert between(town, "user_id:bo", "anonymous_id:tablet").apart is not None


def test_people_whom_nothing_links(town: Decisions) -> None:
    apart = between(town, "user_id:ana", "user_id:cy").apart
    assert apart is not None
    assert (apart.refusals, apart.decisions, apart.more) == ([], [], False)


def test_an_unlinked_pair_names_who_decided_and_why(town: Decisions) -> None:
    town.do(AskUnlink(identifiers=("email:cy@x", "email:cyrus@x"), note="two people"))
    apart = between(town, "anonymous_id:phone", "anonymous_id:desktop").apart
    assert apart is not None
    (decision,) = apart.decisions
    assert (decision.decision, decision.by, decision.note) == ("unlink", BY, "two people")
    assert sorted(decision.identifiers) == ["email:cy@x", "email:cyrus@x"]
    assert decision.in_force
    assert [refused.cause for refused in apart.refusals] == ["unlinked"]


def test_identifiers_that_belong_to_nobody_say_why(desk: Decisions) -> None:
    desk.send(
        event("m1", userId="u", anonymousId="null"),
        event("m2", userId="u", anonymousId="one"),
        event("m3", userId="u", anonymousId="two"),
        event("m4", userId="u", anonymousId="three"),
        event("m5", userId="u", email="e@x"),
        event("m6", anonymousId="lonely"),
    )
    desk.do(AskQuarantine(identifier="email:e@x", note="a role account"))
    desk.do(AskRetract(message_id="m6"))

    def standing(text: str) -> str:
        apart = between(desk, "user_id:u", text).apart
        assert apart is not None
        return apart.sides[1].standing

    assert standing("anonymous_id:null") == "blocked"
    assert standing("anonymous_id:three") == "refused"
    assert standing("email:e@x") == "quarantined"
    assert standing("anonymous_id:lonely") == "retracted"
    apart = between(desk, "user_id:u", "email:e@x").apart
    assert apart is not None
    assert [(one.decision, one.note) for one in apart.decisions] == [("quarantine", "a role account")]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("user_id:nobody", NotFound, "no event that was applied has it"),
        ("email", Invalid, "write an identifier as TYPE:VALUE"),
        (":x", Invalid, "write an identifier as TYPE:VALUE"),
        ("user_id:", Invalid, "write an identifier as TYPE:VALUE"),
        ("user\0id:x", Invalid, "write an identifier as TYPE:VALUE"),
        ("user_id:\udcff", Invalid, "not valid text"),
    ],
)
def test_identifiers_that_cannot_be_explained(
    town: Decisions, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        between(town, "user_id:ana", text)


def test_a_person_and_an_account_are_never_one(desk: Decisions) -> None:
    desk.send({"type": "group", "messageId": "m1", "userId": "u", "groupId": "g"})
    with pytest.raises(Invalid, match="one names a person and one an account"):
        between(desk, "user_id:u", "group_id:g")
    assert between(desk, "group_id:g", "group_id:g").collection == "accounts"


def test_a_search_has_an_end(town: Decisions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_evidence, "WHY_SETS_MAX", 3)
    with pytest.raises(Invalid, match="more than 3 identifier sets were looked through"):
        between(town, "anonymous_id:phone", "anonymous_id:desktop")


# ---- refusals ------------------------------------------------------------------------------------


def test_refusals_of_an_identifier_in_pages(desk: Decisions) -> None:
    desk.send(
        event("m1", userId="u1", anonymousId="kiosk"),
        event("m2", userId="u2", anonymousId="kiosk"),
        event("m3", userId="u3", anonymousId="kiosk"),
    )
    asked = partial(refusals, collection=None, identifier="anonymous_id:kiosk")
    first = ask(desk, partial(asked, after="", rows=1))
    assert [one.evidence.message_id for one in first.shown.refusals] == ["m3"]
    assert first.following is not None
    second = ask(desk, partial(asked, after=first.following, rows=1))
    assert [one.evidence.message_id for one in second.shown.refusals] == ["m2"]
    assert second.following is None
    with pytest.raises(Invalid, match="take it from the page before"):
        ask(desk, partial(asked, after="not hex", rows=1))


def test_an_identifier_in_too_many_sets(town: Decisions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "REFUSAL_SETS_MAX", 1)
    with pytest.raises(Invalid, match="it is in 3 sets"):
        ask(town, partial(refusals, collection=None, identifier="user_id:ana", after="", rows=1))


def test_refusals_of_an_event_show_what_became_of_each_identifier(town: Decisions) -> None:
    town.send(event("m10", userId="bo", anonymousId="tablet"), event("m11", userId="dee", anonymousId="null"))

    def sets(message_id: str) -> list[bytes]:
        directory = town.desk.setup.recent_directory
        return ask(
            town,
            lambda view: recent.keys_of_message(directory, recent.load(view.tx, WORKSPACE), message_id),
        )

    # The same set again: what it refused was decided at its first event.
    found = ask(town, partial(refusals_of_event, keys=sets("m10"), after="", rows=10)).shown
    assert [str(one.identifier) for one in found.refusals] == ["anonymous_id:tablet"]
    (shown,) = found.sets
    assert shown.evidence.message_id == "m5"
    assert {str(one.identifier): one.outcome for one in shown.members} == {
        "user_id:bo": "linked",
        "anonymous_id:tablet": "refused",
    }
    found = ask(town, partial(refusals_of_event, keys=sets("m11"), after="", rows=10)).shown
    assert found.refusals == []
    assert {str(one.identifier): one.outcome for one in found.sets[0].members} == {
        "user_id:dee": "linked",
        "anonymous_id:null": "blocked",
    }
    assert sets("m99") == []


def test_the_sets_of_a_group_call_are_both_found(desk: Decisions) -> None:
    desk.send({"type": "group", "messageId": "m1", "userId": "u", "groupId": "g"})
    directory = desk.desk.setup.recent_directory
    keys = ask(desk, lambda view: recent.keys_of_message(directory, recent.load(view.tx, WORKSPACE), "m1"))
    found = ask(desk, partial(refusals_of_event, keys=keys, after="", rows=10)).shown
    assert sorted(shown.collection for shown in found.sets) == ["accounts", "users"]


def test_runs_that_are_merged_away_while_they_are_read(town: Decisions) -> None:
    asked = 0

    def gone(_: View) -> None:
        nonlocal asked
        asked += 1
        raise FileNotFoundError

    with pytest.raises(Unavailable, match="try again"):
        ask(town, gone)
    assert asked == ATTEMPTS_MAX


# ---- history -------------------------------------------------------------------------------------


def test_a_history_tells_merge_by_merge(town: Decisions) -> None:
    cy = told(town, "user_id:cy")
    assert [said(step) for step in cy.steps] == [
        ("created", "m6", "email:cy@x", "anonymous_id:phone"),
        ("created", "m7", "email:cyrus@x", "anonymous_id:desktop"),
        ("joined", "m8", "user_id:cy"),
        ("merged", "m9"),
    ]
    first, second, _, merged = cy.steps
    assert merged.profile_id == first.profile_id == cy.profile_id
    assert (merged.merged_profile_id, merged.count) == (second.profile_id, 3)
    assert [(part.profile_id, part.identifiers) for part in cy.parts] == [(cy.profile_id, 5)]


def test_a_history_as_of_a_time(town: Decisions) -> None:
    cy = told(town, "user_id:cy", as_of=START + 9)
    assert [said(step)[:2] for step in cy.steps] == [("created", "m6"), ("created", "m7"), ("joined", "m8")]
    assert [part.identifiers for part in cy.parts] == [2, 3]
    nothing = told(town, "user_id:cy", as_of=START)
    assert (nothing.steps, nothing.parts) == ([], [])


def test_every_id_a_profile_ever_had_leads_to_its_history(town: Decisions) -> None:
    cy = told(town, "user_id:cy")
    gone = cy.steps[-1].merged_profile_id or ""
    assert told(town, gone).profile_id == cy.profile_id
    assert told(town, gone).asked_for == gone
    assert told(town, gone).steps == told(town, cy.profile_id).steps


def test_a_history_has_its_refusals_and_decisions_in_place(town: Decisions) -> None:
    town.do(AskUnlink(identifiers=("email:cy@x", "email:cyrus@x"), note="two people"))
    bo = told(town, "user_id:bo")
    assert [said(step) for step in bo.steps] == [
        ("created", "m5", "user_id:bo"),
        ("refused", "m5", "anonymous_id:tablet"),
    ]
    cyrus = told(town, "email:cyrus@x")
    assert [said(step)[:2] for step in cyrus.steps] == [
        ("created", "m7"),
        ("joined", "m8"),
        ("refused", "m9"),
        ("decided", ""),
    ]
    decision = cyrus.steps[-1].decision
    assert decision is not None
    assert (decision.decision, decision.by, decision.note) == ("unlink", BY, "two people")
    assert told(town, "email:cy@x").steps[-1].decision == decision


def test_a_history_of_nobody(town: Decisions) -> None:
    town.do(AskQuarantine(identifier="anonymous_id:phone"))
    with pytest.raises(NotFound, match="it has none today"):
        told(town, "anonymous_id:phone")
    with pytest.raises(NotFound, match="it has none today"):
        told(town, "use_" + "0" * 27)


def test_a_profile_with_too_many_sets(town: Decisions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profilelake.identity.history.HISTORY_SETS_MAX", 3)
    with pytest.raises(Invalid, match="its profile has 4 sets"):
        told(town, "user_id:cy")


# ---- quarantine ----------------------------------------------------------------------------------


def test_what_is_quarantined_by_whom(town: Decisions) -> None:
    town.do(AskQuarantine(identifier="anonymous_id:tablet", note="a kiosk"))
    town.do(AskQuarantine(identifier="anonymous_id:phone"))
    first = ask(town, partial(quarantine, after="", rows=1))
    (phone,) = first.shown
    assert str(phone.identifier) == "anonymous_id:phone"
    assert first.following is not None
    second = ask(town, partial(quarantine, after=first.following, rows=1))
    (tablet,) = second.shown
    assert (tablet.cause, tablet.collection, second.following) == ("decision", "users", None)
    assert tablet.decision is not None
    assert (tablet.decision.by, tablet.decision.note) == (BY, "a kiosk")


def test_who_met_too_many_others_is_listed_with_how_many(desk: Decisions) -> None:
    desk.rules = replace(desk.rules, version=2, degree_max=2)
    desk.do(AskRules(rules=None))
    desk.send(*(event(f"m{number}", userId=f"u{number}", anonymousId="kiosk") for number in range(3)))
    (kiosk,) = ask(desk, partial(quarantine, after="", rows=10)).shown
    assert (str(kiosk.identifier), kiosk.cause) == ("anonymous_id:kiosk", "degree")
    assert (kiosk.degree, kiosk.degree_type, kiosk.decision) == (3, "user_id", None)
    steps = [said(step) for step in told(desk, "user_id:u0").steps]
    assert ("quarantined_by_degree", "", "anonymous_id:kiosk") in steps
    in_pages = []
    after: str | None = ""
    while after is not None:
        one = partial(history, collection=None, text="user_id:u2", after=after, rows=1)
        page, after = ask(desk, one)
        in_pages += page.steps
    assert in_pages == told(desk, "user_id:u2").steps
    assert [step.what for step in in_pages][-2:] == ["created", "quarantined_by_degree"]
    desk.do(AskRelease(identifier="anonymous_id:kiosk"))
    assert ask(desk, partial(quarantine, after="", rows=10)).shown == []
    assert between(desk, "user_id:u0", "anonymous_id:kiosk").apart is None
