"""Laws of upkeep on lakes of random shape: no row is lost, doubled or changed that should not be."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake_examples import open_lake
from profilelake.lake.compaction import Policy
from profilelake.plans import compaction
from upkeep_lakes import digests, engine_in, filled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(
    commits=st.integers(2, 6),
    rows=st.integers(1, 30),
    tasks=st.integers(1, 4),
    bytes=st.integers(2_000, 60_000),
)
def test_compaction_and_merge_change_no_row(
    tmp_path_factory: pytest.TempPathFactory, commits: int, rows: int, tasks: int, bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake = open_lake(folder)
    held, people = filled(lake, commits, rows)
    before = digests(lake, "w")
    policy = Policy(file_bytes=bytes, step_bytes=2 * bytes)
    compaction.compact(engine_in(folder, tasks), lake.storage, [held], policy=policy)
    compaction.merge(engine_in(folder, tasks), lake.storage, [people])
    after = digests(lake, "w")
    assert all(after[name] == before[name] for name in ("visits", "members"))
    lake.close()
