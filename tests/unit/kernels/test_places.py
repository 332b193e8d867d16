"""Finding ids among distinct ones says what a dictionary says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from profilelake.kernels.places import NOWHERE, Places

# Few first words, so that ids fall on each other, and on the end of the table.
ids = st.tuples(st.sampled_from((0, 1, 2, 3, (1 << 64) - 1)), st.integers(0, 5))


def words(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint64).reshape(-1, 2)


@given(st.lists(ids, unique=True), st.lists(ids))
def test_every_id_is_found_where_it_stands(
    known: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    places = {one: row for row, one in enumerate(known)}
    assert Places(words(known)).of(words(asked)).tolist() == [places.get(one, NOWHERE) for one in asked]


def test_among_very_many_all_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 1 << 63, (100_000, 2), dtype=np.uint64)
    found = Places(drawn[::2]).of(drawn)
    assert np.array_equal(found[::2], np.arange(50_000))
    assert (found[1::2] == NOWHERE).all()
