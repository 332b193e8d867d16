"""What definitions about accounts cost over a whole lake, beside the same definitions about people.

People of the shop belong to accounts, one in ten of them to two; one account has a fifth of all. The baseline, in the
same run, is each definition as a DuckDB query of its own; values are compared.

    python benchmarks/accounts_batch.py --events 1000000 --profiles 50000 --accounts 5000
    python benchmarks/accounts_batch.py --events 1000000 --engine local[2]   # beside, on Spark
"""

# ruff: noqa: S608 - queries of our own making, over data of our own making

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from _shop import COUNTRIES, DAYS, END, NAMES, WORKSPACE, Shop
from audiences_batch import Cost, Values, beside, computed, timed
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.identity.bulk import public_ids
from profilelake.identity.tables import IDENTITY_FACTS, IDENTITY_MAP, SET_MAP
from profilelake.kernels import siphash
from profilelake.kernels.slots import slots_of
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.profiles.tables import ACCOUNT_LINKS, PROFILES
from profilelake.semantics.definitions import Definition, Held
from profilelake.semantics.rules import Collection
from profilelake.traits.steps import Plan, planned

MONTH: Final = 30
_RECENT: Final = (
    f"timestamp >= make_timestamptz({END}) - INTERVAL {MONTH} DAY AND timestamp <= make_timestamptz({END})"
)


def asked() -> Mapping[str, tuple[str, str]]:
    """Return definitions by key: what is asked, and the query for it, of `happened` (account_id) and `people`."""
    found: dict[str, tuple[str, str]] = {}
    for name, _ in NAMES:
        event = "type = 'page'" if name == "Page Viewed" else f"type = 'track' AND event = '{name}'"
        short = name.lower().replace(" ", "_")
        counted = "SELECT account_id AS profile_id, count(*)::VARCHAR AS value FROM happened"
        found[f"n_{short}"] = f"event('{name}').count()", f"{counted} WHERE {event} GROUP BY 1"
        found[f"month_{short}"] = (
            f"event('{name}').within({MONTH} days).count()",
            f"{counted} WHERE {event} AND {_RECENT} GROUP BY 1",
        )
    for country in COUNTRIES:
        found[f"in_{country.lower()}"] = (
            f"ANY( trait('country') = '{country}' )",
            f"SELECT DISTINCT account_id AS profile_id, 'true' AS value FROM people WHERE traits->>'country' = '{country}'",
        )
    found["buying"] = (
        "ANY( event('Order Completed').count() >= 5 )",
        """
        SELECT DISTINCT account_id AS profile_id, 'true' AS value FROM (
            SELECT account_id, person_id FROM happened WHERE event = 'Order Completed' AND type = 'track'
            GROUP BY ALL HAVING count(*) >= 5
        )
        """,
    )
    return found


def plan_of(target: Collection) -> Plan:
    """Return the definitions about accounts, or those of them that can be asked of people."""
    held = {}
    for number, (key, (query, _)) in enumerate(asked().items()):
        if target == "accounts" or "ANY" not in query:
            kind = "audience" if "ANY" in query else "trait"
            definition = Definition(key, kind, query, target, external_ids=())  # type: ignore[arg-type]  # one of the two
            held[key] = Held(definition, 1, number.to_bytes(32, "big"), number.to_bytes(32, "big"))
    return planned(held)


def write(lake: Lake, shop: Shop, accounts: int) -> None:
    """Write the shop's tables, and who belongs to which account."""
    shop.write(lake)
    rng = np.random.default_rng(shop.seed + 7)
    sets, _ = shop.sets()
    account_sets = rng.integers(0, 1 << 64, (accounts, 2), dtype=np.uint64)
    of = rng.integers(0, accounts, shop.profiles)
    of[rng.random(shop.profiles) < 0.2] = 0
    second = np.flatnonzero(rng.random(shop.profiles) < 0.1)
    person = np.concatenate([np.arange(shop.profiles), second])
    account = np.concatenate([of, rng.integers(0, accounts, len(second))])
    links = len(person)
    _append(
        lake,
        ACCOUNT_LINKS,
        {
            "set_id": siphash.to_arrow(sets[person]),
            "account_set_id": siphash.to_arrow(account_sets[account]),
            "position": pa.array([number.to_bytes(32, "big") for number in range(links)], pa.binary(32)),
            "linked_at": pa.array(np.full(links, END), pa.timestamp("us", "UTC")),
            "message_id": pa.array([f"g{number}" for number in range(links)]),
            "source_id": pa.array(["shop"] * links),
        },
    )
    lake.table(WORKSPACE, IDENTITY_FACTS)
    lake.current_table(WORKSPACE, IDENTITY_MAP)
    ids = public_ids("accounts", account_sets)
    slots = pa.array(slots_of(account_sets), pa.int32())
    of_accounts = pa.array(["accounts"] * accounts)
    known = {"profile_id": ids, "slot": slots, "collection": of_accounts}
    _more(lake, SET_MAP, {**known, "set_id": siphash.to_arrow(account_sets), "first_profile_id": ids})
    now = pa.array(np.full(accounts, END), pa.timestamp("us", "UTC"))
    told = {"identifiers": pa.array(["{}"] * accounts), "traits": pa.array(["{}"] * accounts)}
    seen = {
        "first_seen_at": now,
        "last_seen_at": now,
        "event_count": pa.array(np.ones(accounts, dtype=np.int64)),
    }
    _more(lake, PROFILES, {**known, **told, **seen})


def _full(definition: TableDef, columns: Mapping[str, pa.Array]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    schema = definition.schema()
    return pa.table(
        [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema],
        schema=schema,
    )


def _append(lake: Lake, definition: TableDef, columns: Mapping[str, pa.Array]) -> None:
    lake.table(WORKSPACE, definition).append(_full(definition, columns), Progress("0", 1))


def _more(lake: Lake, definition: TableDef, columns: Mapping[str, pa.Array]) -> None:
    """Make a current table one of what it has and more rows."""
    with duckdb.connect() as connection:
        held = connection.sql(reading.select(lake, WORKSPACE, definition.name)).to_arrow_table()
    whole = pa.concat_tables([held.cast(definition.schema()), _full(definition, columns)])
    lake.current_table(WORKSPACE, definition).replace(whole, Progress("0", DAYS + 1))


def baselines(lake: Lake, spill: Path, values: Values) -> Cost:
    """Run each query, and compare what it says with `values`; return what they took."""
    connection = sql.connect("4GB", str(spill))
    connection.execute("SET threads = 2")
    rows = {
        name: reading.select(lake, WORKSPACE, name)
        for name in ("events", "set_map", "profiles", "account_links")
    }
    connection.execute(
        f"""
        CREATE TABLE linked AS SELECT DISTINCT person.profile_id AS person_id, account.profile_id AS account_id
        FROM ({rows["account_links"]}) AS links JOIN ({rows["set_map"]}) AS person ON person.set_id = links.set_id
        JOIN ({rows["set_map"]}) AS account ON account.set_id = links.account_set_id
        """
    )
    connection.execute(
        f"CREATE VIEW people AS FROM linked JOIN ({rows['profiles']}) AS known ON known.profile_id = person_id"
    )
    connection.execute(
        f"""
        CREATE VIEW happened AS SELECT person_id, account_id, type, event, timestamp FROM ({rows["events"]})
        JOIN (SELECT set_id, profile_id AS person_id FROM ({rows["set_map"]})) USING (set_id) JOIN linked USING (person_id)
        """
    )
    total = Cost()
    for key, (_, query) in asked().items():
        with timed() as cost:
            theirs = connection.sql(query).to_arrow_table()
        total.cpu, total.wall = total.cpu + cost.cpu, total.wall + cost.wall
        if theirs.sort_by("profile_id").to_pylist() != values[key].sort_by("profile_id").to_pylist():
            print(f"  differs: {key}")
    connection.close()
    return total


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--profiles", type=int, default=50_000)
    parser.add_argument("--accounts", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--engine", help="compute the same on Spark too, on this master: local[2], spark://..."
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(machine(folder).line())
        print(
            f"{given.events:,} events of {given.profiles:,} people in {given.accounts:,} accounts, seed {given.seed}"
        )
        lake = Lake.open(f"sqlite:///{folder}/catalog.sqlite", folder / "lake")
        write(lake, Shop(given.events, given.profiles, given.seed), given.accounts)
        plan, engine = plan_of("accounts"), EmbeddedEngine(folder / "spill")
        of_people = plan_of("users")
        computed(lake, of_people[:1], engine)  # compiles what has to be compiled
        with timed() as people:
            computed(lake, of_people, engine)
        print(f"{len(of_people)} definitions about people     {people.line()}")
        with timed() as accounts:
            values, seconds = computed(lake, plan, engine)
        steps = ", ".join(f"{step} {took:.1f} s" for step, took in seconds.items())
        print(f"{len(plan)} definitions about accounts   {accounts.line()} ({steps})")
        if given.engine:
            beside(given.engine, lake, plan, folder / "spark", values)
        queries = baselines(lake, folder / "queries", values)
        print(
            f"each as a query of its own     {queries.line()}: {queries.cpu / accounts.cpu:.1f} times the CPU"
        )
        lake.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
