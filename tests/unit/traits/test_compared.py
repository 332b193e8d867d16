"""Comparisons of columns are those of the reference, value by value."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from condition_worlds import moments, scalars, values
from profilelake.semantics.conditions.comparing import compares
from profilelake.semantics.conditions.tree import Comparison, Constant
from profilelake.semantics.conditions.values import canonical, is_number, normal
from profilelake.semantics.definitions import Json
from profilelake.traits.columns import Coded, Numbers, never
from profilelake.traits.compared import Side, compared

HOWS: tuple[Comparison, ...] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "exists", "absent",
    "starts_with", "ends_with", "contains", "omits", "one_of", "none_of",
)  # fmt: skip
SEVERAL = ("contains", "omits", "one_of", "none_of")


def coded(column: list[Json]) -> Coded:
    texts = [None if value is None else canonical(value) for value in column]
    return Coded.of(pa.array(texts, pa.string()))


def numeric(column: list[Json]) -> Numbers:
    valid = np.array([is_number(value) for value in column], dtype=np.bool_)
    known: list[Any] = [value if is_number(value) else 0 for value in column]
    return Numbers(np.array(known, dtype=np.float64), valid, never(len(column)))


def said(column: list[Json], *, as_numbers: bool) -> list[Json]:
    return [normal(value) if is_number(value) or not as_numbers else None for value in column]


@given(st.data(), st.sampled_from(HOWS), st.booleans(), moments())
def test_with_constants(data: st.DataObject, how: Comparison, as_numbers: bool, at: int) -> None:
    column = data.draw(st.lists(values(), min_size=1, max_size=8))
    most = 0 if how in ("exists", "absent") else 3 if how in SEVERAL else 1
    asked = data.draw(st.lists(scalars(), min_size=min(most, 1), max_size=most))
    side: Side = numeric(column) if as_numbers else coded(column)
    found = compared(how, side, [Constant(one) for one in asked], at, len(column))  # type: ignore[arg-type]
    right = [compares(how, value, asked, at) for value in said(column, as_numbers=as_numbers)]
    assert found.holds.tolist() == right


@given(st.data(), st.sampled_from(HOWS[:6] + HOWS[8:]), st.booleans(), st.booleans(), moments())
def test_with_other_columns(data: st.DataObject, how: Comparison, left: bool, right: bool, at: int) -> None:
    pairs = data.draw(st.lists(st.tuples(values(), values()), min_size=1, max_size=8))
    ours, theirs = ([pair[place] for pair in pairs] for place in (0, 1))
    sides: list[Side] = [
        numeric(column) if as_numbers else coded(column)
        for column, as_numbers in ((ours, left), (theirs, right))
    ]
    found = compared(how, sides[0], sides[1:], at, len(pairs))
    told = zip(said(ours, as_numbers=left), said(theirs, as_numbers=right), strict=True)
    assert found.holds.tolist() == [compares(how, one, [other], at) for one, other in told]
