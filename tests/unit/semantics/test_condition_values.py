"""JSON values as conditions see them."""

import itertools

import pytest

from profilelake.semantics.conditions.values import (
    ExactSum,
    canonical,
    equal,
    found,
    instant,
    items,
    number,
    text,
)
from profilelake.semantics.definitions import Json
from profilelake.semantics.times import parse_time


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("a",), {"a": 1}, 1),
        (("a", "b"), {"a": {"b": [1, 2]}}, [1, 2]),
        (("a", "b"), {"a": {"b": None}}, None),
        (("a", "b"), {"a": "text"}, None),
        (("a", "b"), {"a": [{"b": 1}, {"c": 2}, 3, {"b": [4, [5]]}]}, [1, 4, [5]]),
        (("a", "b"), {"a": [{"b": None}, {"b": 1}]}, [1]),
        (("a", "b"), {"a": [{"b": None}, 7]}, None),
        (("a", "b"), {"a": []}, None),
        (("a", "b"), {"a": [{"b": []}]}, []),
        (("a", "b"), {"a": [[{"b": 1}], {"b": 2}]}, [1, 2]),
        (("a.b",), {"a.b": 1, "a": {"b": 2}}, 1),
        ((), [None], [None]),
    ],
)
def test_a_path_goes_on_in_every_element(path: tuple[str, ...], value: Json, expected: Json) -> None:
    assert found(path, value) == expected


@pytest.mark.parametrize(
    ("value", "numeric", "written"),
    [
        (1, 1.0, "1"),
        (1.0, 1.0, "1"),
        (-0.0, 0.0, "0"),
        (0.1, 0.1, "0.1"),
        (2**53 - 1, 2.0**53 - 1, "9007199254740991"),
        (2**53, 2.0**53, "9007199254740992.0"),
        (2**53 + 1, 2.0**53, "9007199254740992.0"),
        (1e16, 1e16, "1e+16"),
        (10**400, None, None),
        ("1e2", 100.0, "1e2"),
        ("-0.5E-1", -0.05, "-0.5E-1"),
        ("01", None, "01"),
        ("+1", None, "+1"),
        (".5", None, ".5"),
        ("1.", None, "1."),
        (" 1", None, " 1"),
        ("1\n", None, "1\n"),
        ("\u0661", None, "\u0661"),
        ("1e400", None, "1e400"),
        ("NaN", None, "NaN"),
        ("", None, ""),
        (True, None, "true"),
        (None, None, None),
        ([1], None, None),
        ({}, None, None),
    ],
)
def test_numbers_and_texts(value: Json, numeric: float | None, written: str | None) -> None:
    assert (number(value), text(value)) == (numeric, written)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (10, "10.0", True),
        ("10", "10.0", False),
        (10, 10.0, True),
        (True, "true", True),
        (True, 1, False),
        (1, "one", False),
        (None, None, False),
        (None, "None", False),
        ([1], [1], False),
        ("", "", True),
    ],
)
def test_equality(one: Json, other: Json, same: bool) -> None:
    assert equal(one, other) is equal(other, one) is same


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("2026-02-10", "2026-02-10T00:00:00Z"),
        ("2026-02-10T12:00:00.5Z", "2026-02-10T12:00:00.5Z"),
        ("2026-02-10T12:00+02:00", "2026-02-10T10:00:00Z"),
        ("2026-02-10T12:00-0130", "2026-02-10T13:30:00Z"),
        ("2026-02-10T12:00+02", "2026-02-10T10:00:00Z"),
        ("2026-02-10T12:00:00", None),
        ("2026-02-10 12:00:00Z", "2026-02-10T12:00:00Z"),
        ("2026-02-10  12:00:00Z", None),
        ("2026-02-30", None),
        ("2026-2-1", None),
        ("20260210", None),
        (" 2026-02-10", None),
        ("0000-01-01", None),
        (20260210, None),
        (None, None),
    ],
)
def test_moments_have_a_zone_or_are_dates(value: Json, meant: str | None) -> None:
    assert instant(value) == (None if meant is None else parse_time(meant))


def test_items_are_the_scalars() -> None:
    assert items([1, "a", None, True, [2], {"b": 3}]) == [1, "a", True]
    assert items("a") == ["a"]
    assert items(None) == items({}) == items([]) == []


def test_canonical_text() -> None:
    value: Json = {"é": [1.0, 1e2, 0.5, -0.0], "a": {"z": None, "y": True, "x": "\u2028/\n"}}
    assert canonical(value) == '{"a":{"x":"\u2028/\\n","y":true,"z":null},"é":[1,100,0.5,0]}'


def test_sums_are_exact_whatever_the_order() -> None:
    for order in itertools.permutations([0.1, 0.2, 0.3, 1e15, -1e15, 2.0**53, -(2.0**53)]):
        total = ExactSum()
        for value in order:
            total.add(value)
        assert total.total() == 0.6
        assert total.average() == 0.6 / 7


def test_sums_out_of_range_have_no_value() -> None:
    total = ExactSum()
    total.add(2.0**53 + 2)
    assert (total.numbers, total.total(), total.average()) == (0, None, None)
    for _ in range(512):
        total.add(2.0**53)
    assert total.total() == 2.0**62
    total.add(1.0)
    assert total.total() is None
    assert total.average() is None
