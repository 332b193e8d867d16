"""Every case about conditions, on every engine."""

import pytest

from condition_cases import ASKED, ENGINES, FILES, Case, answers_as_told, cases, moment
from condition_lakes import on_lake, together
from condition_subjects import columnar
from profilelake.semantics.conditions.times import next_change
from profilelake.traits.columns import NEVER


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("file", FILES)
def test_answers(file: str, engine: str) -> None:
    answers_as_told(ENGINES[engine], cases(file))


def test_answers_over_a_lake() -> None:
    answers_as_told(on_lake(), together(FILES, cases))


CHANGING = [case for file in FILES for case in cases(file) if "changes" in case.told]


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_the_time_at_which_an_answer_changes(case: Case) -> None:
    (asked,) = case.definitions()
    changes = case.told["changes"]
    expected = None if changes == "never" else moment(changes)
    assert next_change(asked.root, case.subject(), case.at) == expected


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_columns_never_name_a_later_time(case: Case) -> None:
    made, world = case.definitions(), case.world_by_then()
    (until,) = columnar(made, world, case.at)[ASKED][1]
    change = next_change(made[-1].root, case.subject(world), case.at)
    assert case.at < until <= (NEVER if change is None else change)
