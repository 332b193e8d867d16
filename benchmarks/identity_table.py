"""From the lake's tables of facts to committed identity and profile tables; then 1,000 wrong links, live.

    python benchmarks/identity_table.py [--events 525538] [--profiles 50000] [--runs 4] [--seed 1]

A person has one user id, one e-mail and one to five devices; of its events half name user and device,
three in ten the device alone (the first of a device never), and two in ten are identify calls with user,
device, e-mail and three traits.
The history goes through the pipeline once, unmeasured. Then, in one process:

- the current tables are made again from the facts, by the code of `profilelake rebuild`: the first run is
  cold (files, compiled code), the rest warm; seconds and processor seconds by step, and peak memory;
- the baseline of the same run: connected components of the same identifiers by label propagation in
  DuckDB SQL, which knows no limits, founds no profiles and writes no tables;
- 1,000 events that link strangers in a chain (user n with the e-mail of user n + 1) go through the live
  pipeline in one micro-batch: seconds, the greatest profile before and after, limits checked.

For orientation, measured elsewhere and on another day: RudderStack Profiles 0.26 on PostgreSQL takes
47.4 s for a history of this size (stitching alone 30.5 s), and 25.1 s with the wrong links, which it
makes one cluster of 4,339 identifiers.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.eventlog import Flags, Kind, LogEnd, Record, Slice
from profilelake.identity.facts import Standing
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.fold_tables import whole_tables
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.publish import Publisher, ensure_tables
from profilelake.pipeline.rebuild import fold, standing_of
from profilelake.pipeline.remaking import replace_tables
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import Db, State

WORKSPACE: Final = "default"
LOG: Final = "00000000000000aa"
START: Final = 1_772_359_210_000_000
EVENTS_PER_RECORD: Final = 100
EVENTS_PER_BATCH: Final = 50_000
WRONG_LINKS: Final = 1_000


@dataclass
class Bench:
    """One data directory and the parts of the pipeline that work on it, in this process."""

    directory: Path

    def __post_init__(self) -> None:
        """Open everything."""
        self.setup = WorkspaceSetup(
            name=WORKSPACE,
            rules=segment_defaults(),
            identifier_key=bytes(range(16)),
            recent_directory=self.directory / "recent",
            dedup_directory=self.directory / "dedup",
        )
        self.state = State.open(self.directory / "state", writable=True)
        self.lake = Lake.open(f"sqlite:///{self.directory / 'catalog.sqlite'}", self.directory / "lake")
        ensure_tables(self.lake, WORKSPACE)
        self.batcher = Batcher(self.state, [self.setup], "local", START, Timer(Stages(CollectorRegistry())))
        self._end = dict(self.batcher.vector()).get(LOG, LogEnd(0, 0))

    def records(self, messages: list[dict[str, Any]]) -> list[Record]:
        """Return messages as records of the log."""
        made = []
        for start in range(0, len(messages), EVENTS_PER_RECORD):
            batch = messages[start : start + EVENTS_PER_RECORD]
            body = json.dumps({"batch": batch}).encode()
            before = self._end
            self._end = LogEnd(before.offset + len(body) + 40, before.events + len(batch))
            made.append(
                Record(
                    received_at=START + before.events * 1000,
                    region="local",
                    log_id=LOG,
                    offset=before.offset,
                    next_offset=self._end.offset,
                    events_before=before.events,
                    workspace=WORKSPACE,
                    source_id="shop",
                    kind=Kind.BATCH,
                    flags=Flags.NONE,
                    events=len(batch),
                    extraction_version=1,
                    ip="",
                    sent_at="",
                    body=body,
                )
            )
        return made

    def apply(self, records: list[Record]) -> None:
        """Apply records as one micro-batch."""
        ends = {**self.batcher.vector(), LOG: LogEnd(records[-1].next_offset, self._end.events)}
        self.batcher.apply(Slice(records, ends, records[-1].received_at, (), ()))

    def publish(self) -> None:
        """Commit what is applied."""
        Publisher(
            workspace=WORKSPACE,
            state=self.state,
            lake=self.lake,
            recent_directory=self.setup.recent_directory,
            rules=self.setup.rules,
            clock=lambda: START,
            publish_age_seconds=0.0,
        ).publish(whole=True)

    def greatest_profile(self) -> int:
        """Return how many identifiers the profile with the most has; check every profile's limits."""
        rules = {rule.type: rule.limit for rule in self.setup.rules.types}
        greatest = 0
        with self.state.read(WORKSPACE) as tx:
            for profile in tx.profiles(
                WORKSPACE, [key for key, _ in tx.items(WORKSPACE, Db.PROFILE)]
            ).values():
                greatest = max(greatest, len(profile.idents))
                for type, count in Counter(type for _, type in profile.idents).items():
                    if count > (rules[type] or count):
                        raise SystemExit(f"a profile holds {count} of {type}: past its limit")
        return greatest

    def close(self) -> None:
        """Give everything back."""
        self.state.close()
        self.lake.close()


def history(events: int, profiles: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the messages, everybody's first ones first."""
    rng = random.Random(seed)
    devices = [rng.randint(1, 5) for _ in range(profiles)]
    linked: set[str] = set()
    for number in range(events):
        person = number if number < profiles else rng.randrange(profiles)
        device = f"{person:08x}-0000-4000-8000-{rng.randrange(devices[person]):012x}"
        message: dict[str, Any] = {"messageId": f"m{seed}-{number:09d}", "anonymousId": device}
        kind = rng.random() if number >= profiles else 0.0
        if kind < 0.2:
            traits = {"email": email(person), "name": f"Person {person}", "plan": rng.choice(("free", "pro"))}
            message |= {"type": "identify", "userId": user(person), "traits": traits}
        else:
            message |= {"type": "track", "event": "Viewed", "properties": {"page": number % 50}}
            if kind < 0.7 or device not in linked:
                message["userId"] = user(person)
        linked.add(device)
        yield message


def user(person: int) -> str:
    """Return the user id of a person."""
    return f"user-{person}"


def email(person: int) -> str:
    """Return the e-mail of a person."""
    return f"person{person}@example.org"


def wrong_links(count: int) -> list[dict[str, Any]]:
    """Return events that link strangers in a chain."""
    return [
        {
            "messageId": f"wrong-{number}",
            "type": "identify",
            "userId": user(number),
            "traits": {"email": email(number + 1)},
        }
        for number in range(count)
    ]


COMPONENTS: Final = """
    CREATE OR REPLACE TEMP TABLE members AS
    SELECT set_id, unnest(identifiers).ident_id AS ident FROM identifier_sets;
    CREATE OR REPLACE TEMP TABLE edges AS
    SELECT DISTINCT first.ident AS one, members.ident AS other
    FROM members JOIN (SELECT set_id, min(ident) AS ident FROM members GROUP BY set_id) AS first USING (set_id)
    WHERE first.ident <> members.ident;
    INSERT INTO edges SELECT other, one FROM edges;
    CREATE OR REPLACE TEMP TABLE labels AS SELECT DISTINCT ident, ident AS label FROM members;
"""
PROPAGATE: Final = """
    CREATE OR REPLACE TEMP TABLE lower AS
    SELECT edges.one AS ident, min(labels.label) AS label
    FROM edges JOIN labels ON labels.ident = edges.other GROUP BY edges.one
"""
TAKE: Final = """
    UPDATE labels SET label = lower.label FROM lower WHERE labels.ident = lower.ident AND lower.label < labels.label
"""


def components(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many components the identifiers of all sets have, by label propagation."""
    connection.execute(COMPONENTS)
    moved = 1
    while moved:
        connection.execute(PROPAGATE)
        moved = connection.execute(TAKE).fetchall()[0][0]
    return int(connection.execute("SELECT count(DISTINCT label) FROM labels").fetchall()[0][0])


class Watch:
    """Seconds and processor seconds by step."""

    def __init__(self) -> None:
        """Start."""
        self.steps: dict[str, tuple[float, float]] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, step: str) -> None:
        """Note what passed since the last step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.steps[step] = (wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu

    def show(self, title: str) -> None:
        """Print all steps."""
        wall, cpu = (sum(step[place] for step in self.steps.values()) for place in (0, 1))
        print(f"{title}: {wall:.2f} s, {cpu:.2f} processor s, peak {_peak_gib():.2f} GiB")
        print("  " + ", ".join(f"{name} {w:.2f} s ({c:.2f} cpu)" for name, (w, c) in self.steps.items()))


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rebuilt(bench: Bench, number: int) -> tuple[Watch, int]:
    """Make the current tables again from the facts and commit them; return the steps and the profiles."""
    watch = Watch()
    held = bench.lake.table(WORKSPACE, EVENTS).progress()
    if held is None:
        raise SystemExit("the history was not published")
    with duckdb.connect() as connection:
        attach(connection, bench.lake, WORKSPACE)
        standing: Standing = standing_of(connection, bench.setup.rules)
        watch.lap("attach")
        folds = fold(connection, standing)
        watch.lap("identity")
        whole = whole_tables(folds)
        watch.lap("tables")
        epoch = f"{int(held.epoch) + 1 + number:020d}"
        replace_tables(bench.lake, WORKSPACE, whole, Progress(epoch, held.sequence, held.vector, held.totals))
        watch.lap("commit")
    return watch, whole["profiles"].num_rows


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=525_538)
    parser.add_argument("--profiles", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    parser.add_argument("--history", type=Path, help="directory in which the history is kept between runs")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print(f"events {options.events:,}, profiles {options.profiles:,}, seed {options.seed}")
    # Tables hold absolute paths, so every copy of the history is put in the same place.
    with tempfile.TemporaryDirectory(dir=options.scratch) as temporary:
        kept, place = options.history or Path(temporary) / "kept", options.scratch / "identity-table"
        if not kept.exists():
            shutil.rmtree(place, ignore_errors=True)
            bench = Bench(place)
            messages = list(history(options.events, options.profiles, options.seed))
            for start in range(0, len(messages), EVENTS_PER_BATCH):
                bench.apply(bench.records(messages[start : start + EVENTS_PER_BATCH]))
            bench.publish()
            bench.close()
            place.rename(kept)
        shutil.copytree(kept, place)
        incremental(place)
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        bench = Bench(place)
        with duckdb.connect() as connection:
            attach(connection, bench.lake, WORKSPACE)
            sets = connection.execute("SELECT count(DISTINCT set_id) FROM identifier_sets").fetchall()[0][0]
            idents = connection.execute("SELECT count(*) FROM identifiers").fetchall()[0][0]
            print(f"{sets:,} distinct sets, {idents:,} identifiers\n")
        profiles = 0
        for number in range(options.runs):
            watch, profiles = rebuilt(bench, number)
            watch.show("cold" if number == 0 else "warm")
        with duckdb.connect() as connection:
            attach(connection, bench.lake, WORKSPACE)
            watch = Watch()
            found = components(connection)
            watch.lap("components")
            watch.show("\nbaseline, DuckDB SQL label propagation")
        print(f"  {profiles:,} profiles, {found:,} components")
        bench.close()
        shutil.rmtree(place)
    return 0


def incremental(directory: Path) -> None:
    """Send the wrong links through the live pipeline."""
    bench = Bench(directory)
    # A micro-batch of what is known already loads what a running pipeline has loaded.
    bench.apply(bench.records([{"messageId": "warm", "type": "track", "event": "x", "userId": user(0)}]))
    before = bench.greatest_profile()
    records = bench.records(wrong_links(WRONG_LINKS))
    watch = Watch()
    bench.apply(records)
    watch.lap("applied")
    bench.publish()
    watch.lap("published")
    watch.show(f"{WRONG_LINKS:,} wrong links, live")
    print(f"  greatest profile {before} identifiers before, {bench.greatest_profile()} after; limits hold\n")
    bench.close()


if __name__ == "__main__":
    sys.exit(main())
