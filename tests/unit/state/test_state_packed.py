"""Columns of MessagePack have the bytes that the encoder writes value by value."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from profilelake.state import packed
from profilelake.state.records import TraitRecord, encode

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
EDGES = [
    edge + step
    for power in (5, 7, 8, 15, 16, 31, 32)
    for edge in (1 << power, -(1 << power))
    for step in (-1, 0, 1)
]
SIZES = [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536]


def told(column: pa.Array) -> list[bytes]:
    assert column.type == pa.large_binary()
    return column.to_pylist()


def written(values: list[Any]) -> list[bytes]:
    return [encode(value) for value in values]


@given(st.lists(INT64))
def test_numbers(values: list[int]) -> None:
    assert told(packed.integers(np.array(values, dtype=np.int64))) == written(values)


def test_numbers_at_the_edges_of_their_forms() -> None:
    assert told(packed.integers(np.array(EDGES))) == written(EDGES)


def test_texts_bytes_lists_and_maps_at_the_edges_of_their_forms() -> None:
    words = ["é" * (size // 2) + "x" * (size % 2) for size in SIZES]
    assert told(packed.texts(pa.array(words))) == written(words)
    assert told(packed.binaries(pa.array([b"x" * size for size in SIZES]))) == written(
        [b"x" * size for size in SIZES]
    )
    starts = np.append(0, np.cumsum(SIZES))
    numbers = np.arange(starts[-1])
    rows = [numbers[start:stop].tolist() for start, stop in itertools.pairwise(starts)]
    items = packed.integers(numbers)
    assert told(packed.lists(items, starts)) == written(rows)
    assert told(packed.maps(items, items, starts)) == written(
        [dict(zip(row, row, strict=True)) for row in rows]
    )


def test_fractions_and_long_records() -> None:
    values = [0.0, -1.5, 1e300, float("inf"), 3.0]
    column = packed.decimals(np.array(values))
    assert told(column) == written(values)
    assert len(set(told(packed.decimals(np.array([float("nan"), -float("nan")]))))) == 1
    for count in (1, 15, 16, 40):
        assert told(packed.record(*[column] * count)) == written([[value] * count for value in values])
    kept = np.array([True, False, True, True, False])
    assert told(packed.or_nil(column, kept))[1::3] == written([None, None])


def test_nothing_is_nil_and_no_rows_are_no_rows() -> None:
    assert told(packed.texts(pa.chunked_array([["a", None], [""]]))) == written(["a", None, ""])
    assert told(packed.binaries(pa.array([None, b"ab"], pa.binary(2)))) == written([None, b"ab"])
    assert told(packed.booleans(np.array([True, False]))) == written([True, False])
    assert told(packed.integers(np.empty(0, dtype=np.int64))) == []
    assert told(
        packed.lists(packed.texts(pa.array([], pa.string())), np.zeros(3, dtype=np.int64))
    ) == written([[], []])
    assert told(packed.lists(packed.texts(pa.array([], pa.string())), np.zeros(1, dtype=np.int64))) == []


@given(
    st.lists(st.lists(st.tuples(st.text(max_size=40), st.none() | st.text(max_size=300), INT64), max_size=20))
)
def test_records_in_maps(rows: list[list[tuple[str, str | None, int]]]) -> None:
    rows = [list({name: (name, value, at) for name, value, at in row}.values()) for row in rows]
    flat = [one for row in rows for one in row]
    names, values, times = ([one[place] for one in flat] for place in range(3))
    count = len(flat)
    records = packed.record(
        packed.texts(pa.array(values, pa.string())),
        packed.integers(np.array(times, dtype=np.int64)),
        packed.binaries(pa.array([b"p" * 32] * count, pa.binary(32))),
        packed.texts(pa.array(["web"] * count, pa.string())),
        packed.texts(pa.array(["m"] * count, pa.string())),
    )
    starts = np.append(0, np.cumsum([len(row) for row in rows], dtype=np.int64)).astype(np.int64)
    assert told(packed.maps(packed.texts(pa.array(names, pa.string())), records, starts)) == written(
        [{name: TraitRecord(value, at, b"p" * 32, "web", "m") for name, value, at in row} for row in rows]
    )
