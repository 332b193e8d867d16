"""The tasks of `plans.components`: what is done to one unit, one part, or what is left."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.engines.engine import Cut, PartNumbers
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.errors import Internal
from profilelake.kernels import siphash
from profilelake.kernels._hashed_table import Int32s, Int64s, Words
from profilelake.kernels.contraction import IdGraph, NodeGraph, Union, joined, standing, words_of
from profilelake.lake.storage import Storage
from profilelake.plans.found import FoundFile, components_of
from profilelake.plans.parts import part_of
from profilelake.plans.rows import ID

Links: TypeAlias = Callable[[pa.Table], tuple[Words, Int64s]]
"""From rows of sets to the ids that may link, and for set s where they stand: `offsets[s]` to `offsets[s + 1]`."""

MEETING: Final = pa.schema([("ident_id", ID), ("node", pa.int64())])
STAR: Final = pa.schema([("node", pa.int64()), ("stands", pa.int64())])
"""A node, and the one that stands for it."""
_COUNTED: Final = pa.schema([("component", pa.int64()), ("sets", pa.int64())])
_BATCH_ROWS: Final = 1 << 20


class Contracted(msgspec.Struct, frozen=True):
    """A unit of files: for each file its column of nodes, and the distinct identifiers with their nodes.

    It has the files too: a job may go on with an engine that would put them together otherwise.
    """

    files: list[KeptFile]
    roots: list[KeptFile | None]
    identifiers: list[KeptFile]
    nodes: int
    sets: int


class Level(msgspec.Struct, frozen=True):
    """Stars over the nodes of a level, and for the nodes of the level below what each hangs on."""

    stars: list[KeptFile]
    below: list[KeptFile]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.stars)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Where the nodes of each unit begin; at the end, how many there are."""

    bases: list[int]

    @property
    def count(self) -> int:
        return self.bases[-1]

    def units_of(self, nodes: Int64s) -> PartNumbers:
        return (np.searchsorted(np.array(self.bases), nodes, side="right") - 1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Met:
    """Identifiers of a unit, and its first node."""

    identifiers: KeptFile
    base: int


@dataclass(frozen=True, slots=True)
class Given:
    """A file of rows, and which input they are of."""

    input: str
    file: KeptFile


# ---- tasks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contract:
    """Unites the sets of a unit."""

    storage: Storage
    folder: str
    links: Links
    columns: tuple[str, ...] | None

    def __call__(self, unit: list[KeptFile]) -> bytes:
        graph = IdGraph()
        numbers = [self._united(graph, file) for file in unit]
        components, nodes = graph.components()
        roots = [self._roots(components, of_file) for of_file in numbers]
        ids = graph.give_up()
        rows = (
            pa.table(
                {
                    "ident_id": siphash.to_arrow(ids[start : start + _BATCH_ROWS]),
                    "node": components[start : start + _BATCH_ROWS],
                }
            )
            for start in range(0, len(ids), _BATCH_ROWS)
        )
        sets = sum(int((of_file >= 0).sum()) for of_file in numbers)
        return msgspec.msgpack.encode(
            Contracted(unit, roots, keep(self.storage, self.folder, rows), nodes, sets)
        )

    def _united(self, graph: IdGraph, file: KeptFile) -> Int32s:
        found = [np.empty(0, dtype=np.int32)]
        for rows in read_kept(self.storage, file, self.columns, _BATCH_ROWS):
            ids, offsets = self.links(rows)
            if len(offsets) != rows.num_rows + 1:
                raise Internal(f"uniting sets: {len(offsets)} offsets for {rows.num_rows} rows")
            found.append(graph.unite(ids, offsets))
        return np.concatenate(found)

    def _roots(self, components: Int32s, numbers: Int32s) -> KeptFile | None:
        none = numbers < 0
        roots = pa.array(components[np.where(none, 0, numbers)] if len(components) else numbers, mask=none)
        return next(iter(keep(self.storage, self.folder, pa.table({"node": roots}))), None)


@dataclass(frozen=True, slots=True)
class CutByIdentifier:
    storage: Storage
    parts: int

    def __call__(self, unit: Met) -> Iterator[Cut]:
        for rows in read_kept(self.storage, unit.identifiers, rows=_BATCH_ROWS):
            ids = rows.column("ident_id").combine_chunks()
            nodes = _numbers(rows, "node") + unit.base
            yield Cut("met", pa.table([ids, nodes], schema=MEETING), parts_by_id(ids, self.parts))


@dataclass(frozen=True, slots=True)
class Meet:
    """Joins the nodes that an identifier was met in."""

    storage: Storage
    folder: str

    def __call__(self, part: int, inputs: Mapping[str, pa.Table]) -> bytes:
        rows = inputs["met"]
        ids = siphash.from_arrow(rows.column("ident_id").combine_chunks())
        graph, _ = joined(ids, _numbers(rows, "node"))
        return msgspec.msgpack.encode(Level(_keep_stars(self, part, *graph.stars()), []))


@dataclass(frozen=True, slots=True)
class CutByNode:
    """Brings rows to the part of the node that they are looked up by: `below` by what it hangs on."""

    storage: Storage
    nodes: int
    parts: int

    def __call__(self, unit: Given) -> Iterator[Cut]:
        key = "stands" if unit.input == "below" else "node"
        for rows in read_kept(self.storage, unit.file, rows=_BATCH_ROWS):
            numbers = _numbers(rows, key) * self.parts // self.nodes
            yield Cut(unit.input, rows, numbers.astype(np.int32))


@dataclass(frozen=True, slots=True)
class Join:
    """Joins what the stars of one node are named by; the node itself goes no further unless it names one."""

    storage: Storage
    folder: str

    def __call__(self, part: int, inputs: Mapping[str, pa.Table]) -> bytes:
        nodes, stands = _numbers(inputs["stars"], "node"), _numbers(inputs["stars"], "stands")
        graph, first = joined(words_of(nodes), stands)
        below = keep(self.storage, self.folder, _star_rows(nodes[first], stands[first]), part)
        return msgspec.msgpack.encode(Level(_keep_stars(self, part, *graph.stars()), below))


@dataclass(frozen=True, slots=True)
class Finish:
    """Unites what is left of the graph, in an array of all nodes where that fits."""

    storage: Storage
    folder: str
    nodes: int | None

    def __call__(self, stars: list[KeptFile]) -> bytes:
        graph = NodeGraph() if self.nodes is None else Union(self.nodes)
        for file in stars:
            for rows in read_kept(self.storage, file, rows=_BATCH_ROWS):
                pairs = _numbers(rows, "node"), _numbers(rows, "stands")
                if isinstance(graph, NodeGraph):
                    graph.unite(*pairs)
                else:
                    graph.unite_pairs(*pairs)
        if isinstance(graph, NodeGraph):
            nodes, stands = graph.stars()
        else:
            found = standing(graph)
            nodes = np.flatnonzero(found != np.arange(len(found), dtype=np.int32))
            stands = found[nodes].astype(np.int64)
        telling = np.flatnonzero(nodes != stands)
        kept = [
            file
            for start in range(0, len(telling), _BATCH_ROWS)
            for chosen in [telling[start : start + _BATCH_ROWS]]
            for file in keep(self.storage, self.folder, _star_rows(nodes[chosen], stands[chosen]))
        ]
        return msgspec.msgpack.encode(kept)


@dataclass(frozen=True, slots=True)
class Tell:
    """Names the component of each node by what it hangs on."""

    storage: Storage
    folder: str

    def __call__(self, part: int, inputs: Mapping[str, pa.Table]) -> bytes:
        known, labels = _numbers(inputs["labels"], "node"), _numbers(inputs["labels"], "stands")
        nodes, hangs_on = _numbers(inputs["below"], "node"), _numbers(inputs["below"], "stands")
        order = np.argsort(known)
        known, labels = known[order], labels[order]
        found = hangs_on
        if len(known):
            places = np.minimum(np.searchsorted(known, hangs_on), len(known) - 1)
            # One that has no label stands for its component.
            found = np.where(known[places] == hangs_on, labels[places], hangs_on)
        telling = found != nodes
        rows = _star_rows(nodes[telling], found[telling])
        return msgspec.msgpack.encode(keep(self.storage, self.folder, rows, part))


@dataclass(frozen=True, slots=True)
class CutByUnit:
    storage: Storage
    nodes: Nodes

    def __call__(self, unit: KeptFile) -> Iterator[Cut]:
        for rows in read_kept(self.storage, unit, rows=_BATCH_ROWS):
            yield Cut("labels", rows, self.nodes.units_of(_numbers(rows, "node")))


@dataclass(frozen=True, slots=True)
class Settle:
    """Lays the components of a unit's nodes down in the order of nodes."""

    storage: Storage
    folder: str
    nodes: Nodes

    def __call__(self, part: int, inputs: Mapping[str, pa.Table]) -> bytes:
        base, end = self.nodes.bases[part : part + 2]
        components = np.arange(base, end, dtype=np.int64)
        rows = inputs["labels"]
        components[_numbers(rows, "node") - base] = _numbers(rows, "stands")
        (kept,) = keep(self.storage, self.folder, pa.table({"component": components}), part)
        return msgspec.msgpack.encode(kept)


@dataclass(frozen=True, slots=True)
class Weigh:
    """Counts one set in `share` by component."""

    storage: Storage
    folder: str
    share: int

    def __call__(self, files: list[FoundFile]) -> bytes:
        found = [np.empty(0, dtype=np.int64)]
        for file in files:
            components = components_of(self.storage, file)
            found.append(components[components >= 0][:: self.share])
        components, counts = np.unique(np.concatenate(found), return_counts=True)
        rows = pa.table([components, counts], schema=_COUNTED)
        return msgspec.msgpack.encode(keep(self.storage, self.folder, rows))


@dataclass(frozen=True, slots=True)
class Divide:
    storage: Storage
    share: int
    sets: int
    sets_per_part: int

    def __call__(self, weighed: list[KeptFile]) -> bytes:
        rows = [table for file in weighed for table in read_kept(self.storage, file)]
        counted = pa.concat_tables([_COUNTED.empty_table(), *rows])
        components, place = np.unique(_numbers(counted, "component"), return_inverse=True)
        counts = np.bincount(place, _numbers(counted, "sets"), len(components)).astype(np.int64)
        return msgspec.msgpack.encode(part_of(components, counts, self.share, self.sets, self.sets_per_part))


def _keep_stars(task: "Meet | Join", part: int, nodes: Int64s, stands: Int64s) -> list[KeptFile]:
    return keep(task.storage, task.folder, _star_rows(nodes, stands), part)


def _star_rows(nodes: Int64s, stands: Int64s) -> pa.Table:
    return pa.table([nodes, stands], schema=STAR)


def _numbers(rows: pa.Table, name: str) -> Int64s:
    numbers: Int64s = rows.column(name).to_numpy().astype(np.int64, copy=False)
    return numbers
