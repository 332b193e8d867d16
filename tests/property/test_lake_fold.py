"""Base and log, folded in any order of steps, are what a dictionary would be."""

from hypothesis import given, settings

from lake_folding import STEPS, fold


@settings(max_examples=5)
@given(STEPS)
def test_folding_base_and_log_is_a_dictionary(steps: list[tuple[str, dict[str, int | None] | None]]) -> None:
    fold(steps)
