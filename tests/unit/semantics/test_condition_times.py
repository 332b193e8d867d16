"""The very microsecond at which an answer changes by itself."""

import pytest

from profilelake.semantics.conditions.evaluate import Occurred, Subject, holds, value
from profilelake.semantics.conditions.times import MOMENTS_MAX, next_change, next_moment
from profilelake.semantics.conditions.tree import (
    Between,
    Compare,
    Comparison,
    Constant,
    Duration,
    Events,
    Property,
    Reduce,
    Session,
    Trait,
    Window,
    Within,
)
from profilelake.semantics.definitions import Json
from profilelake.semantics.times import format_time, parse_time

NOON = parse_time("2026-02-10T12:00:00Z") or 0
SPAN = 1_000


def counted(window: Window | None) -> Reduce:
    return Reduce(Events("Order", window=window), "count")


@pytest.mark.parametrize(
    ("window", "at", "changes"),
    [
        (Within(SPAN), NOON, NOON + SPAN + 1),
        (Within(SPAN), NOON + SPAN, NOON + SPAN + 1),
        (Within(SPAN), NOON + SPAN + 1, None),
        (Within(SPAN), NOON - 1, NOON),
        (Between(SPAN, 3 * SPAN), NOON, NOON + SPAN),
        (Between(SPAN, 3 * SPAN), NOON + SPAN, NOON + 3 * SPAN + 1),
        (Between(SPAN, 3 * SPAN), NOON + 3 * SPAN + 1, None),
        (Session(SPAN), NOON, NOON + SPAN + 1),
        (Session(SPAN), NOON + SPAN + 1, None),
        (None, NOON, None),
    ],
)
def test_an_event_enters_and_leaves_a_window(window: Window | None, at: int, changes: int | None) -> None:
    assert next_change(counted(window), Subject([Occurred("Order", NOON)]), at) == changes


@pytest.mark.parametrize(
    ("how", "at", "changes"),
    [
        ("within_last", NOON - 1, NOON),
        ("within_last", NOON, NOON + SPAN + 1),
        ("within_last", NOON + SPAN, NOON + SPAN + 1),
        ("within_last", NOON + SPAN + 1, None),
        ("within_next", NOON - SPAN - 1, NOON - SPAN),
        ("within_next", NOON - SPAN, NOON + 1),
        ("within_next", NOON, NOON + 1),
        ("within_next", NOON + 1, None),
        ("before_last", NOON, NOON + SPAN + 1),
        ("before_last", NOON + SPAN, NOON + SPAN + 1),
        ("before_last", NOON + SPAN + 1, None),
        ("after_next", NOON - SPAN - 1, NOON - SPAN),
        ("after_next", NOON - SPAN, None),
    ],
)
def test_a_date_draws_near_and_goes_by(how: Comparison, at: int, changes: int | None) -> None:
    condition = Compare(Trait(("renewal",)), how, (Duration(SPAN, "1 millisecond"),))
    subject = Subject(traits={"renewal": format_time(NOON)})
    assert next_change(condition, subject, at) == changes
    if changes is not None:
        assert holds(condition, subject, at) == holds(condition, subject, changes - 1)


def test_what_leaves_without_consequence_is_no_change() -> None:
    condition = Compare(counted(Within(SPAN)), "at_least", (Constant(1),))
    subject = Subject([Occurred("Order", NOON + early) for early in (0, 5, 9)])
    assert next_moment(condition, subject, NOON + 9) == NOON + SPAN + 1
    assert next_change(condition, subject, NOON + 9) == NOON + SPAN + 10


def test_a_session_ends_with_its_newest_event() -> None:
    subject = Subject([Occurred("Order", NOON + early) for early in (0, 5, 9)])
    assert next_moment(counted(Session(SPAN)), subject, NOON + 9) == NOON + SPAN + 10


def test_dates_inside_of_events_count() -> None:
    near = Compare(Property(("until",)), "within_next", (Duration(SPAN, "1 millisecond"),))
    reduce = Reduce(Events("Order", near), "count")
    subject = Subject([Occurred("Order", NOON - 10, properties={"until": format_time(NOON)})])
    assert value(reduce, subject, NOON) == 1
    assert next_change(reduce, subject, NOON) == NOON + 1


def test_after_so_many_moments_the_next_is_named() -> None:
    condition = Compare(counted(Within(SPAN)), "at_least", (Constant(1),))
    subject = Subject([Occurred("Order", NOON + early) for early in range(MOMENTS_MAX + 5)])
    assert next_change(condition, subject, NOON + MOMENTS_MAX + 4) == NOON + SPAN + 1 + MOMENTS_MAX


def test_what_no_time_can_change_is_not_gone_through() -> None:
    asked: list[str] = []

    class Watched(dict[str, Json]):
        def get(self, key: str, default: Json = None) -> Json:  # type: ignore[override]
            asked.append(key)
            return super().get(key, default)

    same = Compare(Property(("sku",)), "equals", (Property(("sku",), scope="parent"),))
    follows = Compare(
        Reduce(Events("Paid", same, window=Within(SPAN, parent=True)), "count"), "at_least", (Constant(1),)
    )
    condition = Compare(Reduce(Events("Order", follows), "count"), "at_least", (Constant(1),))
    events = [
        Occurred(name, NOON + step, properties=Watched(sku="a"))
        for step in range(5)
        for name in ("Order", "Paid")
    ]
    assert holds(condition, Subject(events), NOON + 9)
    asked.clear()
    assert next_moment(condition, Subject(events), NOON + 9) is None
    assert asked == []
    # One that is still to come is a moment, and so is each that leaves a window of its own.
    assert next_moment(condition, Subject(events), NOON + 2) == NOON + 3
    windowed = Compare(
        Reduce(Events("Order", follows, window=Within(SPAN)), "count"), "at_least", (Constant(1),)
    )
    assert next_moment(windowed, Subject(events), NOON + 9) == NOON + SPAN + 1
