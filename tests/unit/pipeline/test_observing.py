"""The table of shapes follows what is published: every event counts once, and what drifts is told apart."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.errors import Unavailable
from profilelake.lake.current import CurrentTable
from profilelake.lake.reading import attach
from profilelake.landing.tables import EVENTS
from profilelake.pipeline import observing
from profilelake.pipeline.observing import Observing, count_all, whole_schema
from profilelake.shapes.asking import schema_asked
from profilelake.shapes.listing import listed
from profilelake.shapes.observed import ShapeLimits, Shapes
from profilelake.shapes.tables import SCHEMA
from profilelake.state import recent

AGE = 300
"""The publish age of the desk, in seconds."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def send(desk: Desk) -> Callable[..., None]:
    log, places = LogBuilder("00000000000000aa"), iter(range(1_000_000))

    def sent(*properties: object, event: str = "Seen") -> None:
        at = START + next(places) * SECOND
        messages: list[Message] = [
            {"type": "track", "event": event, "userId": "u", "properties": each} for each in properties
        ]
        desk.apply([log.record(at, messages)])

    return sent


def shown(desk: Desk) -> dict[tuple[str, str], int]:
    """Return how many events have each path and type."""
    rows = desk.lake.current_table(WORKSPACE, SCHEMA).scan().to_pylist()
    return {(row["path"], row["json_type"]): row["events"] for row in rows}


def asked(desk: Desk, **filters: Any) -> list[tuple[str, str, list[str]]]:
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        question = schema_asked(**{"rows": 100_000, "now": desk.now} | filters)
        return [(shape.path, shape.json_type, list(shape.at_odds)) for shape in listed(connection, question)]


def test_drift_is_listed_whole_and_told_apart(desk: Desk, send: Callable[..., None]) -> None:
    send(*({f"property {number}": number} for number in range(500)))
    send({"price": 5}, {"price": 5.5}, {"price": "five"}, {"price": {}})
    send({"userName": 1}, {"username": 1}, {"user_name": 1}, {"count": 1}, {"count": 1.5})
    send({f"key {number}": True for number in range(1_500)}, event="Wide")
    desk.publish()
    counts = shown(desk)
    assert len(counts) == 500 + 4 + 3 + 2 + 1_500
    assert all(counts[f"property {number}", "integer"] == 1 for number in range(500))
    assert [path for path, _, _ in asked(desk, at_odds="types")] == ["price"] * 4
    assert asked(desk, at_odds="case") == [
        ("userName", "integer", ["case", "column"]),
        ("username", "integer", ["case"]),
    ]
    assert [path for path, _, _ in asked(desk, at_odds="column")] == ["userName", "user_name"]
    assert len(asked(desk, at_odds="any")) == 7
    assert len(asked(desk, event="Wide")) == 1_500
    desk.tend()
    assert shown(desk) == counts
    assert desk.verify() == []


def test_what_is_new_since_is_told_apart(desk: Desk, send: Callable[..., None]) -> None:
    send({"old": 1})
    for _ in range(100):
        send({"old": 1})
    send({"new": 1})
    desk.publish()
    desk.now = START + 101 * SECOND
    assert asked(desk, new_since="10s") == [("new", "integer", [])]
    assert asked(desk, new_since="2m") == [("new", "integer", []), ("old", "integer", [])]
    assert asked(desk, new_since="2026-03-01T10:01:50Z") == [("new", "integer", [])]


def test_pages_follow_each_other_without_a_gap(desk: Desk, send: Callable[..., None]) -> None:
    send({"a": 1, "b": {"c": 1}}, {"a": "x", "é": 1})
    desk.publish()
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        found, after = [], ""
        while page := listed(connection, schema_asked(after=after, rows=2, now=0)):
            found += page
            after = page[-1].place()
    assert [(shape.path, shape.json_type) for shape in found] == [
        ("a", "integer"),
        ("a", "string"),
        ("b", "object"),
        ("b.c", "integer"),
        ("é", "integer"),
    ]
    assert [path for path, _, _ in asked(desk, path="b")] == ["b", "b.c"]


def test_an_event_that_comes_again_counts_once(desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    message = {"type": "track", "event": "Seen", "userId": "u", "messageId": "m", "properties": {"a": 1}}
    desk.apply([log.record(START, [message])])
    desk.publish()
    desk.apply([log.record(START + SECOND, [message])])
    assert desk.verify() == []
    assert shown(desk) == {("a", "integer"): 1}


# ---- when the table is written -------------------------------------------------------------------


def test_new_shapes_are_shown_at_once_and_counts_in_their_time(desk: Desk, send: Callable[..., None]) -> None:
    publisher = desk.publisher
    send({"a": 1})
    publisher.publish(whole=False)
    assert shown(desk) == {("a", "integer"): 1}
    send({"a": 1})
    publisher.publish(whole=False)
    assert shown(desk) == {("a", "integer"): 1}, "only a count: it can wait"
    desk.now += SECOND * AGE // 2
    send({"a": 1}, {"b": 1})
    publisher.publish(whole=False)
    assert shown(desk) == {("a", "integer"): 3, ("b", "integer"): 1}
    send({"a": 1})
    publisher.publish(whole=False)
    desk.now += SECOND * (AGE - 1)
    publisher.publish(whole=False)
    assert shown(desk)["a", "integer"] == 3
    desk.now += SECOND
    assert publisher.publish(whole=False) is False, "nothing is new"
    assert shown(desk)["a", "integer"] == 4, "what has waited is shown all the same"


def test_whoever_asks_for_everything_sees_every_count(desk: Desk, send: Callable[..., None]) -> None:
    publisher = desk.publisher
    for _ in range(3):
        send({"a": 1})
        publisher.publish(whole=False)
    assert shown(desk) == {("a", "integer"): 1}
    publisher.publish(whole=True)
    assert shown(desk) == {("a", "integer"): 3}


def test_an_empty_lake_is_not_written_to(desk: Desk) -> None:
    assert desk.publish() is False
    assert desk.lake.current_table(WORKSPACE, SCHEMA).progress() is None
    desk.check_epoch()


def test_where_showing_takes_long_the_next_new_shapes_wait(
    desk: Desk, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count(0, 10)
    # Of this module alone: threads of others read the real clock, and would move this one.
    monkeypatch.setattr(observing, "time", SimpleNamespace(monotonic=lambda: next(times)))
    publisher = desk.publisher
    send({"a": 1})
    publisher.publish(whole=False)
    send({"b": 1})
    publisher.publish(whole=False)
    assert shown(desk).keys() == {("a", "integer")}
    desk.now += SECOND * int(10 / observing.SHARE)
    publisher.publish(whole=False)
    assert shown(desk).keys() == {("a", "integer"), ("b", "integer")}


# ---- faults and starts ---------------------------------------------------------------------------


def test_counts_that_were_not_shown_before_the_end_are_counted_again(
    desk: Desk, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "FAN_IN", 2)
    publisher = desk.publisher
    send({"a": 1})
    publisher.publish(whole=False)
    for _ in range(6):
        send({"a": 1})
        publisher.publish(whole=False)
        publisher.tend_runs()
    assert shown(desk) == {("a", "integer"): 1}
    desk.restart()
    send({"b": 1})
    desk.publish(whole=False)
    assert shown(desk) == {("a", "integer"): 7, ("b", "integer"): 1}
    assert desk.verify() == []


@pytest.mark.parametrize("written", [False, True])
def test_a_commit_whose_end_is_unknown_doubles_nothing(
    desk: Desk, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    append = CurrentTable.append_changes

    def fails(table: CurrentTable, *arguments: Any, **named: Any) -> bool:
        if table.definition is not SCHEMA:
            return append(table, *arguments, **named)
        if written:
            append(table, *arguments, **named)
        raise Unavailable("the answer was lost")

    publisher = desk.publisher
    send({"a": 1})
    publisher.publish(whole=True)
    send({"a": 1}, {"b": 1})
    with monkeypatch.context() as patch:
        patch.setattr(CurrentTable, "append_changes", fails)
        with pytest.raises(Unavailable):
            publisher.publish(whole=True)
    send({"a": 1})
    publisher.publish(whole=True)
    assert shown(desk) == {("a", "integer"): 3, ("b", "integer"): 1}
    assert desk.verify() == []


def test_a_rebuild_counts_all_events_again_and_goes_on(desk: Desk, send: Callable[..., None]) -> None:
    send({"a": 1}, {"a": "x"})
    desk.publish()
    before = shown(desk)
    desk.rebuild()
    assert shown(desk) == before
    send({"a": 1})
    assert desk.verify() == []
    assert shown(desk) == {("a", "integer"): 2, ("a", "string"): 1}


def test_a_lake_that_is_older_than_the_table_is_counted_whole(
    desk: Desk, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    send({"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Observing, "look", lambda *_: None)
        desk.publish()
    assert shown(desk) == {}
    send({"a": 1})
    desk.publish()
    assert shown(desk) == {("a", "integer"): 2}
    assert desk.verify() == []


def test_verify_finds_what_is_not_as_the_events_say(desk: Desk, send: Callable[..., None]) -> None:
    send({"a": 1})
    desk.publish()
    table = desk.lake.current_table(WORKSPACE, SCHEMA)
    progress = table.progress()
    assert progress is not None
    wrong = table.scan().drop_columns(["events"]).append_column(SCHEMA.schema().field("events"), [[2]])
    table.replace(wrong.select(SCHEMA.schema().names), progress)
    assert [line.partition(":")[0] for line in desk.verify()] == ["table schema"]


def test_beyond_a_limit_only_the_listing_is_short(desk: Desk, send: Callable[..., None]) -> None:
    observing = Observing(1, ShapeLimits(shapes_per_part_max=2))
    publisher = desk.publisher
    object.__setattr__(publisher, "observing", observing)
    send({"a": 1}, {"b": 1}, {"c": 1}, {"d": 1, "e": 1})
    publisher.publish(whole=True)
    assert shown(desk) == {("a", "integer"): 1, ("b", "integer"): 1, ("…", "integer"): 2}
    assert observing.listed == 3
    assert (observing.unlisted(), observing.unlisted()) == (2, 0)
    assert len(desk.lake_tables("events")["events"]) == 4
    assert desk.verify() == [], "which paths are listed depends on what came first"


def test_examples_are_those_of_the_first_event_however_rows_lie_in_files() -> None:
    events = pa.Table.from_pylist(
        [
            {
                "position": place.to_bytes(32, "big"),
                "received_at": START + place,
                "type": "track",
                "event": "Seen",
                "properties": f'{{"note": "{note}"}}',
            }
            for place, note in enumerate(("first 1", "second", "3rd"))
        ],
        schema=EVENTS.schema(),
    )
    found = []
    for rows in (events, events.take(pa.array([2, 1, 0]))):
        with duckdb.connect() as connection:
            connection.register("events", rows)
            found.append(whole_schema(connection, KEY))
    assert found[0].equals(found[1])


def test_events_of_a_lake_are_sorted_in_bounded_memory(
    desk: Desk, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    send({"note": "first"}, {"note": 2})
    desk.publish()
    bounds: list[tuple[str, str]] = []

    def counting(shapes: Shapes, connection: duckdb.DuckDBPyConnection) -> None:
        setting = "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        bounds.extend(connection.sql(setting).fetchall())
        count_all(shapes, connection)

    monkeypatch.setattr(observing, "SORT_MEMORY", "64MiB")
    monkeypatch.setattr(observing, "count_all", counting)
    progress = desk.lake.table(WORKSPACE, EVENTS).progress()
    assert progress is not None
    # In another epoch the table of shapes is at no point of this lake.
    again = Observing()
    again.look(desk.lake, WORKSPACE, replace(progress, epoch="another"), lambda *_: [])
    ((memory, directory),) = bounds
    assert memory == "64.0 MiB"
    assert not Path(directory).exists()
    assert Path(directory).name.startswith("profilelake-shapes-")
    assert again.listed == 2
