"""Laws of plans: the component says what the whole history says, and what is planned comes true."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from identity_deciding import Decisions
from pipeline_arrivals import histories
from pipeline_driver import LogBuilder, tight_rules
from profilelake.errors import ProfilelakeError
from profilelake.eventlog import Record
from profilelake.identity.decide import (
    Asked,
    AskQuarantine,
    AskRelease,
    AskRelink,
    AskRules,
    AskUnlink,
)
from profilelake.pipeline.told_effects import Effects
from profilelake.semantics.rules import IdentityRules

pytestmark = pytest.mark.slow

names = st.sampled_from(
    [
        *(f"user_id:u{number}" for number in (1, 2, 3)),
        *(f"anonymous_id:a{number}" for number in (1, 2, 3, 4)),
        *(f"email:e{number}@x" for number in (1, 2, 3)),
        "group_id:g1",
    ]
)
pairs = st.tuples(names, names)
decisions = st.one_of(
    st.builds(lambda pair: AskUnlink(identifiers=pair, anyway=True), pairs),
    st.builds(lambda pair: AskRelink(identifiers=pair), pairs),
    st.builds(lambda name: AskQuarantine(identifier=name), names),
    st.builds(lambda name: AskRelease(identifier=name, anyway=True), names),
    st.just(AskRules(rules=None)),
)


def rules_of(number: int) -> IdentityRules:
    rules = tight_rules()
    types = tuple(replace(rule, limit=number) if rule.type != "user_id" else rule for rule in rules.types)
    return replace(rules, types=types)


# An example is a whole data directory, so finding a smaller one that fails would take minutes.
@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(histories(), st.lists(decisions, min_size=1, max_size=5), st.integers(1, 4))
def test_what_is_planned_comes_true(records: list[Record], asked: list[Asked], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        people = Decisions(
            Path(folder),
            log=LogBuilder("00000000000000cc"),
            now=max(record.received_at for record in records),
        )
        people.desk.apply(records)
        people.rules = rules_of(limit)
        for each in asked:
            comes_true(people, each)
        people.desk.close()


def comes_true(people: Decisions, asked: Asked) -> None:
    """Plan both ways, decide, and see that it is as it was told."""
    try:
        found = people.plan(asked)
    except ProfilelakeError:
        return  # what cannot be decided is not what this is about
    history = people.plan(asked, component_sets_max=0)
    assert told(found) == told(history)
    before = people.profiles()
    people.do(asked)
    after = people.profiles()
    assert (found.profiles_before, found.profiles_after) == (len(before), len(after))
    owners = [
        {name: profile for profile, members in side.items() for name in members} for side in (before, after)
    ]
    moved = {name for name in owners[0] | owners[1] if owners[0].get(name) != owners[1].get(name)}
    assert found.identifiers_moved == len(moved)
    for side, shown in (
        (before, [one.before for one in found.examples]),
        (after, [one.after for one in found.examples]),
    ):
        assert members(shown) == {
            profile: names for profile, names in side.items() if profile in members(shown)
        }
    assert {
        name
        for example in found.examples
        for one in (*example.before, *example.after)
        for name in one.identifiers
    } >= moved
    people.desk.publish()


def members(shown: Sequence[Sequence[object]]) -> dict[str, set[str]]:
    return {one.profile_id: set(one.identifiers) for profiles in shown for one in profiles}  # type: ignore[attr-defined]


def told(effects: Effects) -> dict[str, object]:
    return {name: getattr(effects, name) for name in effects.__struct_fields__ if name != "method"}
