"""Bulk import: lines of JSON to Parquet, to the log, and all the way to committed tables, per event.

    python benchmarks/bulk_import.py [--events 500000] [--profiles 100000] [--seed 1] [--all-in]

Events are those of `load.py`: a fifth identify, a fifth page, the rest track, about 300 bytes each. Times are
CPU time of all threads; one core gives 1e6 / (us CPU/event) events per second. The baseline is DuckDB with one
thread, `read_json` with declared columns to Parquet: no checks, no times, no identifiers, no canonical text.
`--all-in` imports into a new data directory with `profilelake import --apply`: log, de-duplication, identity,
profiles, Iceberg; its figure covers every process that works on it. It does so twice: a file of people nobody
has seen, then another of the same people.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from _machine import machine
from load import Mix, _event
from profilelake.eventlog import Flags, Kind, Record
from profilelake.imports.chunks import cut
from profilelake.imports.files import find_files, opened
from profilelake.imports.mapping import ColumnMapping
from profilelake.imports.run import ZSTD_LEVEL
from profilelake.imports.tables import Reading, read_lines
from profilelake.landing import parse as landing
from profilelake.landing._bodies import unpack
from profilelake.ops.clock import wall
from profilelake.semantics.events import Lines
from profilelake.semantics.rules import EXTRACTION_VERSION, segment_defaults
from profilelake.settings import Layout
from profilelake.workspaces.control import Control

BATCH_EVENTS: Final = 100_000
"""Events of one micro-batch, as the pipeline takes them."""
DUCKDB_COLUMNS: Final = {
    **dict.fromkeys(("type", "messageId", "userId", "anonymousId", "event", "name", "groupId"), "VARCHAR"),
    **dict.fromkeys(("timestamp", "originalTimestamp", "sentAt"), "TIMESTAMP"),
    **dict.fromkeys(("context", "properties", "traits", "integrations"), "JSON"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--profiles", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--all-in", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    path = generate(arguments.scratch, arguments.events, arguments.profiles, arguments.seed)
    print(f"machine: {machine(arguments.scratch).line()}")
    print(
        f"events {arguments.events}, {path.stat().st_size / arguments.events:.0f} bytes each, profiles "
        f"{arguments.profiles}, seed {arguments.seed}, best of {arguments.repeats}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        measure(path, Path(directory), arguments.events, arguments.repeats)
        if arguments.all_in:
            # The same people in other events.
            more = generate(arguments.scratch, arguments.events, arguments.profiles, arguments.seed + 1)
            all_in([path, more], Path(directory) / "data", arguments.events)


def generate(scratch: Path, events: int, profiles: int, seed: int) -> Path:
    """Return the file, made unless it is there."""
    path = scratch / f"import-{events}-{profiles}-{seed}.ndjson"
    if not path.exists():
        mix, rng = Mix(events=events, profiles=profiles, seed=seed), random.Random(seed)
        unfinished = path.with_suffix(".new")
        with unfinished.open("w") as sink:
            for number in range(events):
                sink.write(_event(rng, mix, number) + "\n")
        unfinished.rename(path)
    return path


def measure(path: Path, directory: Path, events: int, repeats: int) -> None:
    """Measure each step alone, and what they come to."""
    landing.warm()
    rules = segment_defaults()
    records = to_records(path)
    batches = _batches(records)
    exact = sum(landing.parse(batch, rules).exact for batch in batches)
    if exact:
        raise SystemExit(f"{exact} lines were left to the reference: one to measure")
    tables = [landing.parse(batch, rules).events for batch in batches]
    steps: dict[str, Callable[[], object]] = {
        "read, cut, name, pack": lambda: to_records(path),
        "unpack": lambda: [unpack(record) for record in records],
        "parse (unpack included)": lambda: [landing.parse(batch, rules) for batch in batches],
        "Parquet": lambda: [
            pq.write_table(table, directory / "ours.parquet", compression="zstd") for table in tables
        ],
        "DuckDB (baseline)": lambda: by_duckdb(path, directory),
    }
    spent = {name: best(step, repeats) / events * 1e6 for name, step in steps.items()}
    spent["lines to Parquet"] = (
        spent["read, cut, name, pack"] + spent["parse (unpack included)"] + spent["Parquet"]
    )
    baseline = spent["DuckDB (baseline)"]
    print(f"{'step':<26}{'us CPU/event':>14}{'events/CPU s':>14}{'of baseline':>13}")
    for name, micros in spent.items():
        print(f"{name:<26}{micros:>14.2f}{1e6 / micros:>14,.0f}{micros / baseline:>13.2f}")


def to_records(path: Path) -> list[Record]:
    """Return the records an import writes."""
    codec = pa.Codec("zstd", compression_level=ZSTD_LEVEL)
    (file,) = find_files([str(path)])
    records: list[Record] = []
    events = 0
    with opened(file) as source:
        for chunk in cut(read_lines(source, Reading(ColumnMapping())).blocks, lambda _: ()):
            body = codec.compress(chunk.body, asbytes=True)
            place = len(records)
            records.append(
                Record(
                    received_at=wall(),
                    region="eu",
                    log_id="00" * 8,
                    offset=place,
                    next_offset=place + 1,
                    events_before=events,
                    workspace="w",
                    source_id="s",
                    kind=Kind.LINES,
                    flags=Flags.ZSTD,
                    events=chunk.events,
                    extraction_version=EXTRACTION_VERSION,
                    ip=Lines(chunk.name).encode(),
                    sent_at="",
                    body=body,
                )
            )
            events += chunk.events
    return records


def _batches(records: list[Record]) -> list[list[Record]]:
    batches: list[list[Record]] = [[]]
    for record in records:
        if sum(known.events for known in batches[-1]) + record.events > BATCH_EVENTS:
            batches.append([])
        batches[-1].append(record)
    return batches


def by_duckdb(path: Path, directory: Path) -> None:
    """Read and write the same file with DuckDB."""
    columns = ", ".join(f"{name}: '{type}'" for name, type in DUCKDB_COLUMNS.items())
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(
            f"COPY (FROM read_json('{path}', format='newline_delimited', columns={{{columns}}})) "
            f"TO '{directory / 'duckdb.parquet'}' (FORMAT parquet, COMPRESSION zstd)"
        )


def all_in(paths: list[Path], directory: Path, events: int) -> None:
    """Import into a new directory, all the way to committed tables: first strangers, then people it knows."""
    layout = Layout(directory)
    layout.create()
    with Control.open(layout.control, os.urandom) as control:
        control.ensure_default(now=wall())
        control.bind_identifier_key(layout.secrets)
    one = directory.parent / "one.ndjson"
    one.write_text('{"type":"page","userId":"nobody"}\n')
    idle, _ = apply(one, directory)
    print(f"all in, a single event: {idle:.1f} CPU s, not counted below")
    for what, path in zip(("everybody new", "everybody known"), paths, strict=True):
        cpu, outcome = apply(path, directory)
        seconds = outcome["seconds"]
        print(
            f"all in, {what}: {outcome['place']} after {seconds:.1f} s ({events / seconds:,.0f} events/s); "
            f"{(cpu - idle) / events * 1e6:.2f} us CPU/event in all processes "
            f"({events / (cpu - idle):,.0f} events/CPU s)"
        )


def apply(path: Path, directory: Path) -> tuple[float, dict[str, Any]]:
    """Import a file and commit it; return the CPU seconds of all processes, and the outcome."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ("import", str(path), "--dir", str(directory), "--apply", "--json")
    ended = subprocess.run(
        [sys.executable, "-m", "profilelake", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, json.loads(ended.stdout)


def best(run: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of several runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


if __name__ == "__main__":
    main()
