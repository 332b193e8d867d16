import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.kernels import dense
from profilelake.kernels.dense import dense_numbers


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
@settings(max_examples=60)
def test_numbers_in_order_of_first_appearance(ids: list[tuple[int, int]]) -> None:
    numbers, first_row = dense_numbers(np.array(ids, dtype=np.uint64).reshape(-1, 2))
    distinct = list(dict.fromkeys(ids))
    assert numbers.tolist() == [distinct.index(one) for one in ids]
    assert first_row.tolist() == [ids.index(one) for one in distinct]


def test_ids_that_share_their_first_half_stay_apart() -> None:
    """A clash in 64 bits must not make one person of two."""
    ids = np.array([[7, 1], [7, 2], [7, 1]], dtype=np.uint64)
    assert dense_numbers(ids)[0].tolist() == [0, 1, 0]


def test_grows_with_the_number_of_ids() -> None:
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 1 << 63, size=(200_000, 2), dtype=np.uint64)
    ids = ids[rng.integers(0, len(ids), 500_000)]
    numbers, first_row = dense_numbers(ids)
    assert (ids[first_row][numbers] == ids).all()
    assert len(first_row) == len(np.unique(ids, axis=0))
    assert (np.diff(first_row) > 0).all()


def test_warm_compiles_each_loop_once() -> None:
    dense.warm()
    dense_numbers(np.zeros((3, 2), dtype=np.uint64))
    assert len(dense._number.signatures) == 1  # type: ignore[attr-defined]
