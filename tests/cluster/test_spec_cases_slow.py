"""Every case of the specification that a plan has a say in, on Spark: each table has the digest it has on this machine.

Cases about conditions are in `test_definitions_on_spark`. Cases about names of columns, about attacks on SQL and
about the warehouse's views ask for no plan; the calls of the latter are among those that are repaired here.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from cluster.spec_tables import IDENTITY, WORLDS, Read, differing
from event_cases import CASES as EVENT_CASES
from event_cases import record_of
from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder
from profile_cases import Case, by_pipeline, by_policy
from profilelake.engines import distributed
from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.identity.tables import IDENTIFIER_SETS, SET_SIGHTINGS
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.register import TABLES
from profilelake.plans.digests import Digest, digest, digest_tables
from profilelake.plans.rebuild import Cutting
from profilelake.plans.repair import Repaired, repair
from profilelake.plans.sizes import Sizes
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.rules import segment_defaults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WAREHOUSE = Path(__file__).parent.parent / "spec" / "warehouse" / "columns.yaml"
LOST = (IDENTIFIER_SETS, SET_SIGHTINGS, TRAIT_WRITES, ACCOUNT_LINKS, CONSENT_WRITES)
COARSE = Cutting(Sizes(), None, 2)
"""Few parts: a task of Spark costs more than all of these cases."""


@pytest.fixture
def engine(spark_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch) -> SparkEngine:
    """The engine, with several units and parts in a task, as in a lake with very many of them."""
    monkeypatch.setattr(distributed, "PARTITIONS_MAX", 8)
    return spark_engine


@pytest.mark.parametrize("cases", [IDENTITY, WORLDS], ids=["cases", "worlds"])
def test_identity(cases: Mapping[str, Read], engine: SparkEngine, tmp_path: Path) -> None:
    unequal, rows = differing(tmp_path, cases, engine)
    assert unequal == []
    everything = {"set_map", "identifiers", "identity_map", "identity_refusals", "profiles", "state"}
    assert all(rows[name] for name in everything), rows


@pytest.mark.parametrize("told", by_policy(), ids=lambda told: told[0].policy)
def test_accounts_consent_and_traits(told: list[Case], engine: SparkEngine, tmp_path: Path) -> None:
    here = EmbeddedEngine(tmp_path / "engine")

    def rebuilt(desk: Desk) -> None:
        desk.rebuild_by_plan(engine=here)
        wanted, state = all_digests(desk), desk.state_tables()
        desk.rebuild_by_plan(COARSE, engine=engine)
        assert all_digests(desk) == wanted
        assert desk.state_tables() == state
        assert desk.verify() == []

    in_order, backwards = by_pipeline(told, tmp_path, rebuilt)
    assert in_order == backwards == {case.name: case.expected for case in told}


def test_landed_calls_that_are_repaired(engine: SparkEngine, tmp_path: Path) -> None:
    found = {}
    for name, chosen in (("here", EmbeddedEngine(tmp_path / "engine")), ("there", engine)):
        desk = landed(tmp_path / name)
        whole = all_digests(desk)
        damage(desk)
        done = repaired(desk, chosen)
        assert done.repeated == whole["events"].rows + 5
        assert done.sets == whole["identifier_sets"].rows
        assert done.traits == whole["trait_writes"].rows
        assert repaired(desk, chosen) == Repaired()
        desk.rebuild_by_plan(COARSE, engine=chosen)
        assert desk.verify() == []
        found[name] = all_digests(desk)
        # Sightings are additions: cut elsewhere they are the same. Of equal statements the last says all.
        facts = {table.name for table in (EVENTS, *LOST)} - {SET_SIGHTINGS.name, CONSENT_WRITES.name}
        assert {table: found[name][table] for table in facts} == {table: whole[table] for table in facts}
        desk.close()
    assert found["there"] == found["here"]


def all_digests(desk: Desk) -> dict[str, Digest]:
    """Return the digest of every table there is."""
    here = EmbeddedEngine(desk.directory / "digests")
    found = {one.table: one.digest for one in digest_tables(here, desk.lake, WORKSPACE)}
    # Tables of Profiles Sync are in a namespace of their own.
    beside = [table for table in TABLES if table.part]
    return found | {table.name: digest([desk.lake.table(WORKSPACE, table).scan()]) for table in beside}


def landed(folder: Path) -> Desk:
    """Return a lake of all calls that cases of events and of the warehouse tell of, each record of a log of its own."""
    folder.mkdir()
    desk = Desk(folder, rules=segment_defaults())
    records = [
        record_of(case)._replace(region="local", workspace=WORKSPACE, log_id=f"{number:016x}")
        for number, case in enumerate(EVENT_CASES.values(), 1)
    ]
    for number, case in enumerate(yaml.safe_load(WAREHOUSE.read_text())["cases"], len(records) + 1):
        messages = [
            {**event, "messageId": f"w{number}-{place}"} for place, event in enumerate(case["events"])
        ]
        records.append(LogBuilder(f"{number:016x}").record(START + number * SECOND, messages))
    desk.apply(records)
    desk.publish()
    return desk


def damage(desk: Desk) -> None:
    """Let all events be there twice and some a third time, later; lose all that follows from events."""
    events = desk.lake.table(WORKSPACE, EVENTS)
    rows, writer = events.scan(), events.files_elsewhere()
    later = rows.slice(0, 5)
    moved = [value[:31] + bytes([value[31] + 100]) for value in later.column("position").to_pylist()]
    place = later.schema.get_field_index("position")
    later = later.set_column(place, later.schema.field(place), pa.array(moved, pa.binary(32)))
    for name, part in (("again", rows), ("later", later)):
        events.add_files(writer.write(part), name)
    for definition in LOST:
        table = desk.lake.table(WORKSPACE, definition)
        table.rewrite(
            [file.location for file in table.files()], definition.schema().empty_table(), same_rows=False
        )


def repaired(desk: Desk, engine: Engine) -> Repaired:
    """Repair the facts on an engine."""
    lake = desk.lake
    return repair(engine, lake.storage, lake, WORKSPACE, key=KEY, rules=segment_defaults())
