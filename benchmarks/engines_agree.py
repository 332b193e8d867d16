"""Every plan on one lake, on this machine and on other engines: is each table the same, row by row, and at what cost.

    python benchmarks/engines_agree.py [--events 1000000] [--people 100000] [--engine 'local[2]'] [--data DIR]

A lake with everything in it that plans have a say in (`_agreeing_lake`) is damaged: events come a second time,
some later, sets and trait writes and values are lost. Each engine gets a copy at the same place, and runs one
plan after the other: repair, rebuild, definitions, compaction, removal of some people, digests. After each of them the
digest of every table is taken, of the online state after a rebuild, and of the answers of definitions. With
--digests FILE what the first engine found is kept, and runs in another environment are held against it. Processor
seconds are those of a control group, which counts workers that have ended: run it as root.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parent))

import duckdb
import pyarrow as pa

from _agreeing_lake import DEFINITIONS, KEY, SECOND, START, STEP, WORKSPACE, Place, fill, rules
from _control_group import ControlGroup, alone
from _machine import machine
from profilelake.engines.choosing import engine_of
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.errors import Internal
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.register import TABLES
from profilelake.plans import compaction, definitions, removal
from profilelake.plans.digests import Digest, digest, digest_tables
from profilelake.plans.rebuild import rebuild_on
from profilelake.plans.repair import repair
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.definitions import Definition, Held
from profilelake.settings import EngineSettings
from profilelake.state.store import Db, State
from profilelake.traits.steps import planned

REMOVED_PEOPLE: Final = 20
STATE_ROWS: Final = 100_000
NOT_COMPARED: Final = frozenset({Db.META})
"""What the state has of itself: how far it is, and names of files beside it."""
LOST: Final = {
    IDENTIFIER_SETS: "set_id",
    SET_SIGHTINGS: "set_id",
    TRAIT_WRITES: "position",
    ACCOUNT_LINKS: "position",
    CONSENT_WRITES: "position",
}
"""Tables that lose rows, and by which column: a statement is there with all of its rows or with none."""


@dataclass(frozen=True)
class Found:
    """What one plan left of one table, and what it took."""

    plan: str
    table: str
    rows: int
    digest: str
    cpu: float
    seconds: float


def make(directory: Path, events: int, people: int, seed: int) -> None:
    """Make a damaged lake."""
    place = Place(directory)
    fill(place, events, people, seed)
    damage(place)


def _make(_: ControlGroup, directory: Path, events: int, people: int, seed: int) -> None:
    make(directory, events, people, seed)


def moment_after(events: int) -> int:
    """Return a time after all calls, as of which plans are run."""
    return START + 2 * (events * STEP + 3600 * SECOND)


def damage(place: Place) -> None:
    """Let every tenth event be there twice, half of these later; lose every fifth row of what events tell."""
    lake = place.lake()
    events = lake.table(WORKSPACE, EVENTS)
    rows = events.scan().sort_by("position")
    again = rows.take(pa.array(range(0, rows.num_rows, 10), pa.int64()))
    later = again.slice(0, again.num_rows // 2)
    # The same under another offset of the log.
    moved = [value[:20] + b"\xff" + value[21:] for value in later.column("position").to_pylist()]
    later = later.set_column(
        later.schema.get_field_index("position"),
        later.schema.field("position"),
        pa.array(moved, pa.binary(32)),
    )
    writer = events.files_elsewhere()
    for name, part in (("again", again), ("later", later)):
        events.add_files(writer.write(part), name)
    for definition, column in LOST.items():
        table = lake.table(WORKSPACE, definition)
        kept = _some_less(table.scan(), column)
        table.rewrite([file.location for file in table.files()], kept, same_rows=False)
    values = lake.current_table(WORKSPACE, IDENTIFIERS)
    while values.merge():
        pass
    values.cut_merged()
    kept = _some_less(values.base.scan(), "position")
    values.base.rewrite([file.location for file in values.base.files()], kept, same_rows=False)
    lake.close()


def _some_less(rows: pa.Table, column: str) -> pa.Table:
    """Return rows without a fifth of the values of a column, and all that have one of these."""
    there = [crc32(value) % 5 != 0 for value in rows.column(column).to_pylist()]
    return rows.filter(pa.array(there, pa.bool_()))


def all_plans(
    place: Place, engine: Engine, at: int, cpu_seconds: Callable[[], float] = time.process_time
) -> list[Found]:
    """Run every plan on a damaged lake; return what each left of each table, and what each took."""
    found: list[Found] = []

    def run(plan: str, work: Callable[[Lake], dict[str, Digest]]) -> None:
        lake = place.lake()
        wall, cpu = time.perf_counter(), cpu_seconds()
        more = work(lake)
        took = (cpu_seconds() - cpu, time.perf_counter() - wall)
        lake.close()
        found.extend(
            Found(plan, table, one.rows, str(one), *took) for table, one in (digests(place) | more).items()
        )
        print(f"  {plan}: {took[0]:.1f} processor s, {took[1]:.1f} s", file=sys.stderr)

    run("repair", lambda lake: _repair(engine, lake))
    run("rebuild", lambda lake: _rebuild(engine, place, lake, at))
    run("definitions", lambda lake: _definitions(engine, lake, at))
    run("compaction", lambda lake: _compact(engine, lake))
    run("removal", lambda lake: _remove(engine, lake))
    run("digest", lambda lake: _read_there(engine, lake))
    return found


def digests(place: Place) -> dict[str, Digest]:
    """Return the digest of every table of a lake, made on this machine."""
    lake = place.lake()
    with tempfile.TemporaryDirectory(dir=place.directory) as folder:
        found = digest_tables(EmbeddedEngine(Path(folder)), lake, WORKSPACE)
    # Tables of Profiles Sync are in a namespace of their own.
    beside = {
        f"{one.part}.{one.name}": digest([lake.table(WORKSPACE, one).scan()]) for one in TABLES if one.part
    }
    lake.close()
    return {one.table: one.digest for one in found} | beside


def _repair(engine: Engine, lake: Lake) -> dict[str, Digest]:
    done = repair(engine, lake.storage, lake, WORKSPACE, key=KEY, rules=rules())
    had_again = (done.sets, done.values, done.sightings, done.traits, done.links, done.consent)
    if not (done.repeated and all(had_again)):
        raise Internal(f"comparing engines: a repair of a damaged lake found only {done}")
    return {}


def _rebuild(engine: Engine, place: Place, lake: Lake, at: int) -> dict[str, Digest]:
    rebuild_on(engine, place.setup(), place.state, lake, at)
    return state_digests(place)


def state_digests(place: Place) -> dict[str, Digest]:
    """Return the digest of each database of the online state."""
    state = State.open(place.state)
    found: dict[str, Digest] = {}
    with state.read(WORKSPACE) as tx:
        for db in Db:
            if db not in NOT_COMPARED:
                found[f"state: {db}"] = digest(_rows_of(tx.items(WORKSPACE, db)))
    state.close()
    return found


def _rows_of(items: Iterator[tuple[bytes, bytes]]) -> Iterator[pa.Table]:
    rows: list[tuple[bytes, bytes]] = []
    for item in items:
        rows.append(item)
        if len(rows) == STATE_ROWS:
            yield _table(rows)
            rows = []
    yield _table(rows)


def _table(rows: list[tuple[bytes, bytes]]) -> pa.Table:
    return pa.table(
        [pa.array([row[place] for row in rows], pa.large_binary()) for place in range(2)], ["key", "value"]
    )


def _definitions(engine: Engine, lake: Lake, at: int) -> dict[str, Digest]:
    held = {
        key: Held(Definition(key, query=query, kind=kind, external_ids=()), 1, bytes(32), bytes(32))
        for key, kind, query in DEFINITIONS
    }
    job, computed = definitions.compute(engine, lake, WORKSPACE, definitions.Asked(planned(held), at))
    found = {f"answers: {key}": Digest() for key in computed.keys}
    for values in computed.slices():
        for key, rows in values.items():
            found[f"answers: {key}"] += digest([rows])
    job.finish()
    return found


def _compact(engine: Engine, lake: Lake) -> dict[str, Digest]:
    appended = [lake.table(WORKSPACE, one) for one in TABLES if one.kind == "append"]
    compaction.compact(engine, lake.storage, appended)
    current = [lake.current_table(WORKSPACE, one) for one in TABLES if one.kind == "current"]
    compaction.merge(engine, lake.storage, current)
    return {}


def _read_there(engine: Engine, lake: Lake) -> dict[str, Digest]:
    return {f"read there: {one.table}": one.digest for one in digest_tables(engine, lake, WORKSPACE)}


def _remove(engine: Engine, lake: Lake) -> dict[str, Digest]:
    """Remove people: their profiles, and the sets and messages that are theirs."""
    with duckdb.connect() as connection:
        attach(connection, lake, WORKSPACE)
        people = [row[0] for row in connection.execute(_PEOPLE, [REMOVED_PEOPLE]).fetchall()]
        sets = [row[0] for row in connection.execute(_SETS, [people]).fetchall()]
        messages = [row[0] for row in connection.execute(_MESSAGES, [sets]).fetchall()]
    keys = removal.Keys.of(sets=sets, profiles=people, messages=messages)
    gone = removal.remove(engine, lake.storage, lake, WORKSPACE, TABLES, keys)
    if not gone:
        raise Internal("comparing engines: a removal of people found nobody")
    return {}


_PEOPLE: Final = "SELECT profile_id FROM profiles ORDER BY profile_id LIMIT ?"
_SETS: Final = "SELECT set_id FROM set_map WHERE list_contains(?, profile_id) ORDER BY ALL"
_MESSAGES: Final = "SELECT message_id FROM events WHERE list_contains(?, set_id) ORDER BY ALL"


def run_on(group: ControlGroup, directory: Path, url: str, at: int) -> list[Found]:
    """Run all plans on the engine of a URL, in a process of its own."""
    options = EngineSettings(url=url, scratch=str(directory / "scratch"), driver_memory="1g")
    engine = engine_of(options, directory)
    try:
        return all_plans(Place(directory), engine, at, group.cpu_seconds)
    finally:
        engine.close()


def compared(base: list[Found], other: list[Found]) -> list[tuple[Found, float, bool]]:
    """Return each table after each plan, the processor time of the other engine, and whether they are equal."""
    known = {(one.plan, one.table): one for one in other}
    if known.keys() != {(one.plan, one.table) for one in base}:
        raise Internal("comparing engines: they did not leave the same tables")
    return [
        (one, match.cpu, (one.rows, one.digest) == (match.rows, match.digest))
        for one in base
        for match in [known[one.plan, one.table]]
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", action="append", default=[], help="another engine; may be repeated")
    parser.add_argument("--data", type=Path, help="keep the damaged lake there, or take it from there")
    parser.add_argument("--digests", type=Path, help="keep what was found there, or hold this run against it")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print({name: str(value) for name, value in vars(options).items()}, flush=True)
    at = moment_after(options.events)
    # Tables know where they lie: the lake is made where each engine gets its copy.
    work = options.scratch / "engines-agree"
    kept = options.data or options.scratch / "engines-agree-data"
    base: list[Found] = []
    if options.digests is not None and options.digests.exists():
        base = [Found(**one) for one in json.loads(options.digests.read_text())]
    shutil.rmtree(work, ignore_errors=True)
    try:
        if not kept.exists():
            alone(_make, work, options.events, options.people, options.seed)
            shutil.move(work, kept)
        different = 0
        for engine in options.engine if base else ("embedded", *options.engine):
            shutil.copytree(kept, work)
            found = alone(run_on, work, engine, at)
            shutil.rmtree(work)
            if not base:
                base = found
                if options.digests is not None:
                    options.digests.write_text(json.dumps([asdict(one) for one in base]))
            different += show(engine, base, found)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if options.data is None:
            shutil.rmtree(kept, ignore_errors=True)
    return 1 if different else 0


def show(engine: str, base: list[Found], found: list[Found]) -> int:
    """Print how an engine compares with the first; return how many tables differ."""
    different = 0
    print(f"\n{'plan':<12} {'table':<32} {'rows':>11}  {'digest':<12} equal  on {engine}")
    lines = compared(base, found)
    for plan in dict.fromkeys(one.plan for one, _, _ in lines):
        mine = [line for line in lines if line[0].plan == plan]
        for one, _, equal in mine:
            different += not equal
            print(f"{plan:<12} {one.table:<32} {one.rows:>11,}  {one.digest[:12]} {'yes' if equal else 'NO'}")
        first, cpu = mine[0][0], mine[0][1]
        print(
            f"{plan:<12} processor s: {first.cpu:.1f} first, {cpu:.1f} here ({cpu / first.cpu:.2f})",
            flush=True,
        )
    print(f"{len(lines)} digests, {different} differ", flush=True)
    return different


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
