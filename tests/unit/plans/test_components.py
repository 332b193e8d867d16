"""Components over files: rounds, giants, identifiers met everywhere, and jobs that go on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import component_graphs as graphs
import component_laws as laws
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import CutUp, Gather, Work
from profilelake.engines.jobs import Job
from profilelake.engines.kept import keep
from profilelake.errors import Internal
from profilelake.plans.components import Limits, find_components
from profilelake.plans.found import components_of, sets_with_components
from profilelake.plans.parts import NO_COMPONENT

NOTHING_FITS = Limits(unit_sets=1, part_rows=20, finish_bytes=0)


class Counting(EmbeddedEngine):
    """Counts the rows that are spread by step, and runs nothing any more once it is told to stop."""

    def __init__(self, directory: Path, tasks: int = 2) -> None:
        super().__init__(directory, tasks)
        self.rows: dict[str, list[int]] = {}
        self.stopped = False

    def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
        assert not self.stopped, name
        return super().each(name, units, work)

    def spread(
        self,
        name: str,
        units: Sequence[Any],
        cut: CutUp[Any],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        assert not self.stopped, name
        self.rows[name] = [0] * parts

        def counted(part: int, tables: Mapping[str, pa.Table]) -> bytes:
            self.rows[name][part] = sum(table.num_rows for table in tables.values())
            return gather(part, tables)

        return super().spread(name, units, cut, inputs, parts, counted)


def test_a_chain_is_joined_in_few_rounds_though_nothing_fits_a_task() -> None:
    sets = [[one, one + 1] for one in range(200)]
    with laws.folder_in_memory() as folder:
        found, components = laws.find(Path(folder), [[one] for one in sets], NOTHING_FITS)
    assert len(set(components)) == found.components == 1
    assert 2 < found.rounds < 40


def test_a_cycle_and_a_chain_apart_stay_apart() -> None:
    sets = [[one, (one + 1) % 60] for one in range(60)] + [[one, one + 1] for one in range(100, 160)]
    with laws.folder_in_memory() as folder:
        found, components = laws.find(Path(folder), [[one] for one in sets], NOTHING_FITS)
    assert graphs.same_grouping(components, graphs.expected(sets))
    assert found.components == 2


def test_an_identifier_in_every_event_is_brought_to_its_part_once_from_each_unit(tmp_path: Path) -> None:
    storage = graphs.storage_of(tmp_path)
    files = [[[0, 1 + 1000 * file + one] for one in range(500)] for file in range(6)]
    engine = Counting(tmp_path / "scratch")
    limits = Limits(unit_sets=500, part_rows=100)
    kept = graphs.write(storage, f"{storage.root}/sets", files)
    found = find_components(engine, Job(storage, "hot", 1), kept, graphs.LinksOfColumn(), limits=limits)
    assert found.components == 1
    met = engine.rows["meet"]
    assert sum(met) == 6 * 501
    assert max(met) < 3 * sum(met) / len(met)


def test_a_set_without_identifiers_that_link_has_no_component(tmp_path: Path) -> None:
    storage = graphs.storage_of(tmp_path)
    kept = graphs.write(storage, f"{storage.root}/sets", [[[1, 2], [3]], [[3], [2], []]])
    links = graphs.LinksOfColumn(frozenset([graphs.id_of(3)]))
    engine = EmbeddedEngine(tmp_path / "scratch")
    found = find_components(engine, Job(storage, "test", 1), kept, links, limits=Limits(unit_sets=1))
    first, second = (components_of(storage, file).tolist() for file in found.files)
    assert first[1] == second[0] == second[2] == NO_COMPONENT
    assert first[0] == second[1] != NO_COMPONENT
    assert (found.sets, found.components) == (2, 1)


@pytest.mark.parametrize("files", [[], [[[], []]], [[[1]]]])
def test_little_or_nothing_is_no_special_case(tmp_path: Path, files: list[graphs.Sets]) -> None:
    found, components = laws.find(tmp_path, files, Limits())
    assert found.components == len(set(components) - {NO_COMPONENT})
    assert len(components) == sum(map(len, files))


def test_components_stand_beside_the_rows_of_their_sets(tmp_path: Path) -> None:
    storage = graphs.storage_of(tmp_path)
    sets = [[one % 50, 50 + one % 20] for one in range(300)]
    kept = graphs.write(storage, f"{storage.root}/sets", [sets[:170], sets[170:]])
    engine = EmbeddedEngine(tmp_path / "scratch")
    found = find_components(engine, Job(storage, "test", 1), kept, graphs.LinksOfColumn())
    rows, beside = [], []
    for file in found.files:
        for table, components in sets_with_components(storage, file, ["ids"], rows=64):
            assert table.num_rows == len(components)
            rows += table.column("ids").to_pylist()
            beside += components.tolist()
    assert rows == [[graphs.id_of(one) for one in members] for members in sets]
    assert graphs.same_grouping(beside, graphs.expected(sets))
    assert [file.sets for file in found.files] == kept


def test_a_job_that_is_done_answers_again_without_an_engine_of_the_same_kind(tmp_path: Path) -> None:
    storage = graphs.storage_of(tmp_path)
    kept = graphs.write(storage, f"{storage.root}/sets", [[[one, one + 1]] for one in range(30)])
    engine, job = Counting(tmp_path / "scratch", 5), Job(storage, "test", 1)
    found = find_components(engine, job, kept, graphs.LinksOfColumn(), limits=NOTHING_FITS)
    other = Counting(tmp_path / "scratch", 1)
    other.stopped = True
    assert find_components(other, job, kept, graphs.LinksOfColumn(), limits=NOTHING_FITS) == found


def test_links_that_do_not_fit_their_rows_are_our_fault(tmp_path: Path) -> None:
    storage = graphs.storage_of(tmp_path)
    kept = keep(storage, f"{storage.root}/sets", pa.table([[[graphs.id_of(1)]]], schema=graphs.IDS))
    engine = EmbeddedEngine(tmp_path / "scratch")
    with pytest.raises(Internal, match="1 offsets"):
        find_components(engine, Job(storage, "test", 1), kept, _nothing)


def _nothing(rows: pa.Table) -> tuple["np.ndarray", "np.ndarray"]:
    return np.empty((0, 2), dtype=np.uint64), np.zeros(1, dtype=np.int64)
