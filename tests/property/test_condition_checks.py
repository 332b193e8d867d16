"""What a check says of a comparison is so: the reference never finds a case against it."""

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

import condition_trees
import condition_worlds
from profilelake.semantics.conditions.check import Finding, check
from profilelake.semantics.conditions.evaluate import holds
from profilelake.semantics.conditions.forms import from_tree, to_tree
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Comparison,
    Condition,
    Constant,
    Reduce,
    Root,
    Trait,
)

NEVER: Final = {"never", "no_number", "no_date"}
"""Findings that say that a condition holds for nobody."""
HOW: Final[tuple[Comparison, ...]] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "exists", "absent", "one_of",
    "none_of", "before_date", "after_date",
)  # fmt: skip
OPERANDS: Final = st.sampled_from(
    [Constant(value) for value in (0, 1, 2, -1, 0.5, "a", "0", "1", "", True, "2026-01-31T10:00:00")]
)
VALUES: Final = st.one_of(
    condition_worlds.reductions(), condition_worlds.reductions(), st.just(Trait(("t",)))
)


def _compared(draw: st.DrawFn, value: Reduce | Trait) -> Compare:
    how = draw(st.sampled_from(HOW))
    if how in ("exists", "absent"):
        return Compare(value, how)
    most = 2 if how in ("one_of", "none_of") else 1
    return Compare(value, how, tuple(draw(st.lists(OPERANDS, min_size=1, max_size=most))))


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    """Return a comparison of a reduction or trait with constants, sensible or not."""
    return _compared(draw, draw(st.one_of(condition_worlds.reductions(), st.just(Trait(("t",))))))


@st.composite
def joined(draw: st.DrawFn) -> And:
    """Return comparisons of one number, joined by AND."""
    value = draw(condition_worlds.reductions())
    return And(tuple(_compared(draw, value) for _ in range(draw(st.integers(2, 3)))))


def _of(condition: Condition) -> list[Finding]:
    """Return what is found of a condition itself, and of the parts of an AND."""
    root = parse(written(condition))
    places = {root.span} | ({part.span for part in root.parts} if isinstance(root, And) else set())
    places |= {operand.span for operand in root.operands} if isinstance(root, Compare) else set()
    return [finding for finding in check(root, kind="audience", target="users") if finding.span in places]


@settings(max_examples=30)
@given(
    st.lists(st.one_of(compares(), joined()), min_size=5, max_size=10),
    condition_worlds.histories(),
    condition_worlds.moments(),
)
def test_what_never_holds_holds_for_nobody(
    conditions: list[Condition], world: condition_worlds.World, at: int
) -> None:
    for condition in conditions:
        if any(finding.code in NEVER and finding.severity == "error" for finding in _of(condition)):
            assert not any(holds(condition, subject, at) for subject in world.subjects())


@settings(max_examples=30)
@given(
    st.lists(compares(), min_size=5, max_size=10), condition_worlds.histories(), condition_worlds.moments()
)
def test_what_always_holds_holds_for_all_who_have_a_value(
    conditions: list[Compare], world: condition_worlds.World, at: int
) -> None:
    for condition in conditions:
        if "always" in {finding.code for finding in _of(condition)}:
            there = Compare(condition.value, "exists")
            for subject in world.subjects():
                assert holds(condition, subject, at) == holds(there, subject, at)


@settings(max_examples=30)
@given(condition_worlds.roots("accounts"))
def test_the_worlds_of_other_laws_are_written_and_read_back(root: Root) -> None:
    text = written(root)
    assert written(parse(text)) == text
    assert from_tree(to_tree(root)) == parse(text)


@settings(max_examples=30)
@given(condition_trees.roots(), condition_trees.roots())
def test_trees_are_equal_where_their_texts_are(one: Root, other: Root) -> None:
    assert (one == other) == (written(one) == written(other))
    assert hash(one) == hash(parse(written(one)))
