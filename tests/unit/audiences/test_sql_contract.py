"""What the result of a SQL trait, audience or entity has to be."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from profilelake.audiences.sql_contract import COLUMNS_MAX, ENTITY_ROWS_MAX, SqlValues, checked
from profilelake.errors import Invalid
from profilelake.semantics.definitions import Definition, Kind


def definition(kind: Kind = "sql_trait", **told: Any) -> Definition:
    return Definition("tier", kind, "SELECT", **told)


def test_one_column_is_the_value_and_several_are_an_object() -> None:
    one = checked(pa.table({"user_id": ["u2", "u1"], "tier": ["gold", "tin"]}), definition())
    assert one == SqlValues("user_id", ["u1", "u2"], ['"tin"', '"gold"'])
    two = checked(pa.table({"a": [1], "user_id": [7], "b": [Decimal("1.50")]}), definition())
    assert two == SqlValues("user_id", ["7"], ['{"a":1,"b":1.5}'])


def test_values_become_json() -> None:
    at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    told = '"2026-01-02 03:00:00.000000Z"'
    for value, text in (
        (True, "true"),
        (1.5, "1.5"),
        (at, told),
        (at.replace(tzinfo=None), told),
        ("", '""'),
    ):
        assert checked(pa.table({"email": ["e"], "x": [value]}), definition()).values == [text]
    # What is no value is a row that is not there.
    for nothing in (None, float("nan"), float("inf")):
        result = pa.table({"email": ["e", "f"], "x": pa.array([nothing, 1.0], pa.float64())})
        assert checked(result, definition()).ids == ["f"]


def test_an_audience_is_its_ids() -> None:
    members = checked(pa.table({"anonymous_id": ["b", "a"]}), definition("sql_audience"))
    assert members == SqlValues("anonymous_id", ["a", "b"], ["true", "true"])


def test_an_entity_has_rows_whose_order_in_the_result_does_not_matter() -> None:
    told: dict[str, list[Any]] = {"user_id": ["u1", "u2", "u1"], "order": [2, 3, 1]}
    rows = checked(pa.table(told), definition("entity"))
    assert rows == SqlValues("user_id", ["u1", "u2"], ['[{"order":1},{"order":2}]', '[{"order":3}]'])
    turned = checked(pa.table({name: values[::-1] for name, values in told.items()}), definition("entity"))
    assert turned == rows


@pytest.mark.parametrize(
    ("columns", "kind", "told", "said"),
    [
        ({"tier": ["gold"]}, "sql_trait", {}, "exactly one column of ids"),
        ({"user_id": ["u"], "anonymous_id": ["a"], "x": [1]}, "sql_trait", {}, "exactly one column of ids"),
        ({"email": ["e"], "x": [1]}, "sql_trait", {"id_type": "user_id"}, "column of ids: user_id"),
        ({"user_id": ["u"]}, "sql_trait", {}, "needs a column besides"),
        ({"user_id": ["u"]}, "entity", {}, "needs a column besides"),
        ({"user_id": ["u", "u"], "x": [1, 2]}, "sql_trait", {}, "1 rows repeat a user_id"),
        ({"user_id": ["u", None], "x": [1, 2]}, "sql_trait", {}, "1 rows have no user_id"),
        ({"user_id": [""], "x": [1]}, "sql_trait", {}, "empty user_id"),
        ({"user_id": [1.5], "x": [1]}, "sql_trait", {}, "cast it to text"),
        ({"user_id": ["u"], "x": [[1]]}, "sql_trait", {}, "column x is of type list"),
        ({"user_id": ["u"], "x": [b"1"]}, "sql_trait", {}, "column x is of type binary"),
        ({"user_id": ["u"], "x": [timedelta(1)]}, "sql_trait", {}, "column x is of type duration"),
        ({"user_id": ["u"], "x": pa.array([2**62], pa.timestamp("us"))}, "sql_trait", {}, "no calendar has"),
        ({"user_id": ["u"], "x": ["y" * 20_000]}, "sql_trait", {}, "at most 16,384"),
        ({"user_id": ["u"], "x": [1]}, "sql_audience", {}, "leave x out"),
        ({"user_id": ["u"]}, "sql_audience", {"target": "accounts"}, "about accounts"),
        ({"group_id": ["g"]}, "sql_audience", {}, "about users"),
        (
            {"user_id": ["u"], **{f"c{n}": [n] for n in range(COLUMNS_MAX)}},
            "sql_trait",
            {},
            "26 columns; give at most 25",
        ),
        (
            {"user_id": ["u"] * (ENTITY_ROWS_MAX + 1), "x": list(range(ENTITY_ROWS_MAX + 1))},
            "entity",
            {},
            "1,001 rows are linked with one user_id",
        ),
    ],
)
def test_a_result_that_breaks_the_contract_is_refused_whole(
    columns: dict[str, list[Any]], kind: Kind, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        checked(pa.table(columns), definition(kind, **told))
