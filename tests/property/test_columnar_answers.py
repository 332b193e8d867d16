"""The columnar engine gives the answers of the reference, and never says too late when they change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from condition_subjects import columnar, kept
from condition_worlds import Defined, World, definitions, expected, histories, moments
from profilelake.semantics.definitions import Json
from profilelake.traits.columns import NEVER


@settings(max_examples=60, deadline=None)
@given(definitions(), histories(), moments(), st.booleans())
def test_the_columns_answer_as_the_reference_does(
    made: list[Defined], world: World, at: int, exact: bool
) -> None:
    found = columnar(made, world, at, exact=exact)
    assert {key: values for key, (values, _) in found.items()} == kept(made, expected(made, world, at))


@settings(max_examples=60, deadline=None)
@given(definitions(), histories(), moments(), st.data())
def test_an_answer_stands_until_the_time_it_is_said_to_stand(
    made: list[Defined], world: World, at: int, data: st.DataObject
) -> None:
    found = columnar(made, world, at)
    later = data.draw(
        moments().filter(lambda moment: moment > at) | st.integers(1, 90 * 3_600_000_000).map(at.__add__)
    )
    before = dict(_standing(found, later))
    after = kept(made, expected(made, world, later))
    for place, value in before.items():
        key, subject = place
        assert after[key][subject] == value, (key, subject)


def _standing(
    found: dict[str, tuple[list[Json], list[int]]], later: int
) -> list[tuple[tuple[str, int], Json]]:
    """Return the answers that are said to be the same at a later time."""
    return [
        ((key, subject), value)
        for key, (values, changes) in found.items()
        for subject, (value, until) in enumerate(zip(values, changes, strict=True))
        if later < until
    ]


@settings(max_examples=60, deadline=None)
@given(definitions(), histories(), moments())
def test_a_change_is_said_for_later_than_now(made: list[Defined], world: World, at: int) -> None:
    for _, changes in columnar(made, world, at).values():
        assert all(at < until <= NEVER for until in changes)
