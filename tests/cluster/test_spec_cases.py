"""Telling cases of the specification on Spark: each table has the digest that it has on this machine."""

from pathlib import Path

import pytest

from cluster.spec_tables import IDENTITY, differing
from profilelake.engines import distributed
from profilelake.engines.distributed import SparkEngine

TELLING = (
    "groups_are_accounts-minimal",
    "quarantine_by_degree-minimal",
    "retract_one_of_several-minimal",
    "two_values_of_one_type-lowest_priority",
    "unlinks_survive_merges-lowest_priority",
    "windows_that_do_not_nest-minimal",
)
"""Cases that between them ask for every step."""


@pytest.mark.timeout(600)
def test_telling_cases_of_identity(
    spark_engine: SparkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several units and parts share a task, as in a lake with very many of them.
    monkeypatch.setattr(distributed, "PARTITIONS_MAX", 4)
    unequal, _ = differing(tmp_path, {name: IDENTITY[name] for name in TELLING}, spark_engine)
    assert unequal == []
