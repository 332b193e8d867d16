"""Shapes as they are counted and shown: known ones by number, new ones in words, and what is too much."""

import pyarrow as pa
import pytest

from profilelake.semantics.shapes import DEPTH_MAX, UNLISTED
from profilelake.shapes.observed import NEW_MAX, ShapeLimits, Shapes
from profilelake.shapes.tables import SCHEMA
from shape_examples import canonical, events, listing


def track(name: str | None, properties: object, at: int = 1) -> dict[str, object]:
    return {"at": at, "type": "track", "event": name, "properties": canonical(properties)}


def test_a_row_says_what_was_seen_and_how_a_warehouse_calls_it() -> None:
    shapes = Shapes(1)
    shapes.observe(
        events([track("Bought", {"orderId": "o-17", "items": [1]}, 5), track("Bought", {"orderId": "x"}, 9)])
    )
    rows = {row["path"]: row for row in shapes.rows().to_pylist()}
    order = rows["orderId"]
    assert shapes.rows().schema == SCHEMA.schema()
    assert (order["type"], order["event"], order["part"], order["json_type"]) == (
        "track", "Bought", "properties", "string",
    )  # fmt: skip
    assert (order["events"], order["example"], order["column_name"]) == (2, "a-99", "order_id")
    assert (order["first_seen_at"].microsecond, order["last_seen_at"].microsecond) == (5, 9)
    assert order["slot"] == int(order["schema_id"][:4], 16)
    assert rows["items"]["json_type"] == "array"


def test_null_has_no_shape_and_an_item_of_a_list_has_no_path() -> None:
    shapes = Shapes(1)
    shapes.observe(events([track("A", {"a": None, "b": [{"c": 1}], "名": 1})]))
    found = {(row["path"], row["column_name"]) for row in shapes.rows().to_pylist()}
    assert found == {("b", "b"), ("名", None)}


def test_whole_numbers_are_those_of_64_bits() -> None:
    shapes = Shapes(1)
    values = [0, -1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**25, 1.0, 1e5]
    shapes.observe(events([track("A", {f"v{place}": value for place, value in enumerate(values)})]))
    found = {row["path"]: row["json_type"] for row in shapes.rows().to_pylist()}
    assert [found[f"v{place}"] for place in range(len(values))] == ["integer"] * 4 + ["number"] * 5


def test_only_what_changed_is_shown_again() -> None:
    shapes = Shapes(1)
    assert shapes.changed() == (0, 0)
    shapes.observe(events([track("A", {"a": 1, "b": 1})]))
    assert shapes.changed() == (2, 0)
    shapes.mark_shown()
    assert shapes.changed() == (0, 0)
    shapes.observe(events([track("A", {"a": 1, "c": 1})]))
    assert shapes.changed() == (1, 1)
    changes = shapes.changes(7)
    assert {row["path"]: row["events"] for row in changes.to_pylist()} == {"a": 2, "c": 1}
    assert set(changes.column("seq").to_pylist()) == {7}


def test_ten_thousand_keys_are_all_listed_however_they_come() -> None:
    wide, narrow = Shapes(1), Shapes(2)
    keys = {f"key {number}": number for number in range(10_000)}
    wide.observe(events([track("A", keys)]))
    narrow.observe(events([track("A", {key: value}) for key, value in keys.items()]))
    assert len(keys) > NEW_MAX
    assert listing(wide.rows()) == listing(narrow.rows())
    assert wide.count == 10_000
    assert set(wide.rows().column("events").to_pylist()) == {1}
    assert wide.unlisted_events == 0


def test_more_paths_than_are_listed_are_counted_in_one_row() -> None:
    shapes = Shapes(1, ShapeLimits(shapes_per_part_max=3))
    shapes.observe(events([track("A", {f"k{n}": 1 for n in range(10)}), track("A", {"k0": 1, "k9": "x"})]))
    shapes.observe(events([track("B", {"k9": 1})]))
    found = {
        (row["event"], row["path"], row["json_type"]): row["events"] for row in shapes.rows().to_pylist()
    }
    assert found == {
        ("A", "k0", "integer"): 2,
        ("A", "k1", "integer"): 1,
        ("A", "k2", "integer"): 1,
        ("A", UNLISTED, "integer"): 1,
        ("A", UNLISTED, "string"): 1,
        ("B", "k9", "integer"): 1,
    }
    assert shapes.unlisted_events == 2


def test_more_names_than_are_listed_are_counted_under_one() -> None:
    shapes = Shapes(1, ShapeLimits(events_max=2, event_bytes_max=10))
    names = ["A", "B", "C", "A" * 11, "D", "A"]
    shapes.observe(events([track(name, {"k": 1}) for name in names]))
    shapes.observe(events([{"at": 1, "type": "page", "properties": '{"k":1}'}]))
    found = {(row["type"], row["event"], row["path"]): row["events"] for row in shapes.rows().to_pylist()}
    assert found == {
        ("track", "A", "k"): 2,
        ("track", "B", "k"): 1,
        ("track", UNLISTED, "k"): 3,
        ("page", None, "k"): 1,
    }


def test_what_lies_too_deep_is_counted_and_not_looked_into() -> None:
    shapes = Shapes(1)
    deep: object = {"last": 1}
    for _ in range(DEPTH_MAX):
        deep = {"in": deep, "beside": 1}
    shapes.observe(events([track("A", deep)]))
    depths = [row["path"].count(".") + 1 for row in shapes.rows().to_pylist() if row["path"] != UNLISTED]
    assert max(depths) == DEPTH_MAX
    assert [row["json_type"] for row in shapes.rows().to_pylist() if row["path"] == UNLISTED] == ["object"]
    assert sum(row["path"].endswith("beside") for row in shapes.rows().to_pylist()) == DEPTH_MAX


def test_a_key_that_looks_like_the_mark_of_the_unlisted_is_told_apart() -> None:
    shapes = Shapes(1, ShapeLimits(shapes_per_part_max=1))
    shapes.observe(events([track("A", {UNLISTED: 1, "b": 1})]))
    assert sorted(row["path"] for row in shapes.rows().to_pylist()) == ["\\…", "…"]
    loaded = Shapes(2, ShapeLimits(shapes_per_part_max=1))
    loaded.load(shapes.rows())
    loaded.observe(events([track("A", {UNLISTED: 1, "b": 1})]))
    assert loaded.count == 2


def test_a_table_of_a_program_with_higher_limits_is_taken_up_whole() -> None:
    shapes = Shapes(1)
    shapes.observe(events([track(f"E{n}", {"k": n}) for n in range(50)]))
    fewer = Shapes(2, ShapeLimits(shapes_max=10, events_max=3))
    fewer.load(shapes.rows())
    fewer.observe(events([track("E49", {"k": 1}), track("new", {"k": 1})]))
    assert fewer.count == 51
    assert {row["event"] for row in fewer.rows().to_pylist()} - {f"E{n}" for n in range(50)} == {UNLISTED}


@pytest.mark.parametrize("rows", [0, 1])
def test_columns_that_are_slices_of_others_are_read_in_their_place(rows: int) -> None:
    whole = events([track("A", {"a": 1}), track("B", {"b": "é"}), track("C", {"c": True})])
    shapes = Shapes(1)
    shapes.observe(whole.slice(1, rows))
    assert {(row["event"], row["path"]) for row in shapes.rows().to_pylist()} == {("B", "b")} or not rows
    shapes.observe(pa.concat_tables([whole.slice(2), whole.slice(0, 1)]))
    assert shapes.count == 2 + rows
