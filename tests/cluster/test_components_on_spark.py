"""Components on Spark: those of the embedded engine, also where nothing fits one task."""

from pathlib import Path

import pytest

import component_graphs as graphs
from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.plans.components import Limits, find_components
from profilelake.plans.found import components_of

SETS = (
    [[one, one + 1] for one in range(30)] + [[100 + one % 3, 200] for one in range(9)] + [[300], [], [0, 28]]
)


def found_by(engine: Engine, folder: Path, limits: Limits) -> tuple[list[int], int]:
    storage = graphs.storage_of(folder)
    files = graphs.write(
        storage, f"{storage.root}/sets", [SETS[start : start + 7] for start in range(0, len(SETS), 7)]
    )
    found = find_components(
        engine, Job(storage, "test", 1), files, graphs.LinksOfColumn(), ["ids"], limits=limits
    )
    return [one for file in found.files for one in components_of(storage, file).tolist()], found.rounds


@pytest.mark.parametrize("finish_bytes", [0, 1 << 20])
def test_components_are_those_of_the_embedded_engine(
    spark_engine: SparkEngine, tmp_path: Path, finish_bytes: int
) -> None:
    limits = Limits(unit_sets=7, part_rows=10, finish_bytes=finish_bytes)
    components, rounds = found_by(spark_engine, tmp_path / "spark", limits)
    wanted = [-1 if one is None else one for one in graphs.expected(SETS)]
    assert graphs.same_grouping(components, wanted)
    assert (rounds > 1) == (finish_bytes == 0)
    embedded = EmbeddedEngine(tmp_path / "scratch")
    assert found_by(embedded, tmp_path / "embedded", limits) == (components, rounds)
