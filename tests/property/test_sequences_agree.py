"""Funnels of every shape have the answers of the reference: what follows an event, what is the same, and by pairs."""

import pytest

from sequence_laws import funnels_are_right, searches_are_right


@pytest.mark.parametrize("part", range(10))
def test_funnels_answer_as_the_reference_does(part: int) -> None:
    for seed in range(20):
        funnels_are_right(part * 1_000_000 + seed)


@pytest.mark.parametrize("part", range(5))
def test_searches_answer_as_the_reference_does(part: int) -> None:
    for seed in range(30):
        searches_are_right(part * 1_000_000 + seed)
