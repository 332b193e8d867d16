"""Every case about conditions on the whole pipeline: calls, definitions as facts, time."""

import pytest

from condition_cases import FILES, answers_as_told, cases
from condition_pipeline import by_pipeline

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("file", FILES)
def test_answers(file: str) -> None:
    answers_as_told(by_pipeline, cases(file))
