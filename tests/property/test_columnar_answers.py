"""The columnar engine gives the answers of the reference, and never says too late when they change."""

from hypothesis import given, settings

from columnar_laws import Asked, answers_are_right, answers_stand, asked


@settings(max_examples=60)
@given(asked())
def test_the_columns_answer_as_the_reference_does(one: Asked) -> None:
    answers_are_right(one)


@settings(max_examples=60)
@given(asked())
def test_an_answer_stands_until_the_time_it_is_said_to_stand(one: Asked) -> None:
    answers_stand(one)
