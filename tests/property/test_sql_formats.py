"""Rows as JSON are the same whether the engine writes them or Python does, value by value."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.query import formats

_TIME = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001
_TYPES = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": (pa.float64(), st.floats()),
    "s": (pa.string(), st.text(max_size=8)),
    "b": (pa.bool_(), st.booleans()),
    "d": (pa.decimal128(9, 3), st.decimals(-99999, 99999, places=3).map(Decimal)),
    "z": (pa.timestamp("us", "UTC"), _TIME.map(lambda at: at.replace(tzinfo=UTC))),
    "t": (pa.timestamp("us"), _TIME),
    "y": (pa.date32(), st.dates(date(1900, 1, 1), date(2200, 1, 1))),
}
_ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, values) in _TYPES.items()}), max_size=5
)


@settings(max_examples=60)
@given(_ROWS)
def test_both_ways_write_the_same(rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([(name, type) for name, (type, _) in _TYPES.items()])
    table = pa.Table.from_pylist(rows, schema)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        fast = connection.from_arrow(table)
        # A column of a type that the engine would show otherwise sends all of them through Python.
        slow = fast.project("*, [1] AS l")
        ours = [formats_of(relation, "ndjson") for relation in (fast, slow)]
        quick, plain = ([msgspec.json.decode(line) for line in body.splitlines()] for body in ours)
        assert [row | {"l": [1]} for row in quick] == plain
        assert msgspec.json.decode(formats_of(fast, "json")) == quick
        arrow = pa.ipc.open_stream(formats_of(fast, "arrow")).read_all()
        assert arrow.num_rows == len(rows)
        lines = formats_of(fast.project("i, b, y"), "csv").count(b"\n")
        assert lines == len(rows) + 1


def formats_of(relation: duckdb.DuckDBPyRelation, format: str) -> bytes:
    sink = io.BytesIO()
    formats.stream(relation, format, sink, lambda _rows: None)
    return sink.getvalue()
