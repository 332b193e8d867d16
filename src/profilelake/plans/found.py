"""What the search for components says, and how tasks read it."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.engines.kept import KeptFile, read_kept
from profilelake.kernels._hashed_table import Int64s
from profilelake.lake.storage import Storage
from profilelake.plans.parts import NO_COMPONENT, PartOf


class FoundFile(msgspec.Struct, frozen=True):
    """What was found of one file of sets."""

    sets: KeptFile
    roots: KeptFile | None
    """For each row of `sets` the node of its unit, null where nothing links; None for a file without rows."""
    base: int
    """The first node of its unit."""
    nodes: int
    """How many nodes its unit has."""
    components: KeptFile | None
    """For each node of its unit the component; None where each node is one by itself."""


class Found(msgspec.Struct, frozen=True):
    """Which sets belong together."""

    files: list[FoundFile]
    """In the order in which files of sets were given."""
    part_of: PartOf
    """From components to parts of like size, `part_of.parts` of them."""
    sets: int
    """Sets with something that links."""
    components: int
    rounds: int
    """How often stars were joined before one task could finish."""


def components_of(storage: Storage, file: FoundFile) -> Int64s:
    """Return the component of each row of a file of sets, `NO_COMPONENT` where nothing in it links."""
    if file.roots is None:
        return np.empty(0, dtype=np.int64)
    roots = np.concatenate(
        [rows.column(0).fill_null(-1).to_numpy() for rows in read_kept(storage, file.roots)]
    ).astype(np.int64)
    if file.components is None:
        return np.where(roots < 0, NO_COMPONENT, file.base + roots)
    found = np.concatenate([rows.column(0).to_numpy() for rows in read_kept(storage, file.components)])
    return np.where(roots < 0, NO_COMPONENT, found[roots])


def sets_with_components(
    storage: Storage, file: FoundFile, columns: Sequence[str] | None = None, rows: int = 1 << 20
) -> Iterator[tuple[pa.Table, Int64s]]:
    """Yield rows of a file of sets, and the component of each."""
    components, start = components_of(storage, file), 0
    for table in read_kept(storage, file.sets, columns, rows):
        yield table, components[start : start + table.num_rows]
        start += table.num_rows
