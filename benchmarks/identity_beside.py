"""Who hangs together, found by five tools on one graph, each in a process of its own.

    python benchmarks/identity_beside.py --edges 1000000 [--leave-out networkx]

All start from the same Parquet file of text, two identifiers a row, and must find the same components:
DuckDB (numbers for the text, then a recursive query with `USING KEY`), SciPy (`csgraph`, after Arrow's
dictionary), networkx, and ours twice: `components` unites hashes, `bulk` is the exact resolver with all
limits off. `bulk, limits` is the same under Segment's default rules, where the answer is another one.
SciPy and networkx are needed for this only: `pip install scipy networkx`.
"""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from identity_graph import Graph
from identity_scale import KEY, PREFIXES, peak_gb, warm, write
from profilelake.identity.bulk import BulkResolver
from profilelake.identity.set_files import read_sets
from profilelake.kernels import hashed, siphash
from profilelake.semantics.rules import IdentityRules, segment_defaults

Labels = npt.NDArray[Any]

DUCKDB_COMPONENTS = """
    WITH RECURSIVE found(id, component) USING KEY (id) AS (
        SELECT id, id FROM numbers
        UNION
        SELECT here.id, min(there.component)
        FROM recurring.found here JOIN links ON links.one = here.id JOIN found there ON there.id = links.two
        WHERE there.component < here.component GROUP BY here.id
    )
    SELECT component FROM ends JOIN found ON found.id = ends.one ORDER BY position
"""


def rows_of(directory: Path) -> pa.Table:
    """Return the two ends of every edge as `type:value`, in order of position."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(directory.glob("*.parquet"))])
    members = table.column("identifiers").combine_chunks().flatten()
    text = pc.binary_join_element_wise(members.field("type"), members.field("value"), ":")
    both = pa.array(np.arange(0, len(text), 2))
    return pa.table({"one": text.take(both), "two": text.take(pa.array(np.arange(1, len(text), 2)))})


def by_duckdb(directory: Path) -> Labels:
    """Number the text in SQL, then hand the smallest number on along the edges."""
    edges = rows_of(directory)
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    connection.register("edges", edges)
    connection.execute(
        "CREATE TABLE numbers AS SELECT text, row_number() OVER () AS id FROM "
        "(SELECT one AS text FROM edges UNION SELECT two FROM edges)"
    )
    connection.execute(
        "CREATE TABLE ends AS SELECT a.id AS one, b.id AS two, e.position FROM "
        "(SELECT *, row_number() OVER () AS position FROM edges) e "
        "JOIN numbers a ON a.text = e.one JOIN numbers b ON b.text = e.two"
    )
    connection.execute("CREATE TABLE links AS SELECT one, two FROM ends UNION ALL SELECT two, one FROM ends")
    found: Labels = connection.execute(DUCKDB_COMPONENTS).fetchnumpy()["component"]
    return found


def by_scipy(directory: Path) -> Labels:
    """Number the text with Arrow's dictionary, then ask `csgraph`."""
    sparse, csgraph = importlib.import_module("scipy.sparse"), importlib.import_module("scipy.sparse.csgraph")
    edges = rows_of(directory)
    both = pa.chunked_array([*edges.column("one").chunks, *edges.column("two").chunks])
    numbers = both.combine_chunks().dictionary_encode()
    ends = np.asarray(numbers.indices).reshape(2, -1)
    size = len(numbers.dictionary)
    matrix = sparse.coo_matrix(
        (np.ones(ends.shape[1], dtype=np.int8), (ends[0], ends[1])), shape=(size, size)
    )
    _, labels = csgraph.connected_components(matrix, directed=False)
    found: Labels = np.asarray(labels)[ends[0]]
    return found


def by_networkx(directory: Path) -> Labels:
    """Make a graph of text and ask for its components."""
    networkx = importlib.import_module("networkx")
    edges = rows_of(directory)
    ones = edges.column("one").to_pylist()
    graph = networkx.Graph()
    graph.add_edges_from(zip(ones, edges.column("two").to_pylist(), strict=True))
    label = {node: at for at, nodes in enumerate(networkx.connected_components(graph)) for node in nodes}
    return np.array([label[one] for one in ones])


def by_components(directory: Path) -> Labels:
    """Unite hashes."""
    paths = sorted(directory.glob("*.parquet"))
    rules = segment_defaults()
    found = hashed.Components(2 * sum(pq.read_metadata(path).num_rows for path in paths))
    firsts = []
    for sets in read_sets(paths, rules, KEY):
        found.unite(sets.ident_ids, sets.offsets)
        firsts.append(sets.ident_ids[::2].copy())
    return found.roots(np.concatenate(firsts))


def _by_bulk(directory: Path, rules: IdentityRules) -> Labels:
    paths = sorted(directory.glob("*.parquet"))
    resolver = BulkResolver(rules, KEY)
    firsts = []
    for sets in read_sets(paths, rules, KEY):
        resolver.add(sets)
        firsts.append(sets.ident_ids[::2].copy())
    mapping = resolver.finish()
    numbering = hashed.Numbering()
    numbering.numbers(mapping.ident_ids, np.arange(len(mapping.ident_ids)))
    ids = np.concatenate(firsts)
    return mapping.profile[numbering.numbers(ids, np.arange(len(ids)))[0]]


def by_bulk(directory: Path) -> Labels:
    """Resolve exactly, without any limit."""
    rules = segment_defaults()
    return _by_bulk(directory, replace(rules, types=tuple(replace(rule, limit=None) for rule in rules.types)))


def by_bulk_with_limits(directory: Path) -> Labels:
    """Resolve exactly under the default rules: another answer, for the time it takes."""
    return _by_bulk(directory, segment_defaults())


METHODS: dict[str, Callable[[Path], Labels]] = {
    "components": by_components,
    "bulk": by_bulk,
    "bulk, limits": by_bulk_with_limits,
    "scipy": by_scipy,
    "duckdb": by_duckdb,
    "networkx": by_networkx,
}


def one(method: str, directory: Path) -> None:
    """Run one method, keep its labels, and print what it took."""
    warm()
    siphash.hash_typed(KEY, PREFIXES, np.zeros(1, dtype=np.int32), pa.array(["warm"]))
    cpu, wall = time.process_time(), time.perf_counter()
    labels = METHODS[method](directory)
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": peak_gb()}
    # Named by the first edge of each component, labels of all methods can be compared.
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    np.save(directory / f"{method}.npy", first[inverse])
    print(json.dumps(took | {"components": len(first)}))


def main() -> int:
    """Run all methods and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leave-out", nargs="*", default=[], choices=METHODS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        one(given.method, given.directory)
        return 0
    methods = [method for method in METHODS if method not in given.leave_out]
    for package in ("scipy", "networkx"):
        if package in methods and importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: pip install {package}, or --leave-out {package}")
            return 2
    print(f"machine: {machine().line()}")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write(Graph(given.edges, given.seed), directory)
        command = [sys.executable, __file__, "--directory", place, "--method"]
        answers, best = [], 0.0
        for method in methods:
            done = subprocess.run([*command, method], stdout=subprocess.PIPE, check=True)
            took = json.loads(done.stdout)
            labels = np.load(directory / f"{method}.npy")
            best = best or took["cpu"]
            print(
                f"{method:13} {took['cpu']:8.2f} CPU s  {len(labels) / took['cpu']:12,.0f} edges/CPU s  "
                f"{took['cpu'] / best:6.1f} x  wall {took['wall']:7.2f} s  peak RSS {took['peak']:.2f} GB  "
                f"{took['components']:,} components",
                flush=True,
            )
            if method != "bulk, limits":
                answers.append(labels)
    same = all((labels == answers[0]).all() for labels in answers)
    print(f"equal components of all that have no limits: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
