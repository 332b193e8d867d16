"""Live computed traits and audiences in many histories, and through publications, upkeep and rebuilds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from computed_laws import Step, a_whole_life_of_definitions, live_says_what_the_reference_says, lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@given(lives(16))
@settings(max_examples=300)
def test_live_says_what_the_reference_says(steps: list[Step]) -> None:
    live_says_what_the_reference_says(steps)


@given(lives(), st.data())
@settings(max_examples=60)
def test_a_whole_life_of_definitions(steps: list[Step], data: st.DataObject) -> None:
    a_whole_life_of_definitions(steps, data)
