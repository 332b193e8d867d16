"""What the journal of traits costs a publication, and the views a question.

    python benchmarks/views.py [--people 20000] [--calls 100000] [--keys 30]

CPU of this process. The baseline of the journal is making the rows of `profiles` for the same people;
that of the views is reading the same values from the table `events` one by one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from prometheus_client import CollectorRegistry

from _machine import machine
from profilelake.eventlog import Flags, Kind, LogEnd, Record, Slice
from profilelake.lake.catalog import Lake
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.publish import Publisher, ensure_tables
from profilelake.profiles.publish import profile_changes
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import Db, State
from profilelake.views.attach import attach

WORKSPACE: Final = "default"
SEED: Final = 7
START_US: Final = 1_772_359_210_000_000
BATCH: Final = 5_000


def records(calls: int, people: int, keys: int) -> list[Record]:
    """Make identify calls that change a trait each, by people of whom some are very active."""
    rng = np.random.default_rng(SEED)
    made = []
    offset = 0
    for number, person in enumerate((rng.zipf(1.3, calls) % people).tolist()):
        traits = {f"key_{key}": f"text {person % 97} {key}" for key in range(keys)}
        message: dict[str, Any] = {
            "type": "identify",
            "messageId": f"m{number}",
            "userId": f"u{person}",
            "anonymousId": f"a{person}",
            "traits": {**traits, "visits": number},
        }
        body = json.dumps({"batch": [message]}).encode()
        made.append(
            Record(
                received_at=START_US + number,
                region="local",
                log_id="00000000000000aa",
                offset=offset,
                next_offset=offset + len(body),
                events_before=number,
                workspace=WORKSPACE,
                source_id="shop",
                kind=Kind.BATCH,
                flags=Flags.NONE,
                events=1,
                extraction_version=1,
                ip="",
                sent_at="",
                body=body,
            )
        )
        offset += len(body)
    return made


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a piece of work, and what it made."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=30)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        print(machine(path).line())
        print(
            f"{asked.calls:,} identify calls of up to {asked.people:,} people, {asked.keys} traits, seed {SEED}"
        )
        run(path, asked.calls, asked.people, asked.keys)


def run(path: Path, calls: int, people: int, keys: int) -> None:
    """Apply and publish the calls; measure the journal, then the views."""
    state = State.open(path / "state", writable=True)
    setup = WorkspaceSetup(
        WORKSPACE, segment_defaults(), b"0123456789abcdef", path / "recent", path / "dedup"
    )
    batcher = Batcher(state, [setup], "local", START_US, Timer(Stages(CollectorRegistry())))
    lake = Lake.open(f"sqlite:///{path / 'catalog.sqlite'}", path / "lake")
    ensure_tables(lake, WORKSPACE)
    publisher = Publisher(
        WORKSPACE, state, lake, setup.recent_directory, setup.rules, lambda: START_US + 3_600_000_000, 300.0
    )
    sent = records(calls, people, keys)
    applied = 0.0
    for start in range(0, calls, BATCH):
        part = sent[start : start + BATCH]
        ends = {part[-1].log_id: LogEnd(part[-1].next_offset, part[-1].events_before + 1)}
        seconds, _ = cpu(partial(batcher.apply, Slice(part, ends, part[-1].received_at, (), ())))
        applied += seconds
    with state.read(WORKSPACE) as tx:
        keyed = [key for key, _ in tx.items(WORKSPACE, Db.PROFILE)]
        baseline, _ = cpu(partial(profile_changes, tx, WORKSPACE, keyed, 1))
        told = publisher.trait_updates
        seconds, rows = cpu(partial(told, tx, 1, -1))
    print(f"micro-batches: {applied / calls * 1e6:.1f} us of CPU per call")
    print(
        f"journal: {rows.num_rows:,} rows, {seconds / rows.num_rows * 1e6:.1f} us per person changed, "
        f"{seconds / calls * 1e6:.2f} us per call; {seconds / baseline:.2f} of the rows of `profiles`"
    )
    publisher.publish(whole=True)
    with duckdb.connect(config={"threads": 1}) as connection:
        seconds, _ = cpu(partial(attach, connection, lake, WORKSPACE))
        print(f"attach with every view: {seconds:.2f} s")
        every = [f"json_extract_string(traits, '$.key_{key}')" for key in range(keys)]
        for about, view, table in (
            ("one value", "SELECT key_1 FROM ws_default_warehouse.identifies", every[1:2]),
            ("all values", "SELECT COLUMNS('key_.*') FROM ws_default_warehouse.identifies", every),
        ):
            plain, _ = cpu(connection.sql(f"SELECT {', '.join(table)} FROM events").to_arrow_table)  # noqa: S608
            seconds, _ = cpu(connection.sql(view).to_arrow_table)
            print(f"{about}: {seconds / calls * 1e6:.2f} us per row, {seconds / plain:.2f} of one by one")
        for name in ("_sync.user_traits", "_sync.profile_traits", "_warehouse.users", "_sync.identifies"):
            seconds, found = cpu(connection.sql(f"FROM ws_default{name}").to_arrow_table)
            print(
                f"{name[1:]}: {found.num_rows:,} rows in {seconds:.2f} s, {seconds / calls * 1e6:.2f} us per call"
            )
    state.close()
    lake.close()


if __name__ == "__main__":
    main()
