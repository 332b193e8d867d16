"""Every case of identity by the batch plan, under both policies, as one part and as finely as it goes."""

from pathlib import Path

import pytest

from identity_cases import CASES, POLICIES
from planned_cases import check_by_plan
from planned_identity import FINEST, Cutting
from profilelake.semantics.rules import Demotion

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cutting", [None, FINEST], ids=["whole", "finest"])
@pytest.mark.parametrize("demotion", POLICIES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, demotion: Demotion, cutting: Cutting | None, tmp_path: Path) -> None:
    check_by_plan(tmp_path, path, demotion, cutting)
