"""Telling cases of identity by the batch plan, cut as finely as it goes."""

from pathlib import Path

import pytest

from identity_cases import CASES
from planned_cases import check_by_plan, written
from planned_identity import FINEST

TELLING = {
    "quarantine_by_degree",
    "strangers_quarantine_nobody",
    "retract_one_of_several",
    "retract_the_only_evidence",
    "windows_that_do_not_nest",
    "quarantine_an_account",
}


@pytest.mark.parametrize("path", [path for path in CASES if path.stem in TELLING], ids=lambda path: path.stem)
def test_case(path: Path, tmp_path: Path) -> None:
    check_by_plan(tmp_path, written(path, "minimal"), FINEST)
