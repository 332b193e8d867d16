"""Identity at sizes one machine was not meant for; one job per run, so that peak memory is its own.

    python benchmarks/identity_scale.py write      --edges 100000000 --directory /tmp/graph
    python benchmarks/identity_scale.py mapping    --directory /tmp/graph
    python benchmarks/identity_scale.py components --edges 300000000
    python benchmarks/identity_scale.py exact      --edges 10000000

`write` puts the graph of `identity_graph.py` into Parquet files of text, in order of position.
`mapping` reads them, resolves them under Segment's default rules, and commits `identity_map` to an
Iceberg table. `components` takes edges straight from the generator, hashes them and unites them
without limits. `exact` gives the time of the constrained union-find alone. Times are CPU seconds of all
threads, since a machine with neighbours says little by its wall clock.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from identity_graph import DEVICE, EMAIL, POISON, TYPES, USER, Graph, columns
from profilelake.identity.bulk import BulkResolver
from profilelake.identity.problem import rules_by_strength
from profilelake.identity.set_files import read_sets
from profilelake.identity.tables import IDENTITY_MAP
from profilelake.kernels import base62, hashed, identity_stream, siphash, slots
from profilelake.kernels.identity import NO_LIMIT, Int32s
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.semantics.rules import segment_defaults

KEY = bytes(range(16))
BATCH = 1 << 19
ROW_GROUP = 1 << 20
FILE_EDGES = 10_000_000
RULES = segment_defaults()
SET_TYPE = pa.list_(pa.struct([("type", pa.string()), ("value", pa.string())]))
SCHEMA = pa.schema([("identifiers", SET_TYPE), ("position", pa.int64())])


class Clock:
    """CPU and wall seconds per step of a run; steps may be entered again and again."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self._began = (time.process_time(), time.perf_counter())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what happens inside under `name`."""
        before = time.process_time()
        yield
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - before

    def report(self, items: int, what: str) -> None:
        """Print the sums since the beginning."""
        cpu, wall = time.process_time() - self._began[0], time.perf_counter() - self._began[1]
        steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.cpu.items())
        print(
            f"{items:,} {what}: {cpu:.1f} CPU s ({steps}), {items / cpu:,.0f} {what}/CPU s, wall {wall:.1f} s, "
            f"peak RSS {peak_gb():.2f} GB",
            flush=True,
        )


def peak_gb() -> float:
    """Return the greatest memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write(graph: Graph, directory: Path) -> None:
    """Write the graph into files of `FILE_EDGES` sets."""
    directory.mkdir(parents=True, exist_ok=True)
    position, writer, clock = 0, None, Clock()
    for kinds, numbers in graph.batches(BATCH):
        if writer is None or position % FILE_EDGES + len(kinds) > FILE_EDGES:
            if writer is not None:
                writer.close()
            path = directory / f"{position:012d}.parquet"
            writer = pq.ParquetWriter(
                path,
                SCHEMA,
                compression="zstd",
                use_dictionary=["identifiers.list.element.type"],
                column_encoding={"position": "DELTA_BINARY_PACKED"},
            )
        codes, values = columns(kinds, numbers)
        types = pa.array(TYPES).take(pa.array(codes))
        members = pa.StructArray.from_arrays([types, values], ["type", "value"])
        offsets = pa.array(np.arange(0, len(codes) + 1, 2, dtype=np.int32))
        sets = pa.ListArray.from_arrays(offsets, members)
        places = pa.array(np.arange(position, position + len(kinds), dtype=np.int64))
        writer.write_table(pa.table([sets, places], schema=SCHEMA), row_group_size=ROW_GROUP)
        position += len(kinds)
    if writer is not None:
        writer.close()
    size = sum(path.stat().st_size for path in directory.glob("*.parquet"))
    clock.report(position, "edges")
    print(f"{size / 1e9:.2f} GB of Parquet, seed {graph.seed}")


def mapping(directory: Path) -> None:
    """Resolve the files of a directory and commit the mapping."""
    paths = sorted(directory.glob("*.parquet"))
    warm()
    clock = Clock()
    resolver = BulkResolver(RULES, KEY)
    read = read_sets(paths, RULES, KEY)
    while True:
        with clock.step("read and hash"):
            sets = next(read, None)
        if sets is None:
            break
        with clock.step("number and resolve"):
            resolver.add(sets)
    print(f"state {resolver.bytes() / 1e9:.2f} GB, RSS so far {peak_gb():.2f} GB", flush=True)
    with clock.step("finish"):
        found = resolver.finish()
    place = directory / "lake"
    place.mkdir(exist_ok=True)
    lake = Lake.open(f"sqlite:///{place / 'catalog.db'}", place / "warehouse")
    table = lake.current_table("bench", IDENTITY_MAP)
    with clock.step("write and commit"):
        table.replace_in_parts(found.parts(), Progress(f"{time.time_ns():020d}", 0))
    rows = sum(file.rows for file in table.base.files())
    clock.report(found.totals.sets, "edges")
    size = sum(file.bytes for file in table.base.files())
    print(
        f"{found.totals}\nidentity_map: {rows:,} rows, {size / 1e9:.2f} GB, {len(table.base.files())} files"
    )
    lake.close()


def components(graph: Graph) -> None:
    """Unite the edges of a graph as they are generated, and report at each tenth."""
    warm()
    clock = Clock()
    found = hashed.Components(int(graph.edges * 0.9) + 1_000_000)
    edges = 0
    for kinds, numbers in graph.batches(BATCH):
        with clock.step("generate"):
            codes, values = columns(kinds, numbers)
        with clock.step("hash"):
            ids = siphash.hash_typed(KEY, PREFIXES, codes, values)
        with clock.step("unite"):
            found.unite(ids, np.arange(0, len(ids) + 1, 2))
        edges += len(kinds)
        if edges * 10 // graph.edges != (edges - len(kinds)) * 10 // graph.edges:
            clock.report(edges, "edges")
    with clock.step("flatten"):
        count = found.components()
    clock.report(edges, "edges")
    print(
        f"{found.count:,} identifiers, {count:,} components, {found.collisions} collisions; "
        f"{found.bytes() / 1e9:.2f} GB of places = {found.bytes() / found.count:.1f} bytes per identifier"
    )


def exact(graph: Graph) -> None:
    """Number the ends of all edges first, then resolve them in pieces: only the latter is counted."""
    warm()
    by_strength = rules_by_strength(RULES, "users")
    code = {rule.type: number for number, rule in enumerate(by_strength)}
    strength = np.array(
        [code[TYPES[EMAIL if kind == POISON else kind]] for kind in (USER, EMAIL, DEVICE, POISON)]
    )
    numbering, pieces, stream = (
        hashed.Numbering(),
        [],
        identity_stream.IdentityStream(
            identity_stream.Rules(
                np.array(
                    [NO_LIMIT if rule.limit is None else rule.limit for rule in by_strength], dtype=np.int32
                ),
                np.zeros(len(by_strength), dtype=np.int64),
                lowest_priority=False,
                identifiers_max=None,
                merges_max=None,
            ),
            np.empty((0, 2), dtype=np.int32),
        ),
    )
    for kinds, ends in graph.batches(BATCH):
        ids = np.stack([ends.ravel(), kinds.ravel().astype(np.uint64)], axis=1) * np.uint64(
            0x9E3779B97F4A7C15
        )
        numbers, first = numbering.numbers(ids, np.arange(len(ids)))
        types = strength[kinds]
        stream.meet(types.ravel()[first].astype(np.int8))
        # The stronger end of an edge stands first.
        turned = types[:, 0] > types[:, 1]
        members: Int32s = numbers.reshape(-1, 2)
        members[turned] = members[turned][:, ::-1]
        pieces.append(members.ravel())
    clock, merges, refusals, sets = Clock(), 0, 0, 0
    for members in pieces:
        offsets = np.arange(0, len(members) + 1, 2, dtype=np.int64)
        piece = stream.take(offsets, members, offsets[:0])
        merges, refusals, sets = merges + piece.merges, refusals + piece.refusals, sets + len(offsets) - 1
    clock.report(sets, "sets")
    print(f"{stream.profiles:,} founded, {merges:,} merged, {refusals:,} refused")


PREFIXES = [b"iu" + type.encode() + b"\0" for type in TYPES]


def warm() -> None:
    """Load the compiled loops, so that no figure contains their compilation."""
    for module in (siphash, hashed, identity_stream, slots):
        module.warm()
    base62.base62(np.zeros((1, 16), dtype=np.uint8))


def main() -> None:
    """Run one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("job", choices=("write", "mapping", "components", "exact"))
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "identity")
    given = parser.parse_args()
    print(f"machine: {machine().line()}")
    graph = Graph(given.edges, given.seed)
    if given.job == "write":
        write(graph, given.directory)
    elif given.job == "mapping":
        mapping(given.directory)
    elif given.job == "components":
        components(graph)
    else:
        exact(graph)


if __name__ == "__main__":
    main()
