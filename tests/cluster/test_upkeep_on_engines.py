"""Upkeep on Spark does what it does here: the same tables afterwards, row by row."""

from pathlib import Path

from lake_examples import open_lake
from pipeline_driver import KEY, WORKSPACE, tight_rules
from profilelake.engines.engine import Engine
from profilelake.identity.tables import IDENTIFIER_SETS
from profilelake.lake.compaction import Policy
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.register import TABLES
from profilelake.plans import compaction
from profilelake.plans.removal import Keys, remove
from profilelake.plans.repair import repair
from profilelake.profiles.tables import TRAIT_WRITES
from upkeep_lakes import digests, filled, rows_of, shop


def test_compaction_and_merge_change_no_row(tmp_path: Path, spark_engine: Engine) -> None:
    lake = open_lake(tmp_path)
    held, people = filled(lake, 6, 30)
    before = digests(lake, "w")
    policy = Policy(file_bytes=6_000, step_bytes=20_000)
    assert compaction.compact(spark_engine, lake.storage, [held], policy=policy) > 0
    assert compaction.merge(spark_engine, lake.storage, [people]) == 1
    assert held.groups(None, policy) == []
    after = digests(lake, "w")
    assert all(after[name] == before[name] for name in ("visits", "members"))
    lake.close()


def test_a_lake_is_repaired_and_a_person_removed(tmp_path: Path, spark_engine: Engine) -> None:
    desk = shop(tmp_path)
    lake = desk.lake
    before = digests(lake)
    events = lake.table(WORKSPACE, EVENTS)
    events.add_files(events.files_elsewhere().write(events.scan()), "again")
    for definition in (IDENTIFIER_SETS, TRAIT_WRITES):
        table = lake.table(WORKSPACE, definition)
        table.rewrite([f.location for f in table.files()], definition.schema().empty_table(), same_rows=False)
    done = repair(spark_engine, lake.storage, lake, WORKSPACE, key=KEY, rules=tight_rules())
    assert done.repeated == before["events"][0]
    assert digests(lake) == before
    gone = {row["set_id"] for row in rows_of(lake, "events") if row["user_id"] == "user-1"}
    remove(spark_engine, lake.storage, lake, WORKSPACE, TABLES, Keys.of(sets=sorted(gone)))
    left = rows_of(lake, "events")
    assert len(left) == before["events"][0] - 4
    assert not gone & {row["set_id"] for row in left}
    desk.close()
