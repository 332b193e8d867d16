"""Every case about account links, consent and traits, on the plain reference and on the whole pipeline."""

from pathlib import Path

import pytest

from profile_cases import Case, by_pipeline, by_policy, by_reference

BY_POLICY = by_policy()
EVERY = [case for told in BY_POLICY for case in told]


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_the_reference(case: Case) -> None:
    assert by_reference(case) == case.expected


@pytest.mark.parametrize("told", BY_POLICY, ids=lambda told: told[0].policy)
def test_the_pipeline(told: list[Case], tmp_path: Path) -> None:
    in_order, backwards = by_pipeline(told, tmp_path)
    assert in_order == {case.name: case.expected for case in told}
    assert backwards == in_order
