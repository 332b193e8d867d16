"""Answers of definitions as columns: what random worlds do not reach, and how late a change is said to come."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from condition_subjects import columnar, people, plan_of
from condition_worlds import HOUR, START, Call, Defined, Person, World, position
from profilelake.errors import Internal, Invalid
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce
from profilelake.semantics.definitions import Definition
from profilelake.traits import answers as module
from profilelake.traits.answers import answers
from profilelake.traits.columns import NEVER
from profilelake.traits.partials import Partials

AT = START + 72 * HOUR
DAY = 24 * HOUR


def defined(query: str, key: str = "k0", **more: object) -> Defined:
    root = parse(query)
    kind = "trait" if isinstance(root, Reduce) else "audience"
    told = {"external_ids": (), **more}
    return Defined(Definition(key, kind, query, **told), root, position(0))  # type: ignore[arg-type]


def orders(*hours_ago: int, name: str = "Order", sets: int = 1) -> World:
    """Return a world of one person who ordered so many hours ago, on each of its sets in turn."""
    happened = [
        Call(number % sets, "track", name, AT - hours * HOUR, number + 1, properties={"total": hours})
        for number, hours in enumerate(hours_ago)
    ]
    return World(tuple(happened), (Person(tuple(range(sets)), {"plan": "pro"}, frozenset()),))


def changes(query: str, world: World) -> int:
    """Return in how many hours (and a microsecond) the answer is said to change, at the earliest."""
    ((_, (when,)),) = columnar([defined(query)], world, AT).values()
    return -1 if when == NEVER else (when - 1 - AT) // HOUR


WITHIN = "event('Order').within(2 days).count()"


@pytest.mark.parametrize(
    ("comparison", "hours"),
    [
        # Orders of 47, 40, 30 and 1 hours ago. Those of whole days are known by their day only.
        (">= 1", 47),
        (">= 4", 1),
        ("> 3", 1),
        ("< 4", 1),
        (">= 5", -1),
        ("<= 4", -1),
        (">= 0", -1),
        ("= 4", 1),
    ],
)
def test_of_a_count_only_the_event_that_reaches_the_threshold_matters(comparison: str, hours: int) -> None:
    assert changes(f"{WITHIN} {comparison}", orders(47, 40, 30, 1, sets=2)) == hours


def test_days_that_lie_wholly_in_the_window_are_known_by_their_beginning() -> None:
    when = changes("event('Order').within(3 days).count() >= 2", orders(40, 30, 1))
    assert 72 - 40 >= when > 72 - 30 - 24


def test_an_and_that_fails_for_good_never_changes() -> None:
    world = orders(47)
    assert changes(f"trait('plan') = 'free' AND {WITHIN} >= 1", world) == -1
    assert changes(f"trait('plan') = 'pro' AND {WITHIN} >= 1", world) == 1


def test_a_session_ends_as_a_whole() -> None:
    world = orders(3, 2, 1)
    query = "event('Order').expires_after(2 hours).count()"
    assert columnar([defined(query)], world, AT)["k0"][0] == [3]
    assert changes(query, world) == 1


def test_who_cannot_be_reached_is_in_no_audience_and_never_will() -> None:
    asked = defined(f"{WITHIN} >= 1", external_ids=("email",))
    assert columnar([asked], orders(1), AT) == {"k0": ([None], [NEVER])}


def test_a_disabled_definition_has_no_answers_and_hides_what_was_written_under_its_key() -> None:
    made = [
        defined("event('Order').count()", "plan", enabled=False),
        defined("event('Order').count() >= 1", "k1", enabled=False),
        defined("trait('plan').exists() OR trait('k1') = true", "k2"),
        defined("trait('k1') = false", "k3"),
    ]
    found = columnar(made, orders(1), AT)
    assert {key: values for key, (values, _) in found.items()} == {
        "plan": [None], "k1": [None], "k2": [None], "k3": [True],
    }  # fmt: skip


def test_a_count_of_zero_compares_but_is_not_kept() -> None:
    made = [defined("event('Cart').count()"), defined("trait('k0') = 0", "k1")]
    found = columnar(made, orders(1), AT)
    assert found["k0"][0] == [None]
    assert found["k1"][0] == [True]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_slices_of_subjects_have_the_same_answers(size: int) -> None:
    calls = [Call(place % 5, "track", "Order", AT - place * HOUR, place + 1) for place in range(12)]
    persons = tuple(Person((place,), {}, frozenset()) for place in range(5))
    world = World(tuple(calls), persons)
    made = [
        defined("event('Order').count()"),
        defined("event('Order').within(5 hours).count() >= 1", "k1"),
        defined("event('Order').where(event('Order').within(parent: 5 hours).count() >= 1).count()", "k2"),
    ]
    expected = columnar(made, world, AT)
    assert expected["k0"][0] == [3, 3, 2, 2, 2]
    with mock.patch.object(module, "SLICE", size):
        assert columnar(made, world, AT) == expected


def test_nobody_has_no_answers() -> None:
    found = columnar([defined("event('Order').count()")], World((), ()), AT)
    assert found == {"k0": ([], [])}


def test_rows_of_entities_are_those_that_the_caller_hands_over() -> None:
    world = orders(1)
    plan, _ = plan_of([defined("entity('pets').where(property('kind') = 'cat').count()")])
    told = replace(people(world), entities={"pets": pa.array(['[{"kind":"cat"},{"kind":"dog"}]'])})
    assert answers(plan, {}, Partials(), told, AT)["k0"].values.to_pylist() == ["1"]
    with pytest.raises(Invalid, match="there is no entity 'pets'"):
        answers(plan, {}, Partials(), people(world), AT)


def test_a_step_that_has_no_number_is_a_fault_of_ours() -> None:
    plan, _ = plan_of([defined("event('Order').count()")])
    with pytest.raises(Internal, match="has no number in the partials"):
        answers(plan, {}, Partials(), people(orders(1)), AT)


def test_sets_of_others_do_not_count() -> None:
    world = orders(1, 2, sets=2)
    stranger = World(world.calls, (Person((0,), {}, frozenset()),))
    assert columnar([defined("event('Order').count()")], stranger, AT)["k0"][0] == [1]


def test_changes_are_given_for_each_subject_as_integers() -> None:
    plan, steps = plan_of([defined(f"{WITHIN} >= 1")])
    numbers = {step.digest: number for number, step in steps}
    found = answers(plan, numbers, Partials(), people(orders(1)), AT)["k0"]
    assert found.changes_at.dtype == np.int64
    assert found.values.type == pa.string()
