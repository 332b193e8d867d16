"""What is computed over the whole lake is what is live, of people and accounts, in many histories."""

import pytest
from hypothesis import given, settings

from account_laws import the_lake_gives_what_is_live
from batch_laws import Bounds, bounds, the_whole_lake_gives_the_answers_of_the_reference
from computed_laws import Step, lives
from condition_worlds import Defined, World, definitions, histories, moments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@settings(max_examples=60)
@given(lives(16))
def test_the_lake_gives_what_is_live_of_people_and_accounts(steps: list[Step]) -> None:
    the_lake_gives_what_is_live(steps)


@settings(max_examples=100)
@given(histories(16), definitions(), moments(), bounds())
def test_the_whole_lake_gives_the_answers_of_the_reference(
    world: World, made: list[Defined], at: int, cut: Bounds
) -> None:
    the_whole_lake_gives_the_answers_of_the_reference(world, made, at, cut)
