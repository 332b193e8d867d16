"""Random graphs of sets of ids, cut into files, and what hangs together in them by a plain union-find."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from profilelake.engines.kept import KeptFile, keep
from profilelake.kernels import siphash
from profilelake.kernels.siphash import Words
from profilelake.lake.storage import LocalStorage

Sets = list[list[int]]

IDS = pa.schema([("ids", pa.list_(pa.binary(16)))])


@dataclass(frozen=True)
class LinksOfColumn:
    """All ids of a set link but those that are blocked."""

    blocked: frozenset[bytes] = field(default_factory=frozenset)

    def __call__(self, rows: pa.Table) -> tuple[Words, np.ndarray]:
        lists = rows.column("ids").combine_chunks()
        ids, offsets = lists.flatten(), lists.offsets.to_numpy().astype(np.int64)
        linking = np.array([value not in self.blocked for value in ids.to_pylist()], dtype=bool)
        offsets = np.append(0, np.cumsum(linking))[offsets - offsets[0]]
        return siphash.from_arrow(ids.filter(pa.array(linking))), offsets


def id_of(number: int, bits_alike: int = 0) -> bytes:
    """Return an id; ids of numbers that differ only in the last four bits share their first 64 bits, if asked to."""
    rng = np.random.default_rng(number)
    first = np.random.default_rng(number >> 4).bytes(8) if bits_alike else rng.bytes(8)
    return first + rng.bytes(8)


def write(storage: LocalStorage, folder: str, files: Sequence[Sets], alike: bool = False) -> list[KeptFile]:
    kept = []
    for sets in files:
        rows = pa.table([[[id_of(number, alike) for number in one] for one in sets]], schema=IDS)
        kept += keep(storage, folder, rows)
    return kept


def expected(sets: Sets, blocked: frozenset[int] = frozenset()) -> list[int | None]:
    """Return for each set the least number in its component, by a plain union-find."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    linking = [[number for number in one if number not in blocked] for one in sets]
    for one in linking:
        for number in one:
            low, high = sorted((root(one[0]), root(number)))
            parent[high] = low
    return [root(one[0]) if one else None for one in linking]


def same_grouping(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Tell whether two labellings put the same rows together."""
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs})


def storage_of(folder: Path) -> LocalStorage:
    return LocalStorage(str(folder))


@st.composite
def graphs(draw: st.DrawFn) -> Sets:
    """Draw stars, chains, one giant, an id that is everywhere, repeats, single ids and empty sets, mixed up."""
    sets: Sets = []
    start = 0
    for shape in draw(
        st.lists(st.sampled_from(["star", "chain", "clique", "alone", "empty", "ring"]), max_size=12)
    ):
        size = draw(st.integers(1, 14))
        nodes = range(start, start + size + 1)
        start += size + 1
        if shape == "star":
            sets += [[nodes[0], leaf] for leaf in nodes[1:]]
        elif shape in {"chain", "ring"}:
            sets += [[one, one + 1] for one in nodes[:-1]]
            sets += [[nodes[-1], nodes[0]]] if shape == "ring" else []
        elif shape == "clique":
            sets.append(list(nodes))
        elif shape == "alone":
            sets += [[one] for one in nodes]
        else:
            sets += [[] for _ in nodes]
    for _ in range(draw(st.integers(0, 6))):
        if start:
            sets.append(draw(st.lists(st.integers(0, start - 1), min_size=1, max_size=3)))
    if sets and draw(st.booleans()):
        hot = draw(st.integers(0, max(0, start - 1)))
        sets = [[*one, hot] if draw(st.booleans()) else one for one in sets]
    sets += draw(st.lists(st.sampled_from(sets), max_size=5)) if sets else []
    return draw(st.permutations(sets))


@st.composite
def cut_up(draw: st.DrawFn, sets: Sets) -> list[Sets]:
    """Draw a way to put sets into files."""
    ends = sorted(draw(st.lists(st.integers(0, len(sets)), max_size=8)))
    return [sets[start:end] for start, end in zip([0, *ends], [*ends, len(sets)], strict=True) if end > start]
