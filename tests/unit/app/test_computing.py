import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from condition_worlds import HOUR, HOURS, START, Account, Call, Person, World
from profilelake.app.computing import FILE_METADATA, compute_over_lake
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.semantics.definitions import Definition, Held
from profilelake.settings import Layout
from world_lakes import account_id, profile_id, write

AT = START + HOURS * HOUR
NOBODY = frozenset({"user_id"})
PEOPLE = (Person((0, 1), {"t": 1}, NOBODY), Person((2,), {}, NOBODY))
ACCOUNTS = (Account((0, 1), {"t": 1}), Account((1,), {}))
CALLS = tuple(Call(place, "track", "Order", START + HOUR * place, place + 1) for place in (0, 1, 2))


def held(*definitions: Definition) -> dict[str, Held]:
    return {one.key: Held(one, 1, bytes(32), bytes(32)) for one in definitions}


ORDERS = Definition("orders", "trait", "event('Order').count()")
BUYERS = Definition("buyers", "audience", "trait('orders') >= 2")
FIRMS = Definition("firms", "audience", "trait('t') = 1 AND ANY( trait('buyers') = true )", "accounts")
FIRM_ORDERS = Definition("firm_orders", "trait", "event('Order').count()", "accounts")
OF_CARTS = Definition("of_carts", "audience", "entity('carts').count() >= 1", "accounts")
IN_SQL = Definition("asked", "sql_trait", "SELECT 1", id_type="user_id", every_seconds=3600)
AFTER_SQL = Definition("after", "audience", "trait('asked') = 1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.directory.mkdir()
    lake = Lake.of(layout)
    write(lake, World(CALLS, PEOPLE, ACCOUNTS), [1])
    lake.close()
    return layout


def test_values_are_counted_and_written(layout: Layout, tmp_path: Path) -> None:
    to = tmp_path / "found"
    steps: list[str] = []
    found = compute_over_lake(layout, held(ORDERS, BUYERS), [], AT, to=to, report=steps.append)
    assert (found.profiles, found.events, found.found) == (2, 3, {"orders": 2, "buyers": 1})
    assert pq.read_table(to / "buyers.parquet").to_pylist() == [
        {"profile_id": profile_id(PEOPLE[0]), "value": "true"}
    ]
    assert dict(zip(*pq.read_table(to / "orders.parquet").to_pydict().values(), strict=True)) == {
        profile_id(PEOPLE[0]): "2",
        profile_id(PEOPLE[1]): "1",
    }
    assert [step.split(":")[0] for step in steps] == ["count", "owners", "answer"]
    # Each file says which tables it is of.
    assert (found.of.sequence, found.of.profiles_sequence, found.unpublished) == (2, 1, 0)
    said = json.loads(pq.read_schema(to / "orders.parquet").metadata[FILE_METADATA.encode()])
    assert said["at"] == AT
    assert said["of"]["snapshots"] == found.of.snapshots
    assert set(said["of"]["snapshots"]) == {
        "events",
        "set_map",
        "set_map_changes",
        "profiles",
        "profiles_changes",
    }
    assert said["unpublished"] == 0


def test_what_is_computed_online_only_is_left_out_or_refused(layout: Layout) -> None:
    known = held(ORDERS, OF_CARTS, IN_SQL, AFTER_SQL)
    found = compute_over_lake(layout, known, [], AT)
    assert (set(found.found), set(found.left_out)) == ({"orders"}, {"of_carts", "asked", "after"})
    for key in ("of_carts", "asked", "after"):
        with pytest.raises(Invalid, match=key):
            compute_over_lake(layout, known, [key], AT)


def test_what_another_one_reads_comes_along(layout: Layout) -> None:
    known = held(ORDERS, BUYERS, FIRMS, FIRM_ORDERS)
    found = compute_over_lake(layout, known, ["buyers"], AT)
    assert (found.found, found.accounts) == ({"orders": 2, "buyers": 1}, 0)
    assert found.left_out == {}
    found = compute_over_lake(layout, known, ["firms"], AT)
    assert (found.found, found.accounts) == ({"orders": 2, "buyers": 1, "firms": 1}, 2)


def test_accounts_are_counted_and_written(layout: Layout, tmp_path: Path) -> None:
    to = tmp_path / "found"
    steps: list[str] = []
    found = compute_over_lake(layout, held(FIRM_ORDERS), [], AT, to=to, report=steps.append)
    assert (found.profiles, found.accounts, found.found) == (2, 2, {"firm_orders": 2})
    assert pq.read_table(to / "firm_orders.parquet").sort_by("value").to_pylist() == [
        {"profile_id": account_id(1), "value": "1"},
        {"profile_id": account_id(0), "value": "3"},
    ]
    assert [step.split(":")[0] for step in steps] == [
        "count",
        "owners",
        "left",
        "seen",
        "members",
        "people",
        "accounts",
    ]


def test_wrong_words(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none of key nothing"):
        compute_over_lake(layout, held(ORDERS), ["nothing"], AT)
    with pytest.raises(Conflict, match="not empty"):
        compute_over_lake(layout, held(ORDERS), [], AT, to=tmp_path)
    with pytest.raises(Invalid, match="no-such-engine"):
        compute_over_lake(layout, held(ORDERS), [], AT, engine_url="no-such-engine")
    with pytest.raises(NotFound, match="no such table"):
        compute_over_lake(Layout(tmp_path / "other"), held(ORDERS), [], AT)
