"""What it costs to compute a hundred definitions over a whole lake, again after new events, and for a preview.

The baseline, in the same run, is each definition as a DuckDB query of its own, as one would write it by hand; where
both mean the same, the values are compared. Figures in CPU seconds hold also on a busy machine.

    python benchmarks/audiences_batch.py --events 20000000 --profiles 1000000
    python benchmarks/audiences_batch.py --events 1000000 --every 30 --engine local[2]   # beside, on Spark
"""

# ruff: noqa: S608 - queries of our own making, over data of our own making

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent))

from _definitions import Pair, pairs
from _machine import machine
from _shop import DAY, DAYS, END, WORKSPACE, Shop
from profilelake.audiences.people import subjects
from profilelake.audiences.reading import Reading, Wanted, event_schema, slice_of_set
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.kernels import siphash
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.plans.definitions import Asked, compute
from profilelake.plans.preview import preview
from profilelake.semantics.definitions import EXTERNAL_IDS, Definition, Held
from profilelake.state.store import State
from profilelake.traits import stored
from profilelake.traits.answers import answers
from profilelake.traits.fold import fold
from profilelake.traits.partials import numbered
from profilelake.traits.steps import Plan, planned

THREADS: Final = 2
MEMORY: Final = "4GB"
KEPT_PARTS: Final = 8
PREVIEWED: Final = (
    (
        "event('Product Viewed').where( property('category') = 'shoes' AND property('price') > 20 )"
        ".within(30 days).count() >= 2 AND trait('country') = 'DE'"
    ),
    "event('Order Completed').count() >= 3 OR event('Email Opened').within(7 days).count() >= 1",
    "event('Order Completed').sum(property('price')) > 300",
)
DIFFERENCE_MAX: Final = 1e-12
"""Of averages, which both divide in their own way."""


Values = Mapping[str, pa.Table]
"""By the key of a definition: `profile_id` and `value` of the profiles that have one."""


@dataclass(slots=True)
class Cost:
    """CPU and wall seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def line(self) -> str:
        """Return both in words."""
        return f"{self.cpu:8.2f} s CPU {self.wall:8.2f} s wall"


@contextmanager
def timed() -> Iterator[Cost]:
    """Measure a block."""
    cost = Cost()
    cpu, wall = time.process_time(), time.perf_counter()
    yield cost
    cost.cpu, cost.wall = time.process_time() - cpu, time.perf_counter() - wall


def plan_of(chosen: list[Pair]) -> Plan:
    """Return the definitions as they are computed."""
    held = {}
    for number, pair in enumerate(chosen):
        ids = EXTERNAL_IDS if pair.kind == "audience" else ()
        definition = Definition(pair.key, pair.kind, pair.query, external_ids=ids)  # type: ignore[arg-type]  # kinds are written there by hand
        held[pair.key] = Held(definition, 1, number.to_bytes(32, "big"), number.to_bytes(32, "big"))
    return planned(held)


def baselines(
    lake: Lake, chosen: list[Pair], spill: Path
) -> tuple[duckdb.DuckDBPyConnection, Mapping[str, Cost]]:
    """Run each query; its result stays as a table of its key."""
    connection = sql.connect(MEMORY, str(spill))
    connection.execute(f"SET threads = {THREADS}")
    tables = {name: reading.select(lake, WORKSPACE, name) for name in ("events", "set_map", "profiles")}
    connection.execute(f"CREATE VIEW profiles AS {tables['profiles']}")
    connection.execute(f"CREATE VIEW set_map AS {tables['set_map']}")
    connection.execute(
        f"CREATE VIEW events AS SELECT profile_id, * FROM ({tables['events']}) JOIN set_map USING (set_id)"
    )
    costs = {}
    for pair in chosen:
        with timed() as costs[pair.key]:
            connection.execute(f"CREATE TEMP TABLE {sql.identifier(pair.key)} AS {pair.sql}")
    return connection, costs


def computed(lake: Lake, plan: Plan, engine: Engine) -> tuple[Values, Mapping[str, float]]:
    """Return what definitions are worth, by key, and the seconds of each step."""
    job, found = compute(engine, lake, WORKSPACE, Asked(plan, END))
    values = found.values()
    job.finish()
    return values, job.seconds


def beside(master: str, lake: Lake, plan: Plan, spill: Path, known: Values) -> None:
    """Print what the same costs on Spark, a Java virtual machine and its workers, and whether it says the same."""
    # Who has no Spark can run everything else.
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where somebody asks for it

    from profilelake.engines.distributed import SparkEngine  # noqa: PLC0415 - only where somebody asks for it

    session = (
        SparkSession.builder.master(master)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "2g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(spill))
        .getOrCreate()
    )
    try:
        engine = SparkEngine(session, master)
        with on_machine() as cost:
            values, seconds = computed(lake, plan, engine)
        same = all(
            values[key].sort_by("profile_id") == rows.sort_by("profile_id") for key, rows in known.items()
        )
        steps = ", ".join(f"{step} {took:.1f} s" for step, took in seconds.items())
        print(
            f"the same on Spark {master}: {cost.line()}, all processes ({steps}); {'the same' if same else 'OTHER'} values"
        )
    finally:
        session.stop()


@contextmanager
def on_machine() -> Iterator[Cost]:
    """Measure a block with all processes below this one."""
    cost = Cost()
    cpu, wall = _cpu_of_all(), time.perf_counter()
    yield cost
    cost.cpu, cost.wall = _cpu_of_all() - cpu, time.perf_counter() - wall


def _cpu_of_all() -> float:
    """Return the CPU seconds of this process, its children that live, and those that have ended."""
    parents, seconds = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        # Of itself and of children it has waited for.
        seconds[int(folder.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(seconds[pid] for pid in mine if pid in seconds)


def compared(connection: duckdb.DuckDBPyConnection, chosen: list[Pair], values: Values) -> list[str]:
    """Return the keys of definitions whose values are not those of their query."""
    wrong = []
    for pair in chosen:
        connection.register("ours", values[pair.key])
        if pair.kind == "audience":
            same = "true"
        elif pair.family == "value" and not pair.key.startswith("distinct"):
            same = "ours.value = theirs.value"
        elif pair.approximate:
            same = f"abs(ours.value::DOUBLE - theirs.value) <= {DIFFERENCE_MAX} * abs(theirs.value)"
        else:
            same = "ours.value::DOUBLE = theirs.value::DOUBLE"
        rows = connection.sql(
            f"SELECT count(*) FROM ours FULL JOIN {sql.identifier(pair.key)} AS theirs USING (profile_id) "
            f"WHERE ours.profile_id IS NULL OR theirs.profile_id IS NULL OR NOT coalesce({same}, false)"
        ).fetchall()
        if rows[0][0]:
            wrong.append(f"{pair.key} ({rows[0][0]} of {values[pair.key].num_rows})")
    return wrong


def report(costs: Mapping[str, Cost], chosen: list[Pair]) -> Cost:
    """Print what the queries of each family took; return their sum."""
    families: dict[str, list[Cost]] = defaultdict(list)
    for pair in chosen:
        families[pair.family].append(costs[pair.key])
    for family, of in families.items():
        total = Cost(sum(cost.cpu for cost in of), sum(cost.wall for cost in of))
        print(f"  {len(of):3} queries of kind {family:<10} {total.line()}")
    return Cost(sum(cost.cpu for cost in costs.values()), sum(cost.wall for cost in costs.values()))


def incremental(directory: Path, lake: Lake, plan: Plan, given: argparse.Namespace) -> None:
    """Print what new events cost that come to sets with partials in a state of their own."""
    folder = directory / "incremental"
    shutil.rmtree(folder, ignore_errors=True)
    steps = numbered(plan)
    shop = Shop(given.new_events * DAYS, given.profiles, given.seed)
    sets, _ = shop.sets()
    *_, fresh = shop.days(sets)
    reading_of = Reading(lake, WORKSPACE, folder)
    wanted = Wanted.of((step.step for step in steps), END)
    kept = f"FROM ({reading_of.select_events(wanted)}) WHERE epoch_us(timestamp) >= {END - given.kept_days * DAY}"
    state = State.open(folder / "state", writable=True)
    state.ensure([WORKSPACE])
    events = 0
    with timed() as cost:
        for number in range(KEPT_PARTS):
            part = f"{slice_of_set(KEPT_PARTS)} = {number}"
            rows = reading_of.table(f"FROM ({kept}) WHERE {part}").cast(event_schema())
            events += rows.num_rows
            partials = fold(rows, steps)
            with state.write() as tx:
                stored.add(tx, WORKSPACE, partials, steps)
    print(
        f"\nincremental: the state has partials of {events:,} events of {given.kept_days} days, made in {cost.line()},"
        f" {state.bytes_used() / 2**20:,.0f} MiB"
    )
    costs = {}
    with timed() as whole:
        with timed() as costs["fold"]:
            partials = fold(fresh, steps)
        with timed() as costs["store"], state.write() as tx:
            stored.add(tx, WORKSPACE, partials, steps)
        touched = pa.table({"set_id": pc.unique(fresh.column("set_id"))})
        with timed() as costs["profiles"]:
            reading_of.connection.register("touched", touched)
            profiles = reading_of.table(
                f"FROM ({reading_of.select_profiles('users')}) SEMI JOIN (FROM ({reading_of.select_sets('users')})"
                " SEMI JOIN touched USING (set_id)) USING (profile_id)"
            )
            reading_of.connection.register("touched_profiles", profiles.select(["profile_id"]))
            owned = reading_of.table(
                f"FROM ({reading_of.select_sets('users')}) SEMI JOIN touched_profiles USING (profile_id)"
            )
            people = subjects(profiles, owned, plan)
        with timed() as costs["read"], state.read(WORKSPACE) as tx:
            held = stored.read(tx, WORKSPACE, siphash.to_bytes(people.set_keys), END, steps)
        with timed() as costs["answer"]:
            found = answers(plan, {step.step.digest: step.number for step in steps}, held, people, END)
    print(
        f"  {fresh.num_rows:,} new events of {touched.num_rows:,} sets, {people.count:,} of {given.profiles:,} profiles"
        f" answered anew for {len(found)} definitions: {whole.line()}"
    )
    for what, cost in costs.items():
        print(f"    {what:<9} {cost.line()}")
    state.close()
    reading_of.close()
    shutil.rmtree(folder)


def previews(directory: Path, lake: Lake) -> None:
    """Print what previews cost."""
    print("\npreviews of what nobody has defined:")
    for text in PREVIEWED:
        costs = []
        for seed in range(3):
            with timed() as cost:
                found = preview(
                    lake,
                    WORKSPACE,
                    Definition("new", "audience", text),
                    {},
                    END,
                    directory=directory / "spill",
                    seed=seed,
                    seconds_max=60.0,
                )
            costs.append(cost)
        best = min(costs, key=lambda cost: cost.cpu)
        size = f"{found.size.count:,} ({found.size.low:,} to {found.size.high:,})"
        print(f"  {best.line()}  {found.how} from {found.sampled:,} profiles: {size}  {text}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--profiles", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lake", type=Path, help="made here, or used where it is already (default: temporary)"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th definition only")
    parser.add_argument(
        "--new-events", type=int, default=100_000, help="for the incremental part; 0 for none of it"
    )
    parser.add_argument(
        "--kept-days", type=int, default=5, help="days of events whose partials the state has"
    )
    parser.add_argument("--no-baseline", action="store_true", help="only compute, compare nothing")
    parser.add_argument(
        "--engine", help="compute the same on Spark too, on this master: local[2], spark://..."
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.lake or Path(temporary)
        print(machine(directory.parent).line())
        print(f"{given.events:,} events of {given.profiles:,} profiles, seed {given.seed}")
        run(directory, given)
    return 0


def run(directory: Path, given: argparse.Namespace) -> None:
    """Make the lake where it is not there, compute, compare."""
    made = (directory / "catalog.sqlite").exists()
    directory.mkdir(parents=True, exist_ok=True)
    lake = Lake.open(f"sqlite:///{directory}/catalog.sqlite", directory / "lake")
    if not made:
        with timed() as cost:
            Shop(given.events, given.profiles, given.seed).write(lake)
        print(f"made in {cost.line()}")
    chosen = pairs()[:: given.every] if given.every > 1 else pairs()
    if given.every > 1:
        chosen = [pair for pair in chosen if pair.family != "audience"]
    spill = directory / "spill"
    plan = plan_of(chosen)
    steps = {step.digest for one in plan for step in one.steps.values()}
    print(f"\n{len(plan)} definitions, {len(steps)} different steps")
    with timed() as whole:
        values, _ = computed(lake, plan, EmbeddedEngine(spill))
    size = sum(rows.nbytes for rows in values.values())
    print(
        f"computed over everything {whole.line()}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
        f" of which {size / 2**30:.1f} are {sum(rows.num_rows for rows in values.values()):,} values"
    )
    if given.engine:
        beside(given.engine, lake, plan, spill, values)
    if not given.no_baseline:
        connection, costs = baselines(lake, chosen, spill)
        print("each definition as a query of its own:")
        total = report(costs, chosen)
        print(
            f"  together {total.line()}: {total.cpu / whole.cpu:.1f} times the CPU, {total.wall / whole.wall:.1f} times as long"
        )
        wrong = compared(connection, chosen, values)
        print(
            f"  {len(chosen) - len(wrong)} of {len(chosen)} have the same values"
            + "".join(f"\n  differs: {one}" for one in wrong)
        )
        connection.close()
    previews(directory, lake)
    if given.new_events:
        incremental(directory, lake, plan, given)
    shutil.rmtree(spill, ignore_errors=True)
    lake.close()


if __name__ == "__main__":
    sys.exit(main())
