"""A repaired lake is the lake that never was damaged."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, tight_rules
from profilelake.errors import Conflict
from profilelake.identity.facts import Retract
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS, FAILED_EVENTS
from profilelake.plans.repair import FOREIGN_LOG, Repaired, balance, repair
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from upkeep_lakes import digests, engine_in, rows_of, shop

FACTS = (IDENTIFIER_SETS, SET_SIGHTINGS, TRAIT_WRITES, ACCOUNT_LINKS, CONSENT_WRITES)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = shop(tmp_path)
    yield made
    made.close()


def repaired(desk: Desk, **more: bool) -> Repaired:
    lake = desk.lake
    return repair(
        engine_in(desk.directory), lake.storage, lake, WORKSPACE, key=KEY, rules=tight_rules(), **more
    )


def put_again(desk: Desk, definition: TableDef, rows: pa.Table) -> None:
    """Append rows as another engine does: with the progress that the table has."""
    table = desk.lake.table(WORKSPACE, definition)
    table.add_files(table.files_elsewhere().write(rows), f"test-{table.last_file_sequence()}")


def lose(desk: Desk, definition: TableDef, keep: pc.Expression | None = None) -> None:
    """Let rows of a table be gone, all of them or all but some."""
    table = desk.lake.table(WORKSPACE, definition)
    rows = table.scan().filter(keep) if keep is not None else definition.schema().empty_table()
    table.rewrite([file.location for file in table.files()], rows, same_rows=False)


def test_nothing_is_done_to_a_lake_that_is_whole(desk: Desk) -> None:
    before = desk.lake.load(WORKSPACE, "events").table.metadata_location
    assert repaired(desk) == Repaired()
    assert desk.lake.load(WORKSPACE, "events").table.metadata_location == before
    assert list((desk.directory / "lake" / "_jobs").rglob("*.*")) == []


def test_facts_that_are_gone_are_had_again_from_events(desk: Desk) -> None:
    before = digests(desk.lake)
    wanted = {definition.name: len(rows_of(desk.lake, definition.name)) for definition in FACTS}
    for definition in FACTS:
        lose(desk, definition)
    values = desk.lake.current_table(WORKSPACE, IDENTIFIERS)
    values.merge()
    values.cut_merged()
    identifiers = len(rows_of(desk.lake, "identifiers"))
    values.base.rewrite(
        [f.location for f in values.base.files()], IDENTIFIERS.schema().empty_table(), same_rows=False
    )
    told = repaired(desk, dry_run=True)
    assert told.sets == wanted["identifier_sets"]
    assert rows_of(desk.lake, "identifier_sets") == []
    done = repaired(desk)
    assert (done.sets, done.traits, done.links, done.values) == (
        wanted["identifier_sets"],
        wanted["trait_writes"],
        wanted["account_links"],
        identifiers,
    )
    assert (done.sets_unread, done.values_lost, done.sightings_beyond, done.rebuild) == (0, 0, 0, False)
    after = digests(desk.lake)
    differing = {name for name in before if before[name] != after[name] and not name.endswith("_changes")}
    # Sightings are additions: cut elsewhere they are the same. Of equal statements the last says all.
    assert differing <= {"set_sightings", "consent_writes"}
    assert repaired(desk) == Repaired()
    assert desk.verify() == []
    desk.rebuild()
    assert desk.verify() == []


def test_single_rows_that_are_gone_come_back_and_no_others(desk: Desk) -> None:
    before = {definition.name: sorted(map(repr, rows_of(desk.lake, definition.name))) for definition in FACTS}
    lose(desk, TRAIT_WRITES, pc.field("trait") != "calls")
    lose(desk, SET_SIGHTINGS, pc.field("first_source_id") != "shop")
    known = rows_of(desk.lake, "identifier_sets")
    lose(desk, IDENTIFIER_SETS, pc.field("set_id") != pa.scalar(known[0]["set_id"], pa.binary(16)))
    done = repaired(desk)
    assert done.sets == 1
    after = {definition.name: sorted(map(repr, rows_of(desk.lake, definition.name))) for definition in FACTS}
    assert {n: after[n] for n in after if n != "set_sightings"} == {
        n: before[n] for n in before if n != "set_sightings"
    }
    assert desk.verify() == []


def test_a_statement_without_some_of_its_categories_is_made_whole(tmp_path: Path) -> None:
    desk, log = Desk(tmp_path), LogBuilder("00000000000000aa")
    said = ({"Ads": True, "Maps": False, "": True}, {})
    for number, categories in enumerate(said):
        message = {"type": "track", "messageId": f"m{number}", "userId": f"u{number}", "event": "Seen"}
        context = {"consent": {"categoryPreferences": categories}}
        desk.apply([log.record(START + number, [{**message, "context": context}])])
    desk.publish()
    before = digests(desk.lake)["consent_writes"]
    lose(desk, CONSENT_WRITES, pc.is_in(pc.field("category"), pa.array(["Ads", None])))
    assert repaired(desk).consent == 2
    assert digests(desk.lake)["consent_writes"] == before
    assert repaired(desk) == Repaired()
    desk.close()


def test_a_value_is_had_again_from_the_copy_that_came_first(tmp_path: Path) -> None:
    desk, log, late = Desk(tmp_path), LogBuilder("00000000000000aa"), LogBuilder("00000000000000bb")
    message = {"type": "track", "messageId": "m1", "userId": "u1", "anonymousId": "a1", "event": "Seen"}
    desk.apply([log.record(START + SECOND, [message])])
    desk.apply([late.record(START, [message])])
    desk.publish()
    (copy,) = rows_of(desk.lake, "event_copies")
    values = desk.lake.current_table(WORKSPACE, IDENTIFIERS)
    values.merge()
    values.cut_merged()
    before = sorted(rows_of(desk.lake, "identifiers"), key=repr)
    assert {row["position"] for row in before} == {copy["position"]}
    one = pc.field("type") == "user_id"
    for lost in (one, pc.scalar(False)):
        kept = values.base.scan().filter(lost)
        values.base.rewrite([file.location for file in values.base.files()], kept, same_rows=False)
        lose(desk, IDENTIFIER_SETS)
        done = repaired(desk)
        assert (done.sets, done.values, done.sets_unread) == (1, 2 - kept.num_rows, 0)
        assert sorted(rows_of(desk.lake, "identifiers"), key=repr) == before
    assert repaired(desk) == Repaired()
    desk.close()


def test_a_value_is_had_again_from_the_first_event_that_is_evidence(tmp_path: Path) -> None:
    desk, log = Desk(tmp_path), LogBuilder("00000000000000aa")
    call = {"type": "track", "userId": "u1", "anonymousId": "a1", "event": "Seen"}
    for number in range(2):
        desk.apply([log.record(START + number, [{**call, "messageId": f"m{number}"}])])
    desk.publish()
    event = min(rows_of(desk.lake, "events"), key=lambda row: row["position"])
    place, of = event["position"].hex(), event["set_id"].hex()
    retract = Retract(by="test", message_id="m0", position=place, sets=[("users", of)])
    desk.apply([log.decision(START + SECOND, retract)])
    desk.publish()
    values = desk.lake.current_table(WORKSPACE, IDENTIFIERS)
    values.merge()
    values.cut_merged()
    before = sorted(rows_of(desk.lake, "identifiers"), key=repr)
    assert {row["first_message_id"] for row in before} == {"m1"}
    none = IDENTIFIERS.schema().empty_table()
    values.base.rewrite([file.location for file in values.base.files()], none, same_rows=False)
    assert repaired(desk).values == 2
    assert sorted(rows_of(desk.lake, "identifiers"), key=repr) == before
    desk.close()


def test_events_that_another_engine_put_there_again_leave(desk: Desk) -> None:
    before = digests(desk.lake)
    events = desk.lake.table(WORKSPACE, EVENTS)
    put_again(desk, EVENTS, events.scan())
    later = events.scan().slice(0, 5)
    moved = [value[:31] + bytes([value[31] + 100]) for value in later.column("position").to_pylist()]
    put_again(desk, EVENTS, later.set_column(0, later.schema.field(0), pa.array(moved, pa.binary(32))))
    put_again(desk, TRAIT_WRITES, desk.lake.table(WORKSPACE, TRAIT_WRITES).scan())
    with pytest.raises(AssertionError):
        assert desk.verify() == []
    told = repaired(desk, dry_run=True)
    assert told.repeated == 12 + 5
    assert not told.looked_at_facts
    done = repaired(desk)
    assert (done.repeated, done.conflicts, done.foreign, done.rebuild) == (17, 0, 0, False)
    assert done.hanging > 0
    assert digests(desk.lake) == before
    assert desk.verify() == []


def test_another_event_under_the_same_id_becomes_a_dead_letter_and_all_are_counted(desk: Desk) -> None:
    events = desk.lake.table(WORKSPACE, EVENTS)
    one = events.scan().slice(0, 1)
    place = one.column("position")[0].as_py()
    other = one.set_column(
        0, one.schema.field(0), pa.array([place[:31] + bytes([place[31] + 9])], pa.binary(32))
    )
    at = other.schema.get_field_index("event")
    put_again(desk, EVENTS, other.set_column(at, other.schema.field(at), pa.array(["Something else"])))
    done = repaired(desk)
    assert (done.repeated, done.conflicts, done.rebuild) == (0, 1, True)
    (letter,) = rows_of(desk.lake, "failed_events")
    assert letter["reason"] == "message_id_conflict"
    assert b"Something else" in letter["raw"]
    progress = events.progress()
    assert progress is not None
    assert progress.totals["failed"] == 1
    assert progress.vector[FOREIGN_LOG] == (0, 1)
    with pytest.raises(Conflict, match="rebuild"):
        desk.check_epoch()
    desk.rebuild()
    assert desk.verify() == []
    assert repaired(desk) == Repaired()


def test_events_of_another_lake_are_accepted_and_bring_their_facts(desk: Desk, tmp_path: Path) -> None:
    other = shop(tmp_path / "other", people=5, calls=5)
    rows = other.lake.table(WORKSPACE, EVENTS).scan()
    other.close()
    held = {row["message_id"] for row in rows_of(desk.lake, "events")}
    put_again(desk, EVENTS, rows)
    done = repaired(desk)
    assert done.foreign == rows.num_rows - len(held)
    assert done.repeated == len(held)
    assert done.sets > 0
    assert done.rebuild
    desk.rebuild()
    assert desk.verify() == []
    assert len(rows_of(desk.lake, "events")) == rows.num_rows


def test_what_no_event_tells_is_said(desk: Desk) -> None:
    events = desk.lake.table(WORKSPACE, EVENTS)
    gone = rows_of(desk.lake, "events")[0]
    lose(desk, IDENTIFIER_SETS)
    rows = events.scan()
    at = rows.schema.get_field_index("user_id")
    hers = pc.equal(rows.column("set_id"), pa.scalar(gone["set_id"], pa.binary(16)))
    changed = pc.if_else(hers, "somebody else", rows.column("user_id"))
    events.rewrite(
        [f.location for f in events.files()], rows.set_column(at, "user_id", changed), same_rows=False
    )
    done = repaired(desk)
    assert done.sets_unread == 1
    assert ("sets_unread", 1) in [(name, count) for name, count, _ in done.told()]


def test_a_repair_that_was_cut_short_is_finished(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(desk.lake)
    put_again(desk, EVENTS, desk.lake.table(WORKSPACE, EVENTS).scan())
    for definition in (IDENTIFIER_SETS, TRAIT_WRITES, ACCOUNT_LINKS):
        lose(desk, definition)
    places = [0]

    def dying(name: str) -> None:
        places[0] -= 1
        if places[0] == 0:
            raise KeyboardInterrupt(name)

    for module in ("profilelake.plans.repair.reach", "profilelake.engines.jobs.reach"):
        monkeypatch.setattr(module, dying)
    killed = 0
    for place in range(1, 30):
        places[0] = 3 * place
        try:
            done = repaired(desk)
        except KeyboardInterrupt:
            killed += 1
            continue
        if done == Repaired():
            break
    else:
        pytest.fail("it never came to its end")
    assert killed > 3
    after = digests(desk.lake)
    same = {name for name in before if not name.endswith("_changes") and name != "set_sightings"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert desk.verify() == []


@pytest.mark.parametrize(
    ("rows", "repeated", "conflicts", "totals", "foreign", "lost"),
    [
        (10, 0, 0, None, 0, 0),
        (12, 2, 0, None, 0, 0),
        (10, 2, 0, {"in_lake": 8, "duplicates": 2, "failed": 0}, 0, 0),
        (13, 2, 1, {"in_lake": 10, "duplicates": 0, "failed": 1}, 1, 0),
        (13, 0, 0, {"in_lake": 13, "duplicates": 0, "failed": 0}, 3, 0),
        (9, 0, 0, None, 0, 1),
        (9, 1, 1, {"in_lake": 8, "duplicates": 1, "failed": 1}, 0, 1),
    ],
)
def test_events_that_leave_are_counted_where_they_went(
    rows: int, repeated: int, conflicts: int, totals: dict[str, int] | None, foreign: int, lost: int
) -> None:
    held = Progress("e", 4, {"aa": (100, 10)}, {"in_lake": 10})
    found = balance(held, rows, repeated, conflicts)
    assert (found.foreign, found.lost) == (foreign, lost)
    if totals is None:
        assert found.progress is None
        return
    assert found.progress is not None
    assert found.progress.totals == totals
    accepted = sum(count for _, count in found.progress.vector.values())
    assert accepted == 10 + foreign == sum(totals.values())
    assert found.progress.totals["in_lake"] == rows + lost - repeated - conflicts
    assert replace(found.progress, sequence=4, vector=held.vector, totals=held.totals) == held


def test_dead_letters_that_are_there_twice_leave(desk: Desk) -> None:
    rows = desk.lake.table(WORKSPACE, EVENTS).scan().slice(0, 2)
    columns = {name: rows.column(name) for name in FAILED_EVENTS.schema().names if name in rows.column_names}
    columns |= {name: pa.array(["x", "x"]) for name in ("reason", "detail", "request", "batch")}
    columns["raw"] = pa.array([b"{}", b"{}"])
    letters = FAILED_EVENTS.shape(pa.table(columns))
    for _ in range(3):
        put_again(desk, FAILED_EVENTS, letters)
    done = repaired(desk)
    assert done.hanging == 4
    assert len(rows_of(desk.lake, "failed_events")) == 2


def test_what_was_read_under_other_rules_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(desk, IDENTIFIER_SETS)

    def dies(place: str) -> None:
        if place == "job.identified.done":
            raise KeyboardInterrupt

    said: list[str] = []
    few = replace(tight_rules(), types=tight_rules().types[:1])
    with monkeypatch.context() as dying:
        dying.setattr("profilelake.engines.jobs.reach", dies)
        with pytest.raises(KeyboardInterrupt):
            repair(engine_in(desk.directory), desk.lake.storage, desk.lake, WORKSPACE, key=KEY, rules=few)
    repair(
        engine_in(desk.directory), desk.lake.storage, desk.lake, WORKSPACE,
        key=KEY, rules=tight_rules(), report=said.append,
    )  # fmt: skip
    assert [line for line in said if line.startswith("named")]
    assert not [line for line in said if "done before" in line]
