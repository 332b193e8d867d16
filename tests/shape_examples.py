"""Events as columns, and hostile JSON, for tests of shapes."""

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from hypothesis import strategies as st

from profilelake.semantics import json_text
from profilelake.semantics.shapes import PARTS
from profilelake.shapes.tables import TIME

Listing = set[tuple[str, str | None, str, str, str]]
HOSTILE: Final = (
    "",
    ".",
    "\\",
    "…",
    "\\…",
    "a.b",
    'a"b',
    "a\nb",
    "\x00",
    "é",
    "名前",
    "😀",
    "\ud800",
    "a" * 7,
    "a" * 8,
)
keys = st.sampled_from(HOSTILE) | st.text(max_size=12)
numbers = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**40, -0.0, 1e300])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20) | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
documents = st.dictionaries(keys, values, max_size=4)


def canonical(document: object) -> str:
    """Return a document as the lake holds it."""
    return json_text.dump(json_text.value(json.dumps(document)))


def events(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows with `at`, `type`, `event` and texts of parts as columns of events."""
    columns = {name: [row.get(name) for row in rows] for name in ("type", "event", *PARTS)}
    times = pa.array([row["at"] for row in rows], pa.int64()).cast(TIME)
    return pa.table({"received_at": times} | {n: pa.array(v, pa.string()) for n, v in columns.items()})


def listing(rows: pa.Table) -> Listing:
    """Return which shapes rows of the table tell of."""
    names = ("type", "event", "part", "path", "json_type")
    return set(zip(*(rows.column(name).to_pylist() for name in names), strict=True))
