"""Laws of the plain reference of conditions."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from condition_worlds import (
    HOUR,
    SPANS,
    START,
    Defined,
    World,
    definitions,
    events_table,
    histories,
    moments,
    roots,
    times,
)
from profilelake.landing.tables import EVENTS
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import Subject
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.times import next_change, next_moment
from profilelake.semantics.conditions.tree import Reduce, Root
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Json


def told(root: Root, subject: Subject, at: int) -> str:
    """Return the answer of a tree as text, so that `1` and `true` differ."""
    found: Json
    if isinstance(root, Reduce):
        found = evaluate.value(root, subject, at)
    else:
        found = evaluate.holds(root, subject, at)
    return canonical(found)


@settings(max_examples=50)
@given(histories(), roots(), moments(), st.randoms(use_true_random=False))
def test_the_order_in_which_events_are_told_does_not_matter(
    world: World, root: Root, at: int, random: Random
) -> None:
    for subject in world.subjects():
        shuffled = list(subject.events)
        random.shuffle(shuffled)
        assert told(root, subject, at) == told(root, replace(subject, events=shuffled), at)


@settings(max_examples=50)
@given(histories(), roots(), times())
def test_what_has_not_happened_yet_does_not_matter(world: World, root: Root, at: int) -> None:
    for subject in world.subjects():
        happened = [event for event in subject.events if event.timestamp <= at]
        assert told(root, subject, at) == told(root, replace(subject, events=happened), at)


@settings(max_examples=50)
@given(histories(), roots("accounts"), moments())
def test_an_account_has_the_events_of_its_users(world: World, root: Root, at: int) -> None:
    for subject in world.account_subjects():
        turned = evaluate.account(subject.users[::-1], subject.traits, subject.entities)
        assert told(root, subject, at) == told(root, turned, at)


@settings(max_examples=25)
@given(histories())
def test_histories_are_stored_as_landing_does(world: World) -> None:
    assert events_table(world.calls).schema.equals(EVENTS.schema())


@settings(max_examples=40)
@given(histories(), roots(), st.one_of(moments(), times()))
def test_nothing_changes_before_the_next_change(world: World, root: Root, at: int) -> None:
    for subject in world.subjects():
        now, change = told(root, subject, at), next_change(root, subject, at)
        moment = next_moment(root, subject, at)
        assert (moment is None) <= (change is None)
        assert moment is None or at < moment <= (change or moment)
        if change is not None:
            assert told(root, subject, change) != now
        for later in _telling_times(subject):
            if at <= later and (change is None or later < change):
                assert told(root, subject, later) == now, later - at


def _telling_times(subject: Subject) -> set[int]:
    """Return the times around which windows over the events of a subject, and dates, have their edges."""
    happened = {event.timestamp for event in subject.events}
    dates = {START + hours * HOUR for hours in (24, 60, 70, 71, 72, 73)}
    edges = {when + span.micros for when in happened | dates for span in SPANS}
    edges |= {date - span.micros for date in dates for span in SPANS} | happened | dates
    return {edge + off for edge in edges for off in (-1, 0, 1, 2)}


@settings(max_examples=50)
@given(definitions())
def test_definitions_are_drawn_as_somebody_may_write_them(made: list[Defined]) -> None:
    assert [parse(one.definition.query) for one in made] == [one.root for one in made]
