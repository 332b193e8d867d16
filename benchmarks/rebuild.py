"""Identity and profiles of a whole lake from nothing: the batch form, committed.

Loads events through a real server, stops it, and makes state and tables again from the lake, in
this process: once cold (imports, kernels from their cache) and then warm. The baseline of the same
run is the plain reference on a sample of the same sets, scaled to all of them.

    python benchmarks/rebuild.py --events 525000 --profiles 50000
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from load import Corpus, Mix, run_load
from pipeline import WRITE_KEY, start
from profilelake.app.offline import rebuild_directory
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import segment_defaults
from profilelake.settings import Layout


def reference_seconds_per_set(layout: Layout) -> float:
    """Return what the plain reference takes per set, on a sample."""
    lake = Lake.of(layout)
    with duckdb.connect() as connection:
        attach(connection, lake, "default")
        rows = connection.sql(
            "SELECT list({'type': i.type, 'value': i.value}) AS idents, min(epoch_us(s.received_at)) AS at "
            "FROM (SELECT set_id, received_at, unnest(identifiers) AS m FROM identifier_sets "
            "WHERE collection = 'users' USING SAMPLE 20000 ROWS (reservoir, 1)) s "
            "JOIN identifiers i ON i.ident_id = s.m.ident_id GROUP BY s.set_id"
        ).to_arrow_table()
    sightings = [
        Sighting(
            identifiers=frozenset(Identifier(i["type"], i["value"]) for i in row["idents"]),
            position=row["at"].to_bytes(8, "big"),
            received_at=row["at"],
        )
        for row in rows.to_pylist()
    ]
    started_at = time.process_time()
    identity.resolve(sightings, segment_defaults())
    return (time.process_time() - started_at) / max(1, len(sightings))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=525_000)
    parser.add_argument("--profiles", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print(vars(options))
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        layout = Layout(Path(directory) / "data")
        server = start(layout.directory)
        try:
            mix = Mix(events=options.events, profiles=options.profiles, seed=options.seed)
            run_load(server.url, WRITE_KEY, Corpus.load(mix, options.scratch))
            server.committed()
        finally:
            server.stop()
        for run in range(options.runs):
            cpu, wall = time.process_time(), time.perf_counter()
            result: dict[str, Any] = rebuild_directory(layout)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            kind = "cold" if run == 0 else "warm"
            print(f"\n{kind}: {wall:.2f} s, {cpu:.2f} processor s, {options.events / wall:,.0f} events/s")
            print(
                f"  {result['events']:,} events, {result['sets']:,} sets, {result['identifiers']:,} identifiers, "
                f"{result['profiles']:,} profiles"
            )
            print(f"  seconds by step {result['seconds']}")
            core = sum(result["seconds"][step] for step in ("identity", "tables", "commit"))
            print(f"  identity and profiles, committed to the tables: {core:.2f} s")
        plain = reference_seconds_per_set(layout) * result["sets"]
        batch = result["seconds"]["identity"]
        print(
            f"\nreference: {plain:.1f} processor s for the same sets, identity alone (from a sample); "
            f"ratio {plain / batch:.0f}"
        )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
