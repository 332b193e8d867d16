"""Partials are what the reference says, in whatever parts events come, in memory and in the state."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condition_fold_laws import (
    WORKSPACE,
    events_may_come_in_any_parts_and_order,
    partials_at_a_time_are_worth_what_the_reference_says,
    what_sets_have_in_the_state_is_worth_the_same,
)
from condition_worlds import Call, World, histories, moments, reductions
from profilelake.semantics.conditions.tree import Reduce
from profilelake.state.store import State

SOME = st.lists(reductions(), min_size=1, max_size=4)


@st.composite
def worlds_in_parts(draw: st.DrawFn) -> tuple[World, list[list[Call]]]:
    """Return a world, and its calls in parts and any order."""
    world = draw(histories(20))
    calls = draw(st.permutations(world.calls))
    cuts = sorted(draw(st.lists(st.integers(0, len(calls)), max_size=4)))
    return world, [
        list(calls[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(calls)], strict=True)
    ]


@settings(max_examples=25)
@given(histories(), SOME, st.none() | st.integers(0, 12), moments())
def test_partials_at_a_time_are_worth_what_the_reference_says(
    world: World, reduces: list[Reduce], since: int | None, at: int
) -> None:
    partials_at_a_time_are_worth_what_the_reference_says(world, reduces, since, at)


@settings(max_examples=20)
@given(worlds_in_parts(), SOME, st.none() | moments())
def test_events_may_come_in_any_parts_and_order(
    parts: tuple[World, list[list[Call]]], reduces: list[Reduce], at: int | None
) -> None:
    events_may_come_in_any_parts_and_order(parts[0], reduces, parts[1], at)


@settings(max_examples=20)
@given(worlds_in_parts(), SOME, moments())
def test_what_sets_have_in_the_state_is_worth_the_same(
    state: State, parts: tuple[World, list[list[Call]]], reduces: list[Reduce], at: int
) -> None:
    what_sets_have_in_the_state_is_worth_the_same(state, parts[0], reduces, parts[1], at)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    opened = State.open(tmp_path_factory.mktemp("state"), writable=True)
    opened.ensure([WORKSPACE])
    yield opened
    opened.close()
