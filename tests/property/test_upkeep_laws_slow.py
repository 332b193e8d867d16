"""Laws of upkeep on lakes of random shape: no row is lost, doubled or changed that should not be."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_examples import open_lake
from pipeline_driver import KEY, WORKSPACE, Desk, tight_rules
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.lake.compaction import Policy
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.register import TABLES
from profilelake.plans import compaction, dedup, facts_again
from profilelake.plans.removal import Keys, remove
from profilelake.plans.repair import Repaired, repair
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from upkeep_lakes import digests, engine_in, filled, rows_of, shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = settings(
    max_examples=12,
)
FACTS = (IDENTIFIER_SETS, SET_SIGHTINGS, TRAIT_WRITES, ACCOUNT_LINKS, CONSENT_WRITES)
seeds = st.integers(0, 1 << 30)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = shop(tmp_path_factory.mktemp("shop"), people=4, calls=6)
    yield made
    made.close()


@SETTINGS
@given(
    commits=st.integers(2, 6),
    rows=st.integers(1, 30),
    tasks=st.integers(1, 4),
    bytes=st.integers(2_000, 60_000),
)
def test_compaction_and_merge_change_no_row(
    tmp_path_factory: pytest.TempPathFactory, commits: int, rows: int, tasks: int, bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake = open_lake(folder)
    held, people = filled(lake, commits, rows)
    before = digests(lake, "w")
    policy = Policy(file_bytes=bytes, step_bytes=2 * bytes)
    compaction.compact(engine_in(folder, tasks), lake.storage, [held], policy=policy)
    compaction.merge(engine_in(folder, tasks), lake.storage, [people])
    after = digests(lake, "w")
    assert all(after[name] == before[name] for name in ("visits", "members"))
    lake.close()


@SETTINGS
@given(
    seed=seeds,
    lost=st.lists(st.tuples(st.sampled_from(FACTS), st.floats(0, 1)), max_size=4),
    values_lost=st.booleans(),
    doubled=st.floats(0, 1),
    moved=st.booleans(),
    tasks=st.integers(1, 3),
    part_rows=st.sampled_from([3, 20, 1_000_000]),
)
def test_a_repaired_lake_is_the_one_that_never_was_damaged(
    desk: Desk,
    seed: int,
    lost: list[tuple[TableDef, float]],
    values_lost: bool,
    doubled: float,
    moved: bool,
    tasks: int,
    part_rows: int,
) -> None:
    rng, lake = np.random.default_rng(seed), desk.lake
    before = digests(lake)
    for definition, share in lost:
        table = lake.table(WORKSPACE, definition)
        rows = table.scan()
        kept = rows.filter(pa.array(rng.random(rows.num_rows) >= share))
        table.rewrite([file.location for file in table.files()], kept, same_rows=False)
    if values_lost:
        values = lake.current_table(WORKSPACE, IDENTIFIERS)
        values.merge()
        values.cut_merged()
        rows = values.base.scan()
        kept = rows.filter(pa.array(rng.random(rows.num_rows) < 0.5))
        values.base.rewrite([file.location for file in values.base.files()], kept, same_rows=False)
    events = lake.table(WORKSPACE, EVENTS)
    again = events.scan()
    again = again.filter(pa.array(rng.random(again.num_rows) < doubled))
    if moved:
        places = [place[:31] + bytes([place[31] + 100]) for place in again.column("position").to_pylist()]
        again = again.set_column(0, again.schema.field(0), pa.array(places, pa.binary(32)))
    events.add_files(events.files_elsewhere().write(again), f"law-{events.last_file_sequence()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "PART_ROWS", part_rows)
        patch.setattr(facts_again, "PART_ROWS", part_rows)
        done = repair(
            engine_in(desk.directory, tasks), lake.storage, lake, WORKSPACE, key=KEY, rules=tight_rules()
        )
        assert done.repeated == again.num_rows
        assert (done.sets_unread, done.values_lost, done.lost, done.foreign) == (0, 0, 0, 0)
        told = repair(
            engine_in(desk.directory, tasks), lake.storage, lake, WORKSPACE, key=KEY, rules=tight_rules()
        )
    assert told == Repaired()
    after = digests(lake)
    # Sightings are additions: cut elsewhere they are the same. Of equal statements the last says all.
    same = {name for name in before if not name.endswith("_changes")} - {"set_sightings", "consent_writes"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert desk.verify() == []


@SETTINGS
@given(seed=seeds, count=st.integers(0, 3), tasks=st.integers(1, 3))
def test_removal_removes_exactly_the_keys(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, tasks: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("removal")
    made = shop(folder, people=3, calls=2)
    lake, rng = made.lake, np.random.default_rng(seed)
    events = rows_of(lake, "events")
    chosen = [events[place] for place in rng.permutation(len(events))[:count]]
    sets = {row["set_id"] for row in chosen}
    messages = {row["message_id"] for row in chosen[:1]}
    before = {definition.name: rows_of(lake, definition.name) for definition in TABLES if not definition.part}
    keys = Keys.of(sets=sorted(sets), messages=sorted(messages))
    remove(engine_in(folder, tasks), lake.storage, lake, WORKSPACE, TABLES, keys)
    of_sets, of_messages = {"set_id", "account_set_id"}, {"message_id", "first_message_id", "last_message_id"}
    for name, rows in before.items():
        left = [
            row
            for row in rows
            if not any(row.get(column) in sets for column in of_sets)
            and not any(row.get(column) in messages for column in of_messages)
        ]
        assert sorted(map(repr, rows_of(lake, name))) == sorted(map(repr, left)), name
    made.close()
