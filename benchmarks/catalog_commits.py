"""What a commit costs through each kind of catalog: SQLite, PostgreSQL, REST; the same rows, taken in turns.

    python benchmarks/catalog_commits.py [--commits 100] [--postgresql URL] [--rest URL --options OPTIONS]
        [--endpoint URL --warehouse s3://bucket/prefix]

Secrets come from the environment, as for the server. Files lie in a temporary folder, those of the REST catalog
on the object store. A commit writes a data file of 200 events, a manifest, its list, and (but for REST) the
metadata file; the baseline of the same run is SQLite.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from lake_commit import EVENTS, SEED, events
from profilelake.lake.catalog import Lake
from profilelake.lake.place import LakePlace
from profilelake.lake.progress import Progress
from profilelake.settings import StorageOptions

ROWS = 200


def places(chosen: argparse.Namespace, folder: str) -> dict[str, LakePlace]:
    """Return the places that the arguments name."""
    options = StorageOptions(endpoint=chosen.endpoint, plain_http="allowed")
    found = {"sqlite": LakePlace.at(f"sqlite:///{folder}/c.db", f"{folder}/sqlite")}
    if chosen.postgresql:
        found["postgresql"] = LakePlace.at(chosen.postgresql, f"{folder}/postgresql")
    if chosen.warehouse:
        on_store = LakePlace.at(f"sqlite:///{folder}/s3.db", f"{chosen.warehouse}/{secrets.token_hex(4)}")
        found["sqlite, S3"] = replace(on_store, storage=options)
        if chosen.rest:
            rest = LakePlace.at(chosen.rest, chosen.warehouse)
            found["rest, S3"] = replace(
                rest, options=chosen.options, table_locations="catalog", storage=options
            )
    return found


def main() -> None:
    """Commit to all in turns and print what each took."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--commits", type=int, default=100)
    for name in ("postgresql", "rest", "options", "endpoint", "warehouse"):
        arguments.add_argument(f"--{name}", default="")
    chosen = arguments.parse_args()
    print(machine().line())
    print(f"{chosen.commits} commits of {ROWS} events each, seed {SEED}")
    rows, workspace = events(ROWS, SEED), f"b{secrets.token_hex(5)}"
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            name: Lake.at(place).table(workspace, EVENTS) for name, place in places(chosen, folder).items()
        }
        walls: dict[str, list[float]] = {name: [] for name in tables}
        cpus: dict[str, list[float]] = {name: [] for name in tables}
        for sequence in range(1, chosen.commits + 1):
            progress = Progress("e1", sequence, {"00000000000000aa": (sequence, sequence)}, {})
            for name, table in tables.items():
                wall, cpu = time.perf_counter(), time.process_time()
                table.append(rows, progress)
                walls[name].append((time.perf_counter() - wall) * 1_000)
                cpus[name].append((time.process_time() - cpu) * 1_000)
        base, base_cpu = statistics.median(walls["sqlite"]), statistics.median(cpus["sqlite"])
        for name in tables:
            middle, used = statistics.median(walls[name]), statistics.median(cpus[name])
            print(
                f"  {name:<11} wall p50 {middle:7.1f} ms ({middle / base:4.2f} of SQLite)   p90 "
                f"{statistics.quantiles(walls[name], n=10)[8]:7.1f} ms   CPU p50 {used:6.1f} ms ({used / base_cpu:4.2f})"
            )


if __name__ == "__main__":
    main()
