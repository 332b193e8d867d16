"""Cases of identity by the batch plan, on Spark."""

from pathlib import Path

import pytest

from identity_cases import CASES, POLICIES
from planned_cases import check_by_plan, written
from planned_identity import SMALL
from profilelake.engines.distributed import SparkEngine
from profilelake.semantics.rules import Demotion

pytestmark = pytest.mark.slow

ASKED = {
    "groups_are_accounts": "minimal",
    "quarantine_by_degree": "minimal",
    "retract_one_of_several": "minimal",
    "three_profiles_in_one_event": "minimal",
    "two_values_of_one_type": "lowest_priority",
    "unlinks_survive_merges": "lowest_priority",
    "windows_that_do_not_nest": "minimal",
}
"""Cases that between them ask for every step; each takes as many Spark jobs as there are steps."""


@pytest.mark.parametrize("path", [path for path in CASES if path.stem in ASKED], ids=lambda path: path.stem)
def test_case(path: Path, spark_engine: SparkEngine, tmp_path: Path) -> None:
    demotion: Demotion = POLICIES[ASKED[path.stem] == "lowest_priority"]
    check_by_plan(tmp_path, written(path, demotion), SMALL, spark_engine)
