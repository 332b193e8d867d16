"""Laws of the plain reference of conditions."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from condition_worlds import World, events_table, histories, moments, roots, times
from profilelake.landing.tables import EVENTS
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import Subject
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


@given(histories(), roots(), moments(), st.randoms(use_true_random=False))
def test_the_order_in_which_events_are_told_does_not_matter(
    world: World, root: Root, at: int, random: Random
) -> None:
    for subject in world.subjects():
        shuffled = list(subject.events)
        random.shuffle(shuffled)
        assert told(root, subject, at) == told(root, replace(subject, events=shuffled), at)


@given(histories(), roots(), times())
def test_what_has_not_happened_yet_does_not_matter(world: World, root: Root, at: int) -> None:
    for subject in world.subjects():
        happened = [event for event in subject.events if event.timestamp <= at]
        assert told(root, subject, at) == told(root, replace(subject, events=happened), at)


@given(histories(), roots("accounts"), moments())
def test_an_account_has_the_events_of_its_users(world: World, root: Root, at: int) -> None:
    for subject in world.account_subjects():
        turned = evaluate.account(subject.users[::-1], subject.traits)
        assert told(root, subject, at) == told(root, turned, at)


@given(histories())
def test_histories_are_stored_as_landing_does(world: World) -> None:
    assert events_table(world.calls).schema.equals(EVENTS.schema())
