"""Rows of entities and what SQL says, over the whole lake: as they are live once queries ran, and refused as there."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_driver import KEY, WORKSPACE
from profilelake.audiences import definitions_now, reading
from profilelake.audiences.queried import Queried
from profilelake.audiences.sql_contract import ENTITY_ROWS_MAX
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.errors import Invalid, Unavailable
from profilelake.plans import definitions as plans
from profilelake.plans import queried as queried_plans
from profilelake.plans.definitions import Asked, compute
from profilelake.plans.queried import Result, Results
from profilelake.semantics.definitions import SQL_KINDS, Definition
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import COLLECTIONS, segment_defaults
from profilelake.state.store import Db
from profilelake.traits.steps import planned
from sql_worlds import World

GOLD = "trait('tier') = 'gold'"
ASKED = {
    "spenders": ("users", "entity('orders').where(property('total') > 500).count() >= 2"),
    "spent": ("users", "entity('orders').sum(property('total'))"),
    "wares": ("users", "entity('orders').unique(property('ware'))"),
    "golden": ("users", f"{GOLD} AND trait('picked') = true"),
    "unpicked": ("users", "trait('picked') = false"),
    "idle": ("users", "entity('gone').count() = 0 AND NOT trait('hushed') = true"),
    "contracted": ("accounts", "entity('contracts').count()"),
    "good": ("accounts", f"entity('contracts').count() >= 1 AND ANY( {GOLD} )"),
    "buying": ("accounts", "ANY( entity('orders').count() >= 2 ) OR trait('size') > 10"),
    "rich": ("accounts", "ANY( trait('spent') >= 1000 )"),
}
"""Definitions of the language, by key."""
IN_SQL: Mapping[str, dict[str, Any]] = {
    "orders": {"kind": "entity", "id_type": "user_id"},
    "contracts": {"kind": "entity", "target": "accounts"},
    "tier": {"kind": "sql_trait"},
    "size": {"kind": "sql_trait", "target": "accounts"},
    "picked": {"kind": "sql_audience"},
    "hushed": {"kind": "sql_audience", "enabled": False},
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with closing(world.desk):
        for n in range(6):
            told = {"userId": f"u{n}", "anonymousId": f"a{n}", "messageId": f"m{n}"}
            world.feed({"type": "identify", "traits": {"email": f"u{n}@shop.example", "size": 11}, **told})
            world.feed({"type": "group", "groupId": f"g{n % 3}", "userId": f"u{n}", "messageId": f"g{n}"})
        yield world


def results(world: World) -> dict[str, dict[str, list[Any]]]:
    with world.desk.state.read(WORKSPACE) as tx:
        found = tx.profiles(WORKSPACE, list(tx.keys(WORKSPACE, Db.PROFILE)))
    ids = sorted(public_id(COLLECTIONS[one.collection], key) for key, one in found.items())
    return {
        # Two ids of one person, one id twice, one that nobody has, and numbers that JSON writes in its own way.
        "orders": {
            "external_id": ["u1", "u1", "u2", "u3", "nobody", "u1"],
            "total": [600, 700.5, 900.0, 1e300, 5.0, 1.0],
            "ware": ["pen", "ink", "pen", None, "ink", 'say "\\'],
        },
        "contracts": {"group_id": ["g0", "g0", "g1"], "since": ["2026", "2025", "2026"]},
        "tier": {"email": ["U1@shop.example ", "u2@shop.example", "u4@shop.example"], "tier": ["gold", None, "tin"]},
        "size": {"profile_id": [*ids, "acc_none", "use_" + "0" * 27], "size": list(range(len(ids) + 2))},
        "picked": {"anonymous_id": ["a1", "a2", "a5", "a77"]},
    }  # fmt: skip


def define(world: World) -> None:
    for key, told in IN_SQL.items():
        world.define(key, key, **told)
    for key, (target, query) in ASKED.items():
        world.define(
            key, query, kind="trait" if query.endswith(")") and "ANY" not in query else "audience",
            target=target,
        )  # fmt: skip


def over_lake(
    world: World, given: Mapping[str, dict[str, list[Any]]], folder: Path, engine: Engine | None = None
) -> dict[tuple[str, str], str]:
    with world.desk.state.read(WORKSPACE) as tx:
        held = definitions_now.held(tx, WORKSPACE)
    in_sql = [one.definition for one in held.values() if one.definition.kind in SQL_KINDS]
    asked = Asked(planned(held), world.desk.applied().watermark, queried=Queried(tuple(in_sql)))
    job, found = compute(
        engine or EmbeddedEngine(folder / "engine"),
        world.desk.lake,
        WORKSPACE,
        asked,
        results=read([one for one in in_sql if one.key in given], given, folder),
    )
    values = {
        (key, profile): value
        for key, rows in found.values().items()
        for profile, value in zip(*rows.to_pydict().values(), strict=True)
    }
    job.finish()
    return values


def read(of: list[Definition], given: Mapping[str, dict[str, list[Any]]], folder: Path) -> Results:
    made = []
    for definition in of:
        path = folder / f"{definition.key}.parquet"
        pq.write_table(pa.table(given[definition.key]), path)
        made.append(Result.read(definition, path))
    return Results(tuple(made), KEY, segment_defaults())


@pytest.mark.parametrize("many", [False, True])
def test_it_is_what_is_live_once_the_queries_ran(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    if many:
        # As if there were more rows and owners than tasks hold: cut finely, and nothing is looked up beforehand.
        monkeypatch.setattr(queried_plans, "FILE_ROWS", 2)
        monkeypatch.setattr(queried_plans, "NAMED_MAX", 0)
        monkeypatch.setattr(queried_plans, "UNIT_ROWS", 4)
        monkeypatch.setattr(plans, "SETS_JOINED_MAX", 0)
    define(made)
    given = results(made)
    made.run(**given)
    made.desk.publish()
    live = made.desk.values()
    found = over_lake(made, given, tmp_path)
    assert found == live
    assert {key for key, _ in live} == {*ASKED, "tier", "size", "picked"}
    # The order of a result decides nothing.
    turned = {key: {name: values[::-1] for name, values in told.items()} for key, told in given.items()}
    assert over_lake(made, turned, tmp_path) == live


def test_rows_come_along_with_who_was_merged(made: World, tmp_path: Path) -> None:
    made.define("orders", "orders", kind="entity")
    made.define("spenders", "entity('orders').count() >= 2")
    made.feed({"type": "track", "event": "x", "anonymousId": "b", "messageId": "b"})
    given = {"orders": {"anonymous_id": ["a1", "b"], "total": [1, 2]}}
    made.run(**given)
    made.feed({"type": "identify", "userId": "u1", "anonymousId": "b", "messageId": "b1"})
    made.desk.publish()
    assert len(over_lake(made, given, tmp_path)) == 1
    assert over_lake(made, given, tmp_path) == made.desk.values()


@pytest.mark.parametrize(
    ("kind", "told", "says"),
    [
        ("entity", {"user_id": ["u"] * (ENTITY_ROWS_MAX + 1), "x": [1] * (ENTITY_ROWS_MAX + 1)}, "1,001 rows"),
        ("sql_trait", {"user_id": ["u", "u"], "x": [1, 2]}, "2 rows have one"),
        ("entity", {"user_id": ["u", None], "x": [1, 2]}, "1 rows have no user_id"),
        ("entity", {"user_id": [""], "x": [1]}, "empty user_id"),
        ("entity", {"user_id": ["u"], "x": ["y" * 20_000]}, "at most 16,384"),
        ("entity", {"user_id": ["u"], "x": [[1]]}, "column x is of type list"),
    ],
)  # fmt: skip
def test_a_result_that_breaks_the_contract_is_refused_whole(
    made: World, tmp_path: Path, kind: str, told: dict[str, list[Any]], says: str
) -> None:
    made.define("asked", "asked", kind=kind)
    made.desk.publish()
    with pytest.raises(Invalid, match=says):
        over_lake(made, {"asked": told}, tmp_path)


def test_a_result_is_looked_at_before_anything_is_computed(tmp_path: Path) -> None:
    of = Definition("asked", "entity", "SELECT")
    with pytest.raises(Invalid, match="exactly one column of ids"):
        read([of], {"asked": {"x": [1]}}, tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(Unavailable, match="reading the result of a query"):
        Result.read(of, tmp_path / "broken.parquet")


def test_long_rows_are_divided_as_many_are(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.define("orders", "orders", kind="entity")
    made.desk.publish()
    of = Definition("orders", "entity", "orders", id_type="user_id")
    ids = [f"u{n % 6}" for n in range(600)]
    texts = {"short": ["x"] * 600, "long": [f"{n:04d}" * 1_000 for n in range(600)]}
    monkeypatch.setattr(reading, "SLICE_EVENTS", 200)
    parts: dict[str, set[int]] = {}

    class Counting(EmbeddedEngine):
        """Tells into how many parts people are brought."""

        def spread(self, name: str, *told: Any) -> Mapping[int, bytes]:
            if name == "answer":
                parts.setdefault(text, set()).add(told[3])
            return super().spread(name, *told)

    for text, values in texts.items():  # noqa: B007 - Counting reads it
        kept = read([of], {"orders": {"external_id": ids, "text": values}}, tmp_path)
        asked = Asked((), 0, queried=Queried((of,)))
        job, _ = compute(Counting(tmp_path / "engine"), made.desk.lake, WORKSPACE, asked, results=kept)
        job.finish()
    assert parts["short"] == {3}
    assert min(parts["long"]) > 30


def test_other_rows_are_another_job_and_the_key_is_in_none(made: World, tmp_path: Path) -> None:
    made.define("orders", "orders", kind="entity")
    made.desk.publish()
    of = Definition("orders", "entity", "orders", id_type="user_id")
    ids = []
    for totals in ([1, 2], [2, 1], [1, 3]):
        given = {"orders": {"external_id": ["u1", "u1"], "total": totals}}
        asked = Asked((), 0, queried=Queried((of,)))
        engine = EmbeddedEngine(tmp_path / "engine")
        kept = read([of], given, tmp_path)
        assert KEY.hex() not in repr(kept)
        assert repr(KEY) not in repr(kept)
        job, _ = compute(engine, made.desk.lake, WORKSPACE, asked, results=kept)
        ids.append(job.id)
        job.finish()
    assert ids[0] == ids[1] != ids[2]
