"""A rebuild on an engine: the same lake and state as ever, whatever it is cut into and wherever it was cut short."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.table.snapshots import Operation

from pipeline_arrivals import UNTRUSTED
from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder
from pipeline_history import batches, history
from profilelake.audiences.tables import AUDIENCE_MEMBERS, COMPUTED_TRAITS
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.errors import Conflict, Unavailable
from profilelake.identity.tables import IDENTIFIER_SETS
from profilelake.lake.commit import Change
from profilelake.lake.files import local_path
from profilelake.lake.reading import attach
from profilelake.lake.table import LakeTable
from profilelake.landing import dedup_parts
from profilelake.landing.dedup import DedupIndex, Verdict, message_key
from profilelake.landing.land import dedup_entries
from profilelake.landing.tables import EVENTS
from profilelake.pipeline import fold_announced
from profilelake.plans import rebuild, shapes
from profilelake.plans.rebuild import Cutting
from profilelake.plans.sizes import Sizes
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, PROFILES, TRAIT_WRITES
from profilelake.shapes.observed import ShapeLimits
from profilelake.shapes.tables import SCHEMA
from profilelake.state import recent

CURRENT = ("set_map", "identifiers", "identity_map", "identity_refusals", "profiles", "schema")
FINE = Cutting(
    Sizes(share_bytes=8_000, part_bytes=8_000, part_members=64, sets_per_part=32, ids_per_part=40), None, 4
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, untrusted=UNTRUSTED)
    log = LogBuilder("00000000000000aa")
    for number, batch in enumerate(batches(1, [message for _, message in history(7, 48)])):
        made.apply([log.record(START + number * SECOND, batch)])
    made.publish()
    yield made
    made.close()


def left_over(desk: Desk) -> list[Path]:
    return [path for path in (desk.directory / "lake" / "_jobs").rglob("*") if path.is_file()]


def test_parts_of_any_size_leave_what_there_was(desk: Desk) -> None:
    before = desk.lake_tables(*CURRENT), desk.state_tables()
    report: list[str] = []
    result = desk.rebuild_by_plan(FINE, report.append)
    assert (desk.lake_tables(*CURRENT), desk.state_tables()) == before
    assert desk.verify() == []
    assert left_over(desk) == []
    assert result["events"] == sum(desk.applied().totals.values())
    assert result["profiles"] == len(before[0]["profiles"])
    assert set(result["seconds"]) == {line.partition(":")[0] for line in report} - {"found"}
    log = LogBuilder("00000000000000bb")
    desk.apply(
        [log.record(START + 900 * SECOND, [{"type": "identify", "userId": "new", "messageId": "new"}])]
    )
    assert desk.verify() == []


def test_an_empty_lake_is_rebuilt(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.rebuild_by_plan()["profiles"] == 0
    assert desk.verify() == []
    desk.close()


def test_what_was_finished_is_not_done_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    spread = EmbeddedEngine.spread

    def failing(self: EmbeddedEngine, name: str, *arguments: Any) -> dict[int, bytes]:
        if name == "profiles" and ran.count(name) == 0:
            ran.append(name)
            raise Unavailable("the cluster has lost its machines")
        ran.append(name)
        return spread(self, name, *arguments)

    monkeypatch.setattr(EmbeddedEngine, "spread", failing)
    with pytest.raises(Unavailable):
        desk.rebuild_by_plan(FINE)
    first = list(ran)
    desk.check_epoch()
    desk.rebuild_by_plan(FINE)
    assert ran[len(first) :] == ["profiles", "shapes", "ids"]
    assert desk.verify() == []
    assert left_over(desk) == []


def test_a_rebuild_of_other_facts_begins_anew_and_gives_the_old_one_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("profilelake.plans.rebuild.next_progress", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.rebuild_by_plan(FINE)
    assert left_over(desk)
    log = LogBuilder("00000000000000bb")
    desk.apply(
        [log.record(START + 900 * SECOND, [{"type": "identify", "userId": "new", "messageId": "new"}])]
    )
    desk.publish()
    desk.rebuild_by_plan(FINE)
    assert left_over(desk) == []
    assert desk.verify() == []


def test_files_that_a_sweep_took_are_made_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("profilelake.plans.rebuild.put_in_place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.rebuild_by_plan(FINE)
    table = desk.lake.current_table(WORKSPACE, PROFILES).base
    named = {local_path(file.location) for file in table.files()}
    waiting = set(local_path(table.location()).rglob("*.parquet")) - named
    assert waiting
    waiting.pop().unlink()
    desk.rebuild_by_plan(FINE)
    assert desk.verify() == []
    assert left_over(desk) == []


def test_facts_of_which_a_part_is_missing_are_refused(desk: Desk) -> None:
    table = desk.lake.table(WORKSPACE, IDENTIFIER_SETS)
    lost = table.files()[0]
    table.commit(
        lambda: Change(Operation.DELETE, removed=frozenset([lost.location]), summary=table.carried())
    )
    with pytest.raises(Conflict, match="identifier sets of events"):
        desk.rebuild_by_plan(FINE)


def test_what_an_older_program_did_not_write_is_taken_from_events(desk: Desk) -> None:
    wanted = desk.lake_tables("account_links", "consent_writes")
    assert wanted["account_links"]
    for definition in (ACCOUNT_LINKS, CONSENT_WRITES):
        table = desk.lake.table(WORKSPACE, definition)
        gone = frozenset(file.location for file in table.files())
        if gone:
            table.commit(
                lambda table=table, gone=gone: Change(Operation.DELETE, removed=gone, summary=table.carried())  # type: ignore[misc]
            )
    assert desk.lake_tables("account_links")["account_links"] == []
    desk.rebuild_by_plan(FINE)
    assert desk.lake_tables("account_links", "consent_writes") == wanted
    assert desk.verify() == []
    progress = desk.lake.table(WORKSPACE, EVENTS).progress()
    assert progress == desk.lake.table(WORKSPACE, ACCOUNT_LINKS).progress()


def cut_short_while_committing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("profilelake.plans.putting.load_state", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.rebuild_by_plan(FINE)
    assert left_over(desk)


def test_facts_that_came_while_it_was_cut_short_are_not_passed_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short_while_committing(desk, monkeypatch)
    # As a repair does, which brings no progress.
    table = desk.lake.table(WORKSPACE, TRAIT_WRITES)
    row = table.scan().slice(0, 1).to_pylist()[0] | {"trait": "repaired"}
    files = table.files_elsewhere().write(pa.Table.from_pylist([row], TRAIT_WRITES.schema()))
    assert table.add_files(files, "repair")
    desk.rebuild_by_plan(FINE)
    assert any("repaired" in str(row) for row in desk.lake_tables("profiles")["profiles"])
    assert desk.verify() == []
    assert left_over(desk) == []


def test_what_was_cut_short_under_another_policy_is_not_taken_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short_while_committing(desk, monkeypatch)
    desk.setup = replace(desk.setup, consent_policy="latest")
    report: list[str] = []
    desk.rebuild_by_plan(FINE, report.append)
    assert not [line for line in report if "done before" in line]
    assert desk.verify() == []
    assert left_over(desk) == []


def test_after_the_clock_was_set_back_it_is_begun_anew_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Current tables have come to a new epoch, and no table of facts has.
    with monkeypatch.context() as patch:
        patch.setattr(LakeTable, "append_with", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.rebuild_by_plan(FINE)
    desk.now -= 1_000 * SECOND
    desk.rebuild()
    assert desk.verify() == []


@pytest.mark.parametrize("step", ["resolve", "found", "commit", "state"])
def test_who_lost_the_job_commits_nothing_more(desk: Desk, step: str) -> None:
    def taken_over(told: str) -> None:
        if told.startswith(f"{step}:"):
            for claim in local_path(f"{desk.lake.storage.root}/_jobs").glob("*/claim"):
                claim.unlink()

    def standing() -> dict[str, str]:
        return {name: at for (_, name), at in desk.lake.pointers().items()}

    before = standing()
    with pytest.raises(Conflict, match="commits nothing more"):
        desk.rebuild_by_plan(FINE, taken_over)
    # Before the commits no table has moved; after them the state is the old one.
    assert (standing() == before) == (step in ("resolve", "found"))
    desk.rebuild_by_plan(FINE)
    assert desk.verify() == []
    assert left_over(desk) == []


# ---- what all events are read for --------------------------------------------------------------


def known_events(desk: Desk) -> tuple[list[tuple[Any, ...]], int, set[int], set[int]]:
    """Return recent events, how many ids the index has, and its verdicts on events as they came and on repeats."""
    names = ("key", "position", "message_id", "properties")
    with desk.state.read(WORKSPACE) as tx:
        runs = recent.load(tx, WORKSPACE)
        index = DedupIndex.load(tx, WORKSPACE, desk.setup.dedup_directory, keep_files=True)
    tables = [recent.read_keys(desk.setup.recent_directory, run, names) for run in runs]
    rows = sorted(
        row for table in tables for row in zip(*(table[name].to_pylist() for name in names), strict=True)
    )
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        events = connection.table("events").select(", ".join(dedup_parts.COLUMNS)).to_arrow_table()
    positions = events.column("position").cast(pa.binary(32))
    events = events.set_column(events.schema.get_field_index("position"), "position", positions)
    entries = dedup_entries(index.key(KEY), events)
    own = index.judge(entries).verdicts.tolist()
    entries["received_at"] += 1
    return rows, index.rows(), set(own), set(index.judge(entries).verdicts.tolist())


def test_tasks_leave_the_ids_and_recent_events_that_a_rebuild_in_memory_does(desk: Desk) -> None:
    desk.rebuild()
    wanted = known_events(desk)
    applied = desk.applied()
    assert wanted[0]
    assert wanted[2] <= {Verdict.ACCEPTED, Verdict.EARLIER_COPY}
    assert wanted[3] == {Verdict.DUPLICATE}
    desk.rebuild_by_plan(FINE)
    assert known_events(desk) == wanted
    assert desk.applied().position == applied.position
    desk.rebuild_by_plan()
    assert known_events(desk) == wanted


@pytest.mark.parametrize("tasks", [3, 6])
def test_as_many_tasks_as_there_are_lose_no_id(desk: Desk, tasks: int) -> None:
    desk.rebuild()
    wanted = known_events(desk)
    desk.rebuild_by_plan(engine=EmbeddedEngine(desk.directory / "engine", tasks))
    assert known_events(desk) == wanted


@pytest.mark.parametrize(
    "limits",
    [ShapeLimits(shapes_max=3), ShapeLimits(shapes_per_part_max=2), ShapeLimits(events_max=3), ShapeLimits()],
)
def test_shapes_are_those_of_one_process_at_every_limit(
    desk: Desk, limits: ShapeLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "UNITS_PER_PART", 0.125)  # so that there are several parts
    alone: list[ShapeLimits | None] = []
    in_order = rebuild.whole_schema
    monkeypatch.setattr(
        rebuild, "whole_schema", lambda *arguments: alone.append(arguments[-1]) or in_order(*arguments)
    )
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        wanted = in_order(connection, KEY, limits)
    desk.rebuild_by_plan(Cutting(Sizes(share_bytes=20_000), None, 1, limits))
    assert desk.lake.current_table(WORKSPACE, SCHEMA).scan().sort_by("schema_id").equals(wanted)
    assert alone == ([] if limits == ShapeLimits() else [limits])


def test_tasks_are_not_given_the_key_of_identifiers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    spread, each = EmbeddedEngine.spread, EmbeddedEngine.each

    def spreading(self: EmbeddedEngine, name: str, units: Any, cut: Any, *rest: Any) -> dict[int, bytes]:
        sent.append(pickle.dumps((units, cut, rest)))
        return spread(self, name, units, cut, *rest)

    def doing(self: EmbeddedEngine, name: str, units: Any, work: Any) -> list[bytes]:
        sent.append(pickle.dumps((units, work)))
        return each(self, name, units, work)

    monkeypatch.setattr(EmbeddedEngine, "spread", spreading)
    monkeypatch.setattr(EmbeddedEngine, "each", doing)
    desk.rebuild_by_plan(FINE)
    assert any(message_key(KEY) in one for one in sent)
    assert not any(KEY in one for one in sent)


def test_a_job_of_an_older_format_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "FORMAT", rebuild.FORMAT - 1)
        patch.setattr(rebuild, "put_in_place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.rebuild_by_plan(FINE)
    assert left_over(desk)
    report: list[str] = []
    desk.rebuild_by_plan(FINE, report.append)
    assert not [line for line in report if "done before" in line]
    assert desk.verify() == []
    assert left_over(desk) == []


def test_a_driver_that_dies_between_these_steps_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Job.step
    report: list[str] = []

    def dying(self: Job, name: str, run: Any) -> dict[int, bytes]:
        found = step(self, name, run)
        if name == "ids":
            raise Unavailable("the driver has died")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", dying)
        with pytest.raises(Unavailable):
            desk.rebuild_by_plan(FINE)
    desk.rebuild_by_plan(FINE, report.append)
    assert {"shapes: done before", "reach: done before", "ids: done before"} < set(report)
    assert "recent: done before" not in report
    assert known_events(desk)[3] == {Verdict.DUPLICATE}
    assert desk.verify() == []
    assert left_over(desk) == []


def test_values_of_definitions_are_those_of_a_rebuild_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_announced, "_ROWS", 2)
    desk, log = Desk(tmp_path), LogBuilder("00000000000000aa")
    ordered = "event('Order').count()"
    audiences = [log.define(START, key, f"{ordered} >= 1") for key in ("a", "a-b", "b")]
    day = "event('Order').within(1 day).count()"
    traits = [log.define(START, "n", ordered, kind="trait"), log.define(START, "m", day, kind="trait")]
    desk.apply([*audiences, *traits])
    desk.tick(START)
    orders = [
        {"type": "track", "event": "Order", "userId": f"u{number}", "messageId": f"m{number}"}
        for number in range(7)
    ]
    desk.apply([log.record(START + SECOND, orders)])
    desk.tick(START + 2 * 24 * 3600 * SECOND)
    desk.publish()
    desk.rebuild()
    names = (AUDIENCE_MEMBERS.name, COMPUTED_TRAITS.name)
    wanted = desk.lake_tables(*names), desk.values(), desk.statuses()
    assert [len(wanted[0][name]) for name in names] == [21, 7], "what came down to 0 is no value"
    desk.rebuild_by_plan(FINE)
    assert (desk.lake_tables(*names), desk.values(), desk.statuses()) == wanted
    desk.settle(START + 3 * 24 * 3600 * SECOND)
    assert desk.changes() == []
    assert desk.verify() == []
    desk.close()
