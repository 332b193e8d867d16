"""Comparisons of arrays mean "any of these with any of those", however they are worked out, and no more is looked for."""

from random import Random
from typing import Final
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.semantics.conditions import comparing
from profilelake.semantics.conditions.comparing import CONTRARY, compares
from profilelake.semantics.conditions.evaluate import Here, Occurred, Subject, meets, of_element
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Comparison
from profilelake.semantics.conditions.values import canonical, is_number, items
from profilelake.semantics.definitions import Json
from profilelake.traits import beside
from profilelake.traits.columns import Coded, Numbers, never
from profilelake.traits.compared import Side, compared

AT: Final = 1_772_359_210_000_000
HOWS: Final[tuple[Comparison, ...]] = (
    "equals", "differs", "one_of", "none_of", "greater_than", "at_least", "less_than", "at_most",
    "contains", "omits", "starts_with", "ends_with", "before_date", "after_date",
)  # fmt: skip
SCALARS: Final[tuple[Json, ...]] = (
    0, -0.0, 1, 1.0, -1.5, 2**53, 2**53 + 1, "0", "-0", "1", "1.0", "1e0", "01", "9007199254740993", True, "true",
    False, "", "a", "ab", "b", "ba", "\x01", "\x01a", "a\x02", "é", "2026-02-02", "2026-02-02T00:00:00Z",
    "2026-02-03T10:00:00+02:00", "2026-02-02T10:00",
)  # fmt: skip
ELEMENTS: Final[tuple[Json, ...]] = (*SCALARS, None, {"a": 1}, ["a"], [], {}, {"b": 1})


def said(rng: Random, pool: tuple[Json, ...]) -> Json:
    size = rng.choice((None, None, 0, 1, 2, 3, 6))
    return rng.choice(pool) if size is None else [rng.choice(pool) for _ in range(size)]


def coded(column: list[Json]) -> Coded:
    return Coded.of(pa.array([None if one is None else canonical(one) for one in column], pa.string()))


@given(st.integers(0, 2**32), st.sampled_from(HOWS), st.sampled_from((2, 100)))
def test_arrays_hold_where_any_scalar_of_one_holds_with_any_of_the_other(
    seed: int, how: Comparison, most: int
) -> None:
    rng = Random(seed)
    one, other = ([rng.choice(ELEMENTS) for _ in range(rng.randrange(7))] for _ in range(2))
    positive = CONTRARY.get(how, how)
    looked_for = items(other)
    if how in comparing.TEXTS:
        looked_for = looked_for[:most]
    plain = any(compares(positive, left, [right], AT) for left in items(one) for right in looked_for)
    with mock.patch.object(comparing, "TEXTS_SOUGHT_MAX", most):
        assert compares(how, one, [other], AT) == (plain is (how == positive))


ASKED: Final = (
    "property('$').{how}(trait('t'))", "property(parent: 'p').{how}(property('$'))", "property('b').{how}(property('e'))",
    "trait('t').{how}(property(parent: 'p'))", "property('b').any(property('$').{how}(trait('t')))",
    "property('b').all(NOT property('$').{how}(context('e')))", "trait('t').within_last(3650 days)",
)  # fmt: skip


@given(
    st.integers(0, 2**32),
    st.sampled_from(("equals", "differs", "greater_than", "at_most", "contains", "omits")),
)
def test_elements_are_asked_together_as_one_by_one(seed: int, how: str) -> None:
    rng = Random(seed)
    parts = [part.format(how=how) for part in rng.sample(ASKED, rng.randint(1, 3))]
    inner = rng.choice((" AND ", " OR ", " AND NOT ")).join(parts)
    items_ = parse(f"event('E').where(property('e').any({inner})).count() > 0").value.of.where  # type: ignore[union-attr]
    event = Occurred("E", AT, properties={"e": said(rng, ELEMENTS)}, context={"e": said(rng, ELEMENTS)})
    parent = Occurred("P", AT, properties={"p": said(rng, ELEMENTS)})
    here = Here(Subject(traits={"t": said(rng, ELEMENTS)}), AT, event, parent)
    test = of_element(items_.of, here)
    for item in (*ELEMENTS, {"b": ["a", 1, "1.0"]}, {"b": "a"}):
        assert test(item) == meets(items_.of, here.among(item))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("seed", range(6))
def test_columns_of_arrays_compare_as_the_reference_does(how: Comparison, seed: int) -> None:
    rng = Random(seed)
    pool = tuple(rng.sample(ELEMENTS, 3 + 4 * seed))
    count = 400
    columns = [[said(rng, pool) for _ in range(count)] for _ in range(3 if seed % 2 else 2)]
    sides: list[Side] = [coded(column) for column in columns]
    if seed > 3:
        place = rng.randrange(len(columns))
        columns[place] = [one if is_number(one) else None for one in columns[place]]
        values = [0.0 if one is None else float(one) for one in columns[place]]  # type: ignore[arg-type]
        known = np.array([one is not None for one in columns[place]])
        sides[place] = Numbers(np.array(values), known, never(count))
    with (
        mock.patch.object(comparing, "TEXTS_SOUGHT_MAX", 2),
        mock.patch.object(beside, "SCALARS_AT_ONCE", 1 + seed * 7),
    ):
        found = compared(how, sides[0], sides[1:], AT, count).holds.tolist()
        asked = zip(*columns, strict=True)
        assert found == [compares(how, one, others, AT) for one, *others in asked]


def test_more_values_are_told_apart_than_are_told_at_once() -> None:
    """Each of 200 arrays shares something with its own on the other side and with that of the next."""
    ours: list[Json] = [[number, f"n{number}"] for number in range(200)]
    theirs: list[Json] = [[f"{number}", f"n{(number + 1) % 200}"] for number in range(200)]
    every = [(one, other) for one in range(200) for other in range(200)]
    left, right = coded([ours[one] for one, _ in every]), coded([theirs[other] for _, other in every])
    found = compared("equals", left, [right], AT, len(every)).holds.tolist()
    assert found == [one in (other, (other + 1) % 200) for one, other in every]
