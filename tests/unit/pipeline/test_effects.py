"""Plans: what decisions would change, told before, without changing anything."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from identity_deciding import Decisions
from profilelake.identity.decide import (
    Asked,
    AskQuarantine,
    AskRelink,
    AskRestore,
    AskRetract,
    AskRules,
    AskUnlink,
)
from profilelake.pipeline import _changes
from profilelake.pipeline.told_effects import Effects


def identify(user: str, device: str, number: int) -> dict[str, object]:
    return {"type": "identify", "userId": user, "anonymousId": device, "messageId": f"m{number}"}


def track(device: str, number: int, **traits: str) -> dict[str, object]:
    return {
        "type": "track",
        "event": "E",
        "anonymousId": device,
        "messageId": f"m{number}",
        "context": {"traits": traits},
    }


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Decisions]:
    """One person with an e-mail on two devices; another one alone."""
    made = Decisions(tmp_path)
    made.send(identify("u1", "a1", 1), track("a2", 2, email="e1@x"), track("a1", 3, email="e1@x"))
    made.send(identify("u2", "a4", 4))
    yield made
    made.desk.close()


def both_ways(people: Decisions, asked: Asked) -> Effects:
    """Return a plan that was made both from the state and from the lake."""
    component = people.plan(asked)
    history = people.plan(asked, component_sets_max=0)
    assert (component.method, history.method) == ("component", "history")
    assert replace_method(component) == replace_method(history)
    return component


def replace_method(effects: Effects) -> dict[str, object]:
    return {name: getattr(effects, name) for name in effects.__struct_fields__ if name != "method"}


def test_an_unlink_splits_a_profile_and_a_relink_merges_it(people: Decisions) -> None:
    before = people.profiles()
    asked = AskUnlink(identifiers=("user_id:u1", "email:e1@x"))
    found = both_ways(people, asked)
    assert people.profiles() == before
    assert (found.profiles_before, found.profiles_after) == (2, 3)
    assert (found.profiles_splitting, found.profiles_merging) == (1, 0)
    (example,) = found.examples
    assert example.change == "split"
    assert [set(one.identifiers) for one in example.before] == [
        {"user_id:u1", "email:e1@x", "anonymous_id:a1", "anonymous_id:a2"}
    ]
    people.do(asked)
    after = people.profiles()
    assert {one.profile_id: set(one.identifiers) for one in example.after}.items() <= after.items()
    assert sum(len(members - before.get(profile, set())) for profile, members in after.items()) == (
        found.identifiers_moved
    )
    back = both_ways(people, AskRelink(identifiers=asked.identifiers))
    assert [example.change for example in back.examples] == ["merge"]
    assert (back.profiles_merging, back.profiles_after) == (2, 2)
    assert back.examples[0].before == example.after
    assert back.examples[0].after == example.before


def test_a_quarantined_identifier_leaves_its_profile(people: Decisions) -> None:
    found = both_ways(people, AskQuarantine(identifier="email:e1@x"))
    assert found.profiles_splitting == 1
    assert found.largest_before is not None
    assert found.largest_before.identifier_count == 4
    shown = {name for example in found.examples for one in example.after for name in one.identifiers}
    assert "email:e1@x" not in shown


def test_an_unlink_of_strangers_changes_nobody(people: Decisions) -> None:
    found = both_ways(people, AskUnlink(identifiers=("user_id:u1", "user_id:u2"), anyway=True))
    assert not found.changed
    assert found.examples == []
    assert (found.largest_before, found.largest_after) == (None, None)
    assert found.profiles_before == found.profiles_after == 2


def test_a_retraction_is_planned_from_the_history(people: Decisions) -> None:
    found = people.plan(AskRetract(message_id="m3"))
    assert found.method == "history"
    assert (found.profiles_before, found.profiles_after) == (2, 3)
    people.do(AskRetract(message_id="m3"))
    assert len(people.profiles()) == 3
    back = people.plan(AskRestore(message_id="m3"))
    assert (back.profiles_before, back.profiles_after) == (3, 2)


def test_new_rules_are_planned_over_everything(people: Decisions) -> None:
    blocked = [
        replace(rule, blocked_exact=frozenset({"e1@x"})) if rule.type == "email" else rule
        for rule in people.rules.types
    ]
    people.rules = replace(people.rules, types=tuple(blocked))
    found = people.plan(AskRules(rules=None))
    assert (found.method, found.profiles_before, found.profiles_after) == ("history", 2, 3)
    people.do(AskRules(rules=None))
    assert len(people.profiles()) == 3
    assert not people.plan(AskRules(rules=None)).changed


def test_examples_are_the_largest_changes_and_bounded(
    people: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.send(*[track(f"b{number}", 20 + number, email="e2@x") for number in range(2)])
    people.send(track("b0", 30, email="e3@x"))
    monkeypatch.setattr(_changes, "IDENTIFIERS_SHOWN_MAX", 2)
    blocked = replace(people.rules, types=tuple(r for r in people.rules.types if r.type != "email"))
    people.rules = blocked
    found = people.plan(AskRules(rules=None))
    moved = [example.identifiers_moved for example in found.examples]
    assert moved == sorted(moved, reverse=True)
    assert len(moved) == 2
    assert people.plan(AskRules(rules=None), examples=1).examples == found.examples[:1]
    assert all(len(one.identifiers) <= 2 for example in found.examples for one in example.before)
    assert found.examples[0].before[0].identifier_count == 4
