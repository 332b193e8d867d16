import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from condition_worlds import HOUR, HOURS, START, Account, Call, Person, World
from profilelake.app.computing import FILE_METADATA, compute_over_lake
from profilelake.errors import Conflict, Invalid, NotFound, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.pipeline.sql_runs import Ask
from profilelake.semantics.definitions import Definition, Held
from profilelake.settings import Layout
from profilelake.workspaces.identifier_key import create_identifier_key
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
OF_CARTS = Definition("of_carts", "audience", "entity('carts').count() >= 2", "accounts")
CARTS = Definition("carts", "entity", "carts", "accounts")
IN_SQL = Definition("asked", "sql_trait", "said", id_type="profile_id", every_seconds=3600)
AFTER_SQL = Definition("after", "audience", "trait('asked') = 1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.directory.mkdir()
    create_identifier_key(layout.secrets, bytes)
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


def asks(given: dict[str, dict[str, list[object]] | Exception]) -> Ask:
    """Return what answers a query with the rows, or the error, of its text."""

    def ask(query: str, path: Path, _stopped: Callable[[], bool]) -> None:
        found = given[query]
        if isinstance(found, Exception):
            raise found
        pq.write_table(pa.table(found), path)

    return ask


GIVEN = {
    "carts": {"profile_id": [account_id(0), account_id(0), account_id(1), "acc_other"], "total": [1, 2, 3, 4]},
    "said": {"profile_id": [profile_id(PEOPLE[0]), profile_id(PEOPLE[1])], "x": [1, 2]},
}  # fmt: skip
KNOWN = (ORDERS, OF_CARTS, CARTS, IN_SQL, AFTER_SQL)


def test_what_asks_for_rows_and_sql_is_computed_too(layout: Layout, tmp_path: Path) -> None:
    found = compute_over_lake(layout, held(*KNOWN), [], AT, to=tmp_path / "found", ask=asks({**GIVEN}))
    assert (found.found, found.left_out) == ({"orders": 2, "of_carts": 1, "asked": 2, "after": 1}, {})
    of_carts = pq.read_table(tmp_path / "found" / "of_carts.parquet").to_pylist()
    assert of_carts == [{"profile_id": account_id(0), "value": "true"}]
    asked = pq.read_table(tmp_path / "found" / "asked.parquet").sort_by("value").to_pylist()
    assert [row["value"] for row in asked] == ["1", "2"]
    # Only what is named runs, and what that asks for.
    del_carts = {query: rows for query, rows in GIVEN.items() if query != "carts"}
    found = compute_over_lake(layout, held(*KNOWN), ["after"], AT, ask=asks({**del_carts}))
    assert found.found == {"asked": 2, "after": 1}
    assert not list((layout.run / "queried").iterdir())


@pytest.mark.parametrize("error", [Invalid("no such table"), Unavailable("there is no jail")])
def test_what_a_query_that_fails_leaves_out_is_named_or_refused(layout: Layout, error: Exception) -> None:
    given = asks({**GIVEN, "said": error})
    found = compute_over_lake(layout, held(*KNOWN), [], AT, ask=given)
    assert found.found == {"orders": 2, "of_carts": 1}
    assert found.left_out == {"asked": str(error), "after": f"it asks for asked: {error}"}
    for key in ("asked", "after"):
        with pytest.raises(type(error), match=str(error)):
            compute_over_lake(layout, held(*KNOWN), [key], AT, ask=given)
    assert compute_over_lake(layout, held(*KNOWN), ["of_carts"], AT, ask=given).found == {"of_carts": 1}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"profile_id": ["a", None], "x": [1, 2]}, "1 rows have no profile_id"),
        ({"profile_id": ["a", ""], "x": [1, 2]}, "1 rows have an empty profile_id"),
        ({"profile_id": ["a", "b", "a"], "x": [1, 2, 3]}, "2 rows have one profile_id"),
        ({"profile_id": [1.5], "x": [1]}, "profile_id is of type double"),
        ({"profile_id": ["a"], "x": [[1]]}, "column x is of type list"),
    ],
)
def test_a_result_that_is_refused_leaves_the_others_alone(
    layout: Layout, rows: dict[str, list[object]], says: str
) -> None:
    found = compute_over_lake(layout, held(*KNOWN), [], AT, ask=asks({**GIVEN, "said": rows}))
    assert found.found == {"orders": 2, "of_carts": 1}
    assert set(found.left_out) == {"asked", "after"}
    assert says in found.left_out["asked"]


def test_a_full_disk_leaves_out_what_has_no_room_and_says_so(layout: Layout) -> None:
    others = asks({**GIVEN})

    def ask(query: str, path: Path, stopped: Callable[[], bool]) -> None:
        if query == "said":
            Path("/dev/full").write_bytes(b"rows")
        others(query, path, stopped)

    found = compute_over_lake(layout, held(*KNOWN), [], AT, ask=ask)
    assert found.found == {"orders": 2, "of_carts": 1}
    assert "what the query of asked gives" in found.left_out["asked"]
    assert "No space left on device; see that its disk has room" in found.left_out["asked"]


def test_sql_alone(layout: Layout) -> None:
    found = compute_over_lake(layout, held(IN_SQL), [], AT, ask=asks({**GIVEN}))
    assert (found.found, found.events, found.profiles) == ({"asked": 2}, 0, 2)
    with pytest.raises(Invalid, match="an entity has rows and no value"):
        compute_over_lake(layout, held(*KNOWN), ["carts"], AT, ask=asks({**GIVEN}))


def test_an_entity_that_is_no_more_or_disabled_has_no_rows(layout: Layout) -> None:
    gone = replace(OF_CARTS, query="entity('carts').count() = 0")
    for known in (held(gone), held(gone, replace(CARTS, enabled=False))):
        assert compute_over_lake(layout, known, [], AT, ask=asks({})).found == {"of_carts": 2}


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
