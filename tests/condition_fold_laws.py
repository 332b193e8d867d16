"""Partials are what the reference says, in whatever parts events come."""

from collections.abc import Sequence
from typing import Any

from condition_worlds import SETS, World, events_table, position, set_id
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


def partials_at_a_time_are_worth_what_the_reference_says(
    world: World, reduces: Sequence[Reduce], since: int | None, at: int
) -> None:
    steps = _numbered(reduces, since)
    partials = fold(events_table(world.calls), list(steps.values()), at=at)
    _is_worth_the_same(partials, steps, world, at, since)


def events_may_come_in_any_parts_and_order(
    world: World, reduces: Sequence[Reduce], parts: Sequence[Sequence[Any]], at: int | None
) -> None:
    steps = list(_numbered(reduces, None).values())
    merged = Partials()
    for part in parts:
        merged = merge(fold(events_table(part), steps, at=at), merged)
    assert plain_rows(merged) == plain_rows(fold(events_table(world.calls), steps, at=at))


def what_sets_have_in_the_state_is_worth_the_same(
    state: State, world: World, reduces: Sequence[Reduce], parts: Sequence[Sequence[Any]], at: int
) -> None:
    steps = _numbered(reduces, None)
    numbered = list(steps.values())
    try:
        with state.write() as tx:
            for part in parts:
                stored.add(tx, WORKSPACE, fold(events_table(part), numbered), numbered)
            read = stored.read(tx, WORKSPACE, [set_id(number) for number in range(SETS)], at, numbered)
            raise _UndoneError
    except _UndoneError:
        _is_worth_the_same(read, steps, world, at, None)


class _UndoneError(Exception):
    """Undoes what one example wrote."""


def _is_worth_the_same(
    partials: Partials, steps: dict[Reduce, Numbered], world: World, at: int, since: int | None
) -> None:
    for number in range(SETS):
        events = [event for call in world.calls if call.set == number and (event := call.occurred())]
        subject = Subject(events)
        if since is not None:
            subject = evaluate.since(subject, position(since))
        for reduce, numbered in steps.items():
            said = evaluate.value(reduce, subject, at)
            assert worth(partials, numbered, reduce, set_id(number), at) == said


def _numbered(reduces: Sequence[Reduce], since: int | None) -> dict[Reduce, Numbered]:
    behind = b"" if since is None else position(since)
    return {reduce: Numbered(3 + 2 * place, step_of(reduce, behind)) for place, reduce in enumerate(reduces)}
