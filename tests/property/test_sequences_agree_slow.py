"""The law of `test_sequences_agree.py` at length, from seeds that Hypothesis thinks of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequence_laws import funnels_are_right, searches_are_right

pytestmark = pytest.mark.slow


@settings(max_examples=3_000)
@given(st.integers(0, 2**64 - 1))
def test_funnels_answer_as_the_reference_does(seed: int) -> None:
    funnels_are_right(seed)


@settings(max_examples=1_000)
@given(st.integers(0, 2**64 - 1))
def test_searches_answer_as_the_reference_does(seed: int) -> None:
    searches_are_right(seed)
