"""Events go from task to task without what nobody asks for, and are whole again where they are folded."""

import pyarrow as pa

from profilelake.audiences.reading import FOLDED, Wanted, event_schema
from profilelake.traits.happened import COLUMNS

WANTED = Wanted(
    since={"Order Completed": 0, "Screen Viewed": 0, "Page Viewed": 0},
    texts_since={"properties": {"Order Completed": 0}, "context": {}},
    columns=frozenset({"set_id", "type", "event", "timestamp"}),
    until=None,
    received_until=None,
)
TIME = pa.timestamp("us", "UTC")


def called(*numbers: int) -> pa.Table:
    rows = len(numbers)
    columns = [
        pa.array(numbers, pa.int32()),
        pa.array([bytes([row]) * 16 for row in range(rows)], pa.binary(16)),
        pa.array(range(rows), pa.int64()).cast(TIME),
        pa.array(['{"a":1}'] * rows),
    ]
    return pa.table(columns, schema=WANTED.numbered_schema())


def test_only_what_is_asked_for_travels() -> None:
    assert WANTED.numbered_schema().names == ["called", "set_id", "timestamp", "properties"]


def test_calls_and_events_of_the_same_name_are_told_apart() -> None:
    restored = WANTED.restored(called(0, 2, 3, 4, 5))
    events = ["Order Completed", "Screen Viewed", "Screen Viewed", "Page Viewed", "Page Viewed"]
    assert restored.column("event").to_pylist() == events
    assert restored.column("type").to_pylist() == ["track", "track", "screen", "track", "page"]


def test_what_nobody_asked_for_is_null_and_everything_has_its_place() -> None:
    restored = WANTED.restored(called(0, 5))
    assert tuple(restored.column_names) == FOLDED
    assert set(FOLDED) == set(COLUMNS)
    assert restored.cast(event_schema()).column("properties").to_pylist() == ['{"a":1}'] * 2
    for name in ("name", "source_id", "position", "context"):
        assert restored.column(name).null_count == 2


def test_where_nothing_is_wanted_nothing_is_restored() -> None:
    nothing = Wanted({}, {"properties": {}, "context": {}}, WANTED.columns, None, None)
    assert nothing.restored(nothing.numbered_schema().empty_table()).num_rows == 0
