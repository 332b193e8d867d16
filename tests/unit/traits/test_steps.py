"""What a step is, which are the same, and in which order definitions are computed."""

import pytest

from profilelake.errors import Invalid
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce
from profilelake.semantics.definitions import Definition, Held
from profilelake.traits.steps import DAY_MICROS, Family, Step, nodes, planned, step_of

FUNNEL = (
    "event('A').within(7 days).where( property('x') = 1 AND event('B').within(parent: 1 day)"
    ".where( property('a') = property(parent: 'c') ).count() = 0 ).count() > 1"
)


def step(text: str, since: bytes = b"") -> Step:
    return step_of(next(node for node in nodes(parse(text)) if isinstance(node, Reduce)), since)


def held(query: str, *, kind: str = "audience", historical: bool = True, key: str = "k") -> Held:
    definition = Definition(key, kind, query, historical=historical)  # type: ignore[arg-type]
    return Held(definition, 2, b"later", b"created")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("event('A').count() > 1", Family.COUNT),
        (
            "event('A').where( property('a') = 1 AND context('b').exists() ).within(2 days).count() > 1",
            Family.COUNT,
        ),
        ("event('A').sum( property('a') )", Family.NUMBER),
        ("event('A').min( property('a') )", Family.NUMBER),
        ("event('A').min( property('a') as string )", Family.VALUE),
        ("event('A').unique( property('a') ).count() > 2", Family.VALUE),
        ("event('A').last( property('a') )", Family.VALUE),
        ("event('A').expires_after(30 minutes).count() > 1", Family.EVENTS),
        ("event('A').where( property('a') = trait('b') ).count() > 1", Family.EVENTS),
        ("event('A').where( property('a').within_last(1 day) ).count() > 1", Family.EVENTS),
        (FUNNEL, Family.EVENTS),
    ],
)
def test_the_family_follows_from_what_is_asked(text: str, family: Family) -> None:
    assert step(text).family is family


def test_a_funnel_reads_the_events_of_all_its_names() -> None:
    funnel = step(FUNNEL)
    assert funnel.names == ("A", "B")
    assert funnel.paths == (("a",), ("c",), ("x",))
    assert funnel.horizon == 7 * DAY_MICROS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("event('A').count() > 1", "event('A').count() <= 5"),
        ("event('A').within(1 day).count() > 1", "event('A').within(24 hours).count() > 1"),
        ("event('A').sum( property('a') )", "event('A').avg( property('a') )"),
        ("event('A').unique( property('a') )", "event('A').mode( property('a'), 3 )"),
        (
            "event('A').where( property('a') = 1 ).count() > 1",
            "event('A').where(  property('a')  = 1.0 ).count() = 7",
        ),
    ],
)
def test_steps_that_keep_the_same_are_the_same(one: str, other: str) -> None:
    assert step(one).digest == step(other).digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("event('A').count() > 1", "event('B').count() > 1"),
        ("event('A').count() > 1", "event('A').within(1 day).count() > 1"),
        ("event('A').within(2 days).count() > 1", "event('A').within(1 day).count() > 1"),
        ("event('A').first( property('a') )", "event('A').last( property('a') )"),
        ("event('A').mode( property('a') as string )", "event('A').mode( property('a') )"),
        ("event('A').sum( property('a') )", "event('A').sum( property('b') )"),
        (
            "event('A').where( property('a') = 1 ).count() > 1",
            "event('A').where( property('a') = true ).count() > 1",
        ),
        (
            "event('A').where( property('a') = 1 ).count() > 1",
            "event('A').where( property('a') = '1' ).count() > 1",
        ),
    ],
)
def test_steps_that_keep_something_else_are_others(one: str, other: str) -> None:
    assert step(one).digest != step(other).digest


def test_only_later_events_are_another_step() -> None:
    assert step("event('A').count() > 1").digest != step("event('A').count() > 1", b"p").digest
    (plan,) = planned({"k": held("event('A').count() > 1", historical=False)})
    assert [one.since for one in plan.steps.values()] == [b"created"]


def test_definitions_come_after_those_they_read_and_sql_is_left_out() -> None:
    plan = planned(
        {
            "a": held("trait('c') > 1 AND trait('other') = 1"),
            "b": held("trait('a') = true"),
            "c": held("event('A').count()", kind="trait"),
            "d": held("SELECT 1", kind="sql_trait"),
        }
    )
    assert [one.held.definition.query[:9] for one in plan] == ["event('A'", "trait('c'", "trait('a'"]
    assert plan[1].reads == {"c", "other"}


def test_definitions_that_read_each_other_are_refused() -> None:
    with pytest.raises(Invalid, match=r"(a -> b -> a|b -> a -> b) read each other"):
        planned({"a": held("trait('b') = true"), "b": held("trait('a') = true")})


def test_a_definition_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Invalid, match="'broken'"):
        planned({"broken": held("event(")})
