"""Every case about conditions, on every engine."""

import pytest

from condition_cases import CASES, ENGINES, Case, cases, moment
from profilelake.semantics.conditions.times import next_change
from profilelake.semantics.conditions.values import canonical

FILES = sorted(path.name for path in CASES.glob("*.yaml"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("file", FILES)
def test_answers(file: str, engine: str) -> None:
    told = cases(file)
    answers = ENGINES[engine](told)
    # As text, for `1` and `true` are different answers.
    assert {case.name: canonical(answer) for case, answer in zip(told, answers, strict=True)} == {
        case.name: canonical(case.expect) for case in told
    }


CHANGING = [case for file in FILES for case in cases(file) if "changes" in case.told]


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_the_time_at_which_an_answer_changes(case: Case) -> None:
    (asked,) = case.definitions()
    changes = case.told["changes"]
    expected = None if changes == "never" else moment(changes)
    assert next_change(asked.root, case.subject(), case.at) == expected
