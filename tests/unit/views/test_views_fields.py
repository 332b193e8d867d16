"""Which columns a document gets, and where the rest of it goes."""

import json
from collections.abc import Iterable

import duckdb
import pytest

from profilelake.views import warehouse
from profilelake.views.discover import Known, path_of
from profilelake.views.fields import (
    COLUMNS_MAX,
    NAME_BYTES_MAX,
    Field,
    choose,
    name_of,
    read,
    rest,
    show,
    type_of,
)
from profilelake.views.warehouse import table_names


def field(*path: str, kinds: Iterable[str] = ("string",), events: int = 1) -> Field:
    return Field(path, frozenset(kinds), events)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("plan", ("plan",)),
        ("address.street", ("address", "street")),
        (r"a\.b.c", ("a.b", "c")),
        (r"a\\.b", ("a\\", "b")),
        ("", ("",)),
        (r"\…", ("…",)),
        ("…", ()),
    ],
)
def test_paths_of_the_schema_table(text: str, keys: tuple[str, ...]) -> None:
    assert path_of(text) == keys


@pytest.mark.parametrize(
    ("kinds", "type"),
    [
        ({"integer"}, "BIGINT"),
        ({"integer", "number"}, "DOUBLE"),
        ({"number"}, "DOUBLE"),
        ({"boolean"}, "BOOLEAN"),
        ({"string"}, "VARCHAR"),
        ({"array"}, "VARCHAR"),
        ({"object", "string"}, "VARCHAR"),
        ({"boolean", "integer"}, "VARCHAR"),
    ],
)
def test_types(kinds: set[str], type: str) -> None:
    assert type_of(kinds) == type


def test_a_name_that_is_too_long_is_none() -> None:
    assert name_of(["n" * NAME_BYTES_MAX]) == "n" * NAME_BYTES_MAX
    assert name_of(["n" * NAME_BYTES_MAX], "context") == ""
    assert name_of(["../?"]) == ""


def test_the_most_frequent_values_have_columns() -> None:
    fields = [field(f"key_{number}", events=number) for number in range(10)]
    columns = choose("traits", fields, (), room=3)
    assert [column.name for column in columns.shown] == ["key_7", "key_8", "key_9"]
    assert columns.whole_keys() == ["key_7", "key_8", "key_9"]


def test_ten_thousand_keys_are_a_thousand_columns_and_the_rest() -> None:
    document = {f"key_{number}": number for number in range(10_000)}
    columns = choose("d", [field(key, kinds=["integer"], events=9) for key in document], ())
    assert len(columns.shown) == COLUMNS_MAX
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (d VARCHAR)")
        connection.execute("INSERT INTO t VALUES (?)", [json.dumps(document)])
        inner = ", ".join([*read(columns, "_d"), rest({"d": columns})])
        found = connection.sql(f"SELECT {', '.join(show(columns, '_d'))}, _rest FROM (SELECT {inner} FROM t)")  # noqa: S608
        names, (row,) = found.columns, found.fetchall()
    shown = dict(zip(names[:-1], row[:-1], strict=True))
    assert shown | json.loads(row[-1])["d"] == document
    assert not shown.keys() & json.loads(row[-1])["d"].keys()


def test_an_object_of_which_a_part_has_no_column_is_in_the_rest_whole() -> None:
    shown = [field("a", "x"), field("b", "x")]
    with duckdb.connect() as connection:
        connection.execute("""CREATE TABLE t AS SELECT '{"a":{"x":"1","y":null},"b":{"x":"2"},"c":3}' AS d""")

        def left(*more: Field) -> object:
            query = f"SELECT {rest({'d': choose('d', [*shown, *more], ['a_y'])})} FROM t"  # noqa: S608
            return json.loads(connection.sql(query).fetchall()[0][0])["d"]

        assert left() == {"c": 3}
        assert left(field("a", "y")) == {"a": {"x": "1", "y": None}, "c": 3}
        # What the table does not list may be in any object.
        assert left(Field((), frozenset({"string"}))) == {
            "a": {"x": "1", "y": None},
            "b": {"x": "2"},
            "c": 3,
        }


def test_the_schema_table_says_what_there_is() -> None:
    rows = [
        ("track", "Seen", "properties", "price", "integer", 5),
        ("track", "Seen", "properties", "price", "number", 2),
        ("track", "Other", "properties", "price", "string", 1),
        ("track", "Seen", "properties", "of", "object", 2),
        ("track", "Seen", "properties", r"of.a\.b", "boolean", 2),
        ("track", None, "context", "ip", "string", 3),
        ("identify", None, "traits", "plan", "string", 3),
    ]
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE SCHEMA t; CREATE TABLE t.schema"
            "(type VARCHAR, event VARCHAR, part VARCHAR, path VARCHAR, json_type VARCHAR, events BIGINT)"
        )
        connection.executemany("INSERT INTO t.schema VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE VIEW t.events AS SELECT 'track' AS type, unnest(['b', 'a', 'a']) AS event")
        known = Known(connection, "t", schema=True)
        assert known.tracked == {"a": 2, "b": 1}
        seen = {each.path: each for each in known.fields("track", "properties", ["Seen"])}
        assert seen[("price",)] == Field(("price",), frozenset({"integer", "number"}), 7)
        assert seen.keys() == {("price",), ("of", "a.b")}
        assert len(known.fields("track", "properties")) == 2
        assert [each.path for each in known.fields("track", "context", ["Seen"])] == [("ip",)]
        assert known.fields("page", "properties") == []


def test_tables_of_actions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warehouse, "EVENT_TABLES_MAX", 2)
    assert table_names(["Seen", "seen", "Bought", "Rare"]) == {
        "seen": ("Seen", "seen"),
        "bought": ("Bought",),
    }
    assert table_names(["?", "Tracks", "1st"]) == {"_tracks": ("Tracks",), "_1st": ("1st",)}
