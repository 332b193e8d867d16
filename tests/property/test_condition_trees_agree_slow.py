"""The columnar engine gives the answers of the reference for every definition that can be written and makes sense."""

from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import condition_trees
from condition_subjects import columnar, kept
from condition_worlds import HOUR, START, Defined, World, expected, histories, moments, position
from profilelake.semantics.conditions.check import check
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import Reduce, Root, Target
from profilelake.semantics.definitions import Definition

pytestmark = pytest.mark.slow

FEW: Final = condition_trees.Alphabet(
    names=st.sampled_from(("Order", "Cart", "Page Viewed")),
    paths=st.sampled_from((("a",), ("b",), ("a", "b"), ("t",), ("u",), ("x.y",), ("page_name",), ("$",))),
    durations=st.sampled_from((HOUR, 24 * HOUR, 50 * HOUR, 1_000 * HOUR)),
    constants=st.sampled_from((0, 1, 2, -1, 1.5, True, False, "", "a", "ab", "1", "true")),
    instants=st.integers(0, 72).map(lambda hours: START + hours * HOUR),
    entities=False,
)
PROVABLE: Final = {"never", "no_number", "no_date", "constant"}
"""Errors of definitions that have an answer all the same: the same one for everybody."""


def target_of(root: Root) -> Target | None:
    """Return about whom a definition can be, None where it makes no sense."""
    targets: tuple[Target, ...] = ("users", "accounts")
    for target in targets:
        found = check(root, kind="trait" if isinstance(root, Reduce) else "audience", target=target)
        if all(finding.severity == "warning" or finding.code in PROVABLE for finding in found):
            return target
    return None


SENSIBLE: Final = condition_trees.roots(FEW).filter(lambda root: target_of(root) is not None)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(SENSIBLE, histories(), moments(), st.booleans())
def test_the_columns_answer_as_the_reference_does(root: Root, world: World, at: int, exact: bool) -> None:
    kind = "trait" if isinstance(root, Reduce) else "audience"
    target = target_of(root)
    assert target is not None
    definition = Definition("k0", kind, written(root), target, external_ids=())
    made = [Defined(definition, root, position(0))]
    found = columnar(made, world, at, exact=exact)
    assert {key: values for key, (values, _) in found.items()} == kept(made, expected(made, world, at))


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(SENSIBLE, histories(), moments(), st.integers(1, 90 * HOUR))
def test_an_answer_stands_until_the_time_it_is_said_to_stand(
    root: Root, world: World, at: int, later: int
) -> None:
    kind = "trait" if isinstance(root, Reduce) else "audience"
    target = target_of(root)
    assert target is not None
    made = [Defined(Definition("k0", kind, written(root), target, external_ids=()), root, position(0))]
    values, changes = columnar(made, world, at)["k0"]
    after = kept(made, expected(made, world, at + later))["k0"]
    for value, until, then in zip(values, changes, after, strict=True):
        assert value == then or until <= at + later
