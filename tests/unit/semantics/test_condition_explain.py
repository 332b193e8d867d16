"""Why an answer is what it is."""

from unittest import mock

from hypothesis import given, settings

from condition_worlds import World, histories, moments, roots
from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.comparing import TEXTS_SOUGHT_MAX
from profilelake.semantics.conditions.effort import effort
from profilelake.semantics.conditions.evaluate import Occurred, Subject, account
from profilelake.semantics.conditions.explain import EVENTS_SHOWN_MAX, USERS_SHOWN_MAX, document, explain
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce, Root
from profilelake.semantics.times import parse_time

AT = parse_time("2026-02-15T00:00:00Z") or 0
DAY = 86_400_000_000


def order(days_ago: int, price: int) -> Occurred:
    return Occurred("Order", AT - days_ago * DAY, bytes([price]), "shop", {"price": price})


def test_a_comparison_says_what_counts_and_until_when() -> None:
    query = "event('Order').where(property('price') >= 30).within(7 days).count() >= 1"
    subject = Subject([order(9, 50), order(5, 20), order(4, 40), order(2, 60)])
    told = document(explain(parse(query), subject, AT))
    assert told == {
        "what": "comparison",
        "text": query,
        "span": [0, len(query)],
        "holds": True,
        "value": 2,
        "asked": [1],
        "changes_at": "2026-02-20T00:00:00.000001Z",
        "parts": [
            {
                "what": "reduction",
                "text": query.removesuffix(" >= 1"),
                "span": [0, len(query) - 5],
                "value": 2,
                "changes_at": "2026-02-18T00:00:00.000001Z",
                "considered": 4,
                "counted": 2,
                "events": [
                    {
                        "name": "Order",
                        "timestamp": f"2026-02-{day}T00:00:00.000000Z",
                        "position": bytes([price]).hex(),
                        "source_id": "shop",
                        "properties": {"price": price},
                    }
                    for day, price in ((13, 60), (11, 40))
                ],
            }
        ],
    }


def test_parts_of_a_condition_are_told_one_by_one() -> None:
    told = explain(
        parse(
            "NOT trait('plan') = 'pro' OR trait('renews').within_next(5 days) AND trait('tags').any(property('$') = 'x')"
        ),
        Subject(traits={"plan": "pro", "renews": "2026-02-18", "tags": ["x", "y", "x"]}),
        AT,
    )
    denied, both = told.parts
    dated, tagged = both.parts
    assert (told.what, told.holds) == ("or", True)
    assert (denied.what, denied.holds, denied.parts[0].holds, denied.parts[0].value) == (
        "not",
        False,
        True,
        "pro",
    )
    assert (both.what, both.holds) == ("and", True)
    assert (dated.value, dated.asked, dated.changes_at) == ("2026-02-18", ("5 days",), AT + 3 * DAY + 1)
    assert (tagged.what, tagged.considered, tagged.counted) == ("elements", 3, 2)
    assert told.changes_at == both.changes_at == dated.changes_at


def test_users_of_an_account_are_told_one_by_one() -> None:
    users = [
        Subject(traits={"role": "admin" if place == 3 else "user"}) for place in range(USERS_SHOWN_MAX + 5)
    ]
    told = explain(parse("ANY trait('role') = 'admin'"), account(users), AT)
    assert (told.what, told.holds, told.considered, told.counted) == ("users", True, len(users), 1)
    assert [part.place for part in told.parts] == list(range(USERS_SHOWN_MAX))
    assert [part.holds for part in told.parts] == [place == 3 for place in range(USERS_SHOWN_MAX)]


def test_the_newest_events_are_shown() -> None:
    events = [order(days, days) for days in range(EVENTS_SHOWN_MAX + 3)]
    told = explain(parse("event('Order').sum(property('price'))"), Subject(events[::-1]), AT)
    assert (told.counted, told.value) == (len(events), sum(range(len(events))))
    assert list(told.events) == events[:EVENTS_SHOWN_MAX]


def test_many_events_are_not_tried_for_ever() -> None:
    events = [Occurred("Order", AT - number) for number in range(5_000)]
    told = explain(parse("event('Order').within(1 day).count() >= 1"), Subject(events), AT)
    assert told.changes_at is not None
    assert AT < told.changes_at <= AT + DAY + 1


@settings(max_examples=40)
@given(histories(most=8), roots("accounts"), moments())
def test_what_is_told_is_what_is_answered(world: World, root: Root, at: int) -> None:
    for subject in world.account_subjects():
        told = explain(root, subject, at)
        if isinstance(root, Reduce):
            assert told.value == evaluate.value(root, subject, at)
        else:
            assert told.holds == evaluate.holds(root, subject, at)
        assert document(told)["text"] == told.text


PAIRED = (
    "event('Order').where(property('price') > 0 AND event('Order').where("
    "property('price') > property(parent: 'price')).within(parent: 7 days).count() >= 1).count()"
)


def test_what_is_left_out_because_there_are_newer_ones_is_told() -> None:
    orders = [Occurred("Order", AT - number, properties={"price": number}) for number in range(4)]
    with mock.patch.object(evaluate, "PAIRED_EVENTS_MAX", 2):
        told = explain(parse(PAIRED), Subject(orders), AT)
    # The one that is free is not meant at all; of the three others the oldest is left out.
    assert (told.considered, told.counted, told.left_out) == (4, 0, 1)
    assert document(told)["left_out"] == 1
    assert "left_out" not in document(explain(parse(PAIRED), Subject(orders), AT))


def test_what_is_left_out_because_newer_ones_hold_too_much_is_told() -> None:
    baskets = [Occurred("Order", AT - number, properties={"skus": ["a"] * 30}) for number in range(4)]
    query = (
        "event('Order').where(event('Order').where(property('skus').contains(property(parent: 'skus')))"
        ".within(parent: 7 days).count() >= 1).count()"
    )
    with mock.patch.object(evaluate, "PAIRED_VALUES_MAX", 60):
        told = explain(parse(query), Subject(baskets), AT)
    assert (told.considered, told.counted, told.left_out) == (4, 1, 2)
    same = explain(parse(query.replace(".contains(", ".equals(")), Subject(baskets), AT)
    assert (same.counted, same.left_out) == (3, 0)


def test_texts_that_are_not_looked_for_are_told() -> None:
    wanted = [f"s{number}" for number in range(TEXTS_SOUGHT_MAX)]
    subject = Subject(traits={"said": ["a", "last"], "wanted": [*wanted, "last"]})
    told = explain(parse("trait('said').contains(trait('wanted'))"), subject, AT)
    assert (told.holds, told.left_out) == (False, 1)
    told = explain(parse("trait('said') = trait('wanted')"), subject, AT)
    assert (told.holds, told.left_out) == (True, 0)


def test_the_effort_grows_with_what_events_hold() -> None:
    query = "event('Order').where(event('Order').where(property('a') != property(parent: 'a')).count() >= 1).count()"
    efforts = [
        effort(parse(query), Subject([Occurred("Order", AT, properties={"a": ["b"] * size})] * 10))
        for size in (1, 25, 250)
    ]
    assert efforts == [10 * (10 + 10), 10 * (10 + 10 * 2), 10 * (10 + 10 * 11)]


def test_the_effort_is_what_events_look_at_for_each_other() -> None:
    orders = [order(day, day) for day in range(10)]
    query = "event('Order').where(event('Order'){where}.within(parent: 1 day).count() >= 1).count() >= 1"
    assert effort(parse("event('Order').where(property('price') > 1).count() >= 1"), Subject(orders)) == 0
    assert effort(parse(query.format(where="")), Subject(orders)) == 10 * (10 + 10)
    deeper = ".where(event('Order').within(parent: 1 day).count() >= 1)"
    assert effort(parse(query.format(where=deeper)), Subject(orders)) == 10 * (10 + 10 * (1 + 20))
    # By pairs no more than so many look at so many.
    many = Subject([order(0, 1)] * 2_000)
    assert effort(parse(PAIRED), many) == 500 * (2_000 + 500)
