"""Every plan, one after the other on one damaged lake, leaves on Spark what it leaves on this machine.

The benchmark of that name does the same with a million events; this is a small size of it.
"""

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EVENTS, PEOPLE, SEED = 4_000, 500, 1
MERGED = "_changes"
"""How the names of change logs end, some of which the damage leaves merged and empty."""


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("engines_agree")


@pytest.mark.timeout(900)
def test_all_plans_on_both(agreeing: ModuleType, spark_engine: SparkEngine, tmp_path: Path) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    agreeing.make(work, EVENTS, PEOPLE, SEED)
    shutil.move(work, kept)

    def plans_on(engine: Engine) -> list[tuple[str, str, int, str]]:
        shutil.copytree(kept, work)
        found = agreeing.all_plans(agreeing.Place(work), engine, agreeing.moment_after(EVENTS))
        shutil.rmtree(work)
        return [(one.plan, one.table, one.rows, one.digest) for one in found]

    here = plans_on(EmbeddedEngine(tmp_path / "engine"))
    assert plans_on(spark_engine) == here
    left = {table: rows for plan, table, rows, _ in here if plan == "repair"}
    assert [table for table, rows in left.items() if not rows and not table.endswith(MERGED)] == []
