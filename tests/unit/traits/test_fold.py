"""What events come to: the cases that random histories would not meet, or not tell apart."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from condition_worlds import Call, events_table, position, set_id
from partials_read import plain_rows, rows_of, worth
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce
from profilelake.traits import fold as folding
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import DAY_MICROS, nodes, step_of

NOON = 20_500 * DAY_MICROS + DAY_MICROS // 2


def numbered(text: str, since: bytes = b"") -> Numbered:
    reduce = next(node for node in nodes(parse(text)) if isinstance(node, Reduce))
    return Numbered(7, step_of(reduce, since))


def call(value: Any = 1, number: int = 1, **other: Any) -> Call:
    said = Call(1, "track", "Order", NOON, number, properties={"a": value})
    return replace(said, **other)


def told(text: str, *calls: Call, at: int = NOON) -> Any:
    step = numbered(text)
    return worth(fold(events_table(calls), [step], at=at), step, step.step.reduce, set_id(1), at)


def test_nothing_comes_of_nothing() -> None:
    step = numbered("event('Order').count() > 0")
    nothing = plain_rows(Partials())
    assert plain_rows(fold(events_table([]), [step])) == nothing
    assert plain_rows(fold(events_table([call()]), [])) == nothing
    assert plain_rows(fold(events_table([call(name="Other")]), [step])) == nothing


def test_events_without_a_set_do_not_count() -> None:
    table = events_table([call(), call(number=2)])
    lost = pa.array([set_id(1), None], table.schema.field("set_id").type)
    table = table.set_column(table.schema.get_field_index("set_id"), "set_id", lost)
    (row,) = rows_of(fold(table, [numbered("event('Order').count() > 0")]).counts, set_id(1), 7)
    assert row["count"] == 1


def test_columns_may_be_dictionaries_and_come_in_chunks() -> None:
    table = events_table([call(), call(2, 2), call(3, 3)])
    coded = table.set_column(
        table.schema.get_field_index("properties"),
        "properties",
        table.column("properties").dictionary_encode(),
    )
    step = numbered("event('Order').where( property('a') >= 2 ).sum( property('a') )")
    parts = pa.concat_tables([table.slice(0, 1), table.slice(1, 2)])
    expected = plain_rows(fold(table, [step]))
    assert expected["numbers"][0][3:6] == (2, 2, 5)
    assert plain_rows(fold(coded, [step])) == plain_rows(fold(parts, [step])) == expected


def test_many_events_are_folded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [
        call(number % 3, number, set=number % 2, timestamp=NOON + number * DAY_MICROS // 4)
        for number in range(20)
    ]
    steps = [
        numbered("event('Order').within(2 days).count() > 0"),
        Numbered(8, numbered("event('Order').first( property('a') )").step),
    ]
    whole = plain_rows(fold(events_table(calls), steps))
    monkeypatch.setattr(folding, "EVENTS_MAX", 3)
    assert plain_rows(fold(events_table(calls), steps)) == whole


def test_a_windowed_step_has_a_row_per_day_and_its_events() -> None:
    step = numbered("event('Order').within(9 days).count() > 0")
    partials = fold(events_table([call(), call(number=2, timestamp=NOON + DAY_MICROS)]), [step])
    assert [row["bucket"] for row in rows_of(partials.counts, set_id(1), 7)] == [20_500, 20_501]
    assert [row["at"] for row in rows_of(partials.entries, set_id(1), 7)] == [NOON, NOON + DAY_MICROS]


def test_only_events_behind_a_position_count() -> None:
    step = numbered("event('Order').count() > 0", position(2))
    partials = fold(events_table([call(number=number) for number in (1, 2, 3)]), [step])
    assert [row["count"] for row in rows_of(partials.counts, set_id(1), 7)] == [1]


@pytest.mark.parametrize(
    ("value", "summed"),
    [
        ([1, "2", " 3", None, True, {"b": 1}, [9]], 3),
        ("1e3", 1000),
        (0.1, 0.1),
        (2**53, 2**53),
        (2**53 + 2, None),
        ("0x1", None),
        ({}, None),
        (-0.5, -0.5),
    ],
)
def test_numbers_are_json_numbers_and_texts_that_are_one(value: Any, summed: float | None) -> None:
    assert told("event('Order').sum( property('a') )", call(value)) == summed


def test_sums_are_exact() -> None:
    calls = [call(0.1, number) for number in range(1, 1001)]
    assert told("event('Order').sum( property('a') )", *calls) == 100
    large = [call(2**53, 1), call(1, 2), call(1, 3), call(-(2**53), 4)]
    assert told("event('Order').sum( property('a') )", *large) == 2


def test_the_name_of_a_page_is_a_property_whatever_its_properties_say() -> None:
    pages = [
        Call(1, "page", "Home", NOON, 1, properties={"page_name": "Other"}),
        Call(1, "page", None, NOON, 2, properties={"page_name": "Home"}),
        Call(1, "track", "Page Viewed", NOON, 3, properties={"page_name": "Home"}),
    ]
    assert told("event('Page Viewed').where( property('page_name') = 'Home' ).count() > 0", *pages) == 2
    assert told("event('Page Viewed').where( property('page_name').absent() ).count() > 0", *pages) == 1
    assert told("event('Page Viewed').unique( property('page_name') )", *pages) == ["Home"]


def test_events_of_a_funnel_are_cut_to_what_it_asks() -> None:
    funnel = numbered(
        "event('Order').where( property('a.b') > 0 AND event('Cart').within(parent: 1 day)"
        ".where( property('c') = property(parent: 'd') ).count() = 0 ).count() > 0"
    )
    secret = {"a": {"b": 1, "secret": 1}, "d": [1], "secret": "x"}
    table = events_table(
        [
            call(properties=secret, context={"ip": "x"}),
            call(number=2, name="Cart", properties={"c": 'é"', "secret": 1}),
            call(number=3, properties={"a": {"b": 0}}),
        ]
    )
    kept = fold(table, [funnel]).events[set_id(1), 7]
    assert [(event.name, json.loads(event.properties), event.context) for event in kept] == [
        ("Cart", {"c": 'é"'}, "{}"),
        ("Order", {"a": {"b": 1}, "d": [1]}, "{}"),
    ]
