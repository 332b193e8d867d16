"""Partials are what the reference says, in whatever parts events come."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condition_worlds import (
    SETS,
    World,
    events_table,
    histories,
    moments,
    position,
    reductions,
    set_id,
)
from partials_read import plain_rows, worth
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import Subject
from profilelake.semantics.conditions.tree import Reduce
from profilelake.state.store import State
from profilelake.traits import stored
from profilelake.traits.fold import fold
from profilelake.traits.merging import merge
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import step_of

WORKSPACE = "default"


def _numbered(reduces: list[Reduce], since: int | None) -> dict[Reduce, Numbered]:
    behind = b"" if since is None else position(since)
    return {reduce: Numbered(3 + 2 * place, step_of(reduce, behind)) for place, reduce in enumerate(reduces)}


@settings(deadline=None)
@given(histories(), st.lists(reductions(), min_size=1, max_size=4), st.none() | st.integers(0, 12), moments())
def test_partials_at_a_time_are_worth_what_the_reference_says(
    world: World, reduces: list[Reduce], since: int | None, at: int
) -> None:
    steps = _numbered(reduces, since)
    partials = fold(events_table(world.calls), list(steps.values()), at=at)
    for number in range(SETS):
        events = [event for call in world.calls if call.set == number and (event := call.occurred())]
        subject = Subject(events)
        if since is not None:
            subject = evaluate.since(subject, position(since))
        for reduce, numbered in steps.items():
            assert worth(partials, numbered, reduce, set_id(number), at) == evaluate.value(
                reduce, subject, at
            )


@settings(deadline=None)
@given(histories(20), st.lists(reductions(), min_size=1, max_size=4), st.data(), st.none() | moments())
def test_events_may_come_in_any_parts_and_order(
    world: World, reduces: list[Reduce], data: st.DataObject, at: int | None
) -> None:
    steps = list(_numbered(reduces, None).values())
    calls = data.draw(st.permutations(world.calls))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(calls)), max_size=4)))
    merged = Partials()
    for start, stop in zip([0, *cuts], [*cuts, len(calls)], strict=True):
        merged = merge(fold(events_table(calls[start:stop]), steps, at=at), merged)
    assert plain_rows(merged) == plain_rows(fold(events_table(world.calls), steps, at=at))


@settings(deadline=None)
@given(histories(20), st.lists(reductions(), min_size=1, max_size=4), st.data(), moments())
def test_what_sets_have_in_the_state_is_worth_the_same(
    state: State, world: World, reduces: list[Reduce], data: st.DataObject, at: int
) -> None:
    steps = _numbered(reduces, None)
    calls = data.draw(st.permutations(world.calls))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(calls)), max_size=4)))
    sets = [set_id(number) for number in range(SETS)]
    try:
        with state.write() as tx:
            for start, stop in zip([0, *cuts], [*cuts, len(calls)], strict=True):
                partials = fold(events_table(calls[start:stop]), list(steps.values()))
                stored.add(tx, WORKSPACE, partials, list(steps.values()))
            read = stored.read(tx, WORKSPACE, sets, at, list(steps.values()))
            raise _UndoneError
    except _UndoneError:
        pass
    for number in range(SETS):
        events = [event for call in world.calls if call.set == number and (event := call.occurred())]
        for reduce, numbered in steps.items():
            said = evaluate.value(reduce, Subject(events), at)
            assert worth(read, numbered, reduce, set_id(number), at) == said


class _UndoneError(Exception):
    """Undoes what one example wrote."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    opened = State.open(tmp_path_factory.mktemp("state"), writable=True)
    opened.ensure([WORKSPACE])
    yield opened
    opened.close()
