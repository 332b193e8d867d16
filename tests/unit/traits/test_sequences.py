"""Funnels of a profile with very many events: what is looked at, and that it is what the reference says."""

import numpy as np
import pyarrow as pa
import pytest

from condition_subjects import columnar
from condition_worlds import HOUR, START, Call, Defined, Person, World, expected, position
from profilelake.semantics.conditions.pairing import PAIRED_EVENTS_MAX
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.definitions import Definition, Json
from profilelake.traits.columns import Coded
from profilelake.traits.following import Runs
from profilelake.traits.same_values import same_counts

AT = START + 72 * HOUR
MANY = PAIRED_EVENTS_MAX + 3
DEARER = (
    "event('Bought').where(property('price') > property(parent: 'price')).within(parent: 1 hour).count() >= 1"
)


def answer(query: str, calls: list[Call], *, hold: bool = True) -> Json:
    """Return the engine's answer about one person, which the reference gives too."""
    made = [Defined(Definition("k", "trait", query, external_ids=()), parse(query), position(0))]
    world = World(tuple(calls), (Person((0,), {}, frozenset()),))
    found = columnar(made, world, AT)["k"][0][0]
    if hold:
        assert found == (expected(made, world, AT)["k"][0] or None)
    return found


def call(number: int, name: str, micros_ago: int, **properties: Json) -> Call:
    return Call(0, "track", name, AT - micros_ago, number + 1, properties=properties)


def test_where_pairs_are_looked_at_the_newest_count() -> None:
    added = [call(number, "Added", HOUR + number, price=1) for number in range(MANY)]
    bought = call(MANY, "Bought", 1, price=2)
    query = f"event('Added').where({DEARER.replace('1 hour', '1 day')}).count()"
    assert answer(query, [*added, bought]) == PAIRED_EVENTS_MAX
    assert answer(query, [*added[:7], bought]) == 7


def test_of_events_at_one_time_all_are_looked_at_or_none() -> None:
    added = [call(number, "Added", HOUR if number < 10 else HOUR + 1, price=1) for number in range(MANY)]
    bought = call(MANY, "Bought", 1, price=2)
    assert (
        answer(f"event('Added').where({DEARER.replace('1 hour', '1 day')}).count()", [*added, bought]) == 10
    )


def test_events_that_are_not_meant_do_not_push_others_out() -> None:
    added = [call(number, "Added", HOUR + number, price=1, kind="other") for number in range(MANY)]
    meant = call(MANY, "Added", 2 * HOUR, price=1, kind="meant")
    bought = call(MANY + 1, "Bought", 1, price=2)
    query = (
        f"event('Added').where(property('kind') = 'meant' AND {DEARER.replace('1 hour', '1 day')}).count()"
    )
    assert answer(query, [*added, meant, bought]) == 1


def test_of_what_follows_the_newest_are_looked_at() -> None:
    added = call(0, "Added", 2 * HOUR, price=1)
    bought = [call(number + 1, "Bought", number, price=0) for number in range(MANY)]
    dear = call(MANY + 1, "Bought", HOUR + HOUR // 2, price=5)
    query = f"event('Added').where({DEARER}).count()"
    assert answer(query, [added, dear, *bought[: PAIRED_EVENTS_MAX - 1]]) == 1
    assert answer(query, [added, dear, *bought]) is None


def test_equal_values_and_sums_of_what_follows_have_no_limit() -> None:
    calls = [call(number, "Added", 2 * HOUR + number, sku=f"s{number}", price=1) for number in range(MANY)]
    calls += [
        call(MANY + number, "Bought", HOUR + number, sku=f"s{number}", price=1) for number in range(MANY)
    ]
    same = (
        "event('Bought').where(property('sku') = property(parent: 'sku')).within(parent: 1 day).count() = 1"
    )
    assert answer(f"event('Added').where({same}).count()", calls, hold=False) == MANY
    total = f"event('Bought').within(parent: 1 day).sum(property('price')) = {MANY}"
    assert answer(f"event('Added').where({total}).count()", calls, hold=False) == MANY


@pytest.mark.parametrize("up_to", [1, 3])
def test_counts_are_exact_as_far_as_they_are_asked_for(up_to: int) -> None:
    values = Coded.of(pa.array(['"a"', '["a","b"]', "1", None]))
    asking = Coded.of(pa.array(['["a","b","1"]', '"b"', "1.0", None]))
    whole = np.full(4, 4)
    runs = Runs(np.zeros(4, dtype=np.int64), whole, np.full(4, -1))
    assert same_counts(values, asking, runs, up_to).tolist() == [min(3, up_to), 1, 1, 0]


def test_a_list_of_unique_values_ends_at_its_limits_and_their_count_does_not() -> None:
    calls = [call(number, "Added", number, sku=f"{number:04}") for number in range(1_200)]
    found = answer("event('Added').unique(property('sku'))", calls)
    assert isinstance(found, list)
    assert (len(found), found[-1]) == (1_000, "0999")
    assert answer("event('Added').unique(property('sku')).count()", calls) == 1_200
    long = [call(number, "Added", number, sku=f"{number}" + "é" * 5_000) for number in range(9)]
    found = answer("event('Added').unique(property('sku'))", long)
    # Each takes 10,000 bytes, a digit, two quotes and a comma.
    assert isinstance(found, list)
    assert [text[0] for text in found] == ["0", "1", "2", "3", "4", "5"]
