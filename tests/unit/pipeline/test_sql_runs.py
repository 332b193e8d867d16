"""SQL traits, audiences and entities through the pipeline: run, diffed, announced, asked about by others."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_driver import WORKSPACE
from profilelake.audiences.facts import Drop, Resync
from profilelake.errors import Invalid, Unavailable
from profilelake.pipeline.sql_runs import runs
from sql_worlds import World


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with closing(world.desk):
        world.feed(*({"type": "identify", "userId": f"u{n}", "messageId": f"m{n}"} for n in range(4)))
        yield world


def test_a_trait_is_announced_where_it_changes_and_goes_with_its_row(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait", every_seconds=3600)
    run = made.run(tiers={"user_id": ["u1", "u2", "nobody"], "tier": ["gold", "tin", "tin"]})["tier"]
    assert (run.rows, run.unknown, run.changed, run.failure) == (3, 1, 2, "")
    assert made.values("tier") == ['"gold"', '"tin"']
    assert made.run(tiers={"user_id": ["u1"], "tier": ["never asked"]}) == {}
    made.later(3600)
    run = made.run(tiers={"user_id": ["u2", "u3"], "tier": ["tin", "gold"]})["tier"]
    assert run.changed == 2
    assert set(made.told()[2:]) == {("tier", '"gold"', None), ("tier", None, '"gold"')}
    assert made.desk.statuses() == {"tier": "live"}
    made.desk.publish()
    assert made.desk.verify() == []


def test_other_definitions_see_what_sql_says(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait")
    made.define("golden", "trait('tier') = 'gold'")
    made.run(tiers={"user_id": ["u1", "u2"], "tier": ["gold", "tin"]})
    assert len(made.desk.members("golden")) == 1
    made.define("picked", "picks", kind="sql_audience")
    made.define("both", "trait('picked') = true AND trait('golden') = true")
    made.run(picks={"user_id": ["u1", "u2"]})
    assert made.desk.members("both") == made.desk.members("golden")
    assert len(made.desk.members("picked")) == 2


def test_rows_of_an_entity_are_asked_about_and_change_with_each_run(made: World) -> None:
    made.define("orders", "orders", kind="entity", every_seconds=60)
    made.define("spenders", "entity('orders').where(property('total') > 500).count() >= 2")
    made.run(orders={"user_id": ["u1", "u1", "u2"], "total": [600, 700, 900]})
    assert len(made.desk.members("spenders")) == 1
    before = made.desk.members("spenders")
    made.later(60)
    made.run(orders={"user_id": ["u1", "u2", "u2"], "total": [600, 900, 901]})
    assert len(made.desk.members("spenders")) == 1
    assert made.desk.members("spenders") != before
    made.later(60)
    made.run(orders={"user_id": ["u1"], "total": [600]})
    assert made.desk.members("spenders") == set()


def test_rows_of_an_entity_stay_with_who_they_were_found_for_when_profiles_merge(made: World) -> None:
    made.feed(*({"type": "track", "event": "x", "anonymousId": id, "messageId": id} for id in "ab"))
    made.define("orders", "orders", kind="entity")
    made.define("spenders", "entity('orders').where(property('total') > 500).count() >= 2")
    made.run(orders={"anonymous_id": ["a", "b"], "total": [600, 700]})
    assert made.desk.members("spenders") == set()
    made.feed(
        *({"type": "identify", "userId": "u9", "anonymousId": id, "messageId": f"{id}9"} for id in "ab")
    )
    assert len(made.desk.members("spenders")) == 1


def test_a_run_that_fails_leaves_what_was_known_and_says_why(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait", every_seconds=86_400)
    made.run(tiers={"user_id": ["u1"], "tier": ["gold"]})
    made.later(86_400)
    run = made.run(tiers={"user_id": ["u1", "u1"], "tier": ["gold", "tin"]})["tier"]
    assert "repeat a user_id" in run.failure
    assert (run.again, made.values("tier"), made.desk.statuses()) == (False, ['"gold"'], {"tier": "live"})
    with made.desk.state.read(WORKSPACE) as tx:
        assert runs(tx, WORKSPACE)["tier"] == run
    made.later(86_400)
    assert made.run(tiers=Unavailable("not now"))["tier"].again
    assert made.run() == {}
    made.later(300)
    assert made.run(tiers={"user_id": ["u1"], "tier": ["tin"]})["tier"].changed == 1


def test_a_result_that_cannot_be_read_ends_a_run_and_no_process(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait")
    made.runner.ask = lambda _query, path, _stopped: path.write_bytes(b"PAR1 and no more PAR1")
    (run,) = made.run().values()
    assert ("reading the result" in run.failure, run.again) == (True, True)


def test_a_definition_that_never_ran_well_has_failed(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait")
    made.run(tiers=Invalid("no such table"))
    assert made.desk.statuses() == {"tier": "failed"}
    made.define("tier", "better", kind="sql_trait")
    made.run(better={"user_id": ["u1"], "tier": ["gold"]})
    assert (made.desk.statuses(), made.values("tier")) == ({"tier": "live"}, ['"gold"'])


def test_somebody_may_ask_for_a_run_now(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait", every_seconds=86_400)
    made.run(tiers={"user_id": ["u1"], "tier": ["gold"]})
    made.runner.requests.mkdir()
    (made.runner.requests / "tier").touch()
    assert made.run(tiers={"user_id": ["u1"], "tier": ["tin"]})["tier"].changed == 1
    assert made.run() == {}


def test_what_is_dropped_or_disabled_has_no_values_and_does_not_run(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait")
    made.run(tiers={"user_id": ["u1"], "tier": ["gold"]})
    made.define("tier", "tiers", kind="sql_trait", enabled=False)
    assert (made.values("tier"), made.run()) == ([], {})
    made.define("tier", "tiers", kind="sql_trait")
    assert made.run()["tier"].changed == 1
    made.desk.apply([made.log.definition(made._next(), Drop(by="test", key="tier"))])
    made.desk.settle(made._next())
    assert made.values("tier") == []


def test_what_sql_said_is_told_once_more_where_somebody_asks(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait", every_seconds=86_400)
    made.run(tiers={"user_id": ["u1"], "tier": ["gold"]})
    made.desk.apply([made.log.definition(made._next(), Resync(by="test", key="tier"))])
    made.desk.settle(made._next())
    assert made.told() == [("tier", None, '"gold"'), ("tier", '"gold"', '"gold"')]
    assert made.desk.changes()[-1].cause == "resync"


def test_what_did_not_run_yet_is_not_live_for_being_told_once_more(made: World) -> None:
    made.define("tier", "tiers", kind="sql_trait")
    made.desk.apply([made.log.definition(made._next(), Resync(by="test", key="tier"))])
    made.desk.settle(made._next())
    assert made.desk.statuses() == {"tier": "computing"}


@pytest.mark.parametrize("kind", ["sql_trait", "entity"])
def test_what_is_dropped_while_its_query_runs_gives_nothing(made: World, kind: str) -> None:
    made.define("tier", "tiers", kind=kind)
    held = next(iter(made.runner.due()))
    made.desk.apply([made.log.definition(made._next(), Drop(by="test", key="tier"))])
    made.desk.settle(made._next())
    made.results["tiers"] = pa.table({"user_id": ["u1"], "tier": ["gold"]})
    assert "changed meanwhile" in made.runner.run_one(held).failure
    made.desk.settle(made._next())
    assert made.told() == []
    assert made.entity_rows() == 0


def test_who_asks_for_rows_waits_for_them(made: World) -> None:
    made.define("orders", "orders", kind="entity", every_seconds=86_400)
    made.define("idle", "entity('orders').where(property('total') > 500).count() = 0")
    assert made.desk.statuses() == {"orders": "computing", "idle": "backfilling"}
    made.run(orders=Unavailable("asking: not up yet"))
    assert (made.desk.statuses()["orders"], made.told()) == ("failed", [])
    made.later(300)
    made.run(orders={"user_id": ["u1"], "total": [600]})
    assert made.desk.statuses() == {"orders": "live", "idle": "live"}
    assert made.told() == [("idle", None, "true")] * 3


def test_a_rebuild_lets_nobody_go_for_rows_that_are_still_to_come(made: World) -> None:
    made.define("orders", "orders", kind="entity")
    made.define("spenders", "entity('orders').where(property('total') > 500).count() >= 1")
    made.run(orders={"user_id": ["u1"], "total": [600]})
    before = made.desk.members("spenders")
    made.desk.rebuild()
    made.desk.settle(made._next())
    assert made.desk.members("spenders") == before
    made.runner.state = made.desk.state
    made.run(orders={"user_id": ["u1"], "total": [600]})
    assert made.desk.members("spenders") == before
    assert made.told() == []
    assert made.desk.statuses() == {"orders": "live", "spenders": "live"}


def test_rows_of_an_entity_go_with_its_definition(made: World) -> None:
    made.define("orders", "orders", kind="entity")
    made.run(orders={"user_id": ["u1", "u1", "u2"], "total": [600, 700, 900]})
    assert made.entity_rows() == 2
    made.desk.apply([made.log.definition(made._next(), Drop(by="test", key="orders"))])
    made.desk.settle(made._next())
    made.runner.forget()
    assert made.entity_rows() == 0
