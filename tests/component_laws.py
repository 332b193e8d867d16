"""Laws of `plans.components`, held on graphs that Hypothesis draws."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import component_graphs as graphs
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.kernels import hashed
from profilelake.plans.components import Limits, find_components
from profilelake.plans.found import Found, components_of
from profilelake.plans.parts import NO_COMPONENT

MEMORY = Path("/dev/shm")


def folder_in_memory() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder where it costs nothing that each of very many small files is made durable."""
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def find(
    folder: Path, files: list[graphs.Sets], limits: Limits, *, alike: bool = False, tasks: int = 2
) -> tuple[Found, list[int]]:
    """Find the components of sets in files, below an empty folder."""
    storage = graphs.storage_of(folder)
    kept = graphs.write(storage, f"{storage.root}/sets", files, alike)
    engine = EmbeddedEngine(folder / "scratch", tasks)
    job = Job(storage, "test", [str(folder)])
    found = find_components(
        engine, job, kept, graphs.LinksOfColumn(), ["ids"], sets_per_part=10, limits=limits
    )
    return found, [number for file in found.files for number in components_of(storage, file).tolist()]


@st.composite
def limits(draw: st.DrawFn, unit_sets: int | None = None) -> Limits:
    """Draw limits, tiny ones too: with none to finish in, the graph is joined until nothing is left of it."""
    return Limits(
        unit_sets=unit_sets or draw(st.sampled_from([1, 7, 1000])),
        part_rows=draw(st.sampled_from([1, 5, 1000])),
        finish_bytes=draw(st.sampled_from([0, 300, 1 << 20])),
        sample_sets=draw(st.sampled_from([5, 1000])),
    )


def check_like_a_plain_union_find(data: st.DataObject) -> None:
    """Compare with a union-find in Python and with the kernel that has everything in memory."""
    sets = data.draw(graphs.graphs())
    files = data.draw(graphs.cut_up(sets))
    alike = data.draw(st.booleans())
    with folder_in_memory() as folder:
        tasks = data.draw(st.sampled_from([1, 2]))
        found, components = find(Path(folder), files, data.draw(limits()), alike=alike, tasks=tasks)
    wanted = [NO_COMPONENT if one is None else one for one in graphs.expected(sets)]
    assert graphs.same_grouping(components, wanted)
    assert [one == NO_COMPONENT for one in components] == [one == NO_COMPONENT for one in wanted]
    assert found.components == len(set(wanted) - {NO_COMPONENT})
    assert found.sets == sum(one != NO_COMPONENT for one in wanted)
    assert graphs.same_grouping(components, in_memory(sets, alike))
    parts = found.part_of(np.array(components, dtype=np.int64)).tolist()
    assert all(-1 <= part < found.part_of.parts for part in parts)
    assert [part == -1 for part in parts] == [one == NO_COMPONENT for one in components]


def check_numbers_depend_on_files_alone(data: st.DataObject) -> None:
    """The same files in the same units give the same numbers, however parts and rounds divide the work."""
    files = data.draw(graphs.cut_up(data.draw(graphs.graphs())))
    found = []
    for _ in range(2):
        with folder_in_memory() as folder:
            found.append(find(Path(folder), files, data.draw(limits(unit_sets=3)), tasks=1)[1])
    assert found[0] == found[1]


def in_memory(sets: graphs.Sets, alike: bool = False) -> list[int]:
    """Return what the kernel for one memory says of sets."""
    offsets = np.append(0, np.cumsum([len(one) for one in sets], dtype=np.int64)).astype(np.int64)
    ids = np.frombuffer(b"".join(graphs.id_of(id, alike) for one in sets for id in one), dtype=np.uint64)
    ids = ids.reshape(-1, 2)
    components = hashed.Components(max(1, len(ids)))
    components.unite(ids, offsets)
    roots = components.roots(ids) if len(ids) else np.empty(0, dtype=np.int32)
    return [int(roots[start]) if one else NO_COMPONENT for one, start in zip(sets, offsets[:-1], strict=True)]
