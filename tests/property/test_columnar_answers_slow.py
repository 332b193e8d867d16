"""The laws of the columnar engine, over many more worlds."""

import pytest
from hypothesis import given, settings

from columnar_laws import Asked, answers_are_right, answers_stand, asked

pytestmark = pytest.mark.slow


@settings(max_examples=3_000)
@given(asked(events=30))
def test_the_columns_answer_as_the_reference_does(one: Asked) -> None:
    answers_are_right(one)


@settings(max_examples=3_000)
@given(asked(events=30))
def test_an_answer_stands_until_the_time_it_is_said_to_stand(one: Asked) -> None:
    answers_stand(one)
