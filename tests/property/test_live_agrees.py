"""Live computed traits and audiences are those of the plain reference, after every step of any history."""

from hypothesis import given, settings

from computed_laws import Step, live_says_what_the_reference_says, lives


@given(lives())
@settings(max_examples=15)
def test_live_says_what_the_reference_says(steps: list[Step]) -> None:
    live_says_what_the_reference_says(steps)
