"""Every case about conditions, on every engine."""

import pytest

from condition_cases import ENGINES, FILES, Case, answers_as_told, cases, moment
from profilelake.semantics.conditions.times import next_change


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("file", FILES)
def test_answers(file: str, engine: str) -> None:
    answers_as_told(ENGINES[engine], cases(file))


CHANGING = [case for file in FILES for case in cases(file) if "changes" in case.told]


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_the_time_at_which_an_answer_changes(case: Case) -> None:
    (asked,) = case.definitions()
    changes = case.told["changes"]
    expected = None if changes == "never" else moment(changes)
    assert next_change(asked.root, case.subject(), case.at) == expected
