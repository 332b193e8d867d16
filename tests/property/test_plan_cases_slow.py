"""Every case of identity, and random worlds, by the batch plan, as one part and as finely as it goes."""

from pathlib import Path

import pytest

from identity_cases import CASES, POLICIES
from identity_histories import world
from planned_cases import check_by_plan, of_world, written
from planned_identity import FINEST, SMALL, Cutting
from profilelake.semantics.rules import Demotion

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cutting", [None, FINEST], ids=["whole", "finest"])
@pytest.mark.parametrize("demotion", POLICIES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, demotion: Demotion, cutting: Cutting | None, tmp_path: Path) -> None:
    check_by_plan(tmp_path, written(path, demotion), cutting)


@pytest.mark.parametrize("seed", range(60))
def test_world(seed: int, tmp_path: Path) -> None:
    check_by_plan(tmp_path, of_world(world(seed)), (None, SMALL, FINEST)[seed % 3])
