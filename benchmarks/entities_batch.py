"""What definitions that ask for rows of entities cost over a whole lake, beside a hand-written query each.

People of the shop have orders in a linked table, four each on average; one in ten thousand rows is of nobody. The baseline,
in the same run, is each definition as a DuckDB query of its own over the same tables, with the rows and whose they are joined
once for all of them; values are compared. The query of the entity itself is not part of it: it is the same for both.

    python benchmarks/entities_batch.py --rows 1000000 --profiles 250000
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
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from _shop import END, WORKSPACE, Shop
from audiences_batch import Cost, Values, timed
from profilelake.audiences.queried import Queried
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.identity.bulk import public_ids
from profilelake.identity.tables import IDENTITY_MAP
from profilelake.kernels import siphash
from profilelake.kernels.slots import slots_of
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.plans.definitions import Asked, compute
from profilelake.plans.queried import Result, Results
from profilelake.semantics.definitions import Definition, Held
from profilelake.semantics.identifiers import ident_prefix
from profilelake.semantics.rules import segment_defaults
from profilelake.traits.steps import Plan, planned

KEY: Final = bytes(range(16))
WARES: Final = ("pen", "ink", "pad", "book", "lamp", "desk", "chair", "clock")
ENTITY: Final = Definition("orders", "entity", "SELECT user_id, ware, total FROM orders", id_type="user_id")


def asked() -> Mapping[str, tuple[str, str]]:
    """Return definitions by key: what is asked, and the query for it, of `bought` (profile_id, ware, total)."""
    found: dict[str, tuple[str, str]] = {}
    for ware in WARES:
        where = f"where(property('ware') = '{ware}')"
        found[f"n_{ware}"] = (
            f"entity('orders').{where}.count()",
            f"SELECT profile_id, count(*)::VARCHAR AS value FROM bought WHERE ware = '{ware}' GROUP BY 1",
        )
        found[f"dear_{ware}"] = (
            f"entity('orders').where(property('ware') = '{ware}' AND property('total') >= 900).count() >= 1",
            f"SELECT DISTINCT profile_id, 'true' AS value FROM bought WHERE ware = '{ware}' AND total >= 900",
        )
    found["spent"] = (
        "entity('orders').sum(property('total'))",
        "SELECT profile_id, sum(total)::BIGINT::VARCHAR AS value FROM bought GROUP BY 1",
    )
    found["dearest"] = (
        "entity('orders').max(property('total'))",
        "SELECT profile_id, max(total)::BIGINT::VARCHAR AS value FROM bought GROUP BY 1",
    )
    found["spenders"] = (
        "entity('orders').sum(property('total')) > 3000",
        "SELECT profile_id, 'true' AS value FROM bought GROUP BY 1 HAVING sum(total) > 3000",
    )
    found["regulars"] = (
        "entity('orders').count() >= 5",
        "SELECT profile_id, 'true' AS value FROM bought GROUP BY 1 HAVING count(*) >= 5",
    )
    return found


def plan_of() -> Plan:
    """Return the definitions as they are computed."""
    held = {}
    for number, (key, (query, _)) in enumerate(asked().items()):
        kind = "trait" if query.endswith(")") else "audience"
        definition = Definition(key, kind, query, external_ids=())  # type: ignore[arg-type]  # one of the two
        held[key] = Held(definition, 1, number.to_bytes(32, "big"), number.to_bytes(32, "big"))
    return planned(held)


def write(lake: Lake, shop: Shop, rows: int, folder: Path) -> Path:
    """Write the shop's tables and whose identifiers are; return the result of the entity's query."""
    shop.write(lake)
    sets, owners = shop.sets()
    founding = sets[: shop.profiles]
    if not np.array_equal(owners[: shop.profiles], np.arange(shop.profiles)):
        raise SystemExit("the first sets of the shop are not those of its people in order")
    names = pa.array([f"user {number}" for number in range(shop.profiles)])
    idents = siphash.hash_strings(KEY, ident_prefix("users", "user_id"), names)
    mapped = pa.table(
        {
            "ident_id": siphash.to_arrow(idents),
            "collection": pa.repeat("users", shop.profiles),
            "profile_id": public_ids("users", founding),
            "slot": pa.array(slots_of(idents), pa.int32()),
        }
    )
    lake.current_table(WORKSPACE, IDENTITY_MAP).replace(mapped.cast(IDENTITY_MAP.schema()), Progress("0", 1))
    rng = np.random.default_rng(shop.seed + 11)
    of = rng.integers(0, shop.profiles, rows)
    ids = np.where(rng.random(rows) < 1e-4, shop.profiles, of)
    result = pa.table(
        {
            "user_id": pa.concat_arrays([names, pa.array(["nobody"])]).take(pa.array(ids)),
            "ware": pa.array(WARES).take(pa.array(rng.integers(0, len(WARES), rows))),
            "total": pa.array(rng.integers(1, 1_000, rows)),
        }
    )
    path = folder / "orders.parquet"
    pq.write_table(result, path)
    return path


def computed(lake: Lake, plan: Plan, engine: Engine, path: Path) -> tuple[Values, Mapping[str, float]]:
    """Return what definitions are worth, by key, and the seconds of each step."""
    results = Results((Result.read(ENTITY, path),), KEY, segment_defaults())
    with_rows = Asked(plan, END, queried=Queried((ENTITY,)))
    job, found = compute(engine, lake, WORKSPACE, with_rows, results=results)
    values = found.values()
    job.finish()
    return values, job.seconds


def baselines(lake: Lake, spill: Path, path: Path, values: Values) -> Cost:
    """Run each query, and compare what it says with `values`; return what they took."""
    connection = sql.connect("4GB", str(spill))
    connection.execute("SET threads = 2")
    connection.register("names", _named(lake, connection))
    total = Cost()
    with timed() as cost:
        connection.execute(
            f"""
            CREATE TABLE bought AS SELECT profile_id, ware, total FROM read_parquet({sql.text(str(path))})
            JOIN names USING (user_id)
            """
        )
    total.cpu, total.wall = cost.cpu, cost.wall
    for key, (_, query) in asked().items():
        with timed() as cost:
            theirs = connection.sql(query).to_arrow_table()
        total.cpu, total.wall = total.cpu + cost.cpu, total.wall + cost.wall
        if theirs.sort_by("profile_id").to_pylist() != values[key].sort_by("profile_id").to_pylist():
            print(f"  differs: {key}")
    connection.close()
    return total


def _named(lake: Lake, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return whose user ids are: a query by hand is given that, as it cannot hash them."""
    known = reading.select(lake, WORKSPACE, IDENTITY_MAP.name)
    rows = connection.sql(f"SELECT ident_id, profile_id FROM ({known})").to_arrow_table()
    names = pa.array([f"user {number}" for number in range(rows.num_rows)])
    hashed = siphash.to_arrow(siphash.hash_strings(KEY, ident_prefix("users", "user_id"), names))
    of = pa.table({"ident_id": hashed, "user_id": names})
    return of.join(rows.cast(pa.schema([("ident_id", hashed.type), ("profile_id", pa.string())])), "ident_id")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--profiles", type=int, default=250_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(machine(folder).line())
        print(f"{given.rows:,} rows of {given.profiles:,} people, seed {given.seed}")
        lake = Lake.open(f"sqlite:///{folder}/catalog.sqlite", folder / "lake")
        path = write(lake, Shop(given.events, given.profiles, given.seed), given.rows, folder)
        plan, engine = plan_of(), EmbeddedEngine(folder / "spill")
        computed(lake, plan[:1], engine, path)  # compiles what has to be compiled
        with timed() as alone:
            computed(lake, plan[:1], engine, path)
        print(f"1 definition              {alone.line()}")
        with timed() as cost:
            values, seconds = computed(lake, plan, engine, path)
        steps = ", ".join(f"{step} {took:.1f} s" for step, took in seconds.items())
        print(f"{len(plan)} definitions            {cost.line()} ({steps})")
        queries = baselines(lake, folder / "queries", path, values)
        print(f"each as a query of its own  {queries.line()}: {queries.cpu / cost.cpu:.2f} times the CPU")
        lake.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
