"""Which sets belong together is the same however they lie in files and whatever a task may hold."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import component_graphs as graphs
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.plans.components import Limits, find_components
from profilelake.plans.found import Found
from profilelake.plans.parts import NO_COMPONENT

ROUNDS = Limits(unit_sets=1, part_rows=3, finish_bytes=0, sample_sets=1 << 20)
"""No task may hold anything: the graph is joined until nothing is left of it."""


def find(
    folder: Path, files: list[graphs.Sets], limits: Limits, alike: bool, tasks: int
) -> tuple[Found, list[int]]:
    storage = graphs.storage_of(folder)
    kept = graphs.write(storage, f"{storage.root}/sets", files, alike)
    engine = EmbeddedEngine(folder / "scratch", tasks)
    found = find_components(
        engine, Job(storage, "test", [str(folder)]), kept, graphs.LinksOfColumn(), limits=limits
    )
    return found, graphs.found_by_set(storage, found)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_components_are_those_of_a_plain_union_find_whatever_the_files_parts_and_limits(
    data: st.DataObject,
) -> None:
    sets = data.draw(graphs.graphs())
    limits = Limits(
        unit_sets=data.draw(st.sampled_from([1, 7, 1000])),
        part_rows=data.draw(st.sampled_from([1, 5, 1000])),
        finish_bytes=data.draw(st.sampled_from([0, 1000, 1 << 20])),
    )
    files = data.draw(graphs.cut_up(sets))
    with tempfile.TemporaryDirectory() as folder:
        found, components = find(
            Path(folder), files, limits, data.draw(st.booleans()), data.draw(st.sampled_from([1, 2]))
        )
    wanted = [-1 if one is None else one for one in graphs.expected(sets)]
    assert graphs.same_grouping(components, wanted)
    assert [one == NO_COMPONENT for one in components] == [one == -1 for one in wanted]
    assert found.components == len(set(wanted) - {-1})
    assert found.sets == sum(one != -1 for one in wanted)
    parts = found.part_of(np.array(components, dtype=np.int64)) if components else []
    assert all(
        (part == -1) == (one == -1) and part < found.part_of.parts
        for part, one in zip(parts, components, strict=True)
    )
