"""Reductions of many subjects: exact sums, and ties."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.errors import Internal
from profilelake.semantics.conditions.tree import Events, Property, Reduce
from profilelake.semantics.conditions.values import NANO
from profilelake.state.computed import ENTRIES, NUMBERS, VALUES
from profilelake.traits.columns import never
from profilelake.traits.joined import Counting, Owned
from profilelake.traits.reduced import divided, of_numbers, of_values

SUBJECTS = 3
NO_ENTRIES = Owned(np.zeros(0, dtype=ENTRIES), np.zeros(0, dtype=np.int64))


def counting(rows: np.ndarray, owners: list[int]) -> Counting:
    never_ = never(SUBJECTS)
    return Counting(Owned(rows, np.array(owners, dtype=np.int64)), NO_ENTRIES, never_, never_)


@given(
    st.integers(-(2**62), 2**62),
    st.integers(0, 10**13),
    st.one_of(st.just(1), st.integers(1, 10**7), st.integers(1, 2**40)),
    st.sampled_from((1, 10**7, NANO)),
)
def test_a_sum_is_divided_once_to_the_nearest_float(whole: int, nano: int, share: int, unit: int) -> None:
    nano -= nano % unit
    exact = Fraction(whole * NANO + nano, NANO * share)
    (found,) = divided(np.array([whole]), np.array([nano]), np.array([share]))
    assert found == float(exact)


def test_a_sum_beyond_the_range_has_no_value_though_integers_wrap_around() -> None:
    rows = np.zeros(8, dtype=NUMBERS)
    rows["numbers"] = 1
    rows["whole"] = [2**62, 2**62, 2**62, 2**62, 2**62, 1, -(2**62), -(2**62)]
    # The first sum is 2^64: as a 64 bit integer it would be 0.
    found = of_numbers(reduction("sum"), counting(rows, [0, 0, 0, 0, 1, 1, 2, 2]), SUBJECTS)
    assert found.valid.tolist() == [False, False, False]


def test_a_sum_at_the_end_of_the_range_has_a_value() -> None:
    rows = np.zeros(2, dtype=NUMBERS)
    rows["numbers"] = 1
    rows["whole"] = [2**62, -(2**62)]
    found = of_numbers(reduction("sum"), counting(rows, [0, 1]), SUBJECTS)
    assert found.valid.tolist() == [True, True, False]
    assert found.values.tolist()[:2] == [2.0**62, -(2.0**62)]


def test_ties_go_to_the_least_text_and_then_to_the_least_json() -> None:
    texts = {bytes(15) + bytes([number]): text for number, text in enumerate(['"b"', '"1"', "1", '"a"'])}
    rows = np.zeros(6, dtype=VALUES)
    rows["low"] = [0, 3, 1, 2, 0, 1]
    rows["count"] = [1, 1, 1, 1, 2, 1]
    found = of_values(reduction("mode"), counting(rows, [0, 0, 1, 1, 2, 2]), texts, SUBJECTS)
    # A quote comes before a digit.
    assert found.json().to_pylist() == ['"a"', '"1"', '"b"']


def test_a_value_that_nothing_spells_out_is_a_fault_of_ours() -> None:
    rows = np.zeros(1, dtype=VALUES)
    rows["count"] = 1
    with pytest.raises(Internal, match="nothing spells out"):
        of_values(reduction("unique"), counting(rows, [0]), {}, SUBJECTS)


def reduction(how: str) -> Reduce:
    return Reduce(Events("Order"), how, Property(("total",)))  # type: ignore[arg-type]
